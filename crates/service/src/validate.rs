//! ValidateSecret: checks that the stored versions open.

use std::sync::atomic::Ordering;

use agentrouter_model::rpc::{ValidateSecret, Validation};
use agentrouter_model::{Reason, Refusal, Rpc, Version};
use agentrouter_store::Examined;

use crate::audit_records::Subject;
use crate::checks::Checks;
use crate::{CallContext, Service, read_for_caller};

/// Most versions that are in memory at once: a megabyte of the largest values.
const PAGE: u32 = 16;

impl Service {
    /// Reads the stored bytes from the store, not from the cache, and opens the active and every pending version, up to
    /// [`Settings::validated_versions`](crate::Settings::validated_versions) of them, the newest first. It changes nothing
    /// and returns no value.
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

        let (now, mut faults) = (self.clock.now(), Vec::new());
        let (mut left, mut before) = (self.settings.validated_versions, None);
        loop {
            // With one version more than may be opened, it is known whether all were.
            let limit = PAGE.min(left.saturating_add(1));
            let mut page = read_for_caller(self.store.examine(&place, now, before, limit)).await?;
            if page.is_empty() && before.is_none() {
                return Err(Reason::SecretNotFound.into());
            }
            let is_last = page.len() < limit as usize;
            let unchecked = if page.len() > left as usize { page.pop() } else { None };
            left -= u32::try_from(page.len()).unwrap_or(left);
            faults.extend(page.iter().filter_map(|version| self.fault(version)));
            if let Some(version) = unchecked {
                faults.push(match version.version() {
                    Some(number) => format!("version {number} and earlier: unchecked"),
                    None => "earlier versions: unchecked".to_owned(),
                });
                break;
            }
            // A page without any number is the last one: it is not known where the next one begins.
            before = page.iter().filter_map(Examined::version).min();
            if is_last || before.is_none() {
                break;
            }
            tokio::task::yield_now().await;
        }
        // By number: the active version is the last one.
        faults.reverse();
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
