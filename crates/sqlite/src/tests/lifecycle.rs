//! Tests of opening and closing, of the lock, and of the files on the disk.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::sync::mpsc;
use std::task::{Context, Waker};
use std::time::Duration;

use agentrouter_model::SystemClock;

use rusqlite::types::Value;

use super::{dump, open};
use crate::SqliteStore;
use agentrouter_store::conformance::fixtures::{
    active, at, envelope, place, put, put_tagged, rotate, upsert,
};
use agentrouter_store::prelude::*;
use agentrouter_store::{Store, StoreError, Upsert, WriteError};

#[tokio::test]
async fn a_second_opener_is_refused_by_name_until_the_first_has_closed() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("s.db");
    let first = open(&path);
    match SqliteStore::open(&path, &SystemClock) {
        Err(StoreError::InUse { holder }) => {
            assert!(holder.starts_with(&format!("process {}, ", std::process::id())), "{holder}");
        }
        other => panic!("{other:?}"),
    }
    first.close().await;
    let second = open(&path);
    drop(second);
    open(&path);
}

#[tokio::test]
async fn after_closing_everything_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(&dir.path().join("s.db"));
    store.close().await;
    store.close().await;
    let place = place("alice/mcp/a");
    assert!(matches!(store.active(&place).await, Err(StoreError::Unavailable { .. })));
    let refused = store.delete(&place).await;
    assert!(matches!(refused, Err(WriteError::Store(StoreError::Unavailable { .. }))), "{refused:?}");
    assert!(store.check().await.is_err());
}

#[tokio::test]
async fn nothing_is_written_to_a_database_that_was_moved_or_replaced() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("s.db");
    let elsewhere = dir.path().join("elsewhere.db");
    let store = open(&path) as Arc<dyn Store>;
    put(&store, &place("alice/mcp/a"), "v").await;
    let write = || store.upsert(upsert(&place("alice/mcp/b"), at(1), Some("v")));
    std::fs::rename(&path, &elsewhere).expect("moved");
    for replaced in [false, true] {
        if replaced {
            std::fs::copy(&elsewhere, &path).expect("copied");
        }
        let refused = write().await;
        assert!(matches!(refused, Err(WriteError::Store(StoreError::Unavailable { .. }))), "{refused:?}");
        assert!(store.check().await.is_err(), "replaced {replaced}");
    }
    std::fs::rename(&elsewhere, &path).expect("put back");
    write().await.expect("written");
}

#[tokio::test]
async fn acknowledged_writes_are_in_the_files_before_a_close() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(&dir.path().join("s.db")) as Arc<dyn Store>;
    for i in 0..20 {
        let text = format!("alice/mcp/k{i}");
        let secret = put_tagged(&store, &text, &[("a", "b")]).await;
        // Copies the files that a crash at this instant would leave: the database and its log, not the shared index.
        let copy = dir.path().join(format!("copy-{i}.db"));
        std::fs::copy(dir.path().join("s.db"), &copy).expect("copied");
        std::fs::copy(dir.path().join("s.db-wal"), copy.with_extension("db-wal")).expect("copied");
        let copy = open(&copy) as Arc<dyn Store>;
        assert_eq!(active(&copy, &place(&text)).await.expect("there").secret, secret);
    }
}

#[tokio::test]
async fn a_read_only_store_takes_no_lock_and_writes_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("s.db");
    assert!(matches!(SqliteStore::open_read_only(&path), Err(StoreError::Open { .. })));
    assert!(!path.exists(), "nothing is made");
    let store = open(&path) as Arc<dyn Store>;
    let place = place("alice/mcp/a");
    put(&store, &place, "v1").await;
    let beside = SqliteStore::open_read_only(&path).expect("beside the server");
    assert_eq!(beside.active(&place).await.expect("read"), active(&store, &place).await);
    rotate(&store, &place, 1, 9).await;
    assert_eq!(beside.active(&place).await.expect("read"), active(&store, &place).await);
    let refused = beside.upsert(upsert(&place, at(2), Some("v"))).await;
    assert!(matches!(refused, Err(WriteError::Store(StoreError::Unavailable { .. }))), "{refused:?}");
    assert!(beside.check().await.is_err());
    let findings = beside.inspect().expect("inspected");
    assert_eq!((findings.schema, findings.secrets, findings.versions, findings.api_keys), (5, 1, 2, 0));
    assert_eq!(findings.problems, [""; 0]);
    drop(store);
    let alone = SqliteStore::open_read_only(&path).expect("without a server");
    assert_eq!(alone.active(&place).await.expect("read").expect("there").secret.version.get(), 2);
    open(&path);
}

#[tokio::test]
async fn no_umask_opens_the_files_to_others() {
    rustix::process::umask(rustix::fs::Mode::empty());
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(&dir.path().join("s.db")) as Arc<dyn Store>;
    put(&store, &place("alice/mcp/a"), "v").await;
    let mut seen = Vec::new();
    for entry in std::fs::read_dir(dir.path()).expect("listed") {
        let entry = entry.expect("listed");
        let mode = entry.metadata().expect("read").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?}", entry.file_name());
        seen.push(entry.file_name().into_string().expect("text"));
    }
    seen.sort();
    assert_eq!(seen, ["s.db", "s.db-lock", "s.db-shm", "s.db-wal"]);
}

