//! Envelope encryption: a value sealed under its DEK, the DEK wrapped under a KEK.
//!
//! `service` seals, opens and rewraps. Invariant: a DEK seals one value, once.

#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;

use std::{fmt, mem};

use agentrouter_model::{Envelope, Rng, SecretValue, Slot};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use crate::aad::Aad;
use crate::error::CryptoError;
use crate::hazmat::{self, KEY_LEN, Key, NONCE_LEN, Prk, Refused, TAG_LEN};
use crate::kek::Kek;
use crate::wrap::{self, ALGORITHM, FORMAT, HEADER_LEN, SALT_LEN};

/// Bytes of a commitment.
const COMMITMENT_LEN: usize = KEY_LEN;
/// Bytes of a sealed value before its ciphertext.
const SEALED_HEAD_LEN: usize = HEADER_LEN + SALT_LEN + COMMITMENT_LEN + NONCE_LEN;

/// Seals `value` under a new DEK for `slot` and wraps the DEK under `kek`.
///
/// Two calls with the same arguments return different envelopes. For the layout see [`open`].
///
/// # Errors
/// [`CryptoError::Random`] or [`CryptoError::Library`]. Nothing was sealed then.
pub fn seal(rng: &dyn Rng, kek: &Kek, slot: Slot<'_>, value: &SecretValue) -> Result<Envelope, CryptoError> {
    let mut aad = Aad::default();
    let dek = Dek::generate(rng)?;
    let wrapped_dek = wrap::wrap(rng, kek, &dek.0, aad.wrap(slot, kek.id()))?;
    let sealed = dek.seal(rng, value.expose().as_bytes(), aad.data(slot))?;
    Ok(Envelope { kek_id: kek.id().clone(), wrapped_dek, sealed })
}

/// Opens a value that [`seal`] sealed for the same `slot`.
///
/// ```text
/// wrapped_dek, 94 bytes                              sealed, value + 94 bytes
/// offset  bytes  field                               offset  bytes  field
///      0      1  format, 1                                0      1  format, 1
///      1      1  algorithm, 1                             1      1  algorithm, 1
///      2     32  salt, random                             2     32  salt, random
///     34     12  nonce, random                           34     32  commitment = HKDF(DEK, salt, "commit")
///     46     48  DEK and tag, AES-256-GCM under          66     12  nonce, random
///                HKDF(KEK, salt, "wrap" ‖ kek_id)        78   n+16  value and tag, AES-256-GCM under
///                                                                   HKDF(DEK, salt, "seal")
/// ```
///
/// Algorithm 1 is HKDF-SHA-256 (RFC 5869) with AES-256-GCM (NIST SP 800-38D, 96-bit nonce, 128-bit tag). GCM alone is not
/// key-committing: one ciphertext can open under two keys. The commitment, which is compared first and in constant time,
/// prevents that.
///
/// # Errors
/// [`CryptoError::WrongKek`] when the envelope names a KEK other than `kek`. [`CryptoError::UnknownFormat`] when either
/// part has a format or an algorithm other than 1. Otherwise [`CryptoError::Corrupt`]: a flipped bit, a truncated part, or
/// another slot.
pub fn open(kek: &Kek, slot: Slot<'_>, envelope: &Envelope) -> Result<SecretValue, CryptoError> {
    let mut aad = Aad::default();
    Dek::of(kek, slot, envelope, &mut aad)?.open(&envelope.sealed, aad.data(slot))
}

/// A sealed value with its sealing key, for repeated reads: the key is unwrapped, derived and checked against the commitment
/// once. Key, nonce, ciphertext and tag are in one allocation.
///
/// It is wiped when dropped and redacted in `Debug`. The process that holds it also holds the KEK, so it exposes nothing more
/// to an attacker who reads the memory.
pub struct Unwrapped(Zeroizing<Box<[u8]>>);

impl Unwrapped {
    /// Unwraps the DEK of an envelope that was sealed for `slot`.
    ///
    /// # Errors
    /// As [`open`], except for damage to nonce, ciphertext and tag, which [`Unwrapped::open`] finds.
    pub fn new(kek: &Kek, slot: Slot<'_>, envelope: &Envelope) -> Result<Self, CryptoError> {
        let sealed = Sealed::parse(&envelope.sealed)?;
        let key = Dek::of(kek, slot, envelope, &mut Aad::default())?.sealing_key(&sealed)?;
        // Allocated in its final size, so that no reallocation leaves a copy of the key.
        let mut parts = Vec::with_capacity(KEY_LEN + NONCE_LEN + sealed.ciphertext.len());
        parts.extend_from_slice(&*key);
        parts.extend_from_slice(sealed.nonce);
        parts.extend_from_slice(sealed.ciphertext);
        Ok(Self(Zeroizing::new(parts.into_boxed_slice())))
    }

    /// Opens the value.
    ///
    /// # Errors
    /// [`CryptoError::Corrupt`], as [`open`].
    pub fn open(&self, slot: Slot<'_>) -> Result<SecretValue, CryptoError> {
        let (key, rest) = self.0.split_first_chunk().ok_or(CryptoError::Corrupt)?;
        let (nonce, ciphertext) = rest.split_first_chunk().ok_or(CryptoError::Corrupt)?;
        open_value(key, nonce, ciphertext, Aad::default().data(slot))
    }

    /// The bytes of its allocation.
    pub fn size(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Debug for Unwrapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Unwrapped(redacted)")
    }
}

