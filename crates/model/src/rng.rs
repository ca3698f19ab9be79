//! Chance as a parameter.

/// A cryptographically secure source of random bytes.
///
/// In production this is the operating system's generator, by way of `crypto::SystemRng`; nothing that a caller sends
/// and no setting reaches it. A test may pass a seeded one to make ids repeatable.
pub trait Rng: Send + Sync + 'static {
    /// Fills `bytes` whole.
    ///
    /// # Errors
    /// When the source fails. The request at hand then fails too: there is no second source.
    fn fill(&self, bytes: &mut [u8]) -> Result<(), RngError>;
}

/// The random source gave nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the operating system's random generator failed")]
pub struct RngError;
