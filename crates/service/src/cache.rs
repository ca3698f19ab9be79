//! Caches of rows and of API keys.
//!
//! Reads go through the caches and writes fence them. A row is cached sealed, never opened: with its key unwrapped if that
//! succeeds, otherwise as stored. Freshness rests on two facts:
//!
//! 1. A write *fences* its place before it writes to the store and until it is done. The fence drops the row. While it
//!    stands, nothing is cached for the place: reads go to the store and see the change once it is committed.
//! 2. A read takes a placeholder before it loads a row, and inserts the row through it. A fence that is raised in between
//!    removes the placeholder, and `quick_cache` rejects the late row.
//!
//! So no read that begins after a write was acknowledged returns the former state, and no read returns the new state while
//! another returns the former one from the cache.
//!
//! If other processes write the store, the store raises fences here for them (see `agentrouter_lease`). Two more
//! facts are needed then:
//!
//! 3. A row is returned from the cache only if the [`Gate`] admits it. The gate is checked after the row was taken.
//! 4. A row records the gate's generation before its load. When this process may have missed a change, the generation
//!    changes, and rows of an earlier generation are misses.
//!
//! No lock is held across an await. A fence is a count in a small map that only misses and writes read. Deliberately absent:
//! plaintext, and absence (a secret that does not exist is looked up in the store each time).

mod fences;
mod interner;
mod invalidation;
mod keys;

use std::future::Future;
use std::sync::Arc;

use agentrouter_crypto::Unwrapped;
use agentrouter_lease::Gate;
use agentrouter_model::{Envelope, Place, Secret};
use agentrouter_store::{StoreError, Stored};
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use self::fences::Fences;
use self::interner::Interner;
pub(crate) use self::keys::KeyCache;
use crate::Stats;

/// The active version of a secret, as cached.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) secret: Arc<Secret>,
    pub(crate) value: Value,
    /// The gate's generation before the load. 0 if the row is not cached.
    generation: u64,
}

/// A sealed value.
#[derive(Debug)]
pub(crate) enum Value {
    /// A cached value. Its key is unwrapped and derived once, not for every read. It is also smaller than its envelope.
    Unwrapped(Unwrapped),
    /// A value that is not cached or does not unwrap.
    AsStored(Box<Envelope>),
}

impl Row {
    /// The row of a stored version, not to be cached. `None` if its ciphertext is destroyed.
    pub(crate) fn new(stored: Stored) -> Option<Arc<Self>> {
        let Stored { secret, envelope } = stored;
        let value = Value::AsStored(Box::new(envelope?));
        Some(Arc::new(Self { secret: Arc::new(secret), value, generation: 0 }))
    }
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<Place, Arc<Row>> for ByBytes {
    fn weight(&self, place: &Place, row: &Arc<Row>) -> u64 {
        /// The bytes of the structs, the map's slot and the allocator.
        const OVERHEAD: usize = 448;
        let secret = &row.secret;
        // Rows often share owner and realm, but not always. KEKs are few and not counted.
        let place = place.owner.as_str().len() + place.realm.as_str().len() + place.name.as_str().len();
        let texts = place + secret.description.as_str().len();
        let tags: usize =
            secret.tags.iter().map(|(key, value)| key.as_str().len() + value.as_str().len() + 64).sum();
        let value = match &row.value {
            Value::Unwrapped(unwrapped) => unwrapped.size(),
            Value::AsStored(envelope) => envelope.wrapped_dek.len() + envelope.sealed.len() + 64,
        };
        (OVERHEAD + texts + tags + value) as u64
    }
}

/// The active versions of recently read secrets.
pub(crate) struct RowCache {
    rows: Cache<Place, Arc<Row>, ByBytes>,
    interner: Interner,
    fences: Fences<Place>,
    gate: Arc<Gate>,
}

impl RowCache {
    pub(crate) fn new(bytes: u64, gate: Arc<Gate>) -> Self {
        // The estimate sizes the first allocation only. A row is rarely smaller than 1 KiB.
        let estimate = usize::try_from(bytes / 1024).unwrap_or(usize::MAX).clamp(64, 16 * 1024);
        let rows = Cache::with_weighter(estimate, bytes, ByBytes);
        Self { rows, interner: Interner::default(), fences: Fences::default(), gate }
    }

