//! DeleteSecret: nothing of it remains.

use std::sync::Arc;

use agentrouter_model::call::DeleteSecret;
use agentrouter_model::{Reason, Refusal, Rpc};

use crate::checks::Checks;
use crate::trail::Subject;
use crate::{CallContext, Service};

impl Service {
    /// Removes every version of the secret and their wrapped DEKs. The name is free again at once.
    ///
    /// # Errors
    /// [`Reason::ScopeMissing`], [`Reason::RealmNotAllowed`], [`Reason::InvalidRequest`],
    /// [`Reason::SecretNotFound`], [`Reason::AuditUnavailable`], [`Reason::StoreUnavailable`].
    pub async fn delete(
        self: &Arc<Self>,
        ctx: Arc<CallContext>,
        call: DeleteSecret<'_>,
    ) -> Result<(), Refusal> {
        let checked = ctx.caller.may(Rpc::DeleteSecret).and_then(|()| {
            let mut checks = Checks::new(ctx.caller.key());
            let place = checks.own_place(call.realm, call.name)?;
            checks.finish(place)
        });
        let place = match checked {
            Ok(place) => place,
            Err(refusal) => {
                return self.release(&ctx, Rpc::DeleteSecret, &Subject::default(), Err(refusal)).await;
            }
        };
        let subject = place.clone();
        let deleted = self.change(ctx, Rpc::DeleteSecret, subject, move |service| async move {
            match service.store.delete(&place).await {
                Ok(Some(secret)) => Ok(secret),
                Ok(None) => Err(Reason::SecretNotFound.into()),
                Err(error) => Err(service.write_refusal(error, "name")),
            }
        });
        deleted.await.map(|_| ())
    }
}
