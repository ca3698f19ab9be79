//! What the service does by itself, and what every change has in common.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use agentrouter_crypto::seal;
use agentrouter_model::{Place, Reason, Refusal, Rpc, Secret, SecretValue, Version};
use agentrouter_store::{SealError, Sealer, WriteError};

use crate::audit_records::Subject;
use crate::{CallContext, Service, run_to_completion, store_refusal};

/// Most versions whose ciphertext is destroyed in one transaction, so that writers wait for no long one.
const RETIRE_BATCH: u32 = 500;
/// How often owed audit records are tried again and the audit head is kept, while there is anything to do.
const TICK: Duration = Duration::from_secs(1);
/// How soon after a rotation it is looked at when the next version is due.
const AFTER_ROTATION: Duration = Duration::from_millis(50);
/// How often the audit head is kept in the store, at most.
const HEAD_EVERY: u32 = 10;

/// What a change comes to: which version its record names.
pub(crate) trait Versioned {
    fn version(&self) -> Option<Version>;
}

impl Versioned for Secret {
    fn version(&self) -> Option<Version> {
        Some(self.version)
    }
}

/// Of a secret that is no more; none if its row did not tell.
impl Versioned for Option<Version> {
    fn version(&self) -> Option<Version> {
        *self
    }
}

impl Service {
    /// Does what a change needs around it: the attempt's record, the fence around the cached row, the change itself,
    /// the outcome's record. All of it runs to its end, whatever becomes of the caller.
    pub(crate) async fn change<T, F, Act>(
        self: &Arc<Self>,
        ctx: Arc<CallContext>,
        rpc: Rpc,
        place: Place,
        act: Act,
    ) -> Result<T, Refusal>
    where
        T: Versioned + Send + 'static,
        Act: FnOnce(Arc<Self>) -> F + Send + 'static,
        F: Future<Output = Result<T, Refusal>> + Send + 'static,
    {
        let service = Arc::clone(self);
        let task = async move {
            let mut subject = Subject::at(&place);
            service.attempt(&ctx, rpc, &subject).await?;
            let result = {
                let _fence = service.rows.fence(&place);
                act(Arc::clone(&service)).await
            };
            subject.version = result.as_ref().ok().and_then(Versioned::version);
            service.conclude(&ctx, rpc, &subject, result).await
        };
        run_to_completion(task).await.unwrap_or_else(|panic| {
            tracing::error!(error = &panic as &dyn std::error::Error, %rpc, "a change did not finish");
            Err(Reason::Internal.into())
        })
    }

    /// Seals `value` for the slot that the store assigns, under the active KEK and a fresh DEK each time.
    pub(crate) fn sealer(&self, value: SecretValue) -> Sealer {
        let kek = Arc::clone(self.keyring.active());
        let rng = Arc::clone(&self.rng);
        Box::new(move |slot| {
            seal(&*rng, &kek, slot, &value).map_err(|error| {
                tracing::error!(error = &error as &dyn std::error::Error, "a value could not be sealed");
                SealError
            })
        })
    }

    /// What a caller is told of a write that did not happen. `value_field` is the field that a missing value is missed
    /// in.
    pub(crate) fn write_refusal(&self, error: WriteError, value_field: &'static str) -> Refusal {
        match error {
            WriteError::ValueNeeded => Refusal::field(
                value_field,
                "must be set: there is no such secret yet, and a new one needs a value",
            ),
            WriteError::NotFound => Reason::SecretNotFound.into(),
            WriteError::VersionMismatch => Reason::VersionMismatch.into(),
            WriteError::VersionsExhausted => Reason::VersionsExhausted.into(),
            WriteError::Seal(_) => Reason::Internal.into(),
            WriteError::Store(error) => store_refusal(&error),
        }
    }

    /// The service's own work, until the future is dropped: it destroys the ciphertext of versions whose grace is over
    /// (they are unreadable from that instant anyway), writes owed audit records, and keeps the audit head in the
    /// store. It looks at rows that are due, by their index, and never at the whole store.
    pub async fn run_maintenance(&self) {
        let mut due = tokio::time::Instant::now();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut ticks = 0_u32;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(due) => due = self.retire_due().await,
                // What was rotated may be due before all else. A look for each of thousands a second took as long as they
                // did.
                () = self.rotated.notified() => due = due.min(tokio::time::Instant::now() + AFTER_ROTATION),
                _ = tick.tick() => {
                    self.settle().await;
                    ticks = ticks.wrapping_add(1);
                    if ticks.is_multiple_of(HEAD_EVERY) {
                        self.keep_audit_head().await;
                    }
                }
            }
        }
    }

    /// Keeps the last fsynced record of the audit log in the store, so that a log cut short is found.
    pub async fn keep_audit_head(&self) {
        let head = self.audit.synced_head();
        if self.kept_head.load(Ordering::Relaxed) == head.seq {
            return;
        }
        match self.store.set_audit_head((head.seq, head.mac)).await {
            Ok(()) => self.kept_head.store(head.seq, Ordering::Relaxed),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the audit head could not be kept");
            }
        }
    }

    /// Retires what is due and says when to look again.
    async fn retire_due(&self) -> tokio::time::Instant {
        const LONGEST_SLEEP: Duration = Duration::from_secs(60);
        let now = self.clock.now();
        let wait = match self.store.retire_expired(now, RETIRE_BATCH).await {
            Ok(Some(next)) => next.saturating_since(now).clamp(Duration::from_millis(10), LONGEST_SLEEP),
            Ok(None) => LONGEST_SLEEP,
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "expired versions could not be retired"
                );
                LONGEST_SLEEP
            }
        };
        tokio::time::Instant::now() + wait
    }
}
