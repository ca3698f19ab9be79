//! Writes the content of an open database to a new file, when the database's own file was removed.
//!
//! The kernel keeps a removed file as long as it is open. So the writer can still read all of it when the store is
//! closed.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use agentrouter_store::StoreError;
use agentrouter_store::files::beside;
use rusqlite::Connection;
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::rows::failure;

/// How many names for the file beside the database are tried.
const NAMES: usize = 100;

/// Writes the database of `conn` to `path` if there is no file and `in_place` allows it, else to a new file beside it.
/// Returns where.
pub(super) fn write(conn: &Connection, path: &Path, in_place: bool) -> Result<PathBuf, StoreError> {
    let failed = |error: io::Error| StoreError::open("a file beside it cannot be written", error);
    let (saved, file) = new_file(path).map_err(failed)?;
    let text = saved.to_str().ok_or(StoreError::unavailable("its path is no text"))?;
    // Reads every row, so a page that is lost is an error here.
    let written = conn.execute("VACUUM INTO ?1", [text]).map_err(failure).and_then(|_| {
        file.sync_all().map_err(failed)?;
        let folder = File::open(path.parent().unwrap_or(Path::new("/"))).map_err(failed)?;
        let free = in_place && renameat_with(CWD, &saved, CWD, path, RenameFlags::NOREPLACE).is_ok();
        folder.sync_all().map_err(failed)?;
        Ok(if free { path.to_owned() } else { saved.clone() })
    });
    if written.is_err() {
        let _ = std::fs::remove_file(&saved);
    }
    written
}

/// A new file beside `path`. Files of an earlier rescue, whole or interrupted, stay as they are.
fn new_file(path: &Path) -> io::Result<(PathBuf, File)> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut taken = io::Error::from(io::ErrorKind::AlreadyExists);
    for number in 0..NAMES {
        let suffix = if number == 0 { ".saved".to_owned() } else { format!(".saved.{number}") };
        let saved = beside(path, &suffix);
        match options.open(&saved) {
            Ok(file) => return Ok((saved, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => taken = error,
            Err(error) => return Err(error),
        }
    }
    Err(taken)
}
