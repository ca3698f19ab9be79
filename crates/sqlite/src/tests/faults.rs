//! Tests that a failed write has no effect: each write is interrupted at each step, by each kind of fault.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use agentrouter_model::{ApiKeyId, ApiKeyRecord, ScopeSet};

use super::{dump, open};
use crate::{Fault, SqliteStore};
use agentrouter_store::conformance::fixtures::{
    at, kek, owner, place, put_tagged, realm, rotate, rotation, tags, upsert,
};
use agentrouter_store::prelude::*;
use agentrouter_store::{Store, StoreError, Upsert, WriteError};

type Write = fn(Arc<SqliteStore>) -> Outcome;
type Outcome = Pin<Box<dyn Future<Output = Result<(), String>>>>;

fn outcome_of<T>(result: Result<T, impl std::fmt::Display>) -> Result<(), String> {
    result.map(|_| ()).map_err(|error| error.to_string())
}

fn api_key(id: &str) -> ApiKeyRecord {
    ApiKeyRecord {
        id: ApiKeyId::parse(id).expect("an id"),
        digest: [1; 32],
        name: "n".into(),
        user: owner("alice"),
        scopes: ScopeSet::ALL,
        realm: realm("default"),
        realms: None,
        created_at: at(0),
        expires_at: None,
        revoked_at: None,
    }
}

/// Every write of the trait, each with an effect on the store that [`prepare`] leaves.
fn writes() -> Vec<(&'static str, Write)> {
    vec![
        ("make", |store| {
            Box::pin(async move {
                let tags = Some(tags(&[("a", "1"), ("b", "2")]));
                outcome_of(
                    store.upsert(Upsert { tags, ..upsert(&place("alice/mcp/new"), at(1), Some("v")) }).await,
                )
            })
        }),
        ("change", |store| {
            Box::pin(async move {
                let tags = Some(tags(&[("a", "2"), ("c", "3")]));
                outcome_of(
                    store.upsert(Upsert { tags, ..upsert(&place("alice/mcp/old"), at(1), Some("v")) }).await,
                )
            })
        }),
        ("rotate", |store| {
            Box::pin(async move {
                outcome_of(store.rotate(rotation(&place("alice/mcp/old"), at(1), at(9), "v")).await)
            })
        }),
        ("delete", |store| Box::pin(async move { outcome_of(store.delete(&place("alice/mcp/old")).await) })),
        ("retire", |store| Box::pin(async move { outcome_of(store.retire_expired(at(100), 10).await) })),
        ("insert_key", |store| {
            Box::pin(async move { outcome_of(store.insert_key(&api_key("NEWNEWNEWNEWNEWN")).await) })
        }),
        ("revoke_key", |store| {
            Box::pin(
                async move { outcome_of(store.revoke_key(&api_key("OLDOLDOLDOLDOLDO").id, at(1)).await) },
            )
        }),
        ("kek", |store| {
            Box::pin(async move { outcome_of(store.insert_kek_check(&kek("kek-9"), &[9; 32]).await) })
        }),
        ("internal_key", |store| {
            Box::pin(async move { outcome_of(store.insert_internal_key("audit", &kek("kek-9"), b"k").await) })
        }),
        ("audit_head", |store| Box::pin(async move { outcome_of(store.set_audit_head((7, [7; 32])).await) })),
    ]
}

async fn prepare(path: &Path) -> Arc<SqliteStore> {
    let store = open(path);
    let shared = Arc::clone(&store) as Arc<dyn Store>;
    put_tagged(&shared, "alice/mcp/old", &[("a", "1"), ("b", "2")]).await;
    put_tagged(&shared, "alice/mcp/other", &[("a", "1")]).await;
    rotate(&shared, &place("alice/mcp/old"), 0, 50).await;
    rotate(&shared, &place("alice/mcp/other"), 0, 60).await;
    store.insert_key(&api_key("OLDOLDOLDOLDOLDO")).await.expect("kept");
    store
}

async fn every_step(fault: Fault) {
    let dir = tempfile::tempdir().expect("a directory");
    for (name, write) in writes() {
        let mut cut = 0;
        for step in 1.. {
            let path = dir.path().join(format!("{name}-{step}.db"));
            let store = prepare(&path).await;
            let before = dump(&path);
            store.faults().fail_at(step, fault);
            let result = write(Arc::clone(&store)).await;
            if store.faults().clear() {
                assert_eq!(result, Ok(()), "{name} has fewer than {step} steps and succeeds");
                assert!(dump(&path) != before, "{name} has an effect");
                break;
            }
            cut += 1;
            assert!(result.is_err(), "{name}, step {step}: the fault is reported");
            assert!(dump(&path) == before, "{name}, step {step}: an error and an effect");
            if fault == Fault::Full {
                assert_eq!(write(Arc::clone(&store)).await, Ok(()), "{name}, step {step}: space again");
                assert!(dump(&path) != before, "{name}, step {step}: now it has an effect");
            }
            store.close().await;
            drop(store);
            if fault != Fault::Full {
                assert!(dump(&path) == before, "{name}, step {step}: an effect after a restart");
            }
        }
        assert!(cut >= 5, "{name}: begin, savepoint, change, release, commit; {cut} seen");
    }
}

#[tokio::test]
async fn a_write_that_a_full_disk_fails_at_any_step_has_no_effect_and_can_be_repeated() {
    every_step(Fault::Full).await;
}

#[tokio::test]
async fn a_failing_disk_at_any_step_has_no_effect() {
    every_step(Fault::Io).await;
}

#[tokio::test]
async fn a_panic_at_any_step_has_no_effect() {
    every_step(Fault::Panic).await;
}

#[tokio::test]
async fn a_failed_disk_stops_writes_permanently_and_leaves_reads() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = prepare(&dir.path().join("s.db")).await;
    store.faults().fail_at(2, Fault::Io);
    let failed = store.upsert(upsert(&place("alice/mcp/old"), at(1), Some("v"))).await;
    assert!(matches!(failed, Err(WriteError::Store(StoreError::Unavailable { .. }))), "{failed:?}");
    let steps = store.faults().steps();
    for (name, write) in writes() {
        assert!(write(Arc::clone(&store)).await.is_err(), "{name}");
    }
    assert!(store.check().await.is_err());
    assert_eq!(store.faults().steps(), steps, "the disk is not touched again");
    let read = store.active(&place("alice/mcp/old")).await.expect("read").expect("there");
    assert_eq!(read.secret.version.get(), 2);
}

#[tokio::test]
async fn a_failed_commit_has_an_unknown_outcome() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = prepare(&dir.path().join("s.db")).await;
    store.faults().fail_at(5, Fault::Io); // begin, savepoint, change, release, commit
    let failed = store.set_audit_head((7, [7; 32])).await;
    assert!(matches!(failed, Err(StoreError::OutcomeUnknown { source: Some(_) })), "{failed:?}");
}

#[tokio::test]
async fn readiness_is_checked_by_a_write_and_cached_for_a_second() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(&dir.path().join("s.db"));
    store.check().await.expect("it can be written");
    assert_eq!(store.faults().steps(), 5);
    // A machine that halts for a second makes the server check again.
    let mut tries = 0..10;
    loop {
        let steps = store.faults().steps();
        store.check().await.expect("remembered");
        if store.faults().steps() == steps {
            break;
        }
        tries.next().expect("it is remembered");
    }
    tokio::time::sleep(std::time::Duration::from_millis(1050)).await;
    store.faults().fail_at(3, Fault::Full);
    let full = store.check().await;
    assert!(matches!(full, Err(StoreError::Unavailable { reason: "the disk is full", .. })), "{full:?}");
}
