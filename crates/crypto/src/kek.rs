//! Key-encryption keys.

use std::fmt;

use agentrouter_model::{KekId, Rng};
use zeroize::Zeroizing;

use crate::error::CryptoError;
use crate::hazmat::{KEY_LEN, Key, Prk};

/// A key-encryption key: 32 bytes, and the id by which envelopes name it.
///
/// It wraps DEKs and internal keys only. It is wiped when dropped and never moves in memory. Its `Debug` form has the id
/// only. Share it by `Arc`.
pub struct Kek {
    id: KekId,
    key: Box<Key>,
}

impl Kek {
    /// A new random key with the id `id`.
    ///
    /// # Errors
    /// When the random source fails.
    pub fn generate(id: KekId, rng: &dyn Rng) -> Result<Self, CryptoError> {
        let mut key = Box::<Key>::default();
        rng.fill(&mut **key)?;
        Ok(Self { id, key })
    }

    /// The key with the id `id` and these bytes, read by a keyring.
    pub fn from_bytes(id: KekId, bytes: Zeroizing<[u8; 32]>) -> Self {
        // Copied into the box, so that the caller's bytes are wiped here and no move leaves a copy.
        let mut key = Box::<Key>::default();
        key.copy_from_slice(&*bytes);
        Self { id, key }
    }

    /// The key's id.
    pub fn id(&self) -> &KekId {
        &self.id
    }

    /// The bytes, for the keyring that writes them to its file.
    pub fn expose(&self) -> &[u8; 32] {
        &self.key
    }

    /// A value that identifies this key and reveals nothing about it: HKDF-SHA-256 without salt, info `"check" ‖ kek_id`.
    /// The store holds it, so that a server with a wrong key refuses to start.
    ///
    /// # Errors
    /// [`CryptoError::Library`].
    pub fn check_value(&self) -> Result<[u8; 32], CryptoError> {
        let check = Prk::extract(&[], self.expose())?.expand(&[b"check", self.id.as_str().as_bytes()])?;
        Ok(*check)
    }
}

impl fmt::Debug for Kek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kek").field("id", &self.id).finish_non_exhaustive()
    }
}

const _: () = assert!(KEY_LEN == 32);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{Counting, kek};

    #[test]
    fn a_kek_shows_its_name_and_not_its_bytes() {
        let kek = kek("kek-1", 0xc5);
        let shown = format!("{kek:?}");
        assert_eq!(shown, "Kek { id: \"kek-1\", .. }");
        assert_eq!(kek.expose(), &[0xc5; 32]);
    }

    #[test]
    fn the_check_value_depends_on_the_key_and_on_its_name() {
        let check = |id, byte| kek(id, byte).check_value().expect("derives");
        assert_eq!(check("a", 1), check("a", 1));
        assert_ne!(check("a", 1), check("a", 2));
        assert_ne!(check("a", 1), check("b", 1));
        assert_ne!(&check("a", 1), kek("a", 1).expose());
    }

    #[test]
    fn two_generated_keys_differ() {
        let rng = Counting::default();
        let id = || KekId::parse("kek-1").expect("valid");
        let (a, b) = (Kek::generate(id(), &rng).expect("random"), Kek::generate(id(), &rng).expect("random"));
        assert_ne!(a.expose(), b.expose());
    }
}
