//! Model check (deterministic simulation): runs the protocol's own code in a simulated world and checks every read.
//!
//! Nodes run [`Replica`](super::Replica), [`Gate`](super::Gate) and [`Waiting`](super::Waiting) as an engine does, over
//! a database that runs one transaction at a time. The simulator injects these faults:
//! * requests to the database are delayed, lost, executed late, or executed without a response;
//! * nodes are paused for longer than a lease, and partitioned from the database;
//! * the database crashes and loses commits that were not durable, or a standby is promoted;
//! * clocks drift and are set;
//! * fences are removed while their writers wait;
//! * the whole content is replaced.
//!
//! The value that a read returned must have been stored at some instant between the read's beginning and its end. That
//! is linearizability, with the commit as a write's instant.
//!
//! To show that the check can fail, each [`Mutant`] breaks one rule of the protocol, and the check must find each one.
//!
//! Not modelled: an old primary that still serves reads after a promotion (see `docs/freshness.md`).
//!
//! `AGENTROUTER_MODEL_RUNS` sets the number of simulated worlds.

mod cache;
mod database;
mod node;
mod world;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use self::database::{Database, Value};
use self::node::{Node, Shared};
use self::world::{Time, World};

/// The length of a lease.
const LEASE: Time = 10_000;
const NODES: usize = 3;
const PLACES: usize = 3;
/// How long a world lasts.
const TIME: Time = LEASE * 60;

/// A broken rule of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutant {
    IgnoresLease,
    IgnoresGeneration,
    ConfirmsFirst,
    WaitsForNoReplica,
    WaitsHalf,
    LooksBeforeFence,
    LeaseFromResponse,
    LeaseFromUnrecorded,
    LeavesRegistered,
    IgnoresRemoval,
    IgnoresEra,
    ForgetsFence,
    KeepsBehindFences,
    KeepsOvertakenRows,
    OpensBeforeFirstView,
    LiftsUnseen,
    ClockStopsInPauses,
    WallClock,
}

const MUTANTS: [Mutant; 18] = [
    Mutant::IgnoresLease,
    Mutant::IgnoresGeneration,
    Mutant::ConfirmsFirst,
    Mutant::WaitsForNoReplica,
    Mutant::WaitsHalf,
    Mutant::LooksBeforeFence,
    Mutant::LeaseFromResponse,
    Mutant::LeaseFromUnrecorded,
    Mutant::LeavesRegistered,
    Mutant::IgnoresRemoval,
    Mutant::IgnoresEra,
    Mutant::ForgetsFence,
    Mutant::KeepsBehindFences,
    Mutant::KeepsOvertakenRows,
    Mutant::OpensBeforeFirstView,
    Mutant::LiftsUnseen,
    Mutant::ClockStopsInPauses,
    Mutant::WallClock,
];

/// One read, as its caller saw it.
#[derive(Clone, Copy, Debug)]
struct Read {
    place: usize,
    value: Value,
    start: Time,
    ended: Time,
    hit: bool,
}

/// The observations of one world.
struct Seen {
    wrong: Vec<Read>,
    reads: usize,
    hits: usize,
    acknowledged: u64,
    slowest: Time,
}

fn simulate(seed: u64, mutant: Option<Mutant>, faults: bool) -> Seen {
    let world = World::new(seed, NODES);
    let shared = Shared {
        world: world.clone(),
        database: Rc::new(RefCell::new(Database::new(PLACES))),
        reads: Rc::default(),
        mutant,
        cut: Rc::new(RefCell::new(vec![0; NODES])),
        values: Rc::new(Cell::new(0)),
        nodes: Rc::default(),
        acknowledged: Rc::default(),
        slowest: Rc::default(),
        faults,
    };
    let nodes: Vec<Node> = (0..NODES).map(|number| Node::new(number, &shared)).collect();
    shared.nodes.borrow_mut().extend(nodes.iter().cloned());
    for (number, node) in nodes.into_iter().enumerate() {
        world.spawn(Some(number), node.clone().keep());
        world.spawn(Some(number), node.clone().write());
        for _ in 0..2 {
            world.spawn(Some(number), node.clone().read());
        }
    }
    if faults {
        world.spawn(None, misfortune(shared.clone()));
    }
    world.run(TIME);
    world.end();
    shared.nodes.borrow_mut().clear();
    let (reads, database) = (shared.reads.borrow(), shared.database.borrow());
    Seen {
        wrong: reads.iter().filter(|read| !is_true(&database, read)).copied().collect(),
        reads: reads.len(),
        hits: reads.iter().filter(|read| read.hit).count(),
        acknowledged: shared.acknowledged.get(),
        slowest: shared.slowest.get(),
    }
}

