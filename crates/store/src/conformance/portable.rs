//! Cases of export and import.

use std::collections::BTreeSet;

use agentrouter_model::{ApiKeyId, ApiKeyRecord, ScopeSet};

use super::fixtures::*;
use crate::StoreError;
use crate::portable::{Import, Item};

/// Fills a store with items of every kind.
pub async fn fill(store: &Shared) {
    for (id, check) in [("kek-2", 2), ("kek-1", 1)] {
        store.insert_kek_check(&kek(id), &[check; 32]).await.expect("kept");
    }
    store.insert_internal_key("pages", &kek("kek-1"), b"wrapped pages").await.expect("kept");
    store.insert_internal_key("audit", &kek("kek-2"), b"wrapped audit").await.expect("kept");
    for (id, realms) in
        [("zzzzzzzzzzzzzzzz", None), ("AAAAAAAAAAAAAAAA", Some(vec![realm("mcp"), realm("a")]))]
    {
        let key = ApiKeyRecord {
            id: ApiKeyId::parse(id).expect("an id"),
            digest: [7; 32],
            name: "ci \"runner\" ü".into(),
            user: owner("alice@example.com"),
            scopes: ScopeSet::ALL,
            realm: realm("default"),
            realms,
            created_at: at(1),
            expires_at: Some(at(50)),
            revoked_at: None,
        };
        store.insert_key(&key).await.expect("kept");
    }
    store.revoke_key(&ApiKeyId::parse("zzzzzzzzzzzzzzzz").expect("an id"), at(9)).await.expect("revoked");
    for text in ["bob/a/x", "alice/mcp/b", "alice/mcp/B", "alice/a/x", "system/llm-keys/k.1"] {
        put_tagged(store, text, &[("env", "prod"), ("n", "ü \"")]).await;
    }
    let rotated = place("alice/mcp/b");
    rotate(store, &rotated, 1, 100).await;
    rotate(store, &rotated, 2, 2).await;
    rotate(store, &rotated, 3, 4).await;
}

/// Everything in a store.
pub async fn whole(store: &Shared, count: usize) -> Vec<Item> {
    let mut export = store.export().await.expect("started");
    let mut items = Vec::new();
    loop {
        let next = export.next(count).await.expect("read");
        if next.is_empty() {
            return items;
        }
        items.extend(next);
    }
}

/// The kind of an item, as one word.
fn brief_item(item: &Item) -> String {
    match item {
        Item::Kek { id, .. } => format!("kek {id}"),
        Item::InternalKey { purpose, .. } => format!("internal {purpose}"),
        Item::ApiKey(key) => format!("key {}", key.id),
        Item::Secret(secret) => format!("{}/{}", secret.place.owner, brief(secret)),
        Item::Version(stored) => format!("{} {}", stored.secret.version, stored.secret.status),
    }
}

