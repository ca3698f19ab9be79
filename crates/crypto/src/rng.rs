//! The real source of chance.

use agentrouter_model::{Rng, RngError};

/// The operating system's generator; safe across fork and for any thread.
///
/// Nothing that a caller sends and no setting reaches it. The library's own costs a seal as much, and 20 ms of a start, in
/// which it times the processor to seed itself.
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
        // A run of 16 zeros would mean a part left unfilled: chance makes one in 2^116 times.
        assert!(!a.windows(16).any(|run| run == [0; 16]));
    }
}
