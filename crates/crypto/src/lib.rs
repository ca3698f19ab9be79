//! Cryptography of keys and sealed values: format v1.
//!
//! ```text
//! root key                                   of a KMS, or of a passphrase: Argon2id(passphrase, salt)
//!  └─ wrapped KEK                            only if the KEK file has its KEKs wrapped
//! KEK (32 B, named by its kek_id)            held by `keyring`; wraps, never touches a value
//!  └─ wrap key = HKDF(KEK, salt, "wrap" ‖ kek_id)          a fresh salt, so a fresh key, per wrap
//!      └─ wrapped DEK = AES-256-GCM(wrap key, nonce, DEK, AAD of the slot and the kek_id)
//! DEK (32 B, random, one per version, seals once)
//!  ├─ sealing key = HKDF(DEK, salt, "seal")
//!  ├─ commitment  = HKDF(DEK, salt, "commit")              compared before anything is opened
//!  └─ sealed value = AES-256-GCM(sealing key, nonce, value, AAD of the slot)
//! audit key (32 B, random, wrapped like a DEK)
//!  └─ row key = HKDF(audit key, "agentrouter.secret/rows")
//!      └─ tag of a row = AES-256-CMAC(row key, its fields)
//! ```
//!
//! Keys are *wrapped* and *unwrapped*, values are *sealed* and *opened*. Two invariants:
//!
//! 1. A sealed value opens in its own place only. Owner, realm, name, id and version
//!    ([`Slot`](agentrouter_model::Slot)) are authenticated with it, and so is every byte of the format.
//! 2. One id selects one key and one format, without trial: an unknown format, algorithm or `kek_id` is an error.
//!
//! `service` seals and opens, `keyring` generates and holds KEKs, and `audit` gets its chain key from here. Randomness is a
//! parameter ([`Rng`](agentrouter_model::Rng)); [`SystemRng`] is the production source. [`open`] and [`InternalKey::wrap`]
//! document the byte layouts. `vectors/` holds samples that every later version must open.
//!
//! Deliberately absent: I/O, async, caches (the holder of an [`Unwrapped`] decides how long to keep it), a way to choose a
//! nonce, and a way to seal twice under one DEK. Not protected: the length of a value (sealed = value + 94 bytes), and
//! values against a holder of both the KEK file and the store.

mod aad;
mod envelope;
mod error;
#[cfg(fuzzing)]
pub mod fuzzing;
mod hash;
mod hazmat;
mod internal_key;
mod kek;
mod locked;
mod rng;
mod row_key;
mod signing;
mod token;
mod token_digest;
mod wrap;

#[cfg(test)]
mod tests;

pub use envelope::{Unwrapped, open, rewrap, seal};
pub use error::CryptoError;
pub use hash::Sha256;
pub use hazmat::Argon2Cost;
pub use internal_key::InternalKey;
pub use kek::Kek;
pub use locked::{KeyMemory, key_memory};
pub use rng::SystemRng;
pub use row_key::{RowKey, Tag};
pub use signing::SigningKey;
pub use token::{ApiToken, TokenError, digests_equal};
pub use token_digest::{TokenDigest, TokenDigests};
