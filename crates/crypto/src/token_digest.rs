//! Digests of bearer tokens that were verified, for a look-up in memory.

use std::cell::Cell;
use std::fmt;

use agentrouter_model::Rng;

use crate::error::CryptoError;
use crate::hazmat::{CmacKey, Key, Messages, TAG_LEN};

thread_local! {
    /// The buffer for a token, which is overwritten when its digest is computed.
    static BUFFER: Cell<Messages> = const { Cell::new(Messages::new()) };
}

/// The digest of a token.
pub type TokenDigest = [u8; TAG_LEN];

/// Makes digests of tokens: AES-256-CMAC (NIST SP 800-38B) under a random key that never leaves the process.
///
/// Who does not have the key cannot find two tokens with one digest, so that a digest can stand for a token in a map. Its
/// 16 bytes say nothing of the token. It costs less than SHA-256 for tokens, which have about a thousand bytes.
pub struct TokenDigests(CmacKey);

impl TokenDigests {
    /// # Errors
    /// When the random source fails.
    pub fn new(rng: &dyn Rng) -> Result<Self, CryptoError> {
        let mut key = Key::default();
        rng.fill(&mut *key)?;
        Ok(Self(CmacKey::new(&key)))
    }

    /// The digest of a token.
    pub fn digest(&self, token: &str) -> TokenDigest {
        let mut message = BUFFER.replace(Messages::new());
        message.extend(token.as_bytes());
        message.end(&self.0);
        let mut digest = TokenDigest::default();
        self.0.tags(&message, |tag| digest = tag);
        message.overwrite();
        BUFFER.set(message);
        digest
    }
}

impl fmt::Debug for TokenDigests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenDigests(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SystemRng;

    #[test]
    fn a_digest_depends_on_the_whole_token_and_on_the_process() {
        let digests = TokenDigests::new(&SystemRng).expect("made");
        let of = |token: &str| digests.digest(token);
        assert_eq!(of("a.b.c"), of("a.b.c"));
        for other in ["a.b.d", "b.b.c", "a.b.c.", "a.b.", ""] {
            assert_ne!(of("a.b.c"), of(other), "{other}");
        }
        let other = TokenDigests::new(&SystemRng).expect("made");
        assert_ne!(of("a.b.c"), other.digest("a.b.c"));
    }
}
