//! The KEK file on the disk: who may read it, and how it is replaced whole.
//!
//! A writer holds a lock on the directory (`flock`, released by a crash too), writes a temporary file beside the
//! target, flushes it to the disk, gives it its name and flushes the directory. A reader therefore sees the old file
//! or the new one. A crash can leave the temporary file, mode 0600, which the next writer removes.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::KeyringError;

/// Largest file that is read: some thousand keys.
const MAX_BYTES: u64 = 1 << 20;
/// Group may read (an orchestrator mounts secrets so); nobody but the owner may write, others may do nothing.
const FORBIDDEN_BITS: u32 = 0o026;
/// Of a file that we make.
const MODE: u32 = 0o600;

/// A file as it was found.
pub(crate) struct Found {
    pub(crate) text: Zeroizing<Vec<u8>>,
    mode: u32,
    owner: (u32, u32),
}

/// The file's text, if nobody but those who should may read or change it.
pub(crate) fn read(path: &Path) -> Result<Found, KeyringError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => KeyringError::Missing { path: path.into() },
        _ => KeyringError::Read { path: path.into(), source },
    };
    // Before it is opened, because opening a pipe waits for its writer.
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(KeyringError::Malformed { what: "it is no regular file" });
    }
    let file = File::open(path).map_err(failed)?;
    // Of the open file, so that what was checked is what is read.
    let metadata = file.metadata().map_err(failed)?;
    if metadata.len() > MAX_BYTES {
        return Err(KeyringError::Malformed { what: "it is larger than 1 MiB" });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & FORBIDDEN_BITS != 0 {
        return Err(KeyringError::Exposed { path: path.into(), mode });
    }
    // The buffer never grows (a buffer that grows leaves its old self behind, unwiped): one byte more than expected
    // tells a file that grew meanwhile.
    let len = usize::try_from(metadata.len()).unwrap_or(usize::MAX);
    let mut text = Zeroizing::new(Vec::with_capacity(len + 1));
    file.take(metadata.len() + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() != len {
        return Err(KeyringError::Busy);
    }
    Ok(Found { text, mode, owner: (metadata.uid(), metadata.gid()) })
}

/// Writes a file that was not there.
pub(crate) fn create(path: &Path, text: &[u8]) -> Result<(), KeyringError> {
    let target = Target::lock(path.to_owned())?;
    // A link to nowhere counts as something too.
    if path.symlink_metadata().is_ok() {
        return Err(KeyringError::Exists { path: path.into() });
    }
    target.write_temporary(text, MODE, None)?;
    // Not a rename, which would overwrite what has come up since.
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

/// Replaces a file by what `change` makes of it, keeping its owner and mode.
pub(crate) fn replace<T>(
    path: &Path,
    change: impl FnOnce(&[u8]) -> Result<(T, Zeroizing<Vec<u8>>), KeyringError>,
) -> Result<T, KeyringError> {
    // Where a link points to, so that the link stays a link.
    let path = path.canonicalize().map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => KeyringError::Missing { path: path.into() },
        _ => KeyringError::Read { path: path.into(), source },
    })?;
    let target = Target::lock(path)?;
    let found = read(&target.path)?;
    let (result, text) = change(&found.text)?;
    target.write_temporary(&text, found.mode, Some(found.owner))?;
    fs::rename(&target.temporary, &target.path)
        .and_then(|()| target.directory.sync_all())
        .map_err(|source| target.failed(source))?;
    Ok(result)
}

/// A file about to be written, its directory locked.
struct Target {
    path: PathBuf,
    temporary: PathBuf,
    directory: File,
}

impl Target {
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
            // Whatever the umask took away, and before the text is there.
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
