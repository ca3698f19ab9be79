//! Rows and API keys in memory.
//!
//! A row is cached sealed, never opened: with its key unwrapped where that can be, else as it lies in the store. Freshness
//! rests on two facts:
//!
//! 1. A write *fences* its place before it goes to the store and until it is done. Fencing removes the row, and while
//!    a place is fenced nothing is cached for it: readers go to the store, so they see the change from its commit on.
//! 2. A row is put into the cache through the placeholder that its reader took before it read. A fence that comes in
//!    between removes the placeholder, and the late row is not cached (`quick_cache` refuses it).
//!
//! So no read that begins after a write was acknowledged sees what was before it, and no reader sees the new state
//! while another still gets the old one from memory.
//!
//! Where other processes write the store, it fences places here on their behalf (see `agentrouter_lease`), and
//! two more facts are needed:
//!
//! 3. A row is answered from memory only if the [`Gate`] admits it, which is asked after the row was taken.
//! 4. A row remembers the gate's generation from before its load. When this process may have missed a change, another
//!    generation begins, and what is of an earlier one is as good as not there.
//!
//! No lock is held across an await; a fence is a count in a small map that only misses and writes look at.

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
    /// The gate's generation from before it was loaded; 0 if it is not to be kept.
    generation: u64,
}

/// A sealed value.
#[derive(Debug)]
pub(crate) enum Value {
    /// What is kept: to unwrap the DEK and derive the key for every read is 5/6 of opening, and would take a quarter more
    /// of a read's time; and the envelope has 200 bytes more.
    Unwrapped(Unwrapped),
    /// A value that is read once, or cannot be unwrapped.
    AsStored(Box<Envelope>),
}

impl Row {
    /// The row of a stored version whose ciphertext is there, for this once.
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
        /// What the structs, the map's slot and the allocator take beside the bytes counted here.
        const OVERHEAD: usize = 448;
        let secret = &row.secret;
        // Owner and realm are those of many rows, as a rule, but need not be; KEKs are few.
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

/// The active version of secrets that were read lately.
pub(crate) struct RowCache {
    rows: Cache<Place, Arc<Row>, ByBytes>,
    interner: Interner,
    fences: Fences<Place>,
    gate: Arc<Gate>,
}

impl RowCache {
    pub(crate) fn new(bytes: u64, gate: Arc<Gate>) -> Self {
        // The estimate only sizes the first allocation: rows are rarely under 1 KiB.
        let estimate = usize::try_from(bytes / 1024).unwrap_or(usize::MAX).clamp(64, 16 * 1024);
        let rows = Cache::with_weighter(estimate, bytes, ByBytes);
        Self { rows, interner: Interner::default(), fences: Fences::default(), gate }
    }

    /// The row of `place`, from memory or by `load`. Absence is not cached. What is cached has gone through `unwrap`, if
    /// that can unwrap it.
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
                // Asked again: a fence that came after the first question found no placeholder to remove.
                let fenced = self.fences.stand(place);
                let generation = self.gate.generation();
                let Some(stored) = load().await? else { return Ok(None) };
                if fenced || generation == 0 {
                    return Ok(Row::new(stored));
                }
                let row = self.row(place, generation, stored, unwrap);
                if let Some(row) = &row {
                    // Refused if a write removed the placeholder meanwhile; then the row stays uncached.
                    let _ = guard.insert(Arc::clone(row));
                }
                Ok(row)
            }
        }
    }

    /// A row to be kept.
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

    /// Forgets `place` and caches nothing for it until the fence is dropped.
    pub(crate) fn fence(&self, place: &Place) -> Fence<'_> {
        self.raise(Some(place));
        Fence { cache: self, place: place.clone() }
    }

    /// Forgets a place, or all, and caches nothing for it until [`RowCache::lift`].
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

    /// Forgets every row, and those that are being loaded.
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

