//! Where secrets are kept.
//!
//! [`Store`] is all that the service knows of storage: rows by place, versions, pages, API keys and a few small facts,
//! each call one transaction. Values come and go sealed; this crate holds no key and opens nothing. Policy (who may,
//! what a name may be, how long grace is) lives above, and everything passed in is already parsed.
//!
//! What every engine promises:
//!
//! 1. A write that returned `Ok` is durable and seen by every read that begins afterwards. A write that returned `Err`
//!    had no effect, except for [`StoreError::OutcomeUnknown`].
//! 2. One secret per place, one active version per secret, and no version number twice under one secret id.
//! 3. What is read back parses, or is [`StoreError::Corrupt`].
//!
//! Deliberately absent: plaintext, clocks (the present is an argument), scans of the whole store, queries without an
//! owner and a realm, and anything particular to one engine.

#[cfg(feature = "conformance")]
pub mod conformance;
mod error;
pub mod files;
pub mod json;
mod lock;
pub mod portable;
mod types;

use std::sync::{Arc, Weak};

use agentrouter_lease::{Caches, Gate, LeaseStats};
use agentrouter_model::{ApiKeyId, ApiKeyRecord, KekId, Place, Secret, Timestamp, Version};
use async_trait::async_trait;

use portable::{Export, Import, Item};

pub use error::{Cause, SealError, StoreError, WriteError};
pub use lock::Lock;
pub use types::{
    Examined, ExaminedKey, Inspection, ListQuery, ListScope, Realms, Rotation, Sealer, Stats, StatusFilter,
    Stored, Upsert,
};

