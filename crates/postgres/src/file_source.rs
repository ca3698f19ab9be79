//! A file that is read again for each connection, because passwords and certificate authorities are rotated.
//!
//! A pipe can be read only once, so its content is kept. Examples are a FIFO, `/dev/stdin`, and `<(command)` of a shell.
//! If a later read of a file fails or takes long, its last content stays in use. A read may wait for the writer of a pipe,
//! so it runs on a thread of its own, and it continues when its caller stops waiting. One read runs at a time.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::timeout;

use agentrouter_store::StoreError;

/// The largest file that is read.
const MAX_BYTES: u64 = 4 << 20;
/// The longest wait for a read of a file whose last content is known.
const PATIENCE: Duration = Duration::from_secs(1);

/// A file that is read when it is needed. Clones share what a pipe gave.
#[derive(Clone)]
pub struct FileSource(Arc<Source>);

struct Source {
    path: PathBuf,
    kind: Kind,
    /// Held by the read in progress.
    reading: Arc<tokio::sync::Mutex<()>>,
    last: Mutex<Last>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Password,
    Roots,
}

#[derive(Default)]
struct Last {
    content: Option<Arc<[u8]>>,
    is_pipe: bool,
    /// Whether the last read failed. A warning is logged for the first failure of several.
    is_failing: bool,
}

impl FileSource {
    /// The file of `database.password-file`.
    pub fn password(path: &Path) -> Self {
        Self::new(path, Kind::Password)
    }

    /// The file of `sslrootcert`. Its path is a part of the URL, so no error contains it.
    pub(super) fn roots(path: &Path) -> Self {
        Self::new(path, Kind::Roots)
    }

    fn new(path: &Path, kind: Kind) -> Self {
        let (reading, last) = (Arc::default(), Mutex::default());
        Self(Arc::new(Source { path: path.to_owned(), kind, reading, last }))
    }

    /// Reads the file.
    ///
    /// # Errors
    /// [`StoreError::Open`] if it cannot be read and never was.
    pub(super) async fn read(&self) -> Result<Arc<[u8]>, StoreError> {
        let known = self.0.last().content.clone();
        match known {
            Some(content) => timeout(PATIENCE, self.read_again()).await.unwrap_or(Ok(content)),
            None => self.read_again().await,
        }
    }

    async fn read_again(&self) -> Result<Arc<[u8]>, StoreError> {
        let reading = Arc::clone(&self.0.reading).lock_owned().await;
        let source = Arc::clone(&self.0);
        // A task of its own: the content of a pipe would be lost if the caller's time-out ended the read.
        let read = tokio::spawn(async move {
            let read = source.read().await;
            drop(reading);
            read
        });
        read.await.map_err(|error| StoreError::open(self.0.kind.failure(), error))?
    }
}

impl Source {
    fn last(&self) -> MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn read(&self) -> Result<Arc<[u8]>, StoreError> {
        let pipe = Some(self.last()).filter(|last| last.is_pipe).and_then(|last| last.content.clone());
        if let Some(content) = pipe {
            return Ok(content);
        }
        let path = self.path.clone();
        let read = tokio::task::spawn_blocking(move || read(&path)).await;
        let mut last = self.last();
        match read.map_err(io::Error::other).flatten() {
            Ok((content, is_pipe)) => {
                let content: Arc<[u8]> = content.into();
                *last = Last { content: Some(Arc::clone(&content)), is_pipe, is_failing: false };
                Ok(content)
            }
            Err(error) => {
                let unreadable = Unreadable { path: self.kind.shown(&self.path), error };
                let Some(content) = last.content.clone() else {
                    return Err(StoreError::open(self.kind.failure(), unreadable));
                };
                if !last.is_failing {
                    last.is_failing = true;
                    let error = &unreadable as &dyn std::error::Error;
                    tracing::warn!(error, "{}; its last content stays in use", self.kind.failure());
                }
                Ok(content)
            }
        }
    }
}

impl Kind {
    fn failure(self) -> &'static str {
        match self {
            Self::Password => "the file of database.password-file cannot be read",
            Self::Roots => "the file of sslrootcert cannot be read",
        }
    }

    fn shown(self, path: &Path) -> Option<PathBuf> {
        (self == Self::Password).then(|| path.to_owned())
    }
}

/// The content of a file, and whether it is a pipe.
fn read(path: &Path) -> io::Result<(Vec<u8>, bool)> {
    let file = File::open(path)?;
    let is_pipe = !file.metadata()?.is_file();
    let mut content = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut content)?;
    Ok((content, is_pipe))
}

/// The reason, with the path where it may be shown.
#[derive(Debug, thiserror::Error)]
struct Unreadable {
    path: Option<PathBuf>,
    error: io::Error,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = &self.path {
            write!(f, "{}: ", path.display())?;
        }
        self.error.fmt(f)
    }
}

impl fmt::Debug for FileSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FileSource")
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[tokio::test]
    async fn a_file_is_read_again_and_its_last_content_stays_while_it_cannot_be() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("password");
        let source = FileSource::password(&path);
        let error = source.read().await.expect_err("there is none");
        let cause = std::error::Error::source(&error).expect("a cause").to_string();
        assert!(cause.contains("password: "), "{cause}");
        for text in ["one", "two"] {
            std::fs::write(&path, text).expect("written");
            assert_eq!(*source.read().await.expect("read"), *text.as_bytes());
        }
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(*source.read().await.expect("the last content"), *b"two");
        std::fs::write(&path, "three").expect("written");
        assert_eq!(*source.read().await.expect("read"), *b"three");
    }

    fn make_pipe(path: &Path) {
        let made = std::process::Command::new("mkfifo").arg(path).status().expect("mkfifo runs");
        assert!(made.success());
    }

    #[tokio::test]
    async fn the_last_content_is_used_while_a_read_does_not_end() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("password");
        std::fs::write(&path, "one").expect("written");
        let source = FileSource::password(&path);
        assert_eq!(*source.read().await.expect("read"), *b"one");
        std::fs::remove_file(&path).expect("removed");
        // The open of a pipe ends when it has a writer.
        make_pipe(&path);
        let tasks = tokio::runtime::Handle::current().metrics();
        let before = tasks.num_alive_tasks();
        for _ in 0..3 {
            assert_eq!(*source.read().await.expect("the last content"), *b"one");
        }
        assert_eq!(tasks.num_alive_tasks(), before + 1, "one read is in progress");
        std::fs::write(&path, "two").expect("a reader waits");
        let two = async { while *source.read().await.expect("read") != *b"two" {} };
        timeout(Duration::from_secs(30), two).await.expect("the read has ended");
    }

    #[tokio::test]
    async fn a_pipe_is_read_once_even_if_its_reader_stops_waiting() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("pipe");
        make_pipe(&path);
        let source = FileSource::password(&path);
        let late = tokio::time::timeout(Duration::from_millis(20), source.read()).await;
        assert!(late.is_err(), "there is no writer yet");
        let writer = path.clone();
        tokio::task::spawn_blocking(move || {
            let mut pipe = std::fs::OpenOptions::new().write(true).open(writer).expect("a reader waits");
            pipe.write_all(b"secret\n").expect("written");
        })
        .await
        .expect("written");
        for _ in 0..3 {
            assert_eq!(*source.read().await.expect("read"), *b"secret\n");
        }
    }
}
