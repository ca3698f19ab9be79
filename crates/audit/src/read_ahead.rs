//! Reading ahead: a thread reads and decompresses a file while another checks what was read.
//!
//! The queue has a few chunks, so memory is bounded. The thread ends with the file, or when the reader is dropped.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};

use crate::disk::{Form, content};

/// The unit of reading.
const CHUNK: usize = 256 * 1024;
/// The most chunks in the queue.
const WAITING: usize = 4;

/// The content of a file, read by another thread.
pub(crate) struct ReadAhead {
    chunks: Receiver<io::Result<Vec<u8>>>,
    chunk: Vec<u8>,
    at: usize,
}

impl ReadAhead {
    pub(crate) fn start(form: Form, file: impl Read + Send + 'static) -> io::Result<Self> {
        let mut content = content(form, file)?;
        let (sender, chunks) = sync_channel(WAITING);
        std::thread::Builder::new().name("audit-read".into()).spawn(move || {
            loop {
                let mut chunk = Vec::with_capacity(CHUNK);
                let read = (&mut content).take(CHUNK as u64).read_to_end(&mut chunk);
                let is_last = matches!(read, Ok(0) | Err(_));
                // What was decompressed before an error is checked, too.
                let sent = chunk.is_empty() || sender.send(Ok(chunk)).is_ok();
                let failed = read.is_err_and(|error| sender.send(Err(error)).is_ok());
                if is_last || failed || !sent {
                    return;
                }
            }
        })?;
        Ok(Self { chunks, chunk: Vec::new(), at: 0 })
    }
}

impl Read for ReadAhead {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.at == self.chunk.len() {
            match self.chunks.recv() {
                Ok(chunk) => (self.chunk, self.at) = (chunk?, 0),
                Err(_) => return Ok(0),
            }
        }
        let bytes = out.len().min(self.chunk.len() - self.at);
        out[..bytes].copy_from_slice(&self.chunk[self.at..self.at + bytes]);
        self.at += bytes;
        Ok(bytes)
    }
}

/// A file whose bytes are counted as they are read.
pub(crate) struct Counting<R>(R, Arc<AtomicU64>);

impl<R> Counting<R> {
    pub(crate) fn new(file: R, bytes: Arc<AtomicU64>) -> Self {
        Self(file, bytes)
    }
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let bytes = self.0.read(out)?;
        self.1.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(bytes)
    }
}
