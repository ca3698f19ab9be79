//! Authentication: from an API key or a token to the caller of a request.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use agentrouter_crypto::{ApiToken, digests_equal};
use agentrouter_identity::Identity;
use agentrouter_model::{ApiKeyId, ApiKeyRecord, Grant, Reason, Refusal, Rpc};
use agentrouter_store::StoreError;

use crate::{Service, store_refusal};

/// The origin of a request, for its audit record.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// The server's id of this request, also in its log and in the response header `x-request-id`.
    pub request_id: Arc<str>,
    /// The trace id of a W3C `traceparent` header, 32 hexadecimal digits, if a well-formed one was sent.
    pub trace_id: Option<Arc<str>>,
    /// The peer's address.
    pub address: Option<Arc<str>>,
}

/// An authenticated caller: the holder of a key or a token that was valid when the request arrived.
#[derive(Clone, Debug)]
pub struct Caller(Credential);

#[derive(Clone, Debug)]
enum Credential {
    Key(Arc<ApiKeyRecord>),
    Identity(Arc<Identity>),
}

impl Caller {
    /// The id of the caller's key. `None` if it has a token or a certificate.
    pub fn key_id(&self) -> Option<&ApiKeyId> {
        match &self.0 {
            Credential::Key(key) => Some(&key.id),
            Credential::Identity(_) => None,
        }
    }

    /// The identity in the caller's token or certificate. `None` if it sent a key.
    pub fn identity(&self) -> Option<&Arc<Identity>> {
        match &self.0 {
            Credential::Key(_) => None,
            Credential::Identity(identity) => Some(identity),
        }
    }

    /// What the caller may do.
    pub fn grant(&self) -> Grant<'_> {
        match &self.0 {
            Credential::Key(key) => key.grant(),
            Credential::Identity(identity) => identity.grant(),
        }
    }

    /// Whether the caller has the scope that `rpc` needs. It depends on nothing else, so the transports check it
    /// before they read the body. Every operation checks it again.
    ///
    /// # Errors
    /// [`Reason::ScopeMissing`].
    pub fn may(&self, rpc: Rpc) -> Result<(), Refusal> {
        if self.grant().scopes.contains(rpc.scope()) { Ok(()) } else { Err(Reason::ScopeMissing.into()) }
    }
}

/// The context of one request: its caller, its origin, and whether it is recorded in the audit log.
#[derive(Debug)]
pub struct CallContext {
    /// The authenticated caller.
    pub caller: Caller,
    /// The origin of the request.
    pub origin: Origin,
    recorded: AtomicBool,
    refusal: OnceLock<Reason>,
}

impl CallContext {
    /// The context of a request that is not recorded.
    pub fn new(caller: Caller, origin: Origin) -> Self {
        Self { caller, origin, recorded: AtomicBool::new(false), refusal: OnceLock::new() }
    }

    /// Notes why the operation was refused, for a transport whose library turns the refusal into a response of its own.
    pub fn set_refusal(&self, reason: Reason) {
        // The first reason counts.
        let _ = self.refusal.set(reason);
    }

    /// Why the operation was refused, if the transport has noted it.
    pub fn refusal(&self) -> Option<Reason> {
        self.refusal.get().copied()
    }

    /// Whether an operation has taken this request over and records it. A transport that refuses a request before that,
    /// for example one with an unreadable body, records it by [`Service::record_refusal`].
    pub fn is_recorded(&self) -> bool {
        self.recorded.load(Ordering::Relaxed)
    }

    pub(crate) fn set_recorded(&self) {
        self.recorded.store(true, Ordering::Relaxed);
    }
}

impl Service {
    /// Authenticates the caller by the name in its client certificate, which the transport has verified.
    ///
    /// # Errors
    /// [`Reason::Unauthenticated`].
    pub fn authenticate_certificate(&self, name: &str) -> Result<Caller, Refusal> {
        let identity = self.issuers.get().and_then(|issuers| issuers.identify(name));
        identity.map(|identity| Caller(Credential::Identity(identity))).ok_or(Reason::Unauthenticated.into())
    }

    /// Authenticates the caller by the key or the token of `Authorization: Bearer …`. Keys begin with `ak-`, and tokens do
    /// not.
    ///
    /// Malformed, unknown, wrong, revoked and expired keys are refused alike, and so are keys whose rows do not parse or
    /// are not authentic. The cache finds a key by the SHA-256 of the whole key. [`Issuers`](agentrouter_identity::Issuers)
    /// verifies tokens, which are refused alike, too.
    ///
    /// # Errors
    /// [`Reason::Unauthenticated`]; [`Reason::StoreUnavailable`] when the key cannot be looked up.
    pub async fn authenticate(&self, bearer: Option<&str>) -> Result<Caller, Refusal> {
        let unauthenticated = || Refusal::new(Reason::Unauthenticated);
        let text = bearer.ok_or_else(unauthenticated)?;
        if !text.starts_with("ak-") {
            let issuers = self.issuers.get().ok_or_else(unauthenticated)?;
            let identity = issuers.authenticate(text).await.ok_or_else(unauthenticated)?;
            return Ok(Caller(Credential::Identity(identity)));
        }
        let token = ApiToken::parse(text).map_err(|_| unauthenticated())?;
        let digest = token.digest();
        let id = token.id();
        let found = self.keys.get_or_load(&digest, || self.store.key(&id)).await.map_err(|error| match error {
            StoreError::Corrupt(why) => {
                tracing::error!(%id, why, "an API key is refused because its row is damaged or not authentic; run 'doctor'");
                unauthenticated()
            }
            error => store_refusal(&error),
        });
        let key = found?.ok_or_else(unauthenticated)?;
        if digests_equal(&key.digest, &digest) && key.is_live(self.clock.now()) {
            Ok(Caller(Credential::Key(key)))
        } else {
            Err(unauthenticated())
        }
    }
}
