//! Rewrapping: every wrapped key of the store is wrapped with the active KEK.
//!
//! A run walks over all wrapped keys in pages. Each page is unwrapped and wrapped in memory, and swapped in one transaction
//! that compares each key with what was read. A key that changed meanwhile is looked at again in the next pass. The run
//! ends with a pass that finds nothing to do. Sealed values, versions and times do not change.
//!
//! Nothing has to be remembered: a run that was killed is continued by the next one, which skips keys that are under the
//! active KEK. The one exception is resealing, which gives every version a new DEK. Its position is stored with each page.
//!
//! This server drops the cached rows of a page before the page is written. Other servers drop theirs at the end, because
//! only the `kek_id` of a cached row is out of date until then.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use agentrouter_audit::Progress;
use agentrouter_crypto::{CryptoError, InternalKey, open, rewrap, seal};
use agentrouter_keyring::Keyring;
use agentrouter_model::{Envelope, KekId, Slot};
use agentrouter_store::portable::LeftOut;
use agentrouter_store::wrapped_keys::{DekCursor, DekQuery, DekSwap, KEKS, RESEALED, StoredDek};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::kek_changes::{Activated, KekChange, KekError, complete};
use crate::kek_facts::Fact;
use crate::kek_record::Disuse;
use crate::unlock::{AUDIT, PAGE_TOKENS};
use crate::{AdminAct, Origin, Service};

/// Most keys of a page. A page is one transaction, for which other writes wait.
const PAGE: u32 = 200;
/// Most values of a page that is sealed again. A value has up to 64 KiB.
const PAGE_OF_VALUES: u32 = 32;
/// How many pages a limited run writes in a second.
const PAGES_PER_SECOND: u32 = 4;

/// How keys are rewrapped.
#[derive(Clone, Copy, Debug, Default)]
pub struct RewrapOptions {
    /// Most keys in a second. `None` for no limit.
    pub rate: Option<NonZeroU32>,
    /// Whether every value is also sealed again under a new DEK.
    pub reseal: bool,
}

/// A run that came to its end.
#[derive(Clone, Debug)]
pub struct Rewrapped {
    /// The KEK that wraps all keys now.
    pub active: KekId,
    /// The number of keys that were wrapped with it.
    pub rewrapped: u64,
    /// The number of values that were sealed again.
    pub resealed: u64,
    /// The keys that do not unwrap or parse, which are as they were.
    pub failed: LeftOut,
}

/// A rotation that came to its end.
#[derive(Debug)]
pub struct Rotated {
    /// Whether an earlier rotation was continued.
    pub continued: bool,
    /// The activation.
    pub activated: Activated,
    /// The rewrapping.
    pub rewrapped: Rewrapped,
}

/// The counters of all runs, for metrics.
#[derive(Debug, Default)]
pub(crate) struct RewrapCounters {
    pub(crate) running: AtomicBool,
    pub(crate) rewrapped: AtomicU64,
    pub(crate) resealed: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) remaining: AtomicU64,
    /// The server stops.
    stopping: AtomicBool,
}

/// A run in progress.
struct Run<'a> {
    service: &'a Service,
    keyring: Arc<Keyring>,
    options: RewrapOptions,
    progress: &'a watch::Sender<Progress>,
    done: Progress,
    result: Rewrapped,
    /// When the limit of the rate allows the next page.
    next: Instant,
}

/// The client of the command is gone, or the server stops.
fn stopped() -> KekError {
    KekError::Forbidden {
        what: "the rewrapping was stopped before its end".to_owned(),
        hint: Some("run 'kek rewrap' to continue it".to_owned()),
    }
}

impl Service {
    /// Wraps every key of the store with the active KEK. Reads and writes continue meanwhile. The run ends early when the
    /// receiver of `progress` is dropped.
    ///
    /// # Errors
    /// When another change is in progress, the run was stopped, or the audit log or the store fails. What was done stays.
    pub async fn rewrap(
        self: &Arc<Self>,
        origin: &Origin,
        options: RewrapOptions,
        progress: watch::Sender<Progress>,
    ) -> Result<Rewrapped, KekError> {
        let (service, origin) = (Arc::clone(self), origin.clone());
        let work = async move {
            let change = service.begin_kek_change().await?;
            service.rewrap_during(&change, &origin, options, &progress).await
        };
        complete(work).await
    }

