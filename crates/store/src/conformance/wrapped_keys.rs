//! Cases of wrapped keys.

use super::fixtures::*;
use crate::wrapped_keys::{DekCursor, DekQuery, DekSwap, KEKS, RESEALED, StoredDek};

/// Every wrapped DEK that is not under `not_under`, in pages of `limit` rows.
async fn walk_deks(store: &Shared, not_under: Option<&str>, limit: u32) -> Vec<StoredDek> {
    let not_under = not_under.map(kek);
    let mut query = DekQuery { not_under, after: DekCursor::default(), limit, with_values: true };
    let mut found = Vec::new();
    loop {
        let page = store.wrapped_deks(&query).await.expect("read");
        assert!(page.deks.len() <= limit as usize && page.damaged == 0);
        found.extend(page.deks);
        match page.next {
            Some(next) => query.after = next,
            None => return found,
        }
    }
}

fn swap_of(from: StoredDek, to: &str) -> DekSwap {
    let wrapped = [&*from.wrapped, b" again"].concat().into();
    DekSwap { from, kek_id: kek(to), wrapped, sealed: None }
}

pub(super) async fn wrapped_keys_are_walked_and_swapped(store: Shared) {
    for name in ["a", "b", "c", "d", "e"] {
        put(&store, &place(&format!("alice/mcp/{name}")), "v").await;
    }
    let a = place("alice/mcp/a");
    rotate(&store, &a, 1, 100).await;
    // One that is retired has no key.
    rotate(&store, &place("alice/mcp/b"), 1, 1).await;
    for limit in [1, 2, 6, 100] {
        assert_eq!(walk_deks(&store, None, limit).await.len(), 6);
        assert_eq!(walk_deks(&store, Some("kek-1"), limit).await, []);
    }
    assert_eq!(store.kek_use().await.expect("read"), [(kek("kek-1"), 6)]);

    let before = (stored(&store, &a, 1).await.expect("there"), stored(&store, &a, 2).await.expect("there"));
    let swaps: Vec<_> =
        walk_deks(&store, None, 100).await.into_iter().map(|dek| swap_of(dek, "kek-2")).collect();
    assert_eq!(store.swap_deks(swaps.clone(), None).await.expect("swapped"), 6);
    assert_eq!(
        store.swap_deks(swaps, None).await.expect("nothing to do"),
        0,
        "they are not as they were read"
    );
    assert_eq!(store.swap_deks(Vec::new(), None).await.expect("nothing to do"), 0);
    assert_eq!(store.kek_use().await.expect("read"), [(kek("kek-2"), 6)]);
    for (before, number) in [(before.0, 1), (before.1, 2)] {
        let mut expected = before.clone();
        expected.secret.kek_id = kek("kek-2");
        let envelope = expected.envelope.as_mut().expect("sealed");
        envelope.kek_id = kek("kek-2");
        envelope.wrapped_dek = [&*envelope.wrapped_dek, b" again"].concat().into();
        assert_eq!(stored(&store, &a, number).await, Some(expected));
    }
    assert_eq!(list(&store, &everything("alice")).await[0].kek_id, kek("kek-2"));
    let readable = store.readable(&a, at(2)).await.expect("read");
    assert_eq!(readable.len(), 2);

    // A value can be replaced with its key, and the position is kept with it.
    let from = walk_deks(&store, None, 100).await.remove(0);
    let (place, number) = (from.place.clone(), from.version.get());
    let swap = DekSwap { sealed: Some(b"sealed again".as_slice().into()), ..swap_of(from, "kek-3") };
    assert_eq!(store.swap_deks(vec![swap], Some("here".into())).await.expect("swapped"), 1);
    let after = stored(&store, &place, number).await.expect("there").envelope.expect("sealed");
    assert_eq!(&*after.sealed, b"sealed again");
    assert_eq!(store.kek_fact(RESEALED).await.expect("read").as_deref(), Some("here"));
    store.set_kek_fact(RESEALED, None).await.expect("removed");
    assert_eq!(store.kek_fact(RESEALED).await.expect("read"), None);
}

pub(super) async fn a_key_that_changed_is_not_swapped(store: Shared) {
    let (a, b, c) = (place("alice/mcp/a"), place("alice/mcp/b"), place("alice/mcp/c"));
    for place in [&a, &b, &c] {
        put(&store, place, "v").await;
    }
    let swaps = walk_deks(&store, None, 100).await.into_iter().map(|dek| swap_of(dek, "kek-2")).collect();
    store.upsert(upsert(&a, at(1), Some("other"))).await.expect("written");
    store.delete(&b).await.expect("deleted");
    rotate(&store, &c, 1, 100).await;
    assert_eq!(store.swap_deks(swaps, None).await.expect("swapped"), 1, "that of the pending version of c");
    assert_eq!(stored(&store, &a, 2).await.expect("there").secret.kek_id, kek("kek-1"));
    assert_eq!(active(&store, &b).await, None);
    assert_eq!(stored(&store, &c, 1).await.expect("there").secret.kek_id, kek("kek-2"));
    assert_eq!(stored(&store, &c, 2).await.expect("there").secret.kek_id, kek("kek-1"));
    let due = store.retire_expired(at(200), 10).await.expect("retired");
    assert_eq!(due, None);
    assert_eq!(versions(&store, &c).await, ["1 retired", "2 active!"]);
}

pub(super) async fn the_services_own_keys_are_swapped_and_a_kek_in_use_is_not_retired(store: Shared) {
    store.insert_kek_check(&kek("kek-1"), &[1; 32]).await.expect("kept");
    store.insert_kek_check(&kek("kek-2"), &[2; 32]).await.expect("kept");
    let from = store.insert_internal_key("audit", &kek("kek-1"), b"one").await.expect("kept");
    let to = (kek("kek-2"), b"two".as_slice().into());
    assert!(!store.retire_kek(&kek("kek-1"), "fact").await.expect("asked"), "it wraps a key");
    assert_eq!(store.kek_fact(KEKS).await.expect("read"), None);
    assert!(store.swap_internal_key("audit", &from, &to).await.expect("swapped"));
    assert!(!store.swap_internal_key("audit", &from, &to).await.expect("asked"));
    assert_eq!(store.internal_keys().await.expect("read"), [("audit".to_owned(), to)]);
    put(&store, &place("alice/mcp/a"), "v").await;
    assert!(!store.retire_kek(&kek("kek-1"), "fact").await.expect("asked"), "it wraps the key of a version");
    store.delete(&place("alice/mcp/a")).await.expect("deleted");
    assert!(store.retire_kek(&kek("kek-1"), "fact").await.expect("retired"));
    assert_eq!(store.kek_fact(KEKS).await.expect("read").as_deref(), Some("fact"));
    assert_eq!(store.kek_checks().await.expect("read"), [(kek("kek-2"), [2; 32])]);
    let lock = store.lock_keks().await.expect("reached");
    assert!(lock.is_some());
}
