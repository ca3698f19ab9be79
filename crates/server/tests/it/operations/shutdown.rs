//! Shutdown: requests in progress are completed, new ones are not started, and nothing is lost.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use agentrouter_testkit::ServerProcess;

use crate::support::{Reply, Server, await_continue, binary, mostly_in_time, run, within};

/// The first part of a request that creates a secret, and the rest of it. It has `Expect: 100-continue`, so the server
/// responds when it waits for the body.
fn halves(server: &Server, name: &str) -> (String, String) {
    let rest = r#""realm":"mcp","value":"in-flight"}"#;
    let begin = format!(r#"{{"name":"{name}","#);
    let head = format!(
        "POST /v1/secrets HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer ak-{}\r\nContent-Type: application/json\r\n\
         Expect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        server.process.authority(),
        server.key,
        begin.len() + rest.len()
    );
    (head, begin + rest)
}

/// Begins a request, and returns the connection when the server waits for the body, which is never sent.
fn begin_and_never_end(server: &Server) -> TcpStream {
    let (first, _) = halves(server, "never");
    let mut slow = TcpStream::connect(server.process.authority()).expect("it listens");
    slow.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    slow.write_all(first.as_bytes()).expect("sent");
    await_continue(&mut slow);
    slow
}

fn signal(server: &Server, name: &str) {
    let id = server.process.id().to_string();
    assert!(Command::new("kill").args([name, &id]).status().expect("kill runs").success());
}

/// Waits until no process accepts connections at `authority`, for a minute at most.
fn refused(authority: &str) -> bool {
    within(Duration::from_secs(60), || TcpStream::connect(authority).is_err())
}

#[test]
fn requests_in_progress_finish_and_new_connections_are_refused() {
    for name in ["-TERM", "-INT"] {
        let server = Server::start();
        let data = server.process.data_dir().to_owned();
        let (first, rest) = halves(&server, "slow");
        let mut slow = TcpStream::connect(server.process.authority()).expect("it listens");
        slow.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
        slow.write_all(first.as_bytes()).expect("sent");
        await_continue(&mut slow);
        let (begin, rest) = rest.split_at(10);
        slow.write_all(begin.as_bytes()).expect("sent");
        // An open idle connection is closed at once.
        let mut idle = TcpStream::connect(server.process.authority()).expect("it listens");
        idle.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
        idle.write_all(b"GET /livez HTTP/1.1\r\nHost: h\r\n\r\n").expect("sent");
        let mut buffer = [0; 1024];
        assert!(idle.read(&mut buffer).expect("a response") > 0);

        signal(&server, name);
        assert!(refused(server.process.authority()), "{name}: it still takes connections");
        assert_eq!(
            idle.read(&mut buffer).expect("closed in order"),
            0,
            "{name}: the idle connection is closed"
        );
        slow.write_all(rest.as_bytes()).expect("the connection is still there");
        let mut bytes = Vec::new();
        slow.read_to_end(&mut bytes).expect("a response");
        let reply = Reply::parse(&bytes);
        assert_eq!(
            (reply.status, reply.json()["secret"]["version"].as_i64()),
            (200, Some(1)),
            "{name}: {reply:?}"
        );

        assert_eq!(server.process.stop().code(), Some(0), "{name}");
        assert!(!data.join("admin.sock").exists(), "{name}: the socket is removed");
        let verified = run(&["audit", "verify", "--data-dir", data.to_str().expect("UTF-8")]);
        assert!(verified.status.success(), "{name}: {verified:?}");
        let log = std::fs::read_to_string(data.join("audit/audit.jsonl")).expect("the audit log");
        let stop = log.lines().rfind(|line| line.contains("\"rpc\":\"Stop\""));
        assert!(stop.is_some(), "{name}: the stop is on record");

        let process = ServerProcess::start(binary(), &data, &[]);
        let again = Server::of(process);
        let value = again.call("POST", "/v1/secrets/slow/value", r#"{"realm":"mcp"}"#);
        assert_eq!(value.json()["value"], "in-flight", "{name}: what was acknowledged is there");
    }
}

#[test]
fn hangup_and_user_signals_do_not_stop_the_server() {
    let server = Server::start();
    for name in ["-HUP", "-USR1", "-USR2"] {
        signal(&server, name);
        assert_eq!(server.call("GET", "/v1/secrets", "").status, 200, "{name}");
    }
    // The kernel delivers these signals before SIGTERM. Their default action would be the exit status.
    for name in ["-HUP", "-USR1", "-USR2"] {
        signal(&server, name);
    }
    assert_eq!(server.process.stop().code(), Some(0));
}

#[test]
fn a_draining_server_serves_and_reports_that_it_stops() {
    // On a machine so busy that the drain is over before it is observed, it takes longer in the next attempt.
    assert!(["2s", "8s", "32s"].into_iter().any(drains), "a load balancer could have seen it");

    // A second signal ends the drain.
    let server = Server::start_with(&["--drain-time", "600s"]);
    signal(&server, "-TERM");
    while server.send("GET", "/readyz", &[], b"").status == 200 {}
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(server.process.stop().code()));
    assert_eq!(receiver.recv_timeout(Duration::from_secs(60)), Ok(Some(0)));
}

/// Whether a server with this drain time was observed to serve during the drain.
fn drains(time: &str) -> bool {
    let server = Server::start_with(&["--drain-time", time]);
    let mut connection =
        crate::support::Connection::open(server.process.authority(), &server.key).expect("it accepts");
    signal(&server, "-TERM");
    let mut drained = 0;
    while let Ok(ready) = connection.call("GET", "/readyz", "") {
        if ready.status == 200 {
            continue; // it has not received the signal yet
        }
        assert_eq!(ready.json()["reason"], "SHUTTING_DOWN", "{ready:?}");
        let Ok(listed) = connection.call("GET", "/v1/secrets", "") else { break };
        assert_eq!(listed.status, 200, "{listed:?}");
        drained += 1;
    }
    assert!(refused(server.process.authority()), "then it takes no more connections");
    assert_eq!(server.process.stop().code(), Some(0));
    drained > 0
}

#[test]
fn a_request_that_never_ends_does_not_hold_up_the_stop() {
    let server = Server::start_with(&["--shutdown-time", "1s", "--limit-body-time", "120s"]);
    let _slow = begin_and_never_end(&server);
    let data = server.process.data_dir().to_owned();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(server.process.stop().code()));
    assert_eq!(receiver.recv_timeout(Duration::from_secs(30)), Ok(Some(0)), "it ends in its time");
    let log = std::fs::read_to_string(ServerProcess::log_of(&data)).expect("the log");
    assert!(log.contains("some requests did not complete within shutdown-time"), "{log}");
}

#[test]
fn connections_and_tasks_share_one_shutdown_deadline() {
    mostly_in_time(|| {
        let server = Server::start_with(&["--shutdown-time", "4s", "--limit-body-time", "60s"]);
        let _slow = begin_and_never_end(&server);
        let start = tokio::time::Instant::now();
        assert_eq!(server.process.stop().code(), Some(0));
        let took = start.elapsed();
        assert!(took >= Duration::from_millis(3900), "{took:?}");
        if took < Duration::from_secs(7) { Ok(()) } else { Err(format!("it ended after {took:?}")) }
    });
}
