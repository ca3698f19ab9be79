//! What went wrong, as told on stderr, and the exit status that goes with it.

use std::io::{self, Write};

use agentrouter_sdk::Error;
use anstyle::{AnsiColor, Style};

use crate::hint;
use crate::message::told;

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
        hint: String,
    },
    /// A call failed, or the settings for it are wrong.
    #[error("{}", told(.about.as_deref(), .source))]
    Call {
        /// The secret it was about, when a command makes calls about many.
        about: Option<String>,
        /// What the SDK says.
        source: Error,
    },
    /// The answer is a no, and is already on stdout. What to do about it is here.
    #[error("the answer is no")]
    Told(&'static str),
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
        Self::Usage { message: message.into(), hint: hint.into() }
    }

    /// The exit status of `tare`.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage { .. } | Self::Call { source: Error::Config(_), .. } => 2,
            Self::Call { source, .. } if source.is_transport() => 3,
            Self::Call { .. } | Self::Told(_) | Self::NotConfirmed => 1,
            // The reader of a pipe had enough: that is its right.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            Self::Output(_) => 1,
            // As shells and env(1) have it.
            Self::Start { source, .. } if source.kind() == io::ErrorKind::NotFound => 127,
            Self::Start { .. } => 126,
        }
    }

    /// What to do about it. There is always something, or the server's operator has to.
    fn hint(&self) -> String {
        match self {
            Self::Usage { hint, .. } => hint.clone(),
            Self::Call { source, .. } => hint::of(source),
            Self::Told(hint) => (*hint).into(),
            Self::NotConfirmed => "answer y, or give --yes to be asked nothing".into(),
            Self::Output(_) => "the call itself was made; 'tare api secret get' shows what is stored".into(),
            Self::Start { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                "give the command after '--', as in: tare secret run --realm R -- CMD ARG".into()
            }
            Self::Start { .. } => "the file must be a program that you may execute (chmod +x)".into(),
        }
    }

    /// Writes it to stderr. What is said already is not said again, and nothing where nobody listens.
    pub(crate) fn report(&self) {
        if self.exit_code() == 0 {
            return;
        }
        if let Self::Told(advice) = self {
            return hint(advice);
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
        let _ = writeln!(stderr, "{HINT}hint:{HINT:#} {}", self.hint());
    }
}

/// Writes what the parser says of a command line, its pointer to `--help` as a hint. The exit status.
///
/// Help and version are no mistakes: they go to stdout.
pub(crate) fn report_usage(error: &clap::Error) -> u8 {
    const POINTER: &str = "For more information, try ";
    if !error.use_stderr() {
        // A reader that has enough is no error.
        let _ = error.print();
        return 0;
    }
    let text = error.render().ansi().to_string();
    let text = text.replace(POINTER, &format!("{HINT}hint:{HINT:#} see "));
    let _ = write!(anstream::stderr(), "{text}");
    2
}

/// Writes a warning to stderr.
pub(crate) fn warn(message: &str) {
    let _ = writeln!(anstream::stderr(), "{WARNING}warning:{WARNING:#} {message}");
}

/// Writes a hint to stderr.
pub(crate) fn hint(message: &str) {
    let _ = writeln!(anstream::stderr(), "{HINT}hint:{HINT:#} {message}");
}

#[cfg(test)]
mod tests {
    use agentrouter_sdk::{Code, ConfigError};

    use super::*;

    fn transport() -> Error {
        Error::Transport {
            code: Code::Unavailable,
            message: "Connection refused".into(),
            retry_after: None,
            source: None,
        }
    }

    #[test]
    fn the_exit_status_says_whose_fault_it_was() {
        let io = |kind| io::Error::from(kind);
        for (failure, code) in [
            (Failure::usage("m", "h"), 2),
            (Error::from(ConfigError::ApiKeyMissing).into(), 2),
            (transport().into(), 3),
            (Error::Timeout { after: std::time::Duration::from_secs(1) }.into(), 3),
            (Failure::Told("h"), 1),
            (Failure::NotConfirmed, 1),
            (Failure::Output(io(io::ErrorKind::BrokenPipe)), 0),
            (Failure::Output(io(io::ErrorKind::StorageFull)), 1),
            (Failure::Start { command: "c".into(), source: io(io::ErrorKind::NotFound) }, 127),
            (Failure::Start { command: "c".into(), source: io(io::ErrorKind::PermissionDenied) }, 126),
        ] {
            assert_eq!(failure.exit_code(), code, "{failure}");
        }
    }
}
