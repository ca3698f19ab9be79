//! Keys that the service keeps for itself.

use std::fmt;

use agentrouter_model::Rng;
use subtle::ConstantTimeEq;

use crate::aad::Aad;
use crate::error::CryptoError;
use crate::hazmat::{Key, MacKey};
use crate::kek::Kek;
use crate::wrap;

/// A random key for HMAC-SHA-256: one for the audit chain, one for page tokens.
///
/// It lies in the store wrapped under a KEK, bound to its purpose, so that neither can stand in for the other, and it
/// is rewrapped when the KEK changes, so that a change of KEK invalidates no page token and breaks no chain. Wiped
/// when dropped; `Debug` shows nothing of it.
pub struct InternalKey {
    key: Box<Key>,
    mac: MacKey,
}

impl InternalKey {
    /// A new random key.
    ///
    /// # Errors
    /// When the random source fails.
    pub fn generate(rng: &dyn Rng) -> Result<Self, CryptoError> {
        let mut key = Key::default();
        rng.fill(&mut *key)?;
        Ok(Self::new(&key))
    }

    fn new(key: &Key) -> Self {
        Self { key: Box::new(key.clone()), mac: MacKey::new(&**key) }
    }

    /// The key, wrapped for `purpose`: 94 bytes.
    ///
    /// ```text
    /// offset  bytes  field
    ///      0      1  format, 1
    ///      1      1  algorithm, 1: HKDF-SHA-256 and AES-256-GCM
    ///      2     32  salt, random
    ///     34     12  nonce, random
    ///     46     48  key and tag, under HKDF(KEK, salt, "wrap" ‖ kek_id), bound to purpose and kek_id
    /// ```
    ///
    /// # Errors
    /// When the random source or the library fails.
    pub fn wrap(&self, rng: &dyn Rng, kek: &Kek, purpose: &'static str) -> Result<Box<[u8]>, CryptoError> {
        wrap::wrap(rng, kek, &self.key, Aad::default().internal(purpose, kek.id()))
    }

    /// The key that [`InternalKey::wrap`] wrapped under `kek` for `purpose`.
    ///
    /// # Errors
    /// [`CryptoError::Corrupt`] when it is damaged, or was wrapped under another KEK or for another purpose;
    /// [`CryptoError::UnknownFormat`].
    pub fn unwrap(kek: &Kek, purpose: &'static str, wrapped: &[u8]) -> Result<Self, CryptoError> {
        Ok(Self::new(&wrap::unwrap(kek, wrapped, Aad::default().internal(purpose, kek.id()))?))
    }

    /// The same key, wrapped under `to` instead of `from`.
    ///
    /// # Errors
    /// Those of [`InternalKey::unwrap`] and [`InternalKey::wrap`].
    pub fn rewrap(
        rng: &dyn Rng,
        from: &Kek,
        to: &Kek,
        purpose: &'static str,
        wrapped: &[u8],
    ) -> Result<Box<[u8]>, CryptoError> {
        Self::unwrap(from, purpose, wrapped)?.wrap(rng, to, purpose)
    }

    /// HMAC-SHA-256 of the concatenation of `parts`. A caller whose parts vary in length adds their lengths itself.
    pub fn mac(&self, parts: &[&[u8]]) -> [u8; 32] {
        self.mac.mac(parts)
    }

    /// Whether `tag` is the whole 32-byte tag of `parts`, compared in constant time.
    pub fn verify(&self, parts: &[&[u8]], tag: &[u8]) -> bool {
        self.mac(parts)[..].ct_eq(tag).into()
    }
}

impl fmt::Debug for InternalKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InternalKey(redacted)")
    }
}
