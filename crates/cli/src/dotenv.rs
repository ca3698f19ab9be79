//! Reads a `.env` file, and changes nothing in it.
//!
//! Written here because the crates that do it expand `$` in values (an API key with a dollar sign arrives mangled,
//! without a word) and put the line at fault, value and all, into their errors. What all dialects agree on is read:
//!
//! ```text
//! line    = blank | "#" comment | ["export "] NAME "=" value
//! value   = 'literal' | `literal` | "with \n \r \t \\ \" \$ escapes" | bare text, up to " #" or the line's end, trimmed
//! ```
//!
//! Quoted values may span lines. Deliberately absent: expansion of variables, in any kind of value.
//!
//! Values are wiped when dropped and are in no error.

use std::fmt;

use zeroize::Zeroizing;

/// One variable.
pub(crate) struct Entry {
    /// The line it begins on, from 1.
    pub(crate) line: usize,
    /// Its name: a letter or `_`, then letters, digits, `_`, `.` and `-`.
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

/// A line that cannot be read. Says where and which rule, never what is there.
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
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(text);
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
    let Some((name, _)) = declaration.split_once('=') else {
        return Err("there is no '='");
    };
    let equals = first.len() - declaration.len() + name.len();
    let name = name.trim_end();
    if !is_name(name) {
        return Err("the name must be a letter or '_', then letters, digits, '_', '.' or '-'");
    }
    let after = &text[equals + 1..];
    let value = after.trim_start_matches([' ', '\t']);
    let skipped = text.len() - value.len();
    let (taken, value) = match value.as_bytes().first() {
        Some(b'"') => escaped(value)?,
        Some(b'\'') => literal(value, '\'')?,
        Some(b'`') => literal(value, '`')?,
        _ => bare(value),
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

fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// Unquoted: up to the line's end or to a `#` after a blank, without blanks around it.
fn bare(text: &str) -> (usize, Zeroizing<String>) {
    let line = text[..line_end(text)].trim_end_matches(['\n', '\r']);
    let comment = line
        .char_indices()
        .find(|(at, c)| *c == '#' && (*at == 0 || line[..*at].ends_with([' ', '\t'])))
        .map_or(line.len(), |(at, _)| at);
    (comment, Zeroizing::new(line[..comment].trim().to_owned()))
}

/// Between two of `quote`, as it stands.
fn literal(text: &str, quote: char) -> Result<(usize, Zeroizing<String>), &'static str> {
    let end = text[1..].find(quote).ok_or("the closing quote is missing")?;
    Ok((end + 2, Zeroizing::new(text[1..=end].to_owned())))
}

/// Between double quotes. A backslash before anything but the six is one like any other.
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
                    Some(same @ ('\\' | '"' | '$')) => Some(same),
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
    fn values_are_read_as_people_write_them() {
        for (text, value) in [
            ("A=b", "b"),
            ("A=", ""),
            ("A=''", ""),
            ("  export A = b c  # why", "b c"),
            ("A=b#c", "b#c"),
            ("A=#c", ""),
            ("A=b=c==", "b=c=="),
            ("A='b # c' # d", "b # c"),
            ("A=\"b\\nc\\t\\\"\\\\\"", "b\nc\t\"\\"),
            ("A=\"C:\\dir\"", "C:\\dir"),
            ("A=`it's \"x\"`", "it's \"x\""),
            ("A='b\nc'", "b\nc"),
            ("A=\"-----BEGIN\nx\n-----END\"\n", "-----BEGIN\nx\n-----END"),
            ("A=b\r\n", "b"),
            ("A='b'\r\n", "b"),
            ("\u{feff}A=b", "b"),
            ("A=ключ", "ключ"),
            ("export=b", "b"),
        ] {
            assert_eq!(one(text), value, "{text:?}");
        }
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
        let errors =
            parse("GOOD=1\ncanary\n1A=canary\nA B=canary\nC='canary' canary\nD=\"canary\n").expect_err("bad");
        assert_eq!(errors.iter().map(|error| error.line).collect::<Vec<_>>(), [2, 3, 4, 5, 6]);
        assert!(!format!("{errors:?}").contains("canary"));
        assert!(!format!("{:?}", parse("A=canary")).contains("canary"));
    }
}
