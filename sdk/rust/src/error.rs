//! Errors of the SDK, and how errors of the RPC library become them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use agentrouter_api::wire::google::rpc;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use buffa::Message;
use connectrpc::{ConnectError, ErrorCode};

use crate::ConfigError;
use crate::settings::{KEY_ID, KEY_SECRET};

/// The reasons of the service. A newer server may have more. `docs/errors.md` explains each.
pub mod reason {
    /// See `docs/errors.md`.
    pub const INVALID_REQUEST: &str = "INVALID_REQUEST";
    /// See `docs/errors.md`.
    pub const MALFORMED_BODY: &str = "MALFORMED_BODY";
    /// See `docs/errors.md`.
    pub const BODY_TOO_LARGE: &str = "BODY_TOO_LARGE";
    /// See `docs/errors.md`.
    pub const UNSUPPORTED_MEDIA_TYPE: &str = "UNSUPPORTED_MEDIA_TYPE";
    /// See `docs/errors.md`.
    pub const METHOD_NOT_ALLOWED: &str = "METHOD_NOT_ALLOWED";
    /// See `docs/errors.md`.
    pub const UNKNOWN_ROUTE: &str = "UNKNOWN_ROUTE";
    /// See `docs/errors.md`.
    pub const UNAUTHENTICATED: &str = "UNAUTHENTICATED";
    /// See `docs/errors.md`.
    pub const SCOPE_MISSING: &str = "SCOPE_MISSING";
    /// See `docs/errors.md`.
    pub const REALM_NOT_ALLOWED: &str = "REALM_NOT_ALLOWED";
    /// See `docs/errors.md`.
    pub const USER_ID_NOT_ALLOWED: &str = "USER_ID_NOT_ALLOWED";
    /// See `docs/errors.md`.
    pub const SECRET_NOT_FOUND: &str = "SECRET_NOT_FOUND";
    /// See `docs/errors.md`.
    pub const VERSION_MISMATCH: &str = "VERSION_MISMATCH";
    /// See `docs/errors.md`.
    pub const VERSIONS_EXHAUSTED: &str = "VERSIONS_EXHAUSTED";
    /// See `docs/errors.md`.
    pub const PAGE_TOKEN_INVALID: &str = "PAGE_TOKEN_INVALID";
    /// See `docs/errors.md`.
    pub const RATE_LIMITED: &str = "RATE_LIMITED";
    /// See `docs/errors.md`.
    pub const OVERLOADED: &str = "OVERLOADED";
    /// See `docs/errors.md`.
    pub const AUDIT_UNAVAILABLE: &str = "AUDIT_UNAVAILABLE";
    /// See `docs/errors.md`.
    pub const STORE_UNAVAILABLE: &str = "STORE_UNAVAILABLE";
    /// See `docs/errors.md`.
    pub const OUTCOME_UNKNOWN: &str = "OUTCOME_UNKNOWN";
    /// See `docs/errors.md`.
    pub const KEK_UNAVAILABLE: &str = "KEK_UNAVAILABLE";
    /// See `docs/errors.md`.
    pub const SECRET_CORRUPT: &str = "SECRET_CORRUPT";
    /// See `docs/errors.md`.
    pub const SHUTTING_DOWN: &str = "SHUTTING_DOWN";
    /// See `docs/errors.md`.
    pub const DEADLINE_EXCEEDED: &str = "DEADLINE_EXCEEDED";
    /// See `docs/errors.md`.
    pub const INTERNAL: &str = "INTERNAL";
}

/// Why a call failed. It contains neither the API key nor a value. Its `Display` is one line for a log. Cheap to
/// clone.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting is missing or malformed. No request was sent.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The server rejected the request.
    #[error("{}", .0)]
    Refused(Box<Refusal>),
    /// The server cannot be reached, the connection broke, or another program responded. It is not known whether a write
    /// was made.
    #[error("{}: {message}", unreachable(source.is_some()))]
    Transport {
        /// `Unavailable` without a response. Otherwise the code of the HTTP status.
        code: ErrorCode,
        /// The text of the transport.
        message: String,
        /// How long to wait before the next attempt, if the response says so.
        retry_after: Option<Duration>,
        /// The error of the transport, if there is no response.
        #[source]
        source: Option<Arc<dyn std::error::Error + Send + Sync>>,
    },
    /// There was no response in time. It is not known whether a write was made.
    #[error("no response from the server within {after:?}")]
    Timeout {
        /// The client's timeout.
        after: Duration,
    },
}