/// Injects faults: pauses, partitions, crashes, clock changes, removed fences.
async fn misfortune(shared: Shared) {
    let world = shared.world.clone();
    loop {
        world.sleep(world.between(1, LEASE / 2)).await;
        let node = world.between(0, NODES as u64 - 1) as usize;
        match world.between(0, 9) {
            0 | 1 => world.pause(node, world.between(1, LEASE * 3)),
            2 | 3 => shared.cut.borrow_mut()[node] = world.now() + world.between(1, LEASE * 3),
            4 if world.one_in(4) => shared.database.borrow_mut().back_up(),
            4 if world.one_in(4) => {
                let until = world.now() + world.between(LEASE * 11 / 10, LEASE * 2);
                shared.database.borrow_mut().set_back(until);
            }
            4 => {
                let (until, promoted) = (world.now() + world.between(1, LEASE), world.one_in(2));
                shared.database.borrow_mut().crash(until, promoted);
            }
            5 | 6 => world.set_wall(node, world.between(0, LEASE * 4) as i64 - LEASE as i64 * 2),
            _ => {
                let index = world.between(0, 1000);
                let mut database = shared.database.borrow_mut();
                if let Some(token) = database.fence_at(index) {
                    database.clean(token);
                }
            }
        }
    }
}

/// Whether the value of a read was stored at some instant during the read.
fn is_true(database: &Database, read: &Read) -> bool {
    let truth = &database.truth[read.place];
    truth.iter().enumerate().any(|(index, (from, value))| {
        let until = truth.get(index + 1).map_or(Time::MAX, |(next, _)| *next);
        *value == read.value && *from <= read.ended && read.start <= until
    })
}

/// The number of worlds to simulate.
fn runs() -> u64 {
    std::env::var("AGENTROUTER_MODEL_RUNS").ok().and_then(|text| text.parse().ok()).unwrap_or(300)
}

#[test]
fn no_read_is_stale_under_any_fault() {
    let (mut reads, mut hits, mut writes) = (0, 0, 0);
    for seed in 0..runs() {
        let seen = simulate(seed, None, true);
        assert!(seen.wrong.is_empty(), "seed {seed}: {:?}", seen.wrong[0]);
        reads += seen.reads;
        hits += seen.hits;
        writes += seen.acknowledged;
    }
    println!("{} worlds: {reads} reads, {hits} of them from memory, {writes} writes acknowledged", runs());
    assert!(hits * 10 > reads && writes > 20 * runs(), "the load is sufficient");
}

#[test]
fn without_faults_most_reads_come_from_memory_and_no_write_waits_for_a_lease() {
    for seed in 0..20 {
        let seen = simulate(seed, None, false);
        assert!(seen.wrong.is_empty(), "seed {seed}: {:?}", seen.wrong[0]);
        assert!(seen.hits * 4 > seen.reads, "{} of {}", seen.hits, seen.reads);
        assert!(seen.slowest < LEASE / 2, "a write took {}", seen.slowest);
    }
}

#[test]
fn every_broken_rule_is_found() {
    let mut missed = Vec::new();
    for mutant in MUTANTS {
        let found =
            (0..runs().max(300) * 5).find(|&seed| !simulate(seed, Some(mutant), true).wrong.is_empty());
        match found {
            Some(seed) => println!("{mutant:?} is found in world {seed}"),
            None => missed.push(mutant),
        }
    }
    assert_eq!(missed, [], "the check misses these");
}

#[test]
fn the_same_seed_is_the_same_world() {
    let [first, second] = [simulate(7, None, true), simulate(7, None, true)];
    assert_eq!(
        (first.reads, first.hits, first.acknowledged),
        (second.reads, second.hits, second.acknowledged)
    );
}
