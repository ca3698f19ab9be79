//! Failures of commands: the message, the exit status and what `-o json` writes of them.

use std::error::Error as StdError;
use std::io;

use agentrouter_sdk::{Code, Error, Refusal};

use crate::dotenv::Unreadable;
use crate::hint;
use crate::message::of_call;
use crate::notice::{self, ErrorBody, Field};

/// The exit status of a process that SIGPIPE ends, as shells have it.
const BROKEN_PIPE: u8 = 141;

/// Why a command did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The command line, a file it names or the environment is wrong. Nothing was sent.
    #[error("{message}")]
    Usage {
        /// What is wrong.
        message: String,
        /// What to do.
        hint: String,
    },
    /// A call failed, or the settings for it are wrong.
    #[error("{}", of_call(.about.as_deref(), .source))]
    Call {
        /// The secret it was about, when a command makes calls about many.
        about: Option<String>,
        /// What the SDK reports.
        source: Error,
    },
    /// The names of a realm's secrets cannot be listed.
    #[error("cannot list the secrets: {}", of_call(None, .source))]
    List {
        /// What the SDK reports.
        source: Error,
    },
    /// The result is negative and is already on stdout. The text is the hint.
    #[error("the result is negative")]
    Reported(&'static str),
    /// A question was not answered with yes.
    #[error("not confirmed; nothing was done")]
    NotConfirmed,
    /// A signal ended the command early. Its report is already on stdout.
    #[error("interrupted")]
    Interrupted {
        /// The exit status: 128 and the signal's number.
        status: u8,
    },
    /// stdout cannot be written.
    #[error("cannot write to standard output{}", .done.as_ref().map(|done| format!("; {done}")).unwrap_or_default())]
    Output {
        /// Why not.
        source: io::Error,
        /// What the command changed before.
        done: Option<String>,
    },
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

impl From<io::Error> for Failure {
    fn from(source: io::Error) -> Self {
        Self::Output { source, done: None }
    }
}

impl Failure {
    /// A usage error with a hint.
    pub(crate) fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Usage { message: message.into(), hint: hint.into() }
    }

    /// A file with lines that cannot be read. `what` names the file.
    pub(crate) fn unreadable(what: &str, lines: &[Unreadable]) -> Self {
        let lines: String = lines.iter().map(|line| format!("\n  {line}")).collect();
        Self::usage(
            format!("{what} cannot be read; nothing was sent{lines}"),
            "each line is NAME=VALUE, NAME='VALUE' or NAME=\"VALUE\"; see 'tare secret import --help'",
        )
    }

    /// The same, but if the output was lost it says what the command changed.
    pub(crate) fn after(self, effect: impl FnOnce() -> String) -> Self {
        match self {
            Self::Output { source, .. } => Self::Output { source, done: Some(effect()) },
            other => other,
        }
    }

    /// The exit status of `tare`.
    pub(crate) fn exit_status(&self) -> u8 {
        match self {
            Self::Usage { .. } | Self::Call { source: Error::Config(_), .. } => 2,
            Self::Call { source, .. } | Self::List { source } if source.is_transport() => 3,
            Self::Call { source, .. } | Self::List { source }
                if source.code() == Some(Code::PermissionDenied) =>
            {
                4
            }
            Self::Call { .. } | Self::List { .. } | Self::Reported(_) | Self::NotConfirmed => 1,
            Self::Interrupted { status } => *status,
            Self::Output { source, .. } if source.kind() == io::ErrorKind::BrokenPipe => BROKEN_PIPE,
            Self::Output { .. } => 1,
            // As shells and env(1) have it.
            Self::Start { source, .. } if source.kind() == io::ErrorKind::NotFound => 127,
            Self::Start { .. } => 126,
        }
    }

    /// What to do about it.
    fn hint(&self) -> String {
        match self {
            Self::Usage { hint, .. } => hint.clone(),
            Self::Call { source, .. } => hint::of(source),
            Self::List { source } => hint::of_list(source),
            Self::Reported(hint) => (*hint).into(),
            Self::NotConfirmed => "answer y, or add --yes to skip the question".into(),
            Self::Interrupted { .. } => "run the command again to finish it".into(),
            Self::Output { done: Some(_), .. } => {
                "do not repeat the command; 'tare api secret get' shows what is stored".into()
            }
            Self::Output { done: None, .. } => {
                "read the whole output, or check the disk that it is written to".into()
            }
            Self::Start { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => {
                    "give the command after '--', as in: tare secret run --realm R -- CMD ARG".into()
                }
                io::ErrorKind::ArgumentListTooLong => {
                    "the secrets are more than an environment can hold; choose fewer with --only".into()
                }
                _ => "the file must be a program that you may execute (chmod +x)".into(),
            },
        }
    }

    /// Writes it to standard error. A result that is already on stdout gets its hint alone.
    pub(crate) fn report(&self) {
        if let Self::Reported(text) = self {
            return notice::hint(text);
        }
        notice::error(&self.body());
    }

    fn body(&self) -> ErrorBody {
        let source = match self {
            Self::Call { source, .. } | Self::List { source } => Some(source),
            _ => None,
        };
        let refusal = source.and_then(Error::refusal);
        let text = |field: fn(&Refusal) -> &str| refusal.map(field).map(str::to_owned);
        ErrorBody {
            message: self.to_string(),
            hint: self.hint(),
            exit_status: self.exit_status(),
            code: source.and_then(Error::code).map(|code| code.as_str().to_ascii_uppercase()),
            reason: text(|refusal| &refusal.reason),
            request_id: refusal.and_then(|refusal| refusal.request_id.clone()),
            secret: match self {
                Self::Call { about, .. } => about.clone(),
                _ => None,
            },
            fields: refusal.into_iter().flat_map(fields).collect(),
            causes: self.causes(),
        }
    }

    fn causes(&self) -> Vec<String> {
        let mut next = match self {
            Self::Call { source: Error::Config(error), .. } => error.source(),
            Self::Output { source, .. } => Some(source as &dyn StdError),
            _ => None,
        };
        let mut causes = Vec::new();
        while let Some(error) = next {
            causes.push(error.to_string());
            next = error.source();
        }
        causes
    }
}