/// The error of the server. Its `Display` is one line for a log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    /// The kind of the error, such as `NotFound`.
    pub code: ErrorCode,
    /// The stable cause, such as [`reason::SECRET_NOT_FOUND`]. Programs should act on it.
    pub reason: String,
    /// What happened and what to do, for people.
    pub message: String,
    /// The fields of the request that break rules.
    pub violations: Vec<FieldViolation>,
    /// How long to wait before the next attempt, if the server says so.
    pub retry_after: Option<Duration>,
    /// Identifies the call in the server's log.
    pub request_id: Option<String>,
}

/// A field of the request that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FieldViolation {
    /// The field's name, such as `page_size`.
    pub field: String,
    /// Its rule, such as "must not be negative".
    pub description: String,
}

impl Error {
    /// Whether there is no response of the service.
    pub fn is_transport(&self) -> bool {
        matches!(self, Self::Transport { .. } | Self::Timeout { .. })
    }

    /// The error of the server, if it is one.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// The kind of the error. Without a response it is `Unavailable` or `DeadlineExceeded`. If another program responded, it
    /// is the code of the HTTP status. `None` if the settings are wrong.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Config(_) => None,
            Self::Refused(refusal) => Some(refusal.code),
            Self::Transport { code, .. } => Some(*code),
            Self::Timeout { .. } => Some(ErrorCode::DeadlineExceeded),
        }
    }

    /// The stable cause of the server's error, if it is one.
    pub fn reason(&self) -> Option<&str> {
        self.refusal().map(|refusal| refusal.reason.as_str())
    }

    /// Identifies the call in the server's log. `None` if the server reports no id.
    pub fn request_id(&self) -> Option<&str> {
        self.refusal().and_then(|refusal| refusal.request_id.as_deref())
    }

    /// How long to wait before the next attempt, if the response says so.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(refusal) => refusal.retry_after,
            Self::Transport { retry_after, .. } => *retry_after,
            Self::Config(_) | Self::Timeout { .. } => None,
        }
    }

    /// Whether the server's error has the code `NotFound`.
    pub fn is_not_found(&self) -> bool {
        self.refusal().is_some_and(|refusal| refusal.code == ErrorCode::NotFound)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = spelled(self.code);
        f.write_str(&code)?;
        if self.reason != code {
            write!(f, " ({})", self.reason)?;
        }
        write!(f, ": {}", self.message)?;
        match &self.request_id {
            Some(id) => write!(f, " [request {id}]"),
            None => Ok(()),
        }
    }
}

/// A code as the other SDKs spell it, such as `NOT_FOUND`.
fn spelled(code: ErrorCode) -> String {
    code.as_str().to_ascii_uppercase()
}

fn unreachable(no_response: bool) -> &'static str {
    if no_response { "cannot reach the server" } else { "the response is not from the secret service" }
}

/// Retry-After in seconds. Dates are ignored.
fn retry_after(text: &str) -> Option<Duration> {
    let digits = (1..=9).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| digits).map(Duration::from_secs)
}

/// The largest number of characters of a text from a response.
const MESSAGE_CHARS: usize = 500;

/// Turns an error of the RPC library into an error of this SDK.
///
/// The service puts an `ErrorInfo` into every error. An error without one comes from the transport or from another program,
/// such as a proxy.
pub(crate) fn from_rpc(error: ConnectError, timeout: Duration) -> Error {
    let refusal = Refusal::read(&error);
    if !refusal.reason.is_empty() {
        return Error::Refused(Box::new(refusal));
    }
    if error.code == ErrorCode::DeadlineExceeded {
        return Error::Timeout { after: timeout };
    }
    let message = match error.source_arc() {
        Some(cause) => innermost(&*cause),
        None => refusal.message,
    };
    let has_response = !error.response_headers().is_empty();
    // A proxy may name the request as the service does.
    let message = match refusal.request_id {
        Some(id) if has_response => format!("{message} [request {id}]"),
        _ => message,
    };
    let code = match refusal.code {
        // The library reports a response that broke off, or that it cannot read, as internal.
        code if has_response && code != ErrorCode::Internal => code,
        _ => ErrorCode::Unavailable,
    };
    let source = (!has_response).then(|| Arc::new(error) as _);
    Error::Transport { code, message, retry_after: refusal.retry_after, source }
}

