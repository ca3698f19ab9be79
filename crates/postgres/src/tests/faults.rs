//! Tests of failures of the database and of the connection to it. No acknowledged write is lost, no write happens
//! twice, every call ends within seconds, and service resumes by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use super::proxy::{Cut, Proxy};
use super::{eventually, open, target, until};
use crate::PostgresStore;
use crate::failure::{failure, is_unreadable};
use crate::testing::{Postgres, Stop};
use agentrouter_store::conformance::fixtures::*;
use agentrouter_store::prelude::*;
use agentrouter_store::{ListQuery, Rotation, StatusFilter, StoreError, WriteError};

/// The time within which every call must end.
const SECONDS: Duration = Duration::from_secs(30);

fn expecting(name: &str, version: i32) -> Rotation {
    Rotation { expected_version: Some(version), ..rotation(&place(name), at(1), at(100), "v") }
}

/// A store behind a proxy, and one with a direct connection that reads the true state.
async fn behind() -> (Proxy, Shared, Shared) {
    let server = Postgres::shared();
    let database = server.database();
    let beside: Shared = open(&server.url(&database)).await;
    let proxy = Proxy::start(server.port()).await;
    let url = format!("postgres://postgres@127.0.0.1:{}/{database}", proxy.port);
    let through: Shared = Arc::new(PostgresStore::open(target(&url), "replica-2").await.expect("opened"));
    (proxy, through, beside)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_without_a_response_has_an_unknown_outcome_and_can_be_repeated() {
    let (proxy, through, beside) = behind().await;
    let name = "alice/mcp/cut-me";
    put(&through, &place(name), "v1").await;
    let mut active = 1;
    for (round, cut) in
        [Cut::Before, Cut::During, Cut::After, Cut::After, Cut::Before].into_iter().enumerate()
    {
        proxy.cut(cut);
        let start = Instant::now();
        let result = through.rotate(expecting(name, active)).await;
        assert!(
            matches!(result, Err(WriteError::Store(StoreError::OutcomeUnknown { .. }))),
            "{cut:?}: {result:?}"
        );
        assert!(start.elapsed() < SECONDS, "{cut:?} took {:?}", start.elapsed());
        assert_eq!(proxy.cuts(), round + 1);
        // The same rotation again shows the outcome: it succeeds now, or it happened before. It waits for a write in
        // progress.
        let happened = match through.rotate(expecting(name, active)).await {
            Ok(secret) => {
                assert_eq!(secret.version.get(), active + 1);
                false
            }
            Err(WriteError::VersionMismatch) => true,
            Err(error) => panic!("{cut:?}: {error:?}"),
        };
        assert!(happened || cut != Cut::After, "the server responded");
        assert!(!happened || cut != Cut::Before, "the server did not get it");
        active += 1;
        let stored = beside.active(&place(name)).await.expect("read").expect("there");
        assert_eq!(stored.secret.version.get(), active, "{cut:?}: exactly once");
    }
    let all = ListQuery { statuses: StatusFilter::Any, ..everything("alice") };
    assert_eq!(list(&beside, &all).await.len(), 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sessions_that_are_terminated_lose_nothing_that_was_acknowledged() {
    let server = Postgres::shared();
    let database = server.database();
    let store: Shared = open(&server.url(&database)).await;
    for i in 0..6 {
        put(&store, &place(&format!("alice/mcp/k{i}")), "v").await;
    }
    let done = Arc::new(AtomicBool::new(false));
    // The number of successes and failures of each caller.
    let counts: Arc<[[AtomicUsize; 2]; 6]> = Arc::default();
    let callers: Vec<_> = (0..6)
        .map(|i| {
            let (store, done, counts) = (Arc::clone(&store), Arc::clone(&done), Arc::clone(&counts));
            tokio::spawn(async move {
                let place = place(&format!("alice/mcp/k{i}"));
                let (mut acknowledged, [good, bad]) = (1, &counts[i]);
                while !done.load(Ordering::SeqCst) {
                    match store.rotate(rotation(&place, at(1), at(100), "v")).await {
                        Ok(secret) => {
                            assert!(secret.version.get() > acknowledged, "no version is used twice");
                            acknowledged = secret.version.get();
                            good.fetch_add(1, Ordering::SeqCst);
                        }
                        Err(WriteError::Store(
                            StoreError::OutcomeUnknown { .. } | StoreError::Unavailable { .. },
                        )) => drop(bad.fetch_add(1, Ordering::SeqCst)),
                        Err(error) => panic!("{error:?}"),
                    }
                    match store.active(&place).await {
                        Ok(stored) => {
                            let version = stored.expect("there").secret.version.get();
                            assert!(version >= acknowledged, "{version} after {acknowledged}");
                        }
                        Err(StoreError::Unavailable { .. }) => drop(bad.fetch_add(1, Ordering::SeqCst)),
                        Err(error) => panic!("{error:?}"),
                    }
                }
            })
        })
        .collect();
    let terminate = format!(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = '{database}' \
         AND application_name = 'agentrouter-secrets'"
    );
    let mut terminated = 0;
    for _ in 0..12 {
        tokio::time::sleep(Duration::from_millis(150)).await;
        terminated += server.sql("postgres", &terminate).parse::<u32>().expect("a count");
    }
    assert!(terminated > 12, "enough sessions ended");
    let ((), took) = until(async || put_once(&store, "alice/mcp/after").await).await;
    assert!(took < SECONDS, "{took:?}");
    let more = |[good, bad]: &[AtomicUsize; 2]| good.load(Ordering::SeqCst) > bad.load(Ordering::SeqCst);
    eventually("majority of good calls", || counts.iter().all(more)).await;
    done.store(true, Ordering::SeqCst);
    for caller in callers {
        caller.await.expect("no panic");
    }
}

async fn put_once(store: &Shared, name: &str) -> Result<(), WriteError> {
    store.upsert(upsert(&place(name), at(0), Some("v"))).await.map(|_| ())
}

/// Fails unless a read and a write end with [`StoreError::Unavailable`] within seconds.
async fn unavailable(store: &Shared) {
    let start = Instant::now();
    let place = place("alice/mcp/a");
    let (read, write) = tokio::join!(store.active(&place), store.upsert(upsert(&place, at(0), Some("v"))));
    assert!(matches!(read, Err(StoreError::Unavailable { .. })), "{read:?}");
    assert!(matches!(write, Err(WriteError::Store(StoreError::Unavailable { .. }))), "{write:?}");
    assert!(start.elapsed() < SECONDS, "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_reconnects_to_a_server_that_was_stopped_for_thirty_seconds() {
    let server = Postgres::start("");
    let database = server.database();
    let engine = open(&server.url(&database)).await;
    let store: Shared = engine.clone();
    put(&store, &place("alice/mcp/a"), "v1").await;
    for (how, away) in [(Stop::Fast, 2), (Stop::Immediate, 30)] {
        server.stop(how);
        let stopped = Instant::now();
        unavailable(&store).await;
        tokio::time::sleep_until(stopped + Duration::from_secs(away)).await;
        if away > 10 {
            assert!(store.check().await.is_err(), "an outage does");
            unavailable(&store).await;
        }
        server.restart();
        until(async || put_once(&store, "alice/mcp/a").await).await;
        until(async || store.active(&place("alice/mcp/a")).await).await;
        // Wait until the health check has passed too. Otherwise the next stop would continue this failure. A check of
        // this stop ends after two seconds, and the next one starts a second later.
        tokio::time::sleep(Duration::from_secs(3)).await;
        eventually("end of the failure", || engine.health.failing_since().is_none()).await;
        assert!(store.check().await.is_ok());
    }
    let stored = store.active(&place("alice/mcp/a")).await.expect("read").expect("there");
    assert!(stored.secret.version.get() >= 3, "acknowledged writes stay");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_does_not_respond_times_out_and_is_used_again_later() {
    let (proxy, through, _beside) = behind().await;
    put(&through, &place("alice/mcp/a"), "v1").await;
    through.active(&place("alice/mcp/a")).await.expect("read");
    proxy.stick(true);
    let start = Instant::now();
    let place_a = place("alice/mcp/a");
    let read = through.active(&place_a).await;
    assert!(matches!(read, Err(StoreError::Unavailable { .. })), "{read:?}");
    let write = put_once(&through, "alice/mcp/a").await;
    assert!(matches!(write, Err(WriteError::Store(StoreError::Unavailable { .. }))), "{write:?}");
    assert!(start.elapsed() < SECONDS * 2, "{:?}", start.elapsed());
    proxy.stick(false);
    until(async || through.active(&place_a).await).await;
    until(async || put_once(&through, "alice/mcp/a").await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_cut_from_the_database_serves_again_within_ten_seconds() {
    let (proxy, through, beside) = behind().await;
    put(&through, &place("alice/mcp/a"), "v1").await;
    // A machine that halts for a moment spoils one attempt.
    let mut attempts = 2..7;
    loop {
        let number = attempts.next().expect("it serves within ten seconds");
        proxy.away(true);
        unavailable(&through).await;
        put(&beside, &place("alice/mcp/a"), "changed").await;
        proxy.away(false);
        let (stored, took) = until(async || through.active(&place("alice/mcp/a")).await).await;
        assert_eq!(stored.expect("there").secret.version, version(number));
        if took < Duration::from_secs(10) {
            break;
        }
    }
    until(async || put_once(&through, "alice/mcp/a").await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn reads_beyond_the_connections_are_refused_in_time_and_served_afterwards() {
    let (proxy, through, _beside) = behind().await;
    let place = place("alice/mcp/a");
    put(&through, &place, "v1").await;
    // All at once, so that none arrives when others time out. A first round opens every connection.
    let reads = async |count| join_all((0..count).map(|_| through.active(&place))).await;
    assert!(reads(64).await.iter().all(Result::is_ok));
    proxy.stick(true);
    let start = Instant::now();
    let mut busy = 0;
    for read in reads(400).await {
        match read {
            Err(StoreError::Unavailable { reason, .. }) => {
                busy += usize::from(reason == "all connections to the database are busy");
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(start.elapsed() < SECONDS, "{:?}", start.elapsed());
    assert_eq!(busy, 400 - 256, "those without a permit");
    proxy.stick(false);
    until(async || through.active(&place).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_a_free_connection_refuses_clearly_and_serves_afterwards() {
    let server = Postgres::start("");
    let database = server.database();
    server.sql(&database, &format!("ALTER DATABASE {database} OWNER TO keeper"));
    let url = format!("postgres://keeper@127.0.0.1:{}/{database}", server.port());
    let target = crate::ConnectOptions::parse(&url, Some(crate::testing::PASSWORD)).expect("a URL");
    let store: Shared = Arc::new(PostgresStore::open(target, "replica-1").await.expect("opened"));
    put(&store, &place("alice/mcp/a"), "v1").await;
    server.sql(&database, "ALTER ROLE keeper CONNECTION LIMIT 0");
    server.sql(
        &database,
        "SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity WHERE usename = 'keeper'",
    );
    let refused = store.active(&place("alice/mcp/a")).await;
    let Err(StoreError::Unavailable { reason, .. }) = refused else { panic!("{refused:?}") };
    assert_eq!(reason, "the database has too many connections");
    unavailable(&store).await;
    server.sql(&database, "ALTER ROLE keeper CONNECTION LIMIT -1");
    until(async || store.active(&place("alice/mcp/a")).await).await;
    until(async || put_once(&store, "alice/mcp/a").await).await;
}

#[tokio::test]
async fn a_file_that_the_database_cannot_read_is_a_failure_of_the_store() {
    let server = Postgres::shared();
    let store = open(&server.url(&server.database())).await;
    let link = store.dialer.bare(super::deadline()).await.expect("a link");
    for state in ["XX001", "XX002", "58030", "58P01"] {
        let raise = format!("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{state}'; END $$");
        let error = failure(link.client.batch_execute(&raise).await.expect_err("raised"));
        assert!(is_unreadable(&error), "{state}: {error:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_of_a_damaged_file_makes_the_store_unready() {
    let server = Postgres::shared();
    let store = open(&server.url(&server.database())).await;
    store.check().await.expect("ready");
    let _ = store.reads.noted(StoreError::unavailable("all connections to the database are busy"));
    store.check().await.expect("another failure does not count");
    let link = store.dialer.bare(super::deadline()).await.expect("a link");
    let raise = "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = 'XX001'; END $$";
    let _ = store.reads.noted(failure(link.client.batch_execute(raise).await.expect_err("raised")));
    assert!(matches!(store.check().await, Err(StoreError::Unavailable { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_row_delays_only_its_own_change() {
    let server = Postgres::shared();
    let store = open(&server.url(&server.database())).await;
    let shared = Arc::clone(&store) as Shared;
    for name in ["held", "free"] {
        put(&shared, &place(&format!("alice/mcp/{name}")), "v1").await;
    }
    let holder = store.dialer.bare(super::deadline()).await.expect("a link");
    let lock = "BEGIN; SELECT * FROM agentrouter_secrets.secrets WHERE name = 'held' FOR UPDATE";
    holder.client.batch_execute(lock).await.expect("locked");
    let start = Instant::now();
    let (held, free) = tokio::join!(put_once(&shared, "alice/mcp/held"), put_once(&shared, "alice/mcp/free"));
    let Err(WriteError::Store(StoreError::Unavailable { reason, .. })) = held else { panic!("{held:?}") };
    assert_eq!(reason, "another transaction holds the rows for too long");
    free.expect("written");
    assert!(start.elapsed() < SECONDS, "{:?}", start.elapsed());
    holder.client.batch_execute("ROLLBACK").await.expect("released");
    put_once(&shared, "alice/mcp/held").await.expect("written");
}
