//! Floods over HTTP/2, and many idle connections: memory stays bounded, and other clients are served.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use agentrouter_testkit::ServerProcess;

use super::http2::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS, call,
    frame, get, hello, read_frame, read_to_goaway,
};
use super::{CREATE, connect, memory, others_are_served};
use crate::support::{Server, raise_file_limit};

/// The duration of a flood that the server does not cut.
const FLOOD: Duration = Duration::from_secs(2);
const MOST_MEMORY: u64 = 64 << 20;

/// Writes the bytes of `burst` (of a counter) on four connections at a time, each until it is cut and then on a new one,
/// with requests of other clients in between. Returns the number of connections that were cut.
fn flood(server: &Server, burst: impl Fn(u32) -> Vec<u8> + Sync) -> u64 {
    others_are_served(server);
    let before = memory(server);
    let cut = AtomicU64::new(0);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let mut stream = hello(server);
                    swallow(&stream);
                    let was_cut = (0..u32::MAX)
                        .take_while(|_| !over.load(Ordering::Relaxed))
                        .any(|number| stream.write_all(&burst(number)).is_err());
                    cut.fetch_add(u64::from(was_cut), Ordering::Relaxed);
                    let _ = stream.shutdown(Shutdown::Both);
                }
            });
        }
        let start = Instant::now();
        let mut most = 0;
        while start.elapsed() < FLOOD {
            others_are_served(server);
            most = most.max(memory(server).saturating_sub(before));
        }
        over.store(true, Ordering::Relaxed);
        assert!(most < MOST_MEMORY, "{most} bytes more memory");
    });
    others_are_served(server);
    cut.into_inner()
}

/// The same for a flood that has to be cut. A busy machine may need more than one.
fn is_cut(server: &Server, burst: impl Fn(u32) -> Vec<u8> + Sync) -> bool {
    (0..5).any(|_| flood(server, &burst) > 0)
}

/// Reads and drops, so that the server can always write.
fn swallow(stream: &TcpStream) {
    let mut reader = stream.try_clone().unwrap();
    std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while reader.read(&mut bytes).is_ok_and(|count| count > 0) {}
    });
}

/// The stream ids of clients are odd.
fn stream(number: u32) -> u32 {
    (2 * number + 1) & 0x7fff_ffff
}

#[test]
fn streams_that_are_opened_and_reset_at_once_are_cut() {
    let server = Server::start();
    let head = call(&server, CREATE);
    let cut = is_cut(&server, |number| {
        let burst = (number * 50..(number + 1) * 50).flat_map(|number| {
            let opened = frame(HEADERS, END_HEADERS, stream(number), &head);
            [opened, frame(RST_STREAM, 0, stream(number), &8u32.to_be_bytes())].concat()
        });
        burst.collect()
    });
    assert!(cut, "the flood was cut");
}

#[test]
fn an_endless_head_is_cut() {
    let server = Server::start();
    let head = call(&server, CREATE);
    let cut = is_cut(&server, |number| {
        if number == 0 {
            return frame(HEADERS, END_STREAM, 1, &head);
        }
        let more = super::http2::block(&[("x-more", &"y".repeat(100))]);
        frame(CONTINUATION, 0, 1, &more.repeat(100))
    });
    assert!(cut, "the flood was cut");
    // The same in empty frames.
    let cut = is_cut(&server, |number| match number {
        0 => frame(HEADERS, END_STREAM, 1, &head),
        _ => frame(CONTINUATION, 0, 1, &[]).repeat(1000),
    });
    assert!(cut, "the flood of nothing was cut");
}

#[test]
fn empty_data_frames_are_cut() {
    let server = Server::start();
    let head = call(&server, CREATE);
    let cut = is_cut(&server, |number| match number {
        0 => frame(HEADERS, END_HEADERS, 1, &head),
        _ => frame(DATA, 0, 1, &[]).repeat(1000),
    });
    assert!(cut, "the flood was cut");
}

#[test]
fn endless_pings_and_settings_are_cut() {
    let server = Server::start();
    let burst = [frame(PING, 0, 0, &[7; 8]), frame(SETTINGS, 0, 0, &[])].concat().repeat(100);
    assert!(is_cut(&server, |_| burst.clone()), "the flood was cut");
}

