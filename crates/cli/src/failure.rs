//! What went wrong, as told on stderr, and the exit status that goes with it.

use std::io::{self, Write};

use agentrouter_sdk::{Code, ConfigError, Error, Refusal};
use anstyle::{AnsiColor, Style};

const ERROR: Style = AnsiColor::Red.on_default().bold();
const WARNING: Style = AnsiColor::Yellow.on_default().bold();
const HINT: Style = AnsiColor::Cyan.on_default().bold();

/// Why a command did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The command line, a file it names or the environment is wrong. Nothing was sent.
    #[error("{message}")]
    Usage {
        /// What is wrong.
        message: String,
        /// What to do.
        hint: Option<String>,
    },
    /// A call failed, or the settings for it are wrong.
    #[error("{}", told(.about.as_deref(), .source))]
    Call {
        /// The secret it was about, when a command makes calls about many.
        about: Option<String>,
        /// What the SDK says.
        source: Error,
    },
    /// The answer is a no, and is already on stdout.
    #[error("the answer is no")]
    Told,
    /// The answer to a question was no.
    #[error("not confirmed; nothing was done")]
    NotConfirmed,
    /// stdout cannot be written.
    #[error("cannot write to standard output")]
    Output(#[from] io::Error),
    /// The command of `tare secret run` cannot be started.
    #[error("cannot start {command}: {source}")]
    Start {
        /// The command.
        command: String,
        /// Why not.
        source: io::Error,
    },
}

impl From<Error> for Failure {
    fn from(source: Error) -> Self {
        Self::Call { about: None, source }
    }
}

impl Failure {
    /// A usage error with a hint.
    pub(crate) fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Usage { message: message.into(), hint: Some(hint.into()) }
    }

    /// The exit status of `tare`.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage { .. } | Self::Call { source: Error::Config(_), .. } => 2,
            Self::Call { source, .. } if source.is_transport() => 3,
            Self::Call { .. } | Self::Told | Self::NotConfirmed => 1,
            // The reader of a pipe had enough: that is its right.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            Self::Output(_) => 1,
            // As shells and env(1) have it.
            Self::Start { source, .. } if source.kind() == io::ErrorKind::NotFound => 127,
            Self::Start { .. } => 126,
        }
    }

    /// What to do about it.
    fn hint(&self) -> Option<String> {
        match self {
            Self::Usage { hint, .. } => hint.clone(),
            Self::Call { source, .. } => hint_for(source),
            Self::Start { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Some("give the command after '--', as in: tare secret run --realm R -- CMD ARG".into())
            }
            _ => None,
        }
    }

    /// Writes it to stderr. Nothing is written where everything is said already, or nobody listens.
    pub(crate) fn report(&self) {
        if matches!(self, Self::Told) || self.exit_code() == 0 {
            return;
        }
        let mut stderr = anstream::stderr().lock();
        // With stderr gone there is nowhere left to say so.
        let _ = writeln!(stderr, "{ERROR}error:{ERROR:#} {self}");
        let mut source = match self {
            Self::Call { source: Error::Config(error), .. } => std::error::Error::source(error),
            Self::Output(error) => Some(error as &dyn std::error::Error),
            _ => None,
        };
        while let Some(error) = source {
            let _ = writeln!(stderr, "  because: {error}");
            source = error.source();
        }
        if let Some(hint) = self.hint() {
            let _ = writeln!(stderr, "{HINT}hint:{HINT:#} {hint}");
        }
    }
}

/// Writes a warning to stderr.
pub(crate) fn warn(message: &str) {
    let _ = writeln!(anstream::stderr(), "{WARNING}warning:{WARNING:#} {message}");
}

/// Writes a hint to stderr.
pub(crate) fn hint(message: &str) {
    let _ = writeln!(anstream::stderr(), "{HINT}hint:{HINT:#} {message}");
}

/// The error in a sentence or, for several fields, a line each; after the secret it is about, if that is named.
fn told(about: Option<&str>, error: &Error) -> String {
    let sentence = match error.refusal() {
        Some(refusal) => sentence(refusal),
        None => error.to_string(),
    };
    match about {
        Some(name) => format!("{name}: {sentence}"),
        None => sentence,
    }
}

fn sentence(refusal: &Refusal) -> String {
    let violations = &refusal.violations;
    if violations.len() < 2 {
        return refusal.message.clone();
    }
    let width = violations.iter().map(|violation| violation.field.len()).max().unwrap_or(0);
    let lines = violations.iter().map(|v| format!("\n  {:width$}  {}", v.field, v.description));
    std::iter::once("the request has invalid fields".to_owned()).chain(lines).collect()
}

