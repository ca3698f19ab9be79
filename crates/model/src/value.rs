//! The plaintext of a secret in memory.

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::limits;
use crate::text::ParseError;

/// The plaintext of one version: 1 byte to 64 KiB of UTF-8.
///
/// It is wiped when dropped, compared in constant time, redacted in `Debug`, and neither `Display` nor serialisable. Code
/// that sends it must call [`SecretValue::expose`]. Copies that libraries make of request and response buffers are not
/// wiped (see `SECURITY.md`).
#[derive(Clone)]
pub struct SecretValue(Zeroizing<String>);

impl SecretValue {
    /// The rule, for messages.
    pub const RULE: &'static str = "must be 1 to 65536 bytes of UTF-8";

    /// # Errors
    /// When the text is empty or larger than 64 KiB. The text is wiped in this case too.
    pub fn parse(text: String) -> Result<Self, ParseError> {
        let text = Zeroizing::new(text);
        if (1..=limits::VALUE_BYTES).contains(&text.len()) {
            Ok(Self(text))
        } else {
            Err(ParseError::new(Self::RULE))
        }
    }

    /// The plaintext, for sealing and for the response that carries it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue(redacted)")
    }
}

/// In constant time for values of equal length.
impl PartialEq for SecretValue {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl Eq for SecretValue {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_debug_form_of_a_value_is_redacted() {
        let value = SecretValue::parse("sk-canary".into()).expect("valid");
        assert_eq!(format!("{value:?}"), "SecretValue(redacted)");
        assert_eq!(value.expose(), "sk-canary");
    }

    #[test]
    fn a_value_has_one_byte_to_64_kib() {
        assert!(SecretValue::parse(String::new()).is_err());
        assert!(SecretValue::parse("x".repeat(65536)).is_ok());
        assert!(SecretValue::parse("x".repeat(65537)).is_err());
    }
}
