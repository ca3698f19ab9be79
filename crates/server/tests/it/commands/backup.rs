//! `backup`, `backup verify`, `restore` and `migrate`, as an operator uses them.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use agentrouter_crypto::{SystemRng, seal};
use agentrouter_keyring::Keyring;
use agentrouter_model::{
    Owner, Place, Realm, Secret, SecretId, SecretName, SecretValue, Slot, Status, SystemClock, Tags,
    Timestamp, Version,
};
use agentrouter_sqlite::SqliteStore;
use agentrouter_store::Stored;
use agentrouter_store::portable::Item;
use agentrouter_store::prelude::*;
use agentrouter_testkit::ServerProcess;
use rustix::process::Signal;

use super::run;
use crate::support::{Dice, Server, binary};

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// A directory for a restore: private, with the KEK file of another one.
fn empty_with_keks(dir: &Path, name: &str, from: &Path) -> PathBuf {
    let data = dir.join(name);
    std::fs::create_dir(&data).expect("made");
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o700)).expect("set");
    std::fs::copy(from.join("kek.json"), data.join("kek.json")).expect("copied");
    data
}

fn list(server: &Server, query: &str) -> serde_json::Value {
    let reply = server.call("GET", &format!("/v1/secrets?{query}"), "");
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json()
}

