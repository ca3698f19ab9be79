//! Tests of files that change beneath an open store. Every change is noticed, nothing is written after it, and every
//! acknowledged write is saved.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agentrouter_model::SystemClock;

use super::open;
use crate::SqliteStore;
use agentrouter_store::conformance::fixtures::{active, at, everything, place, put, upsert};
use agentrouter_store::files::beside;
use agentrouter_store::prelude::*;
use agentrouter_store::{Store, StoreError, WriteError};

/// A store with ten secrets.
async fn filled(path: &Path) -> Arc<SqliteStore> {
    let store = open(path);
    let shared = Arc::clone(&store) as Arc<dyn Store>;
    for i in 0..10 {
        put(&shared, &place(&format!("alice/mcp/k{i}")), &"v".repeat(5000)).await;
    }
    store
}

/// The number of secrets in the database at `path`.
async fn count(path: &Path) -> usize {
    let store = open(path);
    let count = store.list(&everything("alice")).await.expect("listed").rows.len();
    assert_eq!(store.inspect().expect("inspected").problems, [""; 0]);
    store.close().await;
    count
}

/// A copy of the files, as a crash at this instant would leave them.
fn crash(path: &Path, to: &Path) -> PathBuf {
    let copy = to.join("s.db");
    for suffix in ["", "-wal"] {
        fs::copy(beside(path, suffix), beside(&copy, suffix)).expect("copied");
    }
    copy
}

async fn refusal(store: &SqliteStore) -> &'static str {
    match store.upsert(upsert(&place("alice/mcp/new"), at(1), Some("v"))).await {
        Err(WriteError::Store(StoreError::Unavailable { reason, .. })) => reason,
        other => panic!("{other:?}"),
    }
}

fn truncate(path: &Path, bytes: u64) {
    OpenOptions::new().write(true).open(path).and_then(|file| file.set_len(bytes)).expect("truncated");
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..600 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("not within thirty seconds: {what}");
}

#[tokio::test]
async fn every_change_is_noticed_and_nothing_acknowledged_is_lost() {
    type Happen = fn(&Path);
    let changes: [(&str, Happen); 8] = [
        ("log (-wal) was moved", |path| fs::remove_file(beside(path, "-wal")).expect("removed")),
        ("log (-wal) was moved", |path| {
            fs::remove_file(beside(path, "-wal")).expect("removed");
            File::create(beside(path, "-wal")).expect("made");
        }),
        ("log (-wal) was truncated", |path| truncate(&beside(path, "-wal"), 0)),
        ("log (-wal) was truncated", |path| truncate(&beside(path, "-wal"), 20_000)),
        ("(-shm) was moved", |path| fs::remove_file(beside(path, "-shm")).expect("removed")),
        ("lock file", |path| fs::remove_file(beside(path, "-lock")).expect("removed")),
        ("database file was moved", |path| fs::remove_file(path).expect("removed")),
        // Everything is still in the log.
        ("database file was truncated", |path| truncate(path, 0)),
    ];
    for (i, (expected, happen)) in changes.into_iter().enumerate() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("s.db");
        let store = filled(&path).await;
        happen(&path);
        let reason = refusal(&store).await;
        assert!(reason.contains(expected), "{i}: {reason}");
        let unready = store.check().await;
        assert!(matches!(unready, Err(StoreError::Unavailable { .. })), "{i}: {unready:?}");
        if path.exists() && !expected.contains("lock file") {
            let copy = tempfile::tempdir().expect("a directory");
            if beside(&path, "-wal").exists() {
                let copy = crash(&path, copy.path());
                assert_eq!(count(&copy).await, 10, "{i} {expected}: saved at once");
            }
        }
        store.close().await;
        drop(store);
        assert_eq!(count(&path).await, 10, "{i} {expected}: after a restart");
    }
}

#[tokio::test]
async fn a_change_is_noticed_without_a_request_and_the_log_is_saved() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("s.db");
    let store = filled(&path).await;
    let before = path.metadata().expect("there").len();
    fs::remove_file(beside(&path, "-wal")).expect("removed");
    until("the log is copied into the database", || path.metadata().expect("there").len() > before).await;
    assert!(store.check().await.is_err());
    let alone = dir.path().join("alone.db");
    fs::copy(&path, &alone).expect("copied");
    assert_eq!(count(&alone).await, 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_is_truncated_amid_writes_loses_nothing_that_was_acknowledged() {
    for round in 0..8_u64 {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("s.db");
        let store = open(&path);
        let writes = tokio::spawn({
            let store = Arc::clone(&store);
            async move {
                for i in 0..20_000 {
                    let change = upsert(&place(&format!("alice/mcp/k{i}")), at(1), Some("v"));
                    if store.upsert(change).await.is_err() {
                        return i;
                    }
                }
                panic!("not noticed");
            }
        });
        let log = beside(&path, "-wal");
        until("writes", || log.metadata().is_ok_and(|log| log.len() > 100_000 + round * 50_000)).await;
        // To nothing, or to a part of its header.
        truncate(&log, round % 2 * 16);
        let acknowledged = writes.await.expect("noticed");
        store.close().await;
        drop(store);
        let store = open(&path) as Arc<dyn Store>;
        for i in 0..acknowledged {
            let place = place(&format!("alice/mcp/k{i}"));
            assert!(active(&store, &place).await.is_some(), "round {round}: {i} of {acknowledged}");
        }
    }
}

#[tokio::test]
async fn a_replaced_database_is_written_beside_the_new_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let (path, other) = (dir.path().join("s.db"), dir.path().join("other.db"));
    open(&other).close().await;
    let store = filled(&path).await;
    fs::rename(&other, &path).expect("replaced");
    refusal(&store).await;
    // A new thread opens a new connection, and it must not read the other store.
    let read = {
        let store = Arc::clone(&store);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async { store.active(&place("alice/mcp/k1")).await })
        })
    };
    let read = read.join().expect("no panic");
    assert!(matches!(read, Err(StoreError::Unavailable { .. })), "{read:?}");
    store.close().await;
    drop(store);
    assert_eq!(count(&beside(&path, ".saved")).await, 10);
    assert_eq!(count(&path).await, 0);
}