#[test]
fn a_flood_of_control_frames_ends_with_a_goaway() {
    let server = Server::start();
    const PRIORITY: u8 = 2;
    const WINDOW_UPDATE: u8 = 8;
    const UNKNOWN: u8 = 0xbb;
    for (kind, flags, payload, times) in [
        (PING, 0, &[7; 8][..], 1_100),
        (PING, ACK, &[7; 8], 1_100),
        (SETTINGS, 0, &[], 1_100),
        (RST_STREAM, 0, &8u32.to_be_bytes(), 1_100),
        (PRIORITY, 0, &[0, 0, 0, 0, 1], 1_100),
        (UNKNOWN, 0, &[], 1_100),
        (UNKNOWN, 0, &[7; 100], 1_100),
        (WINDOW_UPDATE, 0, &1u32.to_be_bytes(), 36_000),
    ] {
        let mut connection = hello(&server);
        // The second kind is of a stream that was never opened, and the others of the connection.
        let of_stream = match kind {
            RST_STREAM => 1,
            PRIORITY => 3,
            _ => 0,
        };
        let head = frame(HEADERS, END_HEADERS | END_STREAM, 1, &get(&server, "/livez"));
        connection.write_all(&head).unwrap();
        // It may be closed before all of them are sent.
        let _ = connection.write_all(&frame(kind, flags, of_stream, payload).repeat(times));
        assert!(read_to_goaway(&mut connection), "a flood of {kind}");
    }
    let metrics = server.call("GET", "/metrics", "").body;
    assert!(
        metrics.contains("agentrouter_secrets_connections_closed_total{why=\"control_frames\"} 8\n"),
        "{metrics}"
    );
    // A client that pings now and then is not cut.
    let mut connection = hello(&server);
    connection.write_all(&frame(PING, 0, 0, &[7; 8]).repeat(500)).unwrap();
    let frames = std::iter::from_fn(|| read_frame(&mut connection));
    assert_eq!(frames.filter(|(kind, flags, ..)| (*kind, *flags) == (PING, ACK)).take(500).count(), 500);
}

#[test]
fn ping_acknowledgements_that_the_server_did_not_ask_for_are_not_logged() {
    let server = Server::start();
    let data = server.process.data_dir().to_owned();
    let mut connection = hello(&server);
    connection.write_all(&frame(PING, ACK, 0, &[7; 8]).repeat(1000)).unwrap();
    connection.write_all(&frame(PING, 0, 0, &[1; 8])).unwrap();
    // Its response shows that the frames before it were read.
    while read_frame(&mut connection).is_some_and(|(kind, flags, ..)| (kind, flags) != (PING, ACK)) {}
    assert!(server.process.stop().success());
    let log = std::fs::read_to_string(ServerProcess::log_of(&data)).expect("the log");
    assert!(log.contains("\"stopped\"") && log.lines().count() < 10, "{log}");
}

#[test]
fn streams_over_the_limit_are_rejected() {
    let server = Server::start_with(&["--limit-streams", "10"]);
    let mut connection = hello(&server);
    let head = call(&server, CREATE);
    for number in 0..30 {
        // Each request waits for a body.
        connection.write_all(&frame(HEADERS, END_HEADERS, stream(number), &head)).unwrap();
    }
    let mut refused = 0;
    let start = Instant::now();
    while refused < 20 && start.elapsed() < Duration::from_secs(30) {
        match read_frame(&mut connection) {
            Some((SETTINGS, 0, _, _)) => connection.write_all(&frame(SETTINGS, ACK, 0, &[])).unwrap(),
            // REFUSED_STREAM
            Some((RST_STREAM, _, _, code)) if code == 7u32.to_be_bytes() => refused += 1,
            Some((GOAWAY, _, _, _)) | None => break,
            Some(_) => {}
        }
    }
    assert_eq!(refused, 20, "of thirty, ten are taken");
    others_are_served(&server);
}

#[test]
fn silent_connections_block_no_other_client() {
    raise_file_limit();
    let server = Server::start();
    let before = memory(&server);
    let crowd: Vec<TcpStream> = (0..2000).map(|_| connect(&server)).collect();
    others_are_served(&server);
    let (some, more) = crowd.split_at(1000);
    for mut stream in some {
        stream.write_all(b"GET /livez HTTP/1.1\r\nhost: test\r\n").unwrap();
    }
    for mut stream in more {
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    }
    (0..5).for_each(|_| others_are_served(&server));
    let grown = memory(&server).saturating_sub(before);
    // The number of connections is limited, so a bound for each connection bounds the total.
    assert!(grown < 64 * 1024 * crowd.len() as u64, "{grown} bytes more memory");
    drop(crowd);
    others_are_served(&server);
}
