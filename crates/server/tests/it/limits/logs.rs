//! The log: what clients send is at most a line a second, and no request waits for the reader of the log.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Instant;

use agentrouter_testkit::ServerProcess;

use super::http2::{ACK, PING, frame, hello};
use super::{SOON, connect, metric, rest};
use crate::support::{Server, binary, within};

/// Connections that each end with an error.
fn send_nonsense(connect: impl Fn() -> TcpStream, times: usize) {
    for _ in 0..times {
        let mut stream = connect();
        stream.write_all(b"nonsense\r\n\r\n").expect("sent");
        assert_eq!(rest(&mut stream).status, 400);
    }
}

#[test]
fn a_client_causes_at_most_a_log_line_a_second() {
    let server = Server::start_with(&["--log-level", "trace"]);
    let log = ServerProcess::log_of(server.process.data_dir());
    let lines = || std::fs::read_to_string(&log).expect("the log").lines().count();
    let (before, start) = (lines(), Instant::now());
    send_nonsense(|| connect(&server), 300);
    for _ in 0..100 {
        assert_eq!(server.call_as("wrong", "GET", "/v1/secrets", "{").status, 401);
    }
    let mut connection = hello(&server);
    connection.write_all(&frame(PING, ACK, 0, &[7; 8]).repeat(1000)).expect("sent");
    drop(connection);
    assert!(within(SOON, || metric(&server, "log_lines_suppressed_total") >= 290.0));
    let most = start.elapsed().as_secs() as usize + 2;
    assert!((1..=most).contains(&(lines() - before)), "{} lines, and {most} at most", lines() - before);
}

#[test]
fn a_server_whose_log_is_not_read_serves_and_counts_what_it_drops() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut child = Command::new(binary())
        .args(["serve", "--listen", "127.0.0.1:0", "--log-level", "debug", "--log-client-rate", "0"])
        .args(["--log-buffer", "64KiB", "--data-dir"])
        .arg(dir.path().join("data"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the server binary runs");
    let mut first = String::new();
    let mut out = BufReader::new(child.stdout.take().expect("piped"));
    out.read_line(&mut first).expect("its address");
    let address = first.split(['"', ' ', ',']).find_map(|word| word.strip_prefix("http://"));
    let authority = address.expect("an address").trim().to_owned();
    let open = || {
        let stream = TcpStream::connect(&authority).expect("the server accepts");
        stream.set_read_timeout(Some(SOON)).expect("a timeout");
        stream
    };
    // A pipe holds 64 KiB, and the queue as much.
    send_nonsense(open, 2_000);
    let mut stream = open();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n").expect("sent");
    let metrics = rest(&mut stream);
    let name = "agentrouter_secrets_log_lines_dropped_total ";
    let dropped = metrics.body.lines().find_map(|line| line.strip_prefix(name)).expect("a count");
    assert!(dropped.parse::<u64>().expect("a number") > 0, "{metrics:?}");
    // The end does not wait for the reader either.
    let start = Instant::now();
    assert!(Command::new("kill").arg(child.id().to_string()).status().expect("kill runs").success());
    assert!(child.wait().expect("its status").success());
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
}