    /// The row of `place`, from the cache or by `load`. A row is cached with its key unwrapped by `unwrap`, or as stored if
    /// that fails. Absence is not cached.
    pub(crate) async fn get_or_load<F, Load>(
        &self,
        place: &Place,
        load: Load,
        unwrap: impl FnOnce(&Secret, &Envelope) -> Option<Unwrapped>,
    ) -> Result<Option<Arc<Row>>, StoreError>
    where
        F: Future<Output = Result<Option<Stored>, StoreError>>,
        Load: Fn() -> F,
    {
        if let Some(row) = self.rows.get(place) {
            if self.gate.admits(row.generation) {
                return Ok(Some(row));
            }
            self.rows.remove_if(place, |row| row.generation != self.gate.generation());
        }
        if self.gate.generation() == 0 || self.fences.stand(place) {
            return Ok(load().await?.and_then(Row::new));
        }
        let place = &self.interner.place(place);
        match self.rows.get_value_or_guard_async(place).await {
            Ok(row) if self.gate.admits(row.generation) => Ok(Some(row)),
            Ok(_) => Ok(load().await?.and_then(Row::new)),
            Err(guard) => {
                // Checked again: a fence raised since the first check found no placeholder to remove.
                let fenced = self.fences.stand(place);
                let generation = self.gate.generation();
                let Some(stored) = load().await? else { return Ok(None) };
                if fenced || generation == 0 {
                    return Ok(Row::new(stored));
                }
                let row = self.row(place, generation, stored, unwrap);
                if let Some(row) = &row {
                    // Rejected if a write removed the placeholder. The row is not cached then.
                    let _ = guard.insert(Arc::clone(row));
                }
                Ok(row)
            }
        }
    }

    /// A row for the cache.
    fn row(
        &self,
        place: &Place,
        generation: u64,
        Stored { mut secret, envelope }: Stored,
        unwrap: impl FnOnce(&Secret, &Envelope) -> Option<Unwrapped>,
    ) -> Option<Arc<Row>> {
        let envelope = envelope?;
        self.interner.share(place, &mut secret);
        let value = match unwrap(&secret, &envelope) {
            Some(unwrapped) => Value::Unwrapped(unwrapped),
            None => Value::AsStored(Box::new(envelope)),
        };
        Some(Arc::new(Row { secret: Arc::new(secret), value, generation }))
    }

    /// Raises a fence around `place` until the returned guard is dropped.
    pub(crate) fn fence(&self, place: &Place) -> Fence<'_> {
        self.raise(Some(place));
        Fence { cache: self, place: place.clone() }
    }

    /// Drops the row of a place, or all rows, and caches nothing for it until [`RowCache::lift`].
    pub(crate) fn raise(&self, place: Option<&Place>) {
        self.fences.raise(place);
        match place {
            Some(place) => drop(self.rows.remove(place)),
            None => self.rows.clear(),
        }
    }

    pub(crate) fn lift(&self, place: Option<&Place>) {
        self.fences.lift(place);
    }

    /// Drops all rows, and the placeholders of those that are being loaded.
    pub(crate) fn clear(&self) {
        self.rows.clear();
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
}

/// A guard that lifts the fence around a place when it is dropped.
pub(crate) struct Fence<'a> {
    cache: &'a RowCache,
    place: Place,
}