fn value(server: &Server, name: &str, version: i32) -> String {
    let body = format!(r#"{{"realm":"mcp","version":{version}}}"#);
    let reply = server.call("POST", &format!("/v1/secrets/{name}/value"), &body);
    reply.json()["value"].as_str().map_or_else(|| reply.reason(), str::to_owned)
}

#[test]
fn a_backup_made_beside_a_server_is_restored_elsewhere_and_everything_is_there() {
    let server = Server::start();
    let dir = tempfile::tempdir().expect("a directory");
    for name in ["a", "b", "c"] {
        let body = format!(r#"{{"name":"{name}","realm":"mcp","value":"v-{name}","tags":{{"env":"prod"}}}}"#);
        assert_eq!(server.call("POST", "/v1/secrets", &body).status, 200);
    }
    for (name, grace) in [("a", "3600s"), ("b", "1s")] {
        let body = format!(r#"{{"realm":"mcp","new_value":"w-{name}","grace_period":"{grace}"}}"#);
        assert_eq!(server.call("POST", &format!("/v1/secrets/{name}/rotate"), &body).status, 200);
    }
    let token = list(&server, "page_size=1")["next_page_token"].as_str().expect("a token").to_owned();
    let file = dir.path().join("b1");
    let data = server.process.data_dir().to_owned();
    let said = run(&data, &["backup", text(&file)]).done();
    assert!(said.contains("3 secret(s) in 5 version(s), 1 API key(s), made at 20"), "{said}");
    assert_eq!(std::fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
    let written = std::fs::read_to_string(&file).expect("text");
    let keks = std::fs::read_to_string(data.join("kek.json")).expect("text");
    let kek = serde_json::from_str::<serde_json::Value>(&keks).expect("JSON").to_string();
    for piece in kek.split('"').filter(|piece| piece.len() > 40) {
        assert!(!written.contains(piece), "no KEK is in a backup");
    }
    assert!(!written.contains("v-a") && !written.contains(&server.key[17..]), "nor a value, nor a key");
    let log = server.written();
    assert_eq!(log.matches("\"rpc\":\"Backup\"").count(), 2, "an attempt and an outcome are on record");

    // Writes after the backup are not in it.
    assert_eq!(server.call("DELETE", "/v1/secrets/c?realm=mcp", "").status, 200);
    let error = run(&data, &["backup", text(&file)]).refused(1);
    assert!(error.contains("is there already"), "{error}");
    assert_eq!(std::fs::read_to_string(&file).expect("text"), written);

    let said = run(&data, &["backup", "verify", text(&file)]).done();
    assert!(said.contains(": complete and authentic; 3 secret(s)"), "{said}");
    let elsewhere = run(dir.path(), &["backup", "verify", text(&file)]);
    assert!(elsewhere.err.contains("--kek-file"), "{elsewhere:?}");
    let said = elsewhere.done();
    assert!(said.contains(": complete; 3 secret(s)"), "{said}");
    let error = run(&data, &["restore", text(&file)]).refused(1);
    assert!(error.contains("is in use by process"), "{error}");

    // Without the KEK file the command makes nothing.
    let new = dir.path().join("new");
    let error = run(&new, &["restore", text(&file)]).refused(1);
    let id = serde_json::from_str::<serde_json::Value>(&keks).expect("JSON");
    assert!(
        error.contains("the backup needs the KEK file with 'kek-") && error.contains("--kek-file"),
        "{error} {id}"
    );
    assert!(!new.exists());

    let new = empty_with_keks(dir.path(), "new", &data);
    std::thread::sleep(Duration::from_secs(1));
    let said = run(&new, &["restore", text(&file)]).done();
    assert!(said.starts_with("restored into ") && said.contains("3 secret(s) in 5 version(s)"), "{said}");
    let error = run(&new, &["restore", text(&file)]).refused(1);
    assert!(error.contains("there is a store in"), "{error}");
    assert!(run(&new, &["audit", "verify"]).done().ends_with(": the chain is whole\n"));
    assert!(run(&new, &["doctor"]).code == Some(0), "{:?}", run(&new, &["doctor"]));
    let audit = std::fs::read_to_string(new.join("audit/audit.jsonl")).expect("a log");
    assert_eq!(audit.matches("\"rpc\":\"Restore\"").count(), 2, "{audit}");

    let process = ServerProcess::start(binary(), &new, &[]);
    let again = Server::of_restored(process, &server.key);
    let names: Vec<_> = list(&again, "realm=mcp&tags%5Benv%5D=prod")["secrets"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|secret| secret["name"].clone())
        .collect();
    assert_eq!(names, ["a", "b", "c"], "what was deleted after the backup is back");
    assert_eq!((value(&again, "a", 0), value(&again, "a", 1)), ("w-a".to_owned(), "v-a".to_owned()));
    assert_eq!(value(&again, "b", 1), "SECRET_NOT_FOUND", "its grace ended meanwhile");
    assert_eq!(value(&again, "c", 0), "v-c");
    let old = again.call("GET", &format!("/v1/secrets?page_size=1&page_token={token}"), "");
    assert_eq!(old.reason(), "PAGE_TOKEN_INVALID", "tokens of before the restore are not taken: {old:?}");
    let validated = again.call("POST", "/v1/secrets/a/validate", r#"{"realm":"mcp"}"#);
    assert_eq!(validated.json()["valid"], true, "{validated:?}");
}

#[test]
fn a_kek_that_the_server_does_not_use_yet_is_not_in_a_backup() {
    let server = Server::start();
    let dir = tempfile::tempdir().expect("a directory");
    let data = server.process.data_dir().to_owned();
    let kept = dir.path().join("kept.json");
    std::fs::copy(data.join("kek.json"), &kept).expect("copied");
    Keyring::rotate(&data.join("kek.json"), &SystemClock, &SystemRng).expect("a new key");
    let file = dir.path().join("b");
    run(&data, &["backup", text(&file)]).done();
    let said = run(&data, &["backup", "verify", text(&file), "--kek-file", text(&kept)]).done();
    assert!(said.contains(": complete and authentic; "), "{said}");
}

#[test]
fn a_damaged_backup_restores_nothing() {
    let server = Server::start();
    let dir = tempfile::tempdir().expect("a directory");
    let data = server.process.data_dir().to_owned();
    let file = dir.path().join("b");
    run(&data, &["backup", text(&file)]).done();
    let whole = std::fs::read(&file).expect("read");
    // In the row of a key, which has the user.
    let at = whole.windows(7).position(|bytes| bytes == b"\"admin\"").expect("a key") + 1;
    for (what, bytes) in [
        ("is cut short", whole[..whole.len() / 2].to_vec()),
        ("is damaged", [&whole[..at], b"x", &whole[at + 1..]].concat()),
        ("is no backup of this program", b"not a backup\n".to_vec()),
    ] {
        std::fs::write(&file, bytes).expect("written");
        for args in [&["backup", "verify", text(&file)][..], &["restore", text(&file)]] {
            let new = dir.path().join("new");
            std::fs::create_dir(&new).expect("made");
            std::fs::copy(data.join("kek.json"), new.join("kek.json")).expect("copied");
            let error = run(&new, args).refused(1);
            assert!(error.contains(what), "{args:?}: {error}");
            let left: Vec<_> =
                std::fs::read_dir(&new).expect("listed").flatten().map(|e| e.file_name()).collect();
            assert_eq!(left, ["kek.json"], "{args:?}");
            std::fs::remove_dir_all(&new).expect("removed");
        }
    }
}

/// The number of secrets in the stores of the crash tests.
const MANY: u64 = 4_000;

/// A data directory with that many secrets of two versions each, made without a server.
fn filled(dir: &Path) -> PathBuf {
    let data = dir.join("data");
    // A first start creates the store, so that it is one that a server has served.
    assert!(Server::on(&data).process.stop().success());
    let keyring = Keyring::load(&data.join("kek.json")).expect("a keyring");
    let path = dir.join("filled.db");
    let (source, target) = (data.join("secrets.db"), path.clone());
    // On a thread that ends: a thread keeps its connections, and their index of the log would outlive the moved file.
    let filling = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async move {
            let source = SqliteStore::open(&source, &SystemClock).expect("opened");
            let target = SqliteStore::open(&target, &SystemClock).expect("opened");
            let mut items = source.export().await.expect("started").next(10).await.expect("read");
            items.extend((0..MANY).flat_map(|number| secret(&keyring, number)));
            target.begin_import("test").await.expect("started");
            target.import(0, items).await.expect("taken");
            target.finish_import(None).await.expect("finished");
            // It stands for a store that has always been in this directory.
            let head = source.audit_head().await.expect("read").expect("a head");
            target.set_audit_head(head).await.expect("kept");
            source.close().await;
            target.close().await;
        });
    });
    filling.join().expect("filled");
    std::fs::rename(&path, data.join("secrets.db")).expect("moved");
    // The keys in it are authenticated at the next start, as those of an older program.
    std::fs::remove_file(data.join("key-manifest")).expect("removed");
    assert!(Server::on(&data).process.stop().success());
    data
}

fn secret(keyring: &Keyring, number: u64) -> [Item; 3] {
    let kek = keyring.active();
    let now = Timestamp::from_micros(1_700_000_000_000_000);
    let secret = Secret {
        id: SecretId::generate(&SystemClock, &SystemRng).expect("an id"),
        place: Place {
            owner: Owner::parse("admin").expect("an owner"),
            realm: Realm::parse("mcp").expect("a realm"),
            name: SecretName::parse(&format!("n{number:06}")).expect("a name"),
        },
        description: Default::default(),
        tags: Tags::parse([("env", "prod")]).expect("tags"),
        status: Status::Active,
        version: Version::new(2).expect("a number"),
        created_at: now,
        updated_at: now,
        rotated_at: None,
        expires_at: None,
        kek_id: kek.id().clone(),
    };
    let value = SecretValue::parse(format!("value {number}")).expect("a value");
    let slot = Slot { place: &secret.place, id: secret.id, version: secret.version };
    let envelope = Some(seal(&SystemRng, kek, slot, &value).expect("seals"));
    let retired = Secret { version: Version::FIRST, status: Status::Retired, ..secret.clone() };
    [
        Item::Secret(Box::new(secret.clone())),
        Item::Version(Box::new(Stored { secret: retired, envelope: None })),
        Item::Version(Box::new(Stored { secret, envelope })),
    ]
}

/// Starts a command and kills it after a delay. Returns whether it was still running.
fn killed(dir: &Path, args: &[&str], after: Duration) -> bool {
    let mut command = Command::new(binary());
    command.args(args).arg("--data-dir").arg(dir).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().expect("it starts");
    std::thread::sleep(after);
    let running = child.try_wait().expect("its state").is_none();
    let _ = child.kill();
    child.wait().expect("it ends");
    running
}

/// Runs a restore or a migration that its limit on the size of files kills when the store has a part of the data.
fn killed_in_the_middle(dir: &Path, args: &[&str], database: &Path) {
    // In blocks of 512 bytes: the log of the database grows over it with the second part of the import.
    let limit = r#"ulimit -f 2400 && exec "$0" "$@""#;
    let mut command = Command::new("sh");
    command.args(["-c", limit]).arg(binary()).args(args).arg("--data-dir").arg(dir);
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status().expect("it runs");
    assert_eq!(status.signal(), Some(Signal::XFSZ.as_raw()), "{status}");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let store = SqliteStore::open_read_only(database).expect("a store");
    let import = runtime.block_on(store.unfinished_import()).expect("read").expect("an import");
    assert!(import.done > 0, "it has a part of the data");
}

/// The items of a backup, without those of the file itself.
fn items(file: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).expect("text");
    let lines: Vec<&str> = text.lines().collect();
    lines[1..lines.len() - 2].iter().map(|line| (*line).to_owned()).collect()
}

#[test]
fn a_killed_backup_leaves_no_file_under_its_name() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = filled(dir.path());
    let server = Server::on(&data);
    let mut dice = Dice(7);
    let mut cut_short = 0;
    for round in 0..30 {
        let file = dir.path().join(format!("b{round}"));
        if killed(&data, &["backup", text(&file)], Duration::from_micros(1_000 + dice.below(400_000))) {
            cut_short += 1;
        }
        // Killed before or after it was done: a file of that name is complete.
        if file.exists() {
            run(&data, &["backup", "verify", text(&file)]).done();
        }
    }
    assert!(cut_short > 3, "{cut_short}");
    // Nothing blocks the next backup, and nothing was lost.
    let file = dir.path().join("last");
    let said = run(&data, &["backup", text(&file)]).done();
    assert!(said.contains(&format!("{MANY} secret(s) in {} version(s)", 2 * MANY)), "{said}");
    assert_eq!(value(&server, "n000007", 0), "value 7");
    assert!(run(&data, &["audit", "verify"]).done().ends_with(": the chain is whole\n"));
}

