//! Cases of create, rotate, delete and expiry.

use std::sync::{Arc, Mutex};

use agentrouter_model::{SecretId, Status, Version};

use super::fixtures::*;
use crate::{Examined, SealError, Stored, Upsert, WriteError};

pub(super) async fn a_new_secret_has_version_one(store: Shared) {
    let place = place("alice/mcp/github");
    assert_eq!(active(&store, &place).await, None);
    let mut change = upsert(&place, at(5), Some("v1"));
    change.description = Some(description("for pulls"));
    change.tags = Some(tags(&[("env", "prod"), ("team", "")]));
    let id = change.new_id;
    let secret = store.upsert(change).await.expect("made");
    assert_eq!((secret.id, secret.version, secret.status), (id, Version::FIRST, Status::Active));
    assert_eq!((secret.created_at, secret.updated_at), (at(5), at(5)));
    assert_eq!((secret.rotated_at, secret.expires_at), (None, None));
    assert_eq!(secret.description.as_str(), "for pulls");
    assert_eq!(secret.tags, tags(&[("env", "prod"), ("team", "")]));
    assert_eq!(secret.kek_id, kek("kek-1"));
    let read = active(&store, &place).await.expect("there");
    let slot = agentrouter_model::Slot { place: &place, id, version: Version::FIRST };
    assert_eq!(read, Stored { secret: secret.clone(), envelope: Some(envelope("v1", slot)) });
    assert_eq!(stored(&store, &place, 1).await, Some(read));
    assert_eq!(stored(&store, &place, 2).await, None);
}

pub(super) async fn a_new_secret_needs_a_value(store: Shared) {
    let place = place("alice/mcp/github");
    let refused = store.upsert(upsert(&place, at(0), None)).await;
    assert!(matches!(refused, Err(WriteError::ValueNeeded)), "{refused:?}");
    let refused = store.rotate(rotation(&place, at(0), at(9), "v")).await;
    assert!(matches!(refused, Err(WriteError::NotFound)), "{refused:?}");
    assert_eq!(store.delete(&place).await.expect("nothing to do"), None);
    assert_eq!(active(&store, &place).await, None);
    assert!(store.readable(&place, at(0)).await.expect("read").is_empty());
    assert!(list(&store, &everything("alice")).await.is_empty());
}

pub(super) async fn a_change_of_nothing_keeps_everything(store: Shared) {
    let place = place("alice/mcp/github");
    let labels = || (Some(description("one")), Some(tags(&[("a", "1")])));
    let (described, tagged) = labels();
    let made = Upsert { description: described, tags: tagged, ..upsert(&place, at(0), Some("v1")) };
    let made = store.upsert(made).await.expect("made");
    let before = active(&store, &place).await.expect("there");
    assert_eq!(store.upsert(upsert(&place, at(7), None)).await.expect("nothing to do"), made);
    let (described, tagged) = labels();
    let same = Upsert { description: described, tags: tagged, ..upsert(&place, at(8), None) };
    assert_eq!(store.upsert(same).await.expect("nothing to do"), made, "equal already is no change");
    assert_eq!(active(&store, &place).await.expect("there"), before);
    let other = Upsert { description: Some(description("two")), ..upsert(&place, at(9), None) };
    assert_eq!(store.upsert(other).await.expect("changed").updated_at, at(9));
}

