//! Errors, and the state of the log.

use std::io;

/// Why an operation of the log failed. No message contains anything of a record, or a path.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The log cannot be written now. It tries to recover by itself.
    #[error("the audit log cannot be written: {0}")]
    Unavailable(&'static str),
    /// The record was not written within 2 s.
    #[error("the audit log did not take the record within 2 seconds")]
    TimedOut,
    /// The queue is full.
    #[error("the audit log's queue is full")]
    QueueFull,
    /// The log is closed, or its writer ended by a panic.
    #[error("the audit log is closed")]
    Closed,
    /// The directory or the file in it cannot be opened or created.
    #[error("the audit log cannot be opened")]
    Open(#[source] io::Error),
    /// Another process writes to this log.
    #[error("another process writes to this audit log")]
    InUse,
    /// The key pair of the checkpoints cannot be derived: the cryptographic library failed.
    #[error("the key of the audit log's checkpoints cannot be derived")]
    Key,
    /// The given checkpoint is not one of this log.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A file of the log cannot be read.
    #[error("the audit log cannot be read")]
    Read(#[source] io::Error),
}

/// Why a text is not a checkpoint of this log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// It does not have the form of a checkpoint.
    #[error("this is not a checkpoint: it must be a signed note as c2sp.org/tlog-checkpoint defines it")]
    Malformed,
    /// Its origin is another log.
    #[error(
        "this checkpoint is of another audit log; use one of this log, which names this origin in its first line"
    )]
    OtherLog,
    /// The signature is missing or wrong.
    #[error("this checkpoint was not signed by this audit log, or was changed since")]
    NotSigned,
}

/// Whether records can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Records can be written.
    Ok,
    /// Records cannot be written, for this reason. Appends fail at once. The log tries to recover about twice a second.
    Unavailable(&'static str),
}

/// Why the writer cannot write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Fault {
    None = 0,
    Lost,
    NoSpace,
    Denied,
    ReadOnly,
    Write,
    Sync,
    InUse,
    Stopped,
}

impl Fault {
    const ALL: [Self; 9] = [
        Self::None,
        Self::Lost,
        Self::NoSpace,
        Self::Denied,
        Self::ReadOnly,
        Self::Write,
        Self::Sync,
        Self::InUse,
        Self::Stopped,
    ];

    pub(crate) fn from_code(code: u8) -> Self {
        Self::ALL.get(usize::from(code)).copied().unwrap_or(Self::Stopped)
    }

    pub(crate) const fn reason(self) -> &'static str {
        match self {
            Self::None => "ok",
            Self::Lost => "file removed or replaced",
            Self::NoSpace => "no space left",
            Self::Denied => "permission denied",
            Self::ReadOnly => "read-only file system",
            Self::Write => "write failed",
            Self::Sync => "fsync failed",
            Self::InUse => "in use by another process",
            Self::Stopped => "writer stopped",
        }
    }
}

impl From<&io::Error> for Fault {
    fn from(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace,
            io::ErrorKind::PermissionDenied => Self::Denied,
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly,
            io::ErrorKind::ResourceBusy => Self::InUse,
            _ => Self::Write,
        }
    }
}
