//! The operations of the secret service, one file each, and all of its policy.
//!
//! Every transport of `server` ends in one of the seven methods of [`Service`]. Each method follows the same sequence:
//! *authorise → audit → act*. Authentication, scopes, owners, realms, validation and audit are decided in this crate
//! only, so no transport can lack a check.
//!
//! Invariants:
//! * A response leaves after its audit record is written. A write starts after the record of its attempt is written.
//! * A refusal consists of fixed sentences, so it cannot carry content of a request or of the store.
//! * A row is cached sealed, never opened. The cache drops it before a change of it can become visible.
//! * A write runs to completion even if its caller disconnects.
//!
//! Deliberately absent: wire types, SQL, HTTP.

mod audit_records;
mod cache;
mod caller;
mod change;
mod checks;
mod create;
mod delete;
#[cfg(fuzzing)]
pub mod fuzzing;
mod get;
mod kek_changes;
mod kek_facts;
mod kek_record;
mod keks;
mod keys;
mod list;
mod maintenance;
mod page_token;
mod readiness;
mod rewrap;
mod rotate;
mod row_tags;
mod run_to_completion;
mod sweep;
mod sweep_record;
mod unlock;
mod validate;
mod value;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use agentrouter_audit::Audit;
use agentrouter_crypto::InternalKey;
use agentrouter_identity::Issuers;
use agentrouter_keyring::{KekFile, Keyring};
use agentrouter_model::{Clock, Reason, Refusal, Rng};
use agentrouter_store::row_tags::Admission;
use agentrouter_store::{RowTags, Store, StoreError};

pub use agentrouter_audit::Phase;
pub use audit_records::AdminAct;
pub use caller::{CallContext, Caller, Origin};
pub use kek_changes::{Activated, KekError, KekFileFault, KekState, ListedKek};
pub use kek_facts::forged_facts;
pub use keys::{IssueError, NewKey};
pub use readiness::Unready;
pub use rewrap::{RewrapOptions, Rewrapped, Rotated};
pub use row_tags::{KeyManifest, Known, Memory};
pub use run_to_completion::{Panicked, run_to_completion};
pub use sweep::{Sweep, read_sweep};
pub use unlock::{AUDIT, InternalKeys, PAGE_TOKENS, UnlockError, check_keks, needed_kek, unlock, unwrap_key};

use cache::{KeyCache, RowCache};
use kek_changes::KekWatch;
use keks::Keks;
use rewrap::RewrapCounters;

/// The settings of a [`Service`].
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How long a replaced version stays readable if the rotation sets no grace. Default: 24 hours.
    pub grace: Duration,
    /// The most memory for cached rows: the bytes of their sealed form and its overhead. Default: 64 MiB.
    pub cache_bytes: u64,
    /// Most bytes of metadata in a page of a list. Default: 1 MiB.
    pub list_bytes: usize,
    /// Most steps of the store for a page of a list. Default: 10,000.
    pub list_steps: usize,
    /// Versions that the sweep opens in a second; 0 means no sweep. Default: 50.
    pub sweep_rate: u32,
    /// Time from the start of a pass of the sweep to the next. Default: one hour.
    pub sweep_interval: Duration,
    /// Most versions that one validation opens. Default: 256.
    pub validated_versions: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(24 * 60 * 60),
            cache_bytes: 64 * 1024 * 1024,
            list_bytes: 1024 * 1024,
            list_steps: 10_000,
            sweep_rate: 50,
            sweep_interval: Duration::from_secs(60 * 60),
            validated_versions: 256,
        }
    }
}

