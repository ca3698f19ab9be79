//! HTTP/2 by hand (RFC 9113), to send invalid frames.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use crate::support::Server;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const ACK: u8 = 1;

/// A frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Headers as HPACK (RFC 7541, §6.2.2) writes them without its tables.
pub fn block(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in headers {
        block.push(0);
        for text in [name, value] {
            assert!(text.len() < 127, "one byte of length");
            block.push(text.len() as u8);
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// The head of a request.
pub fn call(server: &Server, path: &str) -> Vec<u8> {
    let key = format!("Bearer ak-{}", server.key);
    block(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "test"),
        (":path", path),
        ("authorization", &key),
        ("content-type", "application/json"),
    ])
}

/// The head of a GET request with the server's first key.
pub fn get(server: &Server, path: &str) -> Vec<u8> {
    let key = format!("Bearer ak-{}", server.key);
    block(&[
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "test"),
        (":path", path),
        ("authorization", &key),
    ])
}

/// A connection after its preface.
pub fn hello(server: &Server) -> TcpStream {
    hello_with(server, &[])
}

/// As [`hello`], with these settings (RFC 9113, §6.5).
pub fn hello_with(server: &Server, settings: &[u8]) -> TcpStream {
    let mut stream = super::connect(server);
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    stream.write_all(&frame(SETTINGS, 0, 0, settings)).unwrap();
    stream
}

/// The setting of a window of 0 for each stream: the client reads no body.
pub const NO_WINDOW: [u8; 6] = [0, 4, 0, 0, 0, 0];

/// Reads to the end of a connection, and acknowledges settings and pings. Returns whether there was a GOAWAY.
pub fn read_to_goaway(stream: &mut TcpStream) -> bool {
    let mut goaway = false;
    while let Some((kind, flags, _, payload)) = read_frame(stream) {
        match (kind, flags) {
            (GOAWAY, _) => goaway = true,
            // The server may have closed already.
            (SETTINGS, 0) => drop(stream.write_all(&frame(SETTINGS, ACK, 0, &[]))),
            (PING, 0) => drop(stream.write_all(&frame(PING, ACK, 0, &payload))),
            _ => {}
        }
    }
    goaway
}

/// The next frame: its kind, flags, stream and payload; none when the connection is closed.
pub fn read_frame(stream: &mut TcpStream) -> Option<(u8, u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).ok()?;
    Some((head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload))
}
