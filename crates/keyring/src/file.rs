//! The KEK file on the disk: its permissions, and atomic replacement.
//!
//! A writer holds a lock on the directory (`flock`, which a crash releases too), writes a temporary file beside the target,
//! syncs it, renames it and syncs the directory. So a reader sees the former file or the new one. A crash can leave the
//! temporary file, mode 0600, which the next writer removes.
//!
//! By hand and not by `tempfile`: a replaced file keeps its owner and mode, a new one is linked so that it overwrites
//! nothing, and the temporary file has a fixed name, so that copies of keys do not pile up.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::KeyringError;

/// The largest file that is read: some thousand keys.
const MAX_BYTES: u64 = 1 << 20;
/// The group may read, as orchestrators mount secrets that way. Only the owner may write, and others have no access.
const FORBIDDEN_BITS: u32 = 0o026;
/// The mode of a new file.
const MODE: u32 = 0o600;

/// A file that was read.
pub(crate) struct KekFile {
    pub(crate) text: Zeroizing<Vec<u8>>,
    mode: u32,
    owner: (u32, u32),
}

/// What tells one state of the file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    inode: u64,
    len: u64,
    changed: (i64, i64),
}

impl Stamp {
    /// The stamp of the file at `path`. `None` if it cannot be looked at.
    pub fn of(path: &Path) -> Option<Self> {
        let found = fs::metadata(path).ok()?;
        Some(Self { inode: found.ino(), len: found.len(), changed: (found.ctime(), found.ctime_nsec()) })
    }
}

/// Reads the file if its permissions are safe.
pub(crate) fn read(path: &Path) -> Result<KekFile, KeyringError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => KeyringError::Missing { path: path.into() },
        _ => KeyringError::Read { path: path.into(), source },
    };
    // Checked before it is opened, because `open` of a pipe waits for its writer.
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(KeyringError::Malformed { what: "it is not a regular file" });
    }
    let file = File::open(path).map_err(failed)?;
    // The metadata of the open file, so that the checked file is the one that is read.
    let metadata = file.metadata().map_err(failed)?;
    if metadata.len() > MAX_BYTES {
        return Err(KeyringError::Malformed { what: "it is larger than 1 MiB" });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & FORBIDDEN_BITS != 0 {
        return Err(KeyringError::Exposed { path: path.into(), mode });
    }
    // The buffer never reallocates, because a reallocation leaves an unwiped copy. One byte more than expected detects a file
    // that has grown since.
    let len = usize::try_from(metadata.len()).unwrap_or(usize::MAX);
    let mut text = Zeroizing::new(Vec::with_capacity(len + 1));
    file.take(metadata.len() + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() != len {
        return Err(KeyringError::Busy);
    }
    Ok(KekFile { text, mode, owner: (metadata.uid(), metadata.gid()) })
}

/// Creates a file, and fails if it exists.
pub(crate) fn create(path: &Path, text: &[u8]) -> Result<(), KeyringError> {
    let target = LockedFile::lock(path.to_owned())?;
    // A dangling symbolic link counts as a file too.
    if path.symlink_metadata().is_ok() {
        return Err(KeyringError::Exists { path: path.into() });
    }
    target.write_temporary(text, MODE, None)?;
    // Not a rename, which would overwrite a file that was created since.
    let linked = fs::hard_link(&target.temporary, path);
    let removed = fs::remove_file(&target.temporary);
    match linked {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(KeyringError::Exists { path: path.into() });
        }
        linked => linked.and(removed).and_then(|()| target.directory.sync_all()),
    }
    .map_err(|source| target.failed(source))
}

/// Replaces a file by the text that `change` returns. Owner and mode do not change.
pub(crate) fn replace<T>(
    path: &Path,
    change: impl FnOnce(&[u8]) -> Result<(T, Zeroizing<Vec<u8>>), KeyringError>,
) -> Result<T, KeyringError> {
    // The target of a symbolic link is replaced, not the link.
    let path = path.canonicalize().map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => KeyringError::Missing { path: path.into() },
        _ => KeyringError::Read { path: path.into(), source },
    })?;
    let target = LockedFile::lock(path)?;
    let former = read(&target.path)?;
    let (result, text) = change(&former.text)?;
    target.write_temporary(&text, former.mode, Some(former.owner))?;
    fs::rename(&target.temporary, &target.path).map_err(|source| target.failed(source))?;
    // From here on readers see the new file.
    let synced = target.directory.sync_all();
    synced.map_err(|source| KeyringError::Unsynced { path: target.path.clone(), source })?;
    Ok(result)
}

/// A file to be written, with the lock on its directory.
struct LockedFile {
    path: PathBuf,
    temporary: PathBuf,
    directory: File,
}

impl Drop for LockedFile {
    fn drop(&mut self) {
        // Closing is not enough: a child process that another thread starts has the directory until its `exec`.
        let _ = self.directory.unlock();
    }
}

impl LockedFile {
    fn lock(path: PathBuf) -> Result<Self, KeyringError> {
        let failed = |source| KeyringError::Write { path: path.clone(), source };
        let name = path.file_name().ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let mut temporary = OsString::from(".");
        temporary.push(name);
        temporary.push(".new");
        let temporary = directory.join(temporary);
        let directory = File::open(directory).map_err(failed)?;
        match directory.try_lock() {
            Ok(()) => Ok(Self { path, temporary, directory }),
            Err(TryLockError::WouldBlock) => Err(KeyringError::Busy),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }

    fn write_temporary(&self, text: &[u8], mode: u32, owner: Option<(u32, u32)>) -> Result<(), KeyringError> {
        let written = match fs::remove_file(&self.temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => OpenOptions::new().write(true).create_new(true).mode(MODE).open(&self.temporary),
        }
        .and_then(|mut file| {
            if let Some((user, group)) = owner {
                fchown(&file, Some(user), Some(group))?;
            }
            // Set after the creation, which the umask restricts, and before the text is written.
            file.set_permissions(Permissions::from_mode(mode))?;
            file.write_all(text)?;
            file.sync_all()
        });
        written.map_err(|source| {
            let _ = fs::remove_file(&self.temporary);
            self.failed(source)
        })
    }

    fn failed(&self, source: io::Error) -> KeyringError {
        KeyringError::Write { path: self.path.clone(), source }
    }
}