    /// Adds a KEK, activates it and rewraps all keys with it. An earlier rotation that is not complete is continued.
    ///
    /// # Errors
    /// As of the three steps.
    pub async fn rotate_kek(
        self: &Arc<Self>,
        origin: &Origin,
        options: RewrapOptions,
        progress: watch::Sender<Progress>,
    ) -> Result<Rotated, KekError> {
        let (service, origin) = (Arc::clone(self), origin.clone());
        let work = async move {
            let change = service.begin_kek_change().await?;
            let (id, continued) = match service.unfinished_rotation(options.reseal).await? {
                Some(id) => (id, true),
                None => (service.start_rotation(&change, &origin, options.reseal).await?, false),
            };
            let activated = service.activate_during(&change, &origin, Some(id)).await?;
            let rewrapped = service.rewrap_during(&change, &origin, options, &progress).await?;
            Ok(Rotated { continued, activated, rewrapped })
        };
        complete(work).await
    }

    /// Ends a run before its next page. Called when the server stops.
    pub fn stop_rewrapping(&self) {
        self.rewraps.stopping.store(true, Ordering::SeqCst);
    }

    /// Adds the KEK of a rotation, and remembers whether values are to be sealed again.
    async fn start_rotation(
        &self,
        change: &KekChange,
        origin: &Origin,
        reseals: bool,
    ) -> Result<KekId, KekError> {
        let id = self.add_during(change, origin).await?;
        if reseals {
            self.set_fact(RESEALED, &position(&id, &DekCursor::default())).await?;
        }
        Ok(id)
    }

    /// The KEK of a rotation that is not complete: one that was added, or the active one while keys are under others.
    ///
    /// A rotation that seals values again follows a leak of the KEK file, which may have that KEK. So it continues only one
    /// that sealed values again, too.
    async fn unfinished_rotation(&self, reseals: bool) -> Result<Option<KekId>, KekError> {
        let keyring = self.held_keyring()?;
        let active = keyring.active().id();
        let earlier = self.fact(RESEALED).await?;
        let is_resealing = earlier != Fact::Absent;
        if reseals && earlier.text().and_then(|text| resumed(&text, keyring.newest())).is_none() {
            return Ok(None);
        }
        if keyring.newest() != active {
            return Ok(Some(keyring.newest().clone()));
        }
        let used = self.store.kek_use().await?;
        let left = used.iter().any(|(id, _)| id != active) || is_resealing;
        Ok(left.then(|| active.clone()))
    }

    async fn rewrap_during(
        &self,
        _: &KekChange,
        origin: &Origin,
        options: RewrapOptions,
        progress: &watch::Sender<Progress>,
    ) -> Result<Rewrapped, KekError> {
        let keyring = self.held_keyring()?;
        let active = keyring.active().id().clone();
        self.record_kek_attempt(origin, AdminAct::RewrapKeys, Some(&active)).await?;
        self.rewraps.running.store(true, Ordering::Relaxed);
        let result =
            Rewrapped { active: active.clone(), rewrapped: 0, resealed: 0, failed: LeftOut::default() };
        let (done, next) = (Progress::default(), Instant::now());
        let run = Run { service: self, keyring, options, progress, done, result, next };
        let rewrapped = run.run().await;
        self.rewraps.running.store(false, Ordering::Relaxed);
        self.rewraps.remaining.store(0, Ordering::Relaxed);
        self.conclude_kek(origin, AdminAct::RewrapKeys, Some(&active), rewrapped.as_ref().err()).await;
        rewrapped
    }
}

