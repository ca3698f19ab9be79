//! Limits: the resources of one client are bounded, and other clients are served meanwhile.

#![allow(clippy::disallowed_methods, reason = "how long the server takes is what is tested")]

mod connections;
mod costs;
mod floods;
mod http2;
mod logs;
mod records;
mod unread;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::support::{Connection, Reply, Server, await_continue, raise_file_limit, within};

const CREATE: &str = "/v1/secrets";
const RPC: &str = "/agentrouter.secret.v1.SecretService/CreateSecret";
/// Longer than a limit of one second or less, and shorter than the default of ten seconds.
const LATEST: Duration = Duration::from_secs(9);

/// The longest wait for what the server does by itself. The time is not tested.
const SOON: Duration = Duration::from_secs(60);

fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.process.authority()).expect("the server accepts");
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.set_write_timeout(Some(SOON)).unwrap();
    stream
}

fn head(server: &Server, path: &str, framing: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: test\r\nauthorization: Bearer ak-{}\r\ncontent-type: application/json\r\n{framing}\r\n\r\n",
        server.key
    )
}

/// The rest of the connection, until the server closes it.
fn rest(stream: &mut TcpStream) -> Reply {
    let mut bytes = Vec::new();
    // A connection that is cut while it still sends may end with a reset.
    let _ = stream.read_to_end(&mut bytes);
    Reply::parse(&bytes)
}

/// Checks that another client is served, and quickly.
fn others_are_served(server: &Server) {
    let start = Instant::now();
    let reply = server.call("GET", "/v1/secrets", "");
    assert_eq!(reply.status, 200, "{reply:?}");
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
}

#[test]
fn a_body_with_too_large_a_length_is_rejected_before_it_arrives() {
    let server = Server::start();
    for (path, status) in [(CREATE, 413), (RPC, 429)] {
        for more in ["", "\r\nexpect: 100-continue"] {
            let mut stream = connect(&server);
            let framing = format!("content-length: 10737418240{more}");
            stream.write_all(head(&server, path, &framing).as_bytes()).unwrap();
            let start = Instant::now();
            let reply = rest(&mut stream);
            assert_eq!(reply.status, status, "{reply:?}");
            assert_eq!(reply.header("x-agentrouter-reason"), Some("BODY_TOO_LARGE"));
            assert!(start.elapsed() < LATEST, "rejected and closed at once");
        }
    }
    others_are_served(&server);
}

#[test]
fn an_endless_body_is_cut() {
    let server = Server::start();
    let before = memory(&server);
    for (path, status) in [(CREATE, 413), (RPC, 429)] {
        let mut stream = connect(&server);
        stream.write_all(head(&server, path, "transfer-encoding: chunked").as_bytes()).unwrap();
        let chunk = [b"10000\r\n".as_slice(), &[b' '; 0x10000], b"\r\n"].concat();
        // Ten gigabytes, if the server accepted them.
        let sent = (0..160_000).take_while(|_| stream.write_all(&chunk).is_ok()).count();
        assert!(sent < 1_000, "{sent} chunks of 64 KiB were taken");
        assert_eq!(rest(&mut stream).status, status);
    }
    let grown = memory(&server).saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes more memory");
    others_are_served(&server);
}

#[test]
fn a_client_that_sends_no_request_is_disconnected() {
    let server = Server::start_with(&["--limit-header-time", "1s"]);
    let whole = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let openings = ["", "P", "PRI", "PRI * HTTP/2.0\r\n\r\n", whole, "G", "GET / HTTP/1.1\r\nhost: t\r\nx"];
    std::thread::scope(|scope| {
        for opening in openings {
            let server = &server;
            scope.spawn(move || {
                let start = Instant::now();
                let mut stream = connect(server);
                stream.write_all(opening.as_bytes()).unwrap();
                // A reset is an end as well.
                let _ = stream.read_to_end(&mut Vec::new());
                assert!(start.elapsed() >= Duration::from_secs(1), "{opening:?} had its time");
                assert!(start.elapsed() < LATEST, "{opening:?} was not cut");
            });
        }
        for text in ["GET /livez HTTP/1.1\r\nhost: test\r\n\r\n", "POST /v1/secrets HTTP/1.1\r\n\r\n", whole]
        {
            let server = &server;
            scope.spawn(move || {
                let mut stream = connect(server);
                let start = Instant::now();
                // A byte at a time, until it is cut.
                let cut = text.bytes().take_while(|byte| {
                    std::thread::sleep(Duration::from_millis(400));
                    stream.write_all(&[*byte]).is_ok()
                });
                let sent = cut.count();
                assert!(sent < text.len(), "{text:?} was taken whole, in {:?}", start.elapsed());
                assert!(start.elapsed() < LATEST, "{:?}", start.elapsed());
            });
        }
    });
    others_are_served(&server);
}

