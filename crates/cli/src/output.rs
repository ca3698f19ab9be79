//! What goes to stdout: tables for people, and the REST response's body as JSON or YAML for programs.
//!
//! JSON and YAML have the proto names, default values, `null` for a timestamp that is not set, and RFC 3339 timestamps,
//! as REST writes them. JSON is one line unless it goes to a terminal. Table cells never hold control characters, so that a
//! description cannot paint the terminal; JSON and YAML escape them; only a bare value is written as it is.
//!
//! YAML is written by `serde-saphyr`: maintained, free of `unsafe`, and without its parser only three small crates. The
//! alternatives wrap `unsafe-libyaml`, a machine translation of C that is not maintained.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;
use zeroize::Zeroizing;

use crate::args::Format;
use crate::failure::Failure;

mod body;
mod table;

pub(crate) use body::{DeleteBody, ListBody, SecretBody, ValidateBody, ValueBody};
pub(crate) use table::Table;

/// Where output goes.
#[derive(Clone, Copy)]
pub(crate) struct Output {
    /// Its form.
    pub(crate) format: Format,
}

impl Output {
    pub(crate) fn new(format: Format) -> Self {
        Self { format }
    }

    /// Writes `body` as JSON or YAML, or what `table` says.
    pub(crate) fn print(self, body: &impl Serialize, table: impl FnOnce() -> Table) -> Result<(), Failure> {
        match self.format {
            Format::Table => self.table(&table()),
            Format::Json | Format::Yaml => self.bytes(&self.encode(body)),
        }
    }

    /// `body` in JSON or YAML; in JSON if the form is a table.
    pub(crate) fn encode(self, body: &impl Serialize) -> Zeroizing<Vec<u8>> {
        match self.format {
            Format::Table | Format::Json => json(body, io::stdout().is_terminal()),
            Format::Yaml => Zeroizing::new(yaml(body).as_bytes().to_vec()),
        }
    }

    /// Writes bytes as they are.
    pub(crate) fn bytes(self, bytes: &[u8]) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes)?;
        Ok(stdout.flush()?)
    }

    /// Writes a value and nothing else; a line end after it only where a person reads it.
    pub(crate) fn value(self, value: &str) -> Result<(), Failure> {
        self.bytes(value.as_bytes())?;
        if io::stdout().is_terminal() && !value.ends_with('\n') { self.bytes(b"\n") } else { Ok(()) }
    }

    fn table(self, table: &Table) -> Result<(), Failure> {
        // Drops the styles where there is no terminal, or NO_COLOR is set.
        let mut stdout = anstream::stdout().lock();
        stdout.write_all(table.render(terminal_width()).as_bytes())?;
        Ok(stdout.flush()?)
    }
}

/// The JSON of the largest value, so that the buffer is not moved and leaves no copy behind.
const JSON_BYTES: usize = 6 * 65_536 + 65_536;

fn json(body: &impl Serialize, pretty: bool) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(JSON_BYTES));
    let written = if pretty {
        serde_json::to_writer_pretty(&mut *bytes, body)
    } else {
        serde_json::to_writer(&mut *bytes, body)
    };
    debug_assert!(written.is_ok(), "strings, numbers and lists can always be written");
    bytes.push(b'\n');
    bytes
}

fn yaml(body: &impl Serialize) -> Zeroizing<String> {
    let written = serde_saphyr::to_string(body);
    debug_assert!(written.is_ok(), "strings, numbers and lists can always be written");
    let mut text = Zeroizing::new(written.unwrap_or_default());
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

/// How many columns the terminal has, if stdout is one.
fn terminal_width() -> Option<usize> {
    terminal_size::terminal_size_of(io::stdout()).map(|(width, _)| usize::from(width.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_keeps_texts_that_look_like_something_else() {
        let tricky = [
            "no",
            "0123",
            "1e3",
            "null",
            "- x",
            "a: b",
            "#c",
            " lead",
            "two\nlines",
            "'q\"",
            "~",
            "2026-01-01",
        ];
        for text in tricky {
            let written = yaml(&ValidateBody { valid: false, error: text.into() });
            assert!(written.starts_with("valid: false\nerror: "), "{}", *written);
            assert_ne!(written.trim_end(), format!("valid: false\nerror: {text}"), "must be quoted");
        }
    }
}
