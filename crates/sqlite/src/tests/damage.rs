//! Tests of damaged files: foreign bytes are refused, never interpreted, and never cause a panic.

use std::path::Path;
use std::sync::Arc;

use agentrouter_model::{
    ApiKeyId, ApiKeyRecord, PageCursor, Place, ScopeSet, Status, SystemClock, Timestamp,
};
use rusqlite::Connection;

use super::open;
use crate::SqliteStore;
use agentrouter_store::conformance::fixtures::{
    at, everything, kek, owner, place, put_tagged, realm, rotate, rotation, tags, upsert, version,
};
use agentrouter_store::conformance::portable::whole;
use agentrouter_store::portable::Item;
use agentrouter_store::prelude::*;
use agentrouter_store::{Examined, ExaminedKey, ListQuery, StatusFilter, Store, StoreError, WriteError};

async fn filled(path: &Path) -> Arc<SqliteStore> {
    let store = open(path);
    let shared = Arc::clone(&store) as Arc<dyn Store>;
    for i in 0..12 {
        put_tagged(&shared, &format!("alice/mcp/k{i}"), &[("env", "prod"), ("n", "1")]).await;
    }
    rotate(&shared, &place("alice/mcp/k0"), 0, 50).await;
    rotate(&shared, &place("alice/mcp/k0"), 0, 0).await;
    let key = ApiKeyRecord {
        id: ApiKeyId::parse("AAAAAAAAAAAAAAAA").expect("an id"),
        digest: [1; 32],
        name: "n".into(),
        user: owner("alice"),
        scopes: ScopeSet::ALL,
        realm: realm("default"),
        realms: Some(vec![realm("mcp")]),
        created_at: at(0),
        expires_at: None,
        revoked_at: None,
    };
    store.insert_key(&key).await.expect("kept");
    store.insert_kek_check(&kek("kek-1"), &[1; 32]).await.expect("kept");
    store.insert_internal_key("audit", &kek("kek-1"), b"wrapped").await.expect("kept");
    store.set_audit_head((1, [1; 32])).await.expect("kept");
    store
}

/// Changes the file in ways that the program does not, as an attacker could.
fn damage(path: &Path, sql: &str) {
    let conn = Connection::open(path).expect("opened");
    conn.execute_batch("PRAGMA ignore_check_constraints = ON; PRAGMA foreign_keys = OFF;").expect("set");
    conn.execute_batch(sql).expect(sql);
}

#[tokio::test]
async fn an_export_omits_a_damaged_row() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("s.db");
    let store = filled(&path).await;
    let names = |items: &[Item]| {
        let name = |item: &Item| match item {
            Item::Secret(secret) => Some(secret.place.name.to_string()),
            _ => None,
        };
        items.iter().filter_map(name).collect::<Vec<_>>()
    };
    let shared = Arc::clone(&store) as Arc<dyn Store>;
    let before = whole(&shared, 100).await;
    assert_eq!(names(&before).len(), 12);
    store.close().await;
    // Rows, one of them the last of a page. An active version without its value. A pending version without its value.
    damage(
        &path,
        "UPDATE secrets SET tags = '[' WHERE name IN ('k1', 'k11', 'k9'); \
         UPDATE versions SET sealed = NULL WHERE name = 'k2'; \
         UPDATE versions SET sealed = NULL WHERE name = 'k0' AND version = 1;",
    );
    for count in [1, 2, 100] {
        let store = open(&path);
        let mut export = store.export().await.expect("started");
        let mut items = Vec::new();
        loop {
            let next = export.next(count).await.expect("read");
            if next.is_empty() {
                break;
            }
            items.extend(next);
        }
        assert_eq!(names(&items), ["k0", "k10", "k3", "k4", "k5", "k6", "k7", "k8"]);
        let left_out = export.left_out();
        assert_eq!((left_out.count, left_out.named.len()), (5, 5), "{left_out:?}");
        assert!(left_out.named[0].starts_with("an earlier version of secret 0"), "{left_out:?}");
        assert!(left_out.named[1..].iter().all(|name| name.starts_with("secret 0")), "{left_out:?}");
        assert!(items.iter().all(|item| before.contains(item)), "exported items are unchanged");
        store.close().await;
    }
}

