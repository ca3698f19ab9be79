//! The replica's side of the protocol: applies fences to the caches and extends the lease.
//!
//! The driver reads the shared database, one look at a time, and passes each [`View`] to [`Replica::synced`], which
//! returns what to do [`Next`]. A view has all standing fences, not a difference, so a lost wake-up or a lost
//! connection causes a delay only.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::{Boottime, Caches, Gate, Seq, Target, Token};

/// One look at the shared database, all of it from one snapshot.
#[derive(Clone, Debug)]
pub struct View {
    /// The history of the database. The text changes whenever the content may have returned to an earlier state: after
    /// a promotion, and after the restore of a dump or a snapshot.
    pub era: String,
    /// Whether the replica is registered.
    pub registered: bool,
    /// The sequence of the last fence that was committed. Those up to it which are not in `fences` were lifted.
    pub seq: Seq,
    /// The standing fences.
    pub fences: Vec<(Token, Seq, Target)>,
    /// The instant before the look was sent.
    pub asked_at: Boottime,
    /// For a renewal: the confirmed sequence that it recorded durably. None for a look without a renewal.
    pub recorded: Option<Seq>,
}

/// What a replica has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Confirm the fences up to this one.
    Confirm(Seq),
    /// Register again: the registration was removed, or the database has another history.
    Register,
}

/// The state of one replica.
pub struct Replica {
    caches: Arc<dyn Caches>,
    gate: Arc<Gate>,
    lease: Duration,
    era: Option<String>,
    standing: HashMap<Token, (Seq, Target)>,
    registered: bool,
    open: bool,
    generation: u64,
    /// The sequence of the last view under this registration, and the instant before it was asked for.
    seen: Option<(Seq, Boottime)>,
}

impl Replica {
    /// A replica that is not registered yet. `lease` is the length that it registers with.
    pub fn new(caches: Arc<dyn Caches>, gate: Arc<Gate>, lease: Duration) -> Self {
        Self {
            caches,
            gate,
            lease,
            era: None,
            standing: HashMap::new(),
            registered: false,
            open: false,
            generation: 0,
            seen: None,
        }
    }

    /// Notes that a new registration was committed. The next view opens the gate. It must be read after the commit.
    pub fn registered(&mut self) {
        self.forget();
        self.registered = true;
    }

    /// Notes that the registration was removed. Writers no longer wait for this replica, so it must not serve cached
    /// rows. Call it also before removing one's own registration.
    pub fn removed(&mut self) {
        self.forget();
        self.registered = false;
    }

    /// The sequence to record with the next renewal: fences up to it are applied.
    pub fn seen(&self) -> Seq {
        self.seen.map_or(0, |(seq, _)| seq)
    }

    /// Applies a view to the caches, then extends the lease if the view is of a renewal.
    ///
    /// When it returns, every fence up to the returned sequence is applied.
    ///
    /// A lease counts from the look whose sequence the renewal has recorded. It is not enough that a later fence was
    /// seen: a writer that waited for that fence until its deadline would remove the replica while its lease is still
    /// valid, and the next writer would not wait for it.
    pub fn synced(&mut self, view: View) -> Next {
        // Within one history, the sequence only increases.
        let went_back = self.seen.is_some_and(|(seq, _)| view.seq < seq);
        if went_back || self.era.as_ref() != Some(&view.era) {
            // Sequences and tokens of another history mean nothing here.
            for (_, (_, target)) in self.standing.drain() {
                self.caches.lift(&target);
            }
            let first = self.era.replace(view.era).is_none();
            if !first {
                self.removed();
            }
        }
        if !view.registered || !self.registered {
            self.removed();
            return Next::Register;
        }
        self.follow(view.seq, view.fences);
        if !self.open {
            self.open = true;
            self.generation += 1;
            self.gate.open(self.generation);
        }
        let looked = (view.seq, view.asked_at);
        let recorded =
            [Some(looked), self.seen].into_iter().flatten().find(|(seq, _)| view.recorded == Some(*seq));
        if let Some((_, asked_at)) = recorded {
            self.gate.extend(asked_at.after(self.lease));
        }
        self.seen = Some(looked);
        Next::Confirm(view.seq)
    }

    /// Applies fences that this process has committed, before it sees them in a view.
    pub fn fenced_here(&mut self, seq: Seq, fences: impl IntoIterator<Item = (Token, Target)>) {
        for (token, target) in fences {
            self.raise(token, seq, target);
        }
    }

