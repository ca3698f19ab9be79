//! The sockets that the server listens on, and the connections that they accept: TCP and Unix.
//!
//! Used by `listener`. A Unix socket is a file of mode 0660, so the server's group can connect to it. A lock beside it
//! (`PATH-lock`) keeps other servers from the path while this one runs. A file that a killed server left is replaced. The
//! file is removed at the end, unless it is another one by then.

use std::fs::Permissions;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context, Poll};

use agentrouter_instance::admin::at_short_path;
use agentrouter_model::SystemClock;
use agentrouter_store::{Lock, StoreError};
use anyhow::Context as _;
use rustix::net::RecvFlags;
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};

use super::peer::Peer;
use crate::settings::ListenAddress;

/// The connections that the kernel keeps until they are accepted, at most `net.core.somaxconn`. Above it, the kernel drops
/// a client's SYN, and the client waits a second before it sends the next.
const BACKLOG: u32 = 4096;
/// The mode of a Unix socket. To connect needs the permission to write.
const MODE: u32 = 0o660;

/// A socket that listens.
pub(super) enum Socket {
    Tcp(TcpListener),
    Unix(UnixSocket),
}

/// A connection that was accepted.
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    /// # Errors
    /// When the address cannot be bound, or the path of a Unix socket is in use or has another file.
    pub(super) async fn bind(address: &ListenAddress) -> anyhow::Result<Self> {
        match address {
            ListenAddress::Tcp(address) => Ok(listen(*address).map(Self::Tcp)?),
            ListenAddress::Unix(path) => UnixSocket::bind(path).await.map(Self::Unix),
        }
    }

    /// The address that was bound: the real port, the absolute path.
    pub(super) fn address(&self) -> io::Result<ListenAddress> {
        match self {
            Self::Tcp(socket) => socket.local_addr().map(ListenAddress::Tcp),
            Self::Unix(socket) => std::path::absolute(&socket.path).map(ListenAddress::Unix),
        }
    }

    pub(super) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Stream, Peer)>> {
        match self {
            Self::Tcp(socket) => {
                let accepted = socket.poll_accept(cx);
                accepted.map_ok(|(stream, address)| (Stream::Tcp(stream), Peer::from(address)))
            }
            Self::Unix(socket) => socket.listener.poll_accept(cx).map_ok(|(stream, _)| {
                let peer = unix_peer(&stream);
                (Stream::Unix(stream), peer)
            }),
        }
    }
}

