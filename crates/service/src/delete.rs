//! DeleteSecret: removes a secret with all its versions.

use std::sync::Arc;

use agentrouter_model::rpc::DeleteSecret;
use agentrouter_model::{Reason, Refusal, Rpc};
use agentrouter_store::{StoreError, WriteError};

use crate::audit_records::Subject;
use crate::checks::Checks;
use crate::{CallContext, Service};

impl Service {
    /// Removes every version of the secret and its wrapped DEKs, even if they cannot be read. The name can be used again
    /// at once.
    ///
    /// # Errors
    /// [`Reason::ScopeMissing`], [`Reason::RealmNotAllowed`], [`Reason::InvalidRequest`],
    /// [`Reason::SecretNotFound`], [`Reason::AuditUnavailable`], [`Reason::StoreUnavailable`].
    pub async fn delete(
        self: &Arc<Self>,
        ctx: Arc<CallContext>,
        request: DeleteSecret<'_>,
    ) -> Result<(), Refusal> {
        let mut subject = Subject::default();
        let checked = ctx.caller.may(Rpc::DeleteSecret).and_then(|()| {
            let mut checks = Checks::new(ctx.caller.grant(), &mut subject);
            let place = checks.own_place(request.realm, request.name)?;
            checks.finish(place)
        });
        let place = match checked {
            Ok(place) => place,
            Err(refusal) => {
                return self.release(&ctx, Rpc::DeleteSecret, &subject, Err(refusal)).await;
            }
        };
        let deleted = self.change(ctx, Rpc::DeleteSecret, place.clone(), move |service| async move {
            let deleted = match service.store.delete(&place).await {
                // An unreadable row is removed too. Otherwise its name could never be used again.
                Err(WriteError::Store(StoreError::Corrupt(_))) => {
                    service.store.purge(&place).await.map(|found| found.then_some(None))
                }
                deleted => deleted.map(|secret| secret.map(|secret| Some(secret.version))),
            };
            match deleted {
                Ok(Some(version)) => Ok(version),
                Ok(None) => Err(Reason::SecretNotFound.into()),
                Err(error) => Err(service.write_refusal(error, "name")),
            }
        });
        deleted.await.map(|_| ())
    }
}