#[test]
fn a_killed_restore_is_not_served_and_continues_to_the_same_end() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = filled(dir.path());
    let file = dir.path().join("backup");
    run(&data, &["backup", text(&file)]).done();
    // Once when it is known to be in progress, then at random moments.
    let new = empty_with_keks(dir.path(), "new", &data);
    killed_in_the_middle(&new, &["restore", text(&file)], &new.join("secrets.db"));
    let log = std::fs::read_to_string(new.join("audit/audit.jsonl")).expect("a log");
    assert!(
        log.contains("\"rpc\":\"Restore\",\"phase\":\"attempt\""),
        "it is on record before it is done: {log}"
    );
    let (mut dice, mut unfinished) = (Dice(11), 0);
    for round in 0..200 {
        let after = Duration::from_millis(150 + 60 * round + dice.below(250 + 60 * round));
        if round > 0 && !killed(&new, &["restore", text(&file)], after) {
            break;
        }
        let refused = run(&new, &["key", "list"]);
        if refused.code == Some(1) && refused.err.contains("an import into the store is not finished") {
            unfinished += 1;
            let start = run(&new, &["serve", "--listen", "127.0.0.1:0"]).refused(1);
            assert!(start.contains("an import into the store is not finished"), "{start}");
            let doctor = run(&new, &["doctor"]);
            assert!(doctor.code == Some(1) && doctor.out.contains("FAIL  import"), "{doctor:?}");
            let other = run(&new, &["restore", text(&other_backup(dir.path(), &data))]).refused(1);
            assert!(other.contains("an import into the store is not finished"), "{other}");
        }
    }
    assert!(unfinished > 0, "no kill came in the middle");
    // Done before, or completed by this run.
    let last = run(&new, &["restore", text(&file)]);
    assert!(last.code == Some(0) || last.err.contains("there is a store in"), "{last:?}");
    let again = dir.path().join("again");
    run(&new, &["backup", text(&again)]).done();
    assert!(items(&file) == items(&again), "what was restored is what was backed up");
    let server = Server::of_restored(ServerProcess::start(binary(), &new, &[]), &Server::key_in(&data));
    assert_eq!(value(&server, "n000007", 0), "value 7");
    assert!(run(&new, &["audit", "verify"]).done().ends_with(": the chain is whole\n"));
}

