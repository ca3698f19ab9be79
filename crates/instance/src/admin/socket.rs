//! The server of the administration socket.

use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agentrouter_audit::Progress;
use agentrouter_model::Rng;
use agentrouter_service::{Origin, Service};
use anyhow::Context;
use rustix::fs::{Mode, OFlags};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::WriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use super::{Request, Response, execute};

/// The longest command, in bytes.
const LONGEST: u64 = 64 * 1024;
/// The pause between two signs that a command is in progress. A client waits for one of several.
const SIGN: Duration = Duration::from_secs(4);
/// The longest time to send one.
const TIME: Duration = Duration::from_secs(5);

/// The open socket. Its file is removed when it is dropped.
pub struct AdminSocket {
    listener: UnixListener,
    path: PathBuf,
    audit_dir: PathBuf,
    /// The base URLs of the server.
    urls: Arc<[String]>,
}

impl AdminSocket {
    /// Binds `dir/name`, 0600, for a server with these base URLs. First removes a socket that a crashed server left: the
    /// caller holds the store's lock, so no other server runs.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn bind(dir: &Path, name: &str, audit_dir: PathBuf, urls: Vec<String>) -> anyhow::Result<Self> {
        let path = dir.join(name);
        let failed = || format!("the socket {} cannot be made", path.display());
        if let Err(error) = std::fs::remove_file(&path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(error).with_context(failed);
        }
        let listener = at_short_path(dir, name, |short| UnixListener::bind(short)).with_context(failed)?;
        restrict(&path).with_context(failed)?;
        Ok(Self { listener, path, audit_dir, urls: urls.into() })
    }

    /// Takes commands until the future is dropped. Each runs to completion as a task of `commands`.
    pub async fn serve(&self, service: &Arc<Service>, rng: &dyn Rng, commands: &TaskTracker) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let origin = origin(rng);
                    let (service, audit_dir) = (Arc::clone(service), self.audit_dir.clone());
                    let urls = Arc::clone(&self.urls);
                    commands.spawn(async move {
                        let talk = converse(stream, &service, &audit_dir, &urls, &origin);
                        if let Err(error) = talk.await {
                            tracing::warn!(
                                error = &*error as &dyn std::error::Error,
                                "a command ended early"
                            );
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "a command could not be accepted"
                    );
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The origin of a command, for its audit records.
pub fn origin(rng: &dyn Rng) -> Origin {
    Origin { request_id: request_id(rng), trace_id: None, address: Some("command line".into()) }
}

/// Ids of commands, for their audit records.
pub fn request_id(rng: &dyn Rng) -> Arc<str> {
    let mut bytes = [0; 16];
    // An id of zeros is not a reason to refuse a command.
    let _ = rng.fill(&mut bytes);
    format!("{:032x}", u128::from_be_bytes(bytes)).into()
}

async fn converse(
    mut stream: UnixStream,
    service: &Arc<Service>,
    audit_dir: &Path,
    urls: &[String],
    origin: &Origin,
) -> anyhow::Result<()> {
    let peer = stream.peer_cred()?.uid();
    let own = rustix::process::geteuid().as_raw();
    anyhow::ensure!(peer == own || peer == 0, "a command came from another user and was rejected");
    let mut line = Vec::new();
    let mut read = BufReader::new((&mut stream).take(LONGEST));
    tokio::time::timeout(TIME, read.read_until(b'\n', &mut line)).await??;
    // While this process was stopped, its caller may have waited too long and reported that.
    anyhow::ensure!(
        !matches!(rustix::io::read(&stream, &mut [0; 1]), Ok(0)),
        "its caller has left before it began, so it was not executed"
    );
    let (_, mut write) = stream.split();
    let response = match serde_json::from_slice::<Request>(&line) {
        Ok(Request::Addresses) => Response::Addresses { urls: urls.to_vec() },
        Ok(request) => {
            let (sender, mut progress) = watch::channel(Progress::default());
            let mut done = std::pin::pin!(execute(service, audit_dir, origin, request, sender));
            let mut sign = tokio::time::interval(SIGN);
            loop {
                tokio::select! {
                    response = &mut done => break response,
                    Ok(()) = progress.changed() => {
                        let Progress { bytes, of } = *progress.borrow_and_update();
                        send(&mut write, &Response::Progress { bytes, of }).await?;
                    }
                    _ = sign.tick() => send(&mut write, &Response::Working).await?,
                }
            }
        }
        Err(_) => Response::Refused {
            message: "the server does not know this command".to_owned(),
            hint: Some("use the command line of the same version as the server".to_owned()),
        },
    };
    send(&mut write, &response).await
}

async fn send(to: &mut WriteHalf<'_>, response: &Response) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(response)?;
    line.push(b'\n');
    Ok(to.write_all(&line).await?)
}

/// Restricts the socket to its owner. A link in its place is not followed.
fn restrict(path: &Path) -> std::io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle = rustix::fs::open(path, flags, Mode::empty())?;
    let itself = Path::new("/proc/self/fd").join(handle.as_raw_fd().to_string());
    std::fs::set_permissions(itself, std::os::unix::fs::PermissionsExt::from_mode(0o600))
}

/// Calls `act` with a path to `dir/name` that fits into a socket's address (108 bytes on Linux), however deep the
/// directory is. The path uses this process's own handle of the directory.
///
/// # Errors
/// When the directory cannot be opened, and those of `act`.
pub fn at_short_path<T>(
    dir: &Path,
    name: &str,
    act: impl FnOnce(&Path) -> std::io::Result<T>,
) -> std::io::Result<T> {
    let handle = std::fs::File::open(dir)?;
    act(&short_path(&handle, name))
}

/// The path to `name` in an open directory. It is valid while `dir` is open.
pub(super) fn short_path(dir: &std::fs::File, name: &str) -> PathBuf {
    Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name)
}
