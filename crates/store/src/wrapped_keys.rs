//! Wrapped keys: which KEK wraps how many, pages of them, and their replacement when the KEK changes.
//!
//! A *wrapped key* is the wrapped DEK of a version that has a value, or one of the service's own keys. A replacement
//! compares the wrapping that was read with the stored one and swaps them only if they are equal. So a change of the row
//! by another writer is never undone.

use std::time::Duration;

use agentrouter_model::{KekId, Place, SecretId, Version};
use async_trait::async_trait;

use crate::{StoreError, WrappedKey};

/// A position in the order of the stored wrapped DEKs. The default is before the first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DekCursor {
    /// The secret's id, where the engine orders by it.
    pub secret: String,
    /// The number of the row, or of the version of that secret.
    pub number: i64,
}

/// A page of wrapped DEKs.
#[derive(Clone, Debug)]
pub struct DekQuery {
    /// Only those that are not under this KEK. `None` for all.
    pub not_under: Option<KekId>,
    /// The end of the previous page.
    pub after: DekCursor,
    /// Most rows that are read.
    pub limit: u32,
    /// Whether the sealed values are read, too.
    pub with_values: bool,
}

/// A wrapped DEK as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredDek {
    /// The place of its secret.
    pub place: Place,
    /// The secret's id.
    pub id: SecretId,
    /// The version that it seals.
    pub version: Version,
    /// The KEK that wraps it.
    pub kek_id: KekId,
    /// The DEK, wrapped.
    pub wrapped: Box<[u8]>,
    /// The sealed value, if [`DekQuery::with_values`] asks for it.
    pub sealed: Option<Box<[u8]>>,
    /// The number of its row, where the engine has one.
    pub row: i64,
}

/// The rows of a page.
#[derive(Clone, Debug, Default)]
pub struct DekPage {
    /// The wrapped DEKs.
    pub deks: Vec<StoredDek>,
    /// Rows that do not parse.
    pub damaged: u64,
    /// Where the next page begins. `None` at the end.
    pub next: Option<DekCursor>,
}

/// The replacement of a wrapped DEK.
#[derive(Clone, Debug)]
pub struct DekSwap {
    /// The wrapped DEK that was read.
    pub from: StoredDek,
    /// The KEK that wraps its replacement.
    pub kek_id: KekId,
    /// The replacement.
    pub wrapped: Box<[u8]>,
    /// The value sealed again under another DEK, if that is replaced, too.
    pub sealed: Option<Box<[u8]>>,
}

/// A running server of a store, and the KEKs that it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KekHolder {
    /// The server's id, for people.
    pub server: String,
    /// What it reported. `None` if it reported nothing: it has just started, or its program is an older one.
    pub report: Option<KekReport>,
}

/// The KEKs that a server holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KekReport {
    /// All KEKs.
    pub keks: Vec<KekId>,
    /// The one with which it wraps.
    pub active: KekId,
    /// The time since that last changed.
    pub age: Duration,
}

/// A lock that excludes other changes of KEKs until it is dropped.
pub type KekLock = Box<dyn Send + Sync>;

/// Reads and writes of wrapped keys, and of what the service remembers of its KEKs.
#[async_trait]
pub trait WrappedKeys: Send + Sync {
    /// The KEKs that wrap keys, each with the number of those keys.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn kek_use(&self) -> Result<Vec<(KekId, u64)>, StoreError>;

    /// A page of wrapped DEKs. A walk over the pages shows every row that is there throughout.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn wrapped_deks(&self, query: &DekQuery) -> Result<DekPage, StoreError>;

    /// Replaces wrapped DEKs, all in one transaction. One that is no longer stored as it was read is left as it is.
    /// Returns how many were replaced. `cursor` is stored in the same transaction as the fact [`RESEALED`].
    ///
    /// # Errors
    /// As any write.
    async fn swap_deks(&self, swaps: Vec<DekSwap>, cursor: Option<String>) -> Result<u64, StoreError>;

    /// The service's own keys, each with its purpose.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn internal_keys(&self) -> Result<Vec<(String, WrappedKey)>, StoreError>;

    /// Replaces the service's own key for `purpose`, if it is stored as `from`. Returns whether it was.
    ///
    /// # Errors
    /// As any write.
    async fn swap_internal_key(
        &self,
        purpose: &str,
        from: &WrappedKey,
        to: &WrappedKey,
    ) -> Result<bool, StoreError>;

    /// A fact of the service about its KEKs: [`KEKS`], [`RESEALED`] or [`SWEEP`].
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn kek_fact(&self, name: &'static str) -> Result<Option<String>, StoreError>;

    /// Stores such a fact, or removes it.
    ///
    /// # Errors
    /// As any write.
    async fn set_kek_fact(&self, name: &'static str, value: Option<&str>) -> Result<(), StoreError>;

    /// Removes the check value of a KEK and stores the fact [`KEKS`], if the KEK wraps no key. Returns whether it wraps
    /// none.
    ///
    /// # Errors
    /// As any write.
    async fn retire_kek(&self, id: &KekId, fact: &str) -> Result<bool, StoreError>;

    /// Excludes other changes of KEKs by any process. `None` if one is in progress.
    ///
    /// # Errors
    /// When the store cannot be reached.
    async fn lock_keks(&self) -> Result<Option<KekLock>, StoreError>;

    /// Excludes other servers from the sweep until it is dropped. `None` if one sweeps. Where no other process writes the
    /// store, it excludes none.
    ///
    /// # Errors
    /// When the store cannot be reached.
    async fn lock_sweep(&self) -> Result<Option<KekLock>, StoreError> {
        Ok(Some(Box::new(())))
    }

    /// The servers that are registered, with the KEKs that they hold. Empty where no other process writes the store.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn kek_holders(&self) -> Result<Vec<KekHolder>, StoreError> {
        Ok(Vec::new())
    }

    /// Reports the KEKs that this server holds.
    ///
    /// # Errors
    /// As any write.
    async fn report_keks(&self, keks: &[KekId], active: &KekId) -> Result<(), StoreError> {
        let _ = (keks, active);
        Ok(())
    }

    /// Makes every other server drop its cached rows and look at the KEKs again.
    ///
    /// # Errors
    /// When the other servers cannot be reached.
    async fn announce_keks(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// How long after a server has taken a new active KEK a write under the former one may still be committed.
    fn longest_write(&self) -> Duration {
        Duration::ZERO
    }
}

/// The name of the fact that says when a KEK was last used, and which KEKs are retired.
pub const KEKS: &str = "keks";
/// The name of the fact that says how far an unfinished resealing is.
pub const RESEALED: &str = "resealed";
/// The name of the fact that says what the sweep found, and how far it is.
pub const SWEEP: &str = "sweep";
