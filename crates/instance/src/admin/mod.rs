//! The server's own command line, beside a running server or without one.
//!
//! A command is a [`Request`]. Beside a running server it goes over a Unix socket in the data directory, so that there
//! is one writer, one cache and one audit chain; without one the command opens the house itself. Either way it ends in
//! [`execute()`], and is audited like a call.
//!
//! The protocol is one line of JSON each way. Who may speak it is a matter of the file system: the socket is 0600 in a
//! directory that is 0700, and the peer has to be the server's user or root.

mod client;
mod execute;
mod socket;

use serde::{Deserialize, Serialize};

pub use client::send;
pub use execute::{execute, problems};
pub use socket::{AdminSocket, origin, request_id};

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
    AuditVerify,
    /// Put on record that a backup is about to be made, by the process that asks.
    BackupBegin,
    /// Put on record how it ended.
    BackupEnd { ok: bool },
}

/// The answer to a command.
#[derive(Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
#[allow(missing_docs, reason = "each field is the flag or column of its name")]
pub enum Answer {
    /// A key was issued; `token` is without `ak-`.
    KeyCreated { id: String, token: String },
    /// The keys.
    Keys { keys: Vec<Key> },
    /// A key was revoked.
    KeyRevoked { id: String },
    /// What the verification found.
    AuditVerified { records: u64, files: u64, torn: u64, problems: Vec<String> },
    /// It is on record.
    Recorded,
    /// The command was refused.
    Refused { message: String, hint: Option<String> },
}

/// A key, as listed.
#[derive(Serialize, Deserialize)]
#[allow(missing_docs, reason = "each field is the column of its name")]
pub struct Key {
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
