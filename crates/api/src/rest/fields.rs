//! The fields of a request: their names, their types, and their conversion from JSON values and parameters.

use agentrouter_model::limits;

use super::text::Text;

/// A field to be set, by its type.
pub(super) enum Field<'f, 'a> {
    /// A string.
    Text(&'f mut Text<'a>),
    /// An int32.
    Int(&'f mut i32),
    /// An optional int32.
    OptionalInt(&'f mut Option<i32>),
    /// A map of strings.
    Tags(&'f mut Vec<(Text<'a>, Text<'a>)>),
    /// A `google.protobuf.Duration`, in seconds and nanoseconds.
    Duration(&'f mut Option<(i64, i32)>),
    /// A `google.protobuf.FieldMask`, its paths joined by commas.
    Mask(&'f mut Option<Text<'a>>),
}

/// A request whose fields can be set by name.
pub(super) trait Fields<'a> {
    /// The proto names, in the order of the proto.
    const NAMES: &'static [&'static str];

    /// The field of a proto name.
    fn field(&mut self, name: &str) -> Option<Field<'_, 'a>>;
}

/// The proto name of `given`, which may be in lowerCamelCase.
pub(super) fn canonical(names: &[&'static str], given: &str) -> Option<&'static str> {
    names.iter().copied().find(|name| *name == given || is_camel_of(given, name))
}

fn is_camel_of(given: &str, name: &str) -> bool {
    let mut given = given.bytes();
    let mut name = name.bytes();
    while let Some(expected) = name.next() {
        let expected = match expected {
            b'_' => name.next().map(|letter| letter.to_ascii_uppercase()),
            letter => Some(letter),
        };
        if given.next() != expected {
            return false;
        }
    }
    given.next().is_none()
}

/// A JSON value, no deeper than requests need: the elements of an array are dropped.
pub(super) enum Json<'a> {
    Null,
    Text(Text<'a>),
    /// A number. `None` if it is not an int32.
    Number(Option<i32>),
    Object(Vec<(Text<'a>, Json<'a>)>),
    /// A boolean or an array. No field has these types.
    Other,
}

/// The rule that a field breaks.
pub(super) type Rule = &'static str;

const TEXT: Rule = "must be a string";
const INT: Rule = "must be an integer from -2147483648 to 2147483647";
const TAGS: Rule = "must be an object whose values are strings";
const DURATION: Rule = "must be a string of seconds such as \"3600s\" or \"1.5s\"";
const MASK: Rule = "must be a string of field names, separated by commas";
pub(super) const TAG_TWICE: Rule = "must not have the same key twice";
pub(super) const TWICE: Rule = "must not be given twice";

impl<'a> Field<'_, 'a> {
    /// Sets the field; `null` leaves it unset.
    pub(super) fn set(self, value: Json<'a>) -> Result<(), Rule> {
        match (self, value) {
            (_, Json::Null) => {}
            (Self::Text(slot), Json::Text(text)) => *slot = text,
            (Self::Int(slot), value) => *slot = int(&value).ok_or(INT)?,
            (Self::OptionalInt(slot), value) => *slot = Some(int(&value).ok_or(INT)?),
            (Self::Tags(slot), Json::Object(entries)) => {
                for (key, value) in entries {
                    let Json::Text(value) = value else { return Err(TAGS) };
                    add_tag(slot, key, value)?;
                }
            }
            (Self::Duration(slot), Json::Text(text)) => *slot = Some(duration(&text).ok_or(DURATION)?),
            (Self::Mask(slot), Json::Text(text)) => *slot = Some(text),
            (Self::Text(_), _) => return Err(TEXT),
            (Self::Tags(_), _) => return Err(TAGS),
            (Self::Duration(_), _) => return Err(DURATION),
            (Self::Mask(_), _) => return Err(MASK),
        }
        Ok(())
    }
}

/// Adds a tag, unless its key is present. Tags beyond one more than the limit are dropped: the service refuses that number,
/// and the search for duplicates stays bounded.
pub(super) fn add_tag<'a>(
    tags: &mut Vec<(Text<'a>, Text<'a>)>,
    key: Text<'a>,
    value: Text<'a>,
) -> Result<(), Rule> {
    if tags.iter().any(|(known, _)| **known == *key) {
        return Err(TAG_TWICE);
    }
    if tags.len() <= limits::TAGS {
        tags.push((key, value));
    }
    Ok(())
}

fn int(value: &Json<'_>) -> Option<i32> {
    match value {
        Json::Number(number) => *number,
        Json::Text(text) if !text.starts_with('+') => text.parse().ok(),
        _ => None,
    }
}

/// Parses `-?[0-9]+(\.[0-9]{1,9})?s` within the ±315,576,000,000 s of `google.protobuf.Duration`.
fn duration(text: &str) -> Option<(i64, i32)> {
    let number = text.strip_suffix('s')?;
    let (sign, number) = number.strip_prefix('-').map_or((1, number), |number| (-1, number));
    let (whole, fraction) = match number.split_once('.') {
        Some((whole, fraction)) if (1..=9).contains(&fraction.len()) => (whole, fraction),
        Some(_) => return None,
        None => (number, ""),
    };
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || whole.len() > 12 || !digits(whole) || !digits(fraction) {
        return None;
    }
    let seconds: i64 = whole.parse().ok()?;
    let nanos: i32 = format!("{fraction:0<9}").parse().ok()?;
    let within = seconds < 315_576_000_000 || (seconds == 315_576_000_000 && nanos == 0);
    within.then(|| (sign * seconds, i32::try_from(sign).unwrap_or(1) * nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_two_spellings() {
        let names = ["page_size", "realm"];
        for given in ["page_size", "pageSize"] {
            assert_eq!(canonical(&names, given), Some("page_size"));
        }
        for given in ["PageSize", "page-size", "pagesize", "page_Size", "pageSizes", "pageSiz", "page", ""] {
            assert_eq!(canonical(&names, given), None, "{given}");
        }
    }

    #[test]
    fn a_duration_parses_as_in_proto3_json() {
        for (text, expected) in [
            ("3600s", (3600, 0)),
            ("0s", (0, 0)),
            ("1.5s", (1, 500_000_000)),
            ("-1.000000001s", (-1, -1)),
            ("-0.5s", (0, -500_000_000)),
            ("315576000000s", (315_576_000_000, 0)),
        ] {
            assert_eq!(duration(text), Some(expected), "{text}");
        }
        for text in [
            "",
            "s",
            "1",
            "1m",
            "1.s",
            ".5s",
            "1.0000000001s",
            "+1s",
            "--1s",
            "1e3s",
            " 1s",
            "1s ",
            "1,5s",
            "315576000001s",
            "315576000000.1s",
            "99999999999999999999s",
            "١s",
        ] {
            assert_eq!(duration(text), None, "{text}");
        }
    }
}
