//! What goes to stdout: tables for people, and the REST response's body as JSON or YAML for programs.
//!
//! JSON and YAML have the proto names, default values, `null` for a timestamp that is not set, and RFC 3339 timestamps,
//! as REST writes them. JSON is one line unless it goes to a terminal. Table cells never hold control characters, so that a
//! description cannot paint the terminal; JSON and YAML escape them; only a bare value is written as it is.
//!
//! YAML is written by `serde-saphyr`: maintained, free of `unsafe`, and without its parser only three small crates. The
//! alternatives wrap `unsafe-libyaml`, a machine translation of C that is not maintained.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};

use agentrouter_sdk::secret::v1;
use agentrouter_sdk::types::Timestamp;
use anstyle::Style;
use serde::Serialize;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};
use zeroize::Zeroizing;

use crate::args::Format;
use crate::failure::Failure;

const HEADER: Style = Style::new().bold();

/// Where output goes.
#[derive(Clone, Copy)]
pub(crate) struct Output {
    /// How they are written.
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

/// Rows of cells in columns as wide as they must be.
pub(crate) struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<String>>,
    empty: &'static str,
}

impl Table {
    /// A table with a line of headings. `empty` is said when there are no rows.
    pub(crate) fn new(header: Vec<&'static str>, rows: Vec<Vec<String>>, empty: &'static str) -> Self {
        Self { header, rows, empty }
    }

    /// Two columns, names and values; an empty name continues the one above.
    pub(crate) fn fields(rows: Vec<(&'static str, String)>) -> Self {
        let rows = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
        Self { header: Vec::new(), rows, empty: "" }
    }

    fn width_of_last(&self, widths: &[usize], terminal: Option<usize>) -> usize {
        match terminal {
            Some(terminal) if !self.header.is_empty() => {
                let before: usize = widths.iter().rev().skip(1).map(|width| width + 2).sum();
                terminal.saturating_sub(before).max(LEAST)
            }
            _ => usize::MAX,
        }
    }

    /// The text. Where the terminal is too narrow for a list, its last column is cut, down to [`LEAST`] columns; the others
    /// are never: a name is there to be copied.
    fn render(&self, terminal: Option<usize>) -> String {
        if self.rows.is_empty() {
            return if self.empty.is_empty() { String::new() } else { format!("{}\n", self.empty) };
        }
        let rows: Vec<Vec<String>> =
            self.rows.iter().map(|row| row.iter().map(|cell| harmless(cell)).collect()).collect();
        let columns = rows[0].len();
        let width = |column: usize| {
            let cells = rows.iter().map(|row| row[column].width());
            cells.chain(self.header.get(column).map(|heading| heading.width())).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let most = self.width_of_last(&widths, terminal);
        let mut text = String::new();
        if !self.header.is_empty() {
            let header = line(self.header.iter().copied(), &widths, most);
            text.push_str(&format!("{HEADER}{header}{HEADER:#}\n"));
        }
        for row in &rows {
            text.push_str(&line(row.iter().map(String::as_str), &widths, most));
            text.push('\n');
        }
        text
    }
}

/// Columns that the cut one keeps at least.
const LEAST: usize = 12;

/// How many columns the terminal has, if stdout is one.
fn terminal_width() -> Option<usize> {
    terminal_size::terminal_size_of(io::stdout()).map(|(width, _)| usize::from(width.0))
}

/// The cells of one line, two blanks between them and none at its end; of the last one at most `most` columns.
fn line<'a>(cells: impl Iterator<Item = &'a str>, widths: &[usize], most: usize) -> String {
    let mut text = String::new();
    for (i, (cell, width)) in cells.zip(widths).enumerate() {
        if i + 1 == widths.len() && cell.width() > most {
            text.push_str(&cut(cell, most));
            break;
        }
        text.push_str(cell);
        let padding = width.saturating_sub(cell.width()) + 2;
        text.extend(std::iter::repeat_n(' ', padding));
    }
    text.truncate(text.trim_end().len());
    text
}

/// What fits into `most` columns, with an ellipsis as the last of them.
fn cut(cell: &str, most: usize) -> String {
    let mut left = most.saturating_sub(1);
    let fits = |c: &char| {
        let width = c.width().unwrap_or(0);
        let fits = width <= left;
        left = left.saturating_sub(width);
        fits
    };
    cell.chars().take_while(fits).chain(['…']).collect()
}

/// The same without control characters and those that change the direction of text.
fn harmless(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            c if c.is_control() => '\u{fffd}',
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
            c => c,
        })
        .collect()
}

/// `{"secret": …}`.
#[derive(Serialize)]
pub(crate) struct SecretBody {
    secret: Secret,
}