/// While it lives, its place is not cached.
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
    use std::time::Duration;

    use agentrouter_model::{
        Description, KekId, Owner, Realm, SecretId, SecretName, Status, Tags, Timestamp, Version,
    };
    use tokio::sync::oneshot;

    use agentrouter_lease::{Boottime, Caches, Replica, Target, View};

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

    /// A row whose value stays as it is stored.
    async fn get<F, Load>(cache: &RowCache, place: &Place, load: Load) -> Result<Option<Arc<Row>>, StoreError>
    where
        F: Future<Output = Result<Option<Stored>, StoreError>>,
        Load: Fn() -> F,
    {
        cache.get_or_load(place, load, |_, _| None).await
    }

    /// What a read gives whose load, if it comes to one, finds `version`.
    async fn read(cache: &RowCache, version: i32) -> i32 {
        let row = get(cache, &place(), || async { Ok(Some(stored(version))) }).await;
        row.expect("the store answers").expect("a row").secret.version.get()
    }

    #[tokio::test]
    async fn a_row_is_loaded_once_and_forgotten_by_a_fence() {
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
        assert_eq!(read(&cache, 3).await, 3, "one of two writes goes on");
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
        let cache = cache_of(1 << 20);
        let (fence, place) = (Cell::new(None), place());
        let row = get(&cache, &place, || async {
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
        let cache = Arc::new(cache_of(1 << 20));
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
                get(&cache, &place(), load).await.expect("the store answers").expect("a row")
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
        let cache = Arc::new(cache_of(1 << 20));
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
            assert!(get(&cache, &place, load).await.is_err());
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
        let cache = cache_of(1 << 20);
        let absent = get(&cache, &place(), || async { Ok(None) }).await;
        assert!(absent.expect("the store answers").is_none());
        let failed = get(&cache, &place(), || async { Err(StoreError::Corrupt("a row")) }).await;
        assert!(failed.is_err());
        let destroyed = || async { Ok(Some(Stored { envelope: None, ..stored(1) })) };
        assert!(get(&cache, &place(), destroyed).await.expect("the store answers").is_none());
        assert_eq!(read(&cache, 2).await, 2);
    }

    #[tokio::test]
    async fn the_cache_keeps_to_its_bytes() {
        let cache = cache_of(64 * 1024);
        for number in 0..2000 {
            let place = Place { name: SecretName::parse(&format!("n{number}")).expect("a name"), ..place() };
            let loaded = get(&cache, &place, || async { Ok(Some(stored(1))) }).await;
            assert!(loaded.expect("the store answers").is_some());
        }
        let stats = cache.stats();
        assert!(stats.cached_bytes <= 64 * 1024 && stats.cached_rows > 10, "{stats:?}");
    }

    #[tokio::test]
    async fn rows_share_what_they_have_in_common_with_each_other_and_with_their_key() {
        let cache = cache_of(1 << 20);
        let mut rows = Vec::new();
        for name in ["a", "b"] {
            let place = Place { name: SecretName::parse(name).expect("a name"), ..place() };
            let load = || async {
                Ok(Some(Stored { secret: Secret { place: place.clone(), ..stored(1).secret }, ..stored(1) }))
            };
            rows.push(get(&cache, &place, load).await.expect("the store answers").expect("a row"));
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

    /// What a replica sees that renews its lease now.
    fn renewal(registered: bool) -> View {
        let era = String::new();
        View { era, registered, seq: 0, fences: Vec::new(), asked_at: Boottime::now(), recorded: Some(0) }
    }

    #[tokio::test]
    async fn a_row_is_kept_and_given_out_as_the_lease_allows() {
        let gate = Arc::new(Gate::shut());
        let cache = RowCache::new(1 << 20, Arc::clone(&gate));
        let lease = Duration::from_secs(1);
        let mut replica = Replica::new(Arc::new(Nothing), gate, lease);
        assert_eq!(read(&cache, 1).await, 1);
        assert_eq!(read(&cache, 2).await, 2, "nothing is kept before there is a lease");
        replica.registered();
        replica.synced(renewal(true));
        assert_eq!(read(&cache, 3).await, 3);
        assert_eq!(read(&cache, 4).await, 3, "from memory");

        std::thread::sleep(lease);
        assert_eq!(read(&cache, 5).await, 5, "the lease has run out");
        replica.synced(renewal(true));
        assert_eq!(read(&cache, 6).await, 3, "renewed in time to have missed nothing");

        replica.synced(renewal(false));
        assert_eq!(read(&cache, 7).await, 7, "the registration is gone");
        replica.registered();
        replica.synced(renewal(true));
        assert_eq!(read(&cache, 8).await, 8, "what was loaded before is another generation's");
        assert_eq!(read(&cache, 9).await, 8);
    }

    #[tokio::test]
    async fn a_load_from_before_a_new_registration_is_not_given_out_after_it() {
        let gate = Arc::new(Gate::shut());
        let cache = RowCache::new(1 << 20, Arc::clone(&gate));
        let mut replica = Replica::new(Arc::new(Nothing), gate, Duration::from_secs(600));
        replica.registered();
        replica.synced(renewal(true));
        let replica = Mutex::new(replica);
        let place = place();
        let late = get(&cache, &place, || async {
            let mut replica = replica.lock().expect("whole");
            replica.synced(renewal(false));
            replica.registered();
            replica.synced(renewal(true));
            Ok(Some(stored(1)))
        });
        assert!(late.await.expect("the store answers").is_some());
        assert_eq!(read(&cache, 2).await, 2);
    }

    #[tokio::test]
    async fn a_fence_around_everything_is_one_around_each() {
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