/// Another backup of the same store, made once.
fn other_backup(dir: &Path, data: &Path) -> PathBuf {
    let file = dir.join("other");
    if !file.exists() {
        run(data, &["backup", text(&file)]).done();
    }
    file
}

#[test]
fn a_killed_move_leaves_the_old_store_unchanged_and_continues_to_the_same_end() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = filled(dir.path());
    let from = format!("sqlite://{}", text(&data.join("secrets.db")));
    let target = dir.path().join("target.db");
    let to = format!("sqlite://{}", text(&target));
    let args = ["migrate", "--from", &from, "--to", &to];
    {
        let server = Server::on(&data);
        let error = run(&data, &args).refused(1);
        assert!(error.contains("is in use by process"), "{error}");
        assert!(server.process.stop().success());
    }
    let before = std::fs::read(data.join("secrets.db")).expect("read");
    let (mut dice, mut cut_short) = (Dice(13), 0);
    for round in 0..200 {
        let after = Duration::from_millis(100 + dice.below(200 + 40 * round));
        if killed(&data, &args, after) {
            cut_short += 1;
        } else if cut_short > 0 {
            break;
        } else {
            // On a busy machine it may have finished before the first kill. Then it starts again from the beginning.
            for name in ["target.db", "target.db-wal", "target.db-shm"] {
                let _ = std::fs::remove_file(dir.path().join(name));
            }
        }
        assert!(
            std::fs::read(data.join("secrets.db")).expect("read") == before,
            "the old store is as it was"
        );
    }
    assert!(cut_short > 0);
    let last = run(&data, &args);
    assert!(last.code == Some(0) || last.err.contains("is not empty"), "{last:?}");
    assert!(std::fs::read(data.join("secrets.db")).expect("read") == before, "the old store is as it was");
    let audit = std::fs::read_to_string(data.join("audit/audit.jsonl")).expect("a log");
    assert!(audit.contains("\"rpc\":\"Migrate\""), "it is on record");

    let file = dir.path().join("before");
    run(&data, &["backup", text(&file)]).done();
    std::fs::rename(data.join("secrets.db"), dir.path().join("old.db")).expect("moved");
    std::fs::rename(&target, data.join("secrets.db")).expect("moved");
    let server = Server::on(&data);
    assert_eq!(value(&server, "n003999", 0), "value 3999");
    let again = dir.path().join("after");
    run(&data, &["backup", text(&again)]).done();
    assert!(items(&file) == items(&again), "what was moved is what was there");
    assert!(run(&data, &["audit", "verify"]).done().ends_with(": the chain is whole\n"));
}

