//! Health check with hysteresis: writes to the database once a second.
//!
//! Every replica sees a short failure of the database at the same moment. A load balancer that removed all of them
//! would turn it into an outage. So the check fails only after [`PATIENCE`] of failures, and passes again at the first
//! success.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, timeout};

use super::failure::LATE;
use super::queue::Queue;
use super::sql::Sql;
use super::step::Step;
use agentrouter_store::StoreError;

/// How long the database must fail until the check does.
const PATIENCE: Duration = Duration::from_secs(5);
/// The interval of the writes.
const EVERY: Duration = Duration::from_secs(1);
/// How long a write may take.
const LIMIT: Duration = Duration::from_secs(2);

/// Watches the database until dropped.
pub(super) struct Health {
    /// The start of the current failures, and the last error.
    failing: Arc<Mutex<Option<(Instant, StoreError)>>>,
    watch: Option<JoinHandle<()>>,
}

impl Health {
    /// Watches through the writers of `queue`.
    pub(super) fn watch(queue: Arc<Queue>, replica: String) -> Self {
        let failing = Arc::default();
        let watch = tokio::spawn(watch(queue, replica, Arc::clone(&failing)));
        Self { failing, watch: Some(watch) }
    }

    /// The check of a read-only store.
    pub(super) fn read_only() -> Self {
        Self { failing: Arc::default(), watch: None }
    }

    pub(super) fn finding(&self) -> Result<(), StoreError> {
        match &*self.failing.lock().unwrap_or_else(PoisonError::into_inner) {
            Some((since, error)) if since.elapsed() >= PATIENCE => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// Since when attempts have failed, if the last one did.
    #[cfg(test)]
    pub(super) fn failing_since(&self) -> Option<Instant> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|(since, _)| *since)
    }

    pub(super) fn stop(&self) {
        if let Some(watch) = &self.watch {
            watch.abort();
        }
    }
}

impl Drop for Health {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn watch(queue: Arc<Queue>, replica: String, failing: Arc<Mutex<Option<(Instant, StoreError)>>>) {
    let mut interval = tokio::time::interval(EVERY);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        // A failure counts from the moment of the request, not from the moment of its error.
        let asked = Instant::now();
        let probe = queue.script(vec![Step::new(Sql::Probe).with(replica.clone())]);
        let finding = match timeout(LIMIT, probe).await {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(error),
            Err(_) => Some(LATE),
        };
        let mut failing = failing.lock().unwrap_or_else(PoisonError::into_inner);
        *failing = match (finding, failing.take()) {
            (None, _) => None,
            (Some(error), Some((since, _))) => Some((since, error)),
            (Some(error), None) => Some((asked, error)),
        };
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_failure_fails_the_check_once_it_has_lasted_until_the_first_success() {
        let health = Health::read_only();
        let set = |failing| *health.failing.lock().expect("not poisoned") = failing;
        assert!(health.finding().is_ok());
        set(Some((Instant::now(), LATE)));
        advance(PATIENCE - Duration::from_millis(1)).await;
        assert!(health.finding().is_ok(), "a blip");
        advance(Duration::from_millis(1)).await;
        assert!(health.finding().is_err());
        set(None);
        assert!(health.finding().is_ok());
    }
}
