//! Log lines that clients cause: a bound for each address, and one for all of them.
//!
//! A task that works for a client runs in [`of_request`] or [`of_connection`]. A line that is logged there counts against
//! the client's address, whichever crate logs it. Lines above the rate are counted and not written.

use std::future::Future;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter};

use crate::network;

/// How many clients may log at their full rate at once.
const CLIENTS: u32 = 100;

static RATES: OnceLock<LogRates> = OnceLock::new();
static SUPPRESSED: AtomicU64 = AtomicU64::new(0);

struct LogRates {
    each: DefaultKeyedRateLimiter<IpAddr>,
    all: DefaultDirectRateLimiter,
}

tokio::task_local! {
    /// The client that the task works for.
    static CLIENT: LoggedClient;
}

#[derive(Clone)]
struct LoggedClient {
    address: Option<IpAddr>,
    request_id: Option<Arc<str>>,
}

/// Sets the lines per second of one address. 0 means no limit.
pub(super) fn limit(rate: u32) {
    if let Some(rate) = NonZeroU32::new(rate) {
        let all = NonZeroU32::new(rate.get().saturating_mul(CLIENTS)).unwrap_or(rate);
        // A second start, in tests, keeps the rates of the first.
        let _ = RATES.set(LogRates {
            each: RateLimiter::keyed(Quota::per_second(rate)),
            all: RateLimiter::direct(Quota::per_second(all)),
        });
    }
}

/// Counts the log lines of `work` against a client, and adds the request's id to them.
///
/// A task-local instead of a `tracing` span: a span is built for every request, though only few log anything.
pub(crate) fn of_request<F: Future>(
    request_id: Arc<str>,
    address: Option<IpAddr>,
    work: F,
) -> impl Future<Output = F::Output> {
    CLIENT.scope(LoggedClient { address, request_id: Some(request_id) }, work)
}

/// Counts the log lines of `work` against a client.
pub(crate) fn of_connection<F: Future>(address: Option<IpAddr>, work: F) -> impl Future<Output = F::Output> {
    CLIENT.scope(LoggedClient { address, request_id: None }, work)
}

/// The id of the request that the task handles.
pub(super) fn request_id() -> Option<Arc<str>> {
    CLIENT.try_with(|client| client.request_id.clone()).ok().flatten()
}

/// Whether the task may log a line. Counts it.
pub(super) fn may_log() -> bool {
    let address = CLIENT.try_with(|client| client.address).ok().flatten();
    let (Some(address), Some(rates)) = (address, RATES.get()) else { return true };
    let may = rates.each.check_key(&network::of(address)).is_ok() && rates.all.check().is_ok();
    if !may {
        SUPPRESSED.fetch_add(1, Ordering::Relaxed);
    }
    may
}

/// Lines that were not written because their client was over its rate.
pub(crate) fn suppressed() -> u64 {
    SUPPRESSED.load(Ordering::Relaxed)
}

/// Drops the buckets of clients that have logged nothing lately.
pub(crate) fn shrink() {
    if let Some(rates) = RATES.get() {
        rates.each.retain_recent();
        rates.each.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_client_logs_at_its_rate_and_the_server_without_one() {
        limit(1);
        let address = |last| Some(IpAddr::from([192, 0, 2, last]));
        let lines = || async { (0..50).filter(|_| may_log()).count() };
        let before = suppressed();
        assert!((1..3).contains(&of_connection(address(1), lines()).await));
        assert!(suppressed() - before >= 47);
        assert!((1..3).contains(&of_request("id".into(), address(2), lines()).await), "another address");
        assert_eq!(lines().await, 50, "no client");
        assert_eq!(of_request("id".into(), None, async { request_id() }).await.as_deref(), Some("id"));
    }
}
