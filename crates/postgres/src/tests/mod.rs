//! Tests of the engine against a real PostgreSQL.

mod faults;
mod freshness;
mod lists;
mod plans;
mod portable;
mod proxy;
mod replicas;
mod standby;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use agentrouter_model::{ApiKeyId, ApiKeyRecord, ScopeSet, Status, Timestamp};

use super::{ConnectOptions, FileSource, PostgresStore};
use crate::testing::Postgres;
use agentrouter_store::conformance::fixtures::{
    Shared, at, brief, everything, list, owner, place, put, realm, rotation, upsert, version,
};
use agentrouter_store::prelude::*;
use agentrouter_store::{
    Examined, ExaminedKey, ListQuery, StatusFilter, Store, StoreError, WriteError, conformance,
};

/// A store in an empty database of the shared server.
async fn store() -> Arc<PostgresStore> {
    let server = Postgres::shared();
    open(&server.url(&server.database())).await
}

/// A store at a URL, as the first replica.
async fn open(url: &str) -> Arc<PostgresStore> {
    Arc::new(PostgresStore::open(target(url), "replica-1").await.expect("opened"))
}

fn target(url: &str) -> ConnectOptions {
    ConnectOptions::parse(url, None).expect("a URL")
}

/// Retries `what` until it succeeds, for thirty seconds at most. Returns how long it took.
async fn until<T, E: std::fmt::Debug>(mut what: impl AsyncFnMut() -> Result<T, E>) -> (T, Duration) {
    let start = tokio::time::Instant::now();
    loop {
        match what().await {
            Ok(done) => return (done, start.elapsed()),
            Err(error) => {
                assert!(start.elapsed() < Duration::from_secs(30), "not within thirty seconds: {error:?}")
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until a condition holds, for thirty seconds at most. The duration is not tested.
async fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let start = tokio::time::Instant::now();
    while !is() {
        assert!(start.elapsed() < Duration::from_secs(30), "no {what} in thirty seconds");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn it_conforms() {
    conformance::run(|| async { store().await as Arc<dyn Store> }).await;
    conformance::run_portable(|| async { store().await as Arc<dyn Store> }).await;
}

#[tokio::test]
async fn any_character_of_a_description_comes_back() {
    let store = store().await as Arc<dyn Store>;
    let place = place("alice/mcp/odd");
    let text = "nul \u{0} quote ' backslash \\ $1 ü 🔑";
    let mut change = upsert(&place, conformance::fixtures::at(0), Some("v"));
    change.description = Some(conformance::fixtures::description(text));
    store.upsert(change).await.expect("written");
    let stored = store.active(&place).await.expect("read").expect("there");
    assert_eq!(stored.secret.description.as_str(), text);
}

#[tokio::test]
async fn replicas_that_start_at_once_find_one_schema() {
    let server = Postgres::shared();
    let url = server.url(&server.database());
    let opened: Vec<_> = (0..6)
        .map(|i| {
            let target = target(&url);
            tokio::spawn(async move { PostgresStore::open(target, &format!("replica-{i}")).await })
        })
        .collect();
    for store in opened {
        store.await.expect("no panic").expect("opened");
    }
}

#[tokio::test]
async fn one_of_several_starting_replicas_upgrades_an_older_schema_and_keeps_its_rows() {
    const COLUMNS: &str = "SELECT table_name, column_name, data_type, column_default, is_nullable \
        FROM information_schema.columns WHERE table_schema = 'agentrouter_secrets' ORDER BY 1, 2";
    // What the second and the third added.
    let (second, third) = (
        "agentrouter_secrets.history, agentrouter_secrets.replicas, agentrouter_secrets.fences",
        "agentrouter_secrets.facts",
    );
    for (version, later) in [(1, [second, third].join(", ")), (2, third.to_owned())] {
        let server = Postgres::shared();
        let database = server.database();
        let url = server.url(&database);
        let place = place("alice/mcp/a");
        let store = open(&url).await;
        put(&(Arc::clone(&store) as Shared), &place, "v1").await;
        store.close().await;
        let columns = server.sql(&database, COLUMNS);
        let older =
            format!("DROP TABLE {later}; UPDATE agentrouter_secrets.schema_version SET version = {version}");
        server.sql(&database, &older);

        let read = PostgresStore::open_read_only(target(&url), "reader").await.map(drop);
        assert!(matches!(read, Err(StoreError::SchemaTooOld { .. })), "{read:?}");
        let (one, two) = tokio::join!(open(&url), open(&url));
        assert_eq!(server.sql(&database, COLUMNS), columns, "as a new one");
        one.rotate(rotation(&place, at(1), at(9), "v2")).await.expect("rotated");
        let found = two.active(&place).await.expect("read").expect("there");
        assert_eq!(found.secret.version.get(), 2);
    }
}

#[tokio::test]
async fn a_migration_that_waits_for_a_dump_does_not_delay_the_servers_that_run() {
    const OLDER: &str = "ALTER TABLE agentrouter_secrets.replicas DROP COLUMN program; \
        UPDATE agentrouter_secrets.schema_version SET version = 3";
    const WAITS: &str = "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock' \
        AND relation = 'agentrouter_secrets.replicas'::regclass)";
    let server = Postgres::shared();
    let database = server.database();
    let url = server.url(&database);
    open(&url).await.close().await;
    server.sql(&database, OLDER);
    let dialer = super::link::Dialer::new(target(&url));
    let dump = dialer.bare(deadline()).await.expect("a link");
    let older = dialer.bare(deadline()).await.expect("a link");
    let lock = "BEGIN; LOCK TABLE agentrouter_secrets.replicas IN ACCESS SHARE MODE";
    dump.client.batch_execute(lock).await.expect("locked");

    let soon = tokio::time::Instant::now() + Duration::from_secs(5);
    let refused = super::migrate::run(&dialer, soon).await;
    let Err(StoreError::Unavailable { reason, .. }) = refused else { panic!("{refused:?}") };
    assert!(reason.contains("such as a dump"), "{reason}");
    let newer = tokio::spawn({
        let target = target(&url);
        async move { PostgresStore::open(target, "replica-1").await }
    });
    // The second time, the migration is retried.
    for attempt in 0..2 {
        until(async || {
            let waits = older.client.query_one(WAITS, &[]).await.expect("asked").get::<_, bool>(0);
            waits.then_some(()).ok_or("the migration does not wait")
        })
        .await;
        let renewal = "UPDATE agentrouter_secrets.replicas SET renewals = renewals + 1";
        let renewed =
            tokio::time::timeout(Duration::from_secs(30), older.client.batch_execute(renewal)).await;
        renewed.unwrap_or_else(|_| panic!("delayed by attempt {attempt}")).expect("renewed");
    }
    assert!(!newer.is_finished());
    dump.client.batch_execute("COMMIT").await.expect("released");
    newer.await.expect("no panic").expect("opened").close().await;
    let columns = "SELECT count(*) FROM pg_attribute WHERE attname = 'program' AND NOT attisdropped \
        AND attrelid = 'agentrouter_secrets.replicas'::regclass";
    assert_eq!(server.sql(&database, columns), "1");
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_not_changed() {
    let server = Postgres::shared();
    let database = server.database();
    let url = server.url(&database);
    open(&url).await.close().await;
    server.sql(&database, "UPDATE agentrouter_secrets.schema_version SET version = 99");
    for refused in [
        PostgresStore::open(target(&url), "replica-1").await,
        PostgresStore::open_read_only(target(&url), "replica-1").await,
    ] {
        assert!(matches!(refused, Err(StoreError::SchemaTooNew { found: 99, .. })), "{refused:?}");
    }
    assert_eq!(server.sql(&database, "SELECT version FROM agentrouter_secrets.schema_version"), "99");
}

#[tokio::test]
async fn a_read_only_open_creates_no_schema() {
    let server = Postgres::shared();
    let database = server.database();
    let refused = PostgresStore::open_read_only(target(&server.url(&database)), "replica-1").await;
    assert!(matches!(refused, Err(StoreError::Misconfigured { .. })), "{refused:?}");
    assert_eq!(server.sql(&database, "SELECT to_regnamespace('agentrouter_secrets') IS NULL"), "t");
}

#[tokio::test]
async fn a_commit_is_durable_although_the_database_sets_synchronous_commit_off() {
    let server = Postgres::shared();
    let database = server.database();
    server.sql(&database, &format!("ALTER DATABASE {database} SET synchronous_commit = off"));
    let store = open(&server.url(&database)).await;
    put(&(Arc::clone(&store) as Arc<dyn Store>), &place("alice/mcp/a"), "v").await;
    let rows = store.reads.rows(super::Sql::NextDue, &[]).await;
    assert!(rows.is_ok());
    let link = store.dialer.link(super::link::Purpose::Write, deadline()).await.expect("a link");
    let row = link.client.query_one("SHOW synchronous_commit", &[]).await.expect("shown");
    assert_eq!(row.get::<_, &str>(0), "on");
}

#[tokio::test]
async fn a_password_is_needed_where_the_server_asks_for_one() {
    let server = Postgres::shared();
    let database = server.database();
    server.sql(&database, &format!("ALTER DATABASE {database} OWNER TO keeper"));
    let url = format!("postgres://keeper@127.0.0.1:{}/{database}", server.port());
    let with = |password| ConnectOptions::parse(&url, password).expect("a URL");
    let refused = PostgresStore::open(with(Some("wrong")), "replica-1").await;
    let Err(StoreError::Open { reason, .. }) = refused else { panic!("{refused:?}") };
    assert_eq!(reason, "the database does not admit this user with this password");
    let store: Arc<dyn Store> = Arc::new(
        PostgresStore::open(with(Some(crate::testing::PASSWORD)), "replica-1").await.expect("opened"),
    );
    put(&store, &place("alice/mcp/a"), "v").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotated_password_is_used_for_the_next_connection() {
    let server = Postgres::start("");
    let database = server.database();
    server.sql(&database, &format!("ALTER DATABASE {database} OWNER TO keeper"));
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), format!("{}\n", crate::testing::PASSWORD)).expect("written");
    let url = format!("postgres://keeper@127.0.0.1:{}/{database}", server.port());
    let target = ConnectOptions::parse(&url, None)
        .expect("a URL")
        .with_password_file(FileSource::password(file.path()));
    let store: Shared = Arc::new(PostgresStore::open(target, "replica-1").await.expect("opened"));
    put(&store, &place("alice/mcp/a"), "v").await;
    let end_sessions = || {
        let end = "SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity WHERE usename = 'keeper'";
        server.sql(&database, end)
    };

    server.sql(&database, "ALTER ROLE keeper PASSWORD 'rotated'");
    end_sessions();
    let refused = store.active(&place("alice/mcp/a")).await;
    let Err(StoreError::Unavailable { reason, .. }) = refused else { panic!("{refused:?}") };
    assert_eq!(reason, "the database does not admit this user with this password");
    std::fs::write(file.path(), "rotated\n").expect("written");
    until(async || store.active(&place("alice/mcp/a")).await).await;
    until(async || store.upsert(upsert(&place("alice/mcp/a"), at(1), Some("v2"))).await).await;

    // A file that is missing for a moment does not matter.
    std::fs::remove_file(file.path()).expect("removed");
    end_sessions();
    until(async || store.active(&place("alice/mcp/a")).await).await;
}

#[tokio::test]
async fn a_server_that_requires_tls_is_not_reported_as_a_wrong_password() {
    let server = Postgres::start("");
    server.put("pg_hba.conf", "local all all trust\nhostssl all all 127.0.0.1/32 trust\n");
    server.reconfigure("");
    let refused = PostgresStore::open(target(&server.url("postgres")), "replica-1").await;
    let Err(StoreError::Open { reason, .. }) = refused else { panic!("{refused:?}") };
    assert!(reason.contains("without TLS") && reason.contains("sslmode=verify-full"), "{reason}");
    assert!(!reason.contains("password"), "{reason}");
}

#[tokio::test]
async fn a_row_that_does_not_parse_is_corrupt_and_found_by_inspection() {
    let server = Postgres::shared();
    let database = server.database();
    let store = open(&server.url(&database)).await;
    let shared = Arc::clone(&store) as Arc<dyn Store>;
    for name in ["a", "b", "c"] {
        put(&shared, &place(&format!("alice/mcp/{name}")), "v").await;
    }
    assert_eq!(store.inspect().await.expect("read").problems, [""; 0]);
    assert_eq!(store.weaknesses().await.expect("read"), [""; 0]);
    server.sql(&database, "UPDATE agentrouter_secrets.secrets SET tags = '{\"canary\":' WHERE name = 'a'");
    server.sql(
        &database,
        "UPDATE agentrouter_secrets.versions SET status = 'rotated_pending', expires_at = 1 WHERE name = 'b'",
    );
    for name in ["a", "b"] {
        let at = place(&format!("alice/mcp/{name}"));
        let read = store.active(&at).await;
        assert!(matches!(read, Err(StoreError::Corrupt(_))), "{read:?}");
        assert!(!format!("{read:?}").contains("canary"));
        let written = store.upsert(upsert(&at, conformance::fixtures::at(1), Some("v2"))).await;
        assert!(matches!(written, Err(WriteError::Store(StoreError::Corrupt(_)))), "{written:?}");
    }
    put(&shared, &place("alice/mcp/c"), "v2").await;
    let page = list(&shared, &ListQuery { limit: 1, ..everything("alice") }).await;
    assert_eq!(
        page.iter().map(brief).collect::<Vec<_>>(),
        ["mcp/b@1"],
        "a row that does not parse is passed over"
    );
    assert_eq!(store.stats().damaged, 1);
    let examined =
        store.examine(&place("alice/mcp/b"), conformance::fixtures::at(1), None, 100).await.expect("read");
    assert_eq!(examined, [Examined::Damaged(Some(version(1)))]);
    let seen = store.inspect().await.expect("read");
    assert_eq!((seen.secrets, seen.versions), (3, 4));
    assert_eq!(seen.problems, ["1 secrets lack their active version", "1 versions do not parse"]);
    for name in ["a", "b"] {
        assert!(store.purge(&place(&format!("alice/mcp/{name}"))).await.expect("purged"));
        assert!(!store.purge(&place(&format!("alice/mcp/{name}"))).await.expect("nothing to do"));
    }
    assert_eq!(store.inspect().await.expect("read").problems, [""; 0]);
}

/// Microseconds that are not an instant of the calendar: the least and the greatest, and those next to its bounds.
const NO_INSTANTS: [i64; 4] =
    [i64::MIN, Timestamp::MIN.as_micros() - 1, Timestamp::MAX.as_micros() + 1, i64::MAX];

#[tokio::test]
async fn a_secret_or_version_with_a_time_out_of_range_is_corrupt_and_delays_no_other() {
    let server = Postgres::shared();
    let database = server.database();
    let store = open(&server.url(&database)).await;
    let shared = Arc::clone(&store) as Shared;
    let mut cases = Vec::new();
    for column in ["created_at", "updated_at", "rotated_at"] {
        cases.extend(NO_INSTANTS.map(|micros| ("secrets", column, micros, 3)));
    }
    for number in [1, 2] {
        cases.extend(NO_INSTANTS.map(|micros| ("versions", "expires_at", micros, number)));
    }
    let (damaged, other) = (place("alice/mcp/a"), place("alice/mcp/b"));
    for (table, column, micros, number) in cases {
        let case = format!("{table}.{column} = {micros}, version {number}");
        for secret in [&damaged, &other] {
            put(&shared, secret, "v1").await;
        }
        // Version 1 pending until 50 or 60, version 2 retired, version 3 active.
        store.rotate(rotation(&damaged, at(0), at(50), "v2")).await.expect("rotated");
        store.rotate(rotation(&damaged, at(0), at(0), "v3")).await.expect("rotated");
        store.rotate(rotation(&other, at(0), at(60), "v2")).await.expect("rotated");
        let row = if table == "versions" { format!(" AND version = {number}") } else { String::new() };
        let sql = format!("UPDATE agentrouter_secrets.{table} SET {column} = {micros} WHERE name = 'a'{row}");
        server.sql(&database, &sql);

        let read = store.version(&damaged, version(number)).await;
        assert!(matches!(read, Err(StoreError::Corrupt("a time"))), "{case}: {read:?}");
        let problems = store.inspect().await.expect("inspected").problems;
        assert_eq!(problems, [format!("{} versions do not parse", if table == "secrets" { 3 } else { 1 })]);
        if number == 1 && micros > 0 {
            let readable = store.readable(&damaged, at(100)).await;
            assert!(matches!(readable, Err(StoreError::Corrupt("a time"))), "{case}: {readable:?}");
            let examined = store.examine(&damaged, at(100), None, 100).await.expect("read");
            assert_eq!(examined.last(), Some(&Examined::Damaged(Some(version(1)))), "{case}");
        }
        let query = ListQuery { statuses: StatusFilter::Any, ..everything("alice") };
        let shown = list(&shared, &query).await;
        let found = shown.iter().find(|s| s.place == damaged && s.version.get() == number);
        assert_eq!(found, None, "{case}");
        store.retire_expired(at(100), 100).await.expect("retired");
        let due = store.version(&other, version(1)).await.expect("read").expect("there");
        assert_eq!((due.secret.status, due.envelope), (Status::Retired, None), "{case}");
        for secret in [&damaged, &other] {
            assert!(store.purge(secret).await.expect("purged"), "{case}");
        }
    }
}

#[tokio::test]
async fn a_key_with_a_time_out_of_range_is_refused_until_it_is_revoked() {
    let server = Postgres::shared();
    let database = server.database();
    let store = open(&server.url(&database)).await;
    for (case, column) in ["created_at", "expires_at", "revoked_at"].into_iter().enumerate() {
        for (part, micros) in NO_INSTANTS.into_iter().enumerate() {
            let id = ApiKeyId::parse(&"ABCDEFGHIJKLMNOP"[case * 4 + part..][..1].repeat(16)).expect("an id");
            let key = ApiKeyRecord {
                id: id.clone(),
                digest: [u8::try_from(case * 4 + part).expect("small"); 32],
                name: "n".into(),
                user: owner("alice"),
                scopes: ScopeSet::ALL,
                realm: realm("default"),
                realms: None,
                created_at: at(0),
                expires_at: None,
                revoked_at: None,
            };
            store.insert_key(&key).await.expect("kept");
            server.sql(
                &database,
                &format!("UPDATE agentrouter_secrets.api_keys SET {column} = {micros} WHERE id = '{id}'"),
            );
            let read = store.key(&id).await;
            assert!(matches!(read, Err(StoreError::Corrupt("a time"))), "{column} {micros}: {read:?}");
            let damaged = ExaminedKey::Damaged { id: Some(id.clone()), revoked: false };
            assert!(store.examine_keys().await.expect("read").contains(&damaged), "{column} {micros}");
            assert_eq!(store.inspect().await.expect("inspected").problems, ["1 API keys do not parse"]);
            assert!(store.revoke_unread(&id, at(7)).await.expect("revoked"), "{column} {micros}");
            assert_eq!(store.inspect().await.expect("inspected").problems, [""; 0], "{column} {micros}");
        }
    }
}

fn deadline() -> tokio::time::Instant {
    tokio::time::Instant::now() + Duration::from_secs(10)
}