pub(super) async fn what_is_given_is_replaced_and_the_rest_kept(store: Shared) {
    let place = place("alice/mcp/github");
    let mut first = upsert(&place, at(0), Some("v1"));
    first.description = Some(description("one"));
    first.tags = Some(tags(&[("a", "1"), ("b", "2")]));
    let made = store.upsert(first).await.expect("made");

    let retagged = Upsert { tags: Some(tags(&[("b", "3"), ("c", "4")])), ..upsert(&place, at(1), None) };
    let retagged = store.upsert(retagged).await.expect("changed");
    assert_eq!(retagged.description.as_str(), "one");
    assert_eq!(retagged.tags, tags(&[("b", "3"), ("c", "4")]));
    assert_eq!((retagged.version, retagged.id), (Version::FIRST, made.id));

    let described = Upsert { description: Some(description("")), ..upsert(&place, at(2), Some("v2")) };
    let described = store.upsert(described).await.expect("changed");
    assert_eq!(described.description.as_str(), "");
    assert_eq!(described.tags, retagged.tags);
    assert_eq!((described.version, described.id), (version(2), made.id));
    assert_eq!((described.created_at, described.updated_at), (at(0), at(2)));
    assert_eq!(described.rotated_at, None, "a new value by Create is no rotation");

    let untagged = Upsert { tags: Some(tags(&[])), ..upsert(&place, at(3), None) };
    assert!(store.upsert(untagged).await.expect("changed").tags.is_empty());
    for (key, value) in [("a", "1"), ("b", "2"), ("b", "3"), ("c", "4")] {
        let query = crate::ListQuery { tags: tags(&[(key, value)]), ..everything("alice") };
        assert!(list(&store, &query).await.is_empty(), "the filter forgets a tag that was taken off");
    }
}

pub(super) async fn a_new_value_destroys_the_one_it_replaces(store: Shared) {
    let place = place("alice/mcp/github");
    put(&store, &place, "v1").await;
    rotate(&store, &place, 1, 100).await;
    let third = store.upsert(upsert(&place, at(2), Some("v3"))).await.expect("changed");
    assert_eq!(third.version, version(3));
    assert_eq!(versions(&store, &place).await, ["1 rotated_pending!", "2 retired", "3 active!"]);
    let readable = store.readable(&place, at(3)).await.expect("read");
    let numbers: Vec<i32> = readable.iter().map(|stored| stored.secret.version.get()).collect();
    assert_eq!(numbers, [1, 3], "the pending version stays pending");
}

pub(super) async fn a_rotation_keeps_the_replaced_value_for_a_while(store: Shared) {
    let place = place("alice/mcp/github");
    let mut first = upsert(&place, at(0), Some("v1"));
    first.description = Some(description("kept"));
    first.tags = Some(tags(&[("kept", "too")]));
    let made = store.upsert(first).await.expect("made");
    let before = active(&store, &place).await.expect("there");
    let rotated = rotate(&store, &place, 10, 20).await;
    assert_eq!((rotated.version, rotated.status), (version(2), Status::Active));
    assert_eq!((rotated.rotated_at, rotated.updated_at), (Some(at(10)), at(10)));
    assert_eq!((rotated.created_at, rotated.expires_at), (at(0), None));
    assert_eq!((&rotated.description, &rotated.tags), (&made.description, &made.tags));
    assert_eq!(active(&store, &place).await.expect("there").secret, rotated);

    let pending = stored(&store, &place, 1).await.expect("there");
    assert_eq!((pending.secret.status, pending.secret.expires_at), (Status::RotatedPending, Some(at(20))));
    assert_eq!(pending.envelope, before.envelope, "not a byte of it changed");
    assert_eq!(store.readable(&place, at(19)).await.expect("read").len(), 2);
    assert_eq!(store.readable(&place, at(20)).await.expect("read").len(), 1, "from that instant on");
}

