//! Cases with concurrent callers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use agentrouter_model::{PageCursor, Status, Version};

use super::fixtures::*;
use crate::{ListQuery, StatusFilter, Upsert, WriteError};

pub(super) async fn rotations_of_one_secret_count_up(store: Shared) {
    const CALLERS: i32 = 8;
    const EACH: i32 = 8;
    let place = place("alice/mcp/hot");
    put(&store, &place, "v1").await;
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let (store, place) = (Arc::clone(&store), place.clone());
            tokio::spawn(async move {
                let mut got = Vec::new();
                for _ in 0..EACH {
                    let secret = if caller % 2 == 0 {
                        store.rotate(rotation(&place, at(1), at(100), "v")).await
                    } else {
                        store.upsert(upsert(&place, at(1), Some("v"))).await
                    };
                    got.push(secret.expect("written").version.get());
                }
                got
            })
        })
        .collect();
    let mut numbers = Vec::new();
    for caller in callers {
        let got = caller.await.expect("no panic");
        assert!(got.is_sorted(), "each caller sees the numbers rise: {got:?}");
        numbers.extend(got);
    }
    numbers.sort_unstable();
    let last = 1 + CALLERS * EACH;
    assert_eq!(numbers, (2..=last).collect::<Vec<_>>(), "consecutive, none twice");
    let all = ListQuery { statuses: StatusFilter::Any, ..everything("alice") };
    let rows = list(&store, &all).await;
    assert_eq!(rows.iter().map(|row| row.version.get()).collect::<Vec<_>>(), (1..=last).collect::<Vec<_>>());
    let active: Vec<_> = rows.iter().filter(|row| row.status == Status::Active).collect();
    assert_eq!(active.iter().map(|row| row.version.get()).collect::<Vec<_>>(), [last], "exactly one");
}

pub(super) async fn one_of_many_creators_wins(store: Shared) {
    let place = place("alice/mcp/new");
    let creators: Vec<_> = (0..16)
        .map(|_| {
            let (store, place) = (Arc::clone(&store), place.clone());
            tokio::spawn(async move {
                let change = Upsert { expected_version: Some(0), ..upsert(&place, at(0), Some("v")) };
                store.upsert(change).await
            })
        })
        .collect();
    let mut winners = Vec::new();
    for creator in creators {
        match creator.await.expect("no panic") {
            Ok(secret) => winners.push(secret.id),
            Err(WriteError::VersionMismatch) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(winners.len(), 1);
    assert_eq!(active(&store, &place).await.expect("there").secret.id, winners[0]);
}

pub(super) async fn a_walk_misses_and_repeats_nothing_under_writes(store: Shared) {
    let stays: BTreeSet<String> = (0..60).map(|i| format!("k{i:02}")).collect();
    for name in &stays {
        put_tagged(&store, &format!("alice/mcp/{name}"), &[("t", "1")]).await;
    }
    let done = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..3)
        .map(|writer| {
            let (store, done) = (Arc::clone(&store), Arc::clone(&done));
            tokio::spawn(async move {
                for i in (0..60).cycle() {
                    if done.load(Ordering::SeqCst) {
                        break;
                    }
                    let passing = format!("alice/mcp/k{i:02}-{writer}");
                    put_tagged(&store, &passing, &[("t", "1")]).await;
                    rotate(&store, &place(&format!("alice/mcp/k{i:02}")), 0, 10).await;
                    store.delete(&place(&passing)).await.expect("deleted");
                }
            })
        })
        .collect();
    for round in 0..6 {
        let wanted = if round % 2 == 0 { tags(&[]) } else { tags(&[("t", "1")]) };
        let mut query = ListQuery { limit: 7, tags: wanted, ..everything("alice") };
        let mut seen = Vec::new();
        loop {
            let page = list(&store, &query).await;
            let Some(last) = page.last() else { break };
            query.after = Some(PageCursor::of(last));
            seen.extend(page.iter().map(|secret| secret.place.name.as_str().to_owned()));
            tokio::task::yield_now().await;
        }
        assert!(seen.is_sorted_by(|a, b| a < b), "in order, nothing twice: {seen:?}");
        let seen: BTreeSet<String> = seen.into_iter().collect();
        assert!(stays.is_subset(&seen), "missed: {:?}", stays.difference(&seen));
    }
    done.store(true, Ordering::SeqCst);
    for writer in writers {
        writer.await.expect("no panic");
    }
}

pub(super) async fn deletion_and_creation_race_cleanly(store: Shared) {
    let place = place("alice/mcp/blinks");
    let tasks: Vec<_> = (0..6)
        .map(|task| {
            let (store, place) = (Arc::clone(&store), place.clone());
            tokio::spawn(async move {
                for _ in 0..15 {
                    if task % 3 == 0 {
                        store.delete(&place).await.expect("deleted or absent");
                    } else if task % 3 == 1 {
                        put(&store, &place, "v").await;
                    } else {
                        let rotated = store.rotate(rotation(&place, at(0), at(10), "v")).await;
                        assert!(matches!(rotated, Ok(_) | Err(WriteError::NotFound)), "{rotated:?}");
                    }
                    if let Some(stored) = active(&store, &place).await {
                        assert_eq!(stored.secret.status, Status::Active);
                        assert!(stored.envelope.is_some());
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic");
    }
    store.delete(&place).await.expect("deleted or absent");
    assert_eq!(put(&store, &place, "v").await.version, Version::FIRST);
    assert_eq!(versions(&store, &place).await, ["1 active!"]);
}

pub(super) async fn reads_see_acknowledged_writes(store: Shared) {
    let place = place("alice/mcp/a");
    for number in 1..=40 {
        let (writer, at_place) = (Arc::clone(&store), place.clone());
        let write = tokio::spawn(async move { put(&writer, &at_place, "v").await });
        assert_eq!(write.await.expect("no panic").version, version(number));
        let (reader, at_place) = (Arc::clone(&store), place.clone());
        let read = tokio::spawn(async move { active(&reader, &at_place).await });
        assert_eq!(read.await.expect("no panic").expect("there").secret.version, version(number));
    }
}
