//! The head of a request: its bounds, its identity, and where it goes.
//!
//! The HTTP libraries bound the time and memory of a head before it arrives here (`listener`).

pub(super) mod cors;
pub(super) mod dialect;
pub(super) mod media;
pub(super) mod route;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use agentrouter_model::{Refusal, Rng, RngError};
use agentrouter_service::Origin;
use http::header::HOST;
use http::request::Parts;
use http::{Request, StatusCode, Version};
use hyper::body::Incoming;
use opentelemetry::trace::SpanContext;

use super::arriving::Arriving;
use super::connections::Connection;
use super::peer::{Peer, Proxies};
use crate::telemetry;

/// The most header lines of a request. The HTTP/1.1 library has a bound of its own, 100, and rejects first above it.
const MAX_HEADERS: usize = 64;

/// A request whose head has arrived. Boxed from the start, since each step passes it on.
pub(super) struct Inbound {
    pub(super) parts: Parts,
    pub(super) body: Arriving,
    pub(super) peer: Peer,
    /// For audit records.
    pub(super) origin: Origin,
    /// The caller's span.
    pub(super) parent: Option<Box<SpanContext>>,
}

impl Inbound {
    pub(super) fn new(
        request: Request<Incoming>,
        connection: &Arc<Connection>,
        peer: &Peer,
        proxies: &Proxies,
        ids: &RequestIds,
    ) -> Box<Self> {
        let (parts, body) = request.into_parts();
        let peer = proxies.client(peer, &parts.headers);
        let body = Arriving::new(body, connection);
        let parent = telemetry::remote_parent(&parts.headers).map(Box::new);
        let origin = Origin {
            request_id: ids.next(),
            trace_id: parent.as_ref().map(|parent| parent.trace_id().to_string().into()),
            address: peer.label.clone(),
        };
        Box::new(Self { parts, body, peer, origin, parent })
    }
}

/// Checks the head's size and that HTTP/1.1 names one host (RFC 9112, §3.2). The HTTP/2 library has its own measure and
/// rejects first.
///
/// # Errors
/// The refusal and its status.
pub(super) fn check(parts: &Parts, max_bytes: usize) -> Result<(), (StatusCode, Refusal)> {
    if size(parts) > max_bytes {
        let refusal = Refusal::field("headers", "must be together at most as large as limit.header-size");
        return Err((StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, refusal));
    }
    if parts.headers.len() > MAX_HEADERS {
        let refusal = Refusal::field("headers", "must be at most 64");
        return Err((StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, refusal));
    }
    let hosts = parts.headers.get_all(HOST).iter().count();
    if parts.version == Version::HTTP_11 && hosts != 1 {
        return Err((StatusCode::BAD_REQUEST, Refusal::field("host", "must be given by one header")));
    }
    Ok(())
}

/// The bytes of a head as HTTP/1.1 writes it, without optional white space.
fn size(parts: &Parts) -> usize {
    let uri = &parts.uri;
    let target = uri.path_and_query().map_or(0, |text| text.as_str().len())
        + uri.authority().map_or(0, |text| text.as_str().len());
    let fields = parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
    parts.method.as_str().len() + target + 14 + fields.sum::<usize>()
}

/// Request ids: 16 random digits of this process, then 16 of a counter.
pub(super) struct RequestIds {
    process: u64,
    count: AtomicU64,
}

impl RequestIds {
    /// # Errors
    /// When the random source fails.
    pub(super) fn new(rng: &dyn Rng) -> Result<Self, RngError> {
        let mut bytes = [0; 8];
        rng.fill(&mut bytes)?;
        Ok(Self { process: u64::from_be_bytes(bytes), count: AtomicU64::new(0) })
    }

    fn next(&self) -> Arc<str> {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let number = u128::from(self.process) << 64 | u128::from(count);
        let mut text = [0; 32];
        for (digit, shift) in text.iter_mut().zip((0..32).rev()) {
            *digit = b"0123456789abcdef"[(number >> (4 * shift) & 15) as usize];
        }
        // Hexadecimal digits are UTF-8.
        str::from_utf8(&text).unwrap_or_default().into()
    }
}
