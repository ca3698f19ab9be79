//! A simulated replica: keeps its lease, writes, reads. Each step that a [`Mutant`] breaks checks for that mutant.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::cache::Cache;
use super::database::{Database, Value, target};
use super::world::{Time, World};
use super::{LEASE, Mutant, Read};
use crate::{Boottime, Caches as _, Gate, Next, Registration, Replica, Seq, Token, View, Waiting};

/// How long a node waits for the database's response.
const PATIENCE: Time = LEASE * 6 / 10;

/// What all nodes share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) world: World,
    pub(super) database: Rc<RefCell<Database>>,
    pub(super) reads: Rc<RefCell<Vec<Read>>>,
    pub(super) mutant: Option<Mutant>,
    /// Until when each node is cut from the database.
    pub(super) cut: Rc<RefCell<Vec<Time>>>,
    pub(super) values: Rc<Cell<u64>>,
    pub(super) nodes: Rc<RefCell<Vec<Node>>>,
    pub(super) acknowledged: Rc<Cell<u64>>,
    pub(super) slowest: Rc<Cell<Time>>,
    pub(super) faults: bool,
}

#[derive(Clone)]
pub(super) struct Node {
    number: usize,
    shared: Shared,
    cache: Arc<Cache>,
    gate: Arc<Gate>,
    replica: Rc<RefCell<Replica>>,
    id: Rc<Cell<Token>>,
    woken: Rc<Cell<bool>>,
}

impl Node {
    pub(super) fn new(number: usize, shared: &Shared) -> Self {
        let (cache, gate) =
            (Arc::new(Cache::default()), Arc::new(Gate::shut(Arc::new(crate::clock::Unread))));
        let lease = Duration::from_nanos(LEASE);
        let replica = Replica::new(Arc::clone(&cache) as _, Arc::clone(&gate), lease);
        Self {
            number,
            shared: shared.clone(),
            cache,
            gate,
            replica: Rc::new(RefCell::new(replica)),
            id: Rc::default(),
            woken: Rc::default(),
        }
    }

    fn is(&self, mutant: Mutant) -> bool {
        self.shared.mutant == Some(mutant)
    }

    /// The clock that the protocol uses.
    fn clock(&self) -> Boottime {
        let boottime = self.shared.world.boottime(self.number);
        let clocks = self.shared.world.clocks(self.number);
        if self.is(Mutant::ClockStopsInPauses) {
            Boottime::from_nanos(boottime.as_nanos() - clocks.slept)
        } else if self.is(Mutant::WallClock) {
            Boottime::from_nanos(boottime.as_nanos().saturating_add_signed(clocks.wall))
        } else {
            boottime
        }
    }

    fn delay(&self) -> Time {
        let world = &self.shared.world;
        if self.shared.faults && world.one_in(25) {
            world.between(0, LEASE)
        } else {
            world.between(10, LEASE / 50)
        }
    }

