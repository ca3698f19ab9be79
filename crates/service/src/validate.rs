//! ValidateSecret: checks that the stored versions open.

use std::sync::atomic::Ordering;

use agentrouter_model::rpc::{ValidateSecret, Validation};
use agentrouter_model::{Reason, Refusal, Rpc, Version};
use agentrouter_store::Examined;

use crate::audit_records::Subject;
use crate::checks::Checks;
use crate::{CallContext, Service, store_refusal};

impl Service {
    /// Reads the stored bytes from the store, not from the cache, and opens the active and every pending version. It
    /// changes nothing and returns no value.
    ///
    /// # Errors
    /// [`Reason::ScopeMissing`], [`Reason::RealmNotAllowed`], [`Reason::InvalidRequest`],
    /// [`Reason::SecretNotFound`], [`Reason::AuditUnavailable`], [`Reason::StoreUnavailable`].
    pub async fn validate(
        &self,
        ctx: &CallContext,
        request: ValidateSecret<'_>,
    ) -> Result<Validation, Refusal> {
        let mut subject = Subject::default();
        let result = self.try_open(ctx, request, &mut subject).await;
        self.release(ctx, Rpc::ValidateSecret, &subject, result).await
    }

    async fn try_open(
        &self,
        ctx: &CallContext,
        request: ValidateSecret<'_>,
        subject: &mut Subject,
    ) -> Result<Validation, Refusal> {
        ctx.caller.may(Rpc::ValidateSecret)?;
        let mut checks = Checks::new(ctx.caller.grant(), subject);
        let place = checks.own_place(request.realm, request.name)?;
        let place = checks.finish(place)?;
        *subject = Subject::at(&place);

        let versions = match self.store.examine(&place, self.clock.now()).await {
            Ok(versions) if versions.is_empty() => return Err(Reason::SecretNotFound.into()),
            Ok(versions) => versions,
            Err(error) => return Err(store_refusal(&error)),
        };
        let faults: Vec<String> = versions.iter().filter_map(|version| self.fault(version)).collect();
        Ok(Validation { valid: faults.is_empty(), error: faults.join("; ") })
    }

    /// Why a version does not open, such as `version 3: corrupt`. `None` if it opens. A row that does not parse is named
    /// by its number if that parses.
    fn fault(&self, version: &Examined) -> Option<String> {
        let stored = match version {
            Examined::Whole(stored) => stored,
            Examined::Damaged(number) => {
                self.unreadable.fetch_add(1, Ordering::Relaxed);
                tracing::error!(version = number.map(Version::get), "a stored version does not parse");
                return Some(
                    number.map_or_else(|| "corrupt".to_owned(), |n| format!("version {n}: corrupt")),
                );
            }
        };
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
