//! The database writer: an attacker who can write to the database, and to nothing else.
//!
//! Makes every kind of change to every column of every table, on both engines, and states what becomes of it. The tables
//! and columns are those of the database's own catalogue, so that a new column cannot be forgotten.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use agentrouter_crypto::{ApiToken, SystemRng};
use agentrouter_instance::admin;
use agentrouter_instance::generation::KEY_MANIFEST;
use agentrouter_instance::instance::{Instance, MissingStore};
use agentrouter_instance::settings::{self, Settings};
use agentrouter_instance::storage::DATABASE;
use agentrouter_model::{Clock as _, Owner, Realm, Reason, ScopeSet, SystemClock};
use agentrouter_postgres::testing::Postgres;
use agentrouter_service::NewKey;
use clap::Parser;
use rusqlite::Connection;

use super::{Level, examine};

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    settings: Settings,
}

impl AsMut<Settings> for Line {
    fn as_mut(&mut self) -> &mut Settings {
        &mut self.settings
    }
}

/// A store that the attacker can write to, in either engine.
struct Target {
    dir: tempfile::TempDir,
    /// The database in the shared PostgreSQL; none for SQLite.
    database: Option<String>,
}

impl Target {
    fn both() -> [Self; 2] {
        let dir = || tempfile::tempdir().expect("a directory");
        let database = Postgres::shared().database();
        [Self { dir: dir(), database: None }, Self { dir: dir(), database: Some(database) }]
    }

    fn settings(&self) -> Settings {
        let mut line = vec![OsString::from("test"), "--data-dir".into(), self.data().into_os_string()];
        if let Some(database) = &self.database {
            line.extend(["--database-url".into(), Postgres::shared().url(database).into()]);
        }
        settings::parse::<Line>(&line).expect("settings").settings
    }

    fn data(&self) -> std::path::PathBuf {
        self.dir.path().join("data")
    }

    async fn open(&self) -> Instance {
        Instance::open(&self.settings(), MissingStore::Refuse).await.expect("opened")
    }

    /// Runs SQL, as the attacker.
    fn sql(&self, sql: &str) {
        match &self.database {
            Some(database) => {
                let session =
                    "SET search_path = agentrouter_secrets; SET session_replication_role = replica; ";
                Postgres::shared().sql(database, &[session, sql].concat());
            }
            None => {
                let conn = Connection::open(self.data().join(DATABASE)).expect("opened");
                conn.execute_batch("PRAGMA foreign_keys = OFF; PRAGMA ignore_check_constraints = ON;")
                    .expect("set");
                conn.execute_batch(sql).expect(sql);
            }
        }
    }

    /// The columns of each table.
    fn catalogue(&self) -> BTreeMap<String, Vec<String>> {
        let mut tables: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut add = |table: &str, column: &str| {
            tables.entry(table.to_owned()).or_default().push(column.to_owned());
        };
        match &self.database {
            Some(database) => {
                let sql = "SELECT table_name || '.' || column_name FROM information_schema.columns \
                    WHERE table_schema = 'agentrouter_secrets' ORDER BY 1";
                for line in Postgres::shared().sql(database, sql).lines() {
                    let (table, column) = line.split_once('.').expect("a table and a column");
                    add(table, column);
                }
            }
            None => {
                let conn = Connection::open(self.data().join(DATABASE)).expect("opened");
                let sql = "SELECT m.name, c.name FROM sqlite_schema m, pragma_table_info(m.name) c \
                    WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%'";
                let mut statement = conn.prepare(sql).expect("prepared");
                let mut rows = statement.query(()).expect("queried");
                while let Some(row) = rows.next().expect("read") {
                    let name = |at| row.get::<_, String>(at).expect("text");
                    add(&name(0), &name(1));
                }
            }
        }
        tables
    }

    /// Keeps a copy of a table for [`Target::put_back`].
    fn keep(&self, table: &str) {
        self.sql(&format!("DROP TABLE IF EXISTS kept; CREATE TABLE kept AS SELECT * FROM {table};"));
    }

    fn put_back(&self, table: &str) {
        self.sql(&format!("DELETE FROM {table}; INSERT INTO {table} SELECT * FROM kept; DROP TABLE kept;"));
    }

