//! GetSecretValue: the plaintext of a version. The hot path: a gateway calls it for every model request.

use std::sync::atomic::Ordering;

use agentrouter_crypto::{CryptoError, Unwrapped, open};
use agentrouter_model::rpc::{GetSecretValue, Revealed};
use agentrouter_model::{Envelope, Place, Reason, Refusal, Rpc, Scope, Secret, SecretValue, Slot, Version};

use crate::audit_records::Subject;
use crate::cache::{Row, Value};
use crate::checks::Checks;
use crate::{CallContext, Service, store_refusal};

impl Service {
    /// The plaintext and metadata of the active version, or of the readable version that `version` names. It is returned
    /// after its audit record is written.
    ///
    /// # Errors
    /// [`Reason::ScopeMissing`], [`Reason::RealmNotAllowed`], [`Reason::InvalidRequest`],
    /// [`Reason::SecretNotFound`], [`Reason::SecretCorrupt`], [`Reason::KekUnavailable`],
    /// [`Reason::AuditUnavailable`], [`Reason::StoreUnavailable`].
    pub async fn value(&self, ctx: &CallContext, request: GetSecretValue<'_>) -> Result<Revealed, Refusal> {
        let mut subject = Subject::default();
        let result = self.reveal(ctx, request, &mut subject).await;
        self.release(ctx, Rpc::GetSecretValue, &subject, result).await
    }

    async fn reveal(
        &self,
        ctx: &CallContext,
        request: GetSecretValue<'_>,
        subject: &mut Subject,
    ) -> Result<Revealed, Refusal> {
        ctx.caller.may(Rpc::GetSecretValue)?;
        let mut checks = Checks::new(ctx.caller.grant(), subject);
        let place = checks.named_place(request.realm, request.user_id, Scope::ReadInternal, request.name)?;
        let version = checks.version(request.version);
        let place = checks.finish(place)?;
        subject.version = version;
        let place = &*subject.place.insert(place);

        let row = match version {
            None => self.active(place).await?,
            Some(version) => self.readable_version(place, version).await?,
        };
        subject.version = Some(row.secret.version);
        let value = self.open_row(&row)?;
        Ok(Revealed { value, secret: std::sync::Arc::clone(&row.secret) })
    }

    /// Version `version` at `place`, if its status allows a read now.
    async fn readable_version(
        &self,
        place: &Place,
        version: Version,
    ) -> Result<std::sync::Arc<Row>, Refusal> {
        let stored = self.store.version(place, version).await.map_err(|error| store_refusal(&error))?;
        let readable = stored.filter(|stored| {
            let secret = &stored.secret;
            secret.status.at(self.clock.now(), secret.expires_at).is_readable()
        });
        readable.and_then(Row::new).ok_or_else(|| Reason::SecretNotFound.into())
    }

    fn open_row(&self, row: &Row) -> Result<SecretValue, Refusal> {
        match &row.value {
            Value::Unwrapped(value) => {
                value.open(slot(&row.secret)).map_err(|error| self.unreadable(&row.secret, error))
            }
            Value::AsStored(envelope) => self.open(&row.secret, envelope),
        }
    }

    /// Unwraps the key of a version for the cache. `None` if that fails: the read that opens the version then reports why.
    pub(crate) fn unwrap(&self, secret: &Secret, envelope: &Envelope) -> Option<Unwrapped> {
        Unwrapped::new(self.keyring()?.kek(&envelope.kek_id)?, slot(secret), envelope).ok()
    }

    /// Opens one version with the KEK that its envelope names.
    pub(crate) fn open(&self, secret: &Secret, envelope: &Envelope) -> Result<SecretValue, Refusal> {
        // Neither counted nor logged: the version may be whole, and the loss of the KEKs is logged once.
        let keyring = self.keyring().ok_or(Reason::KekUnavailable)?;
        let kek = keyring.kek(&envelope.kek_id).ok_or(CryptoError::WrongKek);
        kek.and_then(|kek| open(kek, slot(secret), envelope)).map_err(|error| self.unreadable(secret, error))
    }

    /// Counts and logs a version that does not open. Returns the refusal.
    fn unreadable(&self, secret: &Secret, error: CryptoError) -> Refusal {
        let reason = match error {
            CryptoError::WrongKek => Reason::KekUnavailable,
            _ => Reason::SecretCorrupt,
        };
        self.unreadable.fetch_add(1, Ordering::Relaxed);
        tracing::error!(id = %secret.id, version = %secret.version, %reason, "a stored version does not open");
        reason.into()
    }
}

/// The slot that a version's ciphertext is bound to.
fn slot(secret: &Secret) -> Slot<'_> {
    Slot { place: &secret.place, id: secret.id, version: secret.version }
}
