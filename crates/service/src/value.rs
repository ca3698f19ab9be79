//! GetSecretValue: the plaintext, on the hot path of every model call.

use std::sync::atomic::Ordering;

use agentrouter_crypto::{CryptoError, Unwrapped, open};
use agentrouter_model::rpc::{GetSecretValue, Revealed};
use agentrouter_model::{Envelope, Place, Reason, Refusal, Rpc, Scope, Secret, SecretValue, Slot, Version};

use crate::audit_records::Subject;
use crate::cache::{Row, Value};
use crate::checks::Checks;
use crate::{CallContext, Service, store_refusal};

impl Service {
    /// The plaintext of the active version, or of the readable one that `version` names, with its metadata. It leaves
    /// this method only after its audit record is written.
    ///
    /// # Errors
    /// [`Reason::ScopeMissing`], [`Reason::RealmNotAllowed`], [`Reason::InvalidRequest`],
    /// [`Reason::SecretNotFound`], [`Reason::SecretCorrupt`], [`Reason::KekUnavailable`],
    /// [`Reason::AuditUnavailable`], [`Reason::StoreUnavailable`].
    pub async fn value(&self, ctx: &CallContext, call: GetSecretValue<'_>) -> Result<Revealed, Refusal> {
        let mut subject = Subject::default();
        let result = self.reveal(ctx, call, &mut subject).await;
        self.release(ctx, Rpc::GetSecretValue, &subject, result).await
    }

    async fn reveal(
        &self,
        ctx: &CallContext,
        call: GetSecretValue<'_>,
        subject: &mut Subject,
    ) -> Result<Revealed, Refusal> {
        ctx.caller.may(Rpc::GetSecretValue)?;
        let mut checks = Checks::new(ctx.caller.key(), subject);
        let place = checks.named_place(call.realm, call.user_id, Scope::ReadInternal, call.name)?;
        let version = checks.version(call.version);
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

    /// Version `version` at `place`, if it may be opened now.
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

    /// Takes as many steps of opening as can be taken for all reads at once. A version that does not come so far says why
    /// when it is read.
    pub(crate) fn unwrap(&self, secret: &Secret, envelope: &Envelope) -> Option<Unwrapped> {
        Unwrapped::new(self.keyring.kek(&envelope.kek_id)?, slot(secret), envelope).ok()
    }

    /// Opens one version: the one KEK that it names, one unwrap, one open.
    pub(crate) fn open(&self, secret: &Secret, envelope: &Envelope) -> Result<SecretValue, Refusal> {
        let kek = self.keyring.kek(&envelope.kek_id).ok_or(CryptoError::WrongKek);
        kek.and_then(|kek| open(kek, slot(secret), envelope)).map_err(|error| self.unreadable(secret, error))
    }

    /// Notes that a version did not open; what the caller is told.
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

/// What a version's ciphertext is bound to.
fn slot(secret: &Secret) -> Slot<'_> {
    Slot { place: &secret.place, id: secret.id, version: secret.version }
}
