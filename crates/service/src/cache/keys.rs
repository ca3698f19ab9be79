//! API keys in memory.

use std::future::Future;
use std::sync::Arc;

use agentrouter_lease::Gate;
use agentrouter_model::ApiKeyRecord;
use agentrouter_store::StoreError;
use quick_cache::sync::Cache;

use super::fences::Fences;

/// API keys that were used lately, by the SHA-256 of the whole key.
pub(crate) struct KeyCache {
    keys: Cache<[u8; 32], Key>,
    fences: Fences<[u8; 32]>,
    gate: Arc<Gate>,
}

/// A key and the gate's generation from before it was loaded.
#[derive(Clone)]
struct Key {
    record: Arc<ApiKeyRecord>,
    generation: u64,
}

impl KeyCache {
    /// Most keys in memory; a record is under 1 KiB.
    const CAPACITY: usize = 10_000;

    pub(crate) fn new(gate: Arc<Gate>) -> Self {
        Self { keys: Cache::new(Self::CAPACITY), fences: Fences::default(), gate }
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
                    let _ = guard.insert(Key { record: Arc::clone(record), generation });
                }
                Ok(found)
            }
        }
    }

    /// Forgets a key, or all, and caches nothing for it until the fence is dropped.
    pub(crate) fn fence(&self, digest: Option<[u8; 32]>) -> KeyFence<'_> {
        self.raise(digest.as_ref());
        KeyFence { cache: self, digest }
    }

    /// Caches nothing for a key, or for any, until [`KeyCache::lift`]: from before its revocation until that is
    /// committed. A look-up that read the key before loses its placeholder.
    ///
    /// Every key is forgotten. The digest is the one that is stored, and if somebody altered that, the key is in memory
    /// under the one it had before; from the store it would not be found under that again.
    pub(crate) fn raise(&self, digest: Option<&[u8; 32]>) {
        self.fences.raise(digest);
        self.keys.clear();
    }

    pub(crate) fn lift(&self, digest: Option<&[u8; 32]>) {
        self.fences.lift(digest);
    }

    /// Forgets every key, and those that are being loaded.
    pub(crate) fn clear(&self) {
        self.keys.clear();
    }
}

/// While it lives, its key is not cached.
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
        let (cache, key) = (KeyCache::new(Arc::new(Gate::always())), record("abcdefghijklmnop", [7; 32]));
        // A wrong secret under a right id, and an id that is nobody's.
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
            "nothing is kept while it is being revoked"
        );
        cache.lift(Some(&key.digest));
        assert!(is_loaded(&cache, [7; 32], None).await);

        // A revocation between a look-up's read and its insertion.
        let load = || async {
            cache.raise(Some(&key.digest));
            cache.lift(Some(&key.digest));
            Ok(Some(key.clone()))
        };
        assert!(cache.get_or_load(&[7; 32], load).await.expect("the store answers").is_some());
        assert!(is_loaded(&cache, [7; 32], None).await, "a revoked key is not cached");
    }

    #[tokio::test]
    async fn a_key_is_forgotten_whatever_digest_the_store_has_for_it_by_now() {
        let (cache, key) = (KeyCache::new(Arc::new(Gate::always())), record("abcdefghijklmnop", [7; 32]));
        let altered = ApiKeyRecord { digest: [8; 32], ..key.clone() };
        assert!(is_loaded(&cache, [7; 32], Some(key.clone())).await);
        assert!(!is_loaded(&cache, [7; 32], None).await, "from memory");
        drop(cache.fence(Some(altered.digest)));
        assert!(is_loaded(&cache, [7; 32], Some(altered.clone())).await);
        assert!(
            is_loaded(&cache, [7; 32], Some(altered.clone())).await,
            "and it is not kept under the other"
        );

        // One that was read before, and comes late.
        let load = || async {
            drop(cache.fence(Some(altered.digest)));
            Ok(Some(key.clone()))
        };
        assert!(cache.get_or_load(&[7; 32], load).await.expect("the store answers").is_some());
        assert!(is_loaded(&cache, [7; 32], Some(altered)).await);
    }

    #[tokio::test]
    async fn a_fence_stands_as_long_as_it_is_held() {
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
