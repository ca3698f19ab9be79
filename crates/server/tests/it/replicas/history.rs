//! Was a history of one secret linearizable?
//!
//! What callers did, with the instants at which each asked and was answered, is searched for one order of all calls that
//! explains every answer and has no call before another that was answered before it was asked (Wing and Gong's search,
//! with Lowe's memory of what was tried: which calls are placed, and what is stored then). A call whose outcome is not
//! known may have its effect at any time after it was asked, or never.

use std::collections::HashSet;

/// What is stored: the value of the active version. Every write of a history writes another one.
pub type State = Option<u64>;

/// What was asked, and how it was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// CreateSecret: makes it, or replaces its value.
    Create(u64),
    /// RotateSecret, which was done.
    Rotate(u64),
    /// RotateSecret or DeleteSecret, which found nothing.
    FoundNothing,
    /// DeleteSecret, which was done.
    Delete,
    /// GetSecretValue.
    Value(State),
    /// A write whose answer did not come or said OUTCOME_UNKNOWN.
    Unknown(Write),
}

/// A write that may have happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    Create(u64),
    Rotate(u64),
    Delete,
}

/// A call and when it was under way, on one clock.
#[derive(Clone, Copy, Debug)]
pub struct Op {
    pub call: Call,
    pub asked: u64,
    /// Of no meaning for a call whose outcome is unknown.
    pub answered: u64,
}

/// What is stored after a call; none if it cannot have been answered so.
fn step(state: State, call: Call) -> Option<State> {
    match call {
        Call::Create(value) => Some(Some(value)),
        Call::Rotate(value) => state.map(|_| Some(value)),
        Call::FoundNothing => state.is_none().then_some(None),
        Call::Delete => state.map(|_| None),
        Call::Value(seen) => (seen == state).then_some(state),
        Call::Unknown(Write::Create(value)) => Some(Some(value)),
        Call::Unknown(Write::Rotate(value)) => Some(state.map(|_| value)),
        Call::Unknown(Write::Delete) => Some(None),
    }
}

/// The search was given up: too much happened at once to be judged.
#[derive(Debug)]
pub struct TooHard;

