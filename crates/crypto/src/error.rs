//! The errors of this crate.

use agentrouter_model::RngError;

/// Why something was not sealed, opened, wrapped or unwrapped.
///
/// The variants do not tell which check rejected a ciphertext, only whether the key or the bytes are at fault: that is all
/// an operator needs. No variant carries data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CryptoError {
    /// The random source failed. Nothing was sealed, so a retry is safe.
    #[error("the random source failed")]
    Random(#[from] RngError),
    /// The bytes are damaged, truncated, or moved from another place.
    #[error("the stored bytes are damaged or belong elsewhere")]
    Corrupt,
    /// The envelope names a KEK other than the given one.
    #[error("the envelope is wrapped under another KEK")]
    WrongKek,
    /// The bytes have a format or an algorithm that this version does not know.
    #[error("the stored bytes have a format that this version does not know")]
    UnknownFormat,
    /// The cryptographic library failed on valid input: out of memory, or a failed self-test.
    #[error("the cryptographic library failed")]
    Library,
}