#[test]
fn a_move_that_cannot_start_names_the_reason() {
    let server = Server::start();
    let data = server.process.data_dir().to_owned();
    assert!(server.process.stop().success());
    let good = format!("sqlite://{}", text(&data.join("secrets.db")));
    let none = format!("sqlite://{}", text(&data.join("none.db")));
    for (from, to, what) in [
        ("secrets.db", good.as_str(), "--from must be a URL such as sqlite:///"),
        (good.as_str(), "file:///x", "--to must be a URL such as sqlite:///"),
        (none.as_str(), good.as_str(), "the store to move from cannot be used"),
        (good.as_str(), good.as_str(), "is in use by process"),
    ] {
        let error = run(&data, &["migrate", "--from", from, "--to", to]).refused(1);
        assert!(error.contains(what), "{from} {to}: {error}");
    }
    assert!(!data.join("none.db").exists());
    let seen = "postgres://u:canary@127.0.0.1:1/d";
    let error = run(&data, &["migrate", "--from", &good, "--to", seen]).refused(1);
    assert!(error.contains("can read the password in --to;") && !error.contains("canary"), "{error}");

    // A store that no server has ever opened is empty, and has no key for the audit log.
    let (new, target) = (data.join("new.db"), data.join("target.db"));
    drop(SqliteStore::open(&new, &SystemClock).expect("a store"));
    let (from, to) = (format!("sqlite://{}", text(&new)), format!("sqlite://{}", text(&target)));
    let error = run(&data, &["migrate", "--from", &from, "--to", &to]).refused(1);
    assert!(error.contains("was never served: there is nothing to move"), "{error}");
    assert!(!target.exists());
}