#[test]
fn a_body_that_does_not_arrive_in_time_is_rejected() {
    let server = Server::start_with(&["--limit-body-time", "1s"]);
    std::thread::scope(|scope| {
        for path in [CREATE, RPC] {
            for drip in [false, true] {
                let server = &server;
                scope.spawn(move || {
                    let start = Instant::now();
                    let mut stream = connect(server);
                    stream.write_all(head(server, path, "content-length: 100").as_bytes()).unwrap();
                    let mut writer = stream.try_clone().unwrap();
                    let dripping = scope.spawn(move || {
                        while drip
                            && start.elapsed() < LATEST + Duration::from_secs(3)
                            && writer.write_all(b" ").is_ok()
                        {
                            std::thread::sleep(Duration::from_millis(300));
                        }
                    });
                    let reply = rest(&mut stream);
                    assert_eq!(reply.status, 504, "{reply:?}");
                    assert_eq!(reply.header("x-agentrouter-reason"), Some("DEADLINE_EXCEEDED"));
                    assert!(start.elapsed() >= Duration::from_secs(1) && start.elapsed() < LATEST);
                    dripping.join().unwrap();
                });
            }
        }
    });
    others_are_served(&server);
}

#[test]
fn a_client_that_does_not_read_its_responses_is_disconnected() {
    let server = Server::start_with(&["--limit-connections", "3", "--limit-body-time", "1s"]);
    let greedy: Vec<TcpStream> = (0..3)
        .map(|_| {
            let mut stream = connect(&server);
            let request = head(&server, "/openapi.json", "");
            let get = request.replacen("POST", "GET", 1);
            let many = get.repeat(2000);
            // What does not fit into the buffers is not sent.
            stream.set_nonblocking(true).expect("non-blocking");
            let _ = stream.write_all(many.as_bytes());
            stream
        })
        .collect();
    // All connections are taken until the server closes them.
    let start = Instant::now();
    others_are_served(&server);
    assert!(start.elapsed() < LATEST, "{:?}", start.elapsed());
    drop(greedy);
}

#[test]
fn a_head_over_its_size_ends_the_connection() {
    let server = Server::start();
    for (what, more) in [
        ("one large header", format!("x: {}\r\n", "y".repeat(1 << 20))),
        ("many headers", (0..10_000).map(|n| format!("x-{n}: y\r\n")).collect()),
    ] {
        let mut stream = connect(&server);
        // The server may close before it has read all of it.
        let _ = stream.write_all(format!("GET / HTTP/1.1\r\nhost: test\r\n{more}\r\n").as_bytes());
        let reply = rest(&mut stream);
        assert_eq!(reply.status, 431, "{what}: {reply:?}");
    }
    others_are_served(&server);
}

#[test]
fn a_head_over_the_limit_is_rejected_with_a_reason() {
    let head = |server: &Server, bytes: usize| {
        server.send("GET", "/livez", &[("x-a", &"y".repeat(bytes / 2)), ("x-b", &"y".repeat(bytes / 2))], b"")
    };
    for (args, most) in [(&[][..], 16), (&["--limit-header-size", "4KiB"], 4)] {
        let server = Server::start_with(args);
        assert_eq!(head(&server, (most - 1) << 10).status, 200, "{args:?}");
        for bytes in [(most + 1) << 10, 40 << 10] {
            let reply = head(&server, bytes);
            assert_eq!(
                (reply.status, reply.reason().as_str()),
                (431, "INVALID_REQUEST"),
                "{args:?}: {reply:?}"
            );
            assert_eq!(reply.header("cache-control"), Some("no-store"));
            assert!(reply.header("x-request-id").is_some_and(|id| id.len() == 32));
        }
    }
}