/// The components of a [`Service`].
pub struct Parts {
    /// Stores rows.
    pub store: Arc<dyn Store>,
    /// The KEKs that it begins with.
    pub keyring: Keyring,
    /// The KEK file, with its root key.
    pub kek_file: KekFile,
    /// Records every request.
    pub audit: Audit,
    /// Authenticates page tokens.
    pub page_tokens: InternalKey,
    /// Authenticates rows of the store.
    pub row_tags: Arc<dyn RowTags>,
    /// The source of time.
    pub clock: Arc<dyn Clock>,
    /// The source of salts, nonces, DEKs and ids.
    pub rng: Arc<dyn Rng>,
    /// The settings.
    pub settings: Settings,
}

/// No audit head has been kept yet. No record has this number.
const UNKNOWN_HEAD: u64 = u64::MAX;

/// The secret service.
pub struct Service {
    store: Arc<dyn Store>,
    keks: Keks,
    kek_watch: KekWatch,
    rewraps: RewrapCounters,
    swept: sweep::SweepState,
    audit: Audit,
    page_tokens: InternalKey,
    row_tags: Arc<dyn RowTags>,
    clock: Arc<dyn Clock>,
    rng: Arc<dyn Rng>,
    settings: Settings,
    rows: RowCache,
    keys: KeyCache,
    issuers: OnceLock<Arc<Issuers>>,
    owed: audit_records::Owed,
    rotated: tokio::sync::Notify,
    /// Another server has changed API keys.
    keys_changed: tokio::sync::Notify,
    unreadable: AtomicU64,
    /// The number of the audit head that is kept, or [`UNKNOWN_HEAD`].
    kept_head: AtomicU64,
    head_failing: Mutex<Option<maintenance::HeadFailure>>,
}

/// Counters of a [`Service`] since its creation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Reads that found their row in the cache.
    pub cache_hits: u64,
    /// Reads that loaded their row from the store.
    pub cache_misses: u64,
    /// Cached rows.
    pub cached_rows: u64,
    /// Weight of the cached rows, in bytes.
    pub cached_bytes: u64,
    /// Stored versions that a read could not parse or open.
    pub unreadable: u64,
    /// Outcome records that are not written yet because the audit log fails.
    pub owed_records: u64,
    /// Whether the KEK file lacks a KEK that the store needs.
    pub lacks_kek: bool,
    /// Whether the KEK file of this running server was changed and cannot be used.
    pub kek_file_unusable: bool,
    /// Whether keys are being rewrapped.
    pub rewrapping: bool,
    /// Keys that were rewrapped.
    pub rewrapped: u64,
    /// Values that were sealed again under a new DEK.
    pub resealed: u64,
    /// Keys that could not be rewrapped, in all runs.
    pub unrewrapped: u64,
    /// Keys that the present run has yet to rewrap.
    pub rewrap_remaining: u64,
}

impl Service {
    /// Creates the service.
    pub fn new(parts: Parts) -> Arc<Self> {
        let gate = parts.store.gate();
        parts.store.attach_tags(Arc::clone(&parts.row_tags));
        Arc::new(Self {
            rows: RowCache::new(parts.settings.cache_bytes, Arc::clone(&gate)),
            keys: KeyCache::new(gate),
            issuers: OnceLock::new(),
            store: parts.store,
            keks: Keks::new(parts.keyring),
            kek_watch: KekWatch::new(parts.kek_file),
            rewraps: RewrapCounters::default(),
            swept: sweep::SweepState::new(parts.clock.now()),
            audit: parts.audit,
            page_tokens: parts.page_tokens,
            row_tags: parts.row_tags,
            clock: parts.clock,
            rng: parts.rng,
            settings: parts.settings,
            owed: audit_records::Owed::default(),
            rotated: tokio::sync::Notify::new(),
            keys_changed: tokio::sync::Notify::new(),
            unreadable: AtomicU64::new(0),
            kept_head: AtomicU64::new(UNKNOWN_HEAD),
            head_failing: Mutex::default(),
        })
    }

    /// Accepts tokens of these issuers beside API keys. Only the first call has an effect. A server calls it.
    pub fn accept_tokens(&self, issuers: Arc<Issuers>) {
        let _ = self.issuers.set(issuers);
    }