#[test]
fn a_restore_that_cannot_be_audited_does_not_start() {
    let server = Server::start();
    let data = server.process.data_dir().to_owned();
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("b");
    run(&data, &["backup", text(&file)]).done();
    let new = empty_with_keks(dir.path(), "new", &data);
    std::fs::write(new.join("audit"), "in the way").expect("written");
    let error = run(&new, &["restore", text(&file)]).refused(1);
    assert!(error.contains("audit"), "{error}");
    let store = SqliteStore::open_read_only(&new.join("secrets.db")).expect("a store");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    assert_eq!(runtime.block_on(store.unfinished_import()).expect("read"), None, "nothing was started");
    assert_eq!(runtime.block_on(store.kek_checks()).expect("read"), [], "nor done");
    drop(store);
    std::fs::remove_file(new.join("audit")).expect("removed");
    run(&new, &["restore", text(&file)]).done();
    // A pipe cannot be read twice.
    let pipe = dir.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs").success());
    let other = empty_with_keks(dir.path(), "other", &data);
    let error = run(&other, &["restore", text(&pipe)]).refused(1);
    assert!(error.contains("is no regular file"), "{error}");
    assert!(!other.join("secrets.db").exists());
}

#[test]
fn a_damaged_secret_is_left_out_of_a_backup_and_stops_a_move() {
    let server = Server::start();
    let data = server.process.data_dir().to_owned();
    for name in ["a", "b", "c"] {
        let body = format!(r#"{{"name":"{name}","realm":"mcp","value":"v-{name}"}}"#);
        assert_eq!(server.call("POST", "/v1/secrets", &body).status, 200);
    }
    let key = server.key.clone();
    assert!(server.process.stop().success());
    let conn = rusqlite::Connection::open(data.join("secrets.db")).expect("opened");
    conn.execute_batch("UPDATE secrets SET tags = '[' WHERE name = 'b'").expect("damaged");
    let id: String =
        conn.query_row("SELECT id FROM secrets WHERE name = 'b'", (), |row| row.get(0)).expect("its id");
    drop(conn);

    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("b");
    let made = run(&data, &["backup", text(&file)]);
    assert_eq!(made.code, Some(1), "{made:?}");
    assert!(made.out.contains("2 secret(s) in 2 version(s)"), "{made:?}");
    assert!(made.err.contains(&format!("not in the backup: secret {id}")), "{made:?}");
    run(&data, &["backup", "verify", text(&file)]).done();
    let new = empty_with_keks(dir.path(), "new", &data);
    run(&new, &["restore", text(&file)]).done();
    let restored = Server::of_restored(ServerProcess::start(binary(), &new, &[]), &key);
    assert_eq!((value(&restored, "a", 0), value(&restored, "c", 0)), ("v-a".to_owned(), "v-c".to_owned()));
    assert_eq!(value(&restored, "b", 0), "SECRET_NOT_FOUND");

    let from = format!("sqlite://{}", text(&data.join("secrets.db")));
    let target = dir.path().join("target.db");
    let to = format!("sqlite://{}", text(&target));
    let args = ["migrate", "--from", &from, "--to", &to];
    let error = run(&data, &args).refused(1);
    assert!(error.contains(&format!("cannot be moved: secret {id}")), "{error}");
    // The damage is removed, and the migration continues.
    let server = Server::of_restored(ServerProcess::start(binary(), &data, &[]), &key);
    assert_eq!(server.call("DELETE", "/v1/secrets/b?realm=mcp", "").status, 200);
    assert!(server.process.stop().success());
    let said = run(&data, &args).done();
    assert!(said.contains("moved and compared: 2 secret(s) in 2 version(s)"), "{said}");
}

#[test]
fn a_backup_without_any_key_because_none_is_authentic_exits_with_1() {
    let server = Server::start();
    let data = server.process.data_dir().to_owned();
    let body = r#"{"name":"a","realm":"mcp","value":"v"}"#;
    assert_eq!(server.call("POST", "/v1/secrets", body).status, 200);
    let dir = tempfile::tempdir().expect("a directory");
    let file = |name: &str| dir.path().join(name);
    run(&data, &["backup", text(&file("before"))]).done();
    // The manifest is edited, and removed.
    let conn = rusqlite::Connection::open(data.join("secrets.db")).expect("opened");
    conn.execute("UPDATE facts SET value = value || 'x' WHERE name = 'keys'", ()).expect("edited");
    let lacks_keys = |name: &str| {
        let made = run(&data, &["backup", text(&file(name))]);
        assert_eq!(made.code, Some(1), "{made:?}");
        assert!(made.out.contains("1 secret(s) in 1 version(s), 0 API key(s)"), "{made:?}");
        assert!(made.err.contains("error: the store has API keys, and none is in the backup"), "{made:?}");
        assert!(made.err.contains("hint: run 'doctor'"), "{made:?}");
        run(&data, &["backup", "verify", text(&file(name))]).done();
    };
    lacks_keys("beside");
    assert!(server.process.stop().success());
    conn.execute("DELETE FROM facts WHERE name = 'keys'", ()).expect("removed");
    drop(conn);
    lacks_keys("without");
}

#[test]
fn a_move_copies_exactly_the_store_and_detects_a_change_meanwhile() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = filled(dir.path());
    // A KEK that no server has used.
    Keyring::rotate(&data.join("kek.json"), &SystemClock, &SystemRng).expect("a new key");
    let from = format!("sqlite://{}", text(&data.join("secrets.db")));
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let checks = |path: &Path| {
        let store = SqliteStore::open_read_only(path).expect("a store");
        runtime.block_on(store.kek_checks()).expect("read")
    };
    let whole = dir.path().join("whole.db");
    let to = format!("sqlite://{}", text(&whole));
    run(&data, &["migrate", "--from", &from, "--to", &to]).done();
    assert_eq!(checks(&whole), checks(&data.join("secrets.db")));

    // A migration that is interrupted, and whose source is served and changed before the next attempt.
    let to = |target: &Path| format!("sqlite://{}", text(target));
    let half = dir.path().join("half.db");
    killed_in_the_middle(&data, &["migrate", "--from", &from, "--to", &to(&half)], &half);
    let server = Server::on(&data);
    let body = r#"{"name":"a","realm":"mcp","value":"comes first"}"#;
    assert_eq!(server.call("POST", "/v1/secrets", body).status, 200);
    assert!(server.process.stop().success());
    // The server has used the new KEK, which makes it another store.
    let error = run(&data, &["migrate", "--from", &from, "--to", &to(&half)]).refused(1);
    assert!(error.contains("an import into the store is not finished"), "{error}");
    let half = dir.path().join("half2.db");
    killed_in_the_middle(&data, &["migrate", "--from", &from, "--to", &to(&half)], &half);
    let server = Server::on(&data);
    assert_eq!(server.call("DELETE", "/v1/secrets/a?realm=mcp", "").status, 200);
    assert!(server.process.stop().success());
    let error = run(&data, &["migrate", "--from", &from, "--to", &to(&half)]).refused(1);
    assert!(error.contains("differs from what should be"), "{error}");
    std::fs::remove_file(&half).expect("removed");
    for suffix in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", text(&half)));
    }
    run(&data, &["migrate", "--from", &from, "--to", &to(&half)]).done();
}

