//! The texts that callers choose, each checked against its rule when it is parsed, and immutable.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::limits;

/// The rule that a text breaks. The message never contains the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(&'static str);

impl ParseError {
    pub(crate) const fn new(rule: &'static str) -> Self {
        Self(rule)
    }

    /// The rule that was broken, as a sentence without its subject: "must be …".
    pub const fn rule(&self) -> &'static str {
        self.0
    }
}

macro_rules! text_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
    };
}
pub(crate) use text_type;

text_type! {
    /// The name of a secret, unique within its owner and realm: 1–255 of `[A-Za-z0-9._-]`, first and last a letter, a
    /// digit or `_`, without `..`.
    SecretName
}

impl SecretName {
    /// The rule, for messages.
    pub const RULE: &'static str = "must be 1 to 255 characters of A-Z a-z 0-9 . _ -, begin and end with a letter, a digit or _, and not contain '..'";

    /// # Errors
    /// When `text` breaks [`SecretName::RULE`].
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let bytes = text.as_bytes();
        let class = |byte: &u8| NAME_CLASSES[usize::from(*byte)];
        let is_name = |classes: u8| {
            classes & NOWHERE == 0
                && (classes == ANYWHERE || class(&bytes[0]) | class(&bytes[bytes.len() - 1]) == ANYWHERE)
                && (classes & DOT == 0 || !text.contains(".."))
        };
        let fits = (1..=limits::NAME_BYTES).contains(&bytes.len())
            && is_name(bytes.iter().fold(ANYWHERE, |classes, byte| classes | class(byte)));
        if fits { Ok(Self(text.into())) } else { Err(ParseError::new(Self::RULE)) }
    }
}

/// Where each byte may be in a name. A page of a list parses one name a row.
const NAME_CLASSES: [u8; 256] = {
    let (mut classes, mut byte) = ([NOWHERE; 256], 0);
    while byte < 256 {
        classes[byte] = match byte as u8 {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' => ANYWHERE,
            b'.' => DOT,
            b'-' => HYPHEN,
            _ => NOWHERE,
        };
        byte += 1;
    }
    classes
};
const ANYWHERE: u8 = 0;
/// Between others, and not twice in a row.
const DOT: u8 = 1;
/// Between others.
const HYPHEN: u8 = 2;
const NOWHERE: u8 = 4;

text_type! {
    /// The scope of a secret, such as `mcp` or `llm-keys`: 1–64 of `[a-z0-9-]`, first and last a letter or a digit.
    Realm
}

impl Realm {
    /// The rule, for messages.
    pub const RULE: &'static str =
        "must be 1 to 64 characters of a-z 0-9 -, and begin and end with a letter or digit";

    /// The realms of the gateway's own model keys. Their owner is always `system`.
    pub const LLM: [&'static str; 5] = ["llm-keys", "llm", "llm-providers", "ai-keys", "byok"];

    /// # Errors
    /// When `text` breaks [`Realm::RULE`].
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let bytes = text.as_bytes();
        let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let fits = (1..=limits::REALM_BYTES).contains(&bytes.len())
            && bytes.iter().all(|b| inner(b) || *b == b'-')
            && inner(&bytes[0])
            && inner(&bytes[bytes.len() - 1]);
        if fits { Ok(Self(text.into())) } else { Err(ParseError::new(Self::RULE)) }
    }

    /// Whether this is one of [`Realm::LLM`].
    pub fn is_llm(&self) -> bool {
        Self::LLM.contains(&self.as_str())
    }
}

/// The realm `default`, a key's current realm unless it was issued with another.
impl Default for Realm {
    fn default() -> Self {
        Self("default".into())
    }
}

text_type! {
    /// The description of a secret: at most 1,024 bytes of UTF-8, possibly empty.
    Description
}

impl Description {
    /// The rule, for messages.
    pub const RULE: &'static str = "must be at most 1024 bytes of UTF-8";

    /// # Errors
    /// When `text` breaks [`Description::RULE`].
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        if text.len() <= limits::DESCRIPTION_BYTES {
            Ok(Self(text.into()))
        } else {
            Err(ParseError::new(Self::RULE))
        }
    }
}

impl Default for Description {
    fn default() -> Self {
        Self("".into())
    }
}

text_type! {
    /// The key of a tag: 1–128 of `[A-Za-z0-9._/:-]`.
    TagKey
}

impl TagKey {
    /// The rule, for messages.
    pub const RULE: &'static str = "keys must be 1 to 128 characters of A-Z a-z 0-9 . _ / : -";

    /// # Errors
    /// When `text` breaks [`TagKey::RULE`].
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let fits = (1..=limits::TAG_KEY_BYTES).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'/' | b':' | b'-'));
        if fits { Ok(Self(text.into())) } else { Err(ParseError::new(Self::RULE)) }
    }
}

