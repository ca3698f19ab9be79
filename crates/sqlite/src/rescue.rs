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

/// Writes the database of `conn` to `path` if there is no file and `in_place` allows it, else to a file beside it.
/// Returns where.
pub(super) fn write(conn: &Connection, path: &Path, in_place: bool) -> Result<PathBuf, StoreError> {
    let failed = |error: io::Error| StoreError::open("a file beside it cannot be written", error);
    let saved = beside(path, ".saved");
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&saved).map_err(failed)?;
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
