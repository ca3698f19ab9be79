//! The client of the administration socket.

use std::path::Path;

use agentrouter_audit::Progress;
use anyhow::{Context, bail};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

use super::socket::at_short_path;
use super::{Request, Response};
use crate::Advised;

/// Sends a command to the server on `dir/name`. Passes its progress to `show`. `None` if no server is there.
///
/// # Errors
/// When a server is there and does not respond.
pub async fn send(
    dir: &Path,
    name: &str,
    request: &Request,
    show: &mut (dyn FnMut(Progress) + Send),
) -> anyhow::Result<Option<Response>> {
    let connected = at_short_path(dir, name, |short| std::os::unix::net::UnixStream::connect(short));
    let stream = match connected {
        Ok(stream) => stream,
        // No socket, or one that a crashed server left.
        Err(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(None);
        }
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            let hint = "run this as the user that the server runs as";
            bail!(Advised::new("the running server cannot be reached", hint).because(error));
        }
        Err(error) => return Err(error).context("the running server cannot be reached"),
    };
    stream.set_nonblocking(true)?;
    let mut stream = UnixStream::from_std(stream)?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    let mut stream = BufReader::new(stream);
    loop {
        let mut response = String::new();
        stream.read_line(&mut response).await?;
        let invalid =
            |error| Advised::new("the running server sent no valid response", "see its log").because(error);
        match serde_json::from_str(&response).map_err(invalid)? {
            Response::Progress { bytes, of } => show(Progress { bytes, of }),
            response => return Ok(Some(response)),
        }
    }
}
