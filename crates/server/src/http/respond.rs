//! Answers, and what all of them carry.

use agentrouter_api::error;
use agentrouter_api::rest;
use agentrouter_model::{Reason, Refusal};
use http::header::{
    ACCEPT_ENCODING, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, WWW_AUTHENTICATE,
};
use http::{Response, StatusCode};

use super::body::Answer;
use super::media::Kind;
use super::route::Dialect;

pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_CONTENT_TYPE_OPTIONS: HeaderName = HeaderName::from_static("x-content-type-options");
const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A JSON answer.
pub(crate) fn json(status: StatusCode, body: impl Into<bytes::Bytes>) -> Response<Answer> {
    let mut response = Response::new(Answer::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

/// A refusal in the protocol of the request.
pub(crate) fn refusal(refusal: &Refusal, dialect: Dialect, request: &Kind) -> Response<Answer> {
    let mut response = match dialect {
        Dialect::Rest => {
            let mut response = json(error::http_status(refusal.reason), rest::response::error(refusal));
            response.headers_mut().extend(error::headers(refusal));
            response
        }
        Dialect::Connect => {
            // No call here is a stream, so the error of one that asks for a stream is not in a stream's form.
            let request =
                if request.begins("application/connect+") { Kind::default() } else { request.clone() };
            let error = error::connect_error(refusal);
            let mut response = error.into_http_response(&request.into_headers()).map(Answer::from);
            // Connect has statuses of HTTP for what is wrong with a request of HTTP; gRPC's status is always 200.
            let of_http = matches!(refusal.reason, Reason::UnsupportedMediaType | Reason::MethodNotAllowed);
            if of_http && response.status() != StatusCode::OK {
                *response.status_mut() = error::http_status(refusal.reason);
            }
            response
        }
    };
    if refusal.reason == Reason::UnsupportedMediaType && dialect == Dialect::Connect {
        for header in [ACCEPT_ENCODING, GRPC_ACCEPT_ENCODING] {
            response.headers_mut().insert(header, HeaderValue::from_static("gzip, identity"));
        }
    }
    if refusal.reason == Reason::Unauthenticated {
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// The refusal of a method, with those that the path takes.
pub(crate) fn wrong_method(allow: &str, dialect: Dialect, request: &Kind) -> Response<Answer> {
    let mut response = refusal(&Reason::MethodNotAllowed.into(), dialect, request);
    if let Ok(allow) = HeaderValue::from_str(allow) {
        response.headers_mut().insert(ALLOW, allow);
    }
    response
}

/// What every answer carries: that nobody may keep it, that nobody may guess its type, and its request id.
pub(crate) fn seal(response: &mut Response<Answer>, request_id: &str) {
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Ok(id) = HeaderValue::from_str(request_id) {
        headers.insert(X_REQUEST_ID, id);
    }
}
