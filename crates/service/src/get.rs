//! GetSecret: the metadata of a secret.

use std::sync::Arc;

use agentrouter_model::rpc::GetSecret;
use agentrouter_model::{Envelope, Place, Reason, Refusal, Rpc, Secret};

use crate::audit_records::Subject;
use crate::cache::Row;
use crate::checks::Checks;
use crate::{CallContext, Service, store_refusal};

impl Service {
    /// The metadata of the active version.
    ///
    /// # Errors
    /// [`Reason::ScopeMissing`], [`Reason::RealmNotAllowed`], [`Reason::InvalidRequest`],
    /// [`Reason::SecretNotFound`], [`Reason::AuditUnavailable`], [`Reason::StoreUnavailable`].
    pub async fn get(&self, ctx: &CallContext, request: GetSecret<'_>) -> Result<Arc<Secret>, Refusal> {
        let mut subject = Subject::default();
        let result = self.find(ctx, request, &mut subject).await;
        self.release(ctx, Rpc::GetSecret, &subject, result).await
    }

    async fn find(
        &self,
        ctx: &CallContext,
        request: GetSecret<'_>,
        subject: &mut Subject,
    ) -> Result<Arc<Secret>, Refusal> {
        ctx.caller.may(Rpc::GetSecret)?;
        let mut checks = Checks::new(ctx.caller.grant(), subject);
        let place = checks.own_place(request.realm, request.name)?;
        let place = checks.finish(place)?;
        let row = self.active(subject.place.insert(place)).await?;
        subject.version = Some(row.secret.version);
        Ok(Arc::clone(&row.secret))
    }

    /// The active version at `place`, from the cache or from the store.
    pub(crate) async fn active(&self, place: &Place) -> Result<Arc<Row>, Refusal> {
        let load = || self.store.active(place);
        let unwrap = |secret: &Secret, envelope: &Envelope| self.unwrap(secret, envelope);
        let row = self.rows.get_or_load(place, load, unwrap).await;
        row.map_err(|error| store_refusal(&error))?.ok_or_else(|| Reason::SecretNotFound.into())
    }
}
