//! Paths and permissions of the files of a store. Called by the lock and by the SQLite engine.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::StoreError;

/// The path of a file that belongs to the database: its path and `suffix`.
pub fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut path = database.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// Restricts the permissions of a file to its owner (mode 0600).
///
/// Works by path: opening and closing a SQLite database here would drop the locks that SQLite holds on it in this process.
///
/// # Errors
/// [`StoreError::Open`] when the mode cannot be read or set.
pub fn owner_only(path: &Path) -> Result<(), StoreError> {
    let failed = |error| StoreError::open("its file's mode cannot be set", error);
    let mode = std::fs::metadata(path).map_err(failed)?.permissions().mode();
    if mode & 0o777 == 0o600 {
        return Ok(());
    }
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(failed)
}