impl Refusal {
    fn read(error: &ConnectError) -> Self {
        let headers = error.response_headers();
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let mut refusal = Self {
            code: error.code,
            reason: String::new(),
            message: tidy(error.message.as_deref().unwrap_or_default()),
            violations: Vec::new(),
            retry_after: header("retry-after").and_then(retry_after),
            request_id: header("x-request-id").map(tidy),
        };
        for detail in &error.details {
            let name = detail.type_url.rsplit('/').next().unwrap_or_default();
            let encoded = detail.value.as_deref().unwrap_or_default();
            let Ok(bytes) = STANDARD_NO_PAD.decode(encoded).or_else(|_| STANDARD.decode(encoded)) else {
                continue;
            };
            refusal.add(name, &bytes);
        }
        refusal
    }

    /// Reads one detail. It ignores unknown and unreadable ones.
    fn add(&mut self, name: &str, bytes: &[u8]) {
        match name {
            "google.rpc.ErrorInfo" => {
                if let Ok(info) = rpc::ErrorInfo::decode_from_slice(bytes) {
                    self.reason = tidy(&info.reason);
                }
            }
            "google.rpc.BadRequest" => {
                if let Ok(bad) = rpc::BadRequest::decode_from_slice(bytes) {
                    self.violations.extend(bad.field_violations.into_iter().map(|violation| {
                        FieldViolation {
                            field: tidy(&violation.field),
                            description: tidy(&violation.description),
                        }
                    }));
                }
            }
            "google.rpc.RetryInfo" => {
                let info = rpc::RetryInfo::decode_from_slice(bytes).ok();
                let delay = info.and_then(|info| info.retry_delay.into_option());
                self.retry_after = delay.and_then(|delay| delay.try_into().ok()).or(self.retry_after);
            }
            "google.rpc.RequestInfo" => {
                if let Ok(info) = rpc::RequestInfo::decode_from_slice(bytes) {
                    self.request_id = Some(tidy(&info.request_id));
                }
            }
            _ => {}
        }
    }
}

/// One line of at most 500 characters without control characters, because it may be printed on a terminal, and without
/// keys, because a proxy may repeat the request.
fn tidy(text: &str) -> String {
    let line: String =
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(4 * MESSAGE_CHARS).collect();
    without_keys(&line).chars().take(MESSAGE_CHARS).collect::<String>().trim().to_owned()
}

fn without_keys(text: &str) -> String {
    let alphanumeric = |c: &char| c.is_ascii_alphanumeric();
    let (mut kept, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find('_') {
        let (before, after) = (&rest[..at], &rest[at + 1..]);
        let id = before.chars().rev().take_while(alphanumeric).take(KEY_ID).count();
        let secret = after.chars().take_while(alphanumeric).take(KEY_SECRET).count();
        // All of them are ASCII, so a character is a byte.
        let (visible, end) = if (id, secret) == (KEY_ID, KEY_SECRET) {
            (format!("{}…", &before[..at - KEY_ID]), at + 1 + KEY_SECRET)
        } else {
            (rest[..=at].to_owned(), at + 1)
        };
        kept.push_str(&visible);
        rest = &rest[end..];
    }
    kept + rest
}

/// The text of the last error in a chain: "Connection refused" rather than four sentences around it.
pub(crate) fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    tidy(&last.to_string())
}

#[cfg(test)]
mod tests {
    use connectrpc::ErrorDetail;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(10);

