//! What is stored of a value.

use crate::KekId;

/// One version as it lies in the store: sealed under its DEK, the DEK wrapped under a KEK. Opaque bytes to everyone
/// but `crypto`, which defines their format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The one KEK that unwraps the DEK.
    pub kek_id: KekId,
    /// The DEK, wrapped.
    pub wrapped_dek: Box<[u8]>,
    /// The value, sealed.
    pub sealed: Box<[u8]>,
}