/// One line of why, for a table.
pub(crate) fn one_line(error: &Error) -> String {
    match error.refusal() {
        Some(refusal) if refusal.violations.is_empty() => refusal.message.clone(),
        Some(refusal) => {
            let fields = refusal.violations.iter().map(|v| format!("{} {}", v.field, v.description));
            fields.collect::<Vec<_>>().join("; ")
        }
        None => error.to_string(),
    }
}

/// The file that the server writes on its first start assigns the variables, and a program sees exported ones only.
const BOOTSTRAP: &str = "set -a; . data/bootstrap.env; set +a";

fn hint_for(error: &Error) -> Option<String> {
    let hint = match error {
        Error::Config(ConfigError::BaseUrlMissing) => {
            format!("set AGENTROUTER_BASE_URL or --base-url; for a local server: {BOOTSTRAP}")
        }
        Error::Config(ConfigError::ApiKeyMissing) => {
            format!("set AGENTROUTER_API_KEY; for a local server: {BOOTSTRAP}")
        }
        Error::Config(ConfigError::BaseUrlMalformed(_)) => {
            "set AGENTROUTER_BASE_URL or --base-url to something like http://127.0.0.1:8080".into()
        }
        Error::Config(ConfigError::ApiKeyMalformed(_)) => {
            "the key is what 'agentrouter-secrets key create' printed, whole".into()
        }
        Error::Config(ConfigError::NoSystemCertificates) => "set AGENTROUTER_CA_FILE or --ca-file".into(),
        Error::Transport { .. } => {
            "is the server running, and is AGENTROUTER_BASE_URL (or --base-url) where it listens?".into()
        }
        Error::Timeout { .. } => {
            "--timeout 30s would wait longer; the server's /readyz says how it is".into()
        }
        Error::Refused(refusal) => return hint_for_refusal(refusal),
        _ => return None,
    };
    Some(hint)
}

fn hint_for_refusal(refusal: &Refusal) -> Option<String> {
    let hint = match refusal.reason.as_str() {
        "UNAUTHENTICATED" => {
            "check AGENTROUTER_API_KEY; it may be revoked or expired, or belong to another server".to_owned()
        }
        "SCOPE_MISSING" => "get, list and validate need secrets/read; create, rotate, delete and import \
                            secrets/write; reading values secrets/read/internal"
            .to_owned(),
        "SECRET_NOT_FOUND" => {
            "'tare api secret list' shows what this key may see, with the realms".to_owned()
        }
        "VERSION_MISMATCH" => "'tare api secret get NAME' shows the current version".to_owned(),
        "PAGE_TOKEN_INVALID" => "a page token goes with the same key and the same filters".to_owned(),
        "BODY_TOO_LARGE" => "a value has at most 65536 bytes".to_owned(),
        _ => match (refusal.retry_after, &refusal.request_id, refusal.code) {
            (Some(delay), ..) => format!("try again in {} s", delay.as_secs().max(1)),
            (None, Some(id), Code::Internal | Code::Unavailable | Code::Unknown) => {
                format!("the server's log has more under request id {id}")
            }
            _ => return None,
        },
    };
    Some(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transport() -> Error {
        Error::Transport { message: "Connection refused".into(), source: None }
    }

    #[test]
    fn the_exit_status_says_whose_fault_it_was() {
        let io = |kind| io::Error::from(kind);
        for (failure, code) in [
            (Failure::usage("m", "h"), 2),
            (Error::from(ConfigError::ApiKeyMissing).into(), 2),
            (transport().into(), 3),
            (Error::Timeout { after: std::time::Duration::from_secs(1) }.into(), 3),
            (Failure::Told, 1),
            (Failure::NotConfirmed, 1),
            (Failure::Output(io(io::ErrorKind::BrokenPipe)), 0),
            (Failure::Output(io(io::ErrorKind::StorageFull)), 1),
            (Failure::Start { command: "c".into(), source: io(io::ErrorKind::NotFound) }, 127),
            (Failure::Start { command: "c".into(), source: io(io::ErrorKind::PermissionDenied) }, 126),
        ] {
            assert_eq!(failure.exit_code(), code, "{failure}");
        }
    }

    #[test]
    fn whatever_the_user_can_mend_has_a_hint() {
        for failure in [
            Failure::from(transport()),
            Error::from(ConfigError::ApiKeyMissing).into(),
            Error::from(ConfigError::BaseUrlMissing).into(),
            Error::Timeout { after: std::time::Duration::from_secs(1) }.into(),
        ] {
            assert!(failure.hint().is_some(), "{failure}");
        }
    }

    #[test]
    fn a_failure_about_one_of_many_names_it() {
        let failure = Failure::Call { about: Some("openai".into()), source: transport() };
        assert_eq!(failure.to_string(), "openai: cannot reach the server: Connection refused");
    }
}
