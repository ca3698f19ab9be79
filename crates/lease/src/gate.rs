//! Gate: what a cache checks before it serves a row.
//!
//! Two numbers that the keeper of the lease writes and every read loads: until when the lease is valid, and under which
//! *generation* of it. A row remembers the generation that was current before its load began. A new generation begins
//! whenever the replica may have missed a fence, so that what was loaded before is not served after, even if it comes
//! late.
//!
//! Order: a reader calls [`Gate::admits`] *after* it has taken the row from the cache. That loads the end of the lease,
//! then the generation, then reads the clock. The keeper stores a new generation before it stores an end for it. So a
//! reader that sees the new end sees the new generation, and rejects a row of the old one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::{Boottime, LeaseClock, SystemLeaseClock};

/// The end of a lease that never ends.
const NEVER: u64 = u64::MAX;

/// Whether rows may be served from the cache.
#[derive(Debug)]
pub struct Gate {
    clock: Arc<dyn LeaseClock>,
    /// The end of the lease, in nanoseconds of `CLOCK_BOOTTIME`.
    until: AtomicU64,
    /// The current generation; 0 while nothing may be cached.
    generation: AtomicU64,
}

impl Gate {
    /// A gate that is always open, for a store that only one process writes.
    pub fn always() -> Self {
        // Never read.
        let clock = Arc::new(SystemLeaseClock);
        Self { clock, until: AtomicU64::new(NEVER), generation: AtomicU64::new(1) }
    }

    /// A gate that is closed until a lease opens it. The lease is counted by `clock`.
    pub fn shut(clock: Arc<dyn LeaseClock>) -> Self {
        Self { clock, until: AtomicU64::new(0), generation: AtomicU64::new(0) }
    }

    /// The present, by the clock that the lease is counted by.
    pub fn now(&self) -> Boottime {
        self.clock.now()
    }

    /// The generation to record with a row. Call it before the row's load begins. 0 if the row must not be cached.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Whether a row of `generation` that was just taken from the cache may be served.
    #[inline]
    pub fn admits(&self, generation: u64) -> bool {
        self.admits_at(generation, || self.now())
    }

    /// As [`Gate::admits`], by another clock. It is read last, and not at all for a lease that never ends.
    #[inline]
    pub(crate) fn admits_at(&self, generation: u64, now: impl FnOnce() -> Boottime) -> bool {
        let until = self.until.load(Ordering::Acquire);
        until == NEVER
            || (until > 0
                && self.generation.load(Ordering::Acquire) == generation
                && now().as_nanos() < until)
    }

    /// The remaining time of the lease, which is zero if there is none. `None` for a lease that never ends.
    pub fn remaining(&self) -> Option<Duration> {
        self.remaining_at(|| self.now())
    }

    pub(crate) fn remaining_at(&self, now: impl FnOnce() -> Boottime) -> Option<Duration> {
        let until = self.until.load(Ordering::Acquire);
        (until != NEVER).then(|| Boottime::from_nanos(until).since(now()))
    }

    /// Closes the gate: no row is admitted, and rows that are loaded from now on are not cached.
    pub(crate) fn close(&self) {
        self.until.store(0, Ordering::Release);
        self.generation.store(0, Ordering::Release);
    }

    /// Opens the gate: rows that are loaded from now on may be cached. They are admitted once there is a lease.
    pub(crate) fn open(&self, generation: u64) {
        self.generation.store(generation, Ordering::Release);
    }

    /// Extends the lease to `until`. A lease that is valid for longer stays as it is.
    pub(crate) fn extend(&self, until: Boottime) {
        self.until.fetch_max(until.as_nanos().min(NEVER - 1), Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Unread;

    const fn at(nanos: u64) -> Boottime {
        Boottime::from_nanos(nanos)
    }

    #[test]
    fn a_gate_without_a_lease_admits_nothing_and_one_that_needs_no_lease_everything() {
        let shut = Gate::shut(Arc::new(Unread));
        assert!(!shut.admits(0) && !shut.admits(1));
        let always = Gate::always();
        assert!(always.admits_at(always.generation(), || panic!("the clock is not needed")));
        assert_eq!(always.remaining_at(|| panic!("the clock is not needed")), None);
    }

    #[test]
    fn a_lease_admits_its_own_generation_until_its_end() {
        let gate = Gate::shut(Arc::new(Unread));
        gate.open(3);
        assert!(!gate.admits_at(3, || at(0)), "no lease yet");
        gate.extend(at(100));
        assert!(gate.admits_at(3, || at(99)));
        assert!(!gate.admits_at(3, || at(100)));
        assert!(!gate.admits_at(2, || at(50)) && !gate.admits_at(0, || at(50)));
        gate.extend(at(90));
        assert_eq!(gate.remaining_at(|| at(95)), Some(Duration::from_nanos(5)), "it does not shrink");
        gate.close();
        assert!(!gate.admits_at(3, || at(50)) && !gate.admits_at(0, || at(50)));
        gate.open(4);
        gate.extend(at(200));
        assert!(!gate.admits_at(3, || at(150)) && gate.admits_at(4, || at(150)));
    }
}