#[tokio::test]
async fn a_path_that_looks_like_a_uri_is_a_path() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("file:s.db?mode=memory#x%41");
    let store = open(&path) as Arc<dyn Store>;
    put(&store, &place("alice/mcp/a"), "v").await;
    drop(store);
    let again = open(&path) as Arc<dyn Store>;
    assert!(active(&again, &place("alice/mcp/a")).await.is_some());
}

#[tokio::test]
async fn many_writers_share_few_commits() {
    const WRITERS: u64 = 600;
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(&dir.path().join("s.db"));
    let (go, gate) = mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);
    let seal: agentrouter_store::Sealer = Box::new(move |slot| {
        gate.lock().expect("unpoisoned").recv().expect("opened");
        Ok(envelope("v", slot))
    });
    // Unconstrained: otherwise tokio's cooperative budget makes writes yield before they are queued.
    let write = |change| Box::pin(tokio::task::unconstrained(store.upsert(change)));
    let mut first = write(Upsert { seal: Some(seal), ..upsert(&place("alice/mcp/first"), at(0), None) });
    let mut context = Context::from_waker(Waker::noop());
    assert!(first.as_mut().poll(&mut context).is_pending());
    let mut writes: Vec<_> =
        (1..WRITERS).map(|i| write(upsert(&place(&format!("alice/mcp/k{i}")), at(0), Some("v")))).collect();
    for write in &mut writes {
        assert!(write.as_mut().poll(&mut context).is_pending());
    }
    go.send(()).expect("it waits");
    first.await.expect("written");
    for write in writes {
        write.await.expect("written");
    }
    let stats = store.stats();
    assert_eq!(stats.writes, WRITERS);
    assert!(stats.commits <= 5, "{} commits", stats.commits);
}

#[tokio::test]
async fn no_row_of_the_tag_filter_outlives_its_tag() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("s.db");
    let store = open(&path) as Arc<dyn Store>;
    let rows = || dump(&path).iter().filter(|row| row[0] == Value::Text("secret_tags".into())).count();
    put_tagged(&store, "alice/mcp/a", &[("a", "1"), ("b", "2")]).await;
    put_tagged(&store, "alice/mcp/b", &[("a", "1")]).await;
    assert_eq!(rows(), 3);
    put_tagged(&store, "alice/mcp/a", &[("b", "3")]).await;
    assert_eq!(rows(), 2);
    store.delete(&place("alice/mcp/a")).await.expect("deleted");
    assert_eq!(rows(), 1);
    store.delete(&place("alice/mcp/b")).await.expect("deleted");
    assert_eq!(dump(&path), [[Value::Null; 0]; 0], "no row is left");
}

#[tokio::test]
async fn readable_versions_come_from_the_disk_and_not_from_a_cache() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("s.db");
    let (store, place) = (open(&path), place("alice/mcp/a"));
    put(&(Arc::clone(&store) as Arc<dyn Store>), &place, "canary-whole").await;
    store.close().await;
    let store = SqliteStore::open_read_only(&path).expect("opened");
    let sealed = async || {
        let versions = store.readable(&place, at(0)).await.expect("read");
        versions[0].envelope.as_ref().expect("kept").sealed.clone()
    };
    assert!(sealed().await.starts_with(b"canary-whole"));
    let mut bytes = std::fs::read(&path).expect("read");
    let found = bytes.windows(12).position(|window| window == b"canary-whole").expect("in the file");
    bytes[found..found + 12].copy_from_slice(b"canary-rotten".first_chunk::<12>().expect("12 bytes"));
    std::fs::write(&path, bytes).expect("written");
    assert!(sealed().await.starts_with(b"canary-rotte"));
}

/// Whether any of the store's files has `needle` in it.
fn on_disk(dir: &tempfile::TempDir, needle: &str) -> bool {
    ["s.db", "s.db-wal"].iter().any(|name| {
        let bytes = std::fs::read(dir.path().join(name)).expect("read");
        bytes.windows(needle.len()).any(|window| window == needle.as_bytes())
    })
}

#[tokio::test]
async fn destroyed_values_are_removed_from_the_disk() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(&dir.path().join("s.db")) as Arc<dyn Store>;
    let (deleted, replaced, expired) = (place("alice/mcp/a"), place("alice/mcp/b"), place("alice/mcp/c"));
    let large = "x".repeat(9000);
    put(&store, &deleted, &["canary-deleted-", &large].concat()).await;
    put(&store, &replaced, "canary-replaced-").await;
    put(&store, &expired, "canary-expired-").await;
    let canaries = ["canary-deleted-", "canary-replaced-", "canary-expired-"];
    for canary in canaries {
        assert!(on_disk(&dir, canary), "the test looks in the right place");
    }
    rotate(&store, &expired, 1, 2).await;
    put(&store, &replaced, "v2").await;
    store.delete(&deleted).await.expect("deleted");
    store.retire_expired(at(2), 10).await.expect("retired");
    for _ in 0..600 {
        if !canaries.iter().any(|canary| on_disk(&dir, canary)) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("still there after thirty seconds");
}

#[tokio::test]
async fn the_log_is_copied_back_as_it_grows() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(&dir.path().join("s.db")) as Arc<dyn Store>;
    let large = "x".repeat(60_000);
    for _ in 0..400 {
        put(&store, &place("alice/mcp/a"), &large).await;
    }
    let log = std::fs::metadata(dir.path().join("s.db-wal")).expect("there").len();
    assert!(log < 12 << 20, "{log} bytes of log after 24 MB of writes");
}
