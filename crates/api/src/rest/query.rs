//! Parser of a query string into the fields of a request.

use std::borrow::Cow;

use agentrouter_model::{Refusal, Violations};

use super::fields::{Field, Fields, Json, Rule, TWICE, add_tag, canonical};
use super::text::Text;

const FORM: Rule = "must be pairs such as realm=mcp, joined by '&' and percent-encoded UTF-8";

/// Sets those of the fields `names` that `query` (without its `?`) has. The refusal has every invalid field, not only the
/// first.
pub(super) fn read<'a, F: Fields<'a>>(
    target: &mut F,
    names: &[&'static str],
    query: &'a str,
) -> Result<(), Refusal> {
    let mut violations = Violations::default();
    let mut seen = Vec::new();
    for pair in query.split('&').filter(|_| !query.is_empty()) {
        let Some((key, value)) = decode_pair(pair) else {
            violations.note("query", FORM);
            continue;
        };
        let tag = key.strip_prefix("tags[").and_then(|rest| rest.strip_suffix(']'));
        // `tags` without a key is not a parameter, and neither is `realm[x]`.
        let known =
            canonical(names, tag.map_or(&*key, |_| "tags")).filter(|name| (*name == "tags") == tag.is_some());
        let Some(name) = known else {
            violations.note("query", unknown(names));
            continue;
        };
        let outcome = match (target.field(name), tag) {
            (Some(Field::Tags(tags)), Some(tag)) => {
                add_tag(tags, Cow::<str>::Owned(tag.to_owned()).into(), value)
            }
            _ if seen.contains(&name) => Err(TWICE),
            (Some(field), _) => field.set(Json::Text(value)),
            (None, _) => Ok(()),
        };
        seen.push(name);
        if let Err(rule) = outcome {
            violations.note(name, rule);
        }
    }
    violations.finish()
}

fn unknown(names: &[&'static str]) -> String {
    if names.is_empty() {
        return "must be empty".to_owned();
    }
    let spelled: Vec<&str> =
        names.iter().map(|name| if *name == "tags" { "tags[key]" } else { name }).collect();
    format!("must have no other parameters than {}", spelled.join(", "))
}

fn decode_pair(pair: &str) -> Option<(Text<'_>, Text<'_>)> {
    let (key, value) = pair.split_once('=')?;
    Some((decode_form(key)?.into(), decode_form(value)?.into()))
}

/// Decodes `+` as a space and `%XX`, as HTML forms and URLSearchParams write them.
fn decode_form(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('+') {
        return decode_percent(text);
    }
    let spaced = text.replace('+', " ");
    Some(Cow::Owned(decode_percent(&spaced)?.into_owned()))
}

/// Decodes `%XX`. `None` if a `%` is not followed by two hexadecimal digits or the result is not UTF-8.
pub(crate) fn decode_percent(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('%') {
        return Some(Cow::Borrowed(text));
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b'%' => hexadecimal(bytes.next()?)? << 4 | hexadecimal(bytes.next()?)?,
            plain => plain,
        };
        decoded.push(byte);
    }
    String::from_utf8(decoded).ok().map(Cow::Owned)
}

fn hexadecimal(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_encoding_decodes_completely_or_fails() {
        for (text, decoded) in [("a", "a"), ("%41%2f%C3%a4", "A/ä"), ("%00", "\0"), ("%25", "%"), ("+", "+")]
        {
            assert_eq!(decode_percent(text).as_deref(), Some(decoded));
        }
        for text in ["%", "%4", "%4g", "%%", "%+1", "%ff", "%C3", "%ed%a0%80"] {
            assert_eq!(decode_percent(text), None, "{text}");
        }
    }
}
