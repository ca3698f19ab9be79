//! The shared database of the simulated world. Each call is one transaction, and transactions run one after another.

use std::collections::BTreeMap;

use super::world::Time;
use crate::{Boottime, Registration, Seq, Target, Token, View};

/// What is stored at a place; none for nothing. Every write has a value of its own.
pub(super) type Value = Option<u64>;

/// The tables of the protocol, as a backup contains them.
#[derive(Clone, Default)]
struct Tables {
    seq: Seq,
    fences: BTreeMap<Token, (Seq, Option<usize>)>,
    /// For each replica: the confirmed sequence, and the durably confirmed one.
    replicas: BTreeMap<Token, (Seq, Seq)>,
}

#[derive(Default)]
pub(super) struct Database {
    pub(super) era: u64,
    pub(super) down_until: Time,
    tables: Tables,
    /// The last token. It stands for random ids: none is used twice.
    next: Token,
    backup: Option<(Tables, Vec<Value>)>,
    /// The history of each place: each value with the time from which it was stored.
    pub(super) truth: Vec<Vec<(Time, Value)>>,
}

impl Database {
    pub(super) fn new(places: usize) -> Self {
        Self { truth: vec![vec![(0, None)]; places], ..Self::default() }
    }

    pub(super) fn value(&self, place: usize) -> Value {
        self.truth[place].last().and_then(|(_, value)| *value)
    }

    fn set(&mut self, place: usize, value: Value, now: Time) {
        self.truth[place].push((now, value));
    }

    pub(super) fn register(&mut self) -> Token {
        self.next += 1;
        self.tables.replicas.insert(self.next, (0, 0));
        self.next
    }

    pub(super) fn unregister(&mut self, id: Token) {
        self.tables.replicas.remove(&id);
    }

    pub(super) fn renew(&mut self, id: Token, confirmed: Seq, asked: Boottime) -> View {
        let registered = self.tables.replicas.contains_key(&id);
        if let Some(replica) = self.tables.replicas.get_mut(&id) {
            *replica = (replica.0.max(confirmed), replica.1.max(confirmed));
        }
        View { recorded: Some(confirmed), registered, ..self.look(id, asked) }
    }

    pub(super) fn look(&self, id: Token, asked_at: Boottime) -> View {
        View {
            era: self.era.to_string(),
            registered: self.tables.replicas.contains_key(&id),
            seq: self.tables.seq,
            fences: self
                .tables
                .fences
                .iter()
                .map(|(token, (seq, place))| (*token, *seq, target(*place)))
                .collect(),
            asked_at,
            recorded: None,
        }
    }

    pub(super) fn confirm(&mut self, id: Token, seq: Seq) {
        if let Some(replica) = self.tables.replicas.get_mut(&id) {
            replica.0 = replica.0.max(seq);
        }
    }

    /// A fence for a place, or for all of them.
    pub(super) fn fence(&mut self, place: Option<usize>) -> (Seq, Token) {
        self.tables.seq += 1;
        self.next += 1;
        self.tables.fences.insert(self.next, (self.tables.seq, place));
        (self.tables.seq, self.next)
    }

    /// Removes a fence. Any node may do it.
    pub(super) fn clean(&mut self, token: Token) {
        self.tables.fences.remove(&token);
    }

    pub(super) fn fence_at(&self, index: u64) -> Option<Token> {
        let count = self.tables.fences.len() as u64;
        (count > 0).then(|| *self.tables.fences.keys().nth((index % count) as usize).expect("within"))
    }

    pub(super) fn registrations(&self, lease: Time) -> Vec<Registration<Token>> {
        let lease = std::time::Duration::from_nanos(lease);
        self.tables
            .replicas
            .iter()
            .map(|(id, (seq, _))| Registration { id: *id, confirmed: *seq, lease })
            .collect()
    }

    pub(super) fn remove(&mut self, ids: &[Token], seq: Seq) {
        self.tables.replicas.retain(|id, (confirmed, _)| !ids.contains(id) || *confirmed >= seq);
    }

    /// Creates a value if the place is empty. Returns whether it was.
    pub(super) fn create(&mut self, place: usize, value: u64, now: Time) -> bool {
        let absent = self.value(place).is_none();
        if absent {
            self.set(place, Some(value), now);
        }
        absent
    }

    /// Changes a place (or all places: a restore) if the fence is there. Returns whether it was.
    pub(super) fn change(&mut self, place: Option<usize>, token: Token, value: Value, now: Time) -> bool {
        if self.tables.fences.remove(&token).is_none() {
            return false;
        }
        match place {
            Some(place) => self.set(place, value, now),
            None => {
                self.era += 1;
                for place in 0..self.truth.len() {
                    self.set(place, value.map(|value| value + place as u64), now);
                }
            }
        }
        true
    }

    pub(super) fn back_up(&mut self) {
        let values = (0..self.truth.len()).map(|place| self.value(place)).collect();
        self.backup = Some((self.tables.clone(), values));
    }

    /// Restores the backup and starts as another era. A restore takes longer than a lease.
    pub(super) fn set_back(&mut self, until: Time) {
        let Some((tables, values)) = self.backup.clone() else { return };
        self.tables = tables;
        let until = until.max(self.down_until);
        for (place, value) in values.into_iter().enumerate() {
            self.set(place, value, until);
        }
        self.crash(until, true);
    }

    /// Crashes and restarts. Durable commits survive, others may be lost. If `promoted`, the era changes.
    pub(super) fn crash(&mut self, until: Time, promoted: bool) {
        self.down_until = until.max(self.down_until);
        for (confirmed, durable) in self.tables.replicas.values_mut() {
            *confirmed = *durable;
        }
        self.era += u64::from(promoted);
    }
}

/// The target of a place. The digest of a key carries the place's number.
pub(super) fn target(place: Option<usize>) -> Target {
    place.map_or(Target::Everything, |place| Target::Key([place as u8; 32]))
}