#[test]
fn too_many_header_lines_are_rejected_with_a_reason() {
    let server = Server::start();
    let names: Vec<String> = (0..80).map(|n| format!("x-{n}")).collect();
    // The client here sends at most eight other lines.
    for (lines, status) in [(56, 200), (65, 431), (80, 431)] {
        let headers: Vec<(&str, &str)> = names[..lines].iter().map(|name| (name.as_str(), "y")).collect();
        let reply = server.send("GET", "/livez", &headers, b"");
        assert_eq!(reply.status, status, "{lines}: {reply:?}");
        if status == 431 {
            assert_eq!(reply.reason(), "INVALID_REQUEST");
            assert!(reply.header("x-request-id").is_some_and(|id| id.len() == 32));
        }
    }
}

#[test]
fn http_1_1_needs_one_host() {
    let server = Server::start();
    for hosts in ["", "host: a\r\nhost: a\r\n"] {
        let request = format!("GET /livez HTTP/1.1\r\n{hosts}connection: close\r\n\r\n");
        let reply = Reply::parse(&server.raw(request.as_bytes()));
        assert_eq!((reply.status, reply.reason().as_str()), (400, "INVALID_REQUEST"), "{reply:?}");
    }
    let old = Reply::parse(&server.raw(b"GET /livez HTTP/1.0\r\n\r\n"));
    assert_eq!(old.status, 200, "{old:?}");
}

/// The responses to at least so many requests. It sends more if none is rejected: on a busy machine the bucket may refill
/// as quickly as the requests drain it.
fn calls_until_refused(count: usize, call: impl Fn() -> Reply) -> Vec<Reply> {
    let mut replies: Vec<Reply> = Vec::new();
    while replies.len() < count || (replies.len() < 100 && replies.iter().all(|reply| reply.status != 429)) {
        replies.push(call());
    }
    replies
}

#[test]
fn a_key_over_its_rate_is_rejected_before_its_body_is_read() {
    let server = Server::start_with(&["--limit-key-rate", "2"]);
    let statuses = calls_until_refused(5, || server.call("POST", CREATE, "{malformed"));
    let refused: Vec<&Reply> = statuses.iter().filter(|reply| reply.status == 429).collect();
    assert!(statuses.iter().filter(|reply| reply.status == 400).count() >= 2, "{statuses:?}");
    assert!(!refused.is_empty(), "{statuses:?}");
    for reply in refused {
        assert_eq!(reply.reason(), "RATE_LIMITED");
        assert_eq!(reply.header("retry-after"), Some("1"), "{reply:?}");
    }
    // The server does not wait for the body either.
    let mut without_body = (0..10).map(|_| {
        let mut stream = connect(&server);
        (0..3).for_each(|_| drop(server.call("GET", CREATE, "")));
        stream.write_all(head(&server, RPC, "content-length: 100").as_bytes()).unwrap();
        rest(&mut stream)
    });
    let reply = without_body.find(|reply| reply.status == 429).expect("one is refused");
    assert_eq!(reply.header("retry-after"), Some("1"), "{reply:?}");
    assert_eq!(reply.header("x-agentrouter-reason"), Some("RATE_LIMITED"));
    // Another key has a bucket of its own.
    let other = server.issue("other", "secrets/read", &[]);
    assert_eq!(server.call_as(&other, "GET", CREATE, "").status, 200);
    let is_let_in = || server.call("GET", CREATE, "").status == 200;
    assert!(within(SOON, is_let_in), "the bucket fills again");
}

#[test]
fn invalid_keys_are_limited_per_address_and_a_valid_key_is_not() {
    let server = Server::start_with(&["--limit-failed-auth-rate", "1"]);
    let guesses = calls_until_refused(20, || server.call_as("wrong", "GET", CREATE, ""));
    assert!(guesses.iter().take(8).all(|reply| reply.status == 401), "{guesses:?}");
    let slowed = guesses.iter().find(|reply| reply.status == 429).expect("one is refused");
    assert_eq!(slowed.reason(), "RATE_LIMITED");
    assert!(slowed.header("retry-after").is_some_and(|wait| wait.parse::<u32>().is_ok_and(|wait| wait >= 1)));
    others_are_served(&server);
}

