//! Where a secret's value comes from: a file, standard input, a hidden prompt or, with a warning, the command line.
//!
//! A file made with `echo` ends in a line end that is no part of the key, so one line end is removed from what files and
//! standard input give, unless it is asked to be kept. Everything else arrives as it is. Buffers are wiped.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;

use zeroize::Zeroizing;

use crate::failure::{Failure, warn};

/// The most that is read: the server takes 65,536 bytes, and one line end may be removed.
const MOST: usize = 65_536 + 2;

/// What the command line says of the value.
pub(crate) struct Source<'a> {
    /// The flag for a value on the command line, for messages: `--value` or `--new-value`.
    pub(crate) flag: &'static str,
    /// The value on the command line.
    pub(crate) inline: Option<String>,
    /// The file; `-` is standard input.
    pub(crate) file: Option<&'a Path>,
    /// Whether the last line end is part of the value.
    pub(crate) keep_newline: bool,
}

impl Source<'_> {
    /// The value, if the command line gives one.
    pub(crate) fn read(self) -> Result<Option<Zeroizing<String>>, Failure> {
        if let Some(value) = self.inline {
            let flag = self.flag;
            warn(&format!(
                "{flag} stays in the shell's history and shows in the process list; prefer {flag}-file"
            ));
            return Ok(Some(Zeroizing::new(value)));
        }
        let Some(path) = self.file else { return Ok(None) };
        let mut value = read_text(path, MOST, "a value has at most 65536 bytes")?;
        if !self.keep_newline && value.ends_with('\n') {
            value.pop();
            if value.ends_with('\r') {
                value.pop();
            }
        }
        if value.is_empty() {
            return Err(Failure::usage(
                format!("{} has no value in it", shown(path)),
                "a value has 1 to 65536 bytes of UTF-8",
            ));
        }
        Ok(Some(value))
    }
}

/// Whether there is somebody to ask.
pub(crate) fn is_interactive() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// The exit status of a program that an interrupt from the keyboard ended, as shells have it.
const INTERRUPTED: i32 = 130;

/// Asks without showing what is typed. Empty if nothing was. An interrupt ends the program, but not before the terminal
/// shows again what is typed.
pub(crate) async fn prompt(question: String) -> Result<Zeroizing<String>, Failure> {
    let terminal = Terminal::now();
    let ask = move || rpassword::prompt_password(question).map(Zeroizing::new);
    let asked = async { tokio::task::spawn_blocking(ask).await };
    let answer = tokio::select! {
        // In this order: an interrupt that is not watched for yet would end the program with the terminal as it is.
        biased;
        Ok(()) = tokio::signal::ctrl_c() => Err(io::ErrorKind::Interrupted.into()),
        answer = asked => answer.unwrap_or_else(|error| Err(io::Error::other(error))),
    };
    // The signal is seen here or breaks the reading off, whichever is first.
    if answer.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::Interrupted) {
        terminal.restore();
        let _ = writeln!(io::stderr());
        std::process::exit(INTERRUPTED);
    }
    answer.map_err(|error| {
        Failure::usage(
            format!("nothing can be read from the terminal: {error}"),
            "give the value with a file, or '-' for standard input: see '--help' after the command",
        )
    })
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
            // If it cannot be done there is nobody left to tell.
            let _ = rustix::termios::tcsetattr(io::stdin(), at_once, before);
        }
    }
}

/// Elsewhere the console is its program's own again when the program ends.
#[cfg(not(unix))]
struct Terminal;

#[cfg(not(unix))]
impl Terminal {
    fn now() -> Self {
        Self
    }

    fn restore(&self) {}
}

/// The whole of a text file or, for `-`, of standard input. `limit` is the hint for one with more than `most` bytes.
pub(crate) fn read_text(path: &Path, most: usize, limit: &str) -> Result<Zeroizing<String>, Failure> {
    let failed = |error: io::Error| {
        let hint = match error.kind() {
            io::ErrorKind::NotFound => "check the path; '-' is standard input",
            io::ErrorKind::PermissionDenied => "it is not yours to read; 'ls -l' shows whose it is",
            _ => "it must be a file with text in it; '-' is standard input",
        };
        Failure::usage(format!("cannot read {}: {error}", shown(path)), hint)
    };
    let bytes = if path == Path::new("-") {
        read_bounded(io::stdin().lock(), most)
    } else {
        File::open(path).and_then(|file| read_bounded(file, most))
    };
    let mut bytes = bytes.map_err(failed)?;
    if bytes.len() > most {
        return Err(Failure::usage(format!("{} is too large to be read", shown(path)), limit));
    }
    String::from_utf8(std::mem::take(&mut *bytes)).map(Zeroizing::new).map_err(|error| {
        drop(Zeroizing::new(error.into_bytes()));
        Failure::usage(
            format!("{} is not UTF-8 text", shown(path)),
            "encode binary values first, with base64 say",
        )
    })
}

/// Up to one byte more than `most`, into a buffer that never moves and so leaves no copy behind.
fn read_bounded(source: impl Read, most: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(most + 1));
    source.take(most as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn shown(path: &Path) -> String {
    if path == Path::new("-") { "standard input".into() } else { path.display().to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content: &[u8], keep_newline: bool) -> Result<String, Failure> {
        let mut file = tempfile::NamedTempFile::new().expect("temporary file");
        file.write_all(content).expect("write");
        let source = Source { flag: "--value", inline: None, file: Some(file.path()), keep_newline };
        source.read().map(|value| value.expect("a file was given").to_string())
    }

    #[test]
    fn one_line_end_is_removed_and_only_one() {
        for (content, value) in
            [("v", "v"), ("v\n", "v"), ("v\r\n", "v"), ("v\n\n", "v\n"), (" v \n", " v "), ("v\r", "v\r")]
        {
            assert_eq!(read(content.as_bytes(), false).expect("readable"), value, "{content:?}");
            assert_eq!(read(content.as_bytes(), true).expect("readable"), content, "{content:?}");
        }
    }

    #[test]
    fn what_cannot_be_a_value_is_a_usage_error_that_does_not_repeat_it() {
        for content in [&b""[..], b"\n", b"canary\xff", &[b'x'; MOST + 1]] {
            let failure = read(content, false).expect_err("no value");
            assert_eq!(failure.exit_code(), 2);
            assert!(!format!("{failure:?}").contains("canary"));
        }
        assert_eq!(read(&[b'x'; MOST], false).expect("the server judges").len(), MOST);
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let source =
            Source { flag: "--value", inline: None, file: Some(Path::new("/nowhere")), keep_newline: false };
        assert!(source.read().expect_err("not there").to_string().contains("/nowhere"));
    }
}
