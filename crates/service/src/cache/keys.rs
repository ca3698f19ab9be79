//! Cache of API keys.
//!
//! `Service::authenticate` reads it, and revocations fence it. The rules of freshness are those of [`super`].

use std::future::Future;
use std::sync::Arc;

use agentrouter_lease::Gate;
use agentrouter_model::ApiKeyRecord;
use agentrouter_store::StoreError;
use quick_cache::sync::Cache;

use super::fences::Fences;

/// Recently used API keys, by the SHA-256 of the whole key.
pub(crate) struct KeyCache {
    keys: Cache<[u8; 32], CachedKey>,
    fences: Fences<[u8; 32]>,
    gate: Arc<Gate>,
}

/// A key and the gate's generation before it was loaded.
#[derive(Clone)]
struct CachedKey {
    record: Arc<ApiKeyRecord>,
    generation: u64,
}

impl KeyCache {
    /// The most keys in the cache. A record is smaller than 1 KiB.
    const CAPACITY: usize = 10_000;

    pub(crate) fn new(gate: Arc<Gate>) -> Self {
        Self { keys: Cache::new(Self::CAPACITY), fences: Fences::default(), gate }
    }

    /// The key with `digest`, from the cache or by `load`. A key with another digest is returned but not cached, and
    /// absence is not cached, so that neither can evict a valid key.
    pub(crate) async fn get_or_load<F, Load>(
        &self,
        digest: &[u8; 32],
        load: Load,
    ) -> Result<Option<Arc<ApiKeyRecord>>, StoreError>
    where
        F: Future<Output = Result<Option<ApiKeyRecord>, StoreError>>,
        Load: FnOnce() -> F,
    {
        if let Some(key) = self.keys.get(digest) {
            if self.gate.admits(key.generation) {
                return Ok(Some(key.record));
            }
            self.keys.remove_if(digest, |key| key.generation != self.gate.generation());
        }
        if self.gate.generation() == 0 || self.fences.stand(digest) {
            return Ok(load().await?.map(Arc::new));
        }
        match self.keys.get_value_or_guard_async(digest).await {
            Ok(key) if self.gate.admits(key.generation) => Ok(Some(key.record)),
            Ok(_) => Ok(load().await?.map(Arc::new)),
            Err(guard) => {
                let fenced = self.fences.stand(digest);
                let generation = self.gate.generation();
                let found = load().await?.map(Arc::new);
                if let Some(record) = found.as_ref().filter(|key| key.digest == *digest)
                    && !fenced
                    && generation > 0
                {
                    let _ = guard.insert(CachedKey { record: Arc::clone(record), generation });
                }
                Ok(found)
            }
        }
    }

    /// Raises a fence around a key, or around all keys, until the returned guard is dropped.
    pub(crate) fn fence(&self, digest: Option<[u8; 32]>) -> KeyFence<'_> {
        self.raise(digest.as_ref());
        KeyFence { cache: self, digest }
    }

    /// Drops all keys, and caches nothing for a key, or for any key, until [`KeyCache::lift`]. A revocation raises the fence
    /// before it writes and lifts it after the commit. A look-up that is under way loses its placeholder.
    ///
    /// All keys are dropped because `digest` is the stored one. If a row's digest was altered in the store, the cache holds
    /// the key under its former digest.
    pub(crate) fn raise(&self, digest: Option<&[u8; 32]>) {
        self.fences.raise(digest);
        self.keys.clear();
    }

    pub(crate) fn lift(&self, digest: Option<&[u8; 32]>) {
        self.fences.lift(digest);
    }

    /// Drops all keys, and the placeholders of those that are being loaded.
    pub(crate) fn clear(&self) {
        self.keys.clear();
    }
}

/// A guard that lifts the fence around a key when it is dropped.
pub(crate) struct KeyFence<'a> {
    cache: &'a KeyCache,
    digest: Option<[u8; 32]>,
}

