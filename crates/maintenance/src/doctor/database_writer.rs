//! The database writer: an attacker who can write to the database, and to nothing else.
//!
//! Makes every kind of change to every column of every table, on both engines, and states the result. The tables and
//! columns come from the database's own catalogue, so the tests cover a new column too.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use agentrouter_audit::Progress;
use agentrouter_crypto::{ApiToken, SystemRng};
use agentrouter_instance::admin::{self, Request, Response};
use agentrouter_instance::generation::KEY_MANIFEST;
use agentrouter_instance::instance::{Instance, MissingStore};
use agentrouter_instance::settings::{self, Settings};
use agentrouter_instance::storage::DATABASE;
use agentrouter_keyring::Keyring;
use agentrouter_model::rpc::{CreateSecret, DeleteSecret, GetSecretValue, RotateSecret};
use agentrouter_model::{
    Clock as _, KekId, Owner, Realm, Reason, ScopeSet, Secret, SystemClock, Tags, Timestamp,
};
use agentrouter_postgres::testing::Postgres;
use agentrouter_service::{CallContext, NewKey, RewrapOptions};
use agentrouter_store::{ListQuery, ListScope, Realms, StatusFilter};
use clap::Parser;
use rusqlite::Connection;
use tokio::sync::watch;

use super::{Level, examine};

#[derive(Parser)]
struct CommandLine {
    #[command(flatten)]
    settings: Settings,
}

impl AsMut<Settings> for CommandLine {
    fn as_mut(&mut self) -> &mut Settings {
        &mut self.settings
    }
}

/// A store that the attacker can write to, in either engine.
struct AttackedStore {
    dir: tempfile::TempDir,
    /// The database in the shared PostgreSQL; none for SQLite.
    database: Option<String>,
}

impl AttackedStore {
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
        settings::parse::<CommandLine>(&line).expect("settings").settings
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
                self.attacker().execute_batch(sql).expect(sql);
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

    /// Keeps a copy of a table for [`AttackedStore::put_back`].
    fn keep(&self, table: &str) {
        self.sql(&format!("DROP TABLE IF EXISTS kept; CREATE TABLE kept AS SELECT * FROM {table};"));
    }

    fn put_back(&self, table: &str) {
        self.sql(&format!("DELETE FROM {table}; INSERT INTO {table} SELECT * FROM kept; DROP TABLE kept;"));
    }

    /// Changes a column of a table that is kept: `edited` in the first row, or `exchanged` between the first and the last.
    /// Or every row is `deleted`. False if the table has no such rows, or a constraint of the schema refuses the change.
    fn change(&self, table: &str, column: &str, change: &str) -> bool {
        let first = |row| {
            format!("(SELECT k.\"{column}\" FROM kept k WHERE k.{row} = (SELECT min({row}) FROM kept))")
        };
        let last = |row| {
            format!("(SELECT k.\"{column}\" FROM kept k WHERE k.{row} = (SELECT max({row}) FROM kept))")
        };
        let set = |row, which, value| {
            format!(
                "UPDATE changed SET \"{column}\" = {value} WHERE {row} = (SELECT {which}({row}) FROM kept);"
            )
        };
        const COPY: &str = "DROP TABLE IF EXISTS changed; CREATE TABLE changed AS SELECT * FROM kept;";
        let put = format!("DELETE FROM {table}; INSERT INTO {table} SELECT * FROM changed;");
        if change == "deleted" {
            self.sql(&format!("DELETE FROM {table}"));
            return true;
        }
        match &self.database {
            Some(database) => {
                let server = Postgres::shared();
                let kind = format!(
                    "SELECT data_type FROM information_schema.columns WHERE table_schema = 'agentrouter_secrets' \
                     AND table_name = '{table}' AND column_name = '{column}'"
                );
                let value = match server.sql(database, &kind).as_str() {
                    "text" => "'other'",
                    "bytea" => "decode(repeat('01', 32), 'hex')",
                    "boolean" => "false",
                    _ => "7",
                };
                let changes = match change {
                    "edited" => set("ctid", "min", value.to_owned()),
                    _ => set("ctid", "max", first("ctid")) + &set("ctid", "min", last("ctid")),
                };
                let sql = format!(
                    "SET search_path = agentrouter_secrets; SET session_replication_role = replica; {COPY} \
                     DO $do$ BEGIN {changes} {put} EXCEPTION WHEN integrity_constraint_violation THEN \
                     DELETE FROM changed; END $do$; SELECT count(*) FROM changed"
                );
                server.sql(database, &sql).lines().last() != Some("0")
            }
            None => {
                let conn = self.attacker();
                let value = format!(
                    "CASE typeof(\"{column}\") WHEN 'text' THEN 'other' WHEN 'blob' THEN zeroblob(32) ELSE 7 END"
                );
                let changes = match change {
                    "edited" => set("rowid", "min", value),
                    _ => set("rowid", "max", first("rowid")) + &set("rowid", "min", last("rowid")),
                };
                let rows: i64 =
                    conn.query_row("SELECT count(*) FROM kept", (), |row| row.get(0)).expect("counted");
                rows > 0 && conn.execute_batch(&format!("{COPY} {changes} BEGIN; {put} COMMIT;")).is_ok()
            }
        }
    }

