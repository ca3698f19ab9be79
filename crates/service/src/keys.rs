//! Issues, lists and revokes API keys. The server's own command line calls it, and no RPC does.

use std::sync::Arc;

use agentrouter_audit::Phase;
use agentrouter_crypto::ApiToken;
use agentrouter_model::{ApiKeyId, ApiKeyRecord, Owner, Realm, Reason, Refusal, ScopeSet, Timestamp};
use agentrouter_store::{ExaminedKey, StoreError};

use crate::audit_records::AdminAct;
use crate::{Origin, Service, run_to_completion, store_refusal};

/// The properties of a new key.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// A label for people, possibly empty.
    pub name: String,
    /// The key's user.
    pub user: Owner,
    /// The key's scopes.
    pub scopes: ScopeSet,
    /// The realm of requests that name none.
    pub realm: Realm,
    /// The realms it is limited to; none means all.
    pub realms: Option<Vec<Realm>>,
    /// When it stops working; none means never.
    pub expires_at: Option<Timestamp>,
}

/// Why no key was issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The service refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The key manifest cannot be used: a [`StoreError::KeyManifest`].
    #[error("no key was issued")]
    KeyManifest(#[source] StoreError),
    /// The key could not be written to the place where its user reads it.
    #[error("the key could not be written")]
    Written(#[source] std::io::Error),
}

impl Service {
    /// Issues a key. The returned token is the only copy of it.
    ///
    /// # Errors
    /// [`Reason::AuditUnavailable`], [`Reason::StoreUnavailable`], [`Reason::Internal`] when the random source fails, and
    /// [`IssueError::KeyManifest`].
    pub async fn issue_key(
        &self,
        origin: &Origin,
        new: NewKey,
    ) -> Result<(ApiToken, ApiKeyRecord), IssueError> {
        self.issue_key_after(origin, new, |_| Ok(())).await
    }

    /// As [`Service::issue_key`], but `write` writes the token for its user before the key is stored. So there is no valid
    /// key without a holder.
    ///
    /// # Errors
    /// As [`Service::issue_key`], and when `write` fails.
    pub async fn issue_key_after(
        &self,
        origin: &Origin,
        new: NewKey,
        write: impl FnOnce(&ApiToken) -> std::io::Result<()>,
    ) -> Result<(ApiToken, ApiKeyRecord), IssueError> {
        let insert = async |record: &ApiKeyRecord| self.store.insert_key(record).await.map(|()| true);
        self.issue(origin, new, write, insert).await.map(|(token, record, _)| (token, record))
    }

    /// As [`Service::issue_key_after`], for a store without a key. `None` if another server on the same store has issued
    /// one first: the token that `write` has written is not a valid key then.
    ///
    /// # Errors
    /// As [`Service::issue_key_after`].
    pub async fn issue_first_key_after(
        &self,
        origin: &Origin,
        new: NewKey,
        write: impl FnOnce(&ApiToken) -> std::io::Result<()>,
    ) -> Result<Option<(ApiToken, ApiKeyRecord)>, IssueError> {
        let insert = async |record: &ApiKeyRecord| self.store.insert_first_key(record).await;
        let (token, record, kept) = self.issue(origin, new, write, insert).await?;
        Ok(kept.then_some((token, record)))
    }

    /// Issues a key by `insert`, which returns whether the store holds it.
    async fn issue(
        &self,
        origin: &Origin,
        new: NewKey,
        write: impl FnOnce(&ApiToken) -> std::io::Result<()>,
        insert: impl AsyncFnOnce(&ApiKeyRecord) -> Result<bool, StoreError>,
    ) -> Result<(ApiToken, ApiKeyRecord, bool), IssueError> {
        let token = ApiToken::generate(&*self.rng).map_err(|_| Refusal::new(Reason::Internal))?;
        let record = ApiKeyRecord {
            id: token.id(),
            digest: token.digest(),
            name: new.name,
            user: new.user,
            scopes: new.scopes,
            realm: new.realm,
            realms: new.realms,
            created_at: self.clock.now(),
            expires_at: new.expires_at,
            revoked_at: None,
        };
        let subject = Some((&record.id, Some(&record.user)));
        self.record_admin(origin, AdminAct::CreateKey, Phase::Attempt, subject).await?;
        write(&token).map_err(IssueError::Written)?;
        let stored = insert(&record).await;
        // A key that the store does not hold is recorded as refused.
        let refusal = match &stored {
            Ok(true) => None,
            Ok(false) => Some(Refusal::new(Reason::VersionMismatch)),
            Err(error) => Some(store_refusal(error)),
        };
        self.conclude_admin(origin, AdminAct::CreateKey, subject, refusal.as_ref()).await;
        match stored {
            Ok(kept) => Ok((token, record, kept)),
            Err(error @ StoreError::KeyManifest(_)) => Err(IssueError::KeyManifest(error)),
            Err(_) => Err(refusal.unwrap_or_else(|| Reason::Internal.into()).into()),
        }
    }

    /// Every key ever issued, oldest first, without its secret part. Keys whose rows cannot be read come last.
    ///
    /// # Errors
    /// [`Reason::AuditUnavailable`], [`Reason::StoreUnavailable`].
    pub async fn list_keys(&self, origin: &Origin) -> Result<Vec<ExaminedKey>, Refusal> {
        self.record_admin(origin, AdminAct::ListKeys, Phase::Outcome, None).await?;
        self.store.examine_keys().await.map_err(|error| store_refusal(&error))
    }

    /// Revokes a key at once, even if its row cannot be read. Returns whether the key exists. To revoke it again changes
    /// nothing. A revocation runs to completion even if the caller disconnects.
    ///
    /// # Errors
    /// [`Reason::AuditUnavailable`], [`Reason::StoreUnavailable`].
    pub async fn revoke_key(self: &Arc<Self>, origin: &Origin, id: &ApiKeyId) -> Result<bool, Refusal> {
        let (service, origin, id) = (Arc::clone(self), origin.clone(), id.clone());
        let task = async move { service.revoke(&origin, &id).await };
        run_to_completion(task).await.unwrap_or_else(|panic| {
            tracing::error!(error = &panic as &dyn std::error::Error, "a revocation panicked");
            Err(Reason::Internal.into())
        })
    }

    /// Whether the key manifest lists a key. A write to the database outside of this program can have deleted its row.
    async fn is_listed(&self, id: &ApiKeyId) -> Result<bool, Refusal> {
        let manifest = self.store.key_manifest().await.map_err(|error| store_refusal(&error))?;
        Ok(self.row_tags.listed(manifest.as_deref()).contains(id))
    }

    async fn revoke(&self, origin: &Origin, id: &ApiKeyId) -> Result<bool, Refusal> {
        let known = match self.store.key(id).await {
            Ok(None) if !self.is_listed(id).await? => return Ok(false),
            Ok(known) => known,
            Err(StoreError::Corrupt(_)) => None,
            Err(error) => return Err(store_refusal(&error)),
        };
        let subject = Some((id, known.as_ref().map(|known| &known.user)));
        self.record_admin(origin, AdminAct::RevokeKey, Phase::Attempt, subject).await?;
        let revoked = {
            // The digest of a damaged key is unknown, and the cache may hold the key from before the damage.
            let _fence = self.keys.fence(known.as_ref().map(|known| known.digest));
            self.store.revoke_unread(id, self.clock.now()).await
        };
        let revoked = revoked.map_err(|error| store_refusal(&error));
        self.conclude_admin(origin, AdminAct::RevokeKey, subject, revoked.as_ref().err()).await;
        revoked
    }
}
