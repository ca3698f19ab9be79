//! What stands before every call, whatever its transport: who is it, are they within their rate, may they make this
//! call at all. Nothing of the body is read before that.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use agentrouter_model::{Reason, Refusal, Rng, RngError, Rpc};
use agentrouter_service::{Caller, Origin, Service};
use http::header::{AUTHORIZATION, HOST};
use http::request::Parts;
use http::{HeaderMap, StatusCode, Version};

use super::rates::Rates;

/// Admits the caller of `rpc`.
///
/// # Errors
/// `Unauthenticated`, `RateLimited`, `ScopeMissing`, each with the caller if one was found; `StoreUnavailable`.
pub(crate) async fn admit(
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

/// Most header lines of a request. The library of HTTP/1.1 has a bound of its own, at 100, above which it refuses first.
const HEADERS: usize = 64;

/// Whether the head of a request is one to be answered: not over its size, and with the one host that HTTP/1.1 asks for
/// (RFC 9112, §3.2). The HTTP/2 library has its own measure and refuses first.
///
/// # Errors
/// The refusal and its status.
pub(crate) fn check_head(parts: &Parts, most: usize) -> Result<(), (StatusCode, Refusal)> {
    if head_bytes(parts) > most {
        let refusal = Refusal::field("headers", "must be together at most as large as limit.header-size");
        return Err((StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, refusal));
    }
    if parts.headers.len() > HEADERS {
        let refusal = Refusal::field("headers", "must be at most 64");
        return Err((StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, refusal));
    }
    let hosts = parts.headers.get_all(HOST).iter().count();
    if parts.version == Version::HTTP_11 && hosts != 1 {
        return Err((StatusCode::BAD_REQUEST, Refusal::field("host", "must be given by one header")));
    }
    Ok(())
}

/// The size of a head as HTTP/1.1 writes it, but for white space that means nothing.
fn head_bytes(parts: &Parts) -> usize {
    let uri = &parts.uri;
    let target = uri.path_and_query().map_or(0, |text| text.as_str().len())
        + uri.authority().map_or(0, |text| text.as_str().len());
    let fields = parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
    parts.method.as_str().len() + target + 14 + fields.sum::<usize>()
}

/// The token of the one `Authorization` header. Two of them, or another scheme, are none at all.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}

/// Request ids: 16 random digits of this process and 16 that count.
pub(crate) struct RequestIds {
    process: u64,
    count: AtomicU64,
}

impl RequestIds {
    /// # Errors
    /// When the random source fails.
    pub(crate) fn new(rng: &dyn Rng) -> Result<Self, RngError> {
        let mut bytes = [0; 8];
        rng.fill(&mut bytes)?;
        Ok(Self { process: u64::from_be_bytes(bytes), count: AtomicU64::new(0) })
    }

    pub(crate) fn next(&self) -> Arc<str> {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let number = u128::from(self.process) << 64 | u128::from(count);
        let mut text = [0; 32];
        for (digit, shift) in text.iter_mut().zip((0..32).rev()) {
            *digit = b"0123456789abcdef"[(number >> (4 * shift) & 15) as usize];
        }
        // Digits alone, so it is UTF-8.
        str::from_utf8(&text).unwrap_or_default().into()
    }
}

/// Where a request came from.
pub(crate) fn origin(ids: &RequestIds, headers: &HeaderMap, address: Option<&Arc<str>>) -> Origin {
    Origin { request_id: ids.next(), trace_id: trace_id(headers), address: address.cloned() }
}

/// The trace id of a well-formed W3C `traceparent` (<https://www.w3.org/TR/trace-context/>, version 00); anything else
/// is ignored, so that nothing but 32 hexadecimal digits gets from that header into the audit log.
fn trace_id(headers: &HeaderMap) -> Option<Arc<str>> {
    let value = headers.get("traceparent")?.as_bytes();
    let hex = |bytes: &[u8]| bytes.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let well_formed = value.len() == 55
        && value.starts_with(b"00-")
        && (value[35], value[52]) == (b'-', b'-')
        && hex(&value[3..35])
        && hex(&value[36..52])
        && hex(&value[53..])
        && value[3..35] != [b'0'; 32];
    well_formed.then(|| std::str::from_utf8(&value[3..35]).ok().map(Arc::from)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in values {
            headers.append(*name, value.parse().expect("a header value"));
        }
        headers
    }

    #[test]
    fn one_bearer_token_is_one_and_two_are_none() {
        assert_eq!(bearer(&headers(&[("authorization", "Bearer ak-x")])), Some("ak-x"));
        assert_eq!(bearer(&headers(&[("authorization", "bearer ak-x")])), Some("ak-x"));
        for wrong in ["Basic ak-x", "ak-x", "Bearer", "Bearerak-x"] {
            assert_eq!(bearer(&headers(&[("authorization", wrong)])), None, "{wrong}");
        }
        let two = headers(&[("authorization", "Bearer ak-x"), ("authorization", "Bearer ak-x")]);
        assert_eq!(bearer(&two), None);
    }

    #[test]
    fn only_a_well_formed_trace_id_is_taken() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(
            trace_id(&headers(&[("traceparent", good)])).as_deref(),
            Some("4bf92f3577b34da6a3ce929d0e0e4736")
        );
        for wrong in [
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "canary",
        ] {
            assert_eq!(trace_id(&headers(&[("traceparent", wrong)])), None, "{wrong}");
        }
    }
}
