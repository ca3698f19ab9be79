//! How many permits a limiter has: the number of requests in service at once.
//!
//! The number follows Little's law: the rate at which requests complete, times the time that one may take. That time is
//! what a request takes when it is alone, plus [`Bounds::wait`] for others. With more permits, requests would wait
//! for each other out of sight (case `rest.list.200.postgres` of `bench overload`: p99 of 955 ms instead of 27). The time
//! alone counts, or else a database that is far away would have fewer and fewer permits, each time with a lower rate.
//! The number only changes while it limits: without waiters the rate is that of the callers.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// How long completions are counted before the number of permits follows.
const WINDOW: Duration = Duration::from_millis(50);
/// How long a number is kept that is not reached: the requests that come next may take longer.
const KEPT: Duration = Duration::from_secs(1);

/// The limits of the number of permits.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The fewest permits, however slow requests complete.
    pub least: usize,
    /// The number of permits as long as no rate was measured.
    pub initial: usize,
    /// The most permits, however fast requests complete.
    pub most: usize,
    /// How long a request may wait for others in service.
    pub wait: Duration,
}

/// A counting semaphore whose size follows the rate. See the module.
pub(crate) struct Capacity {
    bounds: Bounds,
    taken: AtomicUsize,
    permits: AtomicUsize,
    /// The origin of the nanoseconds below.
    start: Instant,
    /// When the window started.
    window: AtomicU64,
    /// Requests completed in the window.
    completed: AtomicUsize,
    /// A request found no permit in the window.
    exhausted: AtomicBool,
    /// When a window with such a request last ended.
    last_exhausted: AtomicU64,
    /// Permits taken so far.
    takes: AtomicU64,
    /// The time of a request alone, in nanoseconds: a moving mean. 0 if none was measured.
    alone: AtomicU64,
}

/// A permit that was taken while all others were free: its number, and when.
pub(crate) type Alone = Option<(u64, Instant)>;

impl Capacity {
    pub(crate) fn new(bounds: Bounds, start: Instant) -> Self {
        Self {
            bounds,
            taken: AtomicUsize::new(0),
            permits: AtomicUsize::new(bounds.initial),
            start,
            window: AtomicU64::new(0),
            completed: AtomicUsize::new(0),
            exhausted: AtomicBool::new(false),
            last_exhausted: AtomicU64::new(0),
            takes: AtomicU64::new(0),
            alone: AtomicU64::new(0),
        }
    }

    /// Takes a permit if one is free.
    pub(crate) fn take(&self) -> Option<Alone> {
        let taken = self.take_below(self.permits.load(Ordering::Relaxed));
        if taken.is_none() {
            self.exhausted.store(true, Ordering::Relaxed);
        }
        taken
    }

    /// Takes a permit unless [`Bounds::most`] are taken.
    pub(crate) fn take_above(&self) -> Option<Alone> {
        self.take_below(self.bounds.most)
    }

