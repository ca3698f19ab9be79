//! Token bucket for rejections.
//!
//! A client that is rejected usually sends its request again. To receive and reject it takes time from the requests that
//! are served, so a process rejects one waiter each 100 µs at most: a fifth to a quarter of one processor. The other
//! waiters stay in their queue. All limiters of a process share one bucket.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The time between two rejections.
const INTERVAL: Duration = Duration::from_micros(100);
/// The most rejections at once: the dispatcher's timer has a resolution of a millisecond.
const BURST: u32 = 32;

/// The bucket that the limiters of a process share.
#[derive(Debug, Default)]
pub struct ShedRate(Mutex<Option<Instant>>);

impl ShedRate {
    /// Takes a token.
    ///
    /// # Errors
    /// When the next token is due.
    pub(crate) fn take(&self, now: Instant) -> Result<(), Instant> {
        let mut next = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = now.checked_sub(INTERVAL * BURST).unwrap_or(now);
        let due = next.map_or(earliest, |next| next.max(earliest));
        if due > now {
            return Err(due);
        }
        *next = Some(due + INTERVAL);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_followed_by_one_rejection_per_interval() {
        let (rate, start) = (ShedRate::default(), Instant::now() + INTERVAL * BURST);
        let burst = (0..1_000).take_while(|_| rate.take(start).is_ok()).count();
        assert_eq!(burst, BURST as usize + 1);
        assert_eq!(rate.take(start), Err(start + INTERVAL));
        assert_eq!(rate.take(start + INTERVAL), Ok(()));
        assert_eq!(rate.take(start + INTERVAL), Err(start + INTERVAL * 2));
    }
}