impl Drop for KeyFence<'_> {
    fn drop(&mut self) {
        self.cache.lift(self.digest.as_ref());
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use agentrouter_model::{ApiKeyId, Owner, Realm, ScopeSet, Timestamp};

    use super::*;

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

    /// Whether a look-up of `digest` loads from the store, which holds `found`.
    async fn is_loaded(cache: &KeyCache, digest: [u8; 32], found: Option<ApiKeyRecord>) -> bool {
        let asked = Cell::new(false);
        let load = || {
            asked.set(true);
            async { Ok(found) }
        };
        cache.get_or_load(&digest, load).await.expect("the store responds");
        asked.get()
    }

    #[tokio::test]
    async fn only_the_exact_key_is_cached_and_a_revocation_evicts_it() {
        let (cache, key) = (KeyCache::new(Arc::new(Gate::always())), record("abcdefghijklmnop", [7; 32]));
        // A wrong secret under an existing id, and an unknown id.
        for _ in 0..2 {
            assert!(is_loaded(&cache, [8; 32], Some(key.clone())).await);
            assert!(is_loaded(&cache, [9; 32], None).await);
        }
        assert!(is_loaded(&cache, [7; 32], Some(key.clone())).await);
        assert!(!is_loaded(&cache, [7; 32], None).await, "from memory");
        cache.raise(Some(&key.digest));
        assert!(is_loaded(&cache, [7; 32], Some(key.clone())).await);
        assert!(
            is_loaded(&cache, [7; 32], Some(key.clone())).await,
            "nothing is cached while the key is being revoked"
        );
        cache.lift(Some(&key.digest));
        assert!(is_loaded(&cache, [7; 32], None).await);

        // A revocation between a look-up's read and its insertion.
        let load = || async {
            cache.raise(Some(&key.digest));
            cache.lift(Some(&key.digest));
            Ok(Some(key.clone()))
        };
        assert!(cache.get_or_load(&[7; 32], load).await.expect("the store responds").is_some());
        assert!(is_loaded(&cache, [7; 32], None).await, "a revoked key is not cached");
    }

    #[tokio::test]
    async fn a_revocation_evicts_a_key_whose_stored_digest_was_altered() {
        let (cache, key) = (KeyCache::new(Arc::new(Gate::always())), record("abcdefghijklmnop", [7; 32]));
        let altered = ApiKeyRecord { digest: [8; 32], ..key.clone() };
        assert!(is_loaded(&cache, [7; 32], Some(key.clone())).await);
        assert!(!is_loaded(&cache, [7; 32], None).await, "from memory");
        drop(cache.fence(Some(altered.digest)));
        assert!(is_loaded(&cache, [7; 32], Some(altered.clone())).await);
        assert!(
            is_loaded(&cache, [7; 32], Some(altered.clone())).await,
            "and it is not cached under the other digest"
        );

        // A key that was read before the revocation and is inserted after it.
        let load = || async {
            drop(cache.fence(Some(altered.digest)));
            Ok(Some(key.clone()))
        };
        assert!(cache.get_or_load(&[7; 32], load).await.expect("the store responds").is_some());
        assert!(is_loaded(&cache, [7; 32], Some(altered)).await);
    }

    #[tokio::test]
    async fn a_fence_stands_until_its_guard_is_dropped() {
        let (cache, key) = (KeyCache::new(Arc::new(Gate::always())), record("abcdefghijklmnop", [7; 32]));
        for digest in [Some(key.digest), None] {
            let fence = cache.fence(digest);
            assert!(is_loaded(&cache, [7; 32], Some(key.clone())).await);
            assert!(is_loaded(&cache, [7; 32], Some(key.clone())).await);
            drop(fence);
            assert!(is_loaded(&cache, [7; 32], Some(key.clone())).await);
            assert!(!is_loaded(&cache, [7; 32], None).await, "from memory again");
            assert_eq!(cache.fences.count(), 0);
        }
    }
}
