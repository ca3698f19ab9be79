//! How many calls are worked on at once.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::Admission;

/// How long calls are counted before the number of places follows.
const WINDOW: Duration = Duration::from_millis(50);

/// Places of one kind of call.
///
/// Where their number follows the rate, it is the rate times the time within which a call is to be done (Little's law):
/// more of them would only wait for each other. It is looked at while it is what holds calls back, since the rate is else
/// that of the callers.
pub(super) struct Places {
    taken: AtomicUsize,
    number: AtomicUsize,
    rate: Option<Rate>,
}

/// See [`Places`].
struct Rate {
    fewest: usize,
    most: usize,
    within: Duration,
    start: Instant,
    /// When the window began, in nanoseconds from `start`.
    window: AtomicU64,
    /// Calls done in the window.
    done: AtomicUsize,
    /// A call found no place in the window.
    full: AtomicBool,
}

impl Places {
    /// Always so many.
    pub(super) fn fixed(number: usize) -> Self {
        Self { taken: AtomicUsize::new(0), number: AtomicUsize::new(number), rate: None }
    }

    /// As many as are done `within` a time: at least the first number, at most the last, and the one between to begin with.
    pub(super) fn by_rate([fewest, first, most]: [usize; 3], within: Duration, start: Instant) -> Self {
        let rate = Rate {
            fewest,
            most,
            within,
            start,
            window: AtomicU64::new(0),
            done: AtomicUsize::new(0),
            full: AtomicBool::new(false),
        };
        Self { taken: AtomicUsize::new(0), number: AtomicUsize::new(first), rate: Some(rate) }
    }

    /// How many more calls may begin.
    pub(super) fn left(&self) -> usize {
        let left = self.number.load(Ordering::Relaxed).saturating_sub(self.taken.load(Ordering::Relaxed));
        if left == 0
            && let Some(rate) = &self.rate
        {
            rate.full.store(true, Ordering::Relaxed);
        }
        left
    }

    /// A place for a call that has begun. Calls whose bodies were long in coming, and were not foreseen, have places up to
    /// the most that there can be.
    pub(super) fn take<'a>(&'a self, admission: &'a Admission) -> Option<Place<'a>> {
        let most = match &self.rate {
            Some(rate) => rate.most,
            None => self.number.load(Ordering::Relaxed),
        };
        let more = |taken| (taken < most).then_some(taken + 1);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Place { places: self, admission })
    }

    fn give_back(&self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
        if let Some(rate) = &self.rate
            && let Some(number) = rate.done(Instant::now())
        {
            self.number.store(number, Ordering::Relaxed);
        }
    }
}

impl Rate {
    /// Counts a call that is done; the new number of places if there is one.
    fn done(&self, now: Instant) -> Option<usize> {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        let nanos = u64::try_from(now.saturating_duration_since(self.start).as_nanos()).unwrap_or(u64::MAX);
        let window = self.window.load(Ordering::Relaxed);
        let length = Duration::from_nanos(nanos.saturating_sub(window));
        if length < WINDOW
            || self.window.compare_exchange(window, nanos, Ordering::Relaxed, Ordering::Relaxed).is_err()
        {
            return None;
        }
        self.done.store(0, Ordering::Relaxed);
        let full = self.full.swap(false, Ordering::Relaxed);
        // A window in which next to nothing happened says nothing of how fast it could have.
        if !full || length > 4 * WINDOW {
            return None;
        }
        let number = done as u128 * self.within.as_nanos() / length.as_nanos();
        Some(usize::try_from(number).unwrap_or(self.most).clamp(self.fewest, self.most))
    }
}

/// A call's place. Dropped, it is free again.
pub(crate) struct Place<'a> {
    places: &'a Places,
    admission: &'a Admission,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.places.give_back();
        self.admission.place_is_free();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITHIN: Duration = Duration::from_millis(10);

    /// Has so many calls be done in one window, and returns the number of places that comes of it.
    fn after(places: &Places, begun: Instant, done: u32) -> usize {
        let rate = places.rate.as_ref().expect("a rate");
        for number in 1..=done {
            if let Some(number) = rate.done(begun + WINDOW * number / done) {
                places.number.store(number, Ordering::Relaxed);
            }
        }
        places.number.load(Ordering::Relaxed)
    }

    #[test]
    fn there_are_as_many_places_as_calls_are_done_in_the_time_given() {
        let start = Instant::now();
        let places = Places::by_rate([20, 50, 200], WITHIN, start);
        assert_eq!(places.left(), 50);
        let mut begun = start;
        // Fifty milliseconds are five times the time within which they are to be done.
        for (done, number) in [(500, 100), (5_000, 200), (400, 80), (10, 20)] {
            places.rate.as_ref().expect("a rate").full.store(true, Ordering::Relaxed);
            assert_eq!(after(&places, begun, done), number, "{done} done");
            begun += WINDOW;
        }
    }

    #[test]
    fn what_callers_do_not_ask_for_says_nothing_of_what_could_be_done() {
        let start = Instant::now();
        let places = Places::by_rate([20, 50, 200], WITHIN, start);
        assert_eq!(after(&places, start, 1_000), 50, "nobody was held back");
        // After a rest, somebody is, by the last call of a window that began long ago.
        places.rate.as_ref().expect("a rate").full.store(true, Ordering::Relaxed);
        assert_eq!(after(&places, start + WINDOW * 100, 1), 50);
    }
}
