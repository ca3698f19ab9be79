//! The clock that leases are counted by.

use std::fmt::Debug;
use std::time::Duration;

/// An instant by `CLOCK_BOOTTIME`, which is never set and also counts while the machine or the process sleeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Boottime(u64);

impl Boottime {
    /// The instant that many nanoseconds after the machine's start.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the machine's start.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The instant `duration` later.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// The time from `earlier` until this instant; none if that is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// A source of [`Boottime`]. A replica reads one clock for everything: its [`crate::Gate`] has it.
pub trait LeaseClock: Debug + Send + Sync {
    /// The present.
    fn now(&self) -> Boottime;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug)]
pub struct SystemLeaseClock;

impl LeaseClock for SystemLeaseClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads this clock")]
    fn now(&self) -> Boottime {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        // Neither is negative: the clock counts from the machine's start.
        Boottime::from_nanos(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64)
    }
}

/// The clock of a gate whose tests pass the instants.
#[cfg(test)]
#[derive(Debug)]
pub(crate) struct Unread;

#[cfg(test)]
impl LeaseClock for Unread {
    fn now(&self) -> Boottime {
        unreachable!("the instant is passed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_counts() {
        let first = SystemLeaseClock.now();
        let second = SystemLeaseClock.now();
        assert!(first.as_nanos() > 0 && second >= first);
        assert_eq!(first.after(Duration::from_secs(1)).since(first).as_secs(), 1);
    }
}
