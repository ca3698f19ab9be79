//! The background work of the service: expired versions, owed audit records, the audit head.
//!
//! The server runs [`Service::run_maintenance`] as one task. It reads due rows by their index and never scans the store.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::Service;

/// The most versions whose ciphertext one transaction destroys, so that writers do not wait for a long transaction.
const RETIRE_BATCH: u32 = 500;
/// The interval at which owed audit records are written.
const TICK: Duration = Duration::from_secs(1);
/// The ticks from one write of the audit head to the store to the next.
const HEAD_TICKS: u32 = 10;
/// The delay from a rotation to the look-up of the next due version: one look-up serves the rotations of that time.
const AFTER_ROTATION: Duration = Duration::from_millis(50);
/// The longest time between two look-ups of due versions.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

impl Service {
    /// Works until the future is dropped. Destroys the ciphertext of versions whose grace is over (reads reject them from
    /// that instant), writes owed audit records, and writes the audit head to the store.
    pub async fn run_maintenance(&self) {
        let mut due = Instant::now();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ticks = 0_u32;
        loop {
            tokio::select! {
                () = sleep_until(due) => due = Instant::now() + self.retire_due().await,
                // The pending version of a rotation may be the next one due.
                () = self.rotated.notified() => due = due.min(Instant::now() + AFTER_ROTATION),
                _ = tick.tick() => {
                    self.write_owed().await;
                    ticks = ticks.wrapping_add(1);
                    if ticks.is_multiple_of(HEAD_TICKS) {
                        self.write_audit_head().await;
                    }
                }
            }
        }
    }

    /// Writes the last fsynced record of the audit log to the store, so that a truncated log is detected.
    pub async fn write_audit_head(&self) {
        let head = self.audit.synced_head();
        if self.kept_head.load(Ordering::Relaxed) == head.seq {
            return;
        }
        match self.store.set_audit_head((head.seq, head.mac)).await {
            Ok(()) => self.kept_head.store(head.seq, Ordering::Relaxed),
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the audit head could not be written to the store"
                );
            }
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
