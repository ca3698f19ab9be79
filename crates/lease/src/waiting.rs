//! The writer's side of the protocol: the wait between a fence and its change.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::{Boottime, Seq};

/// A replica's registration in the shared database.
#[derive(Clone, Debug)]
pub struct Registration<Id> {
    /// The id of the registration.
    pub id: Id,
    /// The last fence that it has confirmed.
    pub confirmed: Seq,
    /// The length of its leases.
    pub lease: Duration,
}

/// The replicas that have yet to confirm a fence.
#[derive(Clone, Debug)]
pub struct Waiting<Id> {
    seq: Seq,
    fenced_at: Boottime,
    /// The replicas that have not confirmed, with the length of their leases.
    pending: BTreeMap<Id, Duration>,
}

impl<Id: Ord + Clone> Waiting<Id> {
    /// The wait for the fence `seq`. `fenced_at` is read after its commit was acknowledged, and `registrations` must
    /// come from a look that began after that.
    pub fn new(
        seq: Seq,
        fenced_at: Boottime,
        registrations: impl IntoIterator<Item = Registration<Id>>,
    ) -> Self {
        let mut waiting = Self { seq, fenced_at, pending: BTreeMap::new() };
        for Registration { id, confirmed, lease } in registrations {
            if confirmed < seq {
                waiting.pending.insert(id, lease);
            }
        }
        waiting
    }

    /// Notes that a replica has confirmed the fences up to `seq`.
    pub fn confirmed(&mut self, id: &Id, seq: Seq) {
        if seq >= self.seq {
            self.pending.remove(id);
        }
    }

    /// Notes a later look. A replica that is no longer registered has no lease and never gets one again under that id.
    pub fn observed(&mut self, registrations: &[Registration<Id>]) {
        self.pending.retain(|pending, _| {
            registrations.iter().any(|found| found.id == *pending && found.confirmed < self.seq)
        });
    }

    /// Whether the change may be made.
    pub fn is_over(&self) -> bool {
        self.pending.is_empty()
    }

    /// The number of replicas that have not confirmed.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// The sequence of the fence that is waited for.
    pub fn seq(&self) -> Seq {
        self.seq
    }

    /// The replicas whose leases have expired at `now`: a renewal that does not confirm the fence cannot extend a lease
    /// beyond this. Remove them durably, unless they have confirmed in the meantime. Then call [`Waiting::settled`].
    pub fn overdue(&self, now: Boottime) -> Vec<Id> {
        let waited = now.since(self.fenced_at);
        self.pending
            .iter()
            .filter(|(_, lease)| waited >= with_margin(**lease))
            .map(|(id, _)| id.clone())
            .collect()
    }

    /// Notes that these were removed, by this writer or another, or have confirmed. No writer has to wait for them.
    pub fn settled(&mut self, ids: &[Id]) {
        for id in ids {
            self.pending.remove(id);
        }
    }

    /// When the next lease expires.
    pub fn deadline(&self) -> Option<Boottime> {
        self.pending.values().min().map(|lease| self.fenced_at.after(with_margin(*lease)))
    }
}

/// The time that a writer waits for a lease to expire: two clocks may differ in speed by a twentieth.
fn with_margin(lease: Duration) -> Duration {
    lease + lease / 20
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_nanos(100);

    fn registration(id: char, confirmed: Seq) -> Registration<char> {
        Registration { id, confirmed, lease: LEASE }
    }

    fn at(nanos: u64) -> Boottime {
        Boottime::from_nanos(nanos)
    }

    #[test]
    fn without_registrations_there_is_no_wait() {
        assert!(Waiting::<char>::new(1, at(0), []).is_over());
        assert!(Waiting::new(1, at(0), [registration('a', 1)]).is_over(), "confirmed before the first look");
    }

    #[test]
    fn a_wait_is_over_when_the_last_replica_has_confirmed() {
        let mut waiting = Waiting::new(5, at(0), [registration('a', 4), registration('b', 0)]);
        waiting.confirmed(&'a', 4);
        assert_eq!(waiting.pending(), 2, "an earlier fence");
        waiting.confirmed(&'a', 5);
        waiting.confirmed(&'c', 9);
        assert!(!waiting.is_over());
        waiting.confirmed(&'b', 7);
        assert!(waiting.is_over(), "a later one includes it");
    }

    #[test]
    fn a_silent_replica_is_overdue_after_its_lease_and_a_margin() {
        let mut waiting = Waiting::new(5, at(1000), [registration('a', 4), registration('b', 4)]);
        assert_eq!(waiting.overdue(at(1104)), []);
        assert_eq!(waiting.deadline(), Some(at(1105)));
        assert_eq!(waiting.overdue(at(1105)), ['a', 'b']);
        assert!(!waiting.is_over(), "not before they are removed");
        waiting.settled(&['a', 'b']);
        assert!(waiting.is_over() && waiting.deadline().is_none());
    }

    #[test]
    fn a_later_look_shows_confirmations_and_removals() {
        let mut waiting = Waiting::new(5, at(0), [registration('a', 4), registration('b', 4)]);
        waiting.observed(&[registration('a', 4), registration('b', 5), registration('c', 0)]);
        assert_eq!(waiting.pending(), 1);
        waiting.observed(&[registration('c', 0)]);
        assert!(waiting.is_over());
    }

    #[test]
    fn leases_of_different_lengths_run_out_by_themselves() {
        let long = Registration { lease: Duration::from_nanos(1000), ..registration('l', 0) };
        let waiting = Waiting::new(5, at(0), [registration('a', 4), long]);
        assert_eq!(waiting.overdue(at(500)), ['a']);
        assert_eq!(waiting.deadline(), Some(at(105)));
    }
}
