//! Wrapping: a 32-byte key under a KEK.
//!
//! ```text
//! offset  bytes  field
//!      0      1  format, 1
//!      1      1  algorithm, 1: HKDF-SHA-256 and AES-256-GCM
//!      2     32  salt, random
//!     34     12  nonce, random
//!     46     48  the key and its tag, under HKDF(KEK, salt, "wrap" ‖ kek_id)
//! ```
//!
//! Each wrap has a key of its own, so GCM's bound of 2³² random nonces under one key (NIST SP 800-38D, §8.3) does not
//! limit how many keys a KEK wraps. `aad` builds the data that the wrap is bound to.

use agentrouter_model::Rng;

use crate::error::CryptoError;
use crate::hazmat::{self, KEY_LEN, Key, NONCE_LEN, Prk, Refused, TAG_LEN};
use crate::kek::Kek;

/// The only format.
pub(crate) const FORMAT: u8 = 1;
/// The only algorithm of format 1.
pub(crate) const ALGORITHM: u8 = 1;
/// Format and algorithm.
pub(crate) const HEADER_LEN: usize = 2;
/// Bytes of a salt: HKDF's hash length, as RFC 5869, §3.1 advises.
pub(crate) const SALT_LEN: usize = 32;
/// Bytes of a wrapped key.
pub(crate) const WRAPPED_LEN: usize = HEADER_LEN + SALT_LEN + NONCE_LEN + KEY_LEN + TAG_LEN;

impl From<Refused> for CryptoError {
    fn from(Refused: Refused) -> Self {
        Self::Library
    }
}

pub(crate) fn wrap(
    rng: &dyn Rng,
    kek: &Kek,
    key: &[u8; KEY_LEN],
    aad: &[u8],
) -> Result<Box<[u8]>, CryptoError> {
    let (mut salt, mut nonce) = ([0; SALT_LEN], [0; NONCE_LEN]);
    rng.fill(&mut salt)?;
    rng.fill(&mut nonce)?;

    let mut wrapped = Vec::with_capacity(WRAPPED_LEN);
    wrapped.extend_from_slice(&[FORMAT, ALGORITHM]);
    wrapped.extend_from_slice(&salt);
    wrapped.extend_from_slice(&nonce);
    let start = wrapped.len();
    wrapped.resize(WRAPPED_LEN, 0);
    hazmat::encrypt(&*wrap_key(kek, &salt)?, &nonce, aad, key, &mut wrapped[start..])?;
    Ok(wrapped.into_boxed_slice())
}

pub(crate) fn unwrap(kek: &Kek, wrapped: &[u8], aad: &[u8]) -> Result<Key, CryptoError> {
    let mut key = Key::default();
    unwrap_into(kek, wrapped, aad, &mut key)?;
    Ok(key)
}

/// As [`unwrap`], into memory of the caller.
pub(crate) fn unwrap_into(
    kek: &Kek,
    wrapped: &[u8],
    aad: &[u8],
    key: &mut [u8; KEY_LEN],
) -> Result<(), CryptoError> {
    let rest = after_header(wrapped)?;
    let (salt, rest) = rest.split_first_chunk::<SALT_LEN>().ok_or(CryptoError::Corrupt)?;
    let (nonce, ciphertext) = rest.split_first_chunk::<NONCE_LEN>().ok_or(CryptoError::Corrupt)?;
    hazmat::decrypt(&*wrap_key(kek, salt)?, nonce, aad, ciphertext, key)
        .map_err(|Refused| CryptoError::Corrupt)
}

/// The bytes after format and algorithm, if both are known. An unknown one is an error, and no other is tried.
pub(crate) fn after_header(bytes: &[u8]) -> Result<&[u8], CryptoError> {
    match bytes {
        [FORMAT, ALGORITHM, rest @ ..] => Ok(rest),
        [] | [FORMAT] => Err(CryptoError::Corrupt),
        _ => Err(CryptoError::UnknownFormat),
    }
}

fn wrap_key(kek: &Kek, salt: &[u8; SALT_LEN]) -> Result<Key, CryptoError> {
    Ok(Prk::extract(salt, kek.expose())?.expand(&[b"wrap", kek.id().as_str().as_bytes()])?)
}
