//! ValidateSecret: do the stored bytes still open?

use agentrouter_model::call::{ValidateSecret, Validation};
use agentrouter_model::{Reason, Refusal, Rpc};
use agentrouter_store::{StoreError, Stored};

use crate::checks::Checks;
use crate::trail::Subject;
use crate::{CallContext, Service, store_refusal};

impl Service {
    /// Reads the stored bytes afresh, past every cache, and opens the active and every pending version. Changes
    /// nothing and gives no value back.
    ///
    /// # Errors
    /// [`Reason::ScopeMissing`], [`Reason::RealmNotAllowed`], [`Reason::InvalidRequest`],
    /// [`Reason::SecretNotFound`], [`Reason::AuditUnavailable`], [`Reason::StoreUnavailable`].
    pub async fn validate(&self, ctx: &CallContext, call: ValidateSecret<'_>) -> Result<Validation, Refusal> {
        let mut subject = Subject::default();
        let result = self.try_open(ctx, call, &mut subject).await;
        self.release(ctx, Rpc::ValidateSecret, &subject, result).await
    }

    async fn try_open(
        &self,
        ctx: &CallContext,
        call: ValidateSecret<'_>,
        subject: &mut Subject,
    ) -> Result<Validation, Refusal> {
        ctx.caller.may(Rpc::ValidateSecret)?;
        let mut checks = Checks::new(ctx.caller.key());
        let place = checks.own_place(call.realm, call.name)?;
        let place = checks.finish(place)?;
        *subject = Subject::at(&place);

        let versions = match self.store.readable(&place, self.clock.now()).await {
            Ok(versions) if versions.is_empty() => return Err(Reason::SecretNotFound.into()),
            Ok(versions) => versions,
            // The row itself cannot be read as one: that is an answer, not a failure to answer.
            Err(StoreError::Corrupt(_)) => {
                return Ok(Validation { valid: false, error: "corrupt".to_owned() });
            }
            Err(error) => return Err(store_refusal(&error)),
        };
        let faults: Vec<String> = versions.iter().filter_map(|version| self.fault(version)).collect();
        Ok(Validation { valid: faults.is_empty(), error: faults.join("; ") })
    }

    /// Why a version does not open, such as `version 3: corrupt`; none if it does.
    fn fault(&self, stored: &Stored) -> Option<String> {
        let secret = &stored.secret;
        let opened = match &stored.envelope {
            Some(envelope) => self.open(secret, envelope).map_err(|refusal| refusal.reason),
            None => Err(Reason::SecretCorrupt),
        };
        match opened {
            Ok(_) => None,
            Err(Reason::KekUnavailable) => Some(format!("version {}: kek_unavailable", secret.version)),
            Err(_) => Some(format!("version {}: corrupt", secret.version)),
        }
    }
}
