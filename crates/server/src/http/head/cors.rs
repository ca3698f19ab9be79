//! CORS: which other origins may call the API from a browser. Only those in `cors.origins`.
//!
//! An allowed origin still needs a key; cookies are not read. Only the paths of the API take part. Pages, metrics and health
//! are for the server's own origin.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, HeaderValue,
    ORIGIN, VARY,
};
use http::request::Parts;
use http::{Method, StatusCode};

use super::route::is_api;
use crate::http::respond::{HttpResponse, ResponseBody};

/// The request headers of REST, Connect and gRPC-Web.
const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, DELETE");
const HEADERS: HeaderValue = HeaderValue::from_static(
    "authorization, content-type, connect-protocol-version, connect-timeout-ms, grpc-timeout, x-grpc-web, x-user-agent",
);
/// The response headers that a script may read, beside those that it always may.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "retry-after, x-request-id, x-agentrouter-reason, grpc-status, grpc-message, grpc-status-details-bin",
);
/// How long a browser may cache a preflight response, in seconds.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

/// The allowed origins.
pub(crate) struct Cors {
    origins: Vec<HeaderValue>,
}

/// The rights of a request's origin.
pub(crate) struct Verdict {
    /// The origin, if it is allowed.
    allowed: Option<HeaderValue>,
    /// Whether the request is a preflight.
    is_preflight: bool,
}

impl Cors {
    pub(crate) fn new(origins: &[HeaderValue]) -> Self {
        Self { origins: origins.to_vec() }
    }

    /// `None` if no origin is allowed, or the path is not one of the API.
    pub(crate) fn judge(&self, request: &Parts) -> Option<Verdict> {
        if self.origins.is_empty() || !is_api(request.uri.path()) {
            return None;
        }
        let origin = request.headers.get(ORIGIN);
        let allowed = origin.filter(|origin| self.origins.contains(origin)).cloned();
        let is_preflight = allowed.is_some()
            && request.method == Method::OPTIONS
            && request.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        Some(Verdict { allowed, is_preflight })
    }
}

impl Verdict {
    /// The response to a preflight. `None` for another request.
    pub(crate) fn preflight(&self) -> Option<HttpResponse> {
        if !self.is_preflight {
            return None;
        }
        let mut response = HttpResponse::new(ResponseBody::new(""));
        *response.status_mut() = StatusCode::NO_CONTENT;
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HEADERS);
        headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
        Some(response)
    }

    /// Adds the headers without which the browser withholds the response.
    pub(crate) fn mark(self, response: &mut HttpResponse) {
        let headers = response.headers_mut();
        headers.append(VARY, HeaderValue::from_static("origin"));
        if let Some(origin) = self.allowed {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        }
    }
}