/// `{"value": …, "secret": …}`.
#[derive(Serialize)]
pub(crate) struct ValueBody<'a> {
    value: &'a str,
    secret: Secret,
}

/// `{"secrets": […], "next_page_token": …}`.
#[derive(Serialize)]
pub(crate) struct ListBody {
    secrets: Vec<Secret>,
    next_page_token: String,
}

/// `{"success": …}`.
#[derive(Serialize)]
pub(crate) struct DeleteBody {
    pub(crate) success: bool,
}

/// `{"valid": …, "error": …}`.
#[derive(Serialize)]
pub(crate) struct ValidateBody {
    pub(crate) valid: bool,
    pub(crate) error: String,
}

/// A secret's metadata as REST writes it.
#[derive(Serialize)]
struct Secret {
    id: String,
    name: String,
    realm: String,
    user_id: String,
    description: String,
    tags: BTreeMap<String, String>,
    status: String,
    version: i32,
    created_at: Option<String>,
    updated_at: Option<String>,
    rotated_at: Option<String>,
    expires_at: Option<String>,
    kek_id: String,
}

impl From<v1::Secret> for Secret {
    fn from(wire: v1::Secret) -> Self {
        Self {
            created_at: time(wire.created_at.as_option()),
            updated_at: time(wire.updated_at.as_option()),
            rotated_at: time(wire.rotated_at.as_option()),
            expires_at: time(wire.expires_at.as_option()),
            id: wire.id,
            name: wire.name,
            realm: wire.realm,
            user_id: wire.user_id,
            description: wire.description,
            tags: wire.tags.into_iter().collect(),
            status: wire.status,
            version: wire.version,
            kek_id: wire.kek_id,
        }
    }
}

impl SecretBody {
    pub(crate) fn new(secret: v1::Secret) -> Self {
        Self { secret: secret.into() }
    }

    /// One field a line, by its name; those that are not set are left out.
    pub(crate) fn table(&self) -> Table {
        let secret = &self.secret;
        let mut rows = vec![
            ("name", secret.name.clone()),
            ("realm", secret.realm.clone()),
            ("user_id", secret.user_id.clone()),
            ("version", secret.version.to_string()),
            ("status", secret.status.clone()),
        ];
        let lines = secret.description.lines().filter(|line| !line.is_empty()).enumerate();
        rows.extend(lines.map(|(i, line)| (if i == 0 { "description" } else { "" }, line.to_owned())));
        rows.extend(
            secret
                .tags
                .iter()
                .enumerate()
                .map(|(i, (key, value))| (if i == 0 { "tags" } else { "" }, format!("{key}={value}"))),
        );
        let times = [
            ("created_at", &secret.created_at),
            ("updated_at", &secret.updated_at),
            ("rotated_at", &secret.rotated_at),
            ("expires_at", &secret.expires_at),
        ];
        rows.extend(times.into_iter().map(|(name, time)| (name, time.clone().unwrap_or_default())));
        rows.extend([("id", secret.id.clone()), ("kek_id", secret.kek_id.clone())]);
        rows.retain(|(_, value)| !value.is_empty());
        Table::fields(rows)
    }
}

impl<'a> ValueBody<'a> {
    pub(crate) fn new(value: &'a str, secret: v1::Secret) -> Self {
        Self { value, secret: secret.into() }
    }
}

impl ListBody {
    pub(crate) fn new(secrets: Vec<v1::Secret>, next_page_token: String) -> Self {
        Self { secrets: secrets.into_iter().map(Secret::from).collect(), next_page_token }
    }

    /// A line a secret. When versions stop being readable is a column only if one of them does.
    pub(crate) fn table(&self) -> Table {
        let mut header = vec!["NAME", "REALM", "USER_ID", "VERSION", "STATUS", "UPDATED_AT"];
        let expires = self.secrets.iter().any(|secret| secret.expires_at.is_some());
        if expires {
            header.push("EXPIRES_AT");
        }
        header.push("TAGS");
        let rows = self.secrets.iter().map(|secret| {
            let mut row = vec![
                secret.name.clone(),
                secret.realm.clone(),
                secret.user_id.clone(),
                secret.version.to_string(),
                secret.status.clone(),
                to_the_second(secret.updated_at.as_deref()),
            ];
            if expires {
                row.push(to_the_second(secret.expires_at.as_deref()));
            }
            let tags: Vec<String> = secret.tags.iter().map(|(key, value)| format!("{key}={value}")).collect();
            row.push(tags.join(","));
            row
        });
        Table::new(header, rows.collect(), "no secrets")
    }
}