    /// The issuers whose tokens are accepted, if there are any.
    pub fn issuers(&self) -> Option<&Arc<Issuers>> {
        self.issuers.get()
    }

    /// Caches rows and keys also if other processes write the store: the store invalidates them (see
    /// `agentrouter_lease`). A server calls this. A command that sends a few requests does not need it.
    pub fn keep_in_memory(self: &Arc<Self>) {
        self.kek_watch.report();
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

    /// The service's clock.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Authenticates the rows of a store whose key manifest does not say that they are: a new store, or that of an older
    /// program. Takes as long as reading and writing all rows takes. Called at the start, and again while the servers of an
    /// older program are replaced.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub async fn authenticate_rows(&self) -> Result<(), StoreError> {
        if !self.note_key_manifest().await? {
            return Ok(());
        }
        // A new store has no rows.
        let had_rows = self.store.has_keys().await? || self.store.has_secrets().await?;
        if self.store.authenticate_rows().await? && had_rows {
            tracing::info!("the rows of the store are authenticated from now on");
        }
        Ok(())
    }

    /// Reads the key manifest, so that this server knows its last generation. Called at the start and every ten seconds,
    /// because other servers on the same database revise the manifest. Returns whether the rows of the store are still to be
    /// authenticated.
    ///
    /// With a manifest that is not authentic the server continues: it logs an error, and every key is refused.
    async fn note_key_manifest(&self) -> Result<bool, StoreError> {
        let manifest = self.store.key_manifest().await?;
        match self.row_tags.note(manifest.as_deref()) {
            Admission::Admitted => return Ok(!self.row_tags.requires_tags()),
            // A write has overtaken this read.
            Admission::Older => {}
            Admission::Refused(why) => {
                tracing::error!(why, "every API key is refused; run 'doctor'");
            }
        }
        Ok(false)
    }

    /// Unwraps the key of the audit log, for a verification.
    ///
    /// # Errors
    /// As [`unlock()`].
    pub async fn audit_key(&self) -> Result<InternalKey, UnlockError> {
        let keyring = self.keyring().ok_or(UnlockError::NoKeks)?;
        let (_, key) = unlock::internal_key(&*self.store, &keyring, &*self.rng, unlock::AUDIT).await?;
        Ok(key)
    }

    /// The current counters.
    pub fn stats(&self) -> Stats {
        let rows = self.rows.stats();
        Stats {
            unreadable: self.unreadable.load(Ordering::Relaxed) + self.store.stats().damaged,
            owed_records: self.owed.len() as u64,
            lacks_kek: self.missing_kek().is_some(),
            kek_file_unusable: self.kek_file_fault().is_some(),
            rewrapping: self.rewraps.running.load(Ordering::Relaxed),
            rewrapped: self.rewraps.rewrapped.load(Ordering::Relaxed),
            resealed: self.rewraps.resealed.load(Ordering::Relaxed),
            unrewrapped: self.rewraps.failed.load(Ordering::Relaxed),
            rewrap_remaining: self.rewraps.remaining.load(Ordering::Relaxed),
            ..rows
        }
    }
}

/// The result of a read that may have to wait for others. It is cancelled when its caller leaves.
pub(crate) async fn read_for_caller<T>(
    read: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, Refusal> {
    match run_to_completion::while_called(read).await {
        Some(read) => read.map_err(|error| store_refusal(&error)),
        None => Err(Reason::DeadlineExceeded.into()),
    }
}

/// The refusal for a fault of the store. The fault itself is logged.
pub(crate) fn store_refusal(error: &StoreError) -> Refusal {
    tracing::error!(error = error as &dyn std::error::Error, "the store failed");
    match error {
        StoreError::Corrupt(_) => Reason::SecretCorrupt.into(),
        StoreError::OutcomeUnknown { .. } => Reason::OutcomeUnknown.into(),
        _ => Reason::StoreUnavailable.into(),
    }
}
