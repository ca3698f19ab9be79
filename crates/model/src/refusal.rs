//! Refusals: why the service rejects a request, and their gRPC codes and texts.
//!
//! `service` and the transports create them, and `api` encodes them. Every text is fixed, so a refusal cannot carry content
//! of a request or of the store.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

/// The kind of a refusal: a gRPC status code (<https://grpc.io/docs/guides/status-codes/>).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Code {
    /// The request breaks a rule. A retry does not help.
    InvalidArgument = 3,
    /// The request did not complete before its deadline.
    DeadlineExceeded = 4,
    /// The caller may see no such secret.
    NotFound = 5,
    /// The key lacks a scope or a realm.
    PermissionDenied = 7,
    /// The request exceeds a rate or a size.
    ResourceExhausted = 8,
    /// The state does not allow the operation.
    FailedPrecondition = 9,
    /// A concurrent write came first.
    Aborted = 10,
    /// There is no such operation.
    Unimplemented = 12,
    /// A fault of the service.
    Internal = 13,
    /// The service is temporarily unavailable. A retry may succeed.
    Unavailable = 14,
    /// The request has no valid key.
    Unauthenticated = 16,
}

impl Code {
    /// The number on the wire.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The spelling in audit records and metrics, such as `NOT_FOUND`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::NotFound => "NOT_FOUND",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Self::FailedPrecondition => "FAILED_PRECONDITION",
            Self::Aborted => "ABORTED",
            Self::Unimplemented => "UNIMPLEMENTED",
            Self::Internal => "INTERNAL",
            Self::Unavailable => "UNAVAILABLE",
            Self::Unauthenticated => "UNAUTHENTICATED",
        }
    }
}

/// The cause of a refusal, in one stable word that a program may act on: the `reason` of `google.rpc.ErrorInfo`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Fields break rules. The violations name them.
    InvalidRequest,
    /// The body does not parse as its content type.
    MalformedBody,
    /// The body, compressed or decompressed, is larger than 256 KiB.
    BodyTooLarge,
    /// The content type or encoding is not supported.
    UnsupportedMediaType,
    /// The path does not support the HTTP method.
    MethodNotAllowed,
    /// There is no such path or procedure.
    UnknownRoute,
    /// The key is missing, unknown, malformed, revoked or expired. The response does not say which.
    Unauthenticated,
    /// The key lacks the scope of the operation.
    ScopeMissing,
    /// The key is limited to other realms.
    RealmNotAllowed,
    /// `user_id` needs an internal scope that the key lacks.
    UserIdNotAllowed,
    /// No such secret, or no such readable version of it.
    SecretNotFound,
    /// `expected_version` is not the current version.
    VersionMismatch,
    /// The secret has used all version numbers.
    VersionsExhausted,
    /// The page token is invalid, or belongs to another caller or other filters.
    PageTokenInvalid,
    /// Too many requests with this key, or too many failed authentications from this address.
    RateLimited,
    /// The server has more concurrent requests than it admits.
    Overloaded,
    /// The audit record cannot be written, so nothing was released or changed.
    AuditUnavailable,
    /// The store cannot be reached or written. Nothing was done.
    StoreUnavailable,
    /// The store failed during a write. The write may or may not have happened.
    OutcomeUnknown,
    /// The KEK of this version is not in the keyring.
    KekUnavailable,
    /// The stored bytes do not open.
    SecretCorrupt,
    /// The server is shutting down.
    ShuttingDown,
    /// The request did not complete before its deadline.
    DeadlineExceeded,
    /// A fault of the service. The log has it under the request id.
    Internal,
}

