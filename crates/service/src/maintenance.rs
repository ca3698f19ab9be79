//! The background work of the service: expired versions, owed audit records, the audit head, the key manifest, the KEKs,
//! the authentication of the rows of an older store.
//!
//! The server runs [`Service::run_maintenance`] as one task. It reads due rows by their index and never scans the store.

use std::future::pending;
use std::pin::Pin;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::{Service, UNKNOWN_HEAD};

/// The most versions whose ciphertext one transaction destroys, so that writers do not wait for a long transaction.
const RETIRE_BATCH: u32 = 500;
/// The interval at which owed audit records are written.
const TICK: Duration = Duration::from_secs(1);
/// The shortest time between two writes of the audit head. With the half second that a record waits for its fsync, the head
/// is at most a second old.
const HEAD_PAUSE: Duration = Duration::from_millis(300);
/// The pause between two log lines about a head that cannot be kept.
const HEAD_LOG_PAUSE: Duration = Duration::from_secs(60);
/// The ticks from one look at the key manifest to the next.
const MANIFEST_TICKS: u32 = 10;
/// The delay from a rotation to the look-up of the next due version: one look-up serves the rotations of that time.
const AFTER_ROTATION: Duration = Duration::from_millis(50);
/// The longest time between two look-ups of due versions.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// The head of the audit log cannot be kept.
pub(crate) struct HeadFailure {
    since: Instant,
    logged: Option<Instant>,
}

/// Work of the task beside its other work.
type Work<'a> = Option<Pin<Box<dyn Future<Output = ()> + Send + 'a>>>;

/// Waits for the end of the work, if there is any. Otherwise never completes.
async fn completion(work: &mut Work<'_>) {
    match work {
        Some(future) => future.await,
        None => pending().await,
    }
    *work = None;
}

impl Service {
    /// Works until the future is dropped. Destroys the ciphertext of versions whose grace is over (reads reject them from
    /// that instant), writes owed audit records, keeps the audit head, and looks at the key manifest and the KEKs: when
    /// another server has changed them, and every ten seconds.
    pub async fn run_maintenance(&self) {
        let mut due = Instant::now();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut head_due = Instant::now();
        let mut ticks = 0_u32;
        // Everything else continues meanwhile: the first may take minutes, and the second as long as the calls of a KMS.
        let mut authentication: Work<'_> = None;
        let mut look_at_keks: Work<'_> = None;
        let mut is_look_due = false;
        loop {
            if is_look_due && look_at_keks.is_none() {
                is_look_due = false;
                look_at_keks = Some(Box::pin(self.look_at_keks()));
            }
            tokio::select! {
                () = completion(&mut authentication) => {}
                () = completion(&mut look_at_keks) => {}
                () = sleep_until(due) => due = Instant::now() + self.retire_due().await,
                // The pending version of a rotation may be the next one due.
                () = self.rotated.notified() => due = due.min(Instant::now() + AFTER_ROTATION),
                // So that the revocation cannot be undone here either.
                () = self.keys_changed.notified() => {
                    self.look_at_key_manifest().await;
                    is_look_due = true;
                }
                _ = tick.tick() => {
                    self.write_owed().await;
                    // Retries a write that failed.
                    self.write_audit_head().await;
                    ticks = ticks.wrapping_add(1);
                    if ticks.is_multiple_of(MANIFEST_TICKS) {
                        if self.look_at_key_manifest().await {
                            authentication.get_or_insert_with(|| Box::pin(self.try_to_authenticate_rows()));
                        }
                        is_look_due = true;
                    }
                    is_look_due |= self.is_kek_file_changed();
                }
                // A dropped wait loses no fsync: the next `next_sync` returns at once.
                () = async { sleep_until(head_due).await; self.audit.next_sync().await } => {
                    self.write_audit_head().await;
                    head_due = Instant::now() + HEAD_PAUSE;
                }
            }
        }
    }

    /// Writes the last fsynced record of the audit log beside it and to the store, so that a truncated log is detected.
    pub async fn write_audit_head(&self) {
        if self.kept_head.load(Ordering::Relaxed) == self.audit.synced_head().seq {
            return;
        }
        let kept = self.keep_audit_head().await;
        let mut failing = self.head_failing.lock().unwrap_or_else(PoisonError::into_inner);
        match kept {
            Ok(seq) => {
                self.kept_head.store(seq, Ordering::Relaxed);
                *failing = None;
            }
            Err(error) => {
                let now = Instant::now();
                let failure = failing.get_or_insert(HeadFailure { since: now, logged: None });
                if failure.logged.is_none_or(|logged| now.duration_since(logged) >= HEAD_LOG_PAUSE) {
                    failure.logged = Some(now);
                    tracing::error!(
                        error = &*error,
                        "the head of the audit log cannot be kept: a truncation would not be found"
                    );
                }
            }
        }
    }

    /// How long the head of the audit log could not be kept. Zero if it was kept the last time.
    pub fn head_failing(&self) -> Duration {
        let failing = self.head_failing.lock().unwrap_or_else(PoisonError::into_inner);
        failing.as_ref().map_or(Duration::ZERO, |failure| failure.since.elapsed())
    }

    /// Writes the file first. So it is never behind the store, and an older file is detected.
    async fn keep_audit_head(&self) -> Result<u64, Box<dyn std::error::Error + Send + Sync>> {
        let audit = self.audit.clone();
        let Some(row) = spawn_blocking(move || audit.keep_head()).await?? else { return Ok(UNKNOWN_HEAD) };
        self.store.set_audit_head(row).await?;
        let audit = self.audit.clone();
        spawn_blocking(move || audit.row_is_kept(row)).await??;
        Ok(row.0)
    }

    /// Returns whether the rows of the store are still to be authenticated.
    async fn look_at_key_manifest(&self) -> bool {
        self.note_key_manifest().await.unwrap_or_else(|error| {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "the key manifest could not be read");
            false
        })
    }

    async fn try_to_authenticate_rows(&self) {
        if let Err(error) = self.authenticate_rows().await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "the rows of the store could not be authenticated");
        }
    }

    /// Retires the versions that are due. Returns the time to the next look-up.
    async fn retire_due(&self) -> Duration {
        let now = self.clock.now();
        match self.store.retire_expired(now, RETIRE_BATCH).await {
            Ok(Some(next)) => next.saturating_since(now).clamp(Duration::from_millis(10), LONGEST_SLEEP),
            Ok(None) => LONGEST_SLEEP,
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "expired versions could not be retired"
                );
                LONGEST_SLEEP
            }
        }
    }
}
