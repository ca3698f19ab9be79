//! The text of the fact about the sweep: a line for each pass, and a line for each KEK of the pass before it.
//!
//! ```text
//! complete 1762333200000000 1762333260000000 0
//! kek kek-01JCQ3TVS0J4W3Y6Q2N8R5K7ZB 3000
//! current 1762336800000000 0 2048 01JCQ3TVS0J4W3Y6Q2N8R5K7ZB
//! kek kek-01JCQ3TVS0J4W3Y6Q2N8R5K7ZB 2000
//! ```
//!
//! A complete pass has the times of its start and end, and the number of versions that did not open. One in progress has the
//! time of its start, that number, and its position. Times are microseconds since 1970. A text that does not parse is
//! none: the sweep then begins again. `kek_facts` authenticates the text.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use agentrouter_model::Timestamp;
use agentrouter_store::wrapped_keys::DekCursor;

use crate::sweep::Sweep;

/// In the place of a KEK's id, for a KEK that the server does not have.
pub(crate) const UNKNOWN_KEK: &str = "unknown";
/// The shortest time from the start of a pass to the next.
const SHORTEST: Duration = Duration::from_secs(1);

/// What the store remembers of the sweep.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SweepRecord {
    /// The last pass that came to the end.
    pub(crate) complete: Option<Pass>,
    /// The pass in progress.
    pub(crate) current: Option<Pass>,
}

/// A pass over all versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pass {
    begun: Timestamp,
    ended: Option<Timestamp>,
    /// Where it is.
    pub(crate) at: DekCursor,
    /// How many versions did not open.
    pub(crate) undecryptable: u64,
    versions: BTreeMap<String, u64>,
}

impl Pass {
    pub(crate) fn begin(now: Timestamp) -> Self {
        Self {
            begun: now,
            ended: None,
            at: DekCursor::default(),
            undecryptable: 0,
            versions: BTreeMap::new(),
        }
    }

    pub(crate) fn end(&mut self, now: Timestamp) {
        self.ended = Some(now);
        self.at = DekCursor::default();
    }

    /// When the next pass is due.
    pub(crate) fn next(&self, interval: Duration) -> Timestamp {
        self.begun.saturating_add(interval.max(SHORTEST))
    }

    /// Counts a version under `kek`.
    pub(crate) fn see(&mut self, kek: &str) {
        match self.versions.get_mut(kek) {
            Some(count) => *count += 1,
            None => {
                self.versions.insert(kek.to_owned(), 1);
            }
        }
    }

    /// The number of versions that it has seen.
    pub(crate) fn count(&self) -> u64 {
        self.versions.values().sum()
    }

    fn write(&self, text: &mut String) {
        // Writing to a String cannot fail.
        let (begun, failed) = (self.begun.as_micros(), self.undecryptable);
        let _ = match self.ended {
            Some(ended) => writeln!(text, "complete {begun} {} {failed}", ended.as_micros()),
            None => writeln!(text, "current {begun} {failed} {} {}", self.at.number, self.at.secret),
        };
        for (kek, count) in &self.versions {
            let _ = writeln!(text, "kek {kek} {count}");
        }
    }
}

impl SweepRecord {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut passes: Vec<Pass> = Vec::new();
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["complete", begun, ended, failed] => passes.push(Pass {
                    ended: Some(time(ended)?),
                    undecryptable: failed.parse().ok()?,
                    ..Pass::begin(time(begun)?)
                }),
                ["current", begun, failed, number, secret] => passes.push(Pass {
                    at: DekCursor { secret: secret.to_owned(), number: number.parse().ok()? },
                    undecryptable: failed.parse().ok()?,
                    ..Pass::begin(time(begun)?)
                }),
                ["kek", kek, count] => {
                    passes.last_mut()?.versions.insert(kek.to_owned(), count.parse().ok()?);
                }
                _ => return None,
            }
        }
        let (complete, current): (Vec<_>, Vec<_>) = passes.into_iter().partition(|pass| pass.ended.is_some());
        Some(Self { complete: complete.into_iter().next(), current: current.into_iter().next() })
    }

    pub(crate) fn to_text(&self) -> String {
        let mut text = String::new();
        for pass in [&self.complete, &self.current].into_iter().flatten() {
            pass.write(&mut text);
        }
        text
    }

    /// What is shown of it.
    pub(crate) fn seen(&self) -> Sweep {
        let complete = self.complete.as_ref();
        let undecryptable =
            [&self.complete, &self.current].into_iter().flatten().map(|pass| pass.undecryptable);
        Sweep {
            completed_at: complete.and_then(|pass| pass.ended),
            versions: complete.map(|pass| pass.versions.clone().into_iter().collect()).unwrap_or_default(),
            undecryptable: undecryptable.max().unwrap_or(0),
            progress: self.current.as_ref().map(Pass::count),
        }
    }
}

fn time(text: &str) -> Option<Timestamp> {
    Timestamp::checked(text.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_and_another_text_is_none() {
        let at = Timestamp::from_micros(1_762_333_200_000_000);
        let mut complete = Pass::begin(at);
        complete.see("kek-1");
        complete.see("kek-1");
        complete.see(UNKNOWN_KEK);
        complete.undecryptable = 1;
        complete.end(at.saturating_add(Duration::from_secs(1)));
        for secret in ["", "01JCQ3TVS0J4W3Y6Q2N8R5K7ZB"] {
            let mut current = Pass::begin(at);
            current.at = DekCursor { secret: secret.to_owned(), number: 7 };
            current.see("kek-2");
            let record = SweepRecord { complete: Some(complete.clone()), current: Some(current) };
            assert_eq!(SweepRecord::parse(&record.to_text()), Some(record.clone()));
            assert_eq!(record.seen().undecryptable, 1);
            assert_eq!(record.seen().progress, Some(1));
        }
        assert_eq!(SweepRecord::parse(""), Some(SweepRecord::default()));
        for wrong in
            ["x", "kek kek-1 1", "complete 1 2", "complete 1 2 x", "current 1 0 7", "complete 1 2 0\nkek a"]
        {
            assert_eq!(SweepRecord::parse(wrong), None, "{wrong}");
        }
    }
}
