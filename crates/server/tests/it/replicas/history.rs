//! A linearizability checker for histories of one secret.
//!
//! The checker searches for one order of all operations that explains every response, and in which no operation
//! precedes another that ended before it started. It is the search of Wing and Gong with Lowe's cache of visited
//! configurations (the operations that are placed, and the state after them). An operation whose outcome is unknown may
//! have its effect at any time after its start, or never.

use std::collections::HashSet;

/// The state: the value of the active version. Every write of a history writes a different value.
pub type SecretState = Option<u64>;

/// An operation and its outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// CreateSecret: creates the secret, or replaces its value.
    Create(u64),
    /// RotateSecret that succeeded.
    Rotate(u64),
    /// RotateSecret or DeleteSecret of a secret that does not exist.
    FoundNothing,
    /// DeleteSecret that succeeded.
    Delete,
    /// GetSecretValue.
    Value(SecretState),
    /// A write without a response, or with OUTCOME_UNKNOWN.
    Unknown(Write),
}

/// A write that may have happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    Create(u64),
    Rotate(u64),
    Delete,
}

/// An operation and its interval, on one clock.
#[derive(Clone, Copy, Debug)]
pub struct Op {
    pub outcome: Outcome,
    pub sent: u64,
    /// Ignored if the outcome is unknown.
    pub ended: u64,
}

/// The state after an operation. `None` if the outcome is impossible in this state.
fn step(state: SecretState, outcome: Outcome) -> Option<SecretState> {
    match outcome {
        Outcome::Create(value) => Some(Some(value)),
        Outcome::Rotate(value) => state.map(|_| Some(value)),
        Outcome::FoundNothing => state.is_none().then_some(None),
        Outcome::Delete => state.map(|_| None),
        Outcome::Value(seen) => (seen == state).then_some(state),
        Outcome::Unknown(Write::Create(value)) => Some(Some(value)),
        Outcome::Unknown(Write::Rotate(value)) => Some(state.map(|_| value)),
        Outcome::Unknown(Write::Delete) => Some(None),
    }
}

/// The search was aborted: the history has too many concurrent operations.
#[derive(Debug)]
pub struct TooHard;

/// Whether the history is linearizable, from an absent secret.
///
/// # Errors
/// [`TooHard`] after some millions of steps.
pub fn is_linearizable(ops: &[Op]) -> Result<bool, TooHard> {
    /// The most steps of a search: seconds in a debug build.
    const STEPS: usize = 4_000_000;
    let mut ops: Vec<Op> = ops.to_vec();
    ops.sort_by_key(|op| op.sent);
    let end = |op: &Op| if matches!(op.outcome, Outcome::Unknown(_)) { u64::MAX } else { op.ended };
    let known = ops.iter().filter(|op| end(op) < u64::MAX).count();
    let (mut placed, mut left) = (vec![false; ops.len()], known);
    // The operations placed so far, each with the state before it.
    let mut path: Vec<(usize, SecretState)> = Vec::new();
    let mut seen: HashSet<(Vec<usize>, SecretState)> = HashSet::new();
    let (mut state, mut next) = (None, 0);
    for _ in 0..STEPS {
        if left == 0 {
            return Ok(true);
        }
        // An operation may come next if no unplaced one ended before it started.
        let first_end = (0..ops.len()).filter(|&at| !placed[at]).map(|at| end(&ops[at])).min();
        let candidate = (next..ops.len())
            .take_while(|&at| Some(ops[at].sent) <= first_end)
            .filter(|&at| !placed[at])
            .find_map(|at| step(state, ops[at].outcome).map(|after| (at, after)));
        match candidate {
            Some((at, after)) => {
                placed[at] = true;
                if seen.insert((frontier(&placed), after)) {
                    path.push((at, state));
                    left -= usize::from(end(&ops[at]) < u64::MAX);
                    (state, next) = (after, 0);
                } else {
                    placed[at] = false;
                    next = at + 1;
                }
            }
            None => {
                let Some((at, before)) = path.pop() else { return Ok(false) };
                placed[at] = false;
                left += usize::from(end(&ops[at]) < u64::MAX);
                (state, next) = (before, at + 1);
            }
        }
    }
    Err(TooHard)
}

