//! Randomness as a parameter.

/// A cryptographically secure source of random bytes.
///
/// In production it is `crypto::SystemRng`, the operating system's generator. No request and no setting influences it. A
/// test may pass a seeded one to make ids repeatable.
pub trait Rng: Send + Sync + 'static {
    /// Fills all of `bytes`.
    ///
    /// # Errors
    /// When the source fails. The request fails then too, because there is no second source.
    fn fill(&self, bytes: &mut [u8]) -> Result<(), RngError>;
}

/// The random source failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the operating system's random generator failed")]
pub struct RngError;
