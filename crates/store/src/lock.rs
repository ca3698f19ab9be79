//! Lock file: one process per store, or per data directory of a server that shares its store with others.
//!
//! A file beside the database (`<file>-lock`, mode 0600) that its holder keeps locked with `flock`. The kernel releases
//! the lock when the process ends, even after a crash, so a stale file blocks no later start. The file's text names the
//! holder, for the error of the next process:
//!
//! ```text
//! process 4711, since 2026-01-01T00:00:00Z
//! ```
//!
//! Taken by the SQLite engine and by servers over PostgreSQL. Reading needs no lock (`open_read_only`): SQLite's own
//! locks suffice. Not protected against: a network file system without locks, and the same store under two different
//! mounts.

use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use agentrouter_model::Clock;

use crate::StoreError;
use crate::files::{beside, open_plainly};

/// Longest description of a holder that is repeated, in bytes.
const HOLDER_BYTES: u64 = 100;

/// The lock, held until dropped.
#[derive(Debug)]
pub struct Lock(File);

impl Lock {
    /// Takes the lock of the file at `path`, which may not exist yet.
    ///
    /// # Errors
    /// [`StoreError::InUse`] when another holds it, in this process or in any other. [`StoreError::Open`] when the file is not
    /// a lock file; it is not changed then.
    pub fn take(path: &Path, clock: &dyn Clock) -> Result<Self, StoreError> {
        let path = beside(path, "-lock");
        let broken = |error| StoreError::open("the lock file cannot be used", error);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = open_plainly(&options, &path).map_err(broken)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StoreError::InUse { holder: holder(&mut file) }),
            Err(TryLockError::Error(error)) => return Err(broken(error)),
        }
        if !is_lock(&mut file).map_err(broken)? {
            return Err(broken(io::Error::new(
                io::ErrorKind::InvalidData,
                "it is a file of another program",
            )));
        }
        // The umask can take bits away from the mode above, and an older file may have more.
        if file.metadata().map_err(broken)?.permissions().mode() & 0o777 != 0o600 {
            file.set_permissions(Permissions::from_mode(0o600)).map_err(broken)?;
        }
        file.set_len(0).and_then(|()| file.rewind()).map_err(broken)?;
        // On a full disk, the holder's name is missing, but the lock is held.
        let _ = writeln!(file, "process {}, since {}", std::process::id(), clock.now());
        Ok(Self(file))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Clears the text, so that the next holder is not reported under this name.
        let _ = self.0.set_len(0);
        // Closing is not enough: a child process that another thread starts has the file until its `exec`.
        let _ = self.0.unlock();
    }
}

/// Whether a file has the text of a holder, or none. A crash of the host can leave zeros in the place of the text.
fn is_lock(file: &mut File) -> io::Result<bool> {
    let mut text = Vec::new();
    file.take(HOLDER_BYTES + 1).read_to_end(&mut text)?;
    let is_empty = text.iter().all(|byte| *byte == 0);
    Ok(text.len() as u64 <= HOLDER_BYTES && (is_empty || text.starts_with(b"process ")))
}

fn holder(file: &mut File) -> String {
    let mut text = Vec::new();
    let read = file.rewind().and_then(|()| file.take(HOLDER_BYTES).read_to_end(&mut text));
    let text = String::from_utf8_lossy(&text);
    let text: String = text.trim().chars().filter(|c| c.is_ascii_graphic() || *c == ' ').collect();
    if read.is_err() || text.is_empty() { "another process".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use agentrouter_model::SystemClock;

    use super::*;

    #[test]
    fn the_second_process_gets_the_name_of_the_first() {
        let dir = tempfile::tempdir().expect("a directory");
        let database = dir.path().join("s.db");
        let first = Lock::take(&database, &SystemClock).expect("free");
        let Err(StoreError::InUse { holder }) = Lock::take(&database, &SystemClock) else {
            panic!("taken twice");
        };
        assert!(holder.starts_with(&format!("process {}, since 2", std::process::id())), "{holder}");
        drop(first);
        Lock::take(&database, &SystemClock).expect("free again");
    }

    #[test]
    fn a_lock_is_released_although_a_child_process_has_its_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let database = dir.path().join("s.db");
        let first = Lock::take(&database, &SystemClock).expect("free");
        let of_child = first.0.try_clone().expect("the same open file");
        drop(first);
        Lock::take(&database, &SystemClock).expect("free again");
        drop(of_child);
    }

    #[test]
    fn a_link_in_its_place_is_not_followed() {
        let dir = tempfile::tempdir().expect("a directory");
        let (database, other) = (dir.path().join("s.db"), dir.path().join("other"));
        std::fs::write(&other, "kept").expect("written");
        std::os::unix::fs::symlink(&other, beside(&database, "-lock")).expect("linked");
        let refused = Lock::take(&database, &SystemClock);
        assert!(matches!(refused, Err(StoreError::Open { .. })), "{refused:?}");
        assert_eq!(std::fs::read(&other).expect("read"), b"kept");
    }

    #[test]
    fn a_file_of_another_program_is_not_changed() {
        let dir = tempfile::tempdir().expect("a directory");
        let database = dir.path().join("s.db");
        let path = beside(&database, "-lock");
        let mode = |path: &Path| path.metadata().expect("there").permissions().mode() & 0o777;
        for text in ["notes\n".to_owned(), format!("process {}", "x".repeat(100)), "\0".repeat(101)] {
            std::fs::write(&path, &text).expect("written");
            std::fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("set");
            let refused = Lock::take(&database, &SystemClock);
            assert!(matches!(refused, Err(StoreError::Open { .. })), "{text}: {refused:?}");
            assert_eq!((std::fs::read(&path).expect("read"), mode(&path)), (text.into_bytes(), 0o644));
        }
        // What a killed process and a crash of the host leave.
        for text in ["", "process 1, since 2026-01-01T00:00:00Z\n", "\0\0\0"] {
            std::fs::write(&path, text).expect("written");
            let lock = Lock::take(&database, &SystemClock).expect("free");
            let named = std::fs::read_to_string(&path).expect("read");
            assert!(named.starts_with(&format!("process {}, since ", std::process::id())), "{named:?}");
            assert_eq!(mode(&path), 0o600);
            drop(lock);
        }
    }

    #[test]
    fn a_holder_without_a_readable_name_is_another_process() {
        let dir = tempfile::tempdir().expect("a directory");
        let database = dir.path().join("s.db");
        let first = Lock::take(&database, &SystemClock).expect("free");
        for text in [&b""[..], b"\n", b"\xff\x1b\x00\n"] {
            std::fs::write(beside(&database, "-lock"), text).expect("written");
            match Lock::take(&database, &SystemClock) {
                Err(StoreError::InUse { holder }) => assert_eq!(holder, "another process"),
                other => panic!("{other:?}"),
            }
        }
        drop(first);
    }
}
