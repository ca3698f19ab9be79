//! Encoding of refusals: the table of codes, the headers, and the error of Connect and gRPC.
//!
//! Every error of this service has [`REASON_HEADER`]. An error without it comes from a library, and its message may repeat
//! content of the request, so the server replaces it.

use std::time::Duration;

use agentrouter_model::{Code, Reason, Refusal};
use buffa::MessageField;
use connectrpc::{ConnectError, ErrorCode, ErrorDetail};
use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};

use crate::ERROR_DOMAIN;
use crate::wire::google::rpc::{BadRequest, ErrorInfo, RetryInfo, bad_request::FieldViolation};

/// The response header with the reason of an error. Every error of this service has it.
pub const REASON_HEADER: HeaderName = HeaderName::from_static("x-agentrouter-reason");

/// The HTTP status of a refusal on REST.
pub const fn http_status(reason: Reason) -> StatusCode {
    match reason {
        Reason::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Reason::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Reason::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        Reason::UnknownRoute => StatusCode::NOT_FOUND,
        _ => match reason.code() {
            Code::InvalidArgument | Code::FailedPrecondition => StatusCode::BAD_REQUEST,
            Code::Unauthenticated => StatusCode::UNAUTHORIZED,
            Code::PermissionDenied => StatusCode::FORBIDDEN,
            Code::NotFound => StatusCode::NOT_FOUND,
            Code::Aborted => StatusCode::CONFLICT,
            Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
            Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
            Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        },
    }
}

/// The headers of a refusal on any transport: [`REASON_HEADER`], `Retry-After` in whole seconds (rounded up, at least 1) if
/// the delay is known, and `WWW-Authenticate` if the key is missing or invalid.
pub fn headers(refusal: &Refusal) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(REASON_HEADER, HeaderValue::from_static(refusal.reason.as_str()));
    if let Some(delay) = refusal.retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(whole_seconds(delay)));
    }
    if refusal.reason == Reason::Unauthenticated {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    headers
}

fn whole_seconds(delay: Duration) -> u64 {
    delay.as_secs().saturating_add(u64::from(delay.subsec_nanos() > 0)).max(1)
}

/// A refusal as the error of Connect, gRPC and gRPC-Web, with its details and [`headers`].
pub fn connect_error(refusal: &Refusal) -> ConnectError {
    let mut error = ConnectError::new(error_code(refusal.code()), refusal.message());
    error.details = details(refusal);
    error.with_headers(headers(refusal))
}

/// The error for a fault of the service.
pub(crate) fn internal() -> ConnectError {
    connect_error(&Refusal::new(Reason::Internal))
}

const fn error_code(code: Code) -> ErrorCode {
    match code {
        Code::InvalidArgument => ErrorCode::InvalidArgument,
        Code::DeadlineExceeded => ErrorCode::DeadlineExceeded,
        Code::NotFound => ErrorCode::NotFound,
        Code::PermissionDenied => ErrorCode::PermissionDenied,
        Code::ResourceExhausted => ErrorCode::ResourceExhausted,
        Code::FailedPrecondition => ErrorCode::FailedPrecondition,
        Code::Aborted => ErrorCode::Aborted,
        Code::Unimplemented => ErrorCode::Unimplemented,
        Code::Internal => ErrorCode::Internal,
        Code::Unavailable => ErrorCode::Unavailable,
        Code::Unauthenticated => ErrorCode::Unauthenticated,
    }
}

fn details(refusal: &Refusal) -> Vec<ErrorDetail> {
    let info = ErrorInfo {
        reason: refusal.reason.as_str().into(),
        domain: ERROR_DOMAIN.into(),
        ..Default::default()
    };
    let mut details = vec![ErrorDetail::from_message("google.rpc.ErrorInfo", &info)];
    if !refusal.violations.is_empty() {
        let field_violations = refusal
            .violations
            .iter()
            .map(|violation| FieldViolation {
                field: violation.field.into(),
                description: violation.rule.as_ref().into(),
                ..Default::default()
            })
            .collect();
        let request = BadRequest { field_violations };
        details.push(ErrorDetail::from_message("google.rpc.BadRequest", &request));
    }
    if let Some(delay) = refusal.retry_after {
        let retry_delay = buffa_types::google::protobuf::Duration {
            seconds: i64::try_from(delay.as_secs()).unwrap_or(i64::MAX),
            nanos: i32::try_from(delay.subsec_nanos()).unwrap_or(0),
            ..Default::default()
        };
        let retry = RetryInfo { retry_delay: MessageField::some(retry_delay) };
        details.push(ErrorDetail::from_message("google.rpc.RetryInfo", &retry));
    }
    details
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connect_error_has_the_reason_the_fields_and_the_delay() {
        let mut refusal = Refusal::field("name", "must be set");
        refusal.retry_after = Some(Duration::from_millis(1500));
        let error = connect_error(&refusal);
        assert_eq!(error.code, ErrorCode::InvalidArgument);
        assert_eq!(error.code.grpc_code(), u32::from(refusal.code().number()));
        assert_eq!(error.message.as_deref(), Some("Invalid request: name must be set."));
        let types: Vec<&str> = error.details.iter().map(|detail| detail.type_url.as_str()).collect();
        assert_eq!(types, ["google.rpc.ErrorInfo", "google.rpc.BadRequest", "google.rpc.RetryInfo"]);
        assert_eq!(error.response_headers()[REASON_HEADER], "INVALID_REQUEST");
        assert_eq!(error.response_headers()[RETRY_AFTER], "2");
    }

    #[test]
    fn retry_after_is_rounded_up_to_at_least_one_second() {
        for (delay, seconds) in
            [(Duration::ZERO, 1), (Duration::from_nanos(1), 1), (Duration::from_secs(7), 7)]
        {
            assert_eq!(whole_seconds(delay), seconds);
        }
        assert_eq!(whole_seconds(Duration::MAX), u64::MAX);
    }

    #[test]
    fn reasons_map_to_http_statuses() {
        for (reason, status) in [
            (Reason::InvalidRequest, 400),
            (Reason::Unauthenticated, 401),
            (Reason::ScopeMissing, 403),
            (Reason::SecretNotFound, 404),
            (Reason::UnknownRoute, 404),
            (Reason::MethodNotAllowed, 405),
            (Reason::VersionMismatch, 409),
            (Reason::BodyTooLarge, 413),
            (Reason::UnsupportedMediaType, 415),
            (Reason::RateLimited, 429),
            (Reason::Internal, 500),
            (Reason::AuditUnavailable, 503),
            (Reason::DeadlineExceeded, 504),
        ] {
            assert_eq!(http_status(reason).as_u16(), status, "{reason}");
        }
    }
}
