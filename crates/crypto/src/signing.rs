//! Ed25519 signatures (RFC 8032), for data that is kept on other hosts.

use std::fmt;

use crate::error::CryptoError;
use crate::hazmat::{Ed25519, verify_ed25519};
use crate::internal_key::InternalKey;

/// A key pair that is derived from an [`InternalKey`]. Holders of that key can sign. Holders of the public half can verify.
/// The pair is wiped when dropped and redacted in `Debug`.
pub struct SigningKey(Ed25519);

impl SigningKey {
    /// The pair of `key` for a purpose. `domain` has 32 bytes that no other input of the key's MAC begins with.
    ///
    /// # Errors
    /// When the library fails.
    pub fn derive(key: &InternalKey, domain: &[u8; 32]) -> Result<Self, CryptoError> {
        let mut seed = zeroize::Zeroizing::new([0; 32]);
        *seed = key.mac(&[domain]);
        Ok(Self(Ed25519::from_seed(&seed).map_err(|_| CryptoError::Library)?))
    }

    /// The public half.
    pub fn public(&self) -> [u8; 32] {
        self.0.public()
    }

    /// The signature of a message.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message)
    }

    /// Whether `signature` is a signature of `message` by the key with this public half.
    pub fn verify(public: &[u8; 32], message: &[u8], signature: &[u8]) -> bool {
        verify_ed25519(public, message, signature)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::Counting;

    const ONE: &[u8; 32] = b"test domain 1                  \n";
    const TWO: &[u8; 32] = b"test domain 2                  \n";

    #[test]
    fn a_signature_fits_its_message_and_key_only() {
        let key = InternalKey::generate(&Counting::default()).expect("random");
        let signing = SigningKey::derive(&key, ONE).expect("derives");
        let signature = signing.sign(b"message");
        let public = signing.public();
        assert!(SigningKey::verify(&public, b"message", &signature));
        assert!(!SigningKey::verify(&public, b"messagE", &signature));
        assert!(!SigningKey::verify(&public, b"message", &signature[..63]));
        let mut changed = signature;
        changed[5] ^= 1;
        assert!(!SigningKey::verify(&public, b"message", &changed));
        let other = SigningKey::derive(&key, TWO).expect("derives");
        assert!(!SigningKey::verify(&other.public(), b"message", &signature));
        assert_eq!(SigningKey::derive(&key, ONE).expect("derives").public(), public);
        assert_eq!(format!("{signing:?}"), "SigningKey(redacted)");
    }
}
