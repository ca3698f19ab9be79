//! Counts and latencies of a load.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::Verdict;

/// The resolution of rates over time.
pub(crate) const SLOT: Duration = Duration::from_millis(50);

/// Counts and latencies of one load.
pub(crate) struct Tally {
    start: Instant,
    /// Nanoseconds of served requests, to three digits.
    times: Histogram<u64>,
    /// The same for shed requests.
    refusals: Histogram<u64>,
    pub(crate) served: u64,
    pub(crate) shed: u64,
    pub(crate) failed: u64,
    /// Requests that fell due and were never sent, because no connection was free in time.
    pub(crate) unsent: u64,
    /// From the first request to the last response.
    pub(crate) time: Duration,
    /// Requests served in each [`SLOT`], and the slowest of them.
    pub(crate) slots: Vec<(u64, Duration)>,
}

impl Tally {
    pub(crate) fn new(start: Instant) -> Self {
        Self {
            start,
            times: times(),
            refusals: times(),
            served: 0,
            shed: 0,
            failed: 0,
            unsent: 0,
            time: Duration::ZERO,
            slots: Vec::new(),
        }
    }

    pub(super) fn count(&mut self, verdict: Verdict, since: Instant, now: Instant) {
        let took = now.saturating_duration_since(since);
        match verdict {
            Verdict::Served => self.serve(took, now),
            Verdict::Shed => {
                self.shed += 1;
                self.refusals.saturating_record(nanos(took));
            }
            Verdict::Failed => self.failed += 1,
        }
    }

    fn serve(&mut self, took: Duration, now: Instant) {
        self.served += 1;
        self.times.saturating_record(nanos(took));
        let slot = now.saturating_duration_since(self.start).as_nanos() / SLOT.as_nanos();
        let slot = usize::try_from(slot).unwrap_or(0);
        if self.slots.len() <= slot {
            self.slots.resize(slot + 1, (0, Duration::ZERO));
        }
        let (count, longest) = &mut self.slots[slot];
        *count += 1;
        *longest = took.max(*longest);
    }

    /// Adds the served requests of another load.
    pub(crate) fn add(&mut self, other: &Self) {
        self.served += other.served;
        // Bounds and digits are the same for all.
        let _ = self.times.add(&other.times);
    }

    pub(super) fn end(&mut self) {
        self.time = self.start.elapsed();
    }

    /// Served requests per second.
    pub(crate) fn rate(&self) -> f64 {
        if self.time.is_zero() {
            return 0.0;
        }
        // Counts of a run are far below 2^52.
        #[expect(clippy::cast_precision_loss, reason = "a count of requests fits a double")]
        let served = self.served as f64;
        served / self.time.as_secs_f64()
    }

    /// The time within which `percent` of the served requests were complete, in microseconds. 0 if there were none.
    pub(crate) fn micros(&self, percent: f64) -> f64 {
        quantile(&self.times, percent)
    }

    /// The same for shed requests.
    pub(crate) fn refusal_micros(&self, percent: f64) -> f64 {
        quantile(&self.refusals, percent)
    }
}

/// From a microsecond to a minute. Three digits are always possible in this range.
fn times() -> Histogram<u64> {
    Histogram::new_with_bounds(1_000, 60_000_000_000, 3)
        .unwrap_or_else(|_| unreachable!("bounds and digits are constants that are in range"))
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn quantile(times: &Histogram<u64>, percent: f64) -> f64 {
    if times.is_empty() {
        return 0.0;
    }
    #[expect(clippy::cast_precision_loss, reason = "a minute in nanoseconds fits a double")]
    let nanos = times.value_at_quantile(percent / 100.0) as f64;
    nanos / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_served_alone() {
        let start = Instant::now();
        let mut tally = Tally::new(start);
        for micros in 1..=1000 {
            tally.count(Verdict::Served, start, start + Duration::from_micros(micros));
        }
        tally.count(Verdict::Shed, start, start + Duration::from_secs(9));
        tally.count(Verdict::Failed, start, start + Duration::from_secs(9));
        assert_eq!((tally.served, tally.shed, tally.failed), (1000, 1, 1));
        for (percent, micros) in [(50.0, 500.0), (99.0, 990.0), (99.9, 999.0), (100.0, 1000.0)] {
            let seen = tally.micros(percent);
            assert!((seen - micros).abs() <= micros / 500.0, "p{percent}: {seen}");
        }
        let refused = tally.refusal_micros(99.0);
        assert!((refused - 9e6).abs() < 2e4, "{refused}");
    }

    #[test]
    fn the_rate_is_of_the_whole_time() {
        let mut tally = Tally::new(Instant::now());
        assert!(tally.rate() == 0.0 && tally.micros(50.0) == 0.0);
        tally.served = 300;
        tally.time = Duration::from_millis(1500);
        assert!((tally.rate() - 200.0).abs() < 1e-9);
    }

    #[test]
    fn slots_show_response_times_and_their_maximum() {
        let start = Instant::now();
        let mut tally = Tally::new(start);
        let at = |millis| start + Duration::from_millis(millis);
        tally.count(Verdict::Served, at(0), at(10));
        tally.count(Verdict::Served, at(0), at(49));
        tally.count(Verdict::Served, at(150), at(151));
        let millis = Duration::from_millis;
        assert_eq!(tally.slots, [(2, millis(49)), (0, millis(0)), (0, millis(0)), (1, millis(1))]);
    }
}