impl Stream {
    /// Copies the first bytes without consuming them.
    pub(super) async fn peek(&self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.peek(into).await,
            Self::Unix(stream) => {
                let peek = || Ok(rustix::net::recv(stream, &mut *into, RecvFlags::PEEK)?.1);
                stream.async_io(Interest::READABLE, peek).await
            }
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// A client on this host has no address. It counts as the loopback address, over which it could connect as well. So the
/// limits by address apply to it, and it can be a trusted proxy. Audit records have its user.
fn unix_peer(stream: &UnixStream) -> Peer {
    let label: Arc<str> = match stream.peer_cred() {
        Ok(peer) => format!("unix:uid={}", peer.uid()).into(),
        Err(_) => "unix".into(),
    };
    Peer { address: Some(Ipv4Addr::LOCALHOST.into()), label: Some(label), certificate: None }
}

/// A Unix socket that listens, and its file.
pub(super) struct UnixSocket {
    listener: UnixListener,
    path: PathBuf,
    /// The file's device and number.
    file: (u64, u64),
    _lock: Lock,
}

impl UnixSocket {
    async fn bind(path: &Path) -> anyhow::Result<Self> {
        let name = path.file_name().and_then(|name| name.to_str()).context("the path has no file name")?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // Two servers that start at once would each remove the other's socket.
        let lock = Lock::take(path, &SystemClock).map_err(|error| match error {
            StoreError::InUse { holder } => anyhow::anyhow!("it is in use by {holder}"),
            other => other.into(),
        })?;
        remove_stale(path, folder, name).await?;
        let socket = tokio::net::UnixSocket::new_stream()?;
        // The umask makes it 0600 until its mode is set.
        at_short_path(folder, name, |short| socket.bind(short))?;
        std::fs::set_permissions(path, Permissions::from_mode(MODE))?;
        let file = identity(path)?;
        Ok(Self { listener: socket.listen(BACKLOG)?, path: path.to_owned(), file, _lock: lock })
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|file| file == self.file) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = path.symlink_metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Removes the socket of a server that was killed. No process listens on it.
///
/// # Errors
/// When the path has another kind of file, or a process listens on it.
async fn remove_stale(path: &Path, folder: &Path, name: &str) -> anyhow::Result<()> {
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        metadata => anyhow::ensure!(
            metadata?.file_type().is_socket(),
            "there is a file that is no socket; remove it, or name another path"
        ),
    }
    let handle = at_short_path(folder, name, |short| Ok(std::os::unix::net::UnixStream::connect(short)))?;
    match handle {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(std::fs::remove_file(path)?),
        Ok(_) => anyhow::bail!("another process listens there"),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_burst_of_connections_completes_before_any_is_accepted() {
        let most = std::fs::read_to_string("/proc/sys/net/core/somaxconn").expect("Linux");
        let burst = most.trim().parse::<usize>().expect("a number").min(300);
        let listener = listen("127.0.0.1:0".parse().expect("an address")).expect("bound");
        let address = listener.local_addr().expect("an address");
        let connected: Vec<_> = (0..burst)
            .map(|i| {
                // The kernel would not complete a connection above the backlog at all.
                std::net::TcpStream::connect_timeout(&address, Duration::from_secs(60))
                    .unwrap_or_else(|error| panic!("connection {i}: {error}"))
            })
            .collect();
        assert_eq!(connected.len(), burst);
    }

    async fn bind(path: &Path) -> Result<UnixSocket, String> {
        UnixSocket::bind(path).await.map_err(|error| error.to_string())
    }

    async fn refusal(path: &Path) -> String {
        bind(path).await.map(drop).expect_err("refused")
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_no_other_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("s".repeat(90)).join("socket");
        std::fs::create_dir(path.parent().expect("a parent")).expect("made");
        // The file of a socket stays when its process is killed.
        let parent = path.parent().expect("a parent");
        drop(at_short_path(parent, "socket", |short| std::os::unix::net::UnixListener::bind(short)));
        assert!(path.exists());
        let socket = bind(&path).await.expect("the stale one is replaced");
        assert_eq!(path.metadata().expect("made").permissions().mode() & 0o777, MODE);
        assert!(refusal(&path).await.contains("in use by process"));
        drop(socket);
        assert!(!path.exists(), "it is removed at the end");

        std::fs::write(&path, "data").expect("written");
        assert!(refusal(&path).await.contains("no socket"));
        assert_eq!(std::fs::read(&path).expect("kept"), b"data");
        std::fs::remove_file(&path).expect("removed");

        // A file in the place of the lock.
        let beside = dir.path().join("other-lock");
        std::fs::write(&beside, "data").expect("written");
        assert!(refusal(&dir.path().join("other")).await.contains("the lock file cannot be used"));
        assert_eq!(std::fs::read(&beside).expect("kept"), b"data");
        std::fs::remove_file(&beside).expect("removed");

        // A program without our lock.
        let other = std::os::unix::net::UnixListener::bind(dir.path().join("other")).expect("bound");
        assert!(refusal(&dir.path().join("other")).await.contains("another process"));
        drop(other);
    }

    #[tokio::test]
    async fn the_socket_of_a_successor_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("socket");
        let socket = bind(&path).await.expect("bound");
        std::fs::rename(&path, dir.path().join("aside")).expect("moved");
        let _other = std::os::unix::net::UnixListener::bind(&path).expect("bound");
        drop(socket);
        assert!(path.exists());
    }
}