text_type! {
    /// The value of a tag: at most 256 bytes of UTF-8 without control characters, possibly empty.
    TagValue
}

impl TagValue {
    /// The rule, for messages.
    pub const RULE: &'static str = "values must be at most 256 bytes of UTF-8 without control characters";

    /// # Errors
    /// When `text` breaks [`TagValue::RULE`].
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let fits = text.len() <= limits::TAG_VALUE_BYTES && !text.chars().any(char::is_control);
        if fits { Ok(Self(text.into())) } else { Err(ParseError::new(Self::RULE)) }
    }
}

/// The tags of a secret, ordered by key, at most 64. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tags(Option<Arc<[(TagKey, TagValue)]>>);

impl Tags {
    /// The rule for their number, for messages.
    pub const RULE: &'static str = "must be at most 64 entries";

    /// Parses pairs of key and value. Of two pairs with the same key the last one counts. Readers that can detect
    /// duplicates refuse them.
    ///
    /// # Errors
    /// When a key, a value or the number of tags breaks its rule.
    pub fn parse<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, ParseError> {
        let mut tags = BTreeMap::new();
        for (key, value) in pairs {
            tags.insert(TagKey::parse(key)?, TagValue::parse(value)?);
            if tags.len() > limits::TAGS {
                return Err(ParseError::new(Self::RULE));
            }
        }
        Ok(Self((!tags.is_empty()).then(|| tags.into_iter().collect())))
    }

    /// The pairs, by key.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&TagKey, &TagValue)> {
        self.pairs().iter().map(|(key, value)| (key, value))
    }

    /// The number of tags.
    pub fn len(&self) -> usize {
        self.pairs().len()
    }

    /// Whether there are no tags.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Whether every tag of `wanted` is present with the same value.
    pub fn contains_all(&self, wanted: &Self) -> bool {
        let has = |key: &TagKey, value: &TagValue| {
            let found = self.pairs().binary_search_by(|(own, _)| own.cmp(key));
            found.is_ok_and(|at| self.pairs()[at].1 == *value)
        };
        wanted.iter().all(|(key, value)| has(key, value))
    }

    fn pairs(&self) -> &[(TagKey, TagValue)] {
        self.0.as_deref().unwrap_or_default()
    }
}

text_type! {
    /// The id of a key-encryption key: 1–64 of `[A-Za-z0-9._-]`.
    KekId
}

impl KekId {
    /// The rule, for messages.
    pub const RULE: &'static str = "must be 1 to 64 characters of A-Z a-z 0-9 . _ -";

    /// # Errors
    /// When `text` breaks [`KekId::RULE`].
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let fits = (1..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if fits { Ok(Self(text.into())) } else { Err(ParseError::new(Self::RULE)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_their_rule() {
        for good in ["a", "0", "_", "_a", "a_", "__a__", "openai-api-key", "A.b_c-9", &"x".repeat(255)] {
            assert_eq!(SecretName::parse(good).expect(good).as_str(), good);
        }
        let long = "x".repeat(256);
        for bad in [
            "", ".", "..", "a..b", "-a", "a-", ".a", "a.", "_-", "._", "a b", "a/b", "ä", "a\0", "a\n", " a",
            &long,
        ] {
            assert!(SecretName::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn realms_follow_their_rule() {
        for good in ["default", "a", "llm-keys", "0", "a--b", &"r".repeat(64)] {
            assert!(Realm::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "-", "-a", "a-", "A", "a_b", "a.b", "LLM", "llm ", &"r".repeat(65)] {
            assert!(Realm::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn only_the_five_llm_realms_are_llm_realms() {
        for realm in Realm::LLM {
            assert!(Realm::parse(realm).expect(realm).is_llm());
        }
        for realm in ["llm-key", "llm-keys2", "mcp", "kek", "default"] {
            assert!(!Realm::parse(realm).expect(realm).is_llm());
        }
    }

    #[test]
    fn a_sixty_fifth_tag_is_refused() {
        let keys: Vec<String> = (0..65).map(|i| format!("k{i}")).collect();
        assert!(Tags::parse(keys.iter().take(64).map(|k| (k.as_str(), ""))).is_ok());
        assert!(Tags::parse(keys.iter().map(|k| (k.as_str(), ""))).is_err());
    }

    #[test]
    fn tag_values_with_control_characters_are_refused() {
        assert!(TagValue::parse("übung 1").is_ok());
        assert!(TagValue::parse("a\u{7f}").is_err());
        assert!(TagValue::parse("a\u{85}").is_err());
        assert!(TagValue::parse(&"v".repeat(257)).is_err());
    }

    #[test]
    fn an_error_does_not_contain_the_text() {
        let error = SecretName::parse("canary value").expect_err("has a space");
        assert!(!format!("{error} {error:?}").contains("canary"));
    }
}