impl Drop for Fence<'_> {
    fn drop(&mut self) {
        self.cache.lift(Some(&self.place));
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use agentrouter_model::{
        Description, KekId, Owner, Realm, SecretId, SecretName, Status, Tags, Timestamp, Version,
    };
    use tokio::sync::oneshot;

    use agentrouter_lease::{Boottime, Caches, LeaseClock, Replica, Target, View};

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

    fn cache_of(bytes: u64) -> RowCache {
        RowCache::new(bytes, Arc::new(Gate::always()))
    }

    /// Reads a row whose value is cached as stored.
    async fn get<F, Load>(cache: &RowCache, place: &Place, load: Load) -> Result<Option<Arc<Row>>, StoreError>
    where
        F: Future<Output = Result<Option<Stored>, StoreError>>,
        Load: Fn() -> F,
    {
        cache.get_or_load(place, load, |_, _| None).await
    }

    /// The version that a read returns if its load, should it need one, finds `version`.
    async fn read(cache: &RowCache, version: i32) -> i32 {
        let row = get(cache, &place(), || async { Ok(Some(stored(version))) }).await;
        row.expect("the store responds").expect("a row").secret.version.get()
    }

    #[tokio::test]
    async fn a_row_is_loaded_once_and_dropped_by_a_fence() {
        let cache = cache_of(1 << 20);
        assert_eq!(read(&cache, 1).await, 1);
        assert_eq!(read(&cache, 2).await, 1, "from memory");
        drop(cache.fence(&place()));
        assert_eq!(read(&cache, 2).await, 2);
        assert_eq!(read(&cache, 3).await, 2, "from memory again");
        assert_eq!(cache.stats().cached_rows, 1);
    }

    #[tokio::test]
    async fn nothing_is_cached_behind_a_fence() {
        let cache = cache_of(1 << 20);
        let first = cache.fence(&place());
        let second = cache.fence(&place());
        assert_eq!(read(&cache, 1).await, 1);
        assert_eq!(read(&cache, 2).await, 2, "each read goes to the store");
        drop(first);
        assert_eq!(read(&cache, 3).await, 3, "one of two writes is not done");
        drop(second);
        assert_eq!(read(&cache, 4).await, 4);
        assert_eq!(read(&cache, 5).await, 4);
        assert_eq!(cache.fences.count(), 0, "a fence leaves nothing behind");
    }

    #[tokio::test]
    async fn a_fence_between_read_and_insert_keeps_the_stale_row_out() {
        let cache = cache_of(1 << 20);
        let row = get(&cache, &place(), || async {
            let stale = stored(1);
            // A complete write, from its fence to its acknowledgement.
            drop(cache.fence(&place()));
            Ok(Some(stale))
        })
        .await;
        // This read started before the write was acknowledged, so it may return the former state.
        assert_eq!(row.expect("the store responds").expect("a row").secret.version.get(), 1);
        assert_eq!(read(&cache, 2).await, 2, "no later read may");
    }

    #[tokio::test]
    async fn a_fence_that_is_still_up_when_the_row_comes_keeps_it_out() {
        let cache = cache_of(1 << 20);
        let (fence, place) = (Cell::new(None), place());
        let row = get(&cache, &place, || async {
            fence.set(Some(cache.fence(&place)));
            Ok(Some(stored(1)))
        });
        assert!(row.await.expect("the store responds").is_some());
        assert_eq!(read(&cache, 2).await, 2);
        drop(fence.take());
        assert_eq!(read(&cache, 3).await, 3);
    }

    #[tokio::test]
    async fn a_read_that_begins_after_a_write_does_not_join_one_from_before() {
        let cache = Arc::new(cache_of(1 << 20));
        let (started, has_started) = oneshot::channel();
        let (finish, may_finish) = oneshot::channel::<()>();
        let (started, may_finish) = (Mutex::new(Some(started)), Mutex::new(Some(may_finish)));
        let late = tokio::spawn({
            let cache = Arc::clone(&cache);
            async move {
                let load = || {
                    let _ = started.lock().expect("whole").take().map(|started| started.send(()));
                    let wait = may_finish.lock().expect("whole").take();
                    async move {
                        if let Some(wait) = wait {
                            let _ = wait.await;
                        }
                        Ok(Some(stored(1)))
                    }
                };
                get(&cache, &place(), load).await.expect("the store responds").expect("a row")
            }
        });
        has_started.await.expect("the load begins");
        // This read waits for the first one's load. It started before the write, too.
        let waiting = tokio::spawn({
            let cache = Arc::clone(&cache);
            async move { read(&cache, 1).await }
        });
        tokio::task::yield_now().await;
        drop(cache.fence(&place()));

        let soon = tokio::time::timeout(Duration::from_secs(60), read(&cache, 2)).await;
        assert_eq!(soon.expect("it does not wait"), 2);
        finish.send(()).expect("it waits");
        assert_eq!(late.await.expect("it ends").secret.version.get(), 1);
        // It may return either version, but it must be woken.
        let waited = tokio::time::timeout(Duration::from_secs(60), waiting).await;
        waited.expect("it is woken").expect("it ends");
        assert_eq!(read(&cache, 3).await, 2, "the late row has not replaced the fresh one");
    }

    #[tokio::test]
    async fn a_reader_that_waited_for_another_caches_nothing_behind_a_fence() {
        let cache = Arc::new(cache_of(1 << 20));
        let fence = {
            let place = place();
            let (waiting, fence) = (Cell::new(None), Cell::new(None));
            let load = || async {
                // During this load another read of the same row and a write begin.
                waiting.set(Some(tokio::spawn({
                    let cache = Arc::clone(&cache);
                    async move { read(&cache, 1).await }
                })));
                tokio::task::yield_now().await;
                fence.set(Some(cache.fence(&place)));
                // This load fails, so the other read loads the row itself.
                Err(StoreError::Corrupt("a row"))
            };
            assert!(get(&cache, &place, load).await.is_err());
            let waiting = waiting.take().expect("it was started");
            let waited = tokio::time::timeout(Duration::from_secs(60), waiting).await;
            assert_eq!(waited.expect("it is woken").expect("it ends"), 1, "the write is not done yet");
            fence.take()
        };
        drop(fence);
        assert_eq!(read(&cache, 2).await, 2);
    }

    #[tokio::test]
    async fn absence_failure_and_destroyed_ciphertext_are_not_cached() {
        let cache = cache_of(1 << 20);
        let absent = get(&cache, &place(), || async { Ok(None) }).await;
        assert!(absent.expect("the store responds").is_none());
        let failed = get(&cache, &place(), || async { Err(StoreError::Corrupt("a row")) }).await;
        assert!(failed.is_err());
        let destroyed = || async { Ok(Some(Stored { envelope: None, ..stored(1) })) };
        assert!(get(&cache, &place(), destroyed).await.expect("the store responds").is_none());
        assert_eq!(read(&cache, 2).await, 2);
    }

    #[tokio::test]
    async fn the_cache_stays_within_its_bytes() {
        let cache = cache_of(64 * 1024);
        for number in 0..2000 {
            let place = Place { name: SecretName::parse(&format!("n{number}")).expect("a name"), ..place() };
            let loaded = get(&cache, &place, || async { Ok(Some(stored(1))) }).await;
            assert!(loaded.expect("the store responds").is_some());
        }
        let stats = cache.stats();
        assert!(stats.cached_bytes <= 64 * 1024 && stats.cached_rows > 10, "{stats:?}");
    }

    #[tokio::test]
    async fn rows_share_equal_texts() {
        let cache = cache_of(1 << 20);
        let mut rows = Vec::new();
        for name in ["a", "b"] {
            let place = Place { name: SecretName::parse(name).expect("a name"), ..place() };
            let load = || async {
                Ok(Some(Stored { secret: Secret { place: place.clone(), ..stored(1).secret }, ..stored(1) }))
            };
            rows.push(get(&cache, &place, load).await.expect("the store responds").expect("a row"));
        }
        let [a, b] = rows.as_slice() else { panic!("two rows") };
        let texts = |secret: &Secret| {
            let Place { owner, realm, .. } = &secret.place;
            [owner.as_str(), realm.as_str(), secret.kek_id.as_str()].map(str::as_ptr)
        };
        assert_eq!(texts(&a.secret), texts(&b.secret));
        assert_eq!(b.secret.place.name.as_str(), "b");
    }

    struct Nothing;

    impl Caches for Nothing {
        fn fence(&self, _: &Target) {}
        fn lift(&self, _: &Target) {}
        fn forget(&self) {}
    }

    /// The time that a lease has run, in nanoseconds. It changes only when a test sets it.
    #[derive(Debug, Default)]
    struct StillClock(AtomicU64);

    impl LeaseClock for StillClock {
        fn now(&self) -> Boottime {
            Boottime::from_nanos(self.0.load(Ordering::Relaxed))
        }
    }

    /// The view of a replica that renews its lease now.
    fn renewal(gate: &Gate, registered: bool) -> View {
        let era = String::new();
        View { era, registered, seq: 0, fences: Vec::new(), asked_at: gate.now(), recorded: Some(0) }
    }

    #[tokio::test]
    async fn a_row_is_cached_and_returned_only_under_a_lease() {
        let clock = Arc::new(StillClock::default());
        let gate = Arc::new(Gate::shut(Arc::clone(&clock) as _));
        let cache = RowCache::new(1 << 20, Arc::clone(&gate));
        let lease = Duration::from_secs(1);
        let mut replica = Replica::new(Arc::new(Nothing), Arc::clone(&gate), lease);
        assert_eq!(read(&cache, 1).await, 1);
        assert_eq!(read(&cache, 2).await, 2, "nothing is cached without a lease");
        replica.registered();
        replica.synced(renewal(&gate, true));
        assert_eq!(read(&cache, 3).await, 3);
        assert_eq!(read(&cache, 4).await, 3, "from memory");

        clock.0.store(999_999_999, Ordering::Relaxed);
        assert_eq!(read(&cache, 5).await, 3, "to the end of the lease");
        clock.0.store(1_000_000_000, Ordering::Relaxed);
        assert_eq!(read(&cache, 5).await, 5, "the lease has expired");
        replica.synced(renewal(&gate, true));
        assert_eq!(read(&cache, 6).await, 3, "renewed in time to have missed nothing");

        replica.synced(renewal(&gate, false));
        assert_eq!(read(&cache, 7).await, 7, "the registration was removed");
        replica.registered();
        replica.synced(renewal(&gate, true));
        assert_eq!(read(&cache, 8).await, 8, "rows loaded before are of another generation");
        assert_eq!(read(&cache, 9).await, 8);
    }

    #[tokio::test]
    async fn a_row_loaded_before_a_new_registration_is_not_returned_after_it() {
        let gate = Arc::new(Gate::shut(Arc::new(StillClock::default())));
        let cache = RowCache::new(1 << 20, Arc::clone(&gate));
        let mut replica = Replica::new(Arc::new(Nothing), Arc::clone(&gate), Duration::from_secs(600));
        replica.registered();
        replica.synced(renewal(&gate, true));
        let replica = Mutex::new(replica);
        let place = place();
        let late = get(&cache, &place, || async {
            let mut replica = replica.lock().expect("whole");
            replica.synced(renewal(&gate, false));
            replica.registered();
            replica.synced(renewal(&gate, true));
            Ok(Some(stored(1)))
        });
        assert!(late.await.expect("the store responds").is_some());
        assert_eq!(read(&cache, 2).await, 2);
    }

    #[tokio::test]
    async fn a_fence_around_everything_covers_each_place() {
        let cache = cache_of(1 << 20);
        assert_eq!(read(&cache, 1).await, 1);
        cache.raise(None);
        assert_eq!(read(&cache, 2).await, 2);
        assert_eq!(read(&cache, 3).await, 3);
        cache.lift(None);
        assert_eq!(read(&cache, 4).await, 4);
        assert_eq!(read(&cache, 5).await, 4);
        cache.clear();
        assert_eq!(read(&cache, 6).await, 6);
    }
}
