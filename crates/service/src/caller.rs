//! Who calls, and from where.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use agentrouter_crypto::{ApiToken, digests_equal};
use agentrouter_model::{ApiKeyRecord, Reason, Refusal, Rpc};
use agentrouter_store::StoreError;

use crate::{Service, store_refusal};

/// Where a request came from, for its audit record.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// The server's own id of this request; also in its log and in the answer's `x-request-id`.
    pub request_id: Arc<str>,
    /// The trace id of a W3C `traceparent` header, 32 hexadecimal digits, if a well-formed one was sent.
    pub trace_id: Option<Arc<str>>,
    /// The peer's address.
    pub address: Option<Arc<str>>,
}

/// An authenticated caller: a key that was live when the request arrived.
#[derive(Clone, Debug)]
pub struct Caller {
    key: Arc<ApiKeyRecord>,
}

impl Caller {
    /// What is known of the caller's key.
    pub fn key(&self) -> &ApiKeyRecord {
        &self.key
    }

    /// Whether the caller's key has the scope that `rpc` needs. It depends on nothing else, so it can be asked before
    /// a byte of the body is parsed; every operation asks it again.
    ///
    /// # Errors
    /// [`Reason::ScopeMissing`].
    pub fn may(&self, rpc: Rpc) -> Result<(), Refusal> {
        if self.key.scopes.contains(rpc.scope()) { Ok(()) } else { Err(Reason::ScopeMissing.into()) }
    }
}

/// One call: its caller, where it came from, and whether it is on record yet.
#[derive(Debug)]
pub struct CallContext {
    /// Who calls.
    pub caller: Caller,
    /// From where.
    pub origin: Origin,
    recorded: AtomicBool,
    refusal: OnceLock<Reason>,
}

impl CallContext {
    /// A call that is not on record yet.
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

    /// Whether an operation has taken this call over, and with it the duty to record it. A transport that refuses a
    /// call before that (a body that cannot be read, say) records it by [`Service::record_refusal`].
    pub fn is_recorded(&self) -> bool {
        self.recorded.load(Ordering::Relaxed)
    }

    pub(crate) fn set_recorded(&self) {
        self.recorded.store(true, Ordering::Relaxed);
    }
}

impl Service {
    /// Finds out who calls by the key of `Authorization: Bearer ak-…`.
    ///
    /// Malformed, unknown, wrong, revoked and expired keys are refused alike, and so are those whose rows do not parse. A
    /// key that has been seen before is found in memory by the SHA-256 of the whole of it.
    ///
    /// # Errors
    /// [`Reason::Unauthenticated`]; [`Reason::StoreUnavailable`] when the key cannot be looked up.
    pub async fn authenticate(&self, bearer: Option<&str>) -> Result<Caller, Refusal> {
        let unauthenticated = || Refusal::new(Reason::Unauthenticated);
        let token = bearer
            .filter(|text| text.starts_with("ak-"))
            .and_then(|text| ApiToken::parse(text).ok())
            .ok_or_else(unauthenticated)?;
        let digest = token.digest();
        let id = token.id();
        let found = self.keys.get_or_load(&digest, || self.store.key(&id)).await.map_err(|error| match error {
            StoreError::Corrupt(_) => {
                tracing::error!(%id, "an API key does not parse and is refused; revoke it and issue a new one");
                unauthenticated()
            }
            error => store_refusal(&error),
        });
        let key = found?.ok_or_else(unauthenticated)?;
        if digests_equal(&key.digest, &digest) && key.is_live(self.clock.now()) {
            Ok(Caller { key })
        } else {
            Err(unauthenticated())
        }
    }
}
