//! Writer of `.env` lines and of shell assignments.
//!
//! [`line()`] writes the simplest form that our parser, bash and the common parsers of `.env` files read alike: bare, in
//! single quotes, or in double quotes with escapes. [`shell_line`] writes what any POSIX shell reads.

use zeroize::Zeroizing;

/// `NAME=VALUE` with a line end, quoted where it has to be.
pub(crate) fn line(name: &str, value: &str) -> Zeroizing<String> {
    let mut text = with_capacity(name, value);
    text.push_str(name);
    text.push('=');
    if value.chars().all(is_plain) {
        text.push_str(value);
    } else if !value.contains(['\'', '\r']) {
        text.push('\'');
        text.push_str(value);
        text.push('\'');
    } else {
        text.push('"');
        for c in value.chars() {
            match c {
                '\\' | '"' | '$' | '`' => text.extend(['\\', c]),
                '\r' => text.push_str("\\r"),
                _ => text.push(c),
            }
        }
        text.push('"');
    }
    text.push('\n');
    text
}

/// `export NAME='VALUE'` with a line end, for a shell.
pub(crate) fn shell_line(name: &str, value: &str) -> Zeroizing<String> {
    let mut text = with_capacity(name, value);
    text.push_str("export ");
    text.push_str(name);
    text.push_str("='");
    for c in value.chars() {
        match c {
            '\'' => text.push_str("'\\''"),
            _ => text.push(c),
        }
    }
    text.push_str("'\n");
    text
}

/// Long enough for any quoting, so that the text is never moved and no copy stays behind.
fn with_capacity(name: &str, value: &str) -> Zeroizing<String> {
    Zeroizing::new(String::with_capacity(name.len() + 4 * value.len() + 16))
}

/// Whether the character means itself everywhere, unquoted.
fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | ':' | '@' | '%' | '+' | ',' | '=')
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::dotenv::parse;

    const VALUES: [&str; 16] = [
        "sk-proj_1+/=",
        "two words",
        "#hash",
        "a # b",
        "it's",
        "it's \"so\"",
        "$HOME ${B} `id` \\ \\n",
        "it's $HOME ${B} `id` \\ \\n \"",
        "-----BEGIN\nline two\n-----END\n",
        "it's\nof two lines",
        " blanks around ",
        "ключ 🔑",
        "!bang!",
        "~/x",
        "{\"a\": 1}",
        "a\\",
    ];

    #[test]
    fn what_is_written_is_read_back_unchanged() {
        let text: String = VALUES.iter().map(|value| line("A", value).to_string()).collect();
        let read: Vec<String> =
            parse(&text).expect("readable").into_iter().map(|entry| entry.value.to_string()).collect();
        assert_eq!(read, VALUES);
        let returns = "it's\r\nso\r";
        assert_eq!(*parse(&line("A", returns)).expect("readable")[0].value, returns);
    }

    #[test]
    fn a_shell_reads_both_forms_unchanged() {
        for value in VALUES {
            for text in [line("A", value), shell_line("A", value)] {
                let script = format!("{}printf '%s.' \"$A\"", *text);
                let output = Command::new("bash").args(["-c", &script]).output().expect("bash runs");
                assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{value}."), "{script}");
            }
        }
    }
}
