//! What can go wrong with a store, and with a write to one.

use std::error::Error;
use std::sync::Arc;

/// What an engine's own library said. Shared, because one failed commit fails every write that was in it.
pub type Cause = Arc<dyn Error + Send + Sync>;

/// The store failed. No message carries stored or requested content.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The store cannot do this now: disk full, disk failed, stopped, out of reach. Nothing happened.
    #[error("the store is unavailable: {reason}")]
    Unavailable {
        /// Why, in a few fixed words.
        reason: &'static str,
        /// What the engine's library said, if it was asked.
        source: Option<Cause>,
    },
    /// The store failed while a write was being made durable, and it may or may not have happened. With the embedded
    /// engine that shows after a restart, and until then the write is not visible; with a database server it shows when
    /// the secret is read.
    #[error("the store failed while it wrote; whether the write happened is not known")]
    OutcomeUnknown {
        /// What the engine's library said.
        source: Option<Cause>,
    },
    /// Stored bytes are not what this program writes. They are refused, never guessed at.
    #[error("the store is damaged: {0}")]
    Corrupt(&'static str),
    /// There is already one of that name, and it is another.
    #[error("the store already has {0} of that name")]
    Exists(&'static str),
    /// A newer program wrote this store; nothing was touched.
    #[error(
        "the store has schema {found}, and this program knows schemas up to {supported}; use the newer program"
    )]
    SchemaTooNew {
        /// The schema's number in the store.
        found: i32,
        /// The highest number that this program knows.
        supported: i32,
    },
    /// Another process serves this store.
    #[error("the store is in use by {holder}; stop that process first")]
    InUse {
        /// Who holds it, such as `process 4711, since 2026-01-01T00:00:00Z`.
        holder: String,
    },
    /// There is something in the store, and what was to be put into it needs an empty one.
    #[error("the store is not empty; what is put into it whole needs an empty one")]
    NotEmpty,
    /// The store was being filled from a backup or from another store, and that was not finished.
    #[error(
        "the store was being filled and that was not finished; run the same 'restore' or 'migrate' again, or begin with an empty store"
    )]
    Unfinished,
    /// The store could not be opened.
    #[error("the store cannot be opened: {reason}")]
    Open {
        /// Why, in a few fixed words.
        reason: &'static str,
        /// What the system or the engine's library said, if it was asked.
        source: Option<Cause>,
    },
}

impl StoreError {
    /// [`StoreError::Corrupt`] for a secret whose active version is missing.
    pub const NO_ACTIVE: Self = Self::Corrupt("a secret without its active version");

    /// [`StoreError::Unavailable`] for a reason of our own.
    pub const fn unavailable(reason: &'static str) -> Self {
        Self::Unavailable { reason, source: None }
    }

    /// [`StoreError::Open`] with what the system said.
    pub fn open(reason: &'static str, source: impl Error + Send + Sync + 'static) -> Self {
        Self::Open { reason, source: Some(Arc::new(source)) }
    }
}

/// A value could not be sealed. The sealer has logged why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a value could not be sealed")]
pub struct SealError;

/// A secret was not written. Nothing happened, but for [`StoreError::OutcomeUnknown`].
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
    /// The secret has had 2³¹ − 1 versions; delete it and make it anew.
    #[error("the secret has no version numbers left")]
    VersionsExhausted,
    /// The value could not be sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