pub(super) async fn readable_versions_come_in_pages_the_newest_first(store: Shared) {
    let place = place("alice/mcp/github");
    assert_eq!(store.examine(&place, at(0), None, 3).await.expect("read"), []);
    put(&store, &place, "v1").await;
    put(&store, &super::fixtures::place("alice/mcp/github2"), "v1").await;
    for number in 0..7 {
        // Version 3 expires first.
        rotate(&store, &place, 10, if number == 2 { 15 } else { 20 }).await;
    }
    let walk = async |now, limit| {
        let (mut found, mut before) = (Vec::new(), None);
        loop {
            let page = store.examine(&place, at(now), before, limit).await.expect("read");
            assert!(page.len() <= limit as usize);
            let numbers: Vec<_> = page.iter().map(|found| found.version().expect("a number")).collect();
            let Some(last) = numbers.last() else { return found };
            before = Some(*last);
            found.extend(numbers.iter().map(|number| number.get()));
        }
    };
    for limit in [1, 3, 8, 100] {
        assert_eq!(walk(12, limit).await, [8, 7, 6, 5, 4, 3, 2, 1], "{limit}");
        assert_eq!(walk(15, limit).await, [8, 7, 6, 5, 4, 2, 1], "{limit}");
        assert_eq!(walk(20, limit).await, [8], "{limit}");
    }
    let whole = store.examine(&place, at(12), None, 100).await.expect("read");
    let readable = store.readable(&place, at(12)).await.expect("read").into_iter().rev();
    assert_eq!(whole, readable.map(|stored| Examined::Whole(Box::new(stored))).collect::<Vec<_>>());
}

pub(super) async fn a_rotation_without_grace_destroys_at_once(store: Shared) {
    let place = place("alice/mcp/github");
    put(&store, &place, "v1").await;
    rotate(&store, &place, 10, 10).await;
    rotate(&store, &place, 11, 5).await;
    assert_eq!(versions(&store, &place).await, ["1 retired", "2 retired", "3 active!"]);
    assert_eq!(store.retire_expired(at(100), 10).await.expect("nothing to do"), None);
}

pub(super) async fn expected_versions_are_compared_exactly(store: Shared) {
    let place = place("alice/mcp/github");
    let expecting = |n, value| Upsert { expected_version: Some(n), ..upsert(&place, at(1), value) };
    for wrong in [1, 2, -1, i32::MIN, i32::MAX] {
        mismatch(store.upsert(expecting(wrong, Some("v"))).await);
        mismatch(store.upsert(expecting(wrong, None)).await);
    }
    store.upsert(expecting(0, Some("v1"))).await.expect("there is none yet");
    for wrong in [0, 2, -1] {
        mismatch(store.upsert(expecting(wrong, Some("v"))).await);
        mismatch(store.upsert(expecting(wrong, None)).await);
        let rotation =
            crate::Rotation { expected_version: Some(wrong), ..rotation(&place, at(1), at(2), "v") };
        mismatch(store.rotate(rotation).await);
    }
    assert_eq!(versions(&store, &place).await, ["1 active!"]);
    store.upsert(expecting(1, Some("v2"))).await.expect("as expected");
    let rotation = crate::Rotation { expected_version: Some(2), ..rotation(&place, at(1), at(2), "v") };
    assert_eq!(store.rotate(rotation).await.expect("as expected").version, version(3));
    let absent = crate::Rotation {
        expected_version: Some(1),
        ..super::fixtures::rotation(&super::fixtures::place("alice/mcp/other"), at(1), at(2), "v")
    };
    assert!(matches!(store.rotate(absent).await, Err(WriteError::NotFound)));
}

pub(super) async fn a_failed_seal_changes_nothing(store: Shared) {
    let place = place("alice/mcp/github");
    let broken = || -> crate::Sealer { Box::new(|_| Err(SealError)) };
    let make = Upsert { seal: Some(broken()), ..upsert(&place, at(1), None) };
    assert!(matches!(store.upsert(make).await, Err(WriteError::Seal(_))));
    assert_eq!(active(&store, &place).await, None);
    put(&store, &place, "v1").await;
    let before = active(&store, &place).await;
    let change = Upsert {
        seal: Some(broken()),
        tags: Some(tags(&[("a", "b")])),
        description: Some(description("no")),
        ..upsert(&place, at(1), None)
    };
    assert!(matches!(store.upsert(change).await, Err(WriteError::Seal(_))));
    let rotation = crate::Rotation { seal: broken(), ..rotation(&place, at(1), at(2), "v") };
    assert!(matches!(store.rotate(rotation).await, Err(WriteError::Seal(_))));
    assert_eq!(active(&store, &place).await, before);
    assert_eq!(versions(&store, &place).await, ["1 active!"]);
}