impl Reason {
    /// The spelling on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "INVALID_REQUEST",
            Self::MalformedBody => "MALFORMED_BODY",
            Self::BodyTooLarge => "BODY_TOO_LARGE",
            Self::UnsupportedMediaType => "UNSUPPORTED_MEDIA_TYPE",
            Self::MethodNotAllowed => "METHOD_NOT_ALLOWED",
            Self::UnknownRoute => "UNKNOWN_ROUTE",
            Self::Unauthenticated => "UNAUTHENTICATED",
            Self::ScopeMissing => "SCOPE_MISSING",
            Self::RealmNotAllowed => "REALM_NOT_ALLOWED",
            Self::UserIdNotAllowed => "USER_ID_NOT_ALLOWED",
            Self::SecretNotFound => "SECRET_NOT_FOUND",
            Self::VersionMismatch => "VERSION_MISMATCH",
            Self::VersionsExhausted => "VERSIONS_EXHAUSTED",
            Self::PageTokenInvalid => "PAGE_TOKEN_INVALID",
            Self::RateLimited => "RATE_LIMITED",
            Self::Overloaded => "OVERLOADED",
            Self::AuditUnavailable => "AUDIT_UNAVAILABLE",
            Self::StoreUnavailable => "STORE_UNAVAILABLE",
            Self::OutcomeUnknown => "OUTCOME_UNKNOWN",
            Self::KekUnavailable => "KEK_UNAVAILABLE",
            Self::SecretCorrupt => "SECRET_CORRUPT",
            Self::ShuttingDown => "SHUTTING_DOWN",
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::Internal => "INTERNAL",
        }
    }

    /// The status code of this reason.
    pub const fn code(self) -> Code {
        match self {
            Self::InvalidRequest | Self::MalformedBody | Self::PageTokenInvalid => Code::InvalidArgument,
            Self::BodyTooLarge | Self::RateLimited => Code::ResourceExhausted,
            // Connect and gRPC use this code for an unsupported encoding.
            Self::UnsupportedMediaType | Self::MethodNotAllowed | Self::UnknownRoute => Code::Unimplemented,
            Self::Unauthenticated => Code::Unauthenticated,
            Self::ScopeMissing | Self::RealmNotAllowed | Self::UserIdNotAllowed => Code::PermissionDenied,
            Self::SecretNotFound => Code::NotFound,
            Self::VersionMismatch => Code::Aborted,
            Self::VersionsExhausted => Code::FailedPrecondition,
            Self::Overloaded
            | Self::AuditUnavailable
            | Self::StoreUnavailable
            | Self::OutcomeUnknown
            | Self::KekUnavailable
            | Self::ShuttingDown => Code::Unavailable,
            Self::DeadlineExceeded => Code::DeadlineExceeded,
            Self::SecretCorrupt | Self::Internal => Code::Internal,
        }
    }

    /// The sentence of this reason: what happened and what to do. It is fixed, so nothing can leak into it.
    pub const fn message(self) -> &'static str {
        match self {
            Self::InvalidRequest => {
                "The request has invalid fields; the details name each of them and its rule."
            }
            Self::MalformedBody => {
                "The request body cannot be read; send one well-formed message of the declared content type."
            }
            Self::BodyTooLarge => "The request body is larger than 262144 bytes; send a smaller one.",
            Self::UnsupportedMediaType => {
                "The content type or encoding is not supported; send application/json, or a Connect, gRPC or gRPC-Web type."
            }
            Self::MethodNotAllowed => "This path does not support that HTTP method; see /openapi.json.",
            Self::UnknownRoute => "There is no such path or procedure; see /openapi.json.",
            Self::Unauthenticated => {
                "The request has no valid API key; send one as 'Authorization: Bearer ak-<key>'."
            }
            Self::ScopeMissing => {
                "The API key lacks the scope that this request needs; use a key that has it."
            }
            Self::RealmNotAllowed => {
                "The API key is limited to other realms; name one of its realms or use another key."
            }
            Self::UserIdNotAllowed => {
                "Naming a user_id needs an internal scope that the API key lacks; leave user_id out or use another key."
            }
            Self::SecretNotFound => {
                "There is no such secret, or no such readable version of it; check name, realm and version."
            }
            Self::VersionMismatch => {
                "The secret's current version is not expected_version; read the secret again, then retry."
            }
            Self::VersionsExhausted => {
                "The secret has used all its version numbers; delete it and create it again."
            }
            Self::PageTokenInvalid => {
                "The page_token is not valid for this caller and these filters; start again without one."
            }
            Self::RateLimited => "Too many requests; wait as long as Retry-After says, then try again.",
            Self::Overloaded => "The server has more requests than it admits at once; try again shortly.",
            Self::AuditUnavailable => {
                "The audit record cannot be written, so nothing was done; try again when the server's /readyz returns 200."
            }
            Self::StoreUnavailable => {
                "The store is not available; try again when the server's /readyz returns 200."
            }
            Self::OutcomeUnknown => {
                "The store failed while it wrote, and whether the change happened is not known; read the secret before you try again."
            }
            Self::KekUnavailable => {
                "The key that wraps this secret is not available to the server; an operator must restore it."
            }
            Self::SecretCorrupt => {
                "The stored secret does not open; write a new value or restore it from a backup."
            }
            Self::ShuttingDown => "The server is shutting down; try again.",
            Self::DeadlineExceeded => "The request did not complete in time; try again.",
            Self::Internal => "The server failed; its log has the cause under this request's id.",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One field that breaks its rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The field's proto name, such as `page_size`. It is never taken from the request.
    pub field: &'static str,
    /// The rule: a fixed sentence that begins with "must". It never contains content of the request.
    pub rule: Cow<'static, str>,
}