/// The names that a walk over pages shows.
async fn walk(store: &SqliteStore, mut query: ListQuery) -> Vec<String> {
    let mut names = Vec::new();
    loop {
        let page = store.list(&query).await.expect("a page").rows;
        let Some(last) = page.last() else { return names };
        query.after = Some(PageCursor::of(last));
        names.extend(page.iter().map(|secret| secret.place.name.to_string()));
    }
}

/// The outcome of every call, in a fixed order: reads, then writes.
async fn call_everything(store: &Arc<SqliteStore>, at_place: &Place) -> Vec<Result<(), StoreError>> {
    fn read<T>(result: Result<T, StoreError>) -> Result<(), StoreError> {
        result.map(|_| ())
    }
    fn written<T>(result: Result<T, WriteError>) -> Result<(), StoreError> {
        match result {
            Err(WriteError::Store(error)) => Err(error),
            _ => Ok(()),
        }
    }
    let id = ApiKeyId::parse("AAAAAAAAAAAAAAAA").expect("an id");
    let mut found = vec![
        read(store.active(at_place).await),
        read(store.version(at_place, version(1)).await),
        read(store.readable(at_place, at(0)).await),
        read(store.key(&id).await),
        read(store.keys().await),
        read(store.kek_checks().await),
        read(store.internal_key("audit").await),
        read(store.audit_head().await),
    ];
    for statuses in
        [StatusFilter::Active, StatusFilter::RotatedPending, StatusFilter::Retired, StatusFilter::Any]
    {
        for wanted in [tags(&[]), tags(&[("env", "prod"), ("n", "1")])] {
            let query = ListQuery { statuses, tags: wanted, ..everything("alice") };
            found.push(read(store.list(&query).await));
        }
    }
    found.push(read(store.inspect()));
    found.push(written(store.rotate(rotation(at_place, at(1), at(9), "v")).await));
    found.push(written(store.upsert(upsert(at_place, at(1), Some("v"))).await));
    found.push(read(store.examine(at_place, at(0), None, 100).await));
    found.push(written(store.delete(at_place).await));
    found.push(written(store.purge(at_place).await));
    found.push(read(store.retire_expired(at(100), 100).await));
    found.push(read(store.examine_keys().await));
    found.push(read(store.has_keys().await));
    found.push(read(store.revoke_unread(&id, at(1)).await));
    found.push(read(store.revoke_key(&id, at(1)).await));
    found.push(read(store.check().await));
    found
}

#[tokio::test]
async fn a_row_that_does_not_parse_is_refused_by_read_and_write() {
    let dir = tempfile::tempdir().expect("a directory");
    let damages = [
        "UPDATE secrets SET id = 'x' WHERE name = 'k1'",
        "UPDATE secrets SET id = 'i' || substr(id, 2) WHERE name = 'k1'",
        "UPDATE secrets SET description = CAST(x'ff' AS TEXT) WHERE name = 'k1'",
        "UPDATE secrets SET description = printf('%2000s', 'x') WHERE name = 'k1'",
        "UPDATE secrets SET tags = '[' WHERE name = 'k1'",
        "UPDATE secrets SET tags = '{\"env\":1}' WHERE name = 'k1'",
        "UPDATE secrets SET tags = '{\"a b\":\"prod\"}' WHERE name = 'k1'",
        "UPDATE secrets SET version = 0 WHERE name = 'k1'",
        "UPDATE secrets SET version = 5000000000 WHERE name = 'k1'",
    ];
    for (i, sql) in damages.into_iter().enumerate() {
        let path = dir.path().join(format!("{i}.db"));
        let store = filled(&path).await;
        damage(&path, sql);
        let at_place = place("alice/mcp/k1");
        let active = store.active(&at_place).await;
        assert!(matches!(active, Err(StoreError::Corrupt(_))), "{sql}: {active:?}");
        // The other secrets are listed page by page, and the missing one is counted.
        for (wanted, damaged) in [(tags(&[]), 1), (tags(&[("env", "prod"), ("n", "1")]), 2)] {
            let list = store.list(&ListQuery { tags: wanted, ..everything("alice") }).await.expect(sql).rows;
            let names: Vec<_> = list.iter().map(|secret| secret.place.name.as_str()).collect();
            assert_eq!(names.len(), 11, "{sql}: {names:?}");
            assert!(!names.contains(&"k1"), "{sql}");
            assert_eq!(store.stats().damaged, damaged, "{sql}");
        }
        let examined = store.examine(&at_place, at(0), None, 100).await.expect(sql);
        let number = if sql.contains("version = ") { None } else { Some(version(1)) };
        assert_eq!(examined, [Examined::Damaged(number)], "{sql}");
        let change = store.upsert(upsert(&at_place, at(1), Some("v"))).await;
        assert!(matches!(change, Err(WriteError::Store(StoreError::Corrupt(_)))), "{sql}: {change:?}");
        assert!(store.active(&place("alice/mcp/k2")).await.is_ok_and(|found| found.is_some()), "{sql}");
        assert!(!store.inspect().expect("inspected").problems.is_empty(), "{sql}");
        let delete = store.delete(&at_place).await;
        assert!(matches!(delete, Err(WriteError::Store(StoreError::Corrupt(_)))), "{sql}: {delete:?}");
        // A secret that cannot be read can be deleted, and its place used again.
        assert!(store.purge(&at_place).await.expect(sql), "{sql}");
        assert!(!store.purge(&at_place).await.expect(sql), "{sql}");
        assert_eq!(store.inspect().expect("inspected").problems, [""; 0], "{sql}");
        let again = store.upsert(upsert(&at_place, at(1), Some("v"))).await;
        assert_eq!(again.expect(sql).version, version(1), "{sql}");
    }
}

