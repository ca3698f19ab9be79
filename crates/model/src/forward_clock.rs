//! A wall clock that never goes back, so that nothing that has expired works again when the machine's clock is set back.
//!
//! It returns the wall clock's time while that is not behind the latest time that it returned. While the wall clock is
//! behind, the time continues from the latest one at the pace of a clock that cannot be set. So a grace period that is in
//! progress still ends. [`ForwardClock::raise`] sets the latest time that an earlier process has seen.
//!
//! Exact to a millisecond: the latest time is stored once in a millisecond, so that the threads that read the clock do not
//! all write to one cache line.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use crate::{Clock, SystemClock, Timestamp};

/// The latest time is stored again when this has passed, in microseconds.
const STORE_EVERY: i64 = 1000;

/// The time since some instant, by a clock that cannot be set.
type Steady = Box<dyn Fn() -> Duration + Send + Sync>;

/// A clock that never goes back by more than a millisecond.
pub struct ForwardClock<W = SystemClock> {
    wall: W,
    steady: Steady,
    /// The latest time that was returned, in microseconds since the epoch.
    latest: AtomicI64,
    /// What to add to the steady clock while the wall clock is behind.
    offset: AtomicI64,
}

impl<W> std::fmt::Debug for ForwardClock<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ForwardClock").field("latest", &self.latest).finish_non_exhaustive()
    }
}

impl Default for ForwardClock {
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the clock that cannot be set")]
    fn default() -> Self {
        let start = std::time::Instant::now();
        Self::of(SystemClock, Box::new(move || start.elapsed()))
    }
}

impl<W: Clock> ForwardClock<W> {
    fn of(wall: W, steady: Steady) -> Self {
        Self { wall, steady, latest: AtomicI64::new(i64::MIN), offset: AtomicI64::new(i64::MIN) }
    }

    /// Returns no time before `seen` from now on.
    pub fn raise(&self, seen: Timestamp) {
        self.latest.fetch_max(seen.as_micros(), Ordering::Relaxed);
    }

    /// The time while the wall clock is behind `latest`.
    fn run_on(&self, latest: i64) -> i64 {
        let steady = i64::try_from((self.steady)().as_micros()).unwrap_or(i64::MAX);
        let now = steady.saturating_add(self.offset.load(Ordering::Relaxed)).max(latest);
        self.offset.fetch_max(now.saturating_sub(steady), Ordering::Relaxed);
        self.latest.fetch_max(now, Ordering::Relaxed);
        now
    }
}

impl<W: Clock> Clock for ForwardClock<W> {
    fn now(&self) -> Timestamp {
        let wall = self.wall.now();
        let (now, latest) = (wall.as_micros(), self.latest.load(Ordering::Relaxed));
        if now < latest {
            return Timestamp::from_micros(self.run_on(latest));
        }
        if now.saturating_sub(latest) >= STORE_EVERY {
            self.latest.fetch_max(now, Ordering::Relaxed);
        }
        wall
    }

    fn behind(&self) -> Duration {
        let now = self.now();
        now.saturating_since(self.wall.now())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const NOON: i64 = 1_790_000_000_000_000;
    const HOUR: i64 = 3_600_000_000;

    /// The wall clock, and the clock that cannot be set, in microseconds.
    #[derive(Clone, Default)]
    struct Machine(Arc<[AtomicI64; 2]>);

    impl Machine {
        fn pass(&self, micros: i64) {
            for clock in &*self.0 {
                clock.fetch_add(micros, Ordering::SeqCst);
            }
        }

        fn set(&self, micros: i64) {
            self.0[0].store(micros, Ordering::SeqCst);
        }

        fn clock(&self) -> ForwardClock<Self> {
            let steady = Arc::clone(&self.0);
            ForwardClock::of(
                self.clone(),
                Box::new(move || Duration::from_micros(steady[1].load(Ordering::SeqCst).unsigned_abs())),
            )
        }
    }

    impl Clock for Machine {
        fn now(&self) -> Timestamp {
            Timestamp::from_micros(self.0[0].load(Ordering::SeqCst))
        }
    }

    fn machine() -> Machine {
        let machine = Machine::default();
        machine.set(NOON);
        machine
    }

    #[test]
    fn it_is_the_wall_clock_while_that_is_not_set_back() {
        let machine = machine();
        let clock = machine.clock();
        for step in [0, 1, 999, 1000, HOUR] {
            machine.pass(step);
            assert_eq!(clock.now(), machine.now());
            assert_eq!(clock.behind(), Duration::ZERO);
        }
        machine.set(NOON + 10 * HOUR);
        assert_eq!(clock.now(), machine.now(), "set forward");
    }

    #[test]
    fn time_continues_while_the_wall_clock_is_behind() {
        let machine = machine();
        let clock = machine.clock();
        clock.now();
        machine.set(NOON - HOUR);
        assert_eq!(clock.now().as_micros(), NOON);
        machine.pass(HOUR / 2);
        assert_eq!(clock.now().as_micros(), NOON + HOUR / 2, "by the clock that cannot be set");
        assert_eq!(clock.behind(), Duration::from_secs(3600));
        // Set back again, and then right.
        machine.set(NOON - 5 * HOUR);
        assert_eq!(clock.now().as_micros(), NOON + HOUR / 2);
        machine.pass(HOUR);
        assert_eq!(clock.now().as_micros(), NOON + HOUR + HOUR / 2);
        machine.set(NOON + 2 * HOUR);
        assert_eq!(clock.now(), machine.now());
        assert_eq!(clock.behind(), Duration::ZERO);
    }

    #[test]
    fn it_starts_at_the_time_that_was_seen_before() {
        let machine = machine();
        let clock = machine.clock();
        clock.raise(Timestamp::from_micros(NOON - HOUR));
        assert_eq!(clock.now().as_micros(), NOON);
        clock.raise(Timestamp::from_micros(NOON + HOUR));
        machine.pass(7);
        assert_eq!(clock.now().as_micros(), NOON + HOUR);
        machine.pass(7);
        assert_eq!(clock.now().as_micros(), NOON + HOUR + 7);
        machine.pass(2 * HOUR);
        machine.set(NOON + 4 * HOUR);
        assert_eq!(clock.now(), machine.now());
    }

    #[test]
    fn it_never_goes_back_by_more_than_a_millisecond() {
        let machine = machine();
        let clock = machine.clock();
        let mut latest = clock.now();
        for step in 0..10_000_i64 {
            machine.pass(step * 7919 % 1500);
            if step % 7 == 0 {
                machine.set(NOON + step * 104_729 % 9_000_000);
            }
            let now = clock.now();
            assert!(now.as_micros() > latest.as_micros() - STORE_EVERY, "{now} after {latest}");
            latest = latest.max(now);
        }
    }
}
