//! Messages of commands on standard error, and their data on standard output.
//!
//! Standard output can break: its reader ends, or its disk is full. Data that is lost then is an error. A command whose
//! effect is complete succeeds, and its message goes to standard error.

use std::borrow::Cow;
use std::io::Write as _;

use anyhow::{Context as _, ensure};

use crate::Advised;

/// Prints a line.
pub fn note(text: &str) {
    // A closed standard error is no reason to fail.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Prints a result.
pub fn error(text: &str) {
    note(&format!("error: {text}"));
}

/// Prints a warning.
pub fn warning(text: &str) {
    note(&format!("warning: {text}"));
}

/// Prints a hint for an error.
pub fn hint(text: &str) {
    note(&format!("hint: {text}"));
}

/// Prints data.
///
/// # Errors
/// When standard output cannot be written.
pub fn data(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.context("standard output cannot be written")
}

/// Prints a line about an effect that is complete. If standard output cannot be written, the line goes to standard error.
pub fn done(line: &str) {
    if let Err(failure) = data(&format!("{line}\n")) {
        note(line);
        warning(&format!("{failure:#}; the command was successful"));
    }
}

/// Checks that `what` can be written to standard output.
///
/// # Errors
/// When standard output is closed, or the null device.
pub fn require_output(what: &str) -> anyhow::Result<()> {
    let lost = || format!("standard output is closed or /dev/null, so {what} would be lost");
    ensure!(!is_output_null(), Advised::new(lost(), "redirect it to a file (> FILE)"));
    Ok(())
}

/// Whether standard output is the null device. The Rust runtime opens it in the place of a standard output that was closed.
fn is_output_null() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let null = std::fs::metadata("/dev/null").map(|null| null.rdev());
    let stat = rustix::fs::fstat(std::io::stdout());
    matches!((stat, null), (Ok(stat), Ok(null)) if stat.st_rdev == null)
}

/// A word as the shell reads it back.
pub fn shell_word(text: &str) -> Cow<'_, str> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./:@%+=,".contains(&byte);
    if !text.is_empty() && text.bytes().all(is_plain) {
        return text.into();
    }
    format!("'{}'", text.replace('\'', r"'\''")).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shell_reads_a_word_back() {
        assert_eq!(shell_word("/x/data-1"), "/x/data-1");
        for word in ["", "/x/my $dir", "it's", "a\nb", "ü", "`id`", "\\", "a;b"] {
            let script = format!("printf %s {}", shell_word(word));
            let ran = std::process::Command::new("sh").args(["-c", &script]).output().expect("sh runs");
            assert_eq!(String::from_utf8_lossy(&ran.stdout), word, "{script}");
        }
    }
}
