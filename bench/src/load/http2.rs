//! A minimal HTTP/2 client for unary gRPC: frames out, frames in, no HPACK decoder.
//!
//! All requests of a connection have the same head. The first one carries it in literals that the server keeps in its
//! dynamic table. Each later one has one index byte for each field, as real clients send it.
//!
//! Without a decoder, a response is classified by its shape. A message followed by trailers is served. Trailers alone
//! are a refusal, and the bytes of `grpc-status` show whether it is 8 or 14. For this the server must not use a dynamic
//! table of its own (`SETTINGS_HEADER_TABLE_SIZE` 0), which costs about 20 literal bytes for each response.

use anyhow::{Result, bail};

use super::Verdict;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW: u8 = 8;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// The connection's window is set to its maximum, and again after this many bytes.
const WINDOW_STEP: u32 = 1 << 30;

/// One side of a connection.
#[derive(Debug)]
pub(super) struct Http2 {
    /// The header block of the first request, and of every later one.
    first: Vec<u8>,
    later: Vec<u8>,
    next: u32,
    received: u32,
    /// Streams whose message has arrived, but not their trailers.
    with_message: Vec<u32>,
}

impl Http2 {
    /// A client for requests with this head: the path and further fields, in lower case. Writes the preface.
    pub(super) fn new(
        tls: bool,
        authority: &str,
        path: &str,
        fields: &[(String, String)],
        out: &mut Vec<u8>,
    ) -> Self {
        let scheme = if tls { 0x87 } else { 0x86 };
        let (mut first, mut later) = (vec![0x83, scheme], vec![0x83, scheme]);
        // 0x44 and 0x41: literal, to be indexed, named by the static table's `:path` and `:authority`; 0x40: new name.
        for (index, value) in [(0x44, path), (0x41, authority)] {
            first.push(index);
            literal(value, &mut first);
        }
        for (name, value) in fields {
            first.push(0x40);
            literal(name, &mut first);
            literal(value, &mut first);
        }
        // The entry added last is 62.
        let count = u8::try_from(fields.len() + 2).unwrap_or(u8::MAX);
        later.extend((0..count).rev().map(|back| 0x80 | (62 + back)));

        out.extend_from_slice(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        // HEADER_TABLE_SIZE 0, ENABLE_PUSH 0, INITIAL_WINDOW_SIZE 1 MiB.
        let settings = [0, 1, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 4, 0, 0x10, 0, 0];
        frame(SETTINGS, 0, 0, &settings, out);
        frame(WINDOW, 0, 0, &(WINDOW_STEP + (1 << 29)).to_be_bytes(), out);
        Self { first, later, next: 1, received: 0, with_message: Vec::new() }
    }

    /// Writes a request and returns its stream.
    pub(super) fn request(&mut self, body: &[u8], out: &mut Vec<u8>) -> u32 {
        let stream = self.next;
        self.next += 2;
        let head = if stream == 1 { &self.first } else { &self.later };
        frame(HEADERS, END_HEADERS, stream, head, out);
        frame(DATA, END_STREAM, stream, body, out);
        stream
    }

    /// Parses the frames at the start of `input`, writes the replies that they require, and notes the streams that have
    /// ended. Returns the number of parsed bytes.
    ///
    /// # Errors
    /// When the server closes the connection.
    pub(super) fn read(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        ended: &mut Vec<(u32, Verdict)>,
    ) -> Result<usize> {
        let mut at = 0;
        while let Some((kind, flags, stream, payload)) = first_frame(&input[at..]) {
            at += 9 + payload.len();
            match kind {
                DATA => {
                    self.received += u32::try_from(payload.len())?;
                    if self.received >= WINDOW_STEP {
                        frame(WINDOW, 0, 0, &self.received.to_be_bytes(), out);
                        self.received = 0;
                    }
                    if !self.with_message.contains(&stream) {
                        self.with_message.push(stream);
                    }
                }
                HEADERS if flags & END_STREAM != 0 => {
                    let had = self.with_message.iter().position(|known| *known == stream);
                    if let Some(index) = had {
                        self.with_message.swap_remove(index);
                    }
                    ended.push((stream, verdict(had.is_some(), payload)));
                }
                RESET => ended.push((stream, Verdict::Failed)),
                SETTINGS if flags & ACK == 0 => frame(SETTINGS, ACK, 0, &[], out),
                PING if flags & ACK == 0 => frame(PING, ACK, 0, payload, out),
                GOAWAY => bail!("the server ended the connection"),
                _ => {}
            }
        }
        Ok(at)
    }
}

/// The verdict of trailers, after a message or without one.
fn verdict(message: bool, trailers: &[u8]) -> Verdict {
    // `8` and `14` as HPACK encodes them: Huffman-coded, and plain.
    let shed: [&[u8]; 4] = [&[0x81, 0x7b], &[0x82, 0x0b, 0x5f], &[0x01, b'8'], &[0x02, b'1', b'4']];
    match message {
        true => Verdict::Served,
        false if shed.iter().any(|code| trailers.windows(code.len()).any(|part| part == *code)) => {
            Verdict::Shed
        }
        false => Verdict::Failed,
    }
}

/// A string of HPACK, not Huffman-coded.
fn literal(text: &str, out: &mut Vec<u8>) {
    let length = text.len();
    match u8::try_from(length) {
        Ok(short) if short < 127 => out.push(short),
        // 7 bits of ones, and the rest in groups of seven bits; two groups carry 16 KiB.
        _ => out.extend([
            127,
            u8::try_from((length - 127) % 128 + 128).unwrap_or(0),
            u8::try_from((length - 127) / 128).unwrap_or(0),
        ]),
    }
    out.extend_from_slice(text.as_bytes());
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8], out: &mut Vec<u8>) {
    // A payload is a head or a body of ours: far below 2^24 bytes.
    let length = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    out.extend_from_slice(&[length[1], length[2], length[3], kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// The frame at the start of `input` if it is complete: kind, flags, stream, payload.
fn first_frame(input: &[u8]) -> Option<(u8, u8, u32, &[u8])> {
    let head = input.get(..9)?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
    let payload = input.get(9..9 + usize::try_from(length).ok()?)?;
    Some((head[3], head[4], stream, payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(out: &mut Vec<u8>) -> Http2 {
        Http2::new(false, "127.0.0.1:1", "/a.B/C", &[("te".to_owned(), "trailers".to_owned())], out)
    }

    #[test]
    fn a_later_head_is_one_byte_a_field() {
        let mut out = Vec::new();
        let mut client = client(&mut out);
        let before = out.len();
        assert_eq!(client.request(b"first", &mut out), 1);
        let (kind, flags, stream, head) = first_frame(&out[before..]).expect("a frame");
        assert_eq!((kind, flags, stream), (HEADERS, END_HEADERS, 1));
        assert!(head.ends_with(b"\x40\x02te\x08trailers") && head.starts_with(b"\x83\x86\x44\x06/a.B/C"));
        out.clear();
        assert_eq!(client.request(b"second", &mut out), 3);
        let (.., head) = first_frame(&out).expect("a frame");
        assert_eq!(head, [0x83, 0x86, 0xc0, 0xbf, 0xbe]);
    }

    #[test]
    fn a_response_is_classified_by_its_form() {
        let mut out = Vec::new();
        let mut client = client(&mut out);
        let mut input = Vec::new();
        frame(HEADERS, END_HEADERS, 1, &[0x88], &mut input);
        frame(DATA, 0, 1, b"\0\0\0\0\x01x", &mut input);
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0x81, 0x07], &mut input);
        frame(HEADERS, END_HEADERS | END_STREAM, 3, &[0x01, b'8'], &mut input);
        frame(HEADERS, END_HEADERS | END_STREAM, 5, &[0x01, b'5'], &mut input);
        let whole = input.len();
        frame(DATA, 0, 7, b"cut off", &mut input);
        let mut ended = Vec::new();
        let read = client.read(&input[..input.len() - 1], &mut out, &mut ended).expect("frames");
        assert_eq!(read, whole);
        assert_eq!(ended, [(1, Verdict::Served), (3, Verdict::Shed), (5, Verdict::Failed)]);
    }

    #[test]
    fn settings_and_pings_are_acknowledged_and_a_farewell_is_an_error() {
        let mut out = Vec::new();
        let mut client = client(&mut out);
        out.clear();
        let mut input = Vec::new();
        frame(SETTINGS, 0, 0, &[], &mut input);
        frame(PING, 0, 0, b"12345678", &mut input);
        client.read(&input, &mut out, &mut Vec::new()).expect("frames");
        let mut wanted = Vec::new();
        frame(SETTINGS, ACK, 0, &[], &mut wanted);
        frame(PING, ACK, 0, b"12345678", &mut wanted);
        assert_eq!(out, wanted);
        let mut input = Vec::new();
        frame(GOAWAY, 0, 0, &[0; 8], &mut input);
        assert!(client.read(&input, &mut out, &mut Vec::new()).is_err());
    }

    #[test]
    fn a_long_string_has_its_length_in_groups() {
        let mut out = Vec::new();
        literal(&"x".repeat(300), &mut out);
        assert_eq!(out[..3], [127, 128 + 45, 1]);
        assert_eq!(out.len(), 303);
    }
}
