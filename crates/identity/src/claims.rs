//! The claims of a token.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// The claims of a token, each once. A token with a repeated claim is refused: programs differ in which one they read.
pub(crate) struct Claims(BTreeMap<String, Value>);

impl Claims {
    /// The claims of a certificate: its name as `sub`.
    pub(crate) fn of_subject(subject: &str) -> Self {
        Self(BTreeMap::from([("sub".to_owned(), Value::from(subject))]))
    }

    pub(crate) fn is_present(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The text of a claim.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }

    /// Whether a claim is a text that `is_match` accepts, or a list with one.
    pub(crate) fn has(&self, name: &str, is_match: impl Fn(&str) -> bool) -> bool {
        match self.0.get(name) {
            Some(Value::String(text)) => is_match(text),
            Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).any(is_match),
            _ => false,
        }
    }

    /// A time: seconds since the Unix epoch, possibly with a fraction (RFC 7519, NumericDate).
    ///
    /// # Errors
    /// When the claim is there and is no time from 1970 to 9999.
    pub(crate) fn time(&self, name: &str) -> Result<Option<i64>, NoTime> {
        const LAST: f64 = 253_402_300_799.0;
        let Some(value) = self.0.get(name) else { return Ok(None) };
        let seconds = value.as_f64().filter(|seconds| (0.0..=LAST).contains(seconds)).ok_or(NoTime)?;
        #[expect(clippy::cast_possible_truncation, reason = "the range is checked")]
        Ok(Some(seconds as i64))
    }
}

/// A claim is no time.
pub(crate) struct NoTime;

impl<'de> Deserialize<'de> for Claims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Claimed;

        impl<'de> Visitor<'de> for Claimed {
            type Value = Claims;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Claims, A::Error> {
                let mut claims = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    if claims.insert(name, value).is_some() {
                        return Err(A::Error::custom("a claim is repeated"));
                    }
                }
                Ok(Claims(claims))
            }
        }

        deserializer.deserialize_map(Claimed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(text: &str) -> Option<Claims> {
        serde_json::from_str(text).ok()
    }

    #[test]
    fn a_repeated_claim_is_refused() {
        assert!(claims(r#"{"sub":"a","iss":"b"}"#).is_some());
        assert!(claims(r#"{"sub":"a","sub":"a"}"#).is_none());
        assert!(claims(r#"{"sub":"a","\u0073ub":"b"}"#).is_none());
        assert!(claims(r#"["sub"]"#).is_none());
    }

    #[test]
    fn a_time_is_a_number_of_seconds() {
        let time = |value: &str| claims(&format!(r#"{{"exp":{value}}}"#)).map(|claims| claims.time("exp"));
        assert!(matches!(time("1767000000"), Some(Ok(Some(1_767_000_000)))));
        assert!(matches!(time("1767000000.9"), Some(Ok(Some(1_767_000_000)))));
        for wrong in ["-1", "1e300", "\"1767000000\"", "null", "[1]", "253402300800"] {
            assert!(matches!(time(wrong), Some(Err(NoTime))), "{wrong}");
        }
        assert!(claims("{}").is_some_and(|claims| matches!(claims.time("exp"), Ok(None))));
    }

    #[test]
    fn a_claim_is_a_text_or_a_list_of_texts() {
        let claims = claims(r#"{"a":"x","b":["y","x"],"c":1,"d":[["x"]],"e":true}"#).expect("claims");
        let found: Vec<_> =
            ["a", "b", "c", "d", "e", "f"].map(|name| claims.has(name, |text| text == "x")).into();
        assert_eq!(found, [true, true, false, false, false, false]);
    }
}