/// Rewraps the DEK in `wrapped_dek` from `from` to `to`. The sealed value does not change.
///
/// The caller stores the result together with `to`'s id.
///
/// # Errors
/// [`CryptoError::Corrupt`] when `wrapped_dek` does not unwrap under `from` in this `slot`,
/// [`CryptoError::UnknownFormat`], [`CryptoError::Random`] or [`CryptoError::Library`].
pub fn rewrap(
    rng: &dyn Rng,
    from: &Kek,
    to: &Kek,
    slot: Slot<'_>,
    wrapped_dek: &[u8],
) -> Result<Box<[u8]>, CryptoError> {
    let mut aad = Aad::default();
    let dek = wrap::unwrap(from, wrapped_dek, aad.wrap(slot, from.id()))?;
    wrap::wrap(rng, to, &dek, aad.wrap(slot, to.id()))
}

/// The key of one value. Sealing and opening consume it, so that it seals at most once.
struct Dek(Key);

impl Dek {
    fn generate(rng: &dyn Rng) -> Result<Self, CryptoError> {
        let mut key = Key::default();
        rng.fill(&mut *key)?;
        Ok(Self(key))
    }

    fn seal(self, rng: &dyn Rng, value: &[u8], aad: &[u8]) -> Result<Box<[u8]>, CryptoError> {
        let (mut salt, mut nonce) = ([0; SALT_LEN], [0; NONCE_LEN]);
        rng.fill(&mut salt)?;
        rng.fill(&mut nonce)?;
        let prk = Prk::extract(&salt, &*self.0)?;

        let mut sealed = Vec::with_capacity(SEALED_HEAD_LEN + value.len() + TAG_LEN);
        sealed.extend_from_slice(&[FORMAT, ALGORITHM]);
        sealed.extend_from_slice(&salt);
        sealed.extend_from_slice(&*prk.expand(&[b"commit"])?);
        sealed.extend_from_slice(&nonce);
        sealed.resize(SEALED_HEAD_LEN + value.len() + TAG_LEN, 0);
        let ciphertext = &mut sealed[SEALED_HEAD_LEN..];
        hazmat::encrypt(&*prk.expand(&[b"seal"])?, &nonce, aad, value, ciphertext)?;
        Ok(sealed.into_boxed_slice())
    }

    /// Unwraps the DEK of an envelope.
    fn of(kek: &Kek, slot: Slot<'_>, envelope: &Envelope, aad: &mut Aad) -> Result<Self, CryptoError> {
        if envelope.kek_id != *kek.id() {
            return Err(CryptoError::WrongKek);
        }
        Ok(Self(wrap::unwrap(kek, &envelope.wrapped_dek, aad.wrap(slot, kek.id()))?))
    }

    fn open(self, sealed: &[u8], aad: &[u8]) -> Result<SecretValue, CryptoError> {
        let sealed = Sealed::parse(sealed)?;
        open_value(&*self.sealing_key(&sealed)?, sealed.nonce, sealed.ciphertext, aad)
    }

    /// The sealing key of a value that is committed to this DEK.
    fn sealing_key(self, sealed: &Sealed<'_>) -> Result<Key, CryptoError> {
        let prk = Prk::extract(sealed.salt, &*self.0)?;
        if !bool::from(prk.expand(&[b"commit"])?.ct_eq(sealed.commitment)) {
            return Err(CryptoError::Corrupt);
        }
        Ok(prk.expand(&[b"seal"])?)
    }
}

/// The parts of a sealed value.
struct Sealed<'a> {
    salt: &'a [u8; SALT_LEN],
    commitment: &'a [u8; COMMITMENT_LEN],
    nonce: &'a [u8; NONCE_LEN],
    ciphertext: &'a [u8],
}

impl<'a> Sealed<'a> {
    fn parse(sealed: &'a [u8]) -> Result<Self, CryptoError> {
        let rest = wrap::after_header(sealed)?;
        let (salt, rest) = rest.split_first_chunk().ok_or(CryptoError::Corrupt)?;
        let (commitment, rest) = rest.split_first_chunk().ok_or(CryptoError::Corrupt)?;
        let (nonce, ciphertext) = rest.split_first_chunk().ok_or(CryptoError::Corrupt)?;
        Ok(Self { salt, commitment, nonce, ciphertext })
    }
}

fn open_value(
    key: &[u8; KEY_LEN],
    nonce: &[u8; NONCE_LEN],
    ciphertext: &[u8],
    aad: &[u8],
) -> Result<SecretValue, CryptoError> {
    let len = ciphertext.len().checked_sub(TAG_LEN).ok_or(CryptoError::Corrupt)?;
    let mut value = Zeroizing::new(Vec::with_capacity(len));
    value.resize(len, 0);
    hazmat::decrypt(key, nonce, aad, ciphertext, &mut value).map_err(|Refused| CryptoError::Corrupt)?;
    into_value(mem::take(&mut *value))
}

/// The bytes as a value, without a copy. They are wiped if they are not a value.
fn into_value(bytes: Vec<u8>) -> Result<SecretValue, CryptoError> {
    match String::from_utf8(bytes) {
        Ok(text) => SecretValue::parse(text).map_err(|_| CryptoError::Corrupt),
        Err(error) => {
            error.into_bytes().zeroize();
            Err(CryptoError::Corrupt)
        }
    }
}
