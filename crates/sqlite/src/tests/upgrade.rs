//! Tests that a store of an older schema is migrated completely or not at all.

use std::path::Path;

use agentrouter_model::SystemClock;
use rusqlite::fallible_iterator::FallibleIterator as _;
use rusqlite::{Batch, Connection, params};

use super::{dump, open};
use crate::SqliteStore;
use crate::file::MIGRATIONS;
use agentrouter_store::conformance::fixtures::{at, everything, list, place, put, rotate, versions};
use agentrouter_store::files::beside;
use agentrouter_store::{ListQuery, StatusFilter, Store, StoreError};

/// A store of the second schema. `a` has only an active version. `b` has two pending versions (until 50 and until 60),
/// a retired one, and an active fourth one. `half` lacks its active version. One version belongs to no secret.
fn second(path: &Path) {
    let conn = Connection::open(path).expect("made");
    conn.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA foreign_keys = OFF; PRAGMA ignore_check_constraints = ON;",
    )
    .expect("set");
    MIGRATIONS[..2].iter().for_each(|step| conn.execute_batch(step).expect("the schema"));
    let id = |name: &str| format!("01ARZ3NDEKTSV4RRFFQ69G5F{:0>2}", name.len());
    for (name, version) in [("a", 1), ("bb", 4), ("half", 2)] {
        let sql = "INSERT INTO secrets VALUES ('alice', 'mcp', ?1, ?2, 'about', '{\"env\":\"prod\"}', 1, 2, NULL, ?3, 'kek-1')";
        conn.execute(sql, params![name, id(name), version]).expect("inserted");
        conn.execute("INSERT INTO secret_tags VALUES ('alice', 'env', 'prod', 'mcp', ?1)", [name])
            .expect("inserted");
    }
    let version = |name: &str, version: i32, status: &str, expires_at: Option<i64>| {
        let value = (status != "retired").then(|| format!("canary-{name}-{version}-").into_bytes());
        let sql = "INSERT INTO versions VALUES (?1, ?2, 'alice', 'mcp', ?3, ?4, ?5, 'kek-1', ?6, ?6)";
        conn.execute(sql, params![id(name), version, name, status, expires_at, value]).expect("inserted");
    };
    version("bb", 4, "active", None);
    version("bb", 1, "rotated_pending", Some(at(50).as_micros()));
    version("bb", 2, "retired", None);
    version("bb", 3, "rotated_pending", Some(at(60).as_micros()));
    version("half", 1, "retired", Some(at(9).as_micros()));
    version("a", 1, "active", None);
    version("orphan", 7, "active", None);
}

