//! Questions on a terminal: hidden prompts and confirmations.

use std::io::{self, BufRead, IsTerminal, Write};

use zeroize::Zeroizing;

use crate::failure::Failure;

/// Whether a question can be asked: standard input and standard error are a terminal.
pub(crate) fn is_interactive() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks a question and returns the trimmed line in lower case.
pub(crate) fn ask(question: &str) -> Result<String, Failure> {
    let failed = |error| unreadable(&error);
    let mut stderr = io::stderr().lock();
    write!(stderr, "{question} ").and_then(|()| stderr.flush()).map_err(failed)?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).map_err(failed)?;
    Ok(line.trim().to_ascii_lowercase())
}

/// The exit status of a program that an interrupt from the keyboard ended, as shells have it.
pub(crate) const INTERRUPTED: u8 = 130;

/// Asks without showing what is typed. Empty if nothing was. An interrupt ends the program after the echo of the terminal
/// is on again.
pub(crate) async fn prompt(question: String) -> Result<Zeroizing<String>, Failure> {
    let terminal = Terminal::now();
    let ask = move || rpassword::prompt_password(question).map(Zeroizing::new);
    let asked = async { tokio::task::spawn_blocking(ask).await };
    let line = tokio::select! {
        // In this order: an interrupt that is not watched for yet would end the program with the terminal as it is.
        biased;
        Ok(()) = tokio::signal::ctrl_c() => Err(io::ErrorKind::Interrupted.into()),
        line = asked => line.unwrap_or_else(|error| Err(io::Error::other(error))),
    };
    // The signal arrives here or breaks the reading off, whichever is first.
    if line.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::Interrupted) {
        terminal.restore();
        let _ = writeln!(io::stderr());
        std::process::exit(INTERRUPTED.into());
    }
    line.map_err(|error| unreadable(&error))
}

fn unreadable(error: &io::Error) -> Failure {
    Failure::usage(
        format!("cannot read from the terminal: {error}"),
        "give the value with a file, or '-' for standard input: see '--help' after the command",
    )
}

/// How the terminal was before a question.
#[cfg(unix)]
struct Terminal(Option<rustix::termios::Termios>);

#[cfg(unix)]
impl Terminal {
    fn now() -> Self {
        Self(rustix::termios::tcgetattr(io::stdin()).ok())
    }

    fn restore(&self) {
        if let Some(before) = &self.0 {
            let at_once = rustix::termios::OptionalActions::Now;
            // The program ends here, and there is no other way to restore it.
            let _ = rustix::termios::tcsetattr(io::stdin(), at_once, before);
        }
    }
}

/// Elsewhere the system restores the console when the program ends.
#[cfg(not(unix))]
struct Terminal;

#[cfg(not(unix))]
impl Terminal {
    fn now() -> Self {
        Self
    }

    fn restore(&self) {}
}
