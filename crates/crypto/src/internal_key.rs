//! The service's own HMAC keys.

use std::fmt;

use agentrouter_model::Rng;
use subtle::ConstantTimeEq;

use crate::aad::Aad;
use crate::error::CryptoError;
use crate::hazmat::{Key, MacKey, Prk};
use crate::kek::Kek;
use crate::row_key::RowKey;
use crate::wrap;

/// A random key for HMAC-SHA-256: one for the audit chain, one for page tokens.
///
/// The store holds it wrapped under a KEK and bound to its purpose, so that neither key can replace the other. It is
/// rewrapped when the KEK changes, so page tokens and the audit chain remain valid. It is wiped when dropped and redacted
/// in `Debug`.
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

    /// Wraps the key for `purpose`: 94 bytes.
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

    /// Unwraps a key that [`InternalKey::wrap`] wrapped under `kek` for `purpose`.
    ///
    /// # Errors
    /// [`CryptoError::Corrupt`] when it is damaged, or wrapped under another KEK or for another purpose;
    /// [`CryptoError::UnknownFormat`].
    pub fn unwrap(kek: &Kek, purpose: &'static str, wrapped: &[u8]) -> Result<Self, CryptoError> {
        Ok(Self::new(&wrap::unwrap(kek, wrapped, Aad::default().internal(purpose, kek.id()))?))
    }

    /// Rewraps the key from `from` to `to`.
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

    /// The key that authenticates rows, derived from this one: HKDF(key, no salt, [`RowKey`]'s domain). So it is wrapped
    /// and rewrapped with this key, every store has it, and so has every backup.
    ///
    /// # Errors
    /// When the library fails.
    pub fn row_key(&self) -> Result<RowKey, CryptoError> {
        let key = Prk::extract(&[], &**self.key)?.expand(&[RowKey::DOMAIN.as_bytes()])?;
        Ok(RowKey::new(&key))
    }

    /// HMAC-SHA-256 of the concatenation of `parts`. A caller with parts of variable length must include their lengths.
    pub fn mac(&self, parts: &[&[u8]]) -> [u8; 32] {
        self.mac.mac(parts)
    }

    /// Whether `tag` is the 32-byte tag of `parts`, compared in constant time.
    pub fn verify(&self, parts: &[&[u8]], tag: &[u8]) -> bool {
        self.mac(parts)[..].ct_eq(tag).into()
    }
}

impl fmt::Debug for InternalKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InternalKey(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{Counting, FailingAfter, kek};

    #[test]
    fn a_wrapped_key_comes_back_for_its_purpose_and_under_its_kek_only() {
        let (rng, kek_1) = (Counting::default(), kek("kek-1", 1));
        let key = InternalKey::generate(&rng).expect("random");
        let wrapped = key.wrap(&rng, &kek_1, "audit").expect("wraps");
        assert_eq!(wrapped.len(), 94);

        let again = InternalKey::unwrap(&kek_1, "audit", &wrapped).expect("unwraps");
        assert_eq!(again.mac(&[b"m"]), key.mac(&[b"m"]));
        for (kek, purpose) in
            [(&kek_1, "pages"), (&kek_1, "audit "), (&kek("kek-1", 2), "audit"), (&kek("kek-2", 1), "audit")]
        {
            assert_eq!(InternalKey::unwrap(kek, purpose, &wrapped).err(), Some(CryptoError::Corrupt));
        }
    }

    #[test]
    fn no_flipped_bit_and_no_other_length_unwraps() {
        let (rng, kek) = (Counting::default(), kek("kek-1", 1));
        let key = InternalKey::generate(&rng).expect("random");
        let wrapped = key.wrap(&rng, &kek, "audit").expect("wraps");
        for bit in 0..wrapped.len() * 8 {
            let mut changed = wrapped.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let expected = if bit < 16 { CryptoError::UnknownFormat } else { CryptoError::Corrupt };
            assert_eq!(InternalKey::unwrap(&kek, "audit", &changed).err(), Some(expected), "bit {bit}");
        }
        for len in 0..wrapped.len() {
            assert!(InternalKey::unwrap(&kek, "audit", &wrapped[..len]).is_err(), "{len}");
        }
        let longer = [&wrapped[..], &[0]].concat();
        assert!(InternalKey::unwrap(&kek, "audit", &longer).is_err());
    }

    #[test]
    fn a_rewrapped_key_is_the_same_key_under_the_new_kek_only() {
        let (rng, from, to) = (Counting::default(), kek("kek-1", 1), kek("kek-2", 2));
        let key = InternalKey::generate(&rng).expect("random");
        let wrapped = key.wrap(&rng, &from, "audit").expect("wraps");
        let rewrapped = InternalKey::rewrap(&rng, &from, &to, "audit", &wrapped).expect("rewraps");
        let again = InternalKey::unwrap(&to, "audit", &rewrapped).expect("unwraps");
        assert_eq!(again.mac(&[b"m"]), key.mac(&[b"m"]));
        assert!(InternalKey::unwrap(&from, "audit", &rewrapped).is_err());
        assert!(InternalKey::rewrap(&rng, &to, &from, "audit", &wrapped).is_err());
    }

    #[test]
    fn a_tag_fits_its_message_and_is_whole() {
        let key = InternalKey::generate(&Counting::default()).expect("random");
        let tag = key.mac(&[b"ab", b"c"]);
        assert!(key.verify(&[b"abc"], &tag));
        assert!(!key.verify(&[b"abd"], &tag));
        assert!(!key.verify(&[b"abc"], &tag[..31]));
        assert!(!key.verify(&[b"abc"], &[]));
        assert!(!key.verify(&[b"abc"], &[&tag[..], &[0]].concat()));
    }

    #[test]
    fn it_fails_if_the_random_source_fails_and_shows_nothing() {
        assert!(matches!(InternalKey::generate(&FailingAfter::new(0)), Err(CryptoError::Random(_))));
        let key = InternalKey::generate(&Counting::default()).expect("random");
        for fills in 0..2 {
            let wrapped = key.wrap(&FailingAfter::new(fills), &kek("kek-1", 1), "audit");
            assert!(matches!(wrapped, Err(CryptoError::Random(_))));
        }
        assert_eq!(format!("{key:?}"), "InternalKey(redacted)");
    }
}
