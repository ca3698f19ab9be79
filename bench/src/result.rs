//! The results of a run.

use serde::{Deserialize, Serialize};

use crate::case::Case;
use crate::load::Tally;

/// One case, in one round.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq)]
pub(crate) struct Round {
    /// Requests served per second by the closed loop.
    pub(crate) rate: f64,
    /// Microseconds of processor time per request, of the server's processes.
    pub(crate) cpu: f64,
    /// The database's part of it.
    pub(crate) database_cpu: f64,
    /// Microseconds at full load: the closed loop.
    pub(crate) closed: Percentiles,
    /// Microseconds at half of that load: the open loop.
    pub(crate) half: Percentiles,
    /// Requests of either loop that were not served.
    pub(crate) unserved: u64,
}

/// Microseconds within which these shares of the requests were complete.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq)]
pub(crate) struct Percentiles {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
}

impl From<&Tally> for Percentiles {
    fn from(tally: &Tally) -> Self {
        Self { p50: tally.micros(50.0), p99: tally.micros(99.0), p999: tally.micros(99.9) }
    }
}

/// One case over all rounds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) case: String,
    /// The case that the ratio refers to.
    pub(crate) yardstick: String,
    pub(crate) rounds: Vec<Round>,
}

impl Row {
    pub(crate) fn new(case: Case) -> Self {
        Self { case: case.to_string(), yardstick: case.yardstick().to_string(), rounds: Vec::new() }
    }

    /// The median over the rounds of one figure.
    pub(crate) fn median(&self, figure: impl Fn(&Round) -> f64) -> f64 {
        median(self.rounds.iter().map(figure).collect())
    }

    /// Lowest and highest rate of a round.
    pub(crate) fn spread(&self) -> (f64, f64) {
        let rates = self.rounds.iter().map(|round| round.rate);
        (rates.clone().fold(f64::INFINITY, f64::min), rates.fold(0.0, f64::max))
    }

    /// The median of the rate as a fraction of the baseline's rate in the same round. The machine's drift from one
    /// round to the next cancels out.
    pub(crate) fn ratio(&self, rows: &[Self]) -> Option<f64> {
        let yardstick = rows.iter().find(|row| row.case == self.yardstick)?;
        let ratios = self.rounds.iter().zip(&yardstick.rounds).map(|(ours, theirs)| ours.rate / theirs.rate);
        Some(median(ratios.collect()))
    }
}

/// The resources of a program before its first request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Footing {
    pub(crate) name: String,
    /// Milliseconds from its start to its first response: the median.
    pub(crate) ready: f64,
    /// MiB resident when it was ready.
    pub(crate) memory_ready: f64,
    /// MiB resident after random reads at full speed.
    pub(crate) memory_read: f64,
}

/// A whole run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Run {
    /// The properties of the machine, one per line.
    pub(crate) machine: Vec<String>,
    /// Seconds of each loop.
    pub(crate) seconds: f64,
    pub(crate) footings: Vec<Footing>,
    pub(crate) rows: Vec<Row>,
    /// What was not measured, and why.
    pub(crate) missing: Vec<String>,
}

/// The middle value, or the mean of the middle two. 0 for none.
pub(crate) fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    match figures.len() {
        0 => 0.0,
        count if count % 2 == 1 => figures[middle],
        _ => f64::midpoint(figures[middle - 1], figures[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(case: &str, rates: &[f64]) -> Row {
        let rounds = rates.iter().map(|&rate| Round { rate, ..Round::default() }).collect();
        Row { case: case.to_owned(), yardstick: "nginx".to_owned(), rounds }
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert!(median(vec![]) == 0.0);
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(vec![4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
    }

    #[test]
    fn a_ratio_is_taken_within_each_round() {
        // A machine that slows down by half changes both equally.
        let rows = [row("nginx", &[100.0, 50.0, 80.0]), row("ours", &[90.0, 45.0, 72.0])];
        assert!((rows[1].ratio(&rows).expect("a yardstick") - 0.9).abs() < 1e-9);
        assert!((rows[0].ratio(&rows).expect("itself") - 1.0).abs() < 1e-9);
        assert_eq!(rows[1].ratio(&rows[1..]), None);
        assert!((rows[1].median(|round| round.rate) - 72.0).abs() < 1e-9);
        assert_eq!(rows[1].spread(), (45.0, 90.0));
    }
}
