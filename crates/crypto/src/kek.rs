//! Key-encryption keys.

use std::fmt;

use agentrouter_model::{KekId, Rng};
use zeroize::Zeroizing;

use crate::aad::Aad;
use crate::error::CryptoError;
use crate::hazmat::{self, Argon2Cost, KEY_LEN, Prk};
use crate::locked::LockedKey;
use crate::wrap;

/// A key-encryption key: 32 bytes, and the id by which envelopes name it.
///
/// It wraps DEKs and internal keys only. It is in locked memory ([`key_memory`](crate::key_memory)), is wiped when dropped
/// and never moves. Its `Debug` form has the id
/// only. Share it by `Arc`.
pub struct Kek {
    id: KekId,
    key: LockedKey,
}

impl Kek {
    /// A new random key with the id `id`.
    ///
    /// # Errors
    /// When the random source fails.
    pub fn generate(id: KekId, rng: &dyn Rng) -> Result<Self, CryptoError> {
        let mut key = LockedKey::default();
        rng.fill(&mut *key)?;
        Ok(Self { id, key })
    }

    /// The key with the id `id` and these bytes, read by a keyring.
    pub fn from_bytes(id: KekId, bytes: Zeroizing<[u8; 32]>) -> Self {
        // Copied into locked memory, so that the caller's bytes are wiped here and no move leaves a copy.
        let mut key = LockedKey::default();
        key.copy_from_slice(&*bytes);
        Self { id, key }
    }

    /// A root key from a passphrase, by Argon2id. The same arguments give the same key.
    ///
    /// # Errors
    /// [`CryptoError::Library`]: there is too little memory, or the salt has less than 8 bytes.
    pub fn from_passphrase(
        id: KekId,
        passphrase: &[u8],
        salt: &[u8],
        cost: Argon2Cost,
    ) -> Result<Self, CryptoError> {
        let mut key = LockedKey::default();
        hazmat::argon2id(passphrase, salt, cost, &mut key)?;
        Ok(Self { id, key })
    }

    /// Wraps this key under `root`, which has the name `root_id`: 94 bytes, in the layout of
    /// [`InternalKey::wrap`](crate::InternalKey::wrap), bound to the ids of both keys.
    ///
    /// # Errors
    /// When the random source or the library fails.
    pub fn wrap(&self, rng: &dyn Rng, root: &Self, root_id: &str) -> Result<Box<[u8]>, CryptoError> {
        wrap::wrap(rng, root, &self.key, Aad::default().kek(&self.id, root_id))
    }

    /// Unwraps the key `id` that [`Kek::wrap`] wrapped under `root`.
    ///
    /// # Errors
    /// [`CryptoError::Corrupt`] when it is damaged, or wrapped under another root key; [`CryptoError::UnknownFormat`].
    pub fn unwrap(id: KekId, root: &Self, root_id: &str, wrapped: &[u8]) -> Result<Self, CryptoError> {
        let mut key = LockedKey::default();
        wrap::unwrap_into(root, wrapped, Aad::default().kek(&id, root_id), &mut key)?;
        Ok(Self { id, key })
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

    #[test]
    fn a_wrapped_kek_comes_back_under_its_root_and_its_ids_only() {
        let (rng, key, root) = (Counting::default(), kek("kek-1", 7), kek("root", 8));
        let id = |id| KekId::parse(id).expect("valid");
        let wrapped = key.wrap(&rng, &root, "r1").expect("wraps");
        assert_eq!(wrapped.len(), 94);
        let again = Kek::unwrap(id("kek-1"), &root, "r1", &wrapped).expect("unwraps");
        assert_eq!(again.expose(), key.expose());
        for (kek_id, root, root_id) in
            [("kek-2", &root, "r1"), ("kek-1", &kek("root", 9), "r1"), ("kek-1", &root, "r2")]
        {
            let refused = Kek::unwrap(id(kek_id), root, root_id, &wrapped).err();
            assert_eq!(refused, Some(CryptoError::Corrupt));
        }
    }

    /// The vector of RFC 9106, §5.3 has a secret and associated data, which this does not use, so the expected key is that of
    /// the reference implementation: `printf passphrase | argon2 saltsalt -id -t 2 -k 256 -p 2 -l 32 -r`.
    #[test]
    fn a_passphrase_gives_the_key_of_argon2id() {
        let cost = Argon2Cost::new(256, 2, 2).expect("within the bounds");
        let key = |passphrase: &[u8], salt: &[u8], cost| {
            let id = KekId::parse("root").expect("valid");
            *Kek::from_passphrase(id, passphrase, salt, cost).expect("derived").expose()
        };
        let hex: String = key(b"passphrase", b"saltsalt", cost).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "27868e796c20469b30edea455b46f819368b748972a316207167a920f9faaf0c");
        assert_ne!(key(b"passphrase", b"saltsalt", cost), key(b"passphrasf", b"saltsalt", cost));
        assert_ne!(key(b"passphrase", b"saltsalt", cost), key(b"passphrase", b"saltsalu", cost));
        for (memory, passes, lanes) in [
            (0, 1, 1),
            (7, 1, 1),
            (64, 0, 1),
            (64, 1, 0),
            (64, 1, 17),
            ((1 << 20) + 1, 1, 1),
            (64, 17, 1),
            (15, 1, 2),
        ] {
            assert!(Argon2Cost::new(memory, passes, lanes).is_none(), "{memory} {passes} {lanes}");
        }
    }
}