pub(super) async fn the_sealer_gets_the_slot(store: Shared) {
    let target = place("alice/mcp/github");
    let seen: Arc<Mutex<Vec<(SecretId, i32)>>> = Arc::default();
    let watching = || -> crate::Sealer {
        let (seen, target) = (Arc::clone(&seen), target.clone());
        Box::new(move |slot| {
            assert_eq!(*slot.place, target);
            seen.lock().expect("unpoisoned").push((slot.id, slot.version.get()));
            Ok(envelope("v", slot))
        })
    };
    let make = Upsert { seal: Some(watching()), ..upsert(&target, at(0), None) };
    let id = store.upsert(make).await.expect("made").id;
    let change = Upsert { seal: Some(watching()), ..upsert(&target, at(1), None) };
    store.upsert(change).await.expect("changed");
    let rotation = crate::Rotation { seal: watching(), ..rotation(&target, at(2), at(9), "v") };
    store.rotate(rotation).await.expect("rotated");
    let mut slots = seen.lock().expect("unpoisoned").clone();
    slots.dedup();
    assert_eq!(slots, [(id, 1), (id, 2), (id, 3)]);
}

pub(super) async fn deletion_leaves_nothing_and_frees_the_place(store: Shared) {
    let place = place("alice/mcp/github");
    let made = put_tagged(&store, "alice/mcp/github", &[("env", "prod")]).await;
    rotate(&store, &place, 1, 100).await;
    store.upsert(upsert(&place, at(2), Some("v3"))).await.expect("changed");
    let last = active(&store, &place).await.expect("there").secret;
    assert_eq!(store.delete(&place).await.expect("deleted"), Some(last));
    assert_eq!(active(&store, &place).await, None);
    assert!(versions(&store, &place).await.is_empty());
    assert!(store.readable(&place, at(3)).await.expect("read").is_empty());
    let any = crate::ListQuery { statuses: crate::StatusFilter::Any, ..everything("alice") };
    assert!(list(&store, &any).await.is_empty());
    assert_eq!(store.retire_expired(at(1000), 10).await.expect("nothing to do"), None);
    assert_eq!(store.delete(&place).await.expect("nothing to do"), None);

    let again = put(&store, &place, "new").await;
    assert_ne!(again.id, made.id);
    assert_eq!(again.version, Version::FIRST);
    assert!(again.tags.is_empty());
    let tagged = crate::ListQuery { tags: tags(&[("env", "prod")]), ..everything("alice") };
    assert!(list(&store, &tagged).await.is_empty());
    assert_eq!(versions(&store, &place).await, ["1 active!"]);
}

pub(super) async fn places_do_not_touch_each_other(store: Shared) {
    let texts = [
        "alice/mcp/x",
        "alice/mcp/X",
        "alice/mcp/x.y",
        "alice/llm/x",
        "bob/mcp/x",
        "system/mcp/x",
        "SYSTEM/mcp/x",
    ];
    for text in texts {
        put(&store, &place(text), text).await;
    }
    store.delete(&place("alice/mcp/x")).await.expect("deleted");
    rotate(&store, &place("bob/mcp/x"), 1, 100).await;
    assert_eq!(active(&store, &place("alice/mcp/x")).await, None);
    for text in &texts[1..] {
        let stored = stored(&store, &place(text), 1).await.expect("untouched");
        let sealed = stored.envelope.expect("kept").sealed;
        assert!(sealed.starts_with(format!("{text} in {text} ").as_bytes()), "{text}");
        assert_eq!(stored.secret.place, place(text));
    }
    assert_eq!(active(&store, &place("system/mcp/x")).await.expect("there").secret.version, Version::FIRST);
}