    /// Makes the schema that of an older program.
    fn make_older(&self, number: i32) {
        match &self.database {
            Some(_) => {
                let program = "ALTER TABLE replicas DROP COLUMN program; ";
                let program = if number < 4 { program } else { "" };
                self.sql(&format!(
                    "{program}ALTER TABLE secrets DROP COLUMN tag; ALTER TABLE versions DROP COLUMN tag; \
                     UPDATE schema_version SET version = {number}"
                ));
            }
            None => self.sql(&format!(
                "ALTER TABLE secrets DROP COLUMN tag; ALTER TABLE pending DROP COLUMN tag; \
                 ALTER TABLE retired DROP COLUMN tag; PRAGMA user_version = {number}"
            )),
        }
    }

    /// A connection to SQLite that no constraint stops, as far as that can be had.
    fn attacker(&self) -> Connection {
        let conn = Connection::open(self.data().join(DATABASE)).expect("opened");
        conn.execute_batch("PRAGMA foreign_keys = OFF; PRAGMA ignore_check_constraints = ON;").expect("set");
        conn
    }

    /// The failures that `doctor` finds, as text.
    async fn doctor(&self) -> String {
        self.doctor_at(SystemClock.now()).await
    }

    async fn doctor_at(&self, now: Timestamp) -> String {
        let findings = examine(&self.settings(), None, now).await;
        let failures = findings.iter().filter(|finding| finding.level == Level::Fail);
        failures.map(|finding| format!("{}: {}\n", finding.what, finding.text)).collect()
    }
}

async fn issue(instance: &Instance, user: &str, name: &str) -> ApiToken {
    issue_with(instance, user, name, "secrets/read").await
}

async fn issue_with(instance: &Instance, user: &str, name: &str, scopes: &str) -> ApiToken {
    let new = NewKey {
        name: name.to_owned(),
        user: Owner::parse(user).expect("a user"),
        scopes: ScopeSet::parse(scopes).expect("scopes"),
        realm: Realm::default(),
        realms: None,
        expires_at: None,
    };
    instance.service.issue_key(&admin::origin(&SystemRng), new).await.expect("issued").0
}

/// The response of `key create` that issues no key: what happened and what to do.
async fn refused_key(target: &AttackedStore) -> (String, Option<String>) {
    let request = Request::KeyCreate {
        user: "ann".to_owned(),
        scopes: "secrets/read".to_owned(),
        realm: None,
        realms: None,
        expires_seconds: None,
        name: String::new(),
    };
    let instance = target.open().await;
    let (progress, _) = watch::channel(Progress::default());
    let origin = admin::origin(&SystemRng);
    let response = admin::execute(&instance.service, &target.data(), &origin, request, progress).await;
    instance.close().await;
    match response {
        Response::Refused { message, hint } => (message, hint),
        _ => panic!("a key was issued"),
    }
}

async fn revoke(instance: &Instance, token: &ApiToken) {
    assert!(instance.service.revoke_key(&admin::origin(&SystemRng), &token.id()).await.expect("revoked"));
}

