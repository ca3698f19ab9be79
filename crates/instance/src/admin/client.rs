//! The client of the administration socket.

use std::io;
use std::path::Path;
use std::time::Duration;

use agentrouter_audit::Progress;
use anyhow::{Context, bail};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use super::socket::short_path;
use super::{Request, Response};
use crate::{Advised, storage};

/// The longest silence of a server. While it executes a command, it sends something every few seconds.
pub(crate) const SILENCE: Duration = Duration::from_secs(20);
/// The longest wait for a connection that shows that a server runs.
const PROBE: Duration = Duration::from_secs(1);
/// The pause until the next attempt when too many commands wait for the server.
const AGAIN: Duration = Duration::from_millis(50);

/// Sends a command to the server on `dir/name`. Passes its progress to `show`. `None` if no server is there.
///
/// # Errors
/// When a server is there and does not respond. One that sends nothing for 20 seconds was stopped or hangs.
pub async fn send(
    dir: &Path,
    name: &str,
    request: &Request,
    show: &mut (dyn FnMut(Progress) + Send),
) -> anyhow::Result<Option<Response>> {
    let mut stream = match in_time(dir, connect(dir, name)).await? {
        Ok(stream) => stream,
        // No socket, or one that a crashed server left.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let hint = "run this as the user that the server runs as";
            bail!(Advised::new("the running server cannot be reached", hint).because(error));
        }
        Err(error) => return Err(error).context("the running server cannot be reached"),
    };
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    in_time(dir, stream.write_all(&line)).await??;
    let mut stream = BufReader::new(stream);
    loop {
        let mut response = String::new();
        in_time(dir, stream.read_line(&mut response)).await??;
        let invalid =
            |error| Advised::new("the running server sent no valid response", "see its log").because(error);
        match serde_json::from_str(&response).map_err(invalid)? {
            Response::Progress { bytes, of } => show(Progress { bytes, of }),
            Response::Working => {}
            response => return Ok(Some(response)),
        }
    }
}

/// Whether a server accepts commands on `dir/name`, or has a socket there and is silent.
pub async fn is_served(dir: &Path, name: &str) -> bool {
    !matches!(timeout(PROBE, connect(dir, name)).await, Ok(Err(_)))
}

/// Connects. A server that accepts nothing has a full queue after some commands.
async fn connect(dir: &Path, name: &str) -> io::Result<UnixStream> {
    let handle = std::fs::File::open(dir)?;
    let path = short_path(&handle, name);
    loop {
        match UnixStream::connect(&path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(AGAIN).await,
            connected => return connected,
        }
    }
}

/// The result of a step, unless the server is silent for too long.
async fn in_time<T>(dir: &Path, step: impl Future<Output = T>) -> anyhow::Result<T> {
    timeout(SILENCE, step).await.map_err(|_| {
        let holder = storage::holder(dir).map_or_else(String::new, |holder| format!(" ({holder})"));
        let what = format!("the running server{holder} has sent nothing for {} seconds", SILENCE.as_secs());
        let hint = "it may be stopped (continue it with kill -CONT), or its disk may hang: see its log, or restart it; what it has begun to do may still take effect";
        Advised::new(what, hint).into()
    })
}
