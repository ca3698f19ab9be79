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
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use agentrouter_crypto::DataKey;
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
    /// The key of the sealed value, from its first opening on. It is what the KEK, which is in memory as well, makes of
    /// the envelope, and is wiped with it. To unwrap and derive it for every read would be 15 % of a read.
    pub(crate) key: OnceLock<DataKey>,
}

impl Row {
    /// The row of a stored version whose ciphertext is there.
    pub(crate) fn new(stored: Stored) -> Option<Arc<Self>> {
        let Stored { secret, envelope } = stored;
        envelope.map(|envelope| Arc::new(Self { secret: Arc::new(secret), envelope, key: OnceLock::new() }))
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

    /// Forgets every key; each is looked up anew.
    pub(crate) fn forget_all(&self) {
        self.keys.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

    use agentrouter_model::{
        Description, KekId, Owner, Realm, ScopeSet, SecretId, SecretName, Status, Tags, Timestamp, Version,
    };
    use tokio::sync::oneshot;

    use super::*;

    fn place() -> Place {
        Place {
            owner: Owner::parse("ann").expect("a user"),
            realm: Realm::default(),
            name: SecretName::parse("openai").expect("a name"),
        }
    }

    fn stored(version: i32) -> Stored {
        let kek_id = KekId::parse("k1").expect("an id");
        let at = Timestamp::from_micros(0);
        let secret = Secret {
            id: SecretId::parse("01HF7YAT00ZZZZZZZZZZZZZZZZ").expect("an id"),
            place: place(),
            description: Description::default(),
            tags: Tags::default(),
            status: Status::Active,
            version: Version::new(version).expect("a version"),
            created_at: at,
            updated_at: at,
            rotated_at: None,
            expires_at: None,
            kek_id: kek_id.clone(),
        };
        Stored { secret, envelope: Some(Envelope { kek_id, wrapped_dek: [1].into(), sealed: [2].into() }) }
    }

    /// What a read gives whose load, if it comes to one, finds `version`.
    async fn read(cache: &RowCache, version: i32) -> i32 {
        let row = cache.get_or_load(&place(), || async { Ok(Some(stored(version))) }).await;
        row.expect("the store answers").expect("a row").secret.version.get()
    }

    #[tokio::test]
    async fn a_row_is_loaded_once_and_forgotten_by_a_fence() {
        let cache = RowCache::new(1 << 20);
        assert_eq!(read(&cache, 1).await, 1);
        assert_eq!(read(&cache, 2).await, 1, "from memory");
        drop(cache.fence(&place()));
        assert_eq!(read(&cache, 2).await, 2);
        assert_eq!(read(&cache, 3).await, 2, "from memory again");
        assert_eq!(cache.stats().cached_rows, 1);
    }

    #[tokio::test]
    async fn nothing_is_cached_behind_a_fence() {
        let cache = RowCache::new(1 << 20);
        let first = cache.fence(&place());
        let second = cache.fence(&place());
        assert_eq!(read(&cache, 1).await, 1);
        assert_eq!(read(&cache, 2).await, 2, "each read goes to the store");
        drop(first);
        assert_eq!(read(&cache, 3).await, 3, "one of two writes goes on");
        drop(second);
        assert_eq!(read(&cache, 4).await, 4);
        assert_eq!(read(&cache, 5).await, 4);
        assert!(cache.lock().is_empty(), "a fence leaves nothing behind");
    }

    #[tokio::test]
    async fn a_fence_between_read_and_insert_keeps_the_stale_row_out() {
        let cache = RowCache::new(1 << 20);
        let row = cache
            .get_or_load(&place(), || async {
                let stale = stored(1);
                // A whole write, from its fence to its acknowledgement.
                drop(cache.fence(&place()));
                Ok(Some(stale))
            })
            .await;
        // It began before the write was acknowledged, so it may see what was before.
        assert_eq!(row.expect("the store answers").expect("a row").secret.version.get(), 1);
        assert_eq!(read(&cache, 2).await, 2, "but nobody after it may");
    }

    #[tokio::test]
    async fn a_fence_that_is_still_up_when_the_row_comes_keeps_it_out() {
        let cache = RowCache::new(1 << 20);
        let (fence, place) = (Cell::new(None), place());
        let row = cache.get_or_load(&place, || async {
            fence.set(Some(cache.fence(&place)));
            Ok(Some(stored(1)))
        });
        assert!(row.await.expect("the store answers").is_some());
        assert_eq!(read(&cache, 2).await, 2);
        drop(fence.take());
        assert_eq!(read(&cache, 3).await, 3);
    }

    #[tokio::test]
    async fn a_read_that_begins_after_a_write_does_not_join_one_from_before() {
        let cache = Arc::new(RowCache::new(1 << 20));
        let (started, has_started) = oneshot::channel();
        let (go_on, may_go_on) = oneshot::channel::<()>();
        let (started, may_go_on) = (Mutex::new(Some(started)), Mutex::new(Some(may_go_on)));
        let late = tokio::spawn({
            let cache = Arc::clone(&cache);
            async move {
                let load = || {
                    let _ = started.lock().expect("whole").take().map(|started| started.send(()));
                    let wait = may_go_on.lock().expect("whole").take();
                    async move {
                        if let Some(wait) = wait {
                            let _ = wait.await;
                        }
                        Ok(Some(stored(1)))
                    }
                };
                cache.get_or_load(&place(), load).await.expect("the store answers").expect("a row")
            }
        });
        has_started.await.expect("the load begins");
        // This one waits for the row that the first one loads; it began before the write, too.
        let waiting = tokio::spawn({
            let cache = Arc::clone(&cache);
            async move { read(&cache, 1).await }
        });
        tokio::task::yield_now().await;
        drop(cache.fence(&place()));

        let soon = tokio::time::timeout(Duration::from_secs(5), read(&cache, 2)).await;
        assert_eq!(soon.expect("it waits for nobody"), 2);
        go_on.send(()).expect("it waits");
        assert_eq!(late.await.expect("it ends").secret.version.get(), 1);
        let waited = tokio::time::timeout(Duration::from_secs(5), waiting)
            .await
            .expect("it is let go")
            .expect("it ends");
        assert!(matches!(waited, 1 | 2), "{waited}");
        assert_eq!(read(&cache, 3).await, 2, "the late row has not pushed the fresh one out");
    }

    #[tokio::test]
    async fn a_reader_that_waited_for_another_caches_nothing_behind_a_fence() {
        let cache = Arc::new(RowCache::new(1 << 20));
        let fence = {
            let place = place();
            let (waiting, fence) = (Cell::new(None), Cell::new(None));
            let load = || async {
                // While this one loads, another one asks for the same row, and a write begins.
                waiting.set(Some(tokio::spawn({
                    let cache = Arc::clone(&cache);
                    async move { read(&cache, 1).await }
                })));
                tokio::task::yield_now().await;
                fence.set(Some(cache.fence(&place)));
                // It comes to nothing, so the other one loads the row itself.
                Err(StoreError::Corrupt("a row"))
            };
            assert!(cache.get_or_load(&place, load).await.is_err());
            let waiting = waiting.take().expect("it was asked");
            let waited = tokio::time::timeout(Duration::from_secs(5), waiting).await;
            assert_eq!(waited.expect("it is let go").expect("it ends"), 1, "the write is not done yet");
            fence.take()
        };
        drop(fence);
        assert_eq!(read(&cache, 2).await, 2);
    }

    #[tokio::test]
    async fn absence_failure_and_destroyed_ciphertext_are_not_cached() {
        let cache = RowCache::new(1 << 20);
        let absent = cache.get_or_load(&place(), || async { Ok(None) }).await;
        assert!(absent.expect("the store answers").is_none());
        let failed = cache.get_or_load(&place(), || async { Err(StoreError::Corrupt("a row")) }).await;
        assert!(failed.is_err());
        let destroyed = || async { Ok(Some(Stored { envelope: None, ..stored(1) })) };
        assert!(cache.get_or_load(&place(), destroyed).await.expect("the store answers").is_none());
        assert_eq!(read(&cache, 2).await, 2);
    }

    #[tokio::test]
    async fn the_cache_keeps_to_its_bytes() {
        let cache = RowCache::new(64 * 1024);
        for number in 0..2000 {
            let place = Place { name: SecretName::parse(&format!("n{number}")).expect("a name"), ..place() };
            let loaded = cache.get_or_load(&place, || async { Ok(Some(stored(1))) }).await;
            assert!(loaded.expect("the store answers").is_some());
        }
        let stats = cache.stats();
        assert!(stats.cached_bytes <= 64 * 1024 && stats.cached_rows > 10, "{stats:?}");
    }

    fn record(id: &str, digest: [u8; 32]) -> ApiKeyRecord {
        ApiKeyRecord {
            id: ApiKeyId::parse(id).expect("an id"),
            digest,
            name: String::new(),
            user: Owner::parse("ann").expect("a user"),
            scopes: ScopeSet::ALL,
            realm: Realm::default(),
            realms: None,
            created_at: Timestamp::from_micros(0),
            expires_at: None,
            revoked_at: None,
        }
    }

    /// Whether a look-up of `digest` goes to the store, which has `found`.
    async fn is_loaded(cache: &KeyCache, digest: [u8; 32], found: Option<ApiKeyRecord>) -> bool {
        let asked = Cell::new(false);
        let load = || {
            asked.set(true);
            async { Ok(found) }
        };
        cache.get_or_load(&digest, load).await.expect("the store answers");
        asked.get()
    }

    #[tokio::test]
    async fn only_the_key_itself_is_cached_and_a_revocation_takes_it_out() {
        let (cache, key) = (KeyCache::new(), record("abcdefghijklmnop", [7; 32]));
        // A wrong secret under a right id, and an id that is nobody's.
        for _ in 0..2 {
            assert!(is_loaded(&cache, [8; 32], Some(key.clone())).await);
            assert!(is_loaded(&cache, [9; 32], None).await);
        }
        assert!(is_loaded(&cache, [7; 32], Some(key.clone())).await);
        assert!(!is_loaded(&cache, [7; 32], None).await, "from memory");
        cache.forget(&key.id, &key.digest);
        assert!(is_loaded(&cache, [7; 32], None).await);

        // A revocation between a look-up's read and its insertion.
        let load = || async {
            cache.forget(&key.id, &key.digest);
            Ok(Some(key.clone()))
        };
        assert!(cache.get_or_load(&[7; 32], load).await.expect("the store answers").is_some());
        assert!(is_loaded(&cache, [7; 32], None).await, "a revoked key is not cached");
    }
}
