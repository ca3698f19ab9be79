//! Which pages of other origins may call the API from a browser: none, but those that `cors.origins` names.
//!
//! An origin that is let in gets no more than any other caller: it still needs a key, and no cookie is ever looked at.
//! Only the API's own paths take part; pages, metrics and health stay with the server's own origin.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, HeaderValue,
    ORIGIN, VARY,
};
use http::request::Parts;
use http::{Method, Response, StatusCode};

use super::body::Answer;
use super::route::is_api;

/// What REST, Connect and gRPC-Web send.
const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, DELETE");
const HEADERS: HeaderValue = HeaderValue::from_static(
    "authorization, content-type, connect-protocol-version, connect-timeout-ms, grpc-timeout, x-grpc-web, x-user-agent",
);
/// What a script may read of an answer, beside what it always may.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "retry-after, x-request-id, x-agentrouter-reason, grpc-status, grpc-message, grpc-status-details-bin",
);
/// How long a browser may remember the answer to its question, in seconds.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

/// The origins that are let in.
pub(crate) struct Cors {
    origins: Vec<HeaderValue>,
}

/// What is to be said to a request's origin.
pub(crate) struct Verdict {
    /// The origin, if it is let in.
    allowed: Option<HeaderValue>,
    /// Whether the browser only asks.
    asks: bool,
}

impl Cors {
    pub(crate) fn new(origins: &[HeaderValue]) -> Self {
        Self { origins: origins.to_vec() }
    }

    /// None where there is nothing to say: no origin is let in anywhere, or the path is not the API's.
    pub(crate) fn judge(&self, request: &Parts) -> Option<Verdict> {
        if self.origins.is_empty() || !is_api(request.uri.path()) {
            return None;
        }
        let origin = request.headers.get(ORIGIN);
        let allowed = origin.filter(|origin| self.origins.contains(origin)).cloned();
        let asks = allowed.is_some()
            && request.method == Method::OPTIONS
            && request.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        Some(Verdict { allowed, asks })
    }
}

impl Verdict {
    /// The answer to a browser that only asks; none if it calls.
    pub(crate) fn preflight(&self) -> Option<Response<Answer>> {
        if !self.asks {
            return None;
        }
        let mut response = Response::new(Answer::new(""));
        *response.status_mut() = StatusCode::NO_CONTENT;
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HEADERS);
        headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
        Some(response)
    }

    /// Adds to an answer what the browser wants to see before it passes it on.
    pub(crate) fn mark(self, response: &mut Response<Answer>) {
        let headers = response.headers_mut();
        headers.append(VARY, HeaderValue::from_static("origin"));
        if let Some(origin) = self.allowed {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        }
    }
}