#[tokio::test]
async fn a_file_of_an_earlier_rescue_is_kept_and_does_not_prevent_the_next() {
    for replaced in [false, true] {
        let dir = tempfile::tempdir().expect("a directory");
        let (path, other) = (dir.path().join("s.db"), dir.path().join("other.db"));
        open(&other).close().await;
        let earlier = [beside(&path, ".saved"), beside(&path, ".saved.1")];
        for file in &earlier {
            fs::write(file, "a part").expect("written");
        }
        let store = filled(&path).await;
        if replaced {
            fs::rename(&other, &path).expect("replaced");
        } else {
            fs::remove_file(&path).expect("removed");
        }
        refusal(&store).await;
        store.close().await;
        drop(store);
        let next = beside(&path, ".saved.2");
        assert_eq!(next.exists(), replaced);
        assert_eq!(count(if replaced { &next } else { &path }).await, 10, "replaced: {replaced}");
        for file in &earlier {
            assert_eq!(fs::read(file).expect("kept"), b"a part", "{file:?}");
        }
    }
}

#[tokio::test]
async fn pages_that_cannot_be_read_are_a_failure_of_the_store_and_not_of_a_secret() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("s.db");
    filled(&path).await.close().await;
    let store = open(&path);
    store.check().await.expect("ready");
    // Nothing of it is in the log, so nothing can be put back.
    truncate(&path, 8192);
    for i in 0..10 {
        let read = store.active(&place(&format!("alice/mcp/k{i}"))).await;
        assert!(matches!(read, Err(StoreError::Unavailable { .. })), "{read:?}");
    }
    assert!(matches!(store.list(&everything("alice")).await, Err(StoreError::Unavailable { .. })));
    assert!(refusal(&store).await.contains("database file was truncated"));
}

#[tokio::test]
async fn a_read_that_failed_makes_the_store_unready_until_all_of_the_file_can_be_read() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("s.db");
    filled(&path).await.close().await;
    let store = open(&path);
    let whole = fs::read(&path).expect("read");
    // The size stays, so that only a read finds out.
    let damaged: Vec<u8> =
        whole.iter().enumerate().map(|(i, byte)| if i < 4096 { *byte } else { 0 }).collect();
    fs::write(&path, &damaged).expect("damaged");
    let read = store.active(&place("alice/mcp/k1")).await;
    assert!(matches!(read, Err(StoreError::Unavailable { .. })), "{read:?}");
    let unready = store.check().await;
    assert!(matches!(unready, Err(StoreError::Unavailable { .. })), "{unready:?}");
    fs::write(&path, &whole).expect("whole again");
    for _ in 0..600 {
        if store.check().await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("still unready after thirty seconds");
}

#[tokio::test]
async fn a_directory_that_is_moved_away_is_noticed_and_works_again_when_it_is_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let (data, away) = (dir.path().join("data"), dir.path().join("away"));
    fs::create_dir(&data).expect("made");
    let store = filled(&data.join("s.db")).await;
    fs::rename(&data, &away).expect("moved");
    assert!(refusal(&store).await.contains("database file was moved"));
    fs::rename(&away, &data).expect("moved back");
    put(&(Arc::clone(&store) as Arc<dyn Store>), &place("alice/mcp/new"), "v").await;
    fs::rename(&data, &away).expect("moved");
    refusal(&store).await;
    store.close().await;
    drop(store);
    assert!(!data.exists());
    assert_eq!(count(&away.join("s.db")).await, 11);
}

#[tokio::test]
async fn no_link_in_the_place_of_a_file_is_followed() {
    for suffix in ["", "-wal", "-shm", "-lock"] {
        let dir = tempfile::tempdir().expect("a directory");
        let (path, other) = (dir.path().join("s.db"), dir.path().join("other"));
        fs::write(&other, "kept").expect("written");
        symlink(&other, beside(&path, suffix)).expect("linked");
        let refused = SqliteStore::open(&path, &SystemClock);
        assert!(matches!(refused, Err(StoreError::Open { .. })), "{suffix}: {refused:?}");
        assert_eq!(fs::read(&other).expect("read"), b"kept", "{suffix}");
    }
    let dir = tempfile::tempdir().expect("a directory");
    let (path, other) = (dir.path().join("s.db"), dir.path().join("other.db"));
    open(&other).close().await;
    symlink(&other, &path).expect("linked");
    assert!(SqliteStore::open_read_only(&path).is_err());
    // A link to the directory is the operator's own.
    let linked = dir.path().join("linked");
    symlink(dir.path(), &linked).expect("linked");
    open(&linked.join("other.db"));
}
