//! Calls a plugin on a Unix socket.
//!
//! Invariants: Only a socket of this user or of root is connected to, because the plugin gets keys in clear. The owner of
//! the peer process is compared after the connection too, so that a socket that is replaced meanwhile is refused. A response
//! that breaks a rule of the API is [`PluginError::Malformed`].

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use connectrpc::client::{CallOptions, ClientConfig, Http2Connection, SharedHttp2Connection};
use connectrpc::{ConnectError, ErrorCode, Protocol};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use zeroize::Zeroizing;

use crate::wire::v2::{DecryptRequest, EncryptRequest, KeyManagementServiceClient, StatusRequest};
use crate::{MAX_ANNOTATIONS, MAX_FIELD};

/// The largest response.
const MAX_RESPONSE: usize = 64 * 1024;
/// Requests that wait for the connection.
const QUEUE: usize = 16;

/// A plugin on a Unix socket. It connects with the first call, and again with the first call after a lost connection.
#[derive(Clone)]
pub struct Plugin {
    calls: KeyManagementServiceClient<SharedHttp2Connection>,
    socket: PathBuf,
}

/// What a plugin says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// `v2`.
    pub version: String,
    /// [`HEALTHY`](crate::HEALTHY), or what is wrong.
    pub healthz: String,
    /// The id of the root key that wraps.
    pub key_id: String,
}

/// A wrapped key, with what the plugin needs to unwrap it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrapped {
    /// The wrapped key.
    pub ciphertext: Vec<u8>,
    /// The id of the root key.
    pub key_id: String,
    /// What else the plugin wants back.
    pub annotations: BTreeMap<String, Vec<u8>>,
}

/// A call that failed.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// The socket belongs to another user, or is no socket.
    #[error("{what}")]
    Untrusted {
        /// What is wrong with it.
        what: String,
    },
    /// The plugin or the KMS behind it does not respond, or cannot at the moment.
    #[error("{what}")]
    Unreachable {
        /// What the plugin, or the connection to it, reports.
        what: String,
    },
    /// The deadline has passed.
    #[error("it does not respond in time")]
    Silent,
    /// The KMS refuses: the key is disabled, destroyed, or not allowed to this caller.
    #[error("{what}")]
    Denied {
        /// What the plugin reports.
        what: String,
    },
    /// The response breaks a rule of the API.
    #[error("the plugin's response has {what}")]
    Malformed {
        /// What is wrong with it.
        what: &'static str,
    },
}

impl Plugin {
    /// A plugin on `socket`. A call that takes longer than `deadline` fails. Must be called within a tokio runtime.
    pub fn new(socket: &Path, deadline: Duration) -> Self {
        let path = socket.to_owned();
        let connect = tower::service_fn(move |_: http::Uri| connect(path.clone()));
        let authority = http::Uri::from_static("http://localhost");
        let connection = Http2Connection::builder()
            .establishment_timeout(deadline)
            .lazy_with_connector(connect, authority.clone())
            .shared(QUEUE);
        let config = ClientConfig::new(authority)
            .with_protocol(Protocol::Grpc)
            .with_default_timeout(deadline)
            .with_default_max_message_size(MAX_RESPONSE);
        Self { calls: KeyManagementServiceClient::new(connection, config), socket: socket.to_owned() }
    }

    /// The socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// How the plugin is.
    ///
    /// # Errors
    /// [`PluginError`].
    pub async fn status(&self) -> Result<Status, PluginError> {
        let response = self.calls.status_with_options(StatusRequest::default(), CallOptions::default()).await;
        let status = response.map_err(failed)?.into_owned();
        bounded(status.version.len(), "a long version")?;
        bounded(status.healthz.len(), "a long health")?;
        check_key_id(&status.key_id)?;
        Ok(Status { version: status.version, healthz: status.healthz, key_id: status.key_id })
    }

    /// Wraps `plaintext`. `uid` names the call in the logs of the plugin.
    ///
    /// # Errors
    /// [`PluginError`].
    pub async fn encrypt(&self, plaintext: &[u8], uid: &str) -> Result<Wrapped, PluginError> {
        let request = EncryptRequest { plaintext: plaintext.to_vec(), uid: uid.to_owned() };
        let response = self.calls.encrypt_with_options(request, CallOptions::default()).await;
        let wrapped = response.map_err(failed)?.into_owned();
        if wrapped.ciphertext.is_empty() {
            return Err(PluginError::Malformed { what: "no ciphertext" });
        }
        bounded(wrapped.ciphertext.len(), "a ciphertext of more than 1 KiB")?;
        check_key_id(&wrapped.key_id)?;
        let annotations: BTreeMap<_, _> = wrapped.annotations.into_iter().collect();
        if annotations.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > MAX_ANNOTATIONS {
            return Err(PluginError::Malformed { what: "annotations of more than 32 KiB" });
        }
        Ok(Wrapped { ciphertext: wrapped.ciphertext, key_id: wrapped.key_id, annotations })
    }