pub(super) async fn an_export_has_one_order_and_can_be_imported(store: Shared, other: Shared) {
    assert_eq!(whole(&store, 10).await, []);
    fill(&store).await;
    let items = whole(&store, 1).await;
    let order: Vec<String> = items.iter().map(brief_item).collect();
    assert_eq!(
        order,
        [
            "kek kek-1",
            "kek kek-2",
            "internal audit",
            "internal pages",
            "key AAAAAAAAAAAAAAAA",
            "key zzzzzzzzzzzzzzzz",
            "alice/a/x@1",
            "1 active",
            "alice/mcp/B@1",
            "1 active",
            "alice/mcp/b@4",
            "1 rotated_pending",
            "2 retired",
            "3 rotated_pending",
            "4 active",
            "bob/a/x@1",
            "1 active",
            "system/llm-keys/k.1@1",
            "1 active",
        ]
    );
    assert_eq!(whole(&store, 1000).await, items, "in pieces of any size");

    assert_eq!(other.unfinished_import().await.expect("read"), None);
    assert_eq!(other.begin_import("here").await.expect("started"), 0);
    let (first, rest) = items.split_at(11);
    other.import(0, first.to_vec()).await.expect("taken");
    other.import(11, rest.to_vec()).await.expect("taken");
    let unfinished = Import { source: "here".to_owned(), done: items.len() as u64 };
    assert_eq!(other.unfinished_import().await.expect("read"), Some(unfinished));
    assert_eq!(other.epoch().await.expect("read"), None);
    other.finish_import(Some("one")).await.expect("finished");
    assert_eq!(other.unfinished_import().await.expect("read"), None);
    assert_eq!(other.epoch().await.expect("read").as_deref(), Some("one"));
    assert_eq!(whole(&other, 3).await, items);

    // The imported store works: tags, versions and dates are unchanged.
    let b = place("alice/mcp/b");
    assert_eq!(active(&other, &b).await, active(&store, &b).await);
    assert_eq!(
        versions(&other, &b).await,
        ["1 rotated_pending!", "2 retired", "3 rotated_pending!", "4 active!"]
    );
    let tagged = crate::ListQuery { tags: tags(&[("env", "prod"), ("n", "ü \"")]), ..everything("alice") };
    assert_eq!(list(&other, &tagged).await, list(&store, &tagged).await);
    assert_eq!(other.keys().await.expect("read"), store.keys().await.expect("read"));
    assert_eq!(other.retire_expired(at(50), 10).await.expect("retired"), Some(at(100)));
    assert_eq!(rotate(&other, &b, 60, 70).await.version, version(5));
    assert!(other.delete(&place("bob/a/x")).await.expect("deleted").is_some());
}

pub(super) async fn only_an_empty_store_is_filled_and_only_from_one_source(store: Shared, other: Shared) {
    fill(&store).await;
    let before = whole(&store, 100).await;
    assert!(matches!(store.begin_import("here").await, Err(StoreError::NotEmpty)));
    assert!(matches!(store.import(0, before.clone()).await, Err(StoreError::Unfinished)));
    assert!(store.finish_import(Some("x")).await.is_err());
    assert_eq!(whole(&store, 100).await, before);
    assert_eq!(store.epoch().await.expect("read"), None);

    // An interrupted import continues at its position, from the same source only, and stores nothing twice.
    other.begin_import("here").await.expect("started");
    other.import(0, before[..7].to_vec()).await.expect("taken");
    assert!(matches!(other.begin_import("there").await, Err(StoreError::Unfinished)));
    assert_eq!(other.begin_import("here").await.expect("resumed"), 7);
    assert!(matches!(other.import(0, before[..7].to_vec()).await, Err(StoreError::Unfinished)));
    assert!(matches!(other.import(8, before[8..].to_vec()).await, Err(StoreError::Unfinished)));
    // A refused batch has no effect.
    let mut twice = before[7..10].to_vec();
    twice.push(before[4].clone());
    assert!(other.import(7, twice).await.is_err());
    assert_eq!(other.begin_import("here").await.expect("resumed"), 7);
    other.import(7, before[7..].to_vec()).await.expect("taken");
    other.finish_import(None).await.expect("finished");
    assert_eq!(whole(&other, 100).await, before);
    assert!(matches!(other.begin_import("here").await, Err(StoreError::NotEmpty)));
}

pub(super) async fn what_is_taken_out_is_of_one_moment(store: Shared) {
    fill(&store).await;
    let before: BTreeSet<String> = whole(&store, 100).await.iter().map(|item| format!("{item:?}")).collect();
    let mut export = store.export().await.expect("started");
    let mut seen = BTreeSet::new();
    let mut number = 0;
    loop {
        let items = export.next(1).await.expect("read");
        if items.is_empty() {
            break;
        }
        seen.extend(items.iter().map(|item| format!("{item:?}")));
        // Positions before and after the import's own.
        number += 1;
        put(&store, &place(&format!("aaron/a/n{number}")), "new").await;
        put(&store, &place(&format!("zoe/a/n{number}")), "new").await;
        store.delete(&place("bob/a/x")).await.expect("deleted");
        put(&store, &place("system/llm-keys/k.1"), "changed").await;
    }
    assert_eq!(seen, before);
    drop(export);
    assert!(whole(&store, 100).await.len() > before.len());
}
