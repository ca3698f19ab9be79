//! Keys and sealed values: format v1.
//!
//! ```text
//! KEK (32 B, named by its kek_id)            held by `keyring`; wraps, never touches a value
//!  └─ wrap key = HKDF(KEK, salt, "wrap" ‖ kek_id)          a fresh salt, so a fresh key, per wrap
//!      └─ wrapped DEK = AES-256-GCM(wrap key, nonce, DEK, AAD of the slot and the kek_id)
//! DEK (32 B, random, one per version, seals once)
//!  ├─ sealing key = HKDF(DEK, salt, "seal")
//!  ├─ commitment  = HKDF(DEK, salt, "commit")              compared before anything is opened
//!  └─ sealed value = AES-256-GCM(sealing key, nonce, value, AAD of the slot)
//! ```
//!
//! Keys are *wrapped* and *unwrapped*, values are *sealed* and *opened*. Two laws hold throughout:
//!
//! 1. What is sealed opens in its own place only. Owner, realm, name, id and version are authenticated with it
//!    ([`Slot`](agentrouter_model::Slot)), and so is every byte of the format.
//! 2. One name selects one key and one format. There is no trial: an unknown format, algorithm or `kek_id` is an error.
//!
//! Its place: `service` seals and opens, `keyring` makes and keeps KEKs, `audit` takes its chain key from here. All
//! chance comes in as a [`Rng`](agentrouter_model::Rng); [`SystemRng`] is the real one. The byte layouts are written
//! down in [`open`] and [`InternalKey::wrap`], and `vectors/` holds samples that must open for ever.
//!
//! Deliberately absent: I/O, async, caches (an [`Unwrapped`] is its holder's to keep or not), a way to choose a nonce, and a
//! way to seal twice under one DEK. Not protected: the length of a value (sealed = value + 94 bytes), and anything from someone
//! who holds the KEK file and the store.

mod aad;
mod envelope;
mod error;
mod hash;
mod hazmat;
mod internal_key;
mod kek;
mod rng;
mod token;
mod wrap;

#[cfg(test)]
mod tests;

pub use envelope::{Unwrapped, open, rewrap, seal};
pub use error::CryptoError;
pub use hash::Sha256;
pub use internal_key::InternalKey;
pub use kek::Kek;
pub use rng::SystemRng;
pub use token::{ApiToken, TokenError, digests_equal};
