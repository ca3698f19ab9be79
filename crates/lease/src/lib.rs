//! Read leases: the protocol by which replicas over one database serve rows from their caches without staleness.
//!
//! This crate is the protocol only: it has no sockets, tasks or clocks. The PostgreSQL engine and the simulator drive
//! it. `docs/freshness.md` describes the protocol, why it holds, and what it does not cover.
//!
//! ```text
//! clock.rs     the clock that leases are counted by
//! gate.rs      what a cache checks before it serves a row: is the lease valid at this instant?
//! replica.rs   keeps the lease: follows fences, notifies caches, opens, extends and closes the gate
//! waiting.rs   a writer's wait: the replicas that have yet to confirm, and those whose lease has expired
//! simulator/   the model check: these three, in a simulated world with delays, losses, pauses and partitions
//! stats.rs     counters
//! ```
//!
//! In short. Before a change of a row that is there, its writer commits a *fence* for it. Every replica that sees the
//! fence drops its row, caches none while the fence stands, and *confirms*. The writer continues when every registered
//! replica has confirmed or its lease has expired; in the latter case it removes the registration first. The change
//! itself removes the fence in its own transaction, and fails if the fence was removed already. So when a change becomes
//! visible, no replica has the row before it in its cache.
//!
//! Invariants that a driver must keep. For each, a mutant in the simulator breaks it, and the model check finds it:
//! 1. the instant that a look or a renewal counts from is read before it is sent;
//! 2. a fence is confirmed after [`Replica::synced`] has returned, not before, and a renewal records [`Replica::seen`];
//! 3. [`Waiting`] is made from a look at the registrations that began after the fence was committed;
//! 4. a replica whose lease was waited out is removed durably before the change, and one that finds itself removed
//!    calls [`Replica::removed`];
//! 5. the change deletes its fence by token in its own transaction, and is not made unless exactly that row was there.

mod clock;
mod gate;
mod replica;
#[cfg(test)]
mod simulator;
mod stats;
mod waiting;

use std::time::Duration;

use agentrouter_model::Place;

pub use clock::{Boottime, LeaseClock, SystemLeaseClock};
pub use gate::Gate;
pub use replica::{Next, Replica, View};
pub use stats::{LeaseStats, WAIT_BUCKETS};
pub use waiting::{Registration, Waiting};

/// How long a lease is valid, counted from before its renewal was sent.
pub const LEASE: Duration = Duration::from_secs(1);
/// How often a lease is renewed. Two renewals in a row may be lost without a gap.
pub const RENEW_EVERY: Duration = Duration::from_millis(300);

/// The number of a fence in the order of commits: a replica that has seen one has seen all before it.
pub type Seq = i64;

/// The id of one fence. It is random, so that none is used twice even when a database is restored.
pub type Token = u128;

/// The target of a fence.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// The active version of a secret.
    Place(Place),
    /// An API key, by the SHA-256 of the whole of it.
    Key([u8; 32]),
    /// Everything, for example when the whole store is replaced.
    Everything,
}

/// The caches of a replica. Called by the task that keeps its lease; must not block.
pub trait Caches: Send + Sync {
    /// Drops the target, also what is being loaded for it, and caches nothing for it until as many calls of
    /// [`Caches::lift`] have come. When it returns, no read that begins afterwards gets the target from the cache.
    fn fence(&self, target: &Target);

    /// Removes one fence.
    fn lift(&self, target: &Target);

    /// Drops everything. Fences stay.
    fn forget(&self);
}