    /// The failures that `doctor` finds, as text.
    async fn doctor(&self) -> String {
        let findings = examine(&self.settings(), None, SystemClock.now()).await;
        let failures = findings.iter().filter(|finding| finding.level == Level::Fail);
        failures.map(|finding| format!("{}: {}\n", finding.what, finding.text)).collect()
    }
}

async fn issue(instance: &Instance, user: &str, name: &str) -> ApiToken {
    let new = NewKey {
        name: name.to_owned(),
        user: Owner::parse(user).expect("a user"),
        scopes: ScopeSet::parse("secrets/read").expect("a scope"),
        realm: Realm::default(),
        realms: None,
        expires_at: None,
    };
    instance.service.issue_key(&admin::origin(&SystemRng), new).await.expect("issued").0
}

async fn revoke(instance: &Instance, token: &ApiToken) {
    assert!(instance.service.revoke_key(&admin::origin(&SystemRng), &token.id()).await.expect("revoked"));
}

/// Whether each key works, by a server that starts now. It starts in any case.
async fn work<const N: usize>(target: &Target, tokens: [&ApiToken; N]) -> [bool; N] {
    let instance = target.open().await;
    let mut found = [false; N];
    for (works, token) in found.iter_mut().zip(tokens) {
        *works = match instance.service.authenticate(Some(token.expose())).await {
            Ok(_) => true,
            Err(refusal) => {
                assert_eq!(refusal.reason, Reason::Unauthenticated);
                false
            }
        };
    }
    instance.close().await;
    found
}