    fn headers(pairs: &[(&'static str, &'static str)]) -> http::HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), http::HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn the_response_of_a_proxy_keeps_its_request_id() {
        let page = ConnectError::unavailable("HTTP error 503: <html>");
        let error = from_rpc(page.with_headers(headers(&[("x-request-id", "r-7")])), TIMEOUT);
        assert_eq!(
            error.to_string(),
            "the response is not from the secret service: HTTP error 503: <html> [request r-7]"
        );
    }

    #[test]
    fn a_refusal_keeps_every_detail_of_the_response() {
        let info = rpc::ErrorInfo { reason: "INVALID_REQUEST".into(), ..Default::default() };
        let bad = rpc::BadRequest {
            field_violations: vec![rpc::bad_request::FieldViolation {
                field: "name".into(),
                description: "must be set".into(),
                ..Default::default()
            }],
        };
        let error = ConnectError::invalid_argument("Invalid request: name must be set.")
            .with_detail(ErrorDetail::from_message("google.rpc.ErrorInfo", &info))
            .with_detail(ErrorDetail::from_message("google.rpc.BadRequest", &bad))
            .with_headers(headers(&[("x-request-id", "r-1"), ("retry-after", "3")]));
        let error = from_rpc(error, TIMEOUT);
        assert!(!error.is_transport());
        assert_eq!(
            error.to_string(),
            "INVALID_ARGUMENT (INVALID_REQUEST): Invalid request: name must be set. [request r-1]"
        );
        assert_eq!(error.reason(), Some("INVALID_REQUEST"));
        let refusal = error.refusal().expect("refused");
        assert_eq!(refusal.code, ErrorCode::InvalidArgument);
        assert_eq!(refusal.violations[0].field, "name");
        assert_eq!(error.request_id(), Some("r-1"));
        assert_eq!(refusal.retry_after, Some(Duration::from_secs(3)));
    }

    #[test]
    fn a_key_that_something_repeats_is_not_passed_on() {
        let key = format!("ak-{}_{}", "0123456789abcdef", "Canary0".repeat(7));
        for (text, shown) in [
            (format!("no {key} here, no {key}"), "no ak-… here, no ak-…".to_owned()),
            (format!("x_y {}", &key[3..]), "x_y …".to_owned()),
            ("__snake_case_é_".to_owned(), "__snake_case_é_".to_owned()),
            (format!("{}{key}", "x".repeat(490)), format!("{}ak-…", "x".repeat(490))),
        ] {
            assert_eq!(tidy(&text), shown);
        }
        let echo = ConnectError::unavailable(format!("HTTP error 502: authorization: Bearer {key}"));
        let error = from_rpc(echo.with_headers(headers(&[("server", "proxy")])), TIMEOUT);
        assert!(!format!("{error} {error:?}").contains("Canary"));
    }

    #[test]
    fn what_is_not_a_refusal_has_a_code_too() {
        let code = |error: ConnectError| from_rpc(error, TIMEOUT).code();
        let proxy = headers(&[("server", "proxy")]);
        assert_eq!(code(ConnectError::deadline_exceeded("client-side")), Some(ErrorCode::DeadlineExceeded));
        assert_eq!(code(ConnectError::internal("broke off")), Some(ErrorCode::Unavailable));
        let page = ConnectError::unimplemented("HTTP error 404: <html>").with_headers(proxy);
        assert_eq!(code(page), Some(ErrorCode::Unimplemented));
        assert_eq!(Error::from(ConfigError::ApiKeyMissing).code(), None);
    }

    #[test]
    fn a_missing_response_is_a_transport_error() {
        let cause = std::io::Error::new(std::io::ErrorKind::ConnectionRefused, "Connection refused");
        let error = from_rpc(ConnectError::unavailable_from_transport("HTTP request failed", cause), TIMEOUT);
        assert!(error.is_transport());
        assert_eq!(error.to_string(), "cannot reach the server: Connection refused");
        assert!(from_rpc(ConnectError::deadline_exceeded("client-side"), TIMEOUT).is_transport());
    }

    #[test]
    fn a_foreign_response_is_a_transport_error_without_control_characters() {
        let page = format!("HTTP error 502: <html>\u{1b}[31m{}", "x".repeat(9000));
        let error = ConnectError::unavailable(page).with_headers(headers(&[("server", "proxy")]));
        let error = from_rpc(error, TIMEOUT);
        assert!(error.is_transport());
        assert!(error.to_string().len() < 600 && !error.to_string().contains('\u{1b}'));
    }
}