/// Whether each key works, by a server that starts now. It starts in any case.
async fn work<const N: usize>(target: &AttackedStore, tokens: [&ApiToken; N]) -> [bool; N] {
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
    for target in AttackedStore::both() {
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
    for target in AttackedStore::both() {
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

        // The manifest is edited: no key is issued on top of it.
        target.sql("UPDATE facts SET value = 'x' WHERE name = 'keys'");
        let (message, hint) = refused_key(&target).await;
        assert_eq!(message, "no key was issued: the key manifest is not authentic");
        assert!(hint.is_some_and(|hint| hint.contains("run 'doctor'")));

        // The manifest is removed, and the schema's number reset: nothing is authenticated again.
        target.sql("DELETE FROM facts;");
        target.make_older(3);
        assert_eq!(work(&target, [&a, &b]).await, [false, false]);
        assert!(target.doctor().await.contains("the key manifest is missing"));

        // A server that never served this store does not authenticate the keys either.
        let fresh = tempfile::tempdir().expect("a directory");
        copy(&target.data(), fresh.path(), &["kek.json", DATABASE]);
        let moved = AttackedStore { dir: fresh, database: target.database.clone() };
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
async fn a_revocation_at_one_server_cannot_be_undone_at_another() {
    let [_, one] = AttackedStore::both();
    let two =
        AttackedStore { dir: tempfile::tempdir().expect("a directory"), database: one.database.clone() };
    let first = one.open().await;
    std::fs::create_dir(two.data()).expect("made");
    copy(&one.data(), &two.data(), &["kek.json"]);
    let second = two.open().await;
    second.service.keep_in_memory();
    let token = issue(&first, "ann", "first").await;
    assert!(second.service.authenticate(Some(token.expose())).await.is_ok());
    one.sql(
        "CREATE TABLE kept_facts AS SELECT * FROM facts; CREATE TABLE kept_keys AS SELECT * FROM api_keys;",
    );
    let kept = || std::fs::read_to_string(two.data().join(KEY_MANIFEST)).expect("read");
    let before = kept();
    let work = Arc::clone(&second.service);
    let work = tokio::spawn(async move { work.run_maintenance().await });
    revoke(&first, &token).await;
    // The second server hears of it long before its next regular look.
    let heard = async {
        while kept() == before {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(40), heard).await.expect("it looks at the manifest");
    one.sql("DELETE FROM facts; INSERT INTO facts SELECT * FROM kept_facts;");
    one.sql("DELETE FROM api_keys; INSERT INTO api_keys SELECT * FROM kept_keys;");
    for server in [&first, &second] {
        assert!(server.service.authenticate(Some(token.expose())).await.is_err());
    }
    work.abort();
    let _ = work.await;
    first.close().await;
    second.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rows_of_an_older_store_are_authenticated_once() {
    for (target, number) in
        AttackedStore::both().into_iter().zip([3, 4]).chain(AttackedStore::both().into_iter().zip([4, 3]))
    {
        let instance = target.open().await;
        let a = issue_with(&instance, "ann", "first", ALL).await;
        put(&instance, &a, "a", &["a1", "a2"]).await;
        replace(&instance, &a, "a", "a3").await;
        let before = listed(&instance).await;
        assert_eq!(before.len(), 4, "three versions, and the active one in both lists");
        instance.close().await;
        // As the older program left it.
        std::fs::remove_file(target.data().join(KEY_MANIFEST)).expect("removed");
        target.sql("DELETE FROM facts");
        target.make_older(number);
        assert_eq!(work(&target, [&a]).await, [true]);
        let instance = target.open().await;
        assert_eq!(listed(&instance).await, before);
        assert_eq!(value(&instance, &a, "a", 0).await.as_deref(), Some("a3"));
        assert_eq!(value(&instance, &a, "a", 1).await.as_deref(), Some("a1"));
        assert_eq!(instance.service.store().stats().refused, 0);
        instance.close().await;
        assert_eq!(target.doctor().await, "");

        // And not again, whatever the store claims.
        target.sql("UPDATE secrets SET updated_at = 7");
        target.sql("DELETE FROM facts");
        target.make_older(number);
        assert_eq!(work(&target, [&a]).await, [false]);
        let instance = target.open().await;
        assert_eq!(listed(&instance).await, []);
        assert!(instance.service.store().stats().refused > 0);
        instance.close().await;
        assert!(target.doctor().await.contains("rows: 3 are not authentic"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_are_upgraded_one_by_one_under_writes() {
    let [_, one] = AttackedStore::both();
    let two =
        AttackedStore { dir: tempfile::tempdir().expect("a directory"), database: one.database.clone() };
    let instance = one.open().await;
    let old = issue_with(&instance, "ann", "old", ALL).await;
    put(&instance, &old, "of-both", &["1", "2"]).await;
    instance.close().await;
    std::fs::create_dir(two.data()).expect("made");
    copy(&one.data(), &two.data(), &["kek.json"]);
    two.open().await.close().await;
    // As two servers of the older program left it. The first still runs: it is registered.
    for target in [&one, &two] {
        std::fs::remove_file(target.data().join(KEY_MANIFEST)).expect("removed");
    }
    one.sql("DELETE FROM facts");
    one.make_older(3);
    one.sql("INSERT INTO replicas (name, lease_ms) VALUES ('older', 1000)");

    let second = two.open().await;
    second.service.keep_in_memory();
    second.service.authenticate_rows().await.expect("read");
    assert_eq!(second.service.store().key_manifest().await.expect("read"), None, "not yet");
    let mut tokens = vec![old, issue(&second, "bob", "between").await];
    assert!(second.service.authenticate(Some(tokens[1].expose())).await.is_ok());
    put(&second, &tokens[0], "between", &["1", "2"]).await;
    // The older program writes rows, which keep their tags or have none.
    one.sql("UPDATE secrets SET description = 'older' WHERE name = 'between'");
    one.sql("UPDATE versions SET tag = NULL WHERE name = 'between' AND version = 1");
    assert_eq!(value(&second, &tokens[0], "between", 1).await.as_deref(), Some("1"));
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
            let name = format!("during-{}", issued.len());
            put(&second, &tokens[0], &name, &["1", "2"]).await;
        }
        issued
    };
    let upgrade = async {
        let first = one.open().await;
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        first
    };
    let (issued, first) = tokio::join!(issuing, upgrade);
    let names: Vec<_> = (1..=issued.len()).map(|number| format!("during-{number}")).collect();
    tokens.extend(issued);
    tokens.push(issue(&first, "ann", "after").await);
    assert!(first.service.store().key_manifest().await.expect("read").is_some());
    for server in [&first, &second] {
        for token in &tokens {
            assert!(server.service.authenticate(Some(token.expose())).await.is_ok(), "{}", token.id());
        }
        server.service.authenticate_rows().await.expect("read");
        for name in names.iter().map(String::as_str).chain(["of-both", "between"]) {
            for (version, right) in [(0, "2"), (1, "1")] {
                assert_eq!(value(server, &tokens[0], name, version).await.as_deref(), Some(right), "{name}");
            }
        }
        assert_eq!(listed(server).await.len(), 3 * (names.len() + 2), "each active one in both lists");
        assert_eq!(server.service.store().stats().refused, 0);
    }
    first.close().await;
    second.close().await;
    for target in [&one, &two] {
        assert!(target.data().join(KEY_MANIFEST).exists());
        assert_eq!(target.doctor().await, "");
    }
}

/// The scopes of a caller that reads and writes values.
const ALL: &str = "secrets/read,secrets/read/internal,secrets/write";

/// The rows of the secrets of one user, as the store lists them: every version, and the active ones once more. Without the
/// KEKs, which are not authenticated.
async fn listed(instance: &Instance) -> Vec<Secret> {
    let mut rows = Vec::new();
    for statuses in [StatusFilter::Any, StatusFilter::Active] {
        let owner = Owner::parse("ann").expect("a user");
        let query = ListQuery {
            scopes: vec![ListScope { owner, realms: Realms::All }],
            statuses,
            tags: Tags::default(),
            name_prefix: None,
            after: None,
            limit: 10_000,
            bytes: usize::MAX,
            steps: usize::MAX,
            now: Timestamp::from_micros(0),
        };
        rows.extend(instance.service.store().list(&query).await.expect("a list").rows);
    }
    let kek_id = KekId::parse("any").expect("an id");
    rows.iter_mut().for_each(|row| row.kek_id.clone_from(&kek_id));
    rows
}

/// Replaces the value of a secret without a grace.
async fn replace(instance: &Instance, token: &ApiToken, name: &str, value: &str) {
    let create = CreateSecret { name, value, ..CreateSecret::default() };
    instance.service.create(context(instance, token).await, create).await.expect("replaced");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_changed_row_of_a_secret_or_version_is_shown_and_doctor_names_it() {
    for target in AttackedStore::both() {
        let instance = target.open().await;
        let token = issue_with(&instance, "ann", "first", ALL).await;
        for name in ["a", "b"] {
            put(&instance, &token, name, &[&format!("{name}1"), &format!("{name}2")]).await;
            replace(&instance, &token, name, &format!("{name}3")).await;
            put(&instance, &token, &format!("{name}{name}"), &["only"]).await;
        }
        let before = listed(&instance).await;
        instance.close().await;
        assert_eq!(target.doctor().await, "");
        let postgres = target.database.is_some();
        let tables: &[&str] =
            if postgres { &["secrets", "versions"] } else { &["secrets", "pending", "retired"] };
        for table in tables {
            let columns = target.catalogue().remove(*table).expect("there");
            assert!(columns.contains(&"tag".to_owned()), "{columns:?}");
            for column in &columns {
                // What the wrap and the AAD authenticate; `no_change_of_any_column_gives_another_value` covers it.
                if ["kek_id", "wrapped_dek", "sealed", "version_id"].contains(&column.as_str()) {
                    continue;
                }
                for change in ["edited", "exchanged"] {
                    target.keep(table);
                    if !target.change(table, column, change) {
                        continue; // A constraint of the schema refused it.
                    }
                    let about = format!("{table}.{column} {change}, postgres: {postgres}");
                    let instance = target.open().await;
                    let rows = listed(&instance).await;
                    assert!(rows.iter().all(|row| before.contains(row)), "{about}: {rows:?}");
                    for (name, version, right) in
                        [("a", 0, "a3"), ("a", 1, "a1"), ("b", 0, "b3"), ("b", 1, "b1"), ("aa", 0, "only")]
                    {
                        let found = value(&instance, &token, name, version).await;
                        assert!(found.as_deref().is_none_or(|found| found == right), "{about}: {found:?}");
                    }
                    let refused = instance.service.store().stats().refused;
                    instance.close().await;
                    let found = target.doctor().await;
                    // Columns in which the two rows do not differ are as they were.
                    if change == "edited" || !found.is_empty() {
                        // A list reads the secret's id from the row of the secret.
                        let is_read = column != "secret_id";
                        assert!(rows.len() < before.len() || refused > 0 || !is_read, "{about}");
                        assert!(!found.is_empty(), "{about}");
                    } else {
                        assert_eq!(rows, before, "{about}");
                    }
                    target.put_back(table);
                }
            }
        }

        // Forged: a copy under another name, with the value of the original.
        let forge = |table: &str| {
            let columns = target.catalogue().remove(table).expect("there");
            let value = |column: &String| match (table, column.as_str()) {
                (_, "name") => "'forged'".to_owned(),
                ("secrets", "id") | ("versions", "secret_id") => "'01ARZ3NDEKTSV4RRFFQ69G5FAV'".to_owned(),
                ("versions", "id") => "NULL".to_owned(),
                (_, "version_id") => "(SELECT max(id) FROM versions)".to_owned(),
                (_, column) => format!("\"{column}\""),
            };
            let values: Vec<_> = columns.iter().map(value).collect();
            let names: Vec<_> = columns.iter().map(|column| format!("\"{column}\"")).collect();
            let (names, values) = (names.join(", "), values.join(", "));
            target.sql(&format!(
                "INSERT INTO {table} ({names}) SELECT {values} FROM {table} WHERE name = 'aa'"
            ));
        };
        forge("versions");
        forge("secrets");
        let instance = target.open().await;
        assert_eq!(listed(&instance).await, before);
        assert_eq!(value(&instance, &token, "forged", 0).await, None);
        assert!(instance.service.store().stats().refused > 0);
        // An operator deletes what was forged.
        let delete = DeleteSecret { name: "forged", ..DeleteSecret::default() };
        let found = target.doctor().await;
        assert!(found.contains("secret 01ARZ3NDEKTSV4RRFFQ69G5FAV version 1"), "{found}");
        instance.service.delete(context(&instance, &token).await, delete).await.expect("deleted");
        assert_eq!(listed(&instance).await, before);
        instance.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_reaper_authenticates_no_row_that_was_changed() {
    for target in AttackedStore::both() {
        let instance = target.open().await;
        let token = issue_with(&instance, "ann", "first", ALL).await;
        put(&instance, &token, "a", &["a1", "a2"]).await;
        let table = if target.database.is_some() { "versions" } else { "pending" };
        target.sql(&format!("UPDATE {table} SET expires_at = 7 WHERE name = 'a' AND version = 1"));
        let store = instance.service.store();
        store.retire_expired(SystemClock.now(), 10).await.expect("retired");
        // The reaper does not authenticate what an attacker has written.
        assert_eq!(listed(&instance).await.len(), 2);
        assert_eq!(value(&instance, &token, "a", 1).await, None);
        assert_eq!(value(&instance, &token, "a", 0).await.as_deref(), Some("a2"));
        instance.close().await;
        assert!(target.doctor().await.contains("rows: 1 are not authentic"));
    }
}

/// The effect of a changed column. No value is served that is not one of that secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claim {
    /// It is accepted, or refused where other columns contradict it. Every key works.
    Accepted,
    /// Every key is refused, or that one.
    KeysRefused,
    /// The server does not start, or it refuses what needs that row.
    Stops,
}

/// The claim for each column. A new table or column fails the test until it is stated here.
fn claim(table: &str, column: &str) -> Claim {
    match (table, column) {
        ("api_keys", _) => Claim::KeysRefused,
        ("facts", "name" | "value") => Claim::KeysRefused,
        (
            "secrets",
            "owner" | "realm" | "name" | "id" | "description" | "tags" | "created_at" | "updated_at" | "rotated_at"
            | "version" | "kek_id" | "version_id" | "tag",
        )
        | (
            "versions",
            "id" | "secret_id" | "version" | "owner" | "realm" | "name" | "status" | "expires_at" | "kek_id"
            | "wrapped_dek" | "sealed" | "tag",
        )
        | ("pending", "owner" | "realm" | "name" | "version" | "expires_at" | "kek_id" | "version_id" | "tag")
        | ("retired", "owner" | "realm" | "name" | "version" | "expires_at" | "kek_id" | "tag")
        | ("secret_tags", "owner" | "key" | "value" | "realm" | "name")
        // No content: what servers agree by, and what is written to find out whether the store can be written.
        | ("probe", "only" | "turn")
        | ("probes", "replica" | "turn")
        | ("history", "only_row" | "epoch" | "seq")
        | ("replicas", "id" | "name" | "lease_ms" | "confirmed" | "renewals" | "program")
        | ("fences", "token" | "seq" | "at" | "owner" | "realm" | "name" | "digest") => Claim::Accepted,
        // The audit log's own test covers the head: `audit verify` finds the change.
        ("audit_head" | "audit_heads", _) => Claim::Accepted,
        ("keks", "kek_id" | "check_value") | ("internal_keys", "purpose" | "kek_id" | "wrapped") => Claim::Stops,
        ("schema_version", "only_row" | "version") => Claim::Stops,
        _ => panic!("a new column {table}.{column}: state what becomes of its changes"),
    }
}

async fn context(instance: &Instance, token: &ApiToken) -> Arc<CallContext> {
    let caller = instance.service.authenticate(Some(token.expose())).await.expect("a live key");
    Arc::new(CallContext::new(caller, admin::origin(&SystemRng)))
}

/// Stores the values of a secret, one version after the other.
async fn put(instance: &Instance, token: &ApiToken, name: &str, values: &[&str]) {
    for (at, value) in values.iter().enumerate() {
        let ctx = context(instance, token).await;
        if at == 0 {
            let create = CreateSecret { name, value, tags: vec![("env", "prod")], ..CreateSecret::default() };
            instance.service.create(ctx, create).await.expect("created");
        } else {
            let rotate = RotateSecret { name, new_value: value, ..RotateSecret::default() };
            instance.service.rotate(ctx, rotate).await.expect("rotated");
        }
    }
}

/// The value of a version; 0 is the active one. None if it is refused.
async fn value(instance: &Instance, token: &ApiToken, name: &str, version: i32) -> Option<String> {
    let caller = instance.service.authenticate(Some(token.expose())).await.ok()?;
    let ctx = CallContext::new(caller, admin::origin(&SystemRng));
    let request = GetSecretValue { name, version, ..GetSecretValue::default() };
    let revealed = instance.service.value(&ctx, request).await.ok()?;
    Some(revealed.value.expose().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_change_of_any_column_gives_another_value() {
    for target in AttackedStore::both() {
        let instance = target.open().await;
        let token = issue_with(&instance, "ann", "first", ALL).await;
        put(&instance, &token, "a", &["a1", "a2"]).await;
        put(&instance, &token, "b", &["b1", "b2"]).await;
        instance.close().await;
        let postgres = target.database.is_some();
        for (table, columns) in target.catalogue() {
            for (at, column) in columns.into_iter().enumerate() {
                let claim = claim(&table, &column);
                if claim == Claim::KeysRefused && table == "api_keys" {
                    continue; // Its own test makes every change to every column.
                }
                // A deletion is of all columns, so it is made once.
                for change in &["edited", "exchanged", "deleted"][..if at == 0 { 3 } else { 2 }] {
                    target.keep(&table);
                    if !target.change(&table, &column, change) {
                        continue; // A constraint of the schema refused it.
                    }
                    let about = format!("{table}.{column} {change}, postgres: {postgres}");
                    match Instance::open(&target.settings(), MissingStore::Refuse).await {
                        Err(error) => assert_eq!(claim, Claim::Stops, "{about}: {error:#}"),
                        Ok(instance) => {
                            let works = instance.service.authenticate(Some(token.expose())).await.is_ok();
                            assert!(works || claim != Claim::Accepted, "{about}");
                            for (name, version, right) in [
                                ("a", 0, ["a1", "a2"]),
                                ("a", 1, ["a1", "a1"]),
                                ("a", 2, ["a2", "a2"]),
                                ("b", 0, ["b1", "b2"]),
                            ] {
                                let found = value(&instance, &token, name, version).await;
                                let is_own = found.as_deref().is_none_or(|found| right.contains(&found));
                                assert!(is_own, "{about}: {name} {version} is {found:?}");
                            }
                            instance.close().await;
                        }
                    }
                    target.put_back(&table);
                }
            }
        }
        let instance = target.open().await;
        for (name, version, right) in [("a", 0, "a2"), ("a", 1, "a1"), ("b", 0, "b2"), ("b", 1, "b1")] {
            assert_eq!(
                value(&instance, &token, name, version).await.as_deref(),
                Some(right),
                "all is as it was"
            );
        }
        instance.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_kek_does_not_become_active_again() {
    for target in AttackedStore::both() {
        let instance = target.open().await;
        let file = target.settings().kek_file();
        let first = Keyring::load(&file).expect("a keyring").active().id().clone();
        let (progress, _receiver) = watch::channel(Progress::default());
        let origin = admin::origin(&SystemRng);
        let rotated = instance.service.rotate_kek(&origin, RewrapOptions::default(), progress).await;
        let second = rotated.expect("rotated").activated.id;
        instance.close().await;
        // As on a server that took the activation from the store and could not write its file.
        Keyring::activate(&file, &first).expect("written");
        target.sql(&format!("DELETE FROM keks WHERE kek_id = '{second}'"));
        let instance = target.open().await;
        let keyring = instance.service.keyring().expect("held");
        assert_eq!(keyring.active().id(), &second, "postgres: {}", target.database.is_some());
        assert_eq!(Keyring::load(&file).expect("a keyring").active().id(), &second);
        instance.close().await;
    }
}

/// A retirement does not happen before its time, and a resealing skips no version.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_forged_fact_about_keks_is_used_and_doctor_names_it() {
    for target in AttackedStore::both() {
        let instance = target.open().await;
        let token = issue_with(&instance, "ann", "first", ALL).await;
        put(&instance, &token, "a", &["a1", "a2"]).await;
        put(&instance, &token, "b", &["b1"]).await;
        let service = &instance.service;
        let origin = admin::origin(&SystemRng);
        let first = service.keyring().expect("held").active().id().clone();
        // A run ends early when its receiver is dropped.
        let (progress, _receiver) = watch::channel(Progress::default());
        let rewrap = |reseal| service.rewrap(&origin, RewrapOptions { rate: None, reseal }, progress.clone());
        let rotated = service.rotate_kek(&origin, RewrapOptions::default(), progress.clone()).await;
        rotated.expect("rotated");
        let month = std::time::Duration::from_secs(30 * 24 * 60 * 60);
        let retired = || async {
            within_longest_write(|| service.retire_kek(&origin, &first, month))
                .await
                .expect_err("too early")
                .to_string()
        };
        assert!(retired().await.contains("backups that were made before"), "the time has just begun");

        // That it wraps nothing since 1970, with the tag of the other text, another tag and none.
        for forged in [
            "UPDATE facts SET value = replace(value, ' unused 1', ' unused 0') WHERE name = 'keks'"
                .to_owned(),
            format!("UPDATE facts SET value = '{first} unused 1\n\n{}' WHERE name = 'keks'", "0".repeat(32)),
            format!("UPDATE facts SET value = '{first} unused 1\n' WHERE name = 'keks'"),
        ] {
            let refused = service.store().stats().refused;
            target.sql(&forged);
            assert!(retired().await.contains("was changed in the database"), "{forged}");
            assert!(service.store().stats().refused > refused, "it is counted");
            assert!(target.doctor().await.contains("when KEKs were last used"));
            let listed = service.list_keks(&origin).await.expect("listed");
            assert!(listed.iter().all(|kek| kek.unused_since.is_none()), "it is not shown either");
            rewrap(false).await.expect("rewrapped");
            assert_eq!(target.doctor().await, "", "the record begins again");
            assert!(retired().await.contains("backups that were made before"), "and so does the time");
        }
        target.sql("DELETE FROM facts WHERE name = 'keks'");
        assert!(retired().await.contains("backups that were made before"), "as if it had just begun");

        // That the resealing is almost done.
        let active = service.keyring().expect("held").active().id().clone();
        for position in
            [format!("{active} 1000000 ZZZZ"), format!("{active} 1000000 ZZZZ\n{}", "0".repeat(32))]
        {
            target.sql(&format!("INSERT INTO facts (name, value) VALUES ('resealed', '{position}')"));
            assert!(target.doctor().await.contains("how far a resealing is"));
            assert_eq!(rewrap(true).await.expect("resealed").resealed, 3, "every version");
            assert_eq!(target.doctor().await, "");
        }
        instance.close().await;
    }
}

/// Repeats a retirement until writes of before the rotation are done, which takes some seconds with PostgreSQL.
async fn within_longest_write<T, F: Future<Output = Result<T, agentrouter_service::KekError>>>(
    mut retire: impl FnMut() -> F,
) -> Result<T, agentrouter_service::KekError> {
    loop {
        match retire().await {
            Err(error) if error.to_string().contains("may not be done yet") => {
                tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            }
            retired => return retired,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destroyed_version_is_not_revived() {
    let [_, target] = AttackedStore::both();
    let instance = target.open().await;
    let token = issue_with(&instance, "ann", "first", ALL).await;
    put(&instance, &token, "a", &["a1"]).await;
    target.keep("versions");
    let ctx = context(&instance, &token).await;
    let rotate =
        RotateSecret { name: "a", new_value: "a2", grace_period: Some((0, 0)), ..RotateSecret::default() };
    instance.service.rotate(ctx, rotate).await.expect("rotated");
    assert_eq!(value(&instance, &token, "a", 1).await, None);
    instance.close().await;
    // The row of the secret stays, and says that version 2 is active.
    target.sql(
        "DELETE FROM versions WHERE version = 1; \
         UPDATE versions SET status = 'retired', wrapped_dek = NULL, sealed = NULL WHERE version = 2; \
         INSERT INTO versions SELECT * FROM kept; DROP TABLE kept;",
    );
    let instance = target.open().await;
    for version in [0, 1, 2] {
        assert_eq!(value(&instance, &token, "a", version).await, None, "{version}");
    }
    assert!(instance.service.store().stats().refused > 0);
    instance.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_that_are_put_back_or_deleted_are_found_in_the_audit_log() {
    for target in AttackedStore::both() {
        let instance = target.open().await;
        let token = issue_with(&instance, "ann", "first", ALL).await;
        put(&instance, &token, "a", &["a1"]).await;
        put(&instance, &token, "gone", &["g1", "g2"]).await;
        instance.close().await;
        let all = ["secrets", "versions", "pending", "retired", "secret_tags"];
        let tables: Vec<String> =
            target.catalogue().into_keys().filter(|table| all.contains(&table.as_str())).collect();
        let copy = |from: &str, to: &str| {
            for table in &tables {
                let (from, to) = (format!("{from}{table}"), format!("{to}{table}"));
                target.sql(&format!("DROP TABLE IF EXISTS {to}; CREATE TABLE {to} AS SELECT * FROM {from};"));
            }
        };
        let put_back = |from: &str| {
            for table in &tables {
                target.sql(&format!("DELETE FROM {table}; INSERT INTO {table} SELECT * FROM {from}{table};"));
            }
        };
        copy("", "before_");
        let instance = target.open().await;
        let rotate = RotateSecret { name: "a", new_value: "a2", ..RotateSecret::default() };
        instance.service.rotate(context(&instance, &token).await, rotate).await.expect("rotated");
        let delete = DeleteSecret { name: "gone", ..DeleteSecret::default() };
        instance.service.delete(context(&instance, &token).await, delete).await.expect("deleted");
        instance.close().await;
        copy("", "after_");
        let later = SystemClock.now().saturating_add(std::time::Duration::from_secs(120));
        assert_eq!(target.doctor_at(later).await, "");

        put_back("before_");
        let instance = target.open().await;
        assert_eq!(value(&instance, &token, "a", 0).await.as_deref(), Some("a1"), "served until it is found");
        instance.close().await;
        let found = target.doctor_at(later).await;
        assert!(found.contains("has version 1, and record"), "{found}");
        assert!(found.contains("is there, and record"), "{found}");

        put_back("after_");
        assert_eq!(target.doctor_at(later).await, "");
        for table in &tables {
            target.sql(&format!("DELETE FROM {table}"));
        }
        let found = target.doctor_at(later).await;
        // On PostgreSQL another server may have deleted it.
        assert_eq!(found.contains("is missing, which left version 2"), target.database.is_none(), "{found}");
    }
}

fn copy(from: &Path, to: &Path, names: &[&str]) {
    for name in names.iter().filter(|name| from.join(name).exists()) {
        std::fs::copy(from.join(name), to.join(name)).expect("copied");
    }
}
