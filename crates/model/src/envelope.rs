//! The stored form of a value.

use crate::KekId;

/// One version as stored: the value sealed under its DEK, and the DEK wrapped under a KEK. `crypto` defines the format of
/// the bytes. They are opaque to the other crates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The KEK that unwraps the DEK.
    pub kek_id: KekId,
    /// The DEK, wrapped.
    pub wrapped_dek: Box<[u8]>,
    /// The value, sealed.
    pub sealed: Box<[u8]>,
}
