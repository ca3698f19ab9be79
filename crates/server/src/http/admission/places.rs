//! How many calls are worked on at once.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::Admission;

/// How long calls are counted before the number of places follows.
const WINDOW: Duration = Duration::from_millis(50);
/// How long a number holds that nobody comes up to: other calls may come next, that take longer or shorter.
const HOLDS: Duration = Duration::from_secs(1);

/// Places of one kind of call.
///
/// Where their number follows the rate, it is the rate times the time within which a call is to be done (Little's law):
/// that which a call takes alone, and as much more as it may wait for others. More places would only make for a longer
/// wait; and were what a call takes alone not counted, a store that is far away would have fewer and fewer, each time
/// with a lower rate. The number is looked at while it is what holds calls back, since the rate is else that of the callers.
/// Without it 1,024 callers at a time had p99 of lists of 200 over PostgreSQL at 955 ms, and not 27.
pub(super) struct Places {
    taken: AtomicUsize,
    number: AtomicUsize,
    rate: Option<Rate>,
}

/// See [`Places`].
struct Rate {
    /// The fewest, the first and the most places.
    bounds: [usize; 3],
    wait: Duration,
    start: Instant,
    /// When the window began, in nanoseconds from `start`.
    window: AtomicU64,
    /// Calls done in the window.
    done: AtomicUsize,
    /// A call found no place in the window.
    full: AtomicBool,
    /// When one last found none, in nanoseconds.
    last_full: AtomicU64,
    /// Places taken so far.
    takes: AtomicU64,
    /// What a call takes alone, in nanoseconds: a mean of the last ones; 0 if there was none.
    alone: AtomicU64,
}

impl Places {
    /// Always so many.
    pub(super) fn fixed(number: usize) -> Self {
        Self { taken: AtomicUsize::new(0), number: AtomicUsize::new(number), rate: None }
    }

    /// As many as are done with a `wait` of so long for others: at least the first number, at most the last, and the one
    /// between to begin with.
    pub(super) fn by_rate(bounds: [usize; 3], wait: Duration, start: Instant) -> Self {
        let rate = Rate {
            bounds,
            wait,
            start,
            window: AtomicU64::new(0),
            done: AtomicUsize::new(0),
            full: AtomicBool::new(false),
            last_full: AtomicU64::new(0),
            takes: AtomicU64::new(0),
            alone: AtomicU64::new(0),
        };
        Self { taken: AtomicUsize::new(0), number: AtomicUsize::new(bounds[1]), rate: Some(rate) }
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
            Some(rate) => rate.bounds[2],
            None => self.number.load(Ordering::Relaxed),
        };
        let more = |taken| (taken < most).then_some(taken + 1);
        let others = self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        let alone = self.rate.as_ref().and_then(|rate| {
            let number = rate.takes.fetch_add(1, Ordering::Relaxed) + 1;
            (others == 0).then(|| (number, Instant::now()))
        });
        Some(Place { places: self, admission, alone })
    }

    fn give_back(&self, alone: Option<(u64, Instant)>) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
        let Some(rate) = &self.rate else { return };
        let now = Instant::now();
        if let Some((number, since)) = alone
            && rate.takes.load(Ordering::Relaxed) == number
        {
            rate.alone_for(now.duration_since(since));
        }
        if let Some(number) = rate.done(now) {
            self.number.store(number, Ordering::Relaxed);
        }
    }
}

impl Rate {
    /// Counts what a call took alone.
    fn alone_for(&self, time: Duration) {
        let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let sofar = self.alone.load(Ordering::Relaxed);
        let mean = if sofar == 0 { time } else { sofar - sofar / 8 + time / 8 };
        self.alone.store(mean, Ordering::Relaxed);
    }

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
        let [fewest, first, most] = self.bounds;
        // A window in which next to nothing happened says nothing of how fast it could have.
        if length > 4 * WINDOW {
            return Some(first);
        }
        if !self.full.swap(false, Ordering::Relaxed) {
            let since = Duration::from_nanos(nanos.saturating_sub(self.last_full.load(Ordering::Relaxed)));
            return (since > HOLDS).then_some(first);
        }
        self.last_full.store(nanos, Ordering::Relaxed);
        let within = self.wait + Duration::from_nanos(self.alone.load(Ordering::Relaxed));
        let number = done as u128 * within.as_nanos() / length.as_nanos();
        Some(usize::try_from(number).unwrap_or(most).clamp(fewest, most))
    }
}

