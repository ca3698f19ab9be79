//! The steps around every write: the attempt's record, the fence, the write, the outcome's record.
//!
//! Create, rotate and delete call [`Service::change`] after their checks.

use std::future::Future;
use std::sync::Arc;

use agentrouter_crypto::seal;
use agentrouter_model::{Place, Reason, Refusal, Rpc, Secret, SecretValue, Version};
use agentrouter_store::{SealError, Sealer, WriteError};

use crate::audit_records::Subject;
use crate::{CallContext, Service, run_to_completion, store_refusal};

/// The result of a write, with the version that its audit record names.
pub(crate) trait Versioned {
    fn version(&self) -> Option<Version>;
}

impl Versioned for Secret {
    fn version(&self) -> Option<Version> {
        Some(self.version)
    }
}

/// The last version of a deleted secret. `None` if its row was unreadable.
impl Versioned for Option<Version> {
    fn version(&self) -> Option<Version> {
        *self
    }
}

impl Service {
    /// Runs a write: records its attempt, fences `place`, runs `act`, records its outcome. It runs to completion even if
    /// the caller disconnects.
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
            tracing::error!(error = &panic as &dyn std::error::Error, %rpc, "a write panicked");
            Err(Reason::Internal.into())
        })
    }

    /// Seals `value` for the slot that the store assigns, under the KEK that is active then and a new DEK for each call.
    ///
    /// # Errors
    /// [`Reason::KekUnavailable`].
    pub(crate) fn sealer(&self, value: SecretValue) -> Result<Sealer, Refusal> {
        if !self.has_keks() {
            return Err(Reason::KekUnavailable.into());
        }
        let keks = self.keks.clone();
        let rng = Arc::clone(&self.rng);
        Ok(Box::new(move |slot| {
            let kek = keks.active().ok_or(SealError)?;
            seal(&*rng, &kek, slot, &value).map_err(|error| {
                tracing::error!(error = &error as &dyn std::error::Error, "a value could not be sealed");
                SealError
            })
        }))
    }

    /// The refusal for a write that did not happen. `value_field` names the request's field of the value.
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
}
