//! Paths and permissions of the files of a store, and how files in the data directory are opened. Called by the lock, by
//! the SQLite engine, and by the crates that read other files of the data directory.
//!
//! The user of the service owns the data directory, and root runs commands in it. So a symbolic link there is never
//! followed: it could make root's command change a file elsewhere.

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, fstat};

use crate::StoreError;

/// Follows no link, and does not block.
const PLAINLY: OFlags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK);

/// The path of a file that belongs to the database: its path and `suffix`.
pub fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut path = database.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// Opens a file of the data directory: through no symbolic link, without blocking, and only a regular file.
///
/// # Errors
/// When the file cannot be opened, or the path is a link, a pipe or any other special file.
pub fn open_plainly(options: &OpenOptions, path: &Path) -> io::Result<File> {
    let file = options.clone().custom_flags(PLAINLY.bits().cast_signed()).open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"))
    }
}

/// Restricts the permissions of a file to its owner (mode 0600). The path must be a regular file and no link to one.
///
/// The file is not opened for reading: opening and closing a SQLite database here would drop the locks that SQLite holds
/// on it in this process. Linux keeps them when a handle of kind `O_PATH` is closed.
///
/// # Errors
/// [`StoreError::Open`] when the mode cannot be read or set.
pub fn owner_only(path: &Path) -> Result<(), StoreError> {
    let failed = |error: io::Error| StoreError::open("its file's mode cannot be set", error);
    let handle = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
    let handle = handle.map_err(|error| failed(error.into()))?;
    let mode = fstat(&handle).map_err(|error| failed(error.into()))?.st_mode;
    if FileType::from_raw_mode(mode) != FileType::RegularFile {
        return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")));
    }
    if mode & 0o777 == 0o600 {
        return Ok(());
    }
    // Through the handle, so that the file that was examined is the one that is changed.
    let handle = Path::new("/proc/self/fd").join(handle.as_raw_fd().to_string());
    std::fs::set_permissions(handle, Permissions::from_mode(0o600)).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn mode(path: &Path) -> u32 {
        path.metadata().expect("there").permissions().mode() & 0o777
    }

    #[test]
    fn only_a_plain_file_is_opened_or_changed() {
        let dir = tempfile::tempdir().expect("a directory");
        let [target, link, file] = ["target", "link", "file"].map(|name| dir.path().join(name));
        for path in [&target, &file] {
            std::fs::write(path, "text").expect("written");
            std::fs::set_permissions(path, Permissions::from_mode(0o644)).expect("set");
        }
        symlink(&target, &link).expect("linked");
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).clone();
        for other in [&link, &dir.path().to_owned()] {
            assert!(open_plainly(&options, other).is_err(), "{}", other.display());
            assert!(owner_only(other).is_err(), "{}", other.display());
        }
        assert_eq!(mode(&target), 0o644, "the target of the link is unchanged");
        open_plainly(&options, &file).expect("opened");
        owner_only(&file).expect("set");
        assert_eq!(mode(&file), 0o600);
    }
}