#[tokio::test]
async fn a_realm_or_a_name_that_does_not_parse_hides_nothing_else() {
    let dir = tempfile::tempdir().expect("a directory");
    for (i, sql) in [
        "UPDATE secrets SET realm = 'No Realm' WHERE name = 'k1'",
        "UPDATE secrets SET realm = CAST(x'61ff' AS TEXT) WHERE name = 'k1'",
        "UPDATE secrets SET name = 'k 1' WHERE name = 'k1'",
        "UPDATE secrets SET name = CAST(x'6bff' AS TEXT) WHERE name = 'k1'",
        "UPDATE secret_tags SET name = CAST(x'6bff' AS TEXT) WHERE name = 'k1'",
    ]
    .into_iter()
    .enumerate()
    {
        let path = dir.path().join(format!("{i}.db"));
        let store = filled(&path).await;
        damage(&path, sql);
        for (wanted, one) in [(&[][..], !sql.contains("secret_tags")), (&[("env", "prod"), ("n", "1")], true)]
        {
            let query = ListQuery { tags: tags(wanted), limit: 5, ..everything("alice") };
            let names = walk(&store, query).await;
            assert_eq!(names.len(), 12 - usize::from(one), "{sql}: {names:?}");
        }
    }
}

#[tokio::test]
async fn a_damaged_version_is_named_and_the_others_are_examined() {
    let dir = tempfile::tempdir().expect("a directory");
    // k0 has version 1 pending until 50, version 2 retired, version 3 active.
    for (i, (sql, damaged)) in [
        ("UPDATE versions SET kek_id = 'ä' WHERE name = 'k0' AND version = 1", &[1][..]),
        ("UPDATE versions SET sealed = NULL WHERE name = 'k0' AND version = 3", &[3]),
        ("DELETE FROM versions WHERE name = 'k0' AND version = 3", &[3]),
        ("UPDATE versions SET kek_id = 'ä' WHERE name = 'k0'", &[1, 3]),
        ("UPDATE versions SET kek_id = 'ä' WHERE name = 'k0' AND version = 2", &[]),
        ("UPDATE secrets SET tags = '[' WHERE name = 'k0'", &[1, 3]),
    ]
    .into_iter()
    .enumerate()
    {
        let path = dir.path().join(format!("{i}.db"));
        let store = filled(&path).await;
        damage(&path, sql);
        let examined = store.examine(&place("alice/mcp/k0"), at(10), None, 100).await.expect(sql);
        let numbers: Vec<(i32, bool)> = examined
            .iter()
            .map(|version| match version {
                Examined::Whole(stored) => (stored.secret.version.get(), false),
                Examined::Damaged(number) => (number.expect("a number").get(), true),
            })
            .collect();
        assert_eq!(numbers, [(3, damaged.contains(&3)), (1, damaged.contains(&1))], "{sql}");
        let later = store.examine(&place("alice/mcp/k0"), at(60), None, 100).await.expect(sql);
        assert_eq!(later.len(), 1, "{sql}: the grace is over");
    }
}

