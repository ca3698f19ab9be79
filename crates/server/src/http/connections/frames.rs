//! The frames that an HTTP/2 client sends (RFC 9113, §4.1), counted as they are read.
//!
//! The HTTP/2 library responds to every PING and SETTINGS frame and reads empty DATA frames without end. A client that sends
//! many more of these than requests (CVE-2019-9512, -9515, -9518) is disconnected with a GOAWAY. So is one that sends
//! frames of unknown types, which the library ignores, or too many WINDOW_UPDATE frames. A client that reads a large response
//! quickly sends many of these, so they have a larger allowance. The library bounds resets before a request is accepted,
//! and CONTINUATION frames.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Connection, Why};

const PREFACE: usize = 24;
const HEAD: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;

/// How many seconds' frames may come at once.
const BURST: u32 = 10;
/// How many frames a request adds: clients end it by an empty frame or reset it, and measure the round trip meanwhile.
const PER_REQUEST: u32 = 4;

/// How many WINDOW_UPDATE frames count as one frame: a client may send two for each DATA frame of a response.
const UPDATES: u32 = 32;

/// A stream whose frames are counted. When there are too many it closes the connection, and is not read any longer.
pub(in crate::http) struct Metered<S> {
    stream: S,
    connection: Arc<Connection>,
    meter: FrameMeter,
}

impl<S> Metered<S> {
    pub(in crate::http) fn new(stream: S, connection: &Arc<Connection>) -> Self {
        let rate = connection.connections.limits.control_frames;
        Self { stream, connection: Arc::clone(connection), meter: FrameMeter::new(rate) }
    }
}

/// Where in a frame the client is, and how many frames it may send.
struct FrameMeter {
    /// Bytes of the preface or of a payload until the next head.
    skip: usize,
    head: [u8; HEAD],
    read: usize,
    rate: u32,
    left: u32,
    /// WINDOW_UPDATE frames that are not counted yet.
    updates: u32,
    at: u32,
}

impl FrameMeter {
    fn new(rate: u32) -> Self {
        Self {
            skip: PREFACE,
            head: [0; HEAD],
            read: 0,
            rate,
            left: rate.saturating_mul(BURST),
            updates: 0,
            at: 0,
        }
    }

    /// Counts the frames in `bytes`, which come next, at second `now`. Returns whether there are too many.
    fn is_over(&mut self, mut bytes: &[u8], now: u32) -> bool {
        let refill = self.rate.saturating_mul(now.saturating_sub(self.at));
        self.at = now;
        self.add(refill);
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            let taken = (HEAD - self.read).min(bytes.len());
            self.head[self.read..self.read + taken].copy_from_slice(&bytes[..taken]);
            self.read += taken;
            bytes = &bytes[taken..];
            if self.read == HEAD {
                self.read = 0;
                if self.is_too_many() {
                    return true;
                }
            }
        }
        false
    }

    /// Counts the frame of a complete head.
    fn is_too_many(&mut self) -> bool {
        let [a, b, c, kind, flags, ..] = self.head;
        self.skip = u32::from_be_bytes([0, a, b, c]) as usize;
        match kind {
            HEADERS => self.add(PER_REQUEST),
            PRIORITY | RST_STREAM | SETTINGS | PING | GOAWAY => return self.take(),
            DATA if self.skip == 0 && flags & END_STREAM == 0 => return self.take(),
            WINDOW_UPDATE => {
                self.updates += 1;
                if self.updates == UPDATES {
                    self.updates = 0;
                    return self.take();
                }
            }
            // The library bounds or rejects these.
            DATA | PUSH_PROMISE | CONTINUATION => {}
            _ => return self.take(),
        }
        false
    }

    fn add(&mut self, frames: u32) {
        self.left = self.left.saturating_add(frames).min(self.rate.saturating_mul(BURST));
    }

    fn take(&mut self) -> bool {
        match self.left.checked_sub(1) {
            Some(left) => self.left = left,
            None => return self.rate > 0,
        }
        false
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.connection.closing.is_abrupt() {
            // The connection's task ends it.
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        std::task::ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
        if this.meter.is_over(&buffer.filled()[before..], this.connection.connections.now()) {
            this.connection.close(Why::ControlFrames);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        let [_, a, b, c] = u32::try_from(length).expect("a length").to_be_bytes();
        [&[a, b, c, kind, flags, 0, 0, 0, 1], vec![PING; length].as_slice()].concat()
    }

    /// How many of the frames are read until there are too many, in reads of `size` bytes.
    fn taken(frames: &[Vec<u8>], size: usize) -> usize {
        let mut meter = FrameMeter::new(10);
        let preface = [b'P'; PREFACE];
        assert!(preface.chunks(size).all(|bytes| !meter.is_over(bytes, 0)));
        let is_taken = |frame: &&Vec<u8>| frame.chunks(size).all(|bytes| !meter.is_over(bytes, 0));
        frames.iter().take_while(is_taken).count()
    }

    #[test]
    fn only_frames_that_cost_the_server_more_than_the_client_are_counted() {
        for size in [1, 7, 9, 10, 1000] {
            for (kind, flags, length) in [
                (PING, 0, 8),
                (PING, 1, 8),
                (SETTINGS, 0, 0),
                (DATA, 0, 0),
                (RST_STREAM, 0, 4),
                (PRIORITY, 0, 5),
                (GOAWAY, 0, 8),
                (16, 0, 20),
                (0xbb, 0, 0),
            ] {
                assert_eq!(taken(&vec![frame(kind, flags, length); 500], size), 100, "{kind} {size}");
            }
            for (kind, flags, length) in [(DATA, 1, 0), (DATA, 0, 1), (HEADERS, 4, 30), (CONTINUATION, 0, 9)]
            {
                assert_eq!(taken(&vec![frame(kind, flags, length); 500], size), 500, "{kind} {size}");
            }
            let updates = vec![frame(WINDOW_UPDATE, 0, 4); 5000];
            assert_eq!(taken(&updates, size), 101 * UPDATES as usize - 1, "{size}");
        }
    }

    #[test]
    fn requests_and_time_allow_more() {
        let each = [frame(HEADERS, 4, 30), frame(DATA, 1, 0), frame(PING, 0, 8), frame(RST_STREAM, 0, 4)];
        let many: Vec<Vec<u8>> = each.into_iter().cycle().take(4000).collect();
        assert_eq!(taken(&many, 5), 4000);
        let mut meter = FrameMeter::new(10);
        meter.skip = 0;
        let pings = frame(PING, 0, 8).repeat(100);
        assert!(!meter.is_over(&pings, 0));
        assert!(!meter.is_over(&frame(PING, 0, 8).repeat(20), 2));
        assert!(meter.is_over(&frame(PING, 0, 8), 2));
        let mut unlimited = FrameMeter::new(0);
        assert!(!unlimited.is_over(&frame(PING, 0, 8).repeat(10_000), 0), "0 means no limit");
    }
}
