//! Read leases over PostgreSQL: the driver of [`agentrouter_lease`].
//!
//! ```text
//! keeper.rs   one task and one connection: registers this server, renews its lease, confirms fences
//! fencer.rs   one task and one connection: commits fences, waits for the other replicas, removes fences
//! wire.rs     rows and parameters
//! ```
//!
//! A fence wakes the other replicas by NOTIFY, and a confirmation wakes the waiting writers. A lost notification causes
//! a delay only: a replica sees the fence at its next renewal, and a writer polls the registrations. Neither task
//! shares a connection with reads or writes, so a busy connection pool does not delay a renewal.
//!
//! The protocol relies on durable commits of registrations, renewals, removals, fences and changes. The server reports
//! a commit that stopped waiting for its synchronous standby as a success with a warning. Such a commit counts as not
//! made.

mod fencer;
mod keeper;
pub(super) mod wire;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use self::fencer::Fencer;
use self::keeper::Keeper;
use super::link::Dialer;
use agentrouter_lease::{Caches, Gate, LEASE, LeaseClock, LeaseStats, Replica, Target, Token, WAIT_BUCKETS};
use agentrouter_store::StoreError;

/// The id of a registration: a random number from the database.
pub(super) type Id = u128;

/// This server's part in the protocol.
pub(super) struct Freshness {
    shared: Arc<Shared>,
    dialer: Arc<Dialer>,
    name: String,
    fencer: Fencer,
    keeper: Mutex<Option<Keeper>>,
}

/// What the two tasks share.
struct Shared {
    gate: Arc<Gate>,
    /// None until caches are attached.
    replica: Mutex<Option<Member>>,
    counters: LeaseCounters,
}

/// This server as a replica.
struct Member {
    replica: Replica,
    /// The id of its registration, if it has one.
    id: Option<Id>,
}

#[derive(Default)]
struct LeaseCounters {
    renewals: AtomicU64,
    registrations: AtomicU64,
    fences: AtomicU64,
    standing: AtomicU64,
    removed: AtomicU64,
    waits: [AtomicU64; WAIT_BUCKETS.len() + 1],
    waited_nanos: AtomicU64,
}

impl LeaseCounters {
    fn waited(&self, time: Duration) {
        let bucket = WAIT_BUCKETS.iter().position(|bound| time.as_secs_f64() <= *bound);
        self.waits[bucket.unwrap_or(WAIT_BUCKETS.len())].fetch_add(1, Ordering::Relaxed);
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.waited_nanos.fetch_add(nanos, Ordering::Relaxed);
    }
}

impl Freshness {
    /// Starts the fencer. [`Freshness::attach`] starts the leases. `name` is shown to operators.
    /// Leases are counted by `clock`.
    pub(super) fn start(dialer: &Arc<Dialer>, name: &str, clock: Arc<dyn LeaseClock>) -> Self {
        let shared = Arc::new(Shared {
            gate: Arc::new(Gate::shut(clock)),
            replica: Mutex::new(None),
            counters: LeaseCounters::default(),
        });
        Self {
            fencer: Fencer::start(Arc::clone(dialer), Arc::clone(&shared)),
            shared,
            dialer: Arc::clone(dialer),
            name: name.to_owned(),
            keeper: Mutex::new(None),
        }
    }

    pub(super) fn gate(&self) -> Arc<Gate> {
        Arc::clone(&self.shared.gate)
    }

    /// Registers this server and renews its lease until [`Freshness::close`]. A second call does nothing.
    pub(super) fn attach(&self, caches: Weak<dyn Caches>) {
        let mut keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        if keeper.is_none() {
            let caches = Arc::new(Loose(caches));
            let replica = Replica::new(caches, Arc::clone(&self.shared.gate), LEASE);
            *self.shared.member() = Some(Member { replica, id: None });
            let (dialer, shared) = (Arc::clone(&self.dialer), Arc::clone(&self.shared));
            *keeper = Some(Keeper::start(dialer, shared, self.name.clone()));
        }
    }

    /// Fences a target and waits until no replica has it in its cache.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] within a few seconds; nothing has happened then.
    pub(super) async fn fence(&self, target: Target) -> Result<Token, StoreError> {
        self.fencer.fence(target).await
    }

    /// Releases a fence after its change has ended, whether or not the change removed the fence.
    pub(super) fn release(&self, token: Token) {
        self.fencer.release(token);
    }

    pub(super) fn stats(&self) -> LeaseStats {
        let counters = &self.shared.counters;
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LeaseStats {
            remaining: self.shared.gate.remaining().unwrap_or_default(),
            renewals: load(&counters.renewals),
            registrations: load(&counters.registrations),
            fences: load(&counters.fences),
            standing: load(&counters.standing),
            removed: load(&counters.removed),
            waits: std::array::from_fn(|bucket| load(&counters.waits[bucket])),
            waited: Duration::from_nanos(load(&counters.waited_nanos)),
        }
    }

    /// Removes the registration, so that no writer waits for this server, and ends the tasks.
    pub(super) async fn close(&self) {
        let keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(keeper) = keeper {
            keeper.close().await;
        }
        self.fencer.close();
    }
}

impl Shared {
    fn member(&self) -> MutexGuard<'_, Option<Member>> {
        self.replica.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Caches that may already be dropped.
struct Loose(Weak<dyn Caches>);

impl Caches for Loose {
    fn fence(&self, target: &Target) {
        if let Some(caches) = self.0.upgrade() {
            caches.fence(target);
        }
    }

    fn lift(&self, target: &Target) {
        if let Some(caches) = self.0.upgrade() {
            caches.lift(target);
        }
    }

    fn forget(&self) {
        if let Some(caches) = self.0.upgrade() {
            caches.forget();
        }
    }
}