/// A call's place. Dropped, it is free again.
pub(crate) struct Place<'a> {
    places: &'a Places,
    admission: &'a Admission,
    /// Its number and when it was taken, if all others were free.
    alone: Option<(u64, Instant)>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.places.give_back(self.alone);
        self.admission.place_is_free();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_millis(10);

    fn rate(places: &Places) -> &Rate {
        places.rate.as_ref().expect("a rate")
    }

    /// Has so many calls be done in one window, and returns the number of places that comes of it.
    fn after(places: &Places, begun: Instant, done: u32) -> usize {
        for number in 1..=done {
            if let Some(number) = rate(places).done(begun + WINDOW * number / done) {
                places.number.store(number, Ordering::Relaxed);
            }
        }
        places.number.load(Ordering::Relaxed)
    }

    #[test]
    fn there_are_as_many_places_as_calls_are_done_in_the_time_given() {
        let start = Instant::now();
        let places = Places::by_rate([20, 50, 200], WAIT, start);
        assert_eq!(places.left(), 50);
        let mut begun = start;
        // Fifty milliseconds are five times the time within which they are to be done.
        for (done, number) in [(500, 100), (5_000, 200), (400, 80), (10, 20)] {
            rate(&places).full.store(true, Ordering::Relaxed);
            assert_eq!(after(&places, begun, done), number, "{done} done");
            begun += WINDOW;
        }
    }

    #[test]
    fn what_callers_do_not_ask_for_says_nothing_of_what_could_be_done() {
        let start = Instant::now();
        let places = Places::by_rate([20, 50, 200], WAIT, start);
        assert_eq!(after(&places, start, 1_000), 50, "nobody was held back");
        // After a rest, somebody is, by the last call of a window that began long ago.
        rate(&places).full.store(true, Ordering::Relaxed);
        assert_eq!(after(&places, start + WINDOW * 100, 1), 50);
    }

    #[test]
    fn a_number_that_nobody_comes_up_to_is_forgotten() {
        let start = Instant::now();
        let places = Places::by_rate([20, 50, 200], WAIT, start);
        rate(&places).full.store(true, Ordering::Relaxed);
        assert_eq!(after(&places, start, 1_000), 200);
        let mut begun = start + WINDOW;
        while begun < start + HOLDS {
            assert_eq!(after(&places, begun, 1_000), 200, "it may be needed again");
            begun += WINDOW;
        }
        assert_eq!(after(&places, begun, 1_000), 200);
        assert_eq!(after(&places, begun + WINDOW, 1_000), 50);
    }

    #[test]
    fn what_a_call_takes_alone_is_no_wait_for_others() {
        let start = Instant::now();
        let places = Places::by_rate([20, 50, 200], WAIT, start);
        rate(&places).alone_for(WAIT * 3);
        rate(&places).full.store(true, Ordering::Relaxed);
        // Fifty at a time, each of which takes 30 ms: with fewer there would be fewer done.
        assert_eq!(after(&places, start, 50 * 50 / 30), 66);
        for _ in 0..100 {
            rate(&places).alone_for(WAIT);
        }
        rate(&places).full.store(true, Ordering::Relaxed);
        assert_eq!(
            after(&places, start + WINDOW, 400),
            160,
            "the last ones count, and what took them long is over"
        );
    }

    #[test]
    fn only_calls_beside_which_there_is_no_other_show_what_one_takes_alone() {
        let admission = Admission::new();
        let places = Places::by_rate([20, 50, 200], WAIT, Instant::now());
        let alone = || rate(&places).alone.load(Ordering::Relaxed);
        let (first, second) = (places.take(&admission), places.take(&admission));
        drop(first);
        drop(second);
        assert_eq!(alone(), 0, "the one had another after it, the other one before it");
        drop(places.take(&admission));
        assert!(alone() > 0);
    }
}
