//! The operations of the secret service, one file each, and all of its policy.
//!
//! Whatever transport a call arrives by, it ends in one of the seven methods of [`Service`], and each of them keeps the
//! same rhythm: *authorise → audit → act*. Authentication, scopes, owners, realms, validation and audit are decided
//! here and nowhere else, so no transport can lack a check.
//!
//! Invariants:
//! * nothing is released before its audit record is written, and nothing is changed before its attempt is;
//! * a refusal is built from fixed sentences, so that it cannot carry request or stored content;
//! * a row is cached sealed, never opened, and the cache lets go of it before a change of it can become visible;
//! * a change runs to its end even if its caller goes away.
//!
//! Deliberately absent: wire types, SQL, HTTP.
mod audit_records;
mod cache;
mod caller;
mod checks;
mod create;
mod delete;
mod get;
mod keys;
mod list;
mod maintenance;
mod page_token;
mod rotate;
mod run_to_completion;
mod unlock;
mod validate;
mod value;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use agentrouter_audit::Audit;
use agentrouter_crypto::InternalKey;
use agentrouter_keyring::Keyring;
use agentrouter_model::{Clock, Reason, Refusal, Rng};
use agentrouter_store::{Store, StoreError};

pub use agentrouter_audit::Phase;
pub use audit_records::AdminAct;
pub use caller::{CallContext, Caller, Origin};
pub use keys::{IssueError, NewKey};
pub use run_to_completion::{Panicked, run_to_completion};
pub use unlock::{AUDIT, InternalKeys, PAGE_TOKENS, UnlockError, check_keks, needed_kek, unlock, unwrap_key};

use cache::{KeyCache, RowCache};

/// What an operator may set.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How long a replaced version stays readable when a rotation does not say. Default: 24 hours.
    pub grace: Duration,
    /// Most memory for cached rows, in bytes of their sealed form with its overhead. Default: 64 MiB.
    pub cache_bytes: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { grace: Duration::from_secs(24 * 60 * 60), cache_bytes: 64 * 1024 * 1024 }
    }
}

/// What a [`Service`] is made of.
pub struct Parts {
    /// Where rows are kept.
    pub store: Arc<dyn Store>,
    /// Where KEKs are kept.
    pub keyring: Keyring,
    /// Where every call is recorded.
    pub audit: Audit,
    /// Authenticates page tokens.
    pub page_tokens: InternalKey,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Where salts, nonces, DEKs and ids come from.
    pub rng: Arc<dyn Rng>,
    /// What an operator may set.
    pub settings: Settings,
}

/// The secret service.
pub struct Service {
    store: Arc<dyn Store>,
    keyring: Keyring,
    audit: Audit,
    page_tokens: InternalKey,
    clock: Arc<dyn Clock>,
    rng: Arc<dyn Rng>,
    settings: Settings,
    rows: RowCache,
    keys: KeyCache,
    owed: audit_records::Owed,
    rotated: tokio::sync::Notify,
    unreadable: AtomicU64,
    /// The number of the audit record that the store keeps as the head.
    kept_head: AtomicU64,
}

/// Counters of a [`Service`], since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Reads that found their row in memory.
    pub cache_hits: u64,
    /// Reads that went to the store.
    pub cache_misses: u64,
    /// Rows in memory.
    pub cached_rows: u64,
    /// Weight of the rows in memory, in bytes.
    pub cached_bytes: u64,
    /// Versions that did not open, or did not even parse, when they were read.
    pub unreadable: u64,
    /// Outcome records that wait for the audit log to work again.
    pub owed_records: u64,
}

impl Service {
    /// Puts the parts together.
    pub fn new(parts: Parts) -> Arc<Self> {
        let gate = parts.store.gate();
        Arc::new(Self {
            rows: RowCache::new(parts.settings.cache_bytes, Arc::clone(&gate)),
            keys: KeyCache::new(gate),
            store: parts.store,
            keyring: parts.keyring,
            audit: parts.audit,
            page_tokens: parts.page_tokens,
            clock: parts.clock,
            rng: parts.rng,
            settings: parts.settings,
            owed: audit_records::Owed::default(),
            rotated: tokio::sync::Notify::new(),
            unreadable: AtomicU64::new(0),
            kept_head: AtomicU64::new(0),
        })
    }

    /// From here on rows and keys are kept in memory also where other processes write the store, which tells this one
    /// what they change. For a server; a command that asks a few things once does without.
    pub fn keep_in_memory(self: &Arc<Self>) {
        let caches: Weak<Self> = Arc::downgrade(self);
        self.store.attach(caches);
    }

    /// The audit log, for readiness and metrics.
    pub fn audit(&self) -> &Audit {
        &self.audit
    }

    /// The store, for readiness and metrics.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The clock that the service goes by.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// The audit log's key, unwrapped anew, for a verification.
    ///
    /// # Errors
    /// As [`unlock`].
    pub async fn audit_key(&self) -> Result<InternalKey, UnlockError> {
        unlock::internal_key(&*self.store, &self.keyring, &*self.rng, unlock::AUDIT).await
    }

    /// The counters at this moment.
    pub fn stats(&self) -> Stats {
        let rows = self.rows.stats();
        Stats {
            unreadable: self.unreadable.load(Ordering::Relaxed) + self.store.stats().damaged,
            owed_records: self.owed.len() as u64,
            ..rows
        }
    }
}

/// What a caller is told of a fault in the store. The fault itself goes to the log.
pub(crate) fn store_refusal(error: &StoreError) -> Refusal {
    tracing::error!(error = error as &dyn std::error::Error, "the store failed");
    match error {
        StoreError::Corrupt(_) => Reason::SecretCorrupt.into(),
        StoreError::OutcomeUnknown { .. } => Reason::OutcomeUnknown.into(),
        _ => Reason::StoreUnavailable.into(),
    }
}
