//! Responses: their bodies, refusals in the protocol of the request, and the headers that all of them have.

use std::pin::Pin;
use std::task::{Context, Poll};

use agentrouter_api::{error, rest};
use agentrouter_model::{Reason, Refusal};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use connectrpc::{ConnectError, ConnectRpcBody};
use http::header::{
    ACCEPT_ENCODING, ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue,
    WWW_AUTHENTICATE,
};
use http::{Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, Full};
use tokio::sync::OwnedSemaphorePermit;

use super::head::dialect::Dialect;
use super::head::media::Kind;

pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_CONTENT_TYPE_OPTIONS: HeaderName = HeaderName::from_static("x-content-type-options");
const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A response of this server.
pub(crate) type HttpResponse = Response<ResponseBody>;

/// The body of a response.
pub(crate) enum ResponseBody {
    /// The whole body at once.
    Full(Full<Bytes>),
    /// The same, of bytes that the program keeps anyway: a page, or the text of `/metrics`.
    Shared(Full<Bytes>),
    /// A body of the Connect library: a message with its trailers, or a stream with the permit that it holds. Boxed, since
    /// it is four times as large as the other variant.
    Rpc(Box<ConnectRpcBody>, #[expect(dead_code, reason = "held until it is dropped")] Option<StreamPermits>),
}

/// The permits of a stream: of all, and of its client's address.
pub(crate) type StreamPermits = (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>);

impl ResponseBody {
    pub(crate) fn new(bytes: impl Into<Bytes>) -> Self {
        Self::Full(Full::new(bytes.into()))
    }

    pub(crate) fn shared(bytes: Bytes) -> Self {
        Self::Shared(Full::new(bytes))
    }
}

impl Default for ResponseBody {
    fn default() -> Self {
        Self::new(Bytes::new())
    }
}

/// A whole body has its length, which `ConnectRpcBody` does not pass on.
impl From<ConnectRpcBody> for ResponseBody {
    fn from(body: ConnectRpcBody) -> Self {
        match body {
            ConnectRpcBody::Full(body) => Self::Full(body),
            body => Self::Rpc(Box::new(body), None),
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Self::Full(body) | Self::Shared(body) => Pin::new(body).poll_frame(cx),
            Self::Rpc(body, _) => Pin::new(&mut **body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(body) | Self::Shared(body) => body.is_end_stream(),
            Self::Rpc(body, _) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(body) | Self::Shared(body) => body.size_hint(),
            Self::Rpc(body, _) => body.size_hint(),
        }
    }
}

/// A JSON response.
pub(crate) fn json(status: StatusCode, body: impl Into<bytes::Bytes>) -> HttpResponse {
    let mut response = Response::new(ResponseBody::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

/// A refusal in the protocol of the request.
pub(crate) fn refusal(refusal: &Refusal, dialect: Dialect, request: &Kind) -> HttpResponse {
    let mut response = match dialect {
        Dialect::Rest => {
            let mut response = json(error::http_status(refusal.reason), rest::response::error(refusal));
            response.headers_mut().extend(error::headers(refusal));
            response
        }
        Dialect::Connect => connect_error(error::connect_error(refusal), refusal.reason, request),
    };
    if refusal.reason == Reason::Unauthenticated {
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// An error of Connect, gRPC or gRPC-Web.
pub(crate) fn connect_error(error: ConnectError, reason: Reason, request: &Kind) -> HttpResponse {
    // No procedure here is a stream, so an error is not in the form of a stream either.
    let request = if request.begins("application/connect+") { Kind::default() } else { request.clone() };
    let mut response = error.into_http_response(&request.into_headers()).map(ResponseBody::from);
    // Connect has HTTP statuses for what is wrong with an HTTP request. The status of gRPC is always 200.
    let of_http = matches!(reason, Reason::UnsupportedMediaType | Reason::MethodNotAllowed);
    if of_http && response.status() != StatusCode::OK {
        *response.status_mut() = error::http_status(reason);
    }
    if reason == Reason::UnsupportedMediaType {
        for header in [ACCEPT_ENCODING, GRPC_ACCEPT_ENCODING] {
            response.headers_mut().insert(header, HeaderValue::from_static("gzip, identity"));
        }
    }
    response
}

/// The refusal of a method, with the methods that the path takes.
pub(crate) fn wrong_method(allow: &str, dialect: Dialect, request: &Kind) -> HttpResponse {
    let mut response = refusal(&Reason::MethodNotAllowed.into(), dialect, request);
    if let Ok(allow) = HeaderValue::from_str(allow) {
        response.headers_mut().insert(ALLOW, allow);
    }
    response
}

/// Turns a response in the binary form of gRPC-Web into one in the text form. It is whole, never a stream.
pub(crate) async fn as_text(response: HttpResponse) -> HttpResponse {
    let (mut parts, body) = response.into_parts();
    let Ok(body) = body.collect().await;
    let kind = parts.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("");
    if !kind.starts_with("application/grpc-web") {
        return Response::from_parts(parts, ResponseBody::new(body.to_bytes()));
    }
    parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc-web-text+proto"));
    parts.headers.remove(CONTENT_LENGTH);
    let text = STANDARD.encode(body.to_bytes());
    Response::from_parts(parts, ResponseBody::new(text))
}

/// Adds the headers that every response has: no caching, no guessing of its type, and its request id.
pub(crate) fn seal(response: &mut HttpResponse, request_id: &str) {
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Ok(id) = HeaderValue::from_str(request_id) {
        headers.insert(X_REQUEST_ID, id);
    }
}
