//! Writer of log lines: bounded, lossy, and on a thread of its own.
//!
//! A line is queued, and the thread writes it. No request waits for the reader of standard error. Lines above the
//! bound are dropped and counted. A command flushes the queue at its end, within a bound of time.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::time::Duration;

/// How long the end of a command waits for a reader of its log.
const FLUSH_TIME: Duration = Duration::from_secs(1);

/// Lines that were dropped because the queue was full or could not be written.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// See [`DROPPED`].
pub(crate) fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// The queue of lines that wait to be written.
pub(super) struct Lines {
    sender: Sender<Message>,
    /// The bytes in the queue.
    queued: Arc<AtomicUsize>,
    most: usize,
}

enum Message {
    Line(Vec<u8>),
    /// The lines before it are written.
    Flush(SyncSender<()>),
}

impl Lines {
    /// Starts the thread that writes to `out`. At most `most` bytes wait for it.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(super) fn to(out: impl Write + Send + 'static, most: usize) -> io::Result<Arc<Self>> {
        let (sender, receiver) = mpsc::channel();
        let queued = Arc::new(AtomicUsize::new(0));
        let lines = Arc::new(Self { sender, queued: Arc::clone(&queued), most });
        std::thread::Builder::new().name("log".to_owned()).spawn(move || write(out, &receiver, &queued))?;
        Ok(lines)
    }

    /// Waits until the lines so far are written, for a second at most.
    pub(super) fn flush(&self) {
        let (done, is_done) = mpsc::sync_channel(1);
        if self.sender.send(Message::Flush(done)).is_ok() {
            // Without a reader the rest is lost, as it is when the process is killed.
            let _ = is_done.recv_timeout(FLUSH_TIME);
        }
    }
}

/// Takes a whole line. Never blocks and never fails.
impl Write for &Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let before = self.queued.fetch_add(line.len(), Ordering::Relaxed);
        let is_queued = before.saturating_add(line.len()) <= self.most
            && self.sender.send(Message::Line(line.to_vec())).is_ok();
        if !is_queued {
            self.queued.fetch_sub(line.len(), Ordering::Relaxed);
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write(mut out: impl Write, receiver: &Receiver<Message>, queued: &AtomicUsize) {
    for message in receiver {
        match message {
            Message::Line(line) => {
                if out.write_all(&line).is_err() {
                    DROPPED.fetch_add(1, Ordering::Relaxed);
                }
                queued.fetch_sub(line.len(), Ordering::Relaxed);
            }
            Message::Flush(done) => {
                // Standard error has no buffer. The receiver is closed if it waited too long.
                let _ = out.flush();
                let _ = done.send(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// A pipe that takes nothing until it is opened.
    #[derive(Clone, Default)]
    struct Pipe(Arc<(Mutex<Vec<u8>>, Mutex<()>)>);

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _open = self.0.1.lock().expect("not poisoned");
            self.0.0.lock().expect("not poisoned").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn unread_lines_are_bounded_and_counted() {
        let pipe = Pipe::default();
        let shut = pipe.0.1.lock().expect("not poisoned");
        let lines = Lines::to(pipe.clone(), 1000).expect("a thread");
        let before = dropped();
        for _ in 0..50 {
            (&*lines).write_all(&[b'x'; 100]).expect("never fails");
        }
        // The thread holds one of the lines, and its bytes still count.
        assert_eq!(dropped() - before, 40);
        drop(shut);
        lines.flush();
        assert_eq!(pipe.0.0.lock().expect("not poisoned").len(), 1000);
        (&*lines).write_all(b"again").expect("never fails");
        lines.flush();
        assert!(pipe.0.0.lock().expect("not poisoned").ends_with(b"again"));
    }
}