#[tokio::test]
async fn a_version_that_does_not_fit_its_secret_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let damages = [
        "UPDATE secrets SET version_id = NULL WHERE name = 'k1'",
        "UPDATE secrets SET version_id = 9999 WHERE name = 'k1'",
        "UPDATE secrets SET version_id = (SELECT version_id FROM secrets WHERE name = 'k2') WHERE name = 'k1'",
        "UPDATE secrets SET kek_id = 'kek-2' WHERE name = 'k1'",
        "UPDATE versions SET id = 9999 WHERE name = 'k1'",
        "UPDATE versions SET name = 'k2' WHERE name = 'k1'",
        "UPDATE versions SET sealed = NULL WHERE name = 'k1'",
        "UPDATE versions SET wrapped_dek = NULL WHERE name = 'k1'",
        "UPDATE versions SET sealed = NULL, wrapped_dek = NULL WHERE name = 'k1'",
        "UPDATE versions SET kek_id = 'ä' WHERE name = 'k1'",
        "UPDATE versions SET version = 2 WHERE name = 'k1'",
        "UPDATE versions SET secret_id = 'x' WHERE name = 'k1'",
        "DELETE FROM versions WHERE name = 'k1'",
    ];
    for (i, sql) in damages.into_iter().enumerate() {
        let path = dir.path().join(format!("{i}.db"));
        let store = filled(&path).await;
        damage(&path, sql);
        let active = store.active(&place("alice/mcp/k1")).await;
        assert!(matches!(active, Err(StoreError::Corrupt(_))), "{sql}: {active:?}");
        assert!(!store.inspect().expect("inspected").problems.is_empty(), "{sql}");
        call_everything(&store, &place("alice/mcp/k1")).await;
    }
}

#[tokio::test]
async fn a_row_with_a_wrong_version_id_is_deleted_alone_and_completely() {
    let dir = tempfile::tempdir().expect("a directory");
    for (i, sql) in [
        "UPDATE secrets SET version_id = (SELECT version_id FROM secrets WHERE name = 'k2') WHERE name = 'k0'",
        "UPDATE secrets SET version_id = NULL WHERE name = 'k0'",
        "UPDATE pending SET version_id = (SELECT version_id FROM secrets WHERE name = 'k2') WHERE name = 'k0'",
        "UPDATE pending SET version_id = 9999 WHERE name = 'k0'",
        "INSERT INTO retired VALUES ('alice', 'mcp', 'k0', 1, NULL, 'kek-1', NULL)",
        "UPDATE retired SET version = 3 WHERE name = 'k0'",
    ]
    .into_iter()
    .enumerate()
    {
        let path = dir.path().join(format!("{i}.db"));
        let store = filled(&path).await;
        damage(&path, sql);
        assert!(!store.inspect().expect("inspected").problems.is_empty(), "{sql}");
        let at_place = place("alice/mcp/k0");
        let retired = store.retire_expired(at(100), 100).await;
        assert!(matches!(retired, Ok(None)), "{sql}: {retired:?}");
        store.delete(&at_place).await.expect(sql);
        assert_eq!(store.inspect().expect("inspected").problems, [""; 0], "{sql}");
        let other = store.active(&place("alice/mcp/k2")).await.expect(sql);
        assert!(other.is_some(), "{sql}");
    }
}

#[tokio::test]
async fn keys_and_facts_that_do_not_parse_are_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let damages = [
        (3, "UPDATE api_keys SET scopes = 'secrets/read,secrets/admin'"),
        (3, "UPDATE api_keys SET scopes = ''"),
        (3, "UPDATE api_keys SET realm = 'X'"),
        (3, "UPDATE api_keys SET realms = '[\"X\"]'"),
        (3, "UPDATE api_keys SET realms = '{'"),
        (3, "UPDATE api_keys SET digest = x'00'"),
        (3, "UPDATE api_keys SET user = 'a b'"),
        (4, "UPDATE api_keys SET id = 'short'"),
        (5, "UPDATE keks SET check_value = x'00'"),
        (5, "UPDATE keks SET kek_id = ''"),
        (6, "UPDATE internal_keys SET kek_id = 'a b'"),
        (7, "UPDATE audit_head SET seq = -1"),
        (7, "UPDATE audit_head SET mac = x'0102'"),
    ];
    for (i, (call, sql)) in damages.into_iter().enumerate() {
        let path = dir.path().join(format!("{i}.db"));
        let store = filled(&path).await;
        damage(&path, sql);
        let found = call_everything(&store, &place("alice/mcp/k1")).await;
        assert!(matches!(found[call], Err(StoreError::Corrupt(_))), "{sql}: {:?}", found[call]);
    }
}

