//! The operating system's random generator as a [`Rng`].

use agentrouter_model::{Rng, RngError};

/// The operating system's generator. Safe across fork and on any thread.
///
/// No request and no setting influences it. The generator of `aws-lc-rs` is not used: it is not faster per seal, and it
/// delays the start while it seeds itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemRng;

impl Rng for SystemRng {
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the real generator")]
    fn fill(&self, bytes: &mut [u8]) -> Result<(), RngError> {
        getrandom::fill(bytes).map_err(|_| RngError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_fills_the_whole_buffer_with_something_new_each_time() {
        let (mut a, mut b) = ([0; 4096], [0; 4096]);
        SystemRng.fill(&mut a).expect("random");
        SystemRng.fill(&mut b).expect("random");
        assert_ne!(a, b);
        // A run of 16 zeros means that a part was not filled: a random one has a probability of 2^-116.
        assert!(!a.windows(16).any(|run| run == [0; 16]));
    }
}