/// RFC 3339 in UTC with six fractional digits, as REST has it; none if it is not set.
fn time(timestamp: Option<&Timestamp>) -> Option<String> {
    let timestamp = timestamp?;
    jiff::Timestamp::new(timestamp.seconds, timestamp.nanos).ok().map(|time| format!("{time:.6}"))
}

/// A table needs no fractions of a second; what is left of the time still sorts.
fn to_the_second(time: Option<&str>) -> String {
    let time = time.unwrap_or_default();
    match time.split_once('.') {
        Some((seconds, _)) => format!("{seconds}Z"),
        None => time.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret() -> v1::Secret {
        v1::Secret {
            id: "01HF7YAT00ZZZZZZZZZZZZZZZZ".into(),
            name: "openai".into(),
            realm: "mcp".into(),
            user_id: "alice".into(),
            tags: [("env".to_owned(), "prod".to_owned()), ("app".to_owned(), "x".to_owned())]
                .into_iter()
                .collect(),
            status: "active".into(),
            version: 2,
            created_at: Some(Timestamp { seconds: 0, nanos: 123_456_000, ..Default::default() }).into(),
            kek_id: "kek-1".into(),
            ..Default::default()
        }
    }

    #[test]
    fn json_is_the_body_of_the_rest_response() {
        let body = SecretBody::new(secret());
        assert_eq!(
            String::from_utf8(json(&body, false).to_vec()).expect("UTF-8"),
            "{\"secret\":{\"id\":\"01HF7YAT00ZZZZZZZZZZZZZZZZ\",\"name\":\"openai\",\"realm\":\"mcp\",\
             \"user_id\":\"alice\",\"description\":\"\",\"tags\":{\"app\":\"x\",\"env\":\"prod\"},\
             \"status\":\"active\",\"version\":2,\"created_at\":\"1970-01-01T00:00:00.123456Z\",\
             \"updated_at\":null,\"rotated_at\":null,\"expires_at\":null,\"kek_id\":\"kek-1\"}}\n"
        );
        let empty = ListBody::new(Vec::new(), String::new());
        assert_eq!(&**json(&empty, false), b"{\"secrets\":[],\"next_page_token\":\"\"}\n");
    }

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

    #[test]
    fn columns_are_aligned_with_characters_of_any_width() {
        let rows = vec![
            vec!["a".into(), "1".into()],
            vec!["ключ".into(), "2".into()],
            vec!["鍵".into(), String::new()],
        ];
        let table = Table::new(vec!["NAME", "N"], rows, "nothing");
        let plain = anstream::adapter::strip_str(&table.render(None)).to_string();
        assert_eq!(plain, "NAME  N\na     1\nключ  2\n鍵\n");
        assert_eq!(Table::new(vec!["NAME"], Vec::new(), "nothing").render(None), "nothing\n");
    }

    #[test]
    fn the_last_column_of_a_list_is_cut_to_fit_the_terminal() {
        let rows = vec![vec!["a".into(), "env=prod,team=鍵鍵鍵鍵".into()], vec!["b".into(), "x".into()]];
        let table = Table::new(vec!["NAME", "TAGS"], rows, "");
        let plain = |width| anstream::adapter::strip_str(&table.render(width)).to_string();
        assert_eq!(plain(Some(23)), "NAME  TAGS\na     env=prod,team=鍵…\nb     x\n");
        assert_eq!(plain(Some(5)), "NAME  TAGS\na     env=prod,te…\nb     x\n");
        assert_eq!(plain(Some(80)), plain(None));
        assert!(plain(None).contains("鍵鍵鍵鍵"), "whole without a terminal");
    }

    #[test]
    fn a_description_has_its_lines() {
        let secret = v1::Secret { description: "one\r\n\ntwo\u{1b}".into(), ..secret() };
        let text = SecretBody::new(secret).table().render(None);
        assert!(text.contains("description  one\n"), "{text}");
        assert!(text.contains("\n             two\u{fffd}\n"), "{text}");
    }

    #[test]
    fn a_cell_cannot_paint_the_terminal() {
        let table = Table::fields(vec![("description", "\u{1b}[31mred\u{202e}\nname  forged".into())]);
        let text = table.render(None);
        assert_eq!(text.lines().count(), 1);
        assert!(!text.contains('\u{1b}') && !text.contains('\u{202e}'));
    }

    #[test]
    fn a_secret_is_shown_field_by_field_without_the_empty_ones() {
        let text = SecretBody::new(secret()).table().render(None);
        assert!(text.starts_with("name        openai\nrealm       mcp\n"), "{text}");
        assert!(text.contains("tags        app=x\n            env=prod\n"), "{text}");
        assert!(!text.contains("description") && !text.contains("rotated_at"), "{text}");
    }
}