/// A value for a column of an API key that parses and that no key here has.
fn other(column: &str, postgres: bool) -> &'static str {
    match (column, postgres) {
        ("id", _) => "'ZZZZZZZZZZZZZZZZ'",
        ("digest", false) => "zeroblob(32)",
        ("digest", true) => "decode(repeat('00', 32), 'hex')",
        ("name", false) => "'other'",
        ("name", true) => "'other'::bytea",
        ("user" | "user_id", _) => "'system'",
        ("scopes", _) => "'secrets/read/internal'",
        ("realm", _) => "'other'",
        ("realms", _) => "'[\"default\",\"other\"]'",
        ("created_at", _) => "1",
        ("expires_at", _) => "4000000000000000",
        ("revoked_at", _) => "2",
        _ => panic!("a new column {column}: state what becomes of its changes"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_changed_row_of_an_api_key_works_and_doctor_names_each() {
    for target in Target::both() {
        let instance = target.open().await;
        let (a, b) = (issue(&instance, "ann", "first").await, issue(&instance, "bob", "second").await);
        instance.close().await;
        assert_eq!(work(&target, [&a, &b]).await, [true, true]);
        assert_eq!(target.doctor().await, "");
        let (id, other_id) = (a.id().to_string(), b.id().to_string());
        let columns = target.catalogue().remove("api_keys").expect("there");
        assert!(columns.len() >= 10, "{columns:?}");
        for column in &columns {
            // Edited.
            target.keep("api_keys");
            let value = other(column, target.database.is_some());
            target.sql(&format!("UPDATE api_keys SET \"{column}\" = {value} WHERE id = '{id}'"));
            assert_eq!(work(&target, [&a, &b]).await, [false, true], "{column}");
            let found = target.doctor().await;
            assert!(found.contains(&id), "{column}: {found}");
            target.put_back("api_keys");

            // Exchanged with another row. Columns in which the two do not differ cannot be exchanged.
            if ["realm", "realms", "scopes", "expires_at", "revoked_at"].contains(&column.as_str()) {
                continue;
            }
            target.keep("api_keys");
            let theirs = |id: &str| format!("(SELECT k.\"{column}\" FROM kept k WHERE k.id = '{id}')");
            target.sql(&format!("UPDATE api_keys SET id = 'x' WHERE id = '{id}'"));
            target
                .sql(&format!("UPDATE api_keys SET \"{column}\" = {} WHERE id = '{other_id}'", theirs(&id)));
            let mine = if column == "id" {
                theirs(&other_id)
            } else {
                format!("'{id}', \"{column}\" = {}", theirs(&other_id))
            };
            target.sql(&format!("UPDATE api_keys SET id = {mine} WHERE id = 'x'"));
            assert_eq!(work(&target, [&a, &b]).await, [false, false], "{column}");
            let found = target.doctor().await;
            assert!(found.contains(&id) && found.contains(&other_id), "{column}: {found}");
            target.put_back("api_keys");
        }

        // Deleted.
        target.keep("api_keys");
        target.sql(&format!("DELETE FROM api_keys WHERE id = '{id}'"));
        assert_eq!(work(&target, [&a, &b]).await, [false, true]);
        let found = target.doctor().await;
        assert!(found.contains(&format!("{id}: its row was deleted")), "{found}");
        target.put_back("api_keys");

        // Forged: the attacker knows the key, whose digest it is.
        let forged = ApiToken::generate(&SystemRng).expect("a key");
        let digest: String = forged.digest().iter().map(|byte| format!("{byte:02x}")).collect();
        let digest = if target.database.is_some() {
            format!("decode('{digest}', 'hex')")
        } else {
            format!("x'{digest}'")
        };
        target.keep("api_keys");
        let values = columns.iter().map(|column| match column.as_str() {
            "id" => format!("'{}'", forged.id()),
            "digest" => digest.clone(),
            "user" | "user_id" => "'system'".to_owned(),
            column => format!("\"{column}\""),
        });
        let values: Vec<String> = values.collect();
        let names: Vec<String> = columns.iter().map(|column| format!("\"{column}\"")).collect();
        target.sql(&format!(
            "INSERT INTO api_keys ({}) SELECT {} FROM kept WHERE id = '{id}'",
            names.join(", "),
            values.join(", ")
        ));
        assert_eq!(work(&target, [&forged, &a]).await, [false, true]);
        assert!(target.doctor().await.contains(forged.id().as_str()));
        target.put_back("api_keys");
        assert_eq!(work(&target, [&a, &b]).await, [true, true]);
        assert_eq!(target.doctor().await, "");

        // An operator who revokes what was changed has no finding left.
        target.sql(&format!("UPDATE api_keys SET realm = 'other' WHERE id = '{id}'"));
        target.sql(&format!("DELETE FROM api_keys WHERE id = '{other_id}'"));
        let instance = target.open().await;
        revoke(&instance, &a).await;
        revoke(&instance, &b).await;
        let c = issue(&instance, "ann", "third").await;
        instance.close().await;
        assert_eq!(work(&target, [&a, &b, &c]).await, [false, false, true]);
        assert_eq!(target.doctor().await, "");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_cannot_be_undone() {
    for target in Target::both() {
        let instance = target.open().await;
        let (a, b) = (issue(&instance, "ann", "first").await, issue(&instance, "bob", "second").await);
        instance.close().await;
        target.sql("CREATE TABLE kept_keys AS SELECT * FROM api_keys; CREATE TABLE kept_facts AS SELECT * FROM facts;");
        let instance = target.open().await;
        revoke(&instance, &a).await;
        instance.close().await;
        target.sql("CREATE TABLE last_facts AS SELECT * FROM facts; CREATE TABLE last_keys AS SELECT * FROM api_keys;");

        // The row is put back as it was.
        target.sql("DELETE FROM api_keys; INSERT INTO api_keys SELECT * FROM kept_keys;");
        assert_eq!(work(&target, [&a, &b]).await, [false, true]);
        let found = target.doctor().await;
        assert!(found.contains(a.id().as_str()) && !found.contains(b.id().as_str()), "{found}");

        // The manifest too: it is older than this server remembers.
        target.sql("DELETE FROM facts; INSERT INTO facts SELECT * FROM kept_facts;");
        assert_eq!(work(&target, [&a, &b]).await, [false, false]);
        assert!(target.doctor().await.contains("the key manifest is older"));

        // The manifest is removed, and the schema's number reset: nothing is authenticated again.
        target.sql("DELETE FROM facts;");
        match target.database {
            Some(_) => target.sql("UPDATE schema_version SET version = 3"),
            None => target.sql("PRAGMA user_version = 3"),
        }
        assert_eq!(work(&target, [&a, &b]).await, [false, false]);
        assert!(target.doctor().await.contains("the key manifest is missing"));

        // A server that never served this store does not authenticate the keys either.
        let fresh = tempfile::tempdir().expect("a directory");
        copy(&target.data(), fresh.path(), &["kek.json", DATABASE]);
        let moved = Target { dir: fresh, database: target.database.clone() };
        std::fs::create_dir(moved.data()).expect("made");
        copy(moved.dir.path(), &moved.data(), &["kek.json", DATABASE]);
        let refused = Instance::open(&moved.settings(), MissingStore::Refuse).await.err().expect("refused");
        assert!(refused.to_string().contains("are not authenticated"), "{refused:#}");

        // All as it was: the others work again.
        target.sql("DELETE FROM facts; INSERT INTO facts SELECT * FROM last_facts;");
        target.sql("DELETE FROM api_keys; INSERT INTO api_keys SELECT * FROM last_keys;");
        assert_eq!(work(&target, [&a, &b]).await, [false, true]);
        assert_eq!(target.doctor().await, "");
        assert!(target.data().join(KEY_MANIFEST).exists());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_keys_of_an_older_store_are_authenticated_once() {
    for target in Target::both() {
        let instance = target.open().await;
        let a = issue(&instance, "ann", "first").await;
        instance.close().await;
        // As the older program left it.
        std::fs::remove_file(target.data().join(KEY_MANIFEST)).expect("removed");
        match target.database {
            Some(_) => target.sql(
                "DELETE FROM facts; ALTER TABLE replicas DROP COLUMN program; UPDATE schema_version SET version = 3",
            ),
            None => target.sql("DELETE FROM facts; PRAGMA user_version = 3"),
        }
        assert_eq!(work(&target, [&a]).await, [true]);
        assert_eq!(target.doctor().await, "");
        target.sql("DELETE FROM facts;");
        assert_eq!(work(&target, [&a]).await, [false], "and not again");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_are_upgraded_one_by_one_while_keys_are_issued() {
    let [_, one] = Target::both();
    let two = Target { dir: tempfile::tempdir().expect("a directory"), database: one.database.clone() };
    let instance = one.open().await;
    let old = issue(&instance, "ann", "old").await;
    instance.close().await;
    std::fs::create_dir(two.data()).expect("made");
    copy(&one.data(), &two.data(), &["kek.json"]);
    two.open().await.close().await;
    // As two servers of the older program left it. The first still runs: it is registered.
    for target in [&one, &two] {
        std::fs::remove_file(target.data().join(KEY_MANIFEST)).expect("removed");
    }
    one.sql(
        "DELETE FROM facts; ALTER TABLE replicas DROP COLUMN program; UPDATE schema_version SET version = 3",
    );
    one.sql("INSERT INTO replicas (name, lease_ms) VALUES ('older', 1000)");

    let second = two.open().await;
    second.service.keep_in_memory();
    second.service.authenticate_keys().await.expect("read");
    assert_eq!(second.service.store().key_manifest().await.expect("read"), None, "not yet");
    let mut tokens = vec![old, issue(&second, "bob", "between").await];
    assert!(second.service.authenticate(Some(tokens[1].expose())).await.is_ok());
    // The older program issues a key: a row without a manifest.
    one.sql(&format!(
        "INSERT INTO api_keys SELECT '0123456789abcdef', decode(repeat('01', 32), 'hex'), name, user_id, scopes, realm, \
         realms, created_at, expires_at, revoked_at FROM api_keys WHERE id = '{}'",
        tokens[0].id()
    ));

    // The first server is replaced, while the second issues keys.
    one.sql("DELETE FROM replicas WHERE name = 'older'");
    let stop = std::sync::atomic::AtomicBool::new(false);
    let issuing = async {
        let mut issued = Vec::new();
        while !stop.load(std::sync::atomic::Ordering::Relaxed) {
            issued.push(issue(&second, "bob", "during").await);
        }
        issued
    };
    let upgrade = async {
        let first = one.open().await;
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        first
    };
    let (issued, first) = tokio::join!(issuing, upgrade);
    tokens.extend(issued);
    tokens.push(issue(&first, "ann", "after").await);
    assert!(first.service.store().key_manifest().await.expect("read").is_some());
    for server in [&first, &second] {
        for token in &tokens {
            assert!(server.service.authenticate(Some(token.expose())).await.is_ok(), "{}", token.id());
        }
        server.service.authenticate_keys().await.expect("read");
    }
    first.close().await;
    second.close().await;
    for target in [&one, &two] {
        assert!(target.data().join(KEY_MANIFEST).exists());
        assert_eq!(target.doctor().await, "");
    }
}

fn copy(from: &Path, to: &Path, names: &[&str]) {
    for name in names.iter().filter(|name| from.join(name).exists()) {
        std::fs::copy(from.join(name), to.join(name)).expect("copied");
    }
}
