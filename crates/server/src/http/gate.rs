//! Authentication, rate limits and scopes of an API request, on every transport. Not a byte of the body is read before.

mod bearer;
pub(super) mod rates;

use agentrouter_model::{Reason, Refusal, Rpc};
use agentrouter_service::{Caller, Service};
use http::HeaderMap;
use http::header::{AUTHORIZATION, ORIGIN};

use self::bearer::bearer;
use self::rates::Rates;
use super::peer::Peer;

/// Admits the caller of `rpc`.
///
/// # Errors
/// `Unauthenticated`, `RateLimited`, `ScopeMissing`, each with the caller if one was found; `StoreUnavailable`.
pub(super) async fn admit(
    service: &Service,
    rates: &Rates,
    headers: &HeaderMap,
    peer: &Peer,
    rpc: Rpc,
) -> Result<Caller, (Refusal, Option<Caller>)> {
    let caller = match authenticate(service, headers, peer).await {
        Ok(caller) => caller,
        Err(refusal) if refusal.reason == Reason::Unauthenticated => {
            let limited = rates.failed_authentication(peer.address).err();
            return Err((limited.unwrap_or(refusal), None));
        }
        Err(refusal) => return Err((refusal, None)),
    };
    match rates.request(&caller).and_then(|()| caller.may(rpc)) {
        Ok(()) => Ok(caller),
        Err(refusal) => Err((refusal, Some(caller))),
    }
}

/// Authenticates the caller by its header, or without one by its certificate. A browser sends the certificate with the
/// requests of any page, so one with an `Origin` does not count.
async fn authenticate(service: &Service, headers: &HeaderMap, peer: &Peer) -> Result<Caller, Refusal> {
    match &peer.certificate {
        Some(certificate) if !headers.contains_key(AUTHORIZATION) && !headers.contains_key(ORIGIN) => {
            let name = certificate.name().ok_or(Reason::Unauthenticated)?;
            service.authenticate_certificate(name)
        }
        _ => service.authenticate(bearer(headers)).await,
    }
}
