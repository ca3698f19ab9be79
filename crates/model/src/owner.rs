//! The owner of a secret.

use std::fmt;

use crate::limits;
use crate::text::{ParseError, text_type};

text_type! {
    /// The id of a user who is not `system`: 1–255 of `[A-Za-z0-9._@:+-]`.
    UserId
}

/// The owner of a secret: the service itself, or a user.
///
/// On the wire both are a `user_id`. Exactly `system` is the service itself, and `SYSTEM` is a user like any other. As it
/// is a variant, only [`Owner::parse`] compares the text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// The service itself: owner of every secret in an LLM realm and of service KEKs.
    System,
    /// A user.
    User(UserId),
}

impl Owner {
    /// The rule, for messages.
    pub const RULE: &'static str = "must be 1 to 255 characters of A-Z a-z 0-9 . _ @ : + -";

    /// # Errors
    /// When `text` breaks [`Owner::RULE`].
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        if text == "system" {
            return Ok(Self::System);
        }
        let fits = (1..=limits::USER_ID_BYTES).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'@' | b':' | b'+' | b'-'));
        if fits { Ok(Self::User(UserId(text.into()))) } else { Err(ParseError::new(Self::RULE)) }
    }

    /// The `user_id` of the wire.
    pub fn as_str(&self) -> &str {
        match self {
            Self::System => "system",
            Self::User(user) => user.as_str(),
        }
    }

    /// Whether this is the service itself.
    pub fn is_system(&self) -> bool {
        matches!(self, Self::System)
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_system_is_the_system() {
        assert_eq!(Owner::parse("system"), Ok(Owner::System));
        for other in ["SYSTEM", "System", "root", "system.", "alice@example.com", "a+b:c"] {
            assert!(matches!(Owner::parse(other), Ok(Owner::User(_))), "{other}");
        }
        for bad in ["", " system", "system ", "*", "a/b", "ѕystem", &"u".repeat(256)] {
            assert!(Owner::parse(bad).is_err(), "{bad:?}");
        }
    }
}
