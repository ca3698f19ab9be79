//! Tests of several replicas on one database.

use std::sync::Arc;

use agentrouter_model::Status;

use super::{open, target};
use crate::PostgresStore;
use crate::testing::Postgres;
use agentrouter_store::conformance::fixtures::*;
use agentrouter_store::prelude::*;
use agentrouter_store::{ListQuery, StatusFilter, Store, Upsert, WriteError};

async fn replicas(count: usize) -> Vec<Shared> {
    let server = Postgres::shared();
    let url = server.url(&server.database());
    let mut replicas: Vec<Shared> = vec![open(&url).await];
    for i in 1..count {
        let store = PostgresStore::open(target(&url), &format!("replica-{}", i + 1)).await.expect("opened");
        replicas.push(Arc::new(store));
    }
    replicas
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rotations_through_three_replicas_count_up_without_a_gap() {
    let replicas = replicas(3).await;
    let places: Vec<_> = (0..4).map(|i| place(&format!("alice/mcp/hot-{i}"))).collect();
    for place in &places {
        put(&replicas[0], place, "v1").await;
    }
    let callers: Vec<_> = (0..12)
        .map(|caller| {
            let (store, places) = (Arc::clone(&replicas[caller % 3]), places.clone());
            tokio::spawn(async move {
                for round in 0..20 {
                    // Each caller has another order. Locks in the order of calls would deadlock here.
                    let place = &places[(caller * 7 + round * (caller % 3 + 1)) % places.len()];
                    store.rotate(rotation(place, at(1), at(100), "v")).await.expect("rotated");
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.expect("no panic");
    }
    let query = ListQuery { statuses: StatusFilter::Any, ..everything("alice") };
    let rows = list(&replicas[1], &query).await;
    assert_eq!(rows.len(), 4 + 12 * 20);
    for place in &places {
        let of_place: Vec<_> = rows.iter().filter(|row| row.place == *place).collect();
        let numbers: Vec<i32> = of_place.iter().map(|row| row.version.get()).collect();
        assert_eq!(numbers, (1..=of_place.len() as i32).collect::<Vec<_>>(), "none twice, none left out");
        assert_eq!(of_place.iter().filter(|row| row.status == Status::Active).count(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_of_many_creators_on_three_replicas_wins() {
    let replicas = replicas(3).await;
    let place = place("alice/mcp/new");
    let creators: Vec<_> = (0..24)
        .map(|i| {
            let (store, place) = (Arc::clone(&replicas[i % 3]), place.clone());
            tokio::spawn(async move {
                let change = Upsert { expected_version: Some(0), ..upsert(&place, at(0), Some("v")) };
                store.upsert(change).await
            })
        })
        .collect();
    let mut winners = 0;
    for creator in creators {
        match creator.await.expect("no panic") {
            Ok(_) => winners += 1,
            Err(WriteError::VersionMismatch) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(winners, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn replicas_share_the_reaping_and_keep_their_own_audit_heads() {
    let replicas = replicas(3).await;
    for i in 0..90 {
        let place = place(&format!("alice/mcp/k{i:02}"));
        put(&replicas[0], &place, "v1").await;
        rotate(&replicas[0], &place, 1, 10).await;
    }
    let reapers: Vec<_> = replicas
        .iter()
        .map(|store| {
            let store = Arc::clone(store);
            tokio::spawn(
                async move { while store.retire_expired(at(10), 7).await.expect("retired").is_some() {} },
            )
        })
        .collect();
    for reaper in reapers {
        reaper.await.expect("no panic");
    }
    let retired = ListQuery { statuses: StatusFilter::Retired, ..everything("alice") };
    assert_eq!(list(&replicas[2], &retired).await.len(), 90);
    for (i, store) in replicas.iter().enumerate() {
        store.set_audit_head((i as u64, [i as u8; 32])).await.expect("kept");
    }
    for (i, store) in replicas.iter().enumerate() {
        assert_eq!(store.audit_head().await.expect("read"), Some((i as u64, [i as u8; 32])));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writes_of_many_callers_share_commits_and_a_bad_one_fails_alone() {
    let store = super::store().await;
    let writes: Vec<_> = (0..400)
        .map(|i| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let place = place(&format!("alice/mcp/k{i}"));
                let change = match i % 8 {
                    0 => upsert(&place, at(0), None),
                    1 => Upsert { expected_version: Some(3), ..upsert(&place, at(0), Some("v")) },
                    2 => Upsert {
                        seal: Some(Box::new(|_| panic!("on purpose"))),
                        ..upsert(&place, at(0), None)
                    },
                    _ => upsert(&place, at(0), Some("v")),
                };
                (i % 8, store.upsert(change).await)
            })
        })
        .collect();
    let mut good = 0;
    for write in writes {
        match write.await.expect("no panic") {
            (0, result) => assert!(matches!(result, Err(WriteError::ValueNeeded)), "{result:?}"),
            (1, result) => assert!(matches!(result, Err(WriteError::VersionMismatch)), "{result:?}"),
            (2, result) => assert!(matches!(result, Err(WriteError::Store(_))), "{result:?}"),
            (_, result) => good += usize::from(result.is_ok()),
        }
    }
    assert_eq!(good, 250);
    let stats = store.stats();
    assert!(stats.writes >= 250 && stats.commits < 125, "{stats:?}");
}
