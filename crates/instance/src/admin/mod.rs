//! Administration of an instance, beside a running server or without one.
//!
//! A command is a [`Request`]. While a server runs, the command goes to it over a Unix socket in the data directory, so
//! that there is one writer, one cache and one audit chain. Otherwise the command opens the instance itself. Either way
//! [`execute()`] runs it and the audit log records it.
//!
//! The protocol is one line of JSON each way. The file system controls access: the socket is 0600 in a directory that is
//! 0700, and the peer has to be the server's user or root.

mod abilities;
mod client;
mod execute;
mod keks;
mod socket;

use std::num::NonZeroU32;

use agentrouter_audit::Progress;
use agentrouter_crypto::SystemRng;
use agentrouter_store::StoreError;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::Advised;
use crate::instance::{AUDIT, Instance, MissingStore, SOCKET};
use crate::permissions::require_owner;
use crate::settings::Settings;
use crate::storage;

pub use client::{is_served, send};
pub use execute::{execute, problems};
pub use socket::{AdminSocket, at_short_path, origin, request_id};

/// A command.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
#[allow(missing_docs, reason = "each field is the flag or column of its name")]
pub enum Request {
    /// Issue a key. Texts are as given on the command line; the side that executes parses them.
    KeyCreate {
        user: String,
        scopes: String,
        realm: Option<String>,
        realms: Option<String>,
        expires_seconds: Option<u64>,
        name: String,
    },
    /// List the keys.
    KeyList,
    /// Revoke a key.
    KeyRevoke { id: String },
    /// Verify the audit log.
    AuditVerify {
        #[serde(default)]
        checkpoint: Option<String>,
    },
    /// Remove the oldest files of the audit log.
    AuditPrune { older_than_seconds: u64, accept_problems: bool },
    /// Sign a checkpoint of the audit log.
    AuditCheckpoint,
    /// List the KEKs.
    KekList,
    /// Add a KEK.
    KekAdd,
    /// Make a KEK the active one; the newest if none is named.
    KekActivate { id: Option<String> },
    /// Wrap every key with the active KEK.
    KekRewrap { rate: Option<NonZeroU32>, reseal: bool },
    /// Remove a KEK from the KEK file.
    KekRetire { id: String, backup_retention_seconds: u64 },
    /// Add a KEK, activate it and wrap every key with it.
    KekRotate { rate: Option<NonZeroU32>, reseal: bool },
    /// Record that the process that asks is about to make a backup.
    BackupBegin,
    /// Record the outcome of the backup.
    BackupEnd { ok: bool },
    /// Record that the process that asks is about to wrap the KEKs by another root key.
    KekMoveBegin {
        /// The provider of that root key.
        to: String,
        /// The ids of the KEKs in the file.
        keks: Vec<String>,
    },
    /// Record the outcome of that.
    KekMoveEnd { to: String, ok: bool },
    /// Say whether the server can serve calls. Not recorded.
    State,
    /// Return the base URLs of the running server. Not recorded, because health checks send it every few seconds.
    Addresses,
}