/// A store of secrets, held as `Arc<dyn Store>`.
///
/// Dropping the future of a write does not undo the write: it runs to its end once it is handed over.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The active version of the secret at `place`.
    ///
    /// # Errors
    /// When the store cannot be read, or the row does not parse.
    async fn active(&self, place: &Place) -> Result<Option<Stored>, StoreError>;

    /// One version of the secret at `place`, whatever its status.
    ///
    /// # Errors
    /// As [`Store::active`].
    async fn version(&self, place: &Place, version: Version) -> Result<Option<Stored>, StoreError>;

    /// The versions that can be opened at `now`, by number: pending ones first, the active one last. Read from the
    /// storage itself, past any cache of the engine. Empty when there is no such secret.
    ///
    /// # Errors
    /// As [`Store::active`].
    async fn readable(&self, place: &Place, now: Timestamp) -> Result<Vec<Stored>, StoreError>;

    /// As [`Store::readable`], but with a version that does not parse named in its place, not in the way of the others.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn examine(&self, place: &Place, now: Timestamp) -> Result<Vec<Examined>, StoreError> {
        match self.readable(place, now).await {
            Ok(versions) => {
                Ok(versions.into_iter().map(|stored| Examined::Whole(Box::new(stored))).collect())
            }
            Err(StoreError::Corrupt(_)) => Ok(vec![Examined::Damaged(None)]),
            Err(error) => Err(error),
        }
    }

    /// A page of metadata. Nothing that stays is missed or shown twice by a walk over pages while others write; a
    /// secret rotated meanwhile is not shown again in a list of active versions. A row that does not parse is left out
    /// and counted in [`Stats::damaged`].
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn list(&self, query: &ListQuery) -> Result<Vec<Secret>, StoreError>;

    /// Makes the secret, or changes it where there is one. A new value becomes the next version and active; the version
    /// it replaces is retired at once and its ciphertext destroyed; pending versions stay. What is equal already
    /// is no change, and a change of nothing leaves `updated_at` as it is. Returns the active version afterwards.
    ///
    /// # Errors
    /// [`WriteError`], but not `NotFound`. A wrong `expected_version` is found before a missing value.
    async fn upsert(&self, change: Upsert) -> Result<Secret, WriteError>;

    /// Makes the new value the active version and the present one pending until `expires_at`. Returns the new active
    /// version.
    ///
    /// # Errors
    /// [`WriteError`], but not `ValueNeeded`.
    async fn rotate(&self, change: Rotation) -> Result<Secret, WriteError>;

    /// Removes the secret with all its versions; returns its active version as it was, or none if there was no such
    /// secret. The place can be used again at once.
    ///
    /// # Errors
    /// Only [`WriteError::Store`].
    async fn delete(&self, place: &Place) -> Result<Option<Secret>, WriteError>;

    /// Removes the secret as [`Store::delete`] does, without reading it: for one whose row does not parse. Says whether
    /// there was one.
    ///
    /// # Errors
    /// Only [`WriteError::Store`].
    async fn purge(&self, place: &Place) -> Result<bool, WriteError> {
        self.delete(place).await.map(|deleted| deleted.is_some())
    }

    /// Retires pending versions whose grace was over by `now` and destroys their ciphertext: `limit` of them at most,
    /// the longest due first. Returns when the next one is due, which is not after `now` if some were left over; none
    /// if no version is pending.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    async fn retire_expired(&self, now: Timestamp, limit: u32) -> Result<Option<Timestamp>, StoreError>;

    /// Keeps a new API key.
    ///
    /// # Errors
    /// [`StoreError::Exists`] for an id that is taken, else as any write.
    async fn insert_key(&self, record: &ApiKeyRecord) -> Result<(), StoreError>;

    /// Keeps a new API key if there is none at all yet, revoked ones included; says whether it was kept. Of several
    /// callers at once, in however many processes, one succeeds.
    ///
    /// # Errors
    /// As any write.
    async fn insert_first_key(&self, record: &ApiKeyRecord) -> Result<bool, StoreError>;

    /// The API key of that id.
    ///
    /// # Errors
    /// As [`Store::active`]; a key with an unknown scope or a broken realm is refused whole.
    async fn key(&self, id: &ApiKeyId) -> Result<Option<ApiKeyRecord>, StoreError>;

    /// Every API key, the oldest first, revoked and expired ones too.
    ///
    /// # Errors
    /// As [`Store::key`]; one broken key fails the list.
    async fn keys(&self) -> Result<Vec<ApiKeyRecord>, StoreError>;

    /// As [`Store::keys`], but with a key that does not parse named in its place, after the others.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn examine_keys(&self) -> Result<Vec<ExaminedKey>, StoreError> {
        Ok(self.keys().await?.into_iter().map(ExaminedKey::Whole).collect())
    }

    /// Whether there is any API key, revoked and broken ones included.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn has_keys(&self) -> Result<bool, StoreError> {
        Ok(!self.examine_keys().await?.is_empty())
    }

    /// Revokes the API key of that id without reading it: for one whose row does not parse. Says whether there is one.
    ///
    /// # Errors
    /// As any write.
    async fn revoke_unread(&self, id: &ApiKeyId, now: Timestamp) -> Result<bool, StoreError> {
        self.revoke_key(id, now).await.map(|revoked| revoked.is_some())
    }

    /// Revokes an API key and returns it; a key revoked before stays revoked since then. None if there is no such key.
    ///
    /// # Errors
    /// As any write.
    async fn revoke_key(&self, id: &ApiKeyId, now: Timestamp) -> Result<Option<ApiKeyRecord>, StoreError>;

    /// The check value of every KEK that ever wrapped anything here, by id.
    ///
    /// # Errors
    /// As [`Store::active`].
    async fn kek_checks(&self) -> Result<Vec<(KekId, [u8; 32])>, StoreError>;

    /// Keeps the check value of a KEK. The same one again is no error.
    ///
    /// # Errors
    /// [`StoreError::Exists`] when the id has another check value, else as any write.
    async fn insert_kek_check(&self, id: &KekId, check: &[u8; 32]) -> Result<(), StoreError>;

    /// The service's own key for `purpose`, wrapped, and the KEK that wraps it.
    ///
    /// # Errors
    /// As [`Store::active`].
    async fn internal_key(&self, purpose: &str) -> Result<Option<(KekId, Box<[u8]>)>, StoreError>;

    /// Keeps a wrapped key for `purpose` unless there is one; returns the one that is there afterwards.
    ///
    /// # Errors
    /// As any write.
    async fn insert_internal_key(
        &self,
        purpose: &str,
        kek: &KekId,
        wrapped: &[u8],
    ) -> Result<(KekId, Box<[u8]>), StoreError>;

    /// The last record of the audit log that was kept here: its number and its MAC.
    ///
    /// # Errors
    /// As [`Store::active`].
    async fn audit_head(&self) -> Result<Option<(u64, [u8; 32])>, StoreError>;

    /// Keeps the last record of the audit log, in place of the one before.
    ///
    /// # Errors
    /// As any write.
    async fn set_audit_head(&self, head: (u64, [u8; 32])) -> Result<(), StoreError>;

    /// Begins to take the whole of the store out, as it is at this moment.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn export(&self) -> Result<Box<dyn Export>, StoreError> {
        Err(StoreError::unavailable("it cannot be taken out of this engine"))
    }

    /// The import that was begun here and not finished; such a store must not be served.
    ///
    /// # Errors
    /// As [`Store::active`].
    async fn unfinished_import(&self) -> Result<Option<Import>, StoreError> {
        Ok(None)
    }

    /// Begins to fill an empty store from `source` (a line of text that names it), and marks it as unfinished; or goes on
    /// where an import from the same source ended. Returns how many items are there.
    ///
    /// # Errors
    /// [`StoreError::NotEmpty`]; [`StoreError::Unfinished`] when it holds a part of another source; else as any write.
    async fn begin_import(&self, source: &str) -> Result<u64, StoreError> {
        let _ = source;
        Err(StoreError::unavailable("nothing can be put into this engine"))
    }

    /// Puts items into the store, all or none of them. `from` is how many there were before.
    ///
    /// # Errors
    /// [`StoreError::Unfinished`] when there are more or fewer, or no import was begun; else as any write.
    async fn import(&self, from: u64, items: Vec<Item>) -> Result<(), StoreError> {
        let _ = (from, items);
        Err(StoreError::unavailable("nothing can be put into this engine"))
    }

    /// Ends an import: the store is whole. A restore gives it a new `epoch`, which replicas compare with the one they
    /// started with.
    ///
    /// # Errors
    /// As any write.
    async fn finish_import(&self, epoch: Option<&str>) -> Result<(), StoreError> {
        let _ = epoch;
        Err(StoreError::unavailable("nothing can be put into this engine"))
    }

    /// The epoch of the store: another one after each restore; none if it never was.
    ///
    /// # Errors
    /// As [`Store::active`].
    async fn epoch(&self) -> Result<Option<String>, StoreError> {
        Ok(None)
    }

    /// The other processes that serve this store right now, by a name for people each. Watches for signs of life for two
    /// seconds. None where a lock keeps others out.
    ///
    /// # Errors
    /// As [`Store::active`].
    async fn servers(&self) -> Result<Vec<String>, StoreError> {
        Ok(Vec::new())
    }

    /// Whether the store can be written right now, found out by writing; the finding may be a second old. Waits as long
    /// as a write would: the caller sets its own limit. An engine that many servers share forgives failures of a few
    /// seconds, so that a blip does not take all of them out of service at once.
    ///
    /// # Errors
    /// What a write would get.
    async fn check(&self) -> Result<(), StoreError>;

    /// What to look at before a row is answered from memory. Always open where no other process writes the store.
    fn gate(&self) -> Arc<Gate> {
        Arc::new(Gate::always())
    }

    /// From here on `caches` may keep rows, as far as the gate admits, and is told of changes that others make. For
    /// servers; until then nothing is kept. Does nothing where no other process writes the store.
    fn attach(&self, caches: Weak<dyn Caches>) {
        drop(caches);
    }

    /// Counters for metrics.
    fn stats(&self) -> Stats;

    /// The lease by which rows are answered from memory; none where no other process writes the store.
    fn lease(&self) -> Option<LeaseStats> {
        None
    }

    /// Ends the store's work: what was handed over is written, and everything is refused from here on. A second call
    /// does nothing.
    async fn close(&self);
}
