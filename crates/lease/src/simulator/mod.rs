//! The model check: the protocol's own code in a simulated world, and a judge who knows the truth.
//!
//! Nodes run [`Replica`](super::Replica), [`Gate`](super::Gate) and [`Waiting`](super::Waiting) as an engine does, over
//! a database whose transactions happen one after the other. Calls are delayed, lost, executed late or without an
//! answer; nodes are paused for longer than a lease and cut from the database; the database crashes and forgets what
//! was not durable, or is promoted; clocks drift and are set; fences are cleaned away under their writers; the whole
//! content is replaced. What every read returned must have been the truth at some instant between its beginning and its
//! end: that is linearizability, with the commit as a write's instant.
//!
//! A check that finds nothing may be blind, so each rule of the protocol is broken in turn ([`Mutant`]), and every one
//! of these must be found.
//!
//! Not modelled: an old primary that goes on answering reads after a promotion (see `docs/freshness.md`).
//!
//! `AGENTROUTER_MODEL_RUNS` sets how many worlds are looked at.

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

/// A rule of the protocol, broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutant {
    IgnoresLease,
    IgnoresGeneration,
    ConfirmsFirst,
    WaitsForNobody,
    WaitsHalf,
    LooksBeforeFence,
    LeaseFromAnswer,
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
    Mutant::WaitsForNobody,
    Mutant::WaitsHalf,
    Mutant::LooksBeforeFence,
    Mutant::LeaseFromAnswer,
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
    began: Time,
    ended: Time,
    hit: bool,
}

/// What became of a world.
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

/// Pauses, cuts, crashes, clocks that are set, fences that vanish.
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

/// Whether what was read was stored at some instant of the read.
fn is_true(database: &Database, read: &Read) -> bool {
    let truth = &database.truth[read.place];
    truth.iter().enumerate().any(|(index, (from, value))| {
        let until = truth.get(index + 1).map_or(Time::MAX, |(next, _)| *next);
        *value == read.value && *from <= read.ended && read.began <= until
    })
}

/// How many worlds to look at.
fn runs() -> u64 {
    std::env::var("AGENTROUTER_MODEL_RUNS").ok().and_then(|text| text.parse().ok()).unwrap_or(300)
}

#[test]
fn no_read_is_stale_whatever_happens() {
    let (mut reads, mut hits, mut writes) = (0, 0, 0);
    for seed in 0..runs() {
        let seen = simulate(seed, None, true);
        assert!(seen.wrong.is_empty(), "seed {seed}: {:?}", seen.wrong[0]);
        reads += seen.reads;
        hits += seen.hits;
        writes += seen.acknowledged;
    }
    println!("{} worlds: {reads} reads, {hits} of them from memory, {writes} writes acknowledged", runs());
    assert!(hits * 10 > reads && writes > 20 * runs(), "nothing to see here");
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
    assert_eq!(missed, [], "these pass for the protocol");
}

#[test]
fn the_same_seed_is_the_same_world() {
    let [first, second] = [simulate(7, None, true), simulate(7, None, true)];
    assert_eq!(
        (first.reads, first.hits, first.acknowledged),
        (second.reads, second.hits, second.acknowledged)
    );
}