    /// The number of standing fences.
    pub fn fences(&self) -> usize {
        self.standing.len()
    }

    fn follow(&mut self, seq: Seq, fences: Vec<(Token, Seq, Target)>) {
        let mut previous: HashMap<Token, (Seq, Target)> = std::mem::take(&mut self.standing);
        for (token, seq, target) in fences {
            match previous.remove(&token) {
                Some(known) => {
                    self.standing.insert(token, known);
                }
                None => self.raise(token, seq, target),
            }
        }
        for (token, (fenced, target)) in previous {
            if fenced <= seq {
                self.caches.lift(&target);
            } else {
                // This process committed the fence after the view was read.
                self.standing.insert(token, (fenced, target));
            }
        }
    }

    fn raise(&mut self, token: Token, seq: Seq, target: Target) {
        if !self.standing.contains_key(&token) {
            self.caches.fence(&target);
            self.standing.insert(token, (seq, target));
        }
    }

    fn forget(&mut self) {
        self.gate.close();
        self.caches.forget();
        self.open = false;
        self.seen = None;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use super::*;

    #[derive(Default)]
    struct Recorder(Mutex<Vec<String>>);

    impl Recorder {
        fn take(&self) -> Vec<String> {
            std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
        }
        fn push(&self, text: String) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(text);
        }
    }

    impl Caches for Recorder {
        fn fence(&self, target: &Target) {
            self.push(format!("fence {}", name(target)));
        }
        fn lift(&self, target: &Target) {
            self.push(format!("lift {}", name(target)));
        }
        fn forget(&self) {
            self.push("forget".to_owned());
        }
    }

    fn name(target: &Target) -> u8 {
        match target {
            Target::Key(digest) => digest[0],
            _ => 0,
        }
    }

    fn key(number: u8) -> Target {
        Target::Key([number; 32])
    }

    /// A view. With an instant, it is a renewal that records the sequence that it sees.
    fn view(seq: Seq, fences: &[(Token, Seq, u8)], renewed_at: Option<u64>) -> View {
        View {
            era: "1".to_owned(),
            registered: true,
            seq,
            fences: fences.iter().map(|&(token, seq, number)| (token, seq, key(number))).collect(),
            asked_at: Boottime::from_nanos(renewed_at.unwrap_or_default()),
            recorded: renewed_at.map(|_| seq),
        }
    }

    fn replica() -> (Replica, Arc<Gate>, Arc<Recorder>) {
        let (gate, recorder) =
            (Arc::new(Gate::shut(Arc::new(crate::clock::Unread))), Arc::new(Recorder::default()));
        let replica = Replica::new(Arc::clone(&recorder) as _, Arc::clone(&gate), Duration::from_nanos(100));
        (replica, gate, recorder)
    }

    #[test]
    fn the_gate_opens_with_the_first_view_after_a_registration() {
        let (mut replica, gate, recorder) = replica();
        assert_eq!(replica.synced(view(5, &[], Some(0))), Next::Register, "it never registered");
        assert_eq!(gate.generation(), 0);
        replica.registered();
        assert_eq!(gate.generation(), 0, "it may not know all fences");
        recorder.take();
        assert_eq!(replica.synced(view(5, &[(9, 5, 1)], Some(10))), Next::Confirm(5));
        assert_eq!(recorder.take(), ["fence 1"]);
        let generation = gate.generation();
        assert_ne!(generation, 0);
        assert!(gate.admits_at(generation, || Boottime::from_nanos(109)));
        assert!(!gate.admits_at(generation, || Boottime::from_nanos(110)), "counted from before it was sent");
    }

    #[test]
    fn a_look_applies_fences_and_grants_no_lease() {
        let (mut replica, gate, recorder) = replica();
        replica.registered();
        replica.synced(view(0, &[], Some(0)));
        recorder.take();
        assert_eq!(replica.synced(view(2, &[(1, 1, 1), (2, 2, 2)], None)), Next::Confirm(2));
        assert_eq!(recorder.take(), ["fence 1", "fence 2"]);
        assert_eq!(replica.synced(view(2, &[(2, 2, 2)], None)), Next::Confirm(2));
        assert_eq!(recorder.take(), ["lift 1"]);
        assert_eq!(replica.fences(), 1);
        assert_eq!(gate.remaining_at(|| Boottime::from_nanos(0)), Some(Duration::from_nanos(100)));
    }

