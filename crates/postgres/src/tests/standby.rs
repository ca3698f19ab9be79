//! Tests of a primary with a synchronous standby, when either of them fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::{eventually, open, until};
use crate::testing::{Postgres, Stop};
use agentrouter_store::conformance::fixtures::*;
use agentrouter_store::{ListQuery, StatusFilter, StoreError, WriteError};

/// A primary that waits for its standby at every commit.
pub(super) fn pair() -> (Postgres, Postgres, String) {
    let primary = Postgres::start("");
    let database = primary.database();
    let standby = primary.standby("");
    primary.reconfigure("synchronous_standby_names = 'standby'");
    let start = std::iter::repeat_with(|| {
        std::thread::sleep(Duration::from_millis(50));
        primary.sql("postgres", "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'")
    });
    assert!(start.take(600).any(|count| count == "1"), "the standby has joined");
    (primary, standby, database)
}

/// The URL that names both hosts.
pub(super) fn url_of(primary: &Postgres, standby: &Postgres, database: &str) -> String {
    format!("postgres://postgres@127.0.0.1:{},127.0.0.1:{}/{database}", primary.port(), standby.port())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_failover_loses_no_acknowledged_write_and_uses_no_version_twice() {
    let (primary, standby, database) = pair();
    let url = url_of(&primary, &standby, &database);
    let store: Shared = open(&url).await;
    for i in 0..4 {
        put(&store, &place(&format!("alice/mcp/k{i}")), "v").await;
    }
    let done = Arc::new(AtomicBool::new(false));
    let counts: Arc<[AtomicUsize; 4]> = Arc::default();
    let callers: Vec<_> = (0..4)
        .map(|i| {
            let (store, done, counts) = (Arc::clone(&store), Arc::clone(&done), Arc::clone(&counts));
            tokio::spawn(async move {
                let place = place(&format!("alice/mcp/k{i}"));
                let mut acknowledged = vec![1];
                while !done.load(Ordering::SeqCst) {
                    match store.rotate(rotation(&place, at(1), at(100), "v")).await {
                        Ok(secret) => {
                            acknowledged.push(secret.version.get());
                            counts[i].fetch_add(1, Ordering::SeqCst);
                        }
                        Err(WriteError::Store(
                            StoreError::OutcomeUnknown { .. } | StoreError::Unavailable { .. },
                        )) => tokio::time::sleep(Duration::from_millis(20)).await,
                        Err(error) => panic!("{error:?}"),
                    }
                }
                acknowledged
            })
        })
        .collect();
    let now = || [0, 1, 2, 3].map(|i: usize| counts[i].load(Ordering::SeqCst));
    eventually("ten writes of each", || now().iter().all(|count| *count >= 10)).await;
    primary.stop(Stop::Immediate);
    standby.promote();
    let promoted = Instant::now();
    until(async || store.upsert(upsert(&place("alice/mcp/after"), at(0), Some("v"))).await).await;
    assert!(promoted.elapsed() < Duration::from_secs(60), "{:?}", promoted.elapsed());
    let before = now();
    eventually("ten more of each", || now().iter().zip(before).all(|(now, before)| *now >= before + 10))
        .await;
    done.store(true, Ordering::SeqCst);
    let all = ListQuery { statuses: StatusFilter::Any, ..everything("alice") };
    for (i, caller) in callers.into_iter().enumerate() {
        let acknowledged = caller.await.expect("no panic");
        assert!(acknowledged.is_sorted_by(|a, b| a < b), "no version twice: {acknowledged:?}");
        let name = format!("k{i}");
        let rows = walk(&store, &all, 1000).await;
        for version in acknowledged {
            assert!(rows.contains(&format!("mcp/{name}@{version}")), "{name}@{version} was acknowledged");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_has_not_reached_the_standby_is_not_acknowledged() {
    let (primary, standby, database) = pair();
    let store: Shared = open(&primary.url(&database)).await;
    put(&store, &place("alice/mcp/a"), "v1").await;
    standby.stop(Stop::Immediate);

    // The commit waits for the standby until its deadline.
    let start = Instant::now();
    let waited = store.upsert(upsert(&place("alice/mcp/new"), at(0), Some("v"))).await;
    assert!(matches!(waited, Err(WriteError::Store(StoreError::OutcomeUnknown { .. }))), "{waited:?}");
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());

    // A change of an existing secret fails at its fence, so it is known that nothing happened.
    let start = Instant::now();
    let fenced = store.upsert(upsert(&place("alice/mcp/a"), at(0), Some("v2"))).await;
    assert!(matches!(fenced, Err(WriteError::Store(StoreError::Unavailable { .. }))), "{fenced:?}");
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());

    // When an administrator cancels the wait, the server reports success with a warning.
    let cancel = async {
        let waiting = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep' \
            AND query = 'COMMIT'";
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            primary.sql("postgres", waiting);
        }
    };
    let other = place("alice/mcp/b");
    let (cancelled, ()) = tokio::join!(store.upsert(upsert(&other, at(0), Some("v"))), cancel);
    assert!(matches!(cancelled, Err(WriteError::Store(StoreError::OutcomeUnknown { .. }))), "{cancelled:?}");

    standby.restart();
    until(async || store.upsert(upsert(&place("alice/mcp/c"), at(0), Some("v"))).await).await;
}
