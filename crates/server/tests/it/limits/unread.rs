//! Responses that are not read, and bodies that are not awaited: memory stays bounded, and each client learns that its connection is closed.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::http2::{END_HEADERS, END_STREAM, HEADERS, NO_WINDOW, frame, get, hello_with, read_to_goaway};
use super::{CREATE, SOON, connect, head, memory, metric, others_are_served, rest};
use crate::support::{Reply, Server, raise_file_limit, within};

const MOST_MEMORY: u64 = 64 << 20;
const LIST: &str = "/v1/secrets?page_size=1000";

/// Secrets whose list has some 300 KiB.
fn fill(server: &Server) {
    let description = "d".repeat(1000);
    for number in 0..250 {
        let body = format!(r#"{{"name":"long-{number}","value":"v","description":"{description}"}}"#);
        assert_eq!(server.call("POST", CREATE, &body).status, 200);
    }
}

/// A client that sends `count` requests on one connection and reads no body.
fn greedy(server: &Server, path: &str, count: u32) -> TcpStream {
    let mut stream = hello_with(server, &NO_WINDOW);
    let block = get(server, path);
    let requests = (0..count).map(|number| frame(HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, &block));
    stream.write_all(&requests.collect::<Vec<_>>().concat()).expect("sent");
    stream
}

#[test]
fn lists_that_are_not_read_hold_a_bounded_memory_and_are_cut() {
    let server = Server::start_with(&["--limit-send-time", "8s", "--limit-connection-unsent", "1MiB"]);
    fill(&server);
    let before = memory(&server);
    let mut stream = greedy(&server, LIST, 200);
    let unsent = || metric(&server, "unsent_bytes");
    assert!(within(SOON, || unsent() > 250_000.0));
    others_are_served(&server);
    // What is reserved for the first of them is more than it takes, and the next ones wait for the rest.
    assert!(unsent() < 1_500_000.0, "{}", unsent());
    let grown = memory(&server).saturating_sub(before);
    assert!(grown < MOST_MEMORY, "{grown} bytes more memory");
    let start = Instant::now();
    assert!(read_to_goaway(&mut stream), "no GOAWAY");
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    assert!(within(SOON, || unsent() == 0.0), "nothing is held any longer");
    let metrics = server.call("GET", "/metrics", "").body;
    assert!(
        metrics.contains("agentrouter_secrets_connections_closed_total{why=\"send_time\"} 1\n"),
        "{metrics}"
    );
}

#[test]
fn a_slow_reader_of_http_1_1_is_cut() {
    let server = Server::start_with(&["--limit-send-time", "2s"]);
    fill(&server);
    let mut stream = connect(&server);
    let request = head(&server, LIST, "").replacen("POST", "GET", 1);
    // More than the buffers of both sides hold.
    let mut writer = stream.try_clone().expect("a clone");
    let sending = std::thread::spawn(move || {
        // It ends when the connection is closed.
        let _ = writer.write_all(request.repeat(200).as_bytes());
    });
    let start = Instant::now();
    let mut bytes = [0; 3000];
    // It makes progress all the time, so no time-out of a single write ends it.
    let reads = || {
        std::thread::sleep(Duration::from_millis(200));
        stream.read(&mut bytes)
    };
    let is_cut = std::iter::repeat_with(reads)
        .take_while(|_| start.elapsed() < Duration::from_secs(60))
        .any(|_| metric(&server, "connections_closed_total{why=\"send_time\"}") > 0.0);
    assert!(is_cut, "it was not cut");
    drop(stream);
    sending.join().expect("no panic");
    others_are_served(&server);
}

#[test]
fn clients_without_a_key_that_read_nothing_hold_a_bounded_memory() {
    raise_file_limit();
    let server = Server::start();
    let before = memory(&server);
    let paths = ["/metrics", "/", "/openapi.json", "/livez", "/nowhere"];
    let crowd: Vec<TcpStream> =
        (0..40).map(|number| greedy(&server, paths[number % paths.len()], 250)).collect();
    others_are_served(&server);
    let is_done = || metric(&server, "connections") >= 40.0 && server.call("GET", "/livez", "").status == 200;
    assert!(within(SOON, is_done));
    let grown = memory(&server).saturating_sub(before);
    assert!(grown < MOST_MEMORY, "{grown} bytes more memory");
    drop(crowd);
}

#[test]
fn the_connection_with_the_most_unread_bytes_is_closed_when_all_have_too_many() {
    let server = Server::start_with(&["--limit-unsent", "1MiB", "--limit-connection-unsent", "16MiB"]);
    fill(&server);
    let mut most = greedy(&server, LIST, 8);
    assert!(read_to_goaway(&mut most), "it has the most");
    let metrics = server.call("GET", "/metrics", "").body;
    assert!(
        metrics.contains("agentrouter_secrets_connections_closed_total{why=\"unsent\"} 1\n"),
        "{metrics}"
    );
    others_are_served(&server);
}

/// A request that is refused before its body is read.
fn refusals(server: &Server) -> Vec<(&'static str, String, u16)> {
    let with_key = |path: &str, more: &str| head(server, path, more);
    let without = |path: &str, more: &str| {
        format!("POST {path} HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\n{more}\r\n\r\n")
    };
    vec![
        ("no key", without(CREATE, "content-length: 100000"), 401),
        ("no such path", with_key("/nowhere", "content-length: 100000"), 404),
        ("another method", with_key("/livez", "content-length: 100000"), 405),
        ("another type", with_key(CREATE, "content-encoding: br\r\ncontent-length: 100000"), 415),
        ("no key, in chunks", without(CREATE, "transfer-encoding: chunked"), 401),
    ]
}

#[test]
fn a_refusal_before_the_body_says_that_the_connection_is_closed() {
    let server = Server::start();
    for (what, request, status) in refusals(&server) {
        // The body does not come.
        let mut stream = connect(&server);
        stream.write_all(request.as_bytes()).expect("sent");
        let reply = rest(&mut stream);
        assert_eq!((reply.status, reply.header("connection")), (status, Some("close")), "{what}: {reply:?}");
        // Nor does it after "Expect".
        let mut stream = connect(&server);
        let expects = request.replacen("host: test", "host: test\r\nexpect: 100-continue", 1);
        stream.write_all(expects.as_bytes()).expect("sent");
        let reply = rest(&mut stream);
        assert_eq!((reply.status, reply.header("connection")), (status, Some("close")), "{what}: {reply:?}");
    }
}

#[test]
fn a_connection_whose_body_has_arrived_stays_open_after_a_refusal() {
    let server = Server::start();
    let next = "GET /livez HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n";
    for (what, request, status) in refusals(&server) {
        let body =
            if what.ends_with("in chunks") { "2\r\n{}\r\n0\r\n\r\n".to_owned() } else { " ".repeat(100_000) };
        let mut stream = connect(&server);
        stream.write_all(format!("{request}{body}{next}").as_bytes()).expect("sent");
        let mut all = Vec::new();
        stream.read_to_end(&mut all).expect("no reset");
        let all = String::from_utf8_lossy(&all);
        let (first, second) = all.split_at(all.rfind("HTTP/1.1 ").expect("a response"));
        assert_eq!(Reply::parse(first.as_bytes()).status, status, "{what}: {all}");
        assert_eq!(Reply::parse(second.as_bytes()).status, 200, "{what}: {all}");
    }
}