fn fields(refusal: &Refusal) -> impl Iterator<Item = Field> {
    let field = |violation: &agentrouter_sdk::FieldViolation| Field {
        field: violation.field.clone(),
        description: violation.description.clone(),
    };
    refusal.violations.iter().map(field)
}

/// Writes what the parser reports of a command line. The exit status.
///
/// Help and version go to stdout, everything else to stderr.
pub(crate) fn report_usage(error: &clap::Error) -> u8 {
    if !error.use_stderr() {
        return match error.print() {
            Ok(()) => 0,
            Err(source) => {
                let failure = Failure::from(source);
                failure.report();
                failure.exit_status()
            }
        };
    }
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text).trim_end();
    // The parser ends with a sentence about '--help', which is the hint here.
    let message = text.rsplit_once("\n\nFor more information").map_or(text, |(message, _)| message);
    let body = ErrorBody {
        message: message.to_owned(),
        hint: "see '--help'".into(),
        exit_status: 2,
        ..ErrorBody::default()
    };
    notice::error(&body);
    2
}

#[cfg(test)]
mod tests {
    use agentrouter_sdk::ConfigError;

    use super::*;

    fn transport(code: Code) -> Error {
        Error::Transport { code, message: "Connection refused".into(), retry_after: None, source: None }
    }

    fn output(kind: io::ErrorKind) -> Failure {
        io::Error::from(kind).into()
    }

    fn start(kind: io::ErrorKind) -> Failure {
        Failure::Start { command: "c".into(), source: kind.into() }
    }

    #[test]
    fn each_kind_of_failure_has_its_own_exit_status() {
        for (failure, status) in [
            (Failure::usage("m", "h"), 2),
            (Error::from(ConfigError::ApiKeyMissing).into(), 2),
            (transport(Code::Unavailable).into(), 3),
            (Failure::List { source: transport(Code::Unavailable) }, 3),
            (Error::Timeout { after: std::time::Duration::from_secs(1) }.into(), 3),
            (Failure::Reported("h"), 1),
            (Failure::NotConfirmed, 1),
            (Failure::Interrupted { status: 130 }, 130),
            (output(io::ErrorKind::BrokenPipe), 141),
            (output(io::ErrorKind::StorageFull), 1),
            (start(io::ErrorKind::NotFound), 127),
            (start(io::ErrorKind::PermissionDenied), 126),
            (start(io::ErrorKind::ArgumentListTooLong), 126),
        ] {
            assert_eq!(failure.exit_status(), status, "{failure}");
        }
    }

    #[test]
    fn an_environment_that_is_too_large_is_not_about_permissions() {
        assert!(start(io::ErrorKind::ArgumentListTooLong).hint().contains("--only"));
        assert!(start(io::ErrorKind::PermissionDenied).hint().contains("chmod"));
    }

    #[test]
    fn the_error_for_lost_output_names_the_change() {
        let failure = output(io::ErrorKind::BrokenPipe).after(|| "n is stored as version 2".into());
        assert_eq!(failure.to_string(), "cannot write to standard output; n is stored as version 2");
        assert_eq!(Failure::NotConfirmed.after(|| unreachable!("nothing was lost")).exit_status(), 1);
    }
}