impl Run<'_> {
    async fn run(mut self) -> Result<Rewrapped, KekError> {
        let active = self.result.active.clone();
        let before = self.service.store.kek_use().await?;
        let is_left = |id: &KekId| self.options.reseal || *id != active;
        self.done.of = before.iter().filter(|(id, _)| is_left(id)).map(|(_, keys)| keys).sum();
        self.show();
        self.internal_keys().await?;
        if self.options.reseal {
            self.reseal().await?;
        }
        while self.pass().await? > 0 {}
        self.note_unused(&before).await?;
        self.service.store.announce_keks().await?;
        Ok(self.result)
    }

    /// Rewraps the service's own keys.
    async fn internal_keys(&mut self) -> Result<(), KekError> {
        let (service, keyring) = (self.service, Arc::clone(&self.keyring));
        let active = keyring.active();
        for (purpose, from) in service.store.internal_keys().await? {
            if from.0 == *active.id() {
                continue;
            }
            let known = [AUDIT, PAGE_TOKENS].into_iter().find(|known| *known == purpose);
            let wrapped = match (known, keyring.kek(&from.0)) {
                (Some(known), Some(kek)) => InternalKey::rewrap(&*service.rng, kek, active, known, &from.1),
                _ => Err(CryptoError::WrongKek),
            };
            match wrapped {
                Ok(wrapped) => {
                    let to = (active.id().clone(), wrapped);
                    if service.store.swap_internal_key(&purpose, &from, &to).await? {
                        self.count(1);
                    }
                }
                Err(error) => self.failed(error, || format!("the service's own key for {purpose}"))?,
            }
        }
        Ok(())
    }

    /// Rewraps the keys that are not under the active KEK. Returns how many there were that unwrap.
    async fn pass(&mut self) -> Result<u64, KekError> {
        let size = self.page_size(PAGE);
        let not_under = Some(self.result.active.clone());
        let mut query = DekQuery { not_under, after: DekCursor::default(), limit: size, with_values: false };
        let mut found = 0;
        self.result.failed = LeftOut::default();
        loop {
            let page = self.service.store.wrapped_deks(&query).await?;
            self.damaged(page.damaged);
            let mut swaps = Vec::with_capacity(page.deks.len());
            for dek in page.deks {
                swaps.extend(self.rewrapped(dek)?);
            }
            found += swaps.len() as u64;
            self.swap(swaps, None).await?;
            match page.next {
                Some(next) => query.after = next,
                None => return Ok(found),
            }
        }
    }

    /// The key under the active KEK. `None` if it does not unwrap.
    fn rewrapped(&mut self, from: StoredDek) -> Result<Option<DekSwap>, KekError> {
        let slot = Slot { place: &from.place, id: from.id, version: from.version };
        let active = self.keyring.active();
        let wrapped = match self.keyring.kek(&from.kek_id) {
            Some(kek) => rewrap(&*self.service.rng, kek, active, slot, &from.wrapped),
            None => Err(CryptoError::WrongKek),
        };
        let kek_id = active.id().clone();
        match wrapped {
            Ok(wrapped) => Ok(Some(DekSwap { from, kek_id, wrapped, sealed: None })),
            Err(error) => self.failed_dek(error, &from).map(|()| None),
        }
    }

    /// Seals every value again, from the position where an earlier run with the same KEK ended.
    async fn reseal(&mut self) -> Result<(), KekError> {
        let size = self.page_size(PAGE_OF_VALUES);
        let earlier = self.service.fact(RESEALED).await?.text();
        let after = earlier.and_then(|text| resumed(&text, &self.result.active)).unwrap_or_default();
        let mut query = DekQuery { not_under: None, after, limit: size, with_values: true };
        loop {
            let page = self.service.store.wrapped_deks(&query).await?;
            let mut swaps = Vec::with_capacity(page.deks.len());
            for dek in page.deks {
                swaps.extend(self.resealed(dek)?);
            }
            let Some(next) = page.next else {
                self.swap(swaps, None).await?;
                return Ok(self.service.store.set_kek_fact(RESEALED, None).await?);
            };
            let position = position(&self.result.active, &next);
            self.swap(swaps, Some(self.service.tagged_fact(RESEALED, &position)?)).await?;
            query.after = next;
        }
    }

    /// The value under a new DEK and the active KEK. `None` if it does not open. The pass that follows names a key that
    /// does not unwrap.
    fn resealed(&mut self, mut from: StoredDek) -> Result<Option<DekSwap>, KekError> {
        let Some(sealed) = from.sealed.take() else { return Ok(None) };
        let slot = Slot { place: &from.place, id: from.id, version: from.version };
        let envelope = Envelope { kek_id: from.kek_id.clone(), wrapped_dek: from.wrapped.clone(), sealed };
        let value = match self.keyring.kek(&from.kek_id) {
            Some(kek) => open(kek, slot, &envelope),
            None => Err(CryptoError::WrongKek),
        };
        match value.and_then(|value| seal(&*self.service.rng, self.keyring.active(), slot, &value)) {
            Ok(Envelope { kek_id, wrapped_dek: wrapped, sealed }) => {
                Ok(Some(DekSwap { from, kek_id, wrapped, sealed: Some(sealed) }))
            }
            Err(error @ (CryptoError::Random(_) | CryptoError::Library)) => Err(error.into()),
            Err(_) => Ok(None),
        }
    }

    /// Writes a page when the rate allows it. Rows of it are not cached meanwhile.
    async fn swap(&mut self, swaps: Vec<DekSwap>, position: Option<String>) -> Result<(), KekError> {
        if swaps.is_empty() && position.is_none() {
            return self.continues();
        }
        self.pace(swaps.len()).await?;
        let resealed = swaps.first().is_some_and(|swap| swap.sealed.is_some());
        let service = self.service;
        let places: Vec<_> = swaps.iter().map(|swap| swap.from.place.clone()).collect();
        let fences: Vec<_> = places.iter().map(|place| service.rows.fence(place)).collect();
        let swapped = service.store.swap_deks(swaps, position).await?;
        drop(fences);
        if resealed {
            self.result.resealed += swapped;
            service.rewraps.resealed.fetch_add(swapped, Ordering::Relaxed);
        }
        self.count(swapped);
        Ok(())
    }

    /// Waits for the rate. The wait is short, so that a stop is noticed.
    async fn pace(&mut self, keys: usize) -> Result<(), KekError> {
        self.continues()?;
        if let Some(rate) = self.options.rate {
            while let Some(wait) =
                self.next.checked_duration_since(Instant::now()).filter(|wait| !wait.is_zero())
            {
                sleep(wait.min(Duration::from_millis(500))).await;
                self.continues()?;
            }
            self.next = Instant::now() + Duration::from_secs(keys as u64) / rate.get();
        }
        Ok(())
    }

    fn page_size(&self, most: u32) -> u32 {
        self.options.rate.map_or(most, |rate| (rate.get() / PAGES_PER_SECOND).clamp(1, most))
    }

    fn continues(&self) -> Result<(), KekError> {
        let stop = self.service.rewraps.stopping.load(Ordering::SeqCst) || self.progress.is_closed();
        if stop {
            return Err(stopped());
        }
        // The run has its own copy of the KEKs. They must not be used after the root key was denied.
        self.service.held_keyring().map(|_| ())
    }

    fn count(&mut self, keys: u64) {
        self.result.rewrapped += keys;
        self.done.bytes = (self.done.bytes + keys).min(self.done.of);
        self.service.rewraps.rewrapped.fetch_add(keys, Ordering::Relaxed);
        self.show();
    }

    fn show(&self) {
        self.service.rewraps.remaining.store(self.done.of - self.done.bytes, Ordering::Relaxed);
        self.progress.send_replace(self.done);
    }

    fn damaged(&mut self, rows: u64) {
        for _ in 0..rows {
            self.result.failed.note(|| "a version that does not parse".to_owned());
        }
        self.service.rewraps.failed.fetch_add(rows, Ordering::Relaxed);
    }

    fn failed_dek(&mut self, error: CryptoError, dek: &StoredDek) -> Result<(), KekError> {
        self.failed(error, || format!("version {} of secret {}", dek.version, dek.id))
    }

    /// Notes a key that does not unwrap. A failure of the library ends the run.
    fn failed(&mut self, error: CryptoError, name: impl FnOnce() -> String) -> Result<(), KekError> {
        match error {
            CryptoError::Random(_) | CryptoError::Library => Err(error.into()),
            CryptoError::Corrupt | CryptoError::WrongKek | CryptoError::UnknownFormat => {
                self.result.failed.note(name);
                self.service.rewraps.failed.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
        }
    }

    /// Remembers since when each former KEK wraps nothing.
    async fn note_unused(&self, before: &[(KekId, u64)]) -> Result<(), KekError> {
        let store = &self.service.store;
        let (used, record) = (store.kek_use().await?, self.service.kek_record().await?);
        // A record that is not authentic begins again.
        let mut changed = record.is_none();
        let mut record = record.unwrap_or_default();
        let active = self.keyring.rank(&self.result.active);
        let former = self.keyring.ids().filter(|id| self.keyring.rank(id) < active);
        let former = former.filter(|id| !used.iter().any(|(used, _)| used == *id));
        for id in former {
            let emptied = before.iter().any(|(used, _)| used == id);
            if emptied || record.of(id).is_none() {
                record.set(id, Some(Disuse::Unused(self.service.clock.now())));
                changed = true;
            }
        }
        if changed {
            self.service.set_fact(KEKS, &record.to_text()).await?;
        }
        Ok(())
    }
}

/// The text of a position of a run that seals again.
fn position(active: &KekId, next: &DekCursor) -> String {
    format!("{active} {} {}", next.number, next.secret)
}

/// The position of an earlier run with the same active KEK.
fn resumed(text: &str, active: &KekId) -> Option<DekCursor> {
    let (kek, rest) = text.split_once(' ')?;
    let (number, secret) = rest.split_once(' ')?;
    (kek == active.as_str())
        .then_some(())
        .and_then(|()| Some(DekCursor { secret: secret.to_owned(), number: number.parse().ok()? }))
}
