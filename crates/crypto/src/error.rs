//! What can go wrong, coarsely.

use agentrouter_model::RngError;

/// Why something was not sealed, opened, wrapped or unwrapped.
///
/// Coarse on purpose: which check refused a ciphertext is nobody's business but the store's owner's, who needs only
/// to know whether the key or the bytes are at fault. No variant carries data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CryptoError {
    /// The random source failed. Nothing was sealed; trying again later is safe.
    #[error("the random source failed")]
    Random(#[from] RngError),
    /// The bytes are not what was sealed here: damaged, truncated, or moved from another place.
    #[error("the stored bytes are damaged or belong elsewhere")]
    Corrupt,
    /// The envelope names another KEK than the one given.
    #[error("the envelope is wrapped under another KEK")]
    WrongKek,
    /// The bytes say that they have a format or an algorithm that this version does not know.
    #[error("the stored bytes have a format that this version does not know")]
    UnknownFormat,
    /// The cryptographic library refused an operation whose inputs were right: out of memory, or a failed self-test.
    #[error("the cryptographic library failed")]
    Library,
}
