//! Notices: what goes to standard error, as text or, with `-o json`, as one JSON object a line.

use std::io::Write as _;
use std::sync::OnceLock;

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use crate::args::Format;

const ERROR: Style = AnsiColor::Red.on_default().bold();
const WARNING: Style = AnsiColor::Yellow.on_default().bold();
const HINT: Style = AnsiColor::Cyan.on_default().bold();

static FORMAT: OnceLock<Format> = OnceLock::new();

/// Sets the form of all notices. The first call counts.
pub(crate) fn set_format(format: Format) {
    FORMAT.get_or_init(|| format);
}

/// An error as `-o json` writes it.
#[derive(Debug, Default, Serialize)]
pub(crate) struct ErrorBody {
    /// What happened.
    pub(crate) message: String,
    /// What to do.
    pub(crate) hint: String,
    /// The status that `tare` exits with.
    pub(crate) exit_status: u8,
    /// The server's code, such as `NOT_FOUND`. None if the server sent no response.
    pub(crate) code: Option<String>,
    /// The server's stable reason, such as `SECRET_NOT_FOUND`.
    pub(crate) reason: Option<String>,
    /// What finds the call in the server's log.
    pub(crate) request_id: Option<String>,
    /// The secret that the error is about, for commands with many.
    pub(crate) secret: Option<String>,
    /// The fields that break a rule.
    pub(crate) fields: Vec<Field>,
    /// The causes below, outermost first.
    pub(crate) causes: Vec<String>,
}

/// A field that breaks a rule.
#[derive(Debug, Serialize)]
pub(crate) struct Field {
    /// Its name.
    pub(crate) field: String,
    /// Its rule.
    pub(crate) description: String,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Notice<'a> {
    Error(&'a ErrorBody),
    Warning(&'a str),
    Hint(&'a str),
}

/// Writes an error with its hint.
pub(crate) fn error(body: &ErrorBody) {
    if is_json() {
        return json(&Notice::Error(body));
    }
    text("error", ERROR, &body.message);
    for cause in &body.causes {
        // With standard error closed there is nowhere left to report it.
        let _ = writeln!(anstream::stderr(), "  because: {cause}");
    }
    text("hint", HINT, &body.hint);
}

/// Writes a warning.
pub(crate) fn warn(message: &str) {
    if is_json() { json(&Notice::Warning(message)) } else { text("warning", WARNING, message) }
}

/// Writes a hint.
pub(crate) fn hint(message: &str) {
    if is_json() { json(&Notice::Hint(message)) } else { text("hint", HINT, message) }
}

fn is_json() -> bool {
    FORMAT.get() == Some(&Format::Json)
}

fn text(label: &str, style: Style, message: &str) {
    let _ = writeln!(anstream::stderr(), "{style}{label}:{style:#} {message}");
}

fn json(notice: &Notice<'_>) {
    if let Ok(line) = serde_json::to_string(notice) {
        let _ = writeln!(anstream::stderr(), "{line}");
    }
}
