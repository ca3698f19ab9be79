//! A deterministic random generator.

use std::sync::atomic::{AtomicU64, Ordering};

use agentrouter_model::{Rng, RngError};
use aws_lc_rs::digest::{SHA256, digest};

/// Returns SHA-256 of a seed and a counter. For tests only.
#[derive(Debug)]
pub struct SeededRng {
    seed: u64,
    count: AtomicU64,
}

impl SeededRng {
    /// A generator. The same seed returns the same sequence of bytes.
    pub fn new(seed: u64) -> Self {
        Self { seed, count: AtomicU64::new(0) }
    }
}

impl Rng for SeededRng {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), RngError> {
        for chunk in bytes.chunks_mut(32) {
            let count = self.count.fetch_add(1, Ordering::SeqCst);
            let input = [self.seed.to_be_bytes(), count.to_be_bytes()].concat();
            chunk.copy_from_slice(&digest(&SHA256, &input).as_ref()[..chunk.len()]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_determines_the_bytes_and_no_block_repeats() {
        let (a, b) = (SeededRng::new(1), SeededRng::new(1));
        let (mut first, mut again, mut next) = ([0; 40], [0; 40], [0; 40]);
        a.fill(&mut first).expect("never fails");
        b.fill(&mut again).expect("never fails");
        a.fill(&mut next).expect("never fails");
        assert_eq!(first, again);
        assert_ne!(first, next);
    }
}
