//! Counters of a lease, for metrics.

use std::time::Duration;

/// The upper bounds, in seconds, of [`LeaseStats::waits`]. Longer waits are counted last.
pub const WAIT_BUCKETS: [f64; 12] =
    [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];

/// A replica's lease and fences, since the store was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaseStats {
    /// The remaining time of the lease. At zero, no row is served from the cache.
    pub remaining: Duration,
    /// Renewals that were acknowledged.
    pub renewals: u64,
    /// Registrations: one at the start, and one more each time that the caches were dropped.
    pub registrations: u64,
    /// Fences that this server made, for its changes.
    pub fences: u64,
    /// Fences of all servers that stood at the last look.
    pub standing: u64,
    /// Registrations of other servers that this one removed after their leases had expired.
    pub removed: u64,
    /// Waits for the other servers, between a fence and its change, by their length; see [`WAIT_BUCKETS`].
    pub waits: [u64; WAIT_BUCKETS.len() + 1],
    /// The total duration of these waits.
    pub waited: Duration,
}