/// Whether there is such an order, from nothing stored on.
///
/// # Errors
/// [`TooHard`] after some millions of steps.
pub fn is_linearizable(ops: &[Op]) -> Result<bool, TooHard> {
    /// Most steps of a search: seconds, in a debug build.
    const STEPS: usize = 4_000_000;
    let mut ops: Vec<Op> = ops.to_vec();
    ops.sort_by_key(|op| op.asked);
    let end = |op: &Op| if matches!(op.call, Call::Unknown(_)) { u64::MAX } else { op.answered };
    let known = ops.iter().filter(|op| end(op) < u64::MAX).count();
    let (mut placed, mut left) = (vec![false; ops.len()], known);
    // The calls placed so far, each with what was stored before it.
    let mut path: Vec<(usize, State)> = Vec::new();
    let mut seen: HashSet<(Vec<usize>, State)> = HashSet::new();
    let (mut state, mut next) = (None, 0);
    for _ in 0..STEPS {
        if left == 0 {
            return Ok(true);
        }
        // A call may come next if none that is not placed was answered before it was asked.
        let first_end = (0..ops.len()).filter(|&at| !placed[at]).map(|at| end(&ops[at])).min();
        let candidate = (next..ops.len())
            .take_while(|&at| Some(ops[at].asked) <= first_end)
            .filter(|&at| !placed[at])
            .find_map(|at| step(state, ops[at].call).map(|after| (at, after)));
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

/// Which calls are placed, in short: up to which all are, and those beyond.
fn frontier(placed: &[bool]) -> Vec<usize> {
    let all = placed.iter().take_while(|placed| **placed).count();
    std::iter::once(all).chain((all..placed.len()).filter(|&at| placed[at])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(call: Call, asked: u64, answered: u64) -> Op {
        Op { call, asked, answered }
    }

    fn judge(ops: &[Op]) -> bool {
        is_linearizable(ops).expect("it is small")
    }

    #[test]
    fn what_may_happen_passes() {
        assert!(judge(&[]));
        assert!(judge(&[op(Call::Value(None), 0, 1), op(Call::FoundNothing, 2, 3)]));
        assert!(judge(&[
            op(Call::Create(1), 0, 9),
            op(Call::Value(None), 1, 2),
            op(Call::Value(Some(1)), 3, 4)
        ]));
        assert!(judge(&[
            op(Call::Create(1), 0, 1),
            op(Call::Rotate(2), 2, 9),
            op(Call::Rotate(3), 3, 8),
            op(Call::Value(Some(3)), 4, 5),
            op(Call::Value(Some(2)), 6, 7),
            op(Call::Delete, 10, 11),
            op(Call::Value(None), 12, 13),
        ]));
    }

    #[test]
    fn a_write_of_unknown_outcome_may_happen_late_or_never() {
        let unknown = op(Call::Unknown(Write::Rotate(2)), 2, 3);
        let made = op(Call::Create(1), 0, 1);
        assert!(judge(&[made, unknown, op(Call::Value(Some(1)), 4, 5)]));
        assert!(judge(&[made, unknown, op(Call::Value(Some(1)), 4, 5), op(Call::Value(Some(2)), 6, 7)]));
        assert!(!judge(&[made, unknown, op(Call::Value(Some(2)), 4, 5), op(Call::Value(Some(1)), 6, 7)]));
        assert!(!judge(&[made, op(Call::Value(Some(2)), 1, 2), op(Call::Unknown(Write::Create(2)), 3, 4)]));
        assert!(judge(&[made, op(Call::Unknown(Write::Delete), 2, 3), op(Call::FoundNothing, 4, 5)]));
    }

    #[test]
    fn a_stale_read_after_an_acknowledged_write_is_found() {
        let ops = [op(Call::Create(1), 0, 1), op(Call::Rotate(2), 2, 3), op(Call::Value(Some(1)), 4, 5)];
        assert!(!judge(&ops));
        assert!(!judge(&[op(Call::Create(1), 0, 1), op(Call::Delete, 2, 3), op(Call::Value(Some(1)), 4, 5)]));
        assert!(!judge(&[op(Call::Create(1), 0, 1), op(Call::Value(None), 2, 3)]));
    }

    #[test]
    fn new_and_then_old_is_found_while_the_write_goes_on() {
        let made = op(Call::Create(1), 0, 1);
        let rotating = op(Call::Rotate(2), 2, 99);
        assert!(judge(&[made, rotating, op(Call::Value(Some(1)), 3, 4), op(Call::Value(Some(2)), 5, 6)]));
        assert!(!judge(&[made, rotating, op(Call::Value(Some(2)), 3, 4), op(Call::Value(Some(1)), 5, 6)]));
    }

    #[test]
    fn a_lost_write_and_one_that_was_done_twice_are_found() {
        let made = op(Call::Create(1), 0, 1);
        assert!(!judge(&[
            made,
            op(Call::Rotate(2), 2, 3),
            op(Call::Rotate(3), 4, 5),
            op(Call::Value(Some(2)), 6, 7)
        ]));
        assert!(!judge(&[made, op(Call::Delete, 2, 3), op(Call::Delete, 4, 5)]));
        assert!(!judge(&[made, op(Call::Delete, 2, 3), op(Call::Rotate(2), 4, 5)]));
        assert!(!judge(&[made, op(Call::FoundNothing, 2, 3)]));
        assert!(!judge(&[
            made,
            op(Call::Rotate(2), 2, 9),
            op(Call::Value(Some(2)), 3, 4),
            op(Call::Value(Some(1)), 5, 6),
            op(Call::Value(Some(2)), 7, 8)
        ]));
    }

    #[test]
    fn a_long_history_with_much_at_once_is_judged() {
        let mut ops = Vec::new();
        for number in 0..300 {
            let at = number * 10;
            ops.push(op(Call::Create(number), at, at + 25));
            ops.push(op(Call::Value(Some(number)), at + 4, at + 30));
            ops.push(op(Call::Value(Some(number)), at + 5, at + 31));
        }
        assert!(judge(&ops));
        // One read of what was replaced long before.
        ops.push(op(Call::Value(Some(100)), 2000, 2001));
        assert!(!judge(&ops));
    }
}
