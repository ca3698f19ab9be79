//! Parser of `.env` files.
//!
//! Written here because the crates that do it expand `$` in values, so that an API key with a dollar sign arrives changed,
//! and put the line at fault into their errors, value and all. It takes what the common parsers agree on:
//!
//! ```text
//! line    = blank | "#" comment | ["export "] NAME ("=" | ": ") value
//! value   = 'literal' | `literal` | "with \n \r \t \\ \" \$ \` escapes" | bare text, trimmed
//! ```
//!
//! Bare text ends at the end of the line, or at a `#` behind a blank. Quoted values may span lines. `\r\n` and `\r` end a
//! line like `\n`, in quoted values too. Deliberately absent: expansion of variables, in any kind of value.
//!
//! Values are wiped when dropped and are in no error.

use std::fmt;

use zeroize::Zeroizing;

mod write;

pub(crate) use write::{line, shell_line};

/// One variable.
pub(crate) struct Entry {
    /// The line it begins on, from 1.
    pub(crate) line: usize,
    /// Its name: letters, digits, `_`, `.` and `-`.
    pub(crate) name: String,
    /// Its value, possibly empty.
    pub(crate) value: Zeroizing<String>,
    /// Whether the value has a `${` that another tool might expand.
    pub(crate) looks_expandable: bool,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("line", &self.line).field("name", &self.name).finish_non_exhaustive()
    }
}

/// A line that cannot be read. Names the line and the rule, never the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {rule}")]
pub(crate) struct Unreadable {
    /// Which line, from 1.
    pub(crate) line: usize,
    /// What is wrong with it.
    pub(crate) rule: &'static str,
}

/// All variables in the order of the file, repeated ones included.
///
/// # Errors
/// Every line that cannot be read.
pub(crate) fn parse(text: &str) -> Result<Vec<Entry>, Vec<Unreadable>> {
    let text = with_line_feeds(text.strip_prefix('\u{feff}').unwrap_or(text));
    let mut rest = text.as_str();
    let (mut entries, mut unreadable) = (Vec::new(), Vec::new());
    let mut line = 1;
    while !rest.is_empty() {
        let consumed = match statement(rest) {
            Ok((consumed, found)) => {
                if let Some((name, value)) = found {
                    let looks_expandable = value.contains("${");
                    entries.push(Entry { line, name: name.to_owned(), value, looks_expandable });
                }
                consumed
            }
            Err(rule) => {
                unreadable.push(Unreadable { line, rule });
                line_end(rest)
            }
        };
        line += rest[..consumed].bytes().filter(|b| *b == b'\n').count();
        rest = &rest[consumed..];
    }
    if unreadable.is_empty() { Ok(entries) } else { Err(unreadable) }
}

/// The text with `\n` in place of `\r\n` and `\r`.
fn with_line_feeds(text: &str) -> Zeroizing<String> {
    // No longer than the source, so that it is never moved and no copy stays behind.
    let mut unified = Zeroizing::new(String::with_capacity(text.len()));
    let mut rest = text;
    while let Some(at) = rest.find('\r') {
        unified.push_str(&rest[..at]);
        unified.push('\n');
        rest = rest[at + 1..].strip_prefix('\n').unwrap_or(&rest[at + 1..]);
    }
    unified.push_str(rest);
    unified
}

type Found<'a> = Option<(&'a str, Zeroizing<String>)>;

/// Reads one line (more if a quoted value spans them): how many bytes it took and what was in it.
fn statement(text: &str) -> Result<(usize, Found<'_>), &'static str> {
    let first = &text[..line_end(text)];
    let trimmed = first.trim();
    if trimmed.is_empty() || trimmed.starts_with('#') {
        return Ok((first.len(), None));
    }
    let start = first.len() - first.trim_start().len();
    let declaration = match first[start..].strip_prefix("export") {
        Some(after) if after.starts_with([' ', '\t']) => after.trim_start(),
        _ => &first[start..],
    };
    let name = &declaration[..declaration.find(|c| !is_name_character(c)).unwrap_or(declaration.len())];
    let separator = declaration[name.len()..].trim_start_matches([' ', '\t']);
    let after = match separator.strip_prefix('=') {
        Some(after) => after,
        None => match separator.strip_prefix(':') {
            Some(after) if after.starts_with([' ', '\t']) => after,
            _ if declaration.contains('=') => {
                return Err("a name has only letters, digits, '_', '.' and '-'");
            }
            _ => return Err("there is no '='"),
        },
    };
    if name.is_empty() {
        return Err("there is no name before the '='");
    }
    // `after` ends where `first` ends, and quoted values may be longer.
    let after = &text[first.len() - after.len()..];
    let value = after.trim_start_matches([' ', '\t']);
    let skipped = text.len() - value.len();
    let (taken, value) = match value.as_bytes().first() {
        Some(b'"') => escaped(value)?,
        Some(b'\'') => literal(value, '\'')?,
        Some(b'`') => literal(value, '`')?,
        _ => bare(value, after.len() > value.len()),
    };
    let tail = &text[skipped + taken..];
    let tail_line = &tail[..line_end(tail)];
    let leftover = tail_line.trim();
    if !leftover.is_empty() && !leftover.starts_with('#') {
        return Err("there is text after the closing quote");
    }
    Ok((skipped + taken + tail_line.len(), Some((name, value))))
}

/// Where the first line ends, its line feed included.
fn line_end(text: &str) -> usize {
    text.find('\n').map_or(text.len(), |at| at + 1)
}

fn is_name_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-')
}

