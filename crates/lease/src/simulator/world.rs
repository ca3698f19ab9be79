//! Time, randomness and tasks of the simulated world. It runs on one thread, and a seed decides everything.
//!
//! A task is a future that waits only for time. Each task belongs to a node or to the network. The tasks of a paused
//! node (SIGSTOP, a suspended machine) stop until the node resumes, while its boot clock continues.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::Boottime;

/// Simulated time; a lease is [`super::LEASE`] of it.
pub(super) type Time = u64;

/// A random number generator (SplitMix64), written here so that a seed gives the same numbers in every version.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number from `low` to `high`, both included.
    pub(super) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    pub(super) fn one_in(&mut self, count: u64) -> bool {
        self.next().is_multiple_of(count)
    }
}

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// A node's clocks. The boot clock runs a little fast or slow. The clock that stops in a pause and the wall clock are
/// for the mutants that use them.
#[derive(Clone, Copy, Default)]
pub(super) struct Clocks {
    /// Deviation in thousandths.
    pub(super) drift: i64,
    /// By how much the wall clock was set.
    pub(super) wall: i64,
    /// How long the node has been paused, in all.
    pub(super) slept: Time,
    /// Until when it is paused.
    pub(super) paused_until: Time,
}

struct WorldState {
    now: Time,
    random: Random,
    order: u64,
    due: BinaryHeap<Reverse<(Time, u64, usize)>>,
    tasks: HashMap<usize, (Option<usize>, Option<Task>)>,
    born: Vec<(Option<usize>, Task)>,
    current: usize,
    clocks: Vec<Clocks>,
}

/// A handle to the world.
#[derive(Clone)]
pub(super) struct World(Rc<RefCell<WorldState>>);

impl World {
    pub(super) fn new(seed: u64, nodes: usize) -> Self {
        let mut random = Random::new(seed);
        let clocks = (0..nodes)
            .map(|_| Clocks { drift: random.between(0, 40) as i64 - 20, ..Clocks::default() })
            .collect();
        Self(Rc::new(RefCell::new(WorldState {
            now: 0,
            random,
            order: 0,
            due: BinaryHeap::new(),
            tasks: HashMap::new(),
            born: Vec::new(),
            current: 0,
            clocks,
        })))
    }

    pub(super) fn now(&self) -> Time {
        self.0.borrow().now
    }

    pub(super) fn between(&self, low: u64, high: u64) -> u64 {
        self.0.borrow_mut().random.between(low, high)
    }

    pub(super) fn one_in(&self, count: u64) -> bool {
        self.0.borrow_mut().random.one_in(count)
    }

    /// Starts a task of `node`, or of the network.
    pub(super) fn spawn(&self, node: Option<usize>, task: impl Future<Output = ()> + 'static) {
        self.0.borrow_mut().born.push((node, Box::pin(task)));
    }

    /// The boot clock of `node`.
    pub(super) fn boottime(&self, node: usize) -> Boottime {
        let inner = self.0.borrow();
        let clocks = inner.clocks[node];
        // Each node's clock has an offset of its own, so that clocks of two nodes cannot be compared.
        let shown = (1 + node as u64) * 1_000_000 + inner.now;
        Boottime::from_nanos(shown.saturating_add_signed(inner.now as i64 * clocks.drift / 1000))
    }

    pub(super) fn clocks(&self, node: usize) -> Clocks {
        self.0.borrow().clocks[node]
    }

    pub(super) fn set_wall(&self, node: usize, by: i64) {
        self.0.borrow_mut().clocks[node].wall += by;
    }

    /// Stops `node` for a while.
    pub(super) fn pause(&self, node: usize, time: Time) {
        let mut inner = self.0.borrow_mut();
        let until = inner.now + time;
        let clocks = &mut inner.clocks[node];
        if clocks.paused_until < until {
            clocks.slept += time;
            clocks.paused_until = until;
        }
    }

    pub(super) fn sleep(&self, time: Time) -> Sleep {
        Sleep { world: self.clone(), until: self.now() + time, asked: false }
    }

    /// Runs everything until `end`.
    pub(super) fn run(&self, end: Time) {
        loop {
            self.adopt();
            let Some(Reverse((at, _, id))) = self.0.borrow_mut().due.pop() else { return };
            if at > end {
                return;
            }
            let mut inner = self.0.borrow_mut();
            let Some((node, _)) = inner.tasks.get(&id) else { continue };
            let asleep_until = node.map_or(0, |node| inner.clocks[node].paused_until);
            if asleep_until > at {
                let order = inner.order();
                inner.due.push(Reverse((asleep_until, order, id)));
                continue;
            }
            let Some(mut task) = inner.tasks.get_mut(&id).and_then(|(_, task)| task.take()) else { continue };
            inner.now = at;
            inner.current = id;
            drop(inner);
            let ended = task.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready();
            let mut inner = self.0.borrow_mut();
            if ended {
                inner.tasks.remove(&id);
            } else if let Some((_, place)) = inner.tasks.get_mut(&id) {
                *place = Some(task);
            }
        }
    }

    /// Drops all tasks. They hold references to the world, which would otherwise never be freed.
    pub(super) fn end(&self) {
        let tasks = std::mem::take(&mut self.0.borrow_mut().tasks);
        let born = std::mem::take(&mut self.0.borrow_mut().born);
        drop((tasks, born));
    }

    fn adopt(&self) {
        let mut inner = self.0.borrow_mut();
        for (node, task) in std::mem::take(&mut inner.born) {
            let (now, order) = (inner.now, inner.order());
            let id = order as usize;
            inner.tasks.insert(id, (node, Some(task)));
            inner.due.push(Reverse((now, order, id)));
        }
    }
}

impl WorldState {
    fn order(&mut self) -> u64 {
        self.order += 1;
        self.order
    }
}

/// Waits for an instant.
pub(super) struct Sleep {
    world: World,
    until: Time,
    asked: bool,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        let world = self.world.clone();
        let mut inner = world.0.borrow_mut();
        if self.asked && inner.now >= self.until {
            return Poll::Ready(());
        }
        if !self.asked {
            self.asked = true;
            let (order, current) = (inner.order(), inner.current);
            inner.due.push(Reverse((self.until, order, current)));
        }
        Poll::Pending
    }
}
