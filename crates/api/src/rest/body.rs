//! Parser of a JSON body into the fields of a request.

use std::borrow::Cow;
use std::fmt;

use agentrouter_model::{Reason, Refusal, Violations};
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::fields::{Fields, Json, TWICE, canonical};
use super::text::Text;

/// Sets the fields that `bytes` has. The refusal has every invalid field, not only the first.
pub(super) fn read<'a, F: Fields<'a>>(target: &mut F, bytes: &'a [u8]) -> Result<(), Refusal> {
    if bytes.is_empty() {
        return Ok(());
    }
    let malformed = || Refusal::new(Reason::MalformedBody);
    let text = std::str::from_utf8(bytes).map_err(|_| malformed())?;
    let mut violations = Violations::default();
    match serde_json::from_str(text).map_err(|_| malformed())? {
        Json::Object(entries) => set_all(target, entries, &mut violations),
        _ => violations.note("body", "must be a JSON object"),
    }
    violations.finish()
}

fn set_all<'a, F: Fields<'a>>(
    target: &mut F,
    entries: Vec<(Text<'a>, Json<'a>)>,
    violations: &mut Violations,
) {
    let mut seen = Vec::with_capacity(F::NAMES.len());
    let mut unknown = false;
    for (key, value) in entries {
        let Some(name) = canonical(F::NAMES, &key) else {
            unknown = true;
            continue;
        };
        let outcome = match target.field(name) {
            _ if seen.contains(&name) => Err(TWICE),
            Some(field) => field.set(value),
            None => Ok(()),
        };
        seen.push(name);
        if let Err(rule) = outcome {
            violations.note(name, rule);
        }
    }
    if unknown {
        let rule = format!("must have no other fields than {}", F::NAMES.join(", "));
        violations.note("body", rule);
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Json<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Json::Other)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
        Ok(Json::Number(number.try_into().ok()))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
        Ok(Json::Number(number.try_into().ok()))
    }

    /// proto3 JSON accepts `1e2` and `1.0` as integers.
    fn visit_f64<E: Error>(self, number: f64) -> Result<Self::Value, E> {
        let range = f64::from(i32::MIN)..=f64::from(i32::MAX);
        let whole = number.fract() == 0.0 && range.contains(&number);
        Ok(Json::Number(whole.then_some(number as i32)))
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Json::Text(Cow::Borrowed(text).into()))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Json::Text(Cow::<str>::Owned(text.to_owned()).into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Json::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut object = Vec::new();
        while let Some((Key(key), value)) = entries.next_entry()? {
            object.push((key, value));
        }
        Ok(Json::Object(object))
    }
}

struct Key<'a>(Text<'a>);

impl<'de: 'a, 'a> Deserialize<'de> for Key<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match deserializer.deserialize_str(JsonVisitor)? {
            Json::Text(text) => Ok(Self(text)),
            _ => Err(D::Error::custom("a key must be a string")),
        }
    }
}
