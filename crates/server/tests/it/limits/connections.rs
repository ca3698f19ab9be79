//! The number and the age of connections: no client keeps others out, and probes always get a response.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::http2::{END_HEADERS, END_STREAM, HEADERS, block, frame, get, hello, read_frame, read_to_goaway};
use super::{LATEST, SOON, connect, head, metric, others_are_served, rest};
use crate::support::{Reply, Server, await_continue, within};

/// The head of a stream of gRPC health.
fn watch() -> Vec<u8> {
    block(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "test"),
        (":path", "/grpc.health.v1.Health/Watch"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ])
}

/// A connection of HTTP/2 that has had a response.
fn used(server: &Server) -> TcpStream {
    let mut stream = hello(server);
    let request = frame(HEADERS, END_HEADERS | END_STREAM, 1, &get(server, "/livez"));
    stream.write_all(&request).expect("sent");
    while read_frame(&mut stream).expect("a response").0 != HEADERS {}
    stream
}

#[test]
fn an_idle_http_2_connection_is_closed_with_a_goaway() {
    let server = Server::start_with(&["--limit-idle-time", "1s"]);
    let mut idle: Vec<TcpStream> = (0..5).map(|_| used(&server)).collect();
    let start = Instant::now();
    for stream in &mut idle {
        assert!(read_to_goaway(stream), "no GOAWAY");
        assert!(start.elapsed() < LATEST, "{:?}", start.elapsed());
    }
    assert_eq!(metric(&server, "connections_closed_total{why=\"idle\"}"), 5.0);
    others_are_served(&server);
}

#[test]
fn a_connection_with_a_request_is_not_idle() {
    let server = Server::start_with(&["--limit-idle-time", "1s"]);
    let mut busy = hello(&server);
    busy.write_all(&frame(HEADERS, END_HEADERS, 1, &watch())).expect("sent");
    busy.write_all(&frame(0, END_STREAM, 1, &[0; 5])).expect("sent");
    let mut idle = used(&server);
    assert!(read_to_goaway(&mut idle));
    assert!(within(SOON, || metric(&server, "connections_closed_total{why=\"idle\"}") == 1.0));
    busy.set_read_timeout(Some(Duration::from_secs(2))).expect("a time-out");
    let mut bytes = [0; 64 << 10];
    while let Ok(count) = busy.read(&mut bytes) {
        assert!(count > 0, "it was closed");
    }
    assert_eq!(metric(&server, "connections_closed_total{why=\"idle\"}"), 1.0);
}

#[test]
fn an_old_connection_is_closed_after_its_response() {
    let server = Server::start_with(&["--limit-connection-age", "1s", "--limit-idle-time", "1h"]);
    let mut http2 = used(&server);
    let mut http1 = BufReader::new(connect(&server));
    let mut closes = false;
    let start = Instant::now();
    // Each response is whole, and the last one says that the connection is closed.
    while !closes {
        http1.get_mut().write_all(b"GET /livez HTTP/1.1\r\nhost: test\r\n\r\n").expect("it is open");
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(http1.read_line(&mut head).expect("a response") > 0, "closed without a response");
        }
        http1.read_exact(&mut [0; r#"{"status":"ok"}"#.len()]).expect("a body");
        closes = Reply::parse(head.as_bytes()).header("connection") == Some("close");
        assert!(start.elapsed() < LATEST, "{:?}", start.elapsed());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(http1.read(&mut [0; 1]).expect("the end"), 0);
    assert!(read_to_goaway(&mut http2), "no GOAWAY");
    assert!(start.elapsed() < LATEST, "{:?}", start.elapsed());
}

/// A connection whose request waits for its body.
fn stalled(server: &Server) -> TcpStream {
    let mut stream = connect(server);
    let framing = "content-length: 43\r\nexpect: 100-continue";
    stream.write_all(head(server, super::CREATE, framing).as_bytes()).expect("sent");
    await_continue(&mut stream);
    stream
}

#[test]
fn probes_are_served_while_all_connections_are_taken_and_others_wait() {
    // An address has half of them.
    for (args, most) in [(["--limit-connections", "4"], 2), (["--limit-connections-per-address", "3"], 3)] {
        let server = Server::start_with(&args);
        let mut taken: Vec<TcpStream> = (0..most).map(|_| stalled(&server)).collect();
        for path in ["/livez", "/readyz"] {
            let reply = server.send("GET", path, &[], b"");
            assert_eq!(reply.status, 200, "{path}: {reply:?}");
        }
        let http2 = used(&server);
        drop(http2);
        let mut waiting = connect(&server);
        let request = head(&server, "/v1/secrets", "connection: close").replacen("POST", "GET", 1);
        waiting.write_all(request.as_bytes()).expect("sent");
        waiting.set_read_timeout(Some(Duration::from_millis(500))).expect("a time-out");
        assert!(waiting.read(&mut [0; 1]).is_err(), "it waits");
        drop(taken.pop());
        waiting.set_read_timeout(Some(SOON)).expect("a time-out");
        assert_eq!(rest(&mut waiting).status, 200, "a seat is free");
    }
}

#[test]
fn a_request_that_waits_too_long_for_a_seat_is_shed() {
    let server = Server::start_with(&["--limit-connections", "1", "--limit-header-time", "1s"]);
    let _taken = stalled(&server);
    let reply = server.call("GET", "/v1/secrets", "");
    assert_eq!((reply.status, reply.reason().as_str()), (503, "OVERLOADED"), "{reply:?}");
    assert_eq!(reply.header("retry-after"), Some("1"));
}

#[test]
fn one_address_cannot_take_all_streams_of_health() {
    let server = Server::start();
    let mut stream = hello(&server);
    for number in 0..200 {
        let id = 2 * number + 1;
        stream.write_all(&frame(HEADERS, END_HEADERS, id, &watch())).expect("sent");
        stream.write_all(&frame(0, END_STREAM, id, &[0; 5])).expect("sent");
    }
    // A stream that is refused ends at once: its only frame ends it.
    let mut refused = 0;
    while refused < 136 {
        let (kind, flags, ..) = read_frame(&mut stream).expect("a response for each");
        refused += u32::from(kind == HEADERS && flags & END_STREAM != 0);
    }
    others_are_served(&server);
}