    /// Sends a request to the database. It may be lost, executed late, or executed without a response.
    async fn ask<T: 'static>(&self, call: impl FnOnce(&mut Database, Time) -> T + 'static) -> Option<T> {
        let world = self.shared.world.clone();
        let (out, back) = (self.delay(), self.delay());
        let lost = self.shared.faults && world.one_in(60);
        let cut = self.shared.cut.borrow()[self.number];
        let response: Rc<RefCell<Option<T>>> = Rc::default();
        if cut <= world.now() {
            let (shared, response) = (self.shared.clone(), Rc::clone(&response));
            world.spawn(None, async move {
                shared.world.sleep(out).await;
                let now = shared.world.now();
                let mut database = shared.database.borrow_mut();
                if database.down_until <= now {
                    let given = call(&mut database, now);
                    response.replace(Some(given));
                }
            });
        }
        if lost || out + back > PATIENCE {
            world.sleep(PATIENCE).await;
            return None;
        }
        world.sleep(out + back).await;
        if self.shared.cut.borrow()[self.number] > world.now() { None } else { response.take() }
    }

    /// Keeps the lease until the world ends.
    pub(super) async fn keep(self) {
        let world = self.shared.world.clone();
        loop {
            let earlier = self.id.get();
            let Some(id) = self
                .ask(move |database, _| {
                    database.unregister(earlier);
                    database.register()
                })
                .await
            else {
                world.sleep(LEASE / 10).await;
                continue;
            };
            self.id.set(id);
            self.replica.borrow_mut().registered();
            if self.is(Mutant::OpensBeforeFirstView) {
                let era = self.shared.database.borrow().era.to_string();
                let asked_at = self.clock();
                let view = View { era, registered: true, seq: 0, fences: vec![], asked_at, recorded: None };
                self.replica.borrow_mut().synced(view);
            }
            self.follow(id).await;
        }
    }

    /// Looks and renews until the registration is removed.
    async fn follow(&self, id: Token) {
        let world = &self.shared.world;
        let (mut confirmed, mut renew_at) = (0, 0);
        loop {
            let asked = self.clock();
            let renew = world.now() >= renew_at;
            if renew {
                renew_at = world.now() + LEASE * 3 / 10;
            }
            self.woken.set(false);
            if self.is(Mutant::ConfirmsFirst) {
                let seen = self.shared.database.borrow().look(id, asked).seq;
                self.confirm(id, seen);
            }
            let seen = self.replica.borrow().seen();
            let view = self
                .ask(
                    move |database, _| {
                        if renew { database.renew(id, seen, asked) } else { database.look(id, asked) }
                    },
                )
                .await;
            if view.as_ref().is_some_and(|view| view.recorded.is_some_and(|seq| seq < view.seq)) {
                renew_at = world.now();
            }
            match view.map(|view| self.replica.borrow_mut().synced(self.bent(view))) {
                Some(Next::Register) => return,
                Some(Next::Confirm(seq)) => {
                    if seq != confirmed {
                        self.confirm(id, seq);
                    }
                    confirmed = seq;
                }
                None => world.sleep(LEASE / 50).await,
            }
            while !self.woken.get() && world.now() < renew_at {
                world.sleep(LEASE / 100).await;
            }
        }
    }

    fn bent(&self, view: View) -> View {
        match self.shared.mutant {
            Some(Mutant::LeaseFromResponse) => View { asked_at: self.clock(), ..view },
            Some(Mutant::LeaseFromUnrecorded) => View { recorded: view.recorded.map(|_| view.seq), ..view },
            Some(Mutant::IgnoresRemoval) => View { registered: true, ..view },
            Some(Mutant::LiftsUnseen) => View { seq: Seq::MAX / 2, ..view },
            Some(Mutant::IgnoresEra) => View { era: String::new(), ..view },
            _ => view,
        }
    }

    /// Confirms, without waiting for the response.
    fn confirm(&self, id: Token, seq: Seq) {
        let node = self.clone();
        self.shared.world.spawn(Some(self.number), async move {
            node.ask(move |database, _| database.confirm(id, seq)).await;
        });
    }

    /// Writes until the world ends.
    pub(super) async fn write(self) {
        let world = self.shared.world.clone();
        loop {
            world.sleep(world.between(10, LEASE / 2)).await;
            let places = self.shared.database.borrow().truth.len() as u64;
            let place = (!world.one_in(40)).then(|| world.between(0, places - 1) as usize);
            let number = self.shared.values.get() + places;
            self.shared.values.set(number);
            let value = (place.is_none() || !world.one_in(4)).then_some(number);
            let start = world.now();
            // As in the service: the writer's own cache is fenced before the change and until it is done.
            self.cache.fence(&target(place));
            let done = self.change(place, value).await;
            self.cache.lift(&target(place));
            if done {
                self.shared.acknowledged.set(self.shared.acknowledged.get() + 1);
                self.shared.slowest.set(self.shared.slowest.get().max(world.now() - start));
            }
        }
    }

    async fn change(&self, place: Option<usize>, value: Value) -> bool {
        if let (Some(place), Some(value)) = (place, value) {
            match self.ask(move |database, now| database.create(place, value, now)).await {
                Some(true) => return true,
                Some(false) => {}
                None => return false,
            }
        }
        for _ in 0..3 {
            let Some(token) = self.fenced(place).await else { return false };
            let unchecked = self.is(Mutant::ForgetsFence);
            let made = self.ask(move |database, now| {
                database.change(place, token, value, now) || {
                    if unchecked && let Some(place) = place {
                        database.truth[place].push((now, value));
                    }
                    unchecked
                }
            });
            match made.await {
                Some(true) => return true,
                Some(false) => {}
                None => return false,
            }
        }
        false
    }

    /// Fences a place and waits until no node has it in its cache.
    async fn fenced(&self, place: Option<usize>) -> Option<Token> {
        let early = self.ask(|database, _| database.registrations(LEASE)).await?;
        let (seq, token) = self.ask(move |database, _| database.fence(place)).await?;
        let fenced_at = self.clock();
        self.replica.borrow_mut().fenced_here(seq, [(token, target(place))]);
        for node in self.shared.nodes.borrow().iter() {
            let (woken, delay, world) = (Rc::clone(&node.woken), self.delay(), self.shared.world.clone());
            if !(self.shared.faults && world.one_in(10)) {
                self.shared.world.spawn(None, async move {
                    world.sleep(delay).await;
                    woken.set(true);
                });
            }
        }
        let found = if self.is(Mutant::LooksBeforeFence) {
            early
        } else {
            self.ask(|database, _| database.registrations(LEASE)).await?
        };
        let lease = if self.is(Mutant::WaitsHalf) { LEASE / 2 } else { LEASE };
        let found = found
            .into_iter()
            .map(|found| Registration { lease: Duration::from_nanos(lease), ..found })
            .filter(|found| found.id != self.id.get());
        let mut waiting = Waiting::new(seq, fenced_at, found);
        if self.is(Mutant::WaitsForNoReplica) {
            return Some(token);
        }
        while !waiting.is_over() {
            self.shared.world.sleep(LEASE / 50).await;
            let overdue = waiting.overdue(self.clock());
            if !overdue.is_empty() {
                if !self.is(Mutant::LeavesRegistered) {
                    let ids = overdue.clone();
                    self.ask(move |database, _| database.remove(&ids, seq)).await?;
                }
                waiting.settled(&overdue);
            }
            if let Some(found) = self.ask(|database, _| database.registrations(LEASE)).await {
                waiting.observed(&found);
            }
        }
        Some(token)
    }

    /// Reads until the world ends.
    pub(super) async fn read(self) {
        let world = self.shared.world.clone();
        loop {
            world.sleep(world.between(1, LEASE / 10)).await;
            let places = self.shared.database.borrow().truth.len() as u64;
            let place = world.between(0, places - 1) as usize;
            let start = world.now();
            let (hit, value) = match self.remembered(place).await {
                Some(value) => (true, Some(Some(value))),
                None => (false, self.load(place).await),
            };
            if let Some(value) = value {
                let read = Read { place, value, start, ended: world.now(), hit };
                self.shared.reads.borrow_mut().push(read);
            }
        }
    }

    /// Lets the node's other threads run in between, rarely for long.
    async fn step(&self) {
        let world = &self.shared.world;
        let time = if world.one_in(8) { world.between(1, 30) } else { 0 };
        let time = if self.shared.faults && world.one_in(40) { world.between(1, LEASE) } else { time };
        world.sleep(time).await;
    }

    async fn remembered(&self, place: usize) -> Option<u64> {
        let now = || self.clock();
        let (value, generation) = self.cache.get(place)?;
        self.step().await;
        let generation = if self.is(Mutant::IgnoresGeneration) { self.gate.generation() } else { generation };
        if self.is(Mutant::IgnoresLease) || self.gate.admits_at(generation, now) {
            return Some(value);
        }
        if self.gate.generation() != generation {
            self.cache.drop_row(place);
        }
        None
    }

    async fn load(&self, place: usize) -> Option<Value> {
        let (behind, overtaken) = (self.is(Mutant::KeepsBehindFences), self.is(Mutant::KeepsOvertakenRows));
        if self.cache.is_fenced(place) && !behind {
            return self.ask(move |database, _| database.value(place)).await;
        }
        let load = self.cache.begin(place);
        self.step().await;
        let fenced = self.cache.is_fenced(place) && !behind;
        let generation = self.gate.generation();
        self.step().await;
        let value = self.ask(move |database, _| database.value(place)).await?;
        self.step().await;
        if !fenced && generation != 0 {
            self.cache.keep(place, load, value, generation, overtaken);
        }
        Some(value)
    }
}