/// The invalid fields of one request, each at most once. So the response to a request is bounded by the number of its
/// fields, however often the request repeats one.
#[derive(Debug, Default)]
pub struct Violations(Vec<Violation>);

impl Violations {
    /// Notes that `field` breaks `rule`. Only the first rule of a field is kept.
    pub fn note(&mut self, field: &'static str, rule: impl Into<Cow<'static, str>>) {
        if self.0.iter().all(|violation| violation.field != field) {
            self.0.push(Violation { field, rule: rule.into() });
        }
    }

    /// `Ok` if every field is valid.
    ///
    /// # Errors
    /// [`Reason::InvalidRequest`], with every invalid field.
    pub fn finish(self) -> Result<(), Refusal> {
        if self.0.is_empty() { Ok(()) } else { Err(Refusal::fields(self.0)) }
    }
}

/// A refusal: its reason, the invalid fields, and when to retry. The response of a refused request consists of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    /// The reason.
    pub reason: Reason,
    /// The invalid fields, for [`Reason::InvalidRequest`].
    pub violations: Vec<Violation>,
    /// How long to wait before a retry, if that is known.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// A refusal for `reason` alone.
    pub const fn new(reason: Reason) -> Self {
        Self { reason, violations: Vec::new(), retry_after: None }
    }

    /// A refusal of one field.
    pub fn field(field: &'static str, rule: impl Into<Cow<'static, str>>) -> Self {
        Self::fields(vec![Violation { field, rule: rule.into() }])
    }

    /// A refusal of several fields.
    pub const fn fields(violations: Vec<Violation>) -> Self {
        Self { reason: Reason::InvalidRequest, violations, retry_after: None }
    }

    /// The same refusal with a delay before a retry.
    #[must_use]
    pub const fn retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }

    /// The status code.
    pub const fn code(&self) -> Code {
        self.reason.code()
    }

    /// The sentence for people: the reason's, and each field with its rule.
    pub fn message(&self) -> Cow<'static, str> {
        if self.violations.is_empty() {
            return Cow::Borrowed(self.reason.message());
        }
        let fields: Vec<String> = self.violations.iter().map(|v| format!("{} {}", v.field, v.rule)).collect();
        Cow::Owned(format!("Invalid request: {}.", fields.join("; ")))
    }
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Self::new(reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_named_once_however_often_it_is_invalid() {
        let mut violations = Violations::default();
        for _ in 0..100_000 {
            violations.note("update_mask", "must name only value");
            violations.note("name", "must be set");
            violations.note("name", "must be short");
        }
        let refusal = violations.finish().expect_err("two fields are invalid");
        assert_eq!(refusal.message(), "Invalid request: update_mask must name only value; name must be set.");
        assert_eq!(Violations::default().finish(), Ok(()));
    }

    #[test]
    fn a_message_names_every_invalid_field() {
        let refusal = Refusal::fields(vec![
            Violation { field: "name", rule: "must be set".into() },
            Violation { field: "page_size", rule: "must not be negative".into() },
        ]);
        assert_eq!(refusal.message(), "Invalid request: name must be set; page_size must not be negative.");
        assert_eq!(refusal.code().number(), 3);
    }
}
