//! The Unix socket that the plugin serves on: 0600, in a directory that only this user can enter.
//!
//! Callers of the socket get keys in clear, so the permissions of the directory and of the socket are the access control.

use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

/// Why the socket could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketError {
    /// Others can enter the directory, or it belongs to another user.
    #[error("the directory {} of the socket is open to other users", .0.display())]
    Open(PathBuf),
    /// A file that is no socket has the path.
    #[error("{} exists and is not a socket", .0.display())]
    Occupied(PathBuf),
    /// Another process serves on the socket.
    #[error("another process serves on {}", .0.display())]
    Served(PathBuf),
    /// The operating system refused.
    #[error("the socket {} cannot be made", .0.display())]
    Io(PathBuf, #[source] io::Error),
}

impl SocketError {
    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Open(dir) => Some(format!("run `chmod 700 {}`, or name another directory", dir.display())),
            Self::Occupied(_) | Self::Served(_) => Some("name another path with --socket".to_owned()),
            Self::Io(..) => None,
        }
    }
}

/// The bound socket. Its file is removed when it is dropped.
pub(crate) struct Socket {
    path: PathBuf,
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Binds the socket. Makes its directory, 0700, if it is missing. Removes a socket that a killed plugin left.
///
/// # Errors
/// [`SocketError`].
pub(crate) fn bind(path: &Path) -> Result<(UnixListener, Socket), SocketError> {
    let failed = |error| SocketError::Io(path.to_owned(), error);
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    let metadata = std::fs::metadata(dir).map_err(failed)?;
    if metadata.mode() & 0o077 != 0 || metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(SocketError::Open(dir.to_owned()));
    }
    remove_left_over(path)?;
    let listener = UnixListener::bind(path).map_err(failed)?;
    let socket = Socket { path: path.to_owned() };
    // Until here the directory alone keeps others out.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok((listener, socket))
}

fn remove_left_over(path: &Path) -> Result<(), SocketError> {
    let failed = |error| SocketError::Io(path.to_owned(), error);
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(SocketError::Occupied(path.to_owned()));
        }
        Ok(_) => {}
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(failed)
        }
        Err(error) => Err(failed(error)),
        Ok(_) => Err(SocketError::Served(path.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_socket_and_its_directory_are_private_and_the_socket_is_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("run/kms.sock");
        let (listener, socket) = bind(&path).expect("bound");
        let mode = |path: &Path| std::fs::metadata(path).expect("metadata").mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().expect("a parent"))), (0o600, 0o700));
        assert!(matches!(bind(&path), Err(SocketError::Served(_))));
        drop((listener, socket));
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_socket_that_was_left_is_replaced_and_a_file_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("run/kms.sock");
        let (listener, socket) = bind(&path).expect("bound");
        // A killed process removes nothing.
        std::mem::forget(socket);
        drop(listener);
        assert!(path.exists() && bind(&path).is_ok());
        std::fs::write(&path, "text").expect("written");
        assert!(matches!(bind(&path), Err(SocketError::Occupied(_))));
    }

    #[tokio::test]
    async fn a_directory_that_others_can_enter_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open).expect("changed");
        let error = bind(&folder.path().join("kms.sock")).err().expect("refused");
        assert!(matches!(error, SocketError::Open(_)), "{error}");
        assert!(error.hint().expect("a hint").contains("chmod 700"));
    }
}