#[tokio::test]
async fn a_key_that_does_not_parse_does_not_affect_other_keys() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("s.db");
    let store = filled(&path).await;
    let id = ApiKeyId::parse("AAAAAAAAAAAAAAAA").expect("an id");
    let whole = store.key(&id).await.expect("read").expect("a key");
    let other = ApiKeyRecord { id: ApiKeyId::parse("BBBBBBBBBBBBBBBB").expect("an id"), ..whole.clone() };
    store.insert_key(&other).await.expect("kept");
    damage(&path, "UPDATE api_keys SET scopes = 'new' WHERE id = 'AAAAAAAAAAAAAAAA'");

    let damaged = |revoked| ExaminedKey::Damaged { id: Some(id.clone()), revoked };
    let examined = store.examine_keys().await.expect("read");
    assert_eq!(examined, [ExaminedKey::Whole(other.clone()), damaged(false)]);
    assert!(store.has_keys().await.expect("read"));
    assert_eq!(store.inspect().expect("inspected").problems, ["1 API keys do not parse"]);
    assert!(store.revoke_unread(&id, at(7)).await.expect("revoked"));
    assert_eq!(store.examine_keys().await.expect("read"), [ExaminedKey::Whole(other), damaged(true)]);
    assert!(store.inspect().expect("inspected").problems.is_empty());
    damage(&path, "UPDATE api_keys SET scopes = 'secrets/read' WHERE id = 'AAAAAAAAAAAAAAAA'");
    let revoked = store.key(&id).await.expect("read").expect("a key");
    assert_eq!(revoked.revoked_at, Some(at(7)));
    let absent = ApiKeyId::parse("CCCCCCCCCCCCCCCC").expect("an id");
    assert!(!store.revoke_unread(&absent, at(8)).await.expect("nothing to do"));
}

#[tokio::test]
async fn flipped_bytes_anywhere_in_the_file_never_cause_a_panic() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("good.db");
    let store = filled(&path).await;
    store.close().await;
    let good = std::fs::read(&path).expect("read");
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).expect("small")
    };
    let mut refused = 0;
    for round in 0..150 {
        let mut bytes = good.clone();
        for _ in 0..=random(24) {
            // Half of the changes are in the page headers, which hold a page's structure.
            let page = random(bytes.len() / 4096) * 4096;
            let offset = if random(2) == 0 { page + random(120) } else { page + random(4096) };
            bytes[offset] = u8::try_from(random(256)).expect("a byte");
        }
        let path = dir.path().join(format!("{round}.db"));
        std::fs::write(&path, bytes).expect("written");
        match SqliteStore::open(&path, &SystemClock) {
            Ok(store) => {
                let found = call_everything(&Arc::new(store), &place("alice/mcp/k0")).await;
                for result in &found {
                    let inside = "the write failed inside the program";
                    let panicked =
                        matches!(result, Err(StoreError::Unavailable { reason, .. }) if *reason == inside);
                    assert!(!panicked, "round {round}");
                }
                refused += usize::from(found.iter().any(Result::is_err));
            }
            Err(_) => refused += 1,
        }
        for suffix in ["", "-wal", "-shm", "-lock"] {
            let _ = std::fs::remove_file(dir.path().join(format!("{round}.db{suffix}")));
        }
    }
    assert!(refused > 20, "the flips hit something: {refused}");
}

/// Microseconds that are not an instant of the calendar: the least and the greatest, and those next to its bounds.
const NO_INSTANTS: [i64; 4] =
    [i64::MIN, Timestamp::MIN.as_micros() - 1, Timestamp::MAX.as_micros() + 1, i64::MAX];