#[test]
fn a_move_refuses_the_data_directory_of_a_running_server() {
    let other = Server::start();
    let from = format!("sqlite://{}", text(&other.data("secrets.db")));
    let server = Server::start();
    let data = server.process.data_dir().to_owned();
    let kek = other.data("kek.json");
    assert!(other.process.stop().success());
    let to = format!("sqlite://{}", text(&data.join("new.db")));
    let args = ["migrate", "--from", &from, "--to", &to, "--kek-file", text(&kek)];
    let error = run(&data, &args).refused(1);
    assert!(
        error.contains("the data directory cannot be used") && error.contains("in use by process"),
        "{error}"
    );
    assert!(run(&data, &["audit", "verify"]).done().ends_with(": the chain is whole\n"));
}

#[test]
fn a_backup_to_standard_output_is_the_backup_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = crate::support::Server::on(&dir.path().join("data"));
    let create = r#"{"name":"a","realm":"mcp","value":"v"}"#;
    assert_eq!(server.call("POST", "/v1/secrets", create).status, 200);
    let output = std::process::Command::new(crate::support::binary())
        .args(["backup", "-", "--data-dir", "data"])
        .current_dir(dir.path())
        .output()
        .expect("the binary runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 secret(s) in 1 version(s)"), "{said}");
    assert!(!dir.path().join("-").exists());
    let file = dir.path().join("b");
    std::fs::write(&file, &output.stdout).expect("written");
    let verified =
        super::run(server.process.data_dir(), &["backup", "verify", file.to_str().expect("UTF-8")]);
    assert!(verified.done().contains("complete and authentic"));
}

