//! Authentication, rate limits and scopes of an API request, on every transport. Not a byte of the body is read before.

pub(super) mod rates;

use std::net::IpAddr;

use agentrouter_model::{Reason, Refusal, Rpc};
use agentrouter_service::{Caller, Service};
use http::HeaderMap;
use http::header::AUTHORIZATION;

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
    match rates.request(&caller.key().id).and_then(|()| caller.may(rpc)) {
        Ok(()) => Ok(caller),
        Err(refusal) => Err((refusal, Some(caller))),
    }
}

/// The token of the `Authorization` header. Two headers, or another scheme, count as none.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (AUTHORIZATION, value.parse().expect("a header value"))).collect()
    }

    #[test]
    fn one_bearer_token_is_read_and_two_are_none() {
        assert_eq!(bearer(&headers(&["Bearer ak-x"])), Some("ak-x"));
        assert_eq!(bearer(&headers(&["bearer ak-x"])), Some("ak-x"));
        for wrong in ["Basic ak-x", "ak-x", "Bearer", "Bearerak-x"] {
            assert_eq!(bearer(&headers(&[wrong])), None, "{wrong}");
        }
        assert_eq!(bearer(&headers(&["Bearer ak-x", "Bearer ak-x"])), None);
    }
}
