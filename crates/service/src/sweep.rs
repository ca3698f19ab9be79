//! The sweep: every stored version is opened, at a limited rate, so that one that does not open is found before it is read.
//!
//! A *pass* goes once over all versions that have a value, of any status. Of several servers on one database, one at a time
//! works, for [`SLICE`] at most, and any of them continues. The position and the result are a fact of the store
//! ([`SWEEP`]), so they survive a restart, and every server shows the same. A pass pauses while the server has no KEKs or
//! lacks one of the store. A value is wiped as soon as it is opened. Nothing is cached, and nothing but the fact is
//! written.
//!
//! Called by the server, in a task of its own. Not found: rows that were deleted or put back (see `doctor`).

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use agentrouter_crypto::{CryptoError, open};
use agentrouter_keyring::Keyring;
use agentrouter_model::{Envelope, Slot, Timestamp};
use agentrouter_store::wrapped_keys::{DekQuery, SWEEP, StoredDek};
use agentrouter_store::{RowTags, Store, StoreError};
use tokio::time::{Instant, sleep, sleep_until};

use crate::Service;
use crate::kek_facts::read_fact;
use crate::sweep_record::{Pass, SweepRecord, UNKNOWN_KEK};

/// The time from the start of the server to the start of the sweep.
const START: Duration = Duration::from_secs(5);
/// The longest time between two looks at what other servers have found.
const LOOK: Duration = Duration::from_secs(30);
/// The longest work until the position is stored and another server may continue.
const SLICE: Duration = Duration::from_secs(30);
/// Most versions that are read at once: up to 1 MiB.
const PAGE: u32 = 16;
/// How many pages are read in a second at a low rate.
const PAGES_PER_SECOND: u32 = 4;
/// Most versions of a pass that are logged by their ids.
const NAMED: u64 = 10;

/// What the sweep has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sweep {
    /// When the last complete pass ended. `None` before the first.
    pub completed_at: Option<Timestamp>,
    /// The versions with a value in that pass, by the KEK that wraps their DEK.
    pub versions: Vec<(String, u64)>,
    /// How many of them did not open, or did not in the pass that is in progress if those are more.
    pub undecryptable: u64,
    /// How many versions the pass in progress has opened. `None` between passes.
    pub progress: Option<u64>,
}

/// What this server knows of the sweep.
#[derive(Debug)]
pub(crate) struct SweepState {
    since: Timestamp,
    seen: Mutex<Sweep>,
}

impl SweepState {
    pub(crate) fn new(since: Timestamp) -> Self {
        Self { since, seen: Mutex::new(SweepRecord::default().seen()) }
    }
}

/// What the sweep of a store has found, for an examination. `None` if it is not authentic.
///
/// # Errors
/// When the store cannot be read.
pub async fn read_sweep(store: &dyn Store, tags: &dyn RowTags) -> Result<Option<Sweep>, StoreError> {
    let text = read_fact(store, tags, SWEEP).await?.text();
    Ok(text.and_then(|text| SweepRecord::parse(&text)).map(|record| record.seen()))
}