#[tokio::test]
async fn a_store_of_schema_2_keeps_its_contents_and_is_served() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("s.db");
    second(&path);
    assert!(
        matches!(SqliteStore::open_read_only(&path), Err(StoreError::SchemaTooOld { found: 2, .. })),
        "not without a server"
    );
    let sqlite = open(&path);
    let store = std::sync::Arc::clone(&sqlite) as std::sync::Arc<dyn Store>;
    let log = std::fs::metadata(beside(&path, "-wal")).expect("there").len();
    assert_eq!(log, 0, "the log is emptied");

    let (a, b) = (place("alice/mcp/a"), place("alice/mcp/bb"));
    assert_eq!(versions(&store, &a).await, ["1 active!"]);
    assert_eq!(
        versions(&store, &b).await,
        ["1 rotated_pending!", "2 retired", "3 rotated_pending!", "4 active!"]
    );
    for (number, expires_at) in [(1, Some(at(50))), (2, None), (3, Some(at(60))), (4, None)] {
        let version = agentrouter_model::Version::new(number).expect("a number");
        let found = store.version(&b, version).await.expect("read").expect("there");
        assert_eq!((found.secret.expires_at, found.secret.kek_id.as_str()), (expires_at, "kek-1"));
        let value = format!("canary-bb-{number}-").into_bytes();
        assert!(
            found.envelope.is_none_or(|kept| *kept.sealed == value[..] && *kept.wrapped_dek == value[..])
        );
    }
    for (statuses, now, numbers) in [
        (StatusFilter::Active, 0, &["a 1", "bb 4", "half 2"][..]),
        (StatusFilter::RotatedPending, 0, &["bb 1", "bb 3"]),
        (StatusFilter::RotatedPending, 55, &["bb 3"]),
        (StatusFilter::Retired, 0, &["bb 2", "half 1"]),
        (StatusFilter::Retired, 55, &["bb 1", "bb 2", "half 1"]),
        (StatusFilter::Any, 0, &["a 1", "bb 1", "bb 2", "bb 3", "bb 4", "half 1", "half 2"]),
    ] {
        for wanted in [&[][..], &[("env", "prod")]] {
            let tags = agentrouter_store::conformance::fixtures::tags(wanted);
            let query = ListQuery { statuses, tags, now: at(now), ..everything("alice") };
            let found: Vec<_> = list(&store, &query)
                .await
                .iter()
                .map(|secret| format!("{} {}", secret.place.name, secret.version))
                .collect();
            assert_eq!(found, numbers, "{statuses:?} at {now}");
        }
    }
    // Damage from before the migration is still damage, and does not disturb other rows.
    let half = store.active(&place("alice/mcp/half")).await;
    assert!(matches!(half, Err(StoreError::Corrupt(_))), "{half:?}");
    let problems = sqlite.inspect().expect("inspected").problems;
    let wrong = [
        "1 secrets lack their active version",
        "1 sealed values belong to no version",
        "1 versions do not parse",
    ];
    assert_eq!(problems, wrong);
    store.purge(&place("alice/mcp/half")).await.expect("removed");
    store.purge(&place("alice/mcp/orphan")).await.expect("removed");
    assert_eq!(sqlite.inspect().expect("inspected").problems, [""; 0]);

    assert_eq!(store.retire_expired(at(50), 10).await.expect("retired"), Some(at(60)));
    assert_eq!(rotate(&store, &b, 51, 70).await.version.get(), 5);
    assert_eq!(
        versions(&store, &b).await,
        ["1 retired", "2 retired", "3 rotated_pending!", "4 rotated_pending!", "5 active!"]
    );
    put(&store, &a, "v2").await;
    store.delete(&b).await.expect("deleted");
    store.delete(&a).await.expect("deleted");
    assert_eq!(dump(&path), [[rusqlite::types::Value::Null; 0]; 0], "no row is left");
    store.close().await;
    let bytes = std::fs::read(&path).expect("read");
    assert!(!bytes.windows(7).any(|window| window == b"canary-"), "no value on the disk");
}

#[test]
fn a_crash_at_any_step_of_the_upgrade_leaves_the_old_schema_intact() {
    let dir = tempfile::tempdir().expect("a directory");
    let (old, new) = (dir.path().join("old.db"), dir.path().join("new.db"));
    second(&old);
    second(&new);
    drop(SqliteStore::open(&new, &SystemClock).expect("opened"));
    let (before, after) = (dump(&old), dump(&new));
    for cut in 1.. {
        let path = dir.path().join(format!("{cut}.db"));
        let conn = Connection::open(&path).expect("made");
        second(&path);
        // Pages are written to the log before the commit, as in a large store.
        conn.execute_batch(
            "PRAGMA foreign_keys = ON; PRAGMA secure_delete = ON; PRAGMA cache_size = 1; BEGIN IMMEDIATE",
        )
        .expect("started");
        let mut steps = 0;
        let mut batch = Batch::new(&conn, MIGRATIONS[2]);
        while steps < cut
            && let Some(mut statement) = batch.next().expect("a statement")
        {
            statement.raw_execute().expect("run");
            steps += 1;
        }
        if steps < cut {
            assert!(cut > 10, "{cut} steps");
            return;
        }
        let crashed = dir.path().join(format!("{cut}-crashed.db"));
        for suffix in ["", "-wal"] {
            std::fs::copy(beside(&path, suffix), beside(&crashed, suffix)).expect("copied");
        }
        assert!(dump(&crashed) == before, "step {cut}");
        drop(SqliteStore::open(&crashed, &SystemClock).expect("opened"));
        assert!(dump(&crashed) == after, "step {cut}");
    }
}
