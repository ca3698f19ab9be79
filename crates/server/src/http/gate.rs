//! Authentication, rate limits and scopes of an API request, on every transport. Not a byte of the body is read before.

mod bearer;
pub(super) mod rates;

use std::net::IpAddr;

use agentrouter_model::{Reason, Refusal, Rpc};
use agentrouter_service::{Caller, Service};
use http::HeaderMap;

use self::bearer::bearer;
use self::rates::Rates;

/// Admits the caller of `rpc`.
///
/// # Errors
/// `Unauthenticated`, `RateLimited`, `ScopeMissing`, each with the caller if one was found; `StoreUnavailable`.
pub(super) async fn admit(
    service: &Service,
    rates: &Rates,
    headers: &HeaderMap,
    address: Option<IpAddr>,
    rpc: Rpc,
) -> Result<Caller, (Refusal, Option<Caller>)> {
    let caller = match service.authenticate(bearer(headers)).await {
        Ok(caller) => caller,
        Err(refusal) if refusal.reason == Reason::Unauthenticated => {
            let limited = rates.failed_authentication(address).err();
            return Err((limited.unwrap_or(refusal), None));
        }
        Err(refusal) => return Err((refusal, None)),
    };
    match rates.request(&caller).and_then(|()| caller.may(rpc)) {
        Ok(()) => Ok(caller),
        Err(refusal) => Err((refusal, Some(caller))),
    }
}