impl Service {
    /// What the sweep has found. `None` if it is off.
    pub fn sweep(&self) -> Option<Sweep> {
        NonZeroU32::new(self.settings.sweep_rate)?;
        Some(self.swept.seen.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// The time since the last complete pass, or since the start of this server if it knows of none. `None` if the sweep is
    /// off.
    pub fn sweep_age(&self) -> Option<Duration> {
        let completed_at = self.sweep()?.completed_at;
        Some(self.clock.now().saturating_since(completed_at.unwrap_or(self.swept.since)))
    }

    /// Sweeps until the future is dropped.
    pub async fn run_sweep(&self) {
        let Some(rate) = NonZeroU32::new(self.settings.sweep_rate) else { return };
        // What was found before this start is shown at once.
        if let Ok(record) = self.sweep_record().await {
            self.show_sweep(&record);
        }
        sleep(START).await;
        let mut failing = false;
        loop {
            let pause = self.sweep_on(rate).await;
            if let Err(error) = &pause
                && !failing
            {
                tracing::warn!(
                    error = error as &dyn std::error::Error,
                    "the sweep cannot continue: it tries again"
                );
            }
            failing = pause.is_err();
            sleep(pause.unwrap_or(LOOK)).await;
        }
    }

    /// Works on the pass in progress or begins one that is due, at `rate` versions in a second. Returns the time to wait
    /// until there is more to do.
    ///
    /// # Errors
    /// When the store cannot be read or written. What was done until the last call stays.
    pub async fn sweep_on(&self, rate: NonZeroU32) -> Result<Duration, StoreError> {
        // Without one of the KEKs of the store, this server cannot tell whether a version is whole.
        if !self.has_keks() || self.missing_kek().is_some() {
            return Ok(LOOK);
        }
        if let Some(wait) = self.wait_for_pass(&self.sweep_record().await?) {
            return Ok(wait);
        }
        let Some(lock) = self.store.lock_sweep().await? else { return Ok(LOOK) };
        // Another server may have worked until now.
        let mut record = self.sweep_record().await?;
        if let Some(wait) = self.wait_for_pass(&record) {
            return Ok(wait);
        }
        let mut pass = record.current.take().unwrap_or_else(|| Pass::begin(self.clock.now()));
        let ended = self.slice(&mut pass, rate, &record).await;
        if matches!(ended, Ok(true)) {
            pass.end(self.clock.now());
            if pass.undecryptable > 0 {
                let (undecryptable, versions) = (pass.undecryptable, pass.count());
                tracing::error!(undecryptable, versions, "stored versions do not open; run 'doctor'");
            }
            record.complete = Some(pass);
        } else {
            record.current = Some(pass);
        }
        self.show_sweep(&record);
        self.set_fact(SWEEP, &record.to_text()).await?;
        drop(lock);
        ended.map(|_| Duration::ZERO)
    }

    /// The time to wait if no pass is in progress or due.
    fn wait_for_pass(&self, record: &SweepRecord) -> Option<Duration> {
        self.show_sweep(record);
        if record.current.is_some() {
            return None;
        }
        let due = record.complete.as_ref()?.next(self.settings.sweep_interval);
        let wait = due.saturating_since(self.clock.now());
        (!wait.is_zero()).then(|| wait.min(LOOK))
    }

    async fn sweep_record(&self) -> Result<SweepRecord, StoreError> {
        let text = self.fact(SWEEP).await?.text();
        Ok(text.and_then(|text| SweepRecord::parse(&text)).unwrap_or_default())
    }

    fn show_sweep(&self, record: &SweepRecord) {
        *self.swept.seen.lock().unwrap_or_else(PoisonError::into_inner) = record.seen();
    }

    /// Opens versions from the position of the pass on. Returns whether it came to the end.
    async fn slice(
        &self,
        pass: &mut Pass,
        rate: NonZeroU32,
        record: &SweepRecord,
    ) -> Result<bool, StoreError> {
        let end = Instant::now() + SLICE;
        let limit = (rate.get() / PAGES_PER_SECOND).clamp(1, PAGE);
        let mut next = Instant::now();
        let mut looked = false;
        while Instant::now() < end {
            sleep_until(next).await;
            let query = DekQuery { not_under: None, after: pass.at.clone(), limit, with_values: true };
            let page = self.store.wrapped_deks(&query).await?;
            let Some(mut keyring) = self.keyring() else { return Ok(false) };
            let read = page.deks.len() as u64 + page.damaged;
            next = Instant::now() + Duration::from_secs(read) / rate.get();
            if !looked && page.deks.iter().any(|dek| keyring.kek(&dek.kek_id).is_none()) {
                // Another server may have activated a KEK since.
                looked = true;
                self.refresh_keks().await?;
                match self.keyring() {
                    Some(present) if self.missing_kek().is_none() => keyring = present,
                    _ => return Ok(false),
                }
            }
            for dek in page.deks {
                self.try_to_open(pass, &keyring, dek);
            }
            for _ in 0..page.damaged {
                note(pass, "a stored version does not parse", || "unknown".to_owned());
            }
            match page.next {
                Some(at) => pass.at = at,
                None => return Ok(true),
            }
            self.show_sweep(&SweepRecord { current: Some(pass.clone()), ..record.clone() });
        }
        Ok(false)
    }

    /// Opens one version, and wipes the value.
    fn try_to_open(&self, pass: &mut Pass, keyring: &Arc<Keyring>, dek: StoredDek) {
        let StoredDek { place, id, version, kek_id, wrapped, sealed, .. } = dek;
        let Some(sealed) = sealed else { return };
        let slot = Slot { place: &place, id, version };
        let envelope = Envelope { kek_id, wrapped_dek: wrapped, sealed };
        let kek = keyring.kek(&envelope.kek_id);
        pass.see(kek.map_or(UNKNOWN_KEK, |kek| kek.id().as_str()));
        // The value is wiped when it is dropped, which is here.
        let opened = kek.ok_or(CryptoError::WrongKek).and_then(|kek| open(kek, slot, &envelope).map(drop));
        if opened.is_err() {
            note(pass, "a stored version does not open", || format!("secret {id} version {version}"));
        }
    }
}

/// Counts a version that does not open, and logs the first ones of a pass.
fn note(pass: &mut Pass, what: &str, name: impl FnOnce() -> String) {
    pass.undecryptable += 1;
    if pass.undecryptable <= NAMED {
        tracing::error!(version = name(), "the sweep: {what}; run 'doctor'");
    }
}