/// Unquoted: up to the line's end or to a `#` behind a blank, without blanks around it.
fn bare(text: &str, after_blank: bool) -> (usize, Zeroizing<String>) {
    let line = text[..line_end(text)].trim_end_matches('\n');
    let is_behind_blank = |at: usize| if at == 0 { after_blank } else { line[..at].ends_with([' ', '\t']) };
    let comment = line.match_indices('#').map(|(at, _)| at).find(|at| is_behind_blank(*at));
    let end = comment.unwrap_or(line.len());
    (end, Zeroizing::new(line[..end].trim().to_owned()))
}

/// Between two of `quote`, as it stands.
fn literal(text: &str, quote: char) -> Result<(usize, Zeroizing<String>), &'static str> {
    let end = text[1..].find(quote).ok_or("the closing quote is missing")?;
    Ok((end + 2, Zeroizing::new(text[1..=end].to_owned())))
}

/// Between double quotes. A backslash before any other character than those of the seven escapes is kept.
fn escaped(text: &str) -> Result<(usize, Zeroizing<String>), &'static str> {
    // No longer than the source, so that it is never moved and no copy stays behind.
    let mut value = Zeroizing::new(String::with_capacity(text.len()));
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((at + 1, value)),
            '\\' => {
                let replacement = match chars.peek().map(|(_, next)| *next) {
                    Some('n') => Some('\n'),
                    Some('r') => Some('\r'),
                    Some('t') => Some('\t'),
                    Some(same @ ('\\' | '"' | '$' | '`')) => Some(same),
                    _ => None,
                };
                if replacement.is_some() {
                    chars.next();
                }
                value.push(replacement.unwrap_or('\\'));
            }
            _ => value.push(c),
        }
    }
    Err("the closing quote is missing")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> String {
        let mut entries = parse(text).expect("readable");
        assert_eq!(entries.len(), 1, "{text:?}");
        entries.pop().map(|entry| entry.value.to_string()).unwrap_or_default()
    }

    #[test]
    fn values_are_read_as_the_common_parsers_read_them() {
        for (text, value) in [
            ("A=b", "b"),
            ("A=", ""),
            ("A=''", ""),
            ("  export A = b c  # why", "b c"),
            ("A=b#c", "b#c"),
            ("A=#c", "#c"),
            ("A=#Xy7! # why", "#Xy7!"),
            ("A= #c", ""),
            ("A: b", "b"),
            ("A:  'b' # c", "b"),
            ("A=b=c==", "b=c=="),
            ("A='b # c' # d", "b # c"),
            ("A=\"b\\nc\\t\\\"\\\\\"", "b\nc\t\"\\"),
            ("A=\"C:\\dir\"", "C:\\dir"),
            ("A=`it's \"x\"`", "it's \"x\""),
            ("A='b\nc'", "b\nc"),
            ("A='b\r\nc'\r\n", "b\nc"),
            ("A=\"-----BEGIN\nx\n-----END\"\n", "-----BEGIN\nx\n-----END"),
            ("A=b\r\n", "b"),
            ("A='b'\r\n", "b"),
            ("\u{feff}A=b", "b"),
            ("A=ключ", "ключ"),
            ("export=b", "b"),
            ("_A_=b", "b"),
            ("1A=b", "b"),
            ("spring.a-b=c", "c"),
        ] {
            assert_eq!(one(text), value, "{text:?}");
        }
    }

    #[test]
    fn a_carriage_return_ends_a_line() {
        let entries = parse("A=1\rB=2\r\rC=3\r\nD=4").expect("readable");
        let seen: Vec<_> = entries.iter().map(|entry| (entry.line, &*entry.name, &**entry.value)).collect();
        assert_eq!(seen, [(1, "A", "1"), (2, "B", "2"), (4, "C", "3"), (5, "D", "4")]);
    }

    #[test]
    fn nothing_is_ever_expanded() {
        for text in ["A=sk-$HOME-${B}", "A='sk-$HOME-${B}'", "A=\"sk-$HOME-${B}\"", "A=\"sk-\\$HOME-\\${B}\""]
        {
            assert_eq!(one(text), "sk-$HOME-${B}", "{text}");
        }
        assert!(parse("A=${B}").expect("readable")[0].looks_expandable);
    }

    #[test]
    fn lines_are_counted_through_values_that_span_them() {
        let entries = parse("# head\n\nA='x\ny'\nB=z\nA=again\n").expect("readable");
        let seen: Vec<_> = entries.iter().map(|entry| (entry.line, entry.name.as_str())).collect();
        assert_eq!(seen, [(3, "A"), (5, "B"), (6, "A")]);
    }

    #[test]
    fn every_unreadable_line_is_named_and_none_is_repeated() {
        let text = "GOOD=1\ncanary\n=canary\nA B=canary\nC='canary' canary\nA:canary\nD=\"canary\n";
        let errors = parse(text).expect_err("bad");
        assert_eq!(errors.iter().map(|error| error.line).collect::<Vec<_>>(), [2, 3, 4, 5, 6, 7]);
        assert!(!format!("{errors:?}").contains("canary"));
        assert!(!format!("{:?}", parse("A=canary")).contains("canary"));
    }
}
