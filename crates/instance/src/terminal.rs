//! Messages of commands on standard error. Data goes to standard output, which each command writes itself.

use std::io::Write as _;

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