/// The response to a command.
#[derive(Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
#[allow(missing_docs, reason = "each field is the flag or column of its name")]
pub enum Response {
    /// A key was issued; `token` is without `ak-`. `abilities` says what it can do.
    KeyCreated { id: String, token: String, abilities: Vec<String>, warning: Option<String> },
    /// The keys.
    Keys { keys: Vec<ListedKey> },
    /// A key was revoked.
    KeyRevoked { id: String },
    /// The progress of the command. Its result follows.
    Progress { bytes: u64, of: u64 },
    /// The command is in progress. Its result follows.
    Working,
    /// The result of the verification.
    AuditVerified {
        records: u64,
        files: u64,
        torn: u64,
        problems: Vec<String>,
        /// The last record that was removed by command, and the number of problems that the removed ones had.
        #[serde(default)]
        pruned: u64,
        #[serde(default)]
        pruned_problems: u64,
        /// The number of records that the checkpoint covers, if it holds.
        #[serde(default)]
        holds: Option<u64>,
    },
    /// The files were removed, up to the one with record `last`; `unshipped` ones stay.
    AuditPruned { files: u64, last: u64, unshipped: bool },
    /// A checkpoint, and the public key that verifies it.
    AuditCheckpoint { note: String, verifier_key: String },
    /// The KEKs.
    Keks { keks: Vec<ListedKek> },
    /// A KEK was added.
    KekAdded { id: String },
    /// A KEK is active. `warning` says why the KEK file does not say so.
    KekActivated { id: String, warning: Option<String> },
    /// All keys that unwrap are under the active KEK.
    KekRewrapped {
        /// The KEK that was added and activated, by a rotation.
        rotated: Option<RotatedKek>,
        active: String,
        rewrapped: u64,
        resealed: u64,
        /// The number of keys that do not unwrap, and the first of them by name.
        failed: u64,
        named: Vec<String>,
    },
    /// A KEK was removed.
    KekRetired { id: String },
    /// The audit log has the record.
    Recorded,
    /// The base URLs of the server, in the order of `listen`.
    Addresses { urls: Vec<String> },
    /// Why the server cannot serve calls, if so.
    State { fault: Option<String> },
    /// The command was refused.
    Refused { message: String, hint: Option<String> },
}

/// A key, as listed.
#[derive(Serialize, Deserialize)]
#[allow(missing_docs, reason = "each field is the column of its name")]
pub struct ListedKey {
    pub id: String,
    pub name: String,
    pub user: String,
    pub scopes: String,
    pub realm: String,
    pub realms: String,
    pub created: String,
    pub expires: String,
    pub state: String,
}

/// A KEK, as listed.
#[derive(Serialize, Deserialize)]
#[allow(missing_docs, reason = "each field is the column of its name")]
pub struct ListedKek {
    pub id: String,
    pub state: String,
    pub created: String,
    pub keys: u64,
    pub unused: String,
    /// The running servers that lack it.
    pub lacking: Vec<String>,
}

/// How a rotation began.
#[derive(Serialize, Deserialize)]
#[allow(missing_docs, reason = "each field says it by its name")]
pub struct RotatedKek {
    pub continued: bool,
    pub warning: Option<String>,
}

/// Has the running server execute a command, or executes it on the instance itself if no server runs. Passes the progress
/// of a long command to `show`.
///
/// # Errors
/// When there is no instance, or it cannot be reached or opened.
pub async fn administer(
    settings: &Settings,
    request: Request,
    show: &mut (dyn FnMut(Progress) + Send),
) -> anyhow::Result<Response> {
    storage::require_directory(settings)?;
    if let Some(response) = send(&settings.data_dir, SOCKET, &request, show).await? {
        return Ok(response);
    }
    storage::require_store(settings)?;
    require_owner(&settings.data_dir)?;
    let instance = Instance::open(settings, MissingStore::Refuse)
        .await
        .map_err(|error| out_of_reach(error, settings))?;
    let audit_dir = settings.data_dir.join(AUDIT);
    let origin = origin(&SystemRng);
    let (sender, mut progress) = watch::channel(Progress::default());
    let response = {
        let mut done = std::pin::pin!(execute(&instance.service, &audit_dir, &origin, request, sender));
        loop {
            tokio::select! {
                response = &mut done => break response,
                Ok(()) = progress.changed() => show(*progress.borrow_and_update()),
            }
        }
    };
    instance.close().await;
    Ok(response)
}

/// Adds what to do about a store that is served by a process without a socket.
fn out_of_reach(error: anyhow::Error, settings: &Settings) -> anyhow::Error {
    match error.downcast_ref::<StoreError>() {
        Some(StoreError::InUse { holder }) => {
            let socket = settings.data_dir.join(SOCKET);
            let what =
                format!("the store is in use by {holder}, and there is no socket {}", socket.display());
            let hint = "if that is a command, try again when it is done; if it is a server, restart it, as its socket was removed";
            Advised::new(what, hint).into()
        }
        _ => error,
    }
}