#[test]
fn a_backup_that_is_interrupted_leaves_no_file_and_is_recorded() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let server = crate::support::Server::on(&data);
    for i in 0..300 {
        let body = format!(r#"{{"name":"k{i}","realm":"mcp","value":"{}"}}"#, "v".repeat(30_000));
        assert_eq!(server.call("POST", "/v1/secrets", &body).status, 200);
    }
    let (file, partial) = (dir.path().join("b"), dir.path().join("b.partial"));
    let mut interrupted = false;
    // Repeated while the backup was faster than the signal.
    for _ in 0..20 {
        let mut child = std::process::Command::new(crate::support::binary())
            .arg("backup")
            .arg(&file)
            .arg("--data-dir")
            .arg(&data)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("the binary runs");
        while !partial.exists() && child.try_wait().expect("its state").is_none() {
            std::thread::yield_now();
        }
        let pid = rustix::process::Pid::from_child(&child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        let status = child.wait().expect("it ends");
        assert!(!partial.exists(), "{status}");
        if !file.exists() {
            assert_eq!(status.code(), Some(1), "it ends in order");
            interrupted = true;
            break;
        }
        std::fs::remove_file(&file).expect("removed");
    }
    assert!(interrupted, "no signal came in time");
    let log = std::fs::read_to_string(data.join("audit/audit.jsonl")).expect("read");
    let backups: Vec<&str> = log.lines().filter(|line| line.to_lowercase().contains("backup")).collect();
    assert!(backups.len() >= 2 && backups.len().is_multiple_of(2), "an attempt and an outcome: {backups:?}");
}