    /// Unwraps what [`Plugin::encrypt`] returned.
    ///
    /// # Errors
    /// [`PluginError`].
    pub async fn decrypt(&self, wrapped: &Wrapped, uid: &str) -> Result<Zeroizing<Vec<u8>>, PluginError> {
        let request = DecryptRequest {
            ciphertext: wrapped.ciphertext.clone(),
            uid: uid.to_owned(),
            key_id: wrapped.key_id.clone(),
            annotations: wrapped.annotations.clone().into_iter().collect(),
        };
        let response = self.calls.decrypt_with_options(request, CallOptions::default()).await;
        Ok(Zeroizing::new(response.map_err(failed)?.into_owned().plaintext))
    }
}

fn check_key_id(id: &str) -> Result<(), PluginError> {
    if id.is_empty() {
        return Err(PluginError::Malformed { what: "no key id" });
    }
    bounded(id.len(), "a key id of more than 1 KiB")
}

fn bounded(len: usize, what: &'static str) -> Result<(), PluginError> {
    if len > MAX_FIELD { Err(PluginError::Malformed { what }) } else { Ok(()) }
}

/// Connects, and checks that the socket and the process behind it belong to this user or to root.
async fn connect(path: PathBuf) -> io::Result<TokioIo<UnixStream>> {
    let metadata = std::fs::metadata(&path)?;
    if !metadata.file_type().is_socket() {
        return Err(io::Error::other(Untrusted(format!("{} is not a socket", path.display()))));
    }
    check_owner(&path, "belongs to", metadata.uid())?;
    let stream = UnixStream::connect(&path).await?;
    check_owner(&path, "is served by", stream.peer_cred()?.uid())?;
    Ok(TokioIo::new(stream))
}

fn check_owner(path: &Path, verb: &str, owner: u32) -> io::Result<()> {
    if owner == 0 || owner == rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    let what = format!("the socket {} {verb} user {owner}, neither this user nor root", path.display());
    Err(io::Error::other(Untrusted(what)))
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Untrusted(String);

fn failed(error: ConnectError) -> PluginError {
    let mut innermost: &(dyn std::error::Error + 'static) = &error;
    let mut transport = None;
    loop {
        if let Some(Untrusted(what)) = innermost.downcast_ref() {
            return PluginError::Untrusted { what: what.clone() };
        }
        // An `io::Error` of a custom error has it inside, and its `source` is that of the custom error.
        if let Some(io) = innermost.downcast_ref::<io::Error>() {
            if let Some(Untrusted(what)) = io.get_ref().and_then(|inner| inner.downcast_ref()) {
                return PluginError::Untrusted { what: what.clone() };
            }
            transport = Some(io.to_string());
        }
        match innermost.source() {
            Some(source) => innermost = source,
            None => break,
        }
    }
    let what = transport.unwrap_or_else(|| printable(error.message.as_deref().unwrap_or_default()));
    match error.code {
        ErrorCode::PermissionDenied | ErrorCode::Unauthenticated | ErrorCode::FailedPrecondition => {
            PluginError::Denied { what }
        }
        ErrorCode::DeadlineExceeded => PluginError::Silent,
        code if what.is_empty() => PluginError::Unreachable { what: code.as_str().to_owned() },
        _ => PluginError::Unreachable { what },
    }
}

/// The start of a foreign text, without control characters, for one line of a log.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_and_this_user_are_trusted() {
        let us = rustix::process::geteuid().as_raw();
        for owner in [us, 0] {
            check_owner(Path::new("/run/kms.sock"), "belongs to", owner).expect("trusted");
        }
        let refused =
            check_owner(Path::new("/run/kms.sock"), "belongs to", us + 1).expect_err("another user");
        let code = ConnectError::unavailable_from_transport("no connection", refused);
        let PluginError::Untrusted { what } = failed(code) else { panic!("it is not untrusted") };
        let expected =
            format!("the socket /run/kms.sock belongs to user {}, neither this user nor root", us + 1);
        assert_eq!(what, expected);
    }
}