#[test]
fn more_requests_than_the_limit_are_shed() {
    let server = Server::start_with(&["--limit-requests", "1"]);
    let mut stalled = connect(&server);
    let framing = "content-length: 43\r\nexpect: 100-continue";
    stalled.write_all(head(&server, CREATE, framing).as_bytes()).unwrap();
    await_continue(&mut stalled);
    let shed = server.call("GET", CREATE, "");
    assert_eq!((shed.status, shed.reason().as_str()), (503, "OVERLOADED"), "{shed:?}");
    assert_eq!(shed.header("retry-after"), Some("1"));
    assert_eq!(server.call("GET", "/livez", "").status, 200, "what is no call is served");
    let metrics = server.call("GET", "/metrics", "").body;
    assert!(metrics.contains("agentrouter_secrets_shed_calls_total{why=\"requests\"} 1\n"), "{metrics}");
    let calls = r#"calls_total{rpc="ListSecrets",transport="rest",reason="OVERLOADED"} 1"#;
    assert!(metrics.contains(calls), "{metrics}");
    stalled.write_all(br#"{"name":"stalled","value":"stalled value" } "#.get(..43).unwrap()).unwrap();
    let mut first = [0; 12];
    stalled.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    others_are_served(&server);
}

#[test]
fn a_burst_of_changes_is_served_or_shed_and_the_server_recovers() {
    const BURST: usize = 600;
    raise_file_limit();
    let server = Server::start_with(&["--limit-body-time", "120s"]);
    let connections: Vec<TcpStream> = (0..BURST)
        .map(|number| {
            let mut stream = connect(&server);
            let body = format!(r#"{{"name":"burst-{number:03}","value":"v"}}"#);
            let framing =
                format!("connection: close\r\nexpect: 100-continue\r\ncontent-length: {}", body.len());
            stream.write_all(head(&server, CREATE, &framing).as_bytes()).unwrap();
            // The request has a permit, and the server waits for its body.
            await_continue(&mut stream);
            // All but the last byte: the burst begins when the last bytes are sent.
            stream.write_all(&body.as_bytes()[..body.len() - 1]).unwrap();
            stream
        })
        .collect();
    connections.iter().for_each(|mut stream| stream.write_all(b"}").unwrap());
    let replies: Vec<Reply> = connections.into_iter().map(|mut stream| rest(&mut stream)).collect();
    for reply in replies.iter().filter(|reply| reply.status != 200) {
        assert_eq!((reply.status, reply.reason().as_str()), (503, "OVERLOADED"), "{reply:?}");
        assert_eq!(reply.header("retry-after"), Some("1"));
    }
    assert_eq!(
        server.call("POST", CREATE, r#"{"name":"after","value":"v"}"#).status,
        200,
        "it recovers at once"
    );
    let there =
        server.call("GET", "/v1/secrets?page_size=1000", "").json()["secrets"].as_array().unwrap().len();
    let made = replies.iter().filter(|reply| reply.status == 200).count();
    assert!(made >= 256, "{made}");
    assert_eq!(there, made + 1, "what was shed has done nothing");
}

#[test]
fn a_flood_of_lists_is_served_or_shed_and_reads_are_served_meanwhile() {
    const CALLERS: usize = 300;
    let server = Server::start_with(&["--threads", "1"]);
    (0..200).for_each(|number| {
        let body = format!(r#"{{"name":"flood-{number:03}","value":"v"}}"#);
        assert_eq!(server.call("POST", CREATE, &body).status, 200);
    });
    let over = AtomicBool::new(false);
    let (served, shed) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..CALLERS {
            scope.spawn(|| {
                let mut caller = Connection::open(server.process.authority(), &server.key).expect("accepted");
                while !over.load(Ordering::Relaxed) {
                    let reply = caller.call("GET", "/v1/secrets?page_size=200", "").expect("a response");
                    if reply.status == 200 {
                        served.fetch_add(1, Ordering::Relaxed);
                        continue;
                    }
                    assert_eq!((reply.status, reply.reason().as_str()), (503, "OVERLOADED"), "{reply:?}");
                    assert_eq!(reply.header("retry-after"), Some("1"), "{reply:?}");
                    assert_eq!(reply.header("cache-control"), Some("no-store"), "{reply:?}");
                    shed.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        std::thread::sleep(Duration::from_millis(500));
        let is_flood = || [&served, &shed].iter().all(|count| count.load(Ordering::Relaxed) > 0);
        within(SOON, is_flood);
        let read = || {
            let status = server.call("POST", "/v1/secrets/flood-000/value", "{}").status;
            shed.fetch_add(u64::from(status == 503), Ordering::Relaxed);
            status == 200
        };
        // A machine that halts for a moment may have one of them shed.
        let all_read = (0..5).any(|_| (0..20).all(|_| read()));
        over.store(true, Ordering::Relaxed);
        assert!(all_read, "lists that wait delay no read");
    });
    let (served, shed) = (served.into_inner(), shed.into_inner());
    assert!(served > 0 && shed > 0, "{served} served, {shed} shed");
    assert_eq!(server.call("GET", "/v1/secrets", "").status, 200, "at once all is well again");
    let metrics = server.call("GET", "/metrics", "").body;
    let counted = ["delay", "permit"].map(|why| {
        let name = format!("agentrouter_secrets_shed_calls_total{{why=\"{why}\"}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&name)).expect("a counter");
        line.parse::<u64>().expect("a count")
    });
    assert_eq!(counted.iter().sum::<u64>(), shed, "{metrics}");
    assert!(metrics.contains("agentrouter_secrets_waiting_calls 0\n"), "{metrics}");
    assert!(!server.written().contains("OVERLOADED"), "what is shed is not put on record");
}

#[test]
fn every_response_forbids_caching_and_none_is_compressed() {
    let server = Server::start();
    let key = format!("Bearer ak-{}", server.key);
    let long = format!(r#"{{"name":"long","value":"{}"}}"#, "a".repeat(20_000));
    let rpc = |name: &str| format!("/agentrouter.secret.v1.SecretService/{name}");
    let calls = [
        ("POST", CREATE.to_owned(), long.as_str(), 200),
        ("POST", "/v1/secrets/long/value".to_owned(), "{}", 200),
        ("GET", "/v1/secrets?page_size=-1".to_owned(), "", 400),
        ("GET", "/v1/secrets/none".to_owned(), "", 404),
        ("GET", "/nowhere".to_owned(), "", 404),
        ("PUT", CREATE.to_owned(), "", 405),
        ("POST", rpc("GetSecretValue"), r#"{"name":"long"}"#, 200),
        ("POST", rpc("GetSecretValue"), r#"{"name":"none"}"#, 404),
        ("POST", rpc("GetSecretValue"), "{", 400),
        ("POST", rpc("Nothing"), "{}", 501),
        ("GET", rpc("GetSecretValue"), "", 405),
        ("GET", "/".to_owned(), "", 200),
        ("GET", "/openapi.json".to_owned(), "", 200),
        ("GET", "/livez".to_owned(), "", 200),
        ("GET", "/readyz".to_owned(), "", 200),
        ("GET", "/metrics".to_owned(), "", 200),
    ];
    let mut ids = std::collections::BTreeSet::new();
    for (method, path, body, status) in calls {
        let headers = [
            ("authorization", key.as_str()),
            ("content-type", "application/json"),
            ("accept-encoding", "gzip, br, deflate, zstd"),
            ("connect-accept-encoding", "gzip"),
            ("x-request-id", "of the caller's own"),
        ];
        let reply = server.send(method, &path, &headers, body.as_bytes());
        assert_eq!(reply.status, status, "{method} {path}: {reply:?}");
        assert_eq!(reply.header("cache-control"), Some("no-store"), "{method} {path}");
        assert_eq!(reply.header("content-encoding"), None, "{method} {path}");
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"), "{method} {path}");
        let id = reply.header("x-request-id").unwrap_or_default().to_owned();
        assert!(id.len() == 32 && ids.insert(id), "{method} {path}: an id of its own: {reply:?}");
    }
}

/// One of the server's metrics without labels, by the end of its name.
fn metric(server: &Server, name: &str) -> f64 {
    let reply = server.send("GET", "/metrics", &[], b"");
    let name = format!("agentrouter_secrets_{name} ");
    let value = reply.body.lines().find_map(|line| line.strip_prefix(&name));
    value.unwrap_or_else(|| panic!("no {name} in {reply:?}")).parse().expect("a number")
}

/// The server's resident memory, in bytes.
fn memory(server: &Server) -> u64 {
    let path = format!("/proc/{}/status", server.process.id());
    let status = std::fs::read_to_string(path).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    line.trim().trim_end_matches("kB").trim().parse::<u64>().expect("a number") * 1024
}
