//! Why a call did not succeed: the settings, the server's refusal, or no answer.

use std::sync::Arc;
use std::time::Duration;

use agentrouter_api::wire::google::rpc;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use buffa::Message;
use connectrpc::{ConnectError, ErrorCode};

use crate::ConfigError;
use crate::settings::{KEY_ID, KEY_SECRET};

/// Why a call did not succeed. Neither the API key nor a value is ever part of it. Cheap to clone.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting is missing or malformed. Nothing was sent.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The server answered, and the answer is no.
    #[error("{}", .0.message)]
    Refused(Box<Refusal>),
    /// The server cannot be reached, the connection broke, or what answered is not the secret service. Whether a write
    /// was done is not known.
    #[error("cannot reach the server: {message}")]
    Transport {
        /// `Unavailable` if nothing answered; else what the status of that answer comes to.
        code: ErrorCode,
        /// What happened, in the words of the transport.
        message: String,
        /// How long to wait before the next try, if what answered said so.
        retry_after: Option<Duration>,
        /// The transport's own error, if there is one.
        #[source]
        source: Option<Arc<dyn std::error::Error + Send + Sync>>,
    },
    /// There was no answer in time. Whether a write was done is not known.
    #[error("no answer from the server within {after:?}")]
    Timeout {
        /// The client's timeout.
        after: Duration,
    },
}

/// The server's refusal: all that it told.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    /// The kind of refusal, such as `NotFound`.
    pub code: ErrorCode,
    /// The cause in one stable word, such as `SECRET_NOT_FOUND`: what a program should act on.
    pub reason: String,
    /// What was wrong and what to do, for people.
    pub message: String,
    /// The fields at fault, when the request broke rules.
    pub violations: Vec<FieldViolation>,
    /// How long to wait before the next try, if the server said so.
    pub retry_after: Option<Duration>,
    /// What finds this call in the server's log.
    pub request_id: Option<String>,
}

/// One field that breaks its rule.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FieldViolation {
    /// The field's name, such as `page_size`.
    pub field: String,
    /// Its rule, such as "must not be negative".
    pub description: String,
}

impl Error {
    /// Whether the server gave no answer: it cannot be reached, broke off, or took longer than the timeout.
    pub fn is_transport(&self) -> bool {
        matches!(self, Self::Transport { .. } | Self::Timeout { .. })
    }

    /// The server's refusal, if it is one.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// The kind of failure: of a refusal its own, `Unavailable` or `DeadlineExceeded` if there was no answer, and what the
    /// HTTP status comes to if something else answered. None if the settings are wrong.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Config(_) => None,
            Self::Refused(refusal) => Some(refusal.code),
            Self::Transport { code, .. } => Some(*code),
            Self::Timeout { .. } => Some(ErrorCode::DeadlineExceeded),
        }
    }

    /// The stable reason of the server's refusal, if it is one.
    pub fn reason(&self) -> Option<&str> {
        self.refusal().map(|refusal| refusal.reason.as_str())
    }

    /// How long to wait before the next try, if the server, or what stands before it, said so.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(refusal) => refusal.retry_after,
            Self::Transport { retry_after, .. } => *retry_after,
            Self::Config(_) | Self::Timeout { .. } => None,
        }
    }

    /// Whether the server said that there is no such secret or version.
    pub fn is_not_found(&self) -> bool {
        self.refusal().is_some_and(|refusal| refusal.code == ErrorCode::NotFound)
    }
}

/// Longest text of a server, or of what stands in its place, that is passed on, in characters.
const MESSAGE_CHARS: usize = 500;

/// Sorts what the RPC library reports into refusals and failures to get an answer.
///
/// The service puts an `ErrorInfo` into every refusal, so an error without one comes from the transport, or from
/// something that is not the service (a proxy, a load balancer, another program on that port).
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
    let answered = !error.response_headers().is_empty();
    let code = match refusal.code {
        // What the library calls internal is an answer that broke off or cannot be read.
        code if answered && code != ErrorCode::Internal => code,
        _ => ErrorCode::Unavailable,
    };
    let source = (!answered).then(|| Arc::new(error) as _);
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
            retry_after: header("retry-after").and_then(|text| text.parse().ok()).map(Duration::from_secs),
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

    /// Takes in one detail; kinds that are not known here, and ones that cannot be read, are passed over.
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

/// One line of at most 500 characters without control characters, since it may end on a terminal, and without anything of
/// the shape of a key, since what stands before the server may repeat what it was sent.
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
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
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
    fn a_refusal_keeps_all_that_the_server_told() {
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
        assert_eq!(error.to_string(), "Invalid request: name must be set.");
        assert_eq!(error.reason(), Some("INVALID_REQUEST"));
        let refusal = error.refusal().expect("refused");
        assert_eq!(refusal.code, ErrorCode::InvalidArgument);
        assert_eq!(refusal.violations[0].field, "name");
        assert_eq!(refusal.request_id.as_deref(), Some("r-1"));
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
    fn what_never_answered_is_transport() {
        let cause = std::io::Error::new(std::io::ErrorKind::ConnectionRefused, "Connection refused");
        let error = from_rpc(ConnectError::unavailable_from_transport("HTTP request failed", cause), TIMEOUT);
        assert!(error.is_transport());
        assert_eq!(error.to_string(), "cannot reach the server: Connection refused");
        assert!(from_rpc(ConnectError::deadline_exceeded("client-side"), TIMEOUT).is_transport());
    }

    #[test]
    fn what_answers_but_is_not_the_service_is_transport_and_cannot_paint_the_terminal() {
        let page = format!("HTTP error 502: <html>\u{1b}[31m{}", "x".repeat(9000));
        let error = ConnectError::unavailable(page).with_headers(headers(&[("server", "proxy")]));
        let error = from_rpc(error, TIMEOUT);
        assert!(error.is_transport());
        assert!(error.to_string().len() < 600 && !error.to_string().contains('\u{1b}'));
    }
}
