//! Cases of API keys and facts.

use agentrouter_model::{ApiKeyId, ApiKeyRecord, Scope, ScopeSet};

use super::fixtures::*;
use crate::StoreError;

fn key(id: &str, created: i64) -> ApiKeyRecord {
    ApiKeyRecord {
        id: ApiKeyId::parse(id).expect("an id"),
        digest: [7; 32],
        name: "ci \"runner\" ü".into(),
        user: owner("alice@example.com"),
        scopes: [Scope::Read, Scope::WriteInternal].into_iter().collect(),
        realm: realm("default"),
        realms: None,
        created_at: at(created),
        expires_at: None,
        revoked_at: None,
    }
}

pub(super) async fn keys_are_kept_and_revoked(store: Shared) {
    let second = key("AAAAAAAAAAAAAAAA", 2);
    let first = ApiKeyRecord {
        realms: Some(vec![realm("mcp"), realm("llm-keys")]),
        expires_at: Some(at(50)),
        scopes: ScopeSet::ALL,
        user: owner("system"),
        name: String::new(),
        ..key("zzzzzzzzzzzzzzzz", 1)
    };
    let none = ApiKeyRecord { realms: Some(vec![]), ..key("0000000000000000", 3) };
    assert_eq!(store.key(&first.id).await.expect("read"), None);
    assert!(store.keys().await.expect("read").is_empty());
    for record in [&second, &first, &none] {
        store.insert_key(record).await.expect("kept");
        assert_eq!(store.key(&record.id).await.expect("read").as_ref(), Some(record));
    }
    assert_eq!(
        store.keys().await.expect("read"),
        [first.clone(), second.clone(), none.clone()],
        "oldest first"
    );
    let twin = ApiKeyRecord { user: owner("mallory"), ..first.clone() };
    assert!(matches!(store.insert_key(&twin).await, Err(StoreError::Exists(_))));
    assert_eq!(store.key(&first.id).await.expect("read").as_ref(), Some(&first));

    let revoked = ApiKeyRecord { revoked_at: Some(at(9)), ..second.clone() };
    assert_eq!(store.revoke_key(&second.id, at(9)).await.expect("revoked").as_ref(), Some(&revoked));
    assert_eq!(store.revoke_key(&second.id, at(10)).await.expect("revoked").as_ref(), Some(&revoked));
    assert_eq!(store.key(&second.id).await.expect("read").as_ref(), Some(&revoked));
    assert_eq!(store.key(&first.id).await.expect("read"), Some(first));
    let absent = ApiKeyId::parse("1111111111111111").expect("an id");
    assert_eq!(store.revoke_key(&absent, at(9)).await.expect("nothing to do"), None);
}

pub(super) async fn one_key_at_most_is_the_first(store: Shared) {
    let callers: Vec<_> = ["A", "B", "C", "D"]
        .map(|letter| {
            let (store, record) = (Shared::clone(&store), key(&letter.repeat(16), 1));
            tokio::spawn(async move { store.insert_first_key(&record).await.expect("it can be written") })
        })
        .into();
    let mut kept = 0;
    for caller in callers {
        kept += u32::from(caller.await.expect("no panic"));
    }
    assert_eq!((kept, store.keys().await.expect("read").len()), (1, 1));
    let first = store.keys().await.expect("read").remove(0);
    store.revoke_key(&first.id, at(2)).await.expect("revoked");
    assert!(
        !store.insert_first_key(&key("EEEEEEEEEEEEEEEE", 3)).await.expect("read"),
        "a revoked one counts"
    );
    store.insert_key(&key("FFFFFFFFFFFFFFFF", 4)).await.expect("a second one");
}

pub(super) async fn kek_checks_are_kept(store: Shared) {
    assert!(store.kek_checks().await.expect("read").is_empty());
    store.insert_kek_check(&kek("kek-2"), &[2; 32]).await.expect("kept");
    store.insert_kek_check(&kek("kek-1"), &[1; 32]).await.expect("kept");
    store.insert_kek_check(&kek("kek-1"), &[1; 32]).await.expect("the same again");
    assert!(matches!(store.insert_kek_check(&kek("kek-1"), &[9; 32]).await, Err(StoreError::Exists(_))));
    assert_eq!(store.kek_checks().await.expect("read"), [(kek("kek-1"), [1; 32]), (kek("kek-2"), [2; 32])]);
}

pub(super) async fn the_first_internal_key_stays(store: Shared) {
    assert_eq!(store.internal_key("audit").await.expect("read"), None);
    let first = store.insert_internal_key("audit", &kek("kek-1"), b"one").await.expect("kept");
    assert_eq!(first, (kek("kek-1"), b"one".as_slice().into()));
    let second = store.insert_internal_key("audit", &kek("kek-2"), b"two").await.expect("the first");
    assert_eq!(second, first);
    assert_eq!(store.internal_key("audit").await.expect("read"), Some(first));
    assert_eq!(store.internal_key("Audit").await.expect("read"), None);
    store.insert_internal_key("page-tokens", &kek("kek-2"), b"two").await.expect("kept");
    let other = store.internal_key("page-tokens").await.expect("read");
    assert_eq!(other, Some((kek("kek-2"), b"two".as_slice().into())));
}

pub(super) async fn the_audit_head_is_the_last_one(store: Shared) {
    assert_eq!(store.audit_head().await.expect("read"), None);
    for head in [(0, [0; 32]), (1, [1; 32]), (1 << 60, [9; 32]), (2, [2; 32])] {
        store.set_audit_head(head).await.expect("kept");
        assert_eq!(store.audit_head().await.expect("read"), Some(head));
    }
}

pub(super) async fn the_store_can_be_written(store: Shared) {
    let before = store.stats();
    store.check().await.expect("it can");
    store.check().await.expect("it still can");
    put(&store, &place("alice/mcp/a"), "v").await;
    let after = store.stats();
    assert!(after.writes > before.writes && after.commits > before.commits, "{before:?} {after:?}");
}
