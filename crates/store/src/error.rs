//! Errors of a store, and of a write.

use std::error::Error;
use std::sync::Arc;

/// The error of an engine's library. Shared, because one failed commit fails every write that was in it.
pub type Cause = Arc<dyn Error + Send + Sync>;

/// The store failed. No message carries stored or requested content.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The store cannot do this now: disk full, disk failed, stopped, out of reach. Nothing happened.
    #[error("the store is unavailable: {reason}")]
    Unavailable {
        /// Why, in a few fixed words.
        reason: &'static str,
        /// The error of the engine's library, if there was one.
        source: Option<Cause>,
    },
    /// The store failed while a write was being made durable. The write may or may not have happened. With SQLite, the
    /// outcome is known after a restart, and until then the write is not visible. With PostgreSQL, a read of the secret
    /// shows the outcome.
    #[error("the store failed while it wrote; whether the write happened is not known")]
    OutcomeUnknown {
        /// The error of the engine's library.
        source: Option<Cause>,
    },
    /// Stored bytes are not what this program writes. They are refused, never interpreted.
    #[error("the store is damaged: {0}")]
    Corrupt(&'static str),
    /// An entry of that name exists and differs.
    #[error("the store already has {0} of that name")]
    Exists(&'static str),
    /// The key manifest is missing, not authentic, or older than one that was seen before: why, in a few fixed words. No key
    /// is issued on top of it.
    #[error("{0}")]
    KeyManifest(&'static str),
    /// A newer program wrote this store. Nothing was changed.
    #[error("the store has schema {found}, and this program knows schemas up to {supported}")]
    SchemaTooNew {
        /// The schema's number in the store.
        found: i32,
        /// The highest number that this program knows.
        supported: i32,
    },
    /// An older program wrote this store. Only a server migrates it.
    #[error("the store has schema {found} of an older version of this program, which needs schema {needed}")]
    SchemaTooOld {
        /// The schema's number in the store.
        found: i32,
        /// The number that this program needs.
        needed: i32,
    },
    /// Another process serves this store.
    #[error("the store is in use by {holder}")]
    InUse {
        /// The holder, such as `process 4711, since 2026-01-01T00:00:00Z`.
        holder: String,
    },
    /// The store is not empty, and an import needs an empty one.
    #[error("the store is not empty")]
    NotEmpty,
    /// An import into the store is not finished.
    #[error("an import into the store is not finished")]
    Unfinished,
    /// The store cannot be used as its settings or its database are.
    #[error("the store cannot be opened: {reason}")]
    Misconfigured {
        /// Why, in a few fixed words.
        reason: &'static str,
        /// What to do.
        hint: &'static str,
    },
    /// The store could not be opened.
    #[error("the store cannot be opened: {reason}")]
    Open {
        /// Why, in a few fixed words.
        reason: &'static str,
        /// The error of the system or of the engine's library, if there was one.
        source: Option<Cause>,
    },
}

impl StoreError {
    /// [`StoreError::Corrupt`] for a secret whose active version is missing.
    pub const NO_ACTIVE: Self = Self::Corrupt("a secret without its active version");

    /// What to do, if the error alone tells that.
    pub const fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::KeyManifest(_) => "run 'doctor' to examine the store",
            Self::SchemaTooNew { .. } => "use the newer program",
            Self::SchemaTooOld { .. } => "start the server once to migrate the store",
            Self::InUse { .. } => "stop that process first",
            Self::NotEmpty => "use an empty one",
            Self::Unfinished => "run the same 'restore' or 'migrate' again, or use an empty store",
            Self::Misconfigured { hint, .. } => hint,
            Self::Unavailable { .. }
            | Self::OutcomeUnknown { .. }
            | Self::Corrupt(_)
            | Self::Exists(_)
            | Self::Open { .. } => return None,
        })
    }

    /// Why a store that was opened does not work now, in a few fixed words without a quotation mark or a backslash.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Unavailable { reason, .. } | Self::Open { reason, .. } => reason,
            Self::OutcomeUnknown { .. } => "a write failed while it was made durable",
            Self::Corrupt(_) => "the store is damaged",
            _ => "the store cannot be used",
        }
    }

    /// [`StoreError::Unavailable`] for a reason that no library gave.
    pub const fn unavailable(reason: &'static str) -> Self {
        Self::Unavailable { reason, source: None }
    }

    /// [`StoreError::Open`] with the error of the system.
    pub fn open(reason: &'static str, source: impl Error + Send + Sync + 'static) -> Self {
        Self::Open { reason, source: Some(Arc::new(source)) }
    }
}

/// A value could not be sealed. The sealer has logged why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a value could not be sealed")]
pub struct SealError;

/// A secret was not written. Nothing happened, except for [`StoreError::OutcomeUnknown`].
#[derive(Clone, Debug, thiserror::Error)]
pub enum WriteError {
    /// There is no such secret yet, and a new one needs a value.
    #[error("a new secret needs a value")]
    ValueNeeded,
    /// There is no such secret.
    #[error("there is no such secret")]
    NotFound,
    /// The active version is not the expected one.
    #[error("the active version is not the expected one")]
    VersionMismatch,
    /// The secret has had 2³¹ − 1 versions; delete the secret and create it again.
    #[error("the secret has no version numbers left")]
    VersionsExhausted,
    /// The value could not be sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
