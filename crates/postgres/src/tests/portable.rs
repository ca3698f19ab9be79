//! Tests of export and import under failures of the server and under strict settings.

use std::sync::Arc;
use std::time::Duration;

use agentrouter_model::SystemClock;
use tokio::time::Instant;

use super::freshness::Replica;
use super::standby::pair;
use super::{eventually, open, store};
use crate::testing::{Postgres, Stop};
use agentrouter_sqlite::SqliteStore;
use agentrouter_store::conformance::fixtures::*;
use agentrouter_store::conformance::portable::{fill, whole};
use agentrouter_store::portable::Item;
use agentrouter_store::prelude::*;
use agentrouter_store::{StoreError, WriteError};

/// The items of a small store.
async fn small() -> Vec<Item> {
    let source = store().await as Shared;
    source.insert_kek_check(&kek("kek-1"), &[1; 32]).await.expect("kept");
    put(&source, &place("alice/mcp/a"), "v").await;
    put(&source, &place("alice/mcp/b"), "v").await;
    whole(&source, 2).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_that_has_not_reached_the_standby_is_not_done() {
    let items = small().await;
    let (primary, standby, database) = pair();
    let target: Shared = open(&primary.url(&database)).await;
    assert_eq!(target.begin_import("here").await.expect("started"), 0);
    standby.stop(Stop::Immediate);
    let (imported, ()) = tokio::join!(target.import(0, items[..1].to_vec()), cancel_one(&primary));
    assert!(matches!(imported, Err(StoreError::OutcomeUnknown { .. })), "{imported:?}");
    standby.restart();
    // The mark shows that the batch was stored, and the import continues after it.
    assert_eq!(target.begin_import("here").await.expect("resumed"), 1);
    target.import(1, items[1..].to_vec()).await.expect("taken");
    standby.stop(Stop::Immediate);
    let (finished, ()) = tokio::join!(target.finish_import(Some("e")), cancel_one(&primary));
    assert!(matches!(finished, Err(StoreError::OutcomeUnknown { .. })), "{finished:?}");
    assert_eq!(whole(&target, 2).await, items);
}

/// Cancels one commit's wait for its standby, as an administrator may. The server then reports success with a warning.
async fn cancel_one(primary: &Postgres) {
    let waiting = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep' \
        AND query = 'COMMIT'";
    while primary.sql("postgres", waiting) == "0" {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_is_not_limited_by_the_timeouts_of_the_database() {
    let server = Postgres::shared();
    let database = server.database();
    let store = open(&server.url(&database)).await as Shared;
    store.insert_kek_check(&kek("kek-1"), &[1; 32]).await.expect("kept");
    put(&store, &place("alice/mcp/a"), "v").await;
    let expected = whole(&store, 2).await;
    for limit in ["statement_timeout = '1s'", "idle_in_transaction_session_timeout = '100ms'"] {
        server.sql("postgres", &format!("ALTER DATABASE {database} SET {limit}"));
    }
    let mut export = store.export().await.expect("started");
    let mut items = export.next(2).await.expect("read");
    // The export pauses, and then another session holds a lock for longer than the statement timeout.
    tokio::time::sleep(Duration::from_millis(400)).await;
    let lock = "SET statement_timeout = 0; BEGIN; LOCK TABLE agentrouter_secrets.secrets; SELECT pg_sleep(2)";
    let held = format!(
        "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database WHERE d.datname = '{database}' \
         AND l.mode = 'AccessExclusiveLock' AND l.granted"
    );
    let holder = std::thread::spawn(move || server.sql(&database, lock));
    eventually("lock", || server.sql("postgres", &held) != "0").await;
    items.extend(export.next(2).await.expect("read, after a wait"));
    assert_eq!(items, expected);
    drop(export);
    holder.join().expect("it held the lock");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_store_is_read_and_not_changed() {
    let server = Postgres::shared();
    let database = server.database();
    let url = server.url(&database);
    let other = open(&url).await as Shared;
    put(&other, &place("alice/mcp/a"), "v").await;
    let reader = open(&url).await;
    let hold = reader.hold().await.expect("no server runs");
    hold.check().await.expect("it holds");
    // Changes by a process that does not know of the hold.
    for name in ["a", "new"] {
        let changed = other.upsert(upsert(&place(&format!("alice/mcp/{name}")), at(0), Some("v2"))).await;
        assert!(matches!(changed, Err(WriteError::Store(StoreError::Unavailable { .. }))), "{changed:?}");
    }
    assert!(other.insert_kek_check(&kek("kek-9"), &[9; 32]).await.is_err());
    let items = whole(&(Arc::clone(&reader) as Shared), 10).await;
    assert_eq!(items.len(), 2, "the secret and its version: {items:?}");
    hold.check().await.expect("it has held");
    drop(hold);
    super::until(async || other.upsert(upsert(&place("alice/mcp/new"), at(0), Some("v"))).await).await;

    // A lost hold reports it.
    let hold = reader.hold().await.expect("no server runs");
    let killed = "SELECT count(pg_terminate_backend(pid, 30000)) FROM pg_stat_activity WHERE pid IN \
        (SELECT pid FROM pg_locks WHERE mode = 'ShareLock' AND relation = 'agentrouter_secrets.secrets'::regclass)";
    assert_eq!(server.sql(&database, killed), "1");
    assert!(hold.check().await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn running_servers_differ_from_stale_registrations() {
    let server = Postgres::shared();
    let database = server.database();
    let url = server.url(&database);
    let reader = open(&url).await;
    assert_eq!(reader.servers().await.expect("read"), [""; 0]);
    // A server that was killed.
    server
        .sql(&database, "INSERT INTO agentrouter_secrets.replicas (name, lease_ms) VALUES ('killed', 1000)");
    assert_eq!(reader.servers().await.expect("read"), [""; 0]);
    let (one, two) = (Replica::start(&url, "server-1").await, Replica::start(&url, "server-2").await);
    // On a busy machine one may renew too slowly to be noticed the first time.
    let mut tries = 0..10;
    loop {
        let start = Instant::now();
        let seen = reader.servers().await.expect("read");
        assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
        if seen == ["server-1", "server-2"] {
            break;
        }
        tries.next().expect("both are noticed");
    }
    loop {
        match reader.hold().await.map(drop) {
            Err(StoreError::InUse { holder }) if holder == "server server-1, server server-2" => break,
            Err(StoreError::InUse { .. }) | Ok(()) => tries.next().expect("both are named"),
            Err(error) => panic!("{error:?}"),
        };
    }
    one.store().close().await;
    two.store().close().await;
    assert_eq!(reader.servers().await.expect("read"), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_through_both_engines_and_back_keeps_everything() {
    let dir = tempfile::tempdir().expect("a directory");
    let embedded = |name: &str| {
        Arc::new(SqliteStore::open(&dir.path().join(name), &SystemClock).expect("opened")) as Shared
    };
    let first = embedded("a.db");
    fill(&first).await;
    let mut change = upsert(&place("zoe/mcp/odd"), at(0), Some("v"));
    change.description = Some(description("nul \u{0} quote ' backslash \\ $1 ü 🔑 \u{2028}"));
    first.upsert(change).await.expect("written");
    let items = whole(&first, 100).await;
    let (second, third) = (store().await as Shared, embedded("b.db"));
    for store in [&second, &third] {
        let from = if Arc::ptr_eq(store, &second) { &first } else { &second };
        store.begin_import("it").await.expect("started");
        store.import(0, whole(from, 3).await).await.expect("taken");
        store.finish_import(None).await.expect("finished");
        assert_eq!(whole(store, 3).await, items);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_omits_a_damaged_row() {
    let server = Postgres::shared();
    let database = server.database();
    let store = open(&server.url(&database)).await as Shared;
    for i in 0..6 {
        put(&store, &place(&format!("alice/mcp/k{i}")), "v").await;
    }
    rotate(&store, &place("alice/mcp/k0"), 0, 100).await;
    let before = whole(&store, 10).await;
    for damage in [
        "UPDATE secrets SET tags = '[' WHERE name IN ('k1', 'k5')",
        "UPDATE versions SET status = 'rotated_pending', expires_at = 1 WHERE name = 'k2'",
        "UPDATE versions SET kek_id = '' WHERE name = 'k0' AND version = 1",
    ] {
        server.sql(&database, &format!("SET search_path = agentrouter_secrets; {damage}"));
    }
    for count in [1, 2, 100] {
        let mut export = store.export().await.expect("started");
        let mut items: Vec<Item> = Vec::new();
        loop {
            let next = export.next(count).await.expect("read");
            if next.is_empty() {
                break;
            }
            items.extend(next);
        }
        assert_eq!(items.len(), 6, "three secrets with their active versions: {items:?}");
        assert!(items.iter().all(|item| before.contains(item)), "exported items are unchanged");
        let left_out = export.left_out();
        assert_eq!(left_out.count, 4, "{left_out:?}");
        assert!(left_out.named[0].starts_with("an earlier version of secret 0"), "{left_out:?}");
    }
}
