//! Rows and API keys in memory.
//!
//! A row is cached as it lies in the store: sealed. Freshness rests on two facts:
//!
//! 1. A write *fences* its place before it goes to the store and until it is done. Fencing removes the row, and while
//!    a place is fenced nothing is cached for it: readers go to the store, so they see the change from its commit on.
//! 2. A row is put into the cache through the placeholder that its reader took before it read. A fence that comes in
//!    between removes the placeholder, and the late row is not cached (`quick_cache` refuses it).
//!
//! So no read that begins after a write was acknowledged sees what was before it, and no reader sees the new state
//! while another still gets the old one from memory.
//!
//! No lock is held across an await; a fence is a count in a small map that only misses and writes look at.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use agentrouter_model::{ApiKeyId, ApiKeyRecord, Envelope, Place, Secret};
use agentrouter_store::{StoreError, Stored};
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::Stats;

/// The active version of a secret, as cached.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) secret: Arc<Secret>,
    pub(crate) envelope: Envelope,
}

impl Row {
    /// The row of a stored version whose ciphertext is there.
    pub(crate) fn new(stored: Stored) -> Option<Arc<Self>> {
        let Stored { secret, envelope } = stored;
        envelope.map(|envelope| Arc::new(Self { secret: Arc::new(secret), envelope }))
    }
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<Place, Arc<Row>> for ByBytes {
    fn weight(&self, place: &Place, row: &Arc<Row>) -> u64 {
        /// What the structs, the map's slot and the allocator take beside the bytes counted here.
        const OVERHEAD: usize = 640;
        let texts = 2 * (place.owner.as_str().len() + place.realm.as_str().len() + place.name.as_str().len());
        let secret = &row.secret;
        let tags: usize =
            secret.tags.iter().map(|(key, value)| key.as_str().len() + value.as_str().len() + 64).sum();
        let bytes = row.envelope.wrapped_dek.len() + row.envelope.sealed.len();
        (OVERHEAD + texts + tags + secret.description.as_str().len() + bytes) as u64
    }
}

/// The active version of secrets that were read lately.
pub(crate) struct RowCache {
    rows: Cache<Place, Arc<Row>, ByBytes>,
    fences: Mutex<HashMap<Place, usize>>,
}

impl RowCache {
    pub(crate) fn new(bytes: u64) -> Self {
        // The estimate only sizes the first allocation: rows are rarely under 1 KiB.
        let estimate = usize::try_from(bytes / 1024).unwrap_or(usize::MAX).clamp(64, 16 * 1024);
        Self { rows: Cache::with_weighter(estimate, bytes, ByBytes), fences: Mutex::default() }
    }

    /// The row of `place`, from memory or by `load`. Absence is not cached.
    pub(crate) async fn get_or_load<F, Load>(
        &self,
        place: &Place,
        load: Load,
    ) -> Result<Option<Arc<Row>>, StoreError>
    where
        F: Future<Output = Result<Option<Stored>, StoreError>>,
        Load: Fn() -> F,
    {
        if let Some(row) = self.rows.get(place) {
            return Ok(Some(row));
        }
        if self.is_fenced(place) {
            return Ok(load().await?.and_then(Row::new));
        }
        match self.rows.get_value_or_guard_async(place).await {
            Ok(row) => Ok(Some(row)),
            Err(guard) => {
                // Asked again: a fence that came after the first question found no placeholder to remove.
                let fenced = self.is_fenced(place);
                let row = load().await?.and_then(Row::new);
                if let (false, Some(row)) = (fenced, &row) {
                    // Refused if a write removed the placeholder meanwhile; then the row stays uncached.
                    let _ = guard.insert(Arc::clone(row));
                }
                Ok(row)
            }
        }
    }

    /// Forgets `place` and caches nothing for it until the fence is dropped.
    pub(crate) fn fence(&self, place: &Place) -> Fence<'_> {
        *self.lock().entry(place.clone()).or_default() += 1;
        self.rows.remove(place);
        Fence { cache: self, place: place.clone() }
    }

    pub(crate) fn stats(&self) -> Stats {
        Stats {
            cache_hits: self.rows.hits(),
            cache_misses: self.rows.misses(),
            cached_rows: self.rows.len() as u64,
            cached_bytes: self.rows.weight(),
            ..Stats::default()
        }
    }

    fn is_fenced(&self, place: &Place) -> bool {
        self.lock().contains_key(place)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Place, usize>> {
        self.fences.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// While it lives, its place is not cached.
pub(crate) struct Fence<'a> {
    cache: &'a RowCache,
    place: Place,
}

impl Drop for Fence<'_> {
    fn drop(&mut self) {
        let mut fences = self.cache.lock();
        if let Some(count) = fences.get_mut(&self.place) {
            *count -= 1;
            if *count == 0 {
                fences.remove(&self.place);
            }
        }
    }
}

/// API keys that were used lately, by the SHA-256 of the whole key.
pub(crate) struct KeyCache {
    keys: Cache<[u8; 32], Arc<ApiKeyRecord>>,
}

impl KeyCache {
    /// Most keys in memory; a record is under 1 KiB.
    const CAPACITY: usize = 10_000;

    pub(crate) fn new() -> Self {
        Self { keys: Cache::new(Self::CAPACITY) }
    }

    /// The key with `digest`, from memory or by `load`. A key with another digest is given back but not cached, nor is
    /// absence: neither can push a good key out.
    pub(crate) async fn get_or_load<F, Load>(
        &self,
        digest: &[u8; 32],
        load: Load,
    ) -> Result<Option<Arc<ApiKeyRecord>>, StoreError>
    where
        F: Future<Output = Result<Option<ApiKeyRecord>, StoreError>>,
        Load: FnOnce() -> F,
    {
        match self.keys.get_value_or_guard_async(digest).await {
            Ok(key) => Ok(Some(key)),
            Err(guard) => {
                let key = load().await?.map(Arc::new);
                if let Some(key) = key.as_ref().filter(|key| key.digest == *digest) {
                    let _ = guard.insert(Arc::clone(key));
                }
                Ok(key)
            }
        }
    }

    /// Forgets the key `id`; called after its revocation is committed and before that is acknowledged. A look-up that
    /// read the key before loses its placeholder.
    pub(crate) fn forget(&self, id: &ApiKeyId, digest: &[u8; 32]) {
        self.keys.remove(digest);
        debug_assert!(self.keys.get(digest).is_none_or(|key| key.id == *id));
    }
}