#[tokio::test]
async fn a_secret_with_a_time_out_of_range_is_corrupt() {
    let dir = tempfile::tempdir().expect("a directory");
    let at_place = place("alice/mcp/k1");
    for column in ["created_at", "updated_at", "rotated_at"] {
        for micros in NO_INSTANTS {
            let path = dir.path().join(format!("{column}{micros}.db"));
            let store = filled(&path).await;
            damage(&path, &format!("UPDATE secrets SET {column} = {micros} WHERE name = 'k1'"));
            let active = store.active(&at_place).await;
            assert!(matches!(active, Err(StoreError::Corrupt("a time"))), "{column} {micros}: {active:?}");
            let change = store.rotate(rotation(&at_place, at(1), at(9), "v")).await;
            let refused = matches!(change, Err(WriteError::Store(StoreError::Corrupt("a time"))));
            assert!(refused, "{column} {micros}: {change:?}");
            let examined = store.examine(&at_place, at(0), None, 100).await.expect("read");
            assert_eq!(examined, [Examined::Damaged(Some(version(1)))], "{column} {micros}");
            assert_eq!(
                store.list(&everything("alice")).await.expect("listed").rows.len(),
                11,
                "{column} {micros}"
            );
            assert_eq!(store.stats().damaged, 1, "{column} {micros}");
            assert_eq!(store.inspect().expect("inspected").problems, ["1 versions do not parse"]);
        }
    }
}

#[tokio::test]
async fn a_version_with_an_expiry_out_of_range_is_corrupt_and_delays_no_other() {
    let dir = tempfile::tempdir().expect("a directory");
    let (damaged, other) = (place("alice/mcp/k0"), place("alice/mcp/k1"));
    // k0 has version 1 pending until 50, version 2 retired, version 3 active.
    for (table, number) in [("pending", 1), ("retired", 2)] {
        for micros in NO_INSTANTS {
            let path = dir.path().join(format!("{table}{micros}.db"));
            let store = filled(&path).await;
            rotate(&(Arc::clone(&store) as Arc<dyn Store>), &other, 0, 60).await;
            damage(&path, &format!("UPDATE {table} SET expires_at = {micros} WHERE name = 'k0'"));
            let read = store.version(&damaged, version(number)).await;
            assert!(matches!(read, Err(StoreError::Corrupt("a time"))), "{table} {micros}: {read:?}");
            assert_eq!(store.inspect().expect("inspected").problems, ["1 versions do not parse"]);
            if table == "pending" && micros > 0 {
                let readable = store.readable(&damaged, at(100)).await;
                assert!(matches!(readable, Err(StoreError::Corrupt("a time"))), "{micros}: {readable:?}");
                let examined = store.examine(&damaged, at(100), None, 100).await.expect("read");
                assert_eq!(examined.last(), Some(&Examined::Damaged(Some(version(1)))), "{micros}");
            }
            let query = ListQuery { statuses: StatusFilter::Any, ..everything("alice") };
            let shown = store.list(&query).await.expect("listed").rows;
            let found = shown.iter().find(|s| s.place == damaged && s.version.get() == number);
            assert_eq!(found, None, "{table} {micros}");
            assert_eq!(store.stats().damaged, 1, "{table} {micros}");
            store.retire_expired(at(100), 100).await.expect("retired");
            let due = store.version(&other, version(1)).await.expect("read").expect("there");
            assert_eq!((due.secret.status, due.envelope), (Status::Retired, None), "{table} {micros}");
        }
    }
}

#[tokio::test]
async fn a_key_with_a_time_out_of_range_is_refused_until_it_is_revoked() {
    let dir = tempfile::tempdir().expect("a directory");
    let id = ApiKeyId::parse("AAAAAAAAAAAAAAAA").expect("an id");
    for column in ["created_at", "expires_at", "revoked_at"] {
        for micros in NO_INSTANTS {
            let path = dir.path().join(format!("{column}{micros}.db"));
            let store = filled(&path).await;
            damage(&path, &format!("UPDATE api_keys SET {column} = {micros}"));
            let key = store.key(&id).await;
            assert!(matches!(key, Err(StoreError::Corrupt("a time"))), "{column} {micros}: {key:?}");
            let damaged = |revoked| ExaminedKey::Damaged { id: Some(id.clone()), revoked };
            assert_eq!(store.examine_keys().await.expect("read"), [damaged(false)], "{column} {micros}");
            assert_eq!(store.inspect().expect("inspected").problems, ["1 API keys do not parse"]);
            assert!(store.revoke_unread(&id, at(7)).await.expect("revoked"), "{column} {micros}");
            assert_eq!(store.inspect().expect("inspected").problems, [""; 0], "{column} {micros}");
            let found = &store.examine_keys().await.expect("read")[0];
            let revoked_at = match found {
                ExaminedKey::Whole(key) => key.revoked_at,
                ExaminedKey::Damaged { revoked, .. } => revoked.then_some(at(7)),
                ExaminedKey::Refused { .. } => None,
            };
            assert_eq!(revoked_at, Some(at(7)), "{column} {micros}");
        }
    }
}