/// The placed operations, compressed: the length of the placed prefix, and the operations beyond it.
fn frontier(placed: &[bool]) -> Vec<usize> {
    let all = placed.iter().take_while(|placed| **placed).count();
    std::iter::once(all).chain((all..placed.len()).filter(|&at| placed[at])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(outcome: Outcome, sent: u64, ended: u64) -> Op {
        Op { outcome, sent, ended }
    }

    fn judge(ops: &[Op]) -> bool {
        is_linearizable(ops).expect("it is small")
    }

    #[test]
    fn a_linearizable_history_passes() {
        assert!(judge(&[]));
        assert!(judge(&[op(Outcome::Value(None), 0, 1), op(Outcome::FoundNothing, 2, 3)]));
        assert!(judge(&[
            op(Outcome::Create(1), 0, 9),
            op(Outcome::Value(None), 1, 2),
            op(Outcome::Value(Some(1)), 3, 4)
        ]));
        assert!(judge(&[
            op(Outcome::Create(1), 0, 1),
            op(Outcome::Rotate(2), 2, 9),
            op(Outcome::Rotate(3), 3, 8),
            op(Outcome::Value(Some(3)), 4, 5),
            op(Outcome::Value(Some(2)), 6, 7),
            op(Outcome::Delete, 10, 11),
            op(Outcome::Value(None), 12, 13),
        ]));
    }

    #[test]
    fn a_write_of_unknown_outcome_may_happen_late_or_never() {
        let unknown = op(Outcome::Unknown(Write::Rotate(2)), 2, 3);
        let made = op(Outcome::Create(1), 0, 1);
        assert!(judge(&[made, unknown, op(Outcome::Value(Some(1)), 4, 5)]));
        assert!(judge(&[
            made,
            unknown,
            op(Outcome::Value(Some(1)), 4, 5),
            op(Outcome::Value(Some(2)), 6, 7)
        ]));
        assert!(!judge(&[
            made,
            unknown,
            op(Outcome::Value(Some(2)), 4, 5),
            op(Outcome::Value(Some(1)), 6, 7)
        ]));
        assert!(!judge(&[
            made,
            op(Outcome::Value(Some(2)), 1, 2),
            op(Outcome::Unknown(Write::Create(2)), 3, 4)
        ]));
        assert!(judge(&[made, op(Outcome::Unknown(Write::Delete), 2, 3), op(Outcome::FoundNothing, 4, 5)]));
    }

    #[test]
    fn a_stale_read_after_an_acknowledged_write_is_found() {
        let ops =
            [op(Outcome::Create(1), 0, 1), op(Outcome::Rotate(2), 2, 3), op(Outcome::Value(Some(1)), 4, 5)];
        assert!(!judge(&ops));
        assert!(!judge(&[
            op(Outcome::Create(1), 0, 1),
            op(Outcome::Delete, 2, 3),
            op(Outcome::Value(Some(1)), 4, 5)
        ]));
        assert!(!judge(&[op(Outcome::Create(1), 0, 1), op(Outcome::Value(None), 2, 3)]));
    }

    #[test]
    fn a_read_of_the_old_value_after_the_new_one_is_found() {
        let made = op(Outcome::Create(1), 0, 1);
        let rotating = op(Outcome::Rotate(2), 2, 99);
        assert!(judge(&[
            made,
            rotating,
            op(Outcome::Value(Some(1)), 3, 4),
            op(Outcome::Value(Some(2)), 5, 6)
        ]));
        assert!(!judge(&[
            made,
            rotating,
            op(Outcome::Value(Some(2)), 3, 4),
            op(Outcome::Value(Some(1)), 5, 6)
        ]));
    }

    #[test]
    fn a_lost_write_and_a_repeated_write_are_found() {
        let made = op(Outcome::Create(1), 0, 1);
        assert!(!judge(&[
            made,
            op(Outcome::Rotate(2), 2, 3),
            op(Outcome::Rotate(3), 4, 5),
            op(Outcome::Value(Some(2)), 6, 7)
        ]));
        assert!(!judge(&[made, op(Outcome::Delete, 2, 3), op(Outcome::Delete, 4, 5)]));
        assert!(!judge(&[made, op(Outcome::Delete, 2, 3), op(Outcome::Rotate(2), 4, 5)]));
        assert!(!judge(&[made, op(Outcome::FoundNothing, 2, 3)]));
        assert!(!judge(&[
            made,
            op(Outcome::Rotate(2), 2, 9),
            op(Outcome::Value(Some(2)), 3, 4),
            op(Outcome::Value(Some(1)), 5, 6),
            op(Outcome::Value(Some(2)), 7, 8)
        ]));
    }

    #[test]
    fn a_long_concurrent_history_is_checked() {
        let mut ops = Vec::new();
        for number in 0..300 {
            let at = number * 10;
            ops.push(op(Outcome::Create(number), at, at + 25));
            ops.push(op(Outcome::Value(Some(number)), at + 4, at + 30));
            ops.push(op(Outcome::Value(Some(number)), at + 5, at + 31));
        }
        assert!(judge(&ops));
        // One read of a value that was replaced long before.
        ops.push(op(Outcome::Value(Some(100)), 2000, 2001));
        assert!(!judge(&ops));
    }
}