    #[test]
    fn a_lease_counts_from_the_look_that_was_recorded() {
        let (mut replica, gate, _) = replica();
        replica.registered();
        let left = |gate: &Gate| gate.remaining_at(|| Boottime::from_nanos(0)).expect("a lease").as_nanos();
        let renewal = |seq, asked, recorded| View { recorded: Some(recorded), ..view(seq, &[], Some(asked)) };
        assert_eq!(replica.seen(), 0);
        replica.synced(renewal(5, 10, 0));
        assert_eq!(left(&gate), 0, "the renewal recorded no view");
        assert_eq!(replica.seen(), 5);
        replica.synced(renewal(5, 20, 5));
        assert_eq!(left(&gate), 120, "counted from its own view");
        replica.synced(renewal(6, 50, 5));
        assert_eq!(left(&gate), 120, "fence 6 is not on record yet");
        replica.synced(View { asked_at: Boottime::from_nanos(60), ..view(7, &[], None) });
        assert_eq!(left(&gate), 120, "a look is no renewal");
        replica.synced(renewal(8, 90, 7));
        assert_eq!(left(&gate), 160, "from the look that saw fence 7");
    }

    #[test]
    fn a_removed_replica_drops_its_rows_and_gets_another_generation() {
        let (mut replica, gate, recorder) = replica();
        replica.registered();
        replica.synced(view(1, &[(1, 1, 1)], Some(0)));
        let before = gate.generation();
        recorder.take();
        assert_eq!(replica.synced(View { registered: false, ..view(9, &[], Some(50)) }), Next::Register);
        assert_eq!(recorder.take(), ["forget"]);
        assert_eq!(gate.generation(), 0);
        assert!(!gate.admits_at(before, || Boottime::from_nanos(60)));
        replica.registered();
        replica.synced(view(9, &[], Some(60)));
        assert_eq!(recorder.take(), ["forget", "lift 1"]);
        let after = gate.generation();
        assert!(after != before && gate.admits_at(after, || Boottime::from_nanos(70)));
        assert!(!gate.admits_at(before, || Boottime::from_nanos(70)), "a late row from before");
    }

    #[test]
    fn another_era_lifts_drops_and_registers_again() {
        let (mut replica, gate, recorder) = replica();
        replica.registered();
        replica.synced(view(7, &[(1, 7, 1)], Some(0)));
        recorder.take();
        let other = View { era: "2".to_owned(), ..view(3, &[(1, 3, 2)], Some(10)) };
        assert_eq!(replica.synced(other.clone()), Next::Register);
        assert_eq!(recorder.take()[..2], ["lift 1", "forget"]);
        assert_eq!(gate.generation(), 0);
        replica.registered();
        recorder.take();
        assert_eq!(replica.synced(other), Next::Confirm(3));
        assert_eq!(recorder.take(), ["fence 2"]);
    }

    #[test]
    fn a_sequence_that_went_back_is_another_history() {
        let (mut replica, gate, recorder) = replica();
        replica.registered();
        replica.synced(view(7, &[(1, 7, 1)], Some(0)));
        let before = gate.generation();
        recorder.take();
        assert_eq!(replica.synced(view(6, &[], Some(10))), Next::Register);
        assert_eq!(recorder.take()[..2], ["lift 1", "forget"]);
        replica.registered();
        assert_eq!(replica.synced(view(6, &[], Some(20))), Next::Confirm(6));
        assert!(gate.generation() != before && !gate.admits_at(before, || Boottime::from_nanos(30)));
    }

    #[test]
    fn a_fence_of_this_server_outlives_an_older_view() {
        let (mut replica, _, recorder) = replica();
        replica.registered();
        replica.synced(view(1, &[], Some(0)));
        replica.fenced_here(2, [(7, key(7))]);
        recorder.take();
        replica.synced(view(1, &[], None));
        assert_eq!(recorder.take(), [""; 0], "that view is older than the fence");
        replica.synced(view(2, &[(7, 2, 7)], None));
        assert_eq!(recorder.take(), [""; 0], "it is known already");
        replica.synced(view(2, &[], None));
        assert_eq!(recorder.take(), ["lift 7"]);
    }
}