    fn take_below(&self, limit: usize) -> Option<Alone> {
        // Sequentially consistent: see `Limiter`.
        let more = |taken| (taken < limit).then_some(taken + 1);
        let others = self.taken.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).ok()?;
        let number = self.takes.fetch_add(1, Ordering::Relaxed) + 1;
        Some((others == 0).then(|| (number, Instant::now())))
    }

    /// Counts a completed request, before its permit is released.
    pub(crate) fn complete(&self, alone: Alone) {
        let now = Instant::now();
        if let Some((number, since)) = alone
            && self.takes.load(Ordering::Relaxed) == number
        {
            self.took_alone(now.duration_since(since));
        }
        self.complete_at(now);
    }

    /// Returns a permit.
    pub(crate) fn release(&self) {
        self.taken.fetch_sub(1, Ordering::SeqCst);
    }

    fn took_alone(&self, time: Duration) {
        let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let mean = self.alone.load(Ordering::Relaxed);
        let mean = if mean == 0 { time } else { mean - mean / 8 + time / 8 };
        self.alone.store(mean, Ordering::Relaxed);
    }

    /// Counts a completed request. At the end of a window, sets the number of permits.
    fn complete_at(&self, now: Instant) {
        let completed = self.completed.fetch_add(1, Ordering::Relaxed) + 1;
        let nanos = u64::try_from(now.saturating_duration_since(self.start).as_nanos()).unwrap_or(u64::MAX);
        let window = self.window.load(Ordering::Relaxed);
        let length = Duration::from_nanos(nanos.saturating_sub(window));
        if length < WINDOW
            || self.window.compare_exchange(window, nanos, Ordering::Relaxed, Ordering::Relaxed).is_err()
        {
            return;
        }
        self.completed.store(0, Ordering::Relaxed);
        if let Some(permits) = self.permits_after(completed, length, nanos) {
            self.permits.store(permits, Ordering::Relaxed);
        }
    }

    fn permits_after(&self, completed: usize, length: Duration, nanos: u64) -> Option<usize> {
        let Bounds { least, initial, most, wait } = self.bounds;
        // A window in which next to nothing happened does not show how much could have.
        if length > 4 * WINDOW {
            return Some(initial);
        }
        if !self.exhausted.swap(false, Ordering::Relaxed) {
            let since =
                Duration::from_nanos(nanos.saturating_sub(self.last_exhausted.load(Ordering::Relaxed)));
            return (since > KEPT).then_some(initial);
        }
        self.last_exhausted.store(nanos, Ordering::Relaxed);
        let time = wait + Duration::from_nanos(self.alone.load(Ordering::Relaxed));
        let permits = completed as u128 * time.as_nanos() / length.as_nanos();
        Some(usize::try_from(permits).unwrap_or(most).clamp(least, most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_millis(10);

    fn capacity(start: Instant) -> Capacity {
        Capacity::new(Bounds { least: 20, initial: 50, most: 200, wait: WAIT }, start)
    }

    /// Completes so many requests in one window, and returns the number of permits after it.
    fn after(capacity: &Capacity, window_start: Instant, completed: u32) -> usize {
        (1..=completed).for_each(|number| capacity.complete_at(window_start + WINDOW * number / completed));
        capacity.permits.load(Ordering::Relaxed)
    }

    #[test]
    fn there_are_as_many_permits_as_requests_complete_in_the_time_given() {
        let start = Instant::now();
        let capacity = capacity(start);
        let mut window_start = start;
        // A window is five times the time that a request may take.
        for (completed, permits) in [(500, 100), (5_000, 200), (400, 80), (10, 20)] {
            capacity.exhausted.store(true, Ordering::Relaxed);
            assert_eq!(after(&capacity, window_start, completed), permits, "{completed} completed");
            window_start += WINDOW;
        }
    }

    #[test]
    fn a_rate_that_no_permit_limited_changes_nothing() {
        let start = Instant::now();
        let capacity = capacity(start);
        assert_eq!(after(&capacity, start, 1_000), 50);
        // The last request of a window that started long ago found no permit.
        capacity.exhausted.store(true, Ordering::Relaxed);
        assert_eq!(after(&capacity, start + WINDOW * 100, 1), 50);
    }

    #[test]
    fn a_number_that_is_not_reached_is_dropped_after_a_second() {
        let start = Instant::now();
        let capacity = capacity(start);
        capacity.exhausted.store(true, Ordering::Relaxed);
        assert_eq!(after(&capacity, start, 1_000), 200);
        let mut window_start = start + WINDOW;
        while window_start < start + KEPT {
            assert_eq!(after(&capacity, window_start, 1_000), 200);
            window_start += WINDOW;
        }
        assert_eq!(after(&capacity, window_start, 1_000), 200);
        assert_eq!(after(&capacity, window_start + WINDOW, 1_000), 50);
    }

    #[test]
    fn the_time_that_a_request_takes_alone_is_no_wait_for_others() {
        let start = Instant::now();
        let capacity = capacity(start);
        capacity.took_alone(WAIT * 3);
        capacity.exhausted.store(true, Ordering::Relaxed);
        // Fifty at once, each of which takes 30 ms: fewer permits would complete fewer.
        assert_eq!(after(&capacity, start, 50 * 50 / 30), 66);
        (0..100).for_each(|_| capacity.took_alone(WAIT));
        capacity.exhausted.store(true, Ordering::Relaxed);
        assert_eq!(after(&capacity, start + WINDOW, 400), 160, "the mean follows the last requests");
    }

    #[test]
    fn only_a_request_without_another_beside_it_was_alone() {
        let capacity = capacity(Instant::now());
        let alone = || capacity.alone.load(Ordering::Relaxed);
        let (first, second) = (capacity.take().expect("free"), capacity.take().expect("free"));
        for request in [first, second] {
            capacity.complete(request);
            capacity.release();
        }
        assert_eq!(alone(), 0, "each had the other beside it");
        capacity.complete(capacity.take().expect("free"));
        assert!(alone() > 0);
    }
}
