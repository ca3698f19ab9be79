//! What commands say on standard error. Data goes to standard output, which each command writes itself.

use std::io::Write as _;

/// Prints a line.
pub fn note(text: &str) {
    // A closed standard error is no reason to fail.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Prints what happened.
pub fn error(text: &str) {
    note(&format!("error: {text}"));
}

/// Prints what to look at.
pub fn warning(text: &str) {
    note(&format!("warning: {text}"));
}

/// Prints what to do about an error.
pub fn hint(text: &str) {
    note(&format!("hint: {text}"));
}