pub(super) async fn due_versions_are_retired_and_the_next_is_named(store: Shared) {
    assert_eq!(store.retire_expired(at(0), 10).await.expect("nothing to do"), None);
    for (name, expires) in [("a", 30), ("b", 10), ("c", 20), ("d", 40)] {
        let place = place(&format!("alice/mcp/{name}"));
        put(&store, &place, "v1").await;
        rotate(&store, &place, 1, expires).await;
    }
    let retire = async |now, limit| store.retire_expired(at(now), limit).await.expect("retired");
    let pending = async |name: &str| {
        let stored = stored(&store, &place(&format!("alice/mcp/{name}")), 1).await.expect("there");
        assert_eq!(stored.envelope.is_some(), stored.secret.status == Status::RotatedPending);
        stored.envelope.is_some()
    };
    assert_eq!(retire(9, 10).await, Some(at(10)));
    assert!(pending("b").await);
    assert_eq!(retire(10, 10).await, Some(at(20)), "from that instant on");
    assert!(!pending("b").await && pending("c").await);
    assert_eq!(retire(35, 0).await, Some(at(20)));
    assert!(pending("c").await);
    assert_eq!(retire(35, 1).await, Some(at(30)), "one is left over and due");
    assert!(!pending("c").await && pending("a").await);
    assert_eq!(retire(35, 10).await, Some(at(40)));
    assert_eq!(retire(1000, 10).await, None);
    let retired = stored(&store, &place("alice/mcp/d"), 1).await.expect("there").secret;
    assert_eq!((retired.status, retired.expires_at), (Status::Retired, Some(at(40))));
    let active = active(&store, &place("alice/mcp/d")).await.expect("there");
    assert_eq!((active.secret.version, active.envelope.is_some()), (version(2), true));
}

pub(super) async fn a_clock_that_steps_back_breaks_nothing(store: Shared) {
    let place = place("alice/mcp/github");
    store.upsert(upsert(&place, at(1000), Some("v1"))).await.expect("made");
    store.upsert(upsert(&place, at(-1000), Some("v2"))).await.expect("changed");
    let rotated = rotate(&store, &place, -2000, -1500).await;
    assert_eq!((rotated.version, rotated.created_at), (version(3), at(1000)));
    assert_eq!(active(&store, &place).await.expect("there").secret, rotated);
    assert_eq!(store.retire_expired(at(-1500), 10).await.expect("retired"), None);
}

pub(super) async fn large_and_odd_contents_come_back_as_they_were(store: Shared) {
    let long = format!("{}/{}/{}", "u".repeat(255), "r".repeat(64), "n".repeat(255));
    let place = place(&long);
    let pairs: Vec<(String, String)> = (0..64)
        .map(|i| (format!("{}{i:02}", "k".repeat(126)), format!("ü\"\\ {}{i}", "v".repeat(240))))
        .collect();
    let many =
        agentrouter_model::Tags::parse(pairs.iter().map(|(k, v)| (k.as_str(), v.as_str()))).expect("tags");
    let text = description(&"\u{0}\n'; DROP TABLE secrets; -- \u{1f511}".repeat(28));
    let sealed: Box<[u8]> = (0..=255).cycle().take(70_000).collect();
    let copy = sealed.clone();
    let seal: crate::Sealer =
        Box::new(move |slot| Ok(agentrouter_model::Envelope { sealed: copy.clone(), ..envelope("", slot) }));
    let change = Upsert {
        description: Some(text.clone()),
        tags: Some(many.clone()),
        seal: Some(seal),
        ..upsert(&place, agentrouter_model::Timestamp::MAX, None)
    };
    store.upsert(change).await.expect("made");
    let read = active(&store, &place).await.expect("there");
    assert_eq!((read.secret.description, read.secret.tags), (text, many.clone()));
    assert_eq!(read.secret.created_at, agentrouter_model::Timestamp::MAX);
    assert_eq!(read.envelope.expect("kept").sealed, sealed);
    let query = crate::ListQuery { tags: many, ..everything(place.owner.as_str()) };
    assert_eq!(list(&store, &query).await.len(), 1);
}
