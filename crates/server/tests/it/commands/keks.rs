//! `kek`, beside a running server and without one, and with kills at any point.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use agentrouter_keyring::Keyring;
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

use super::{CommandRun, run};
use crate::support::{Server, binary, within};

/// The limit for each wait: an event of another process, on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

fn create(server: &Server, name: &str, value: &str) {
    let body = format!(r#"{{"name":"{name}","value":"{value}"}}"#);
    assert_eq!(server.call("POST", "/v1/secrets", &body).status, 200);
}

fn value(server: &Server, name: &str) -> String {
    let body = r#"{"user_id":"admin"}"#;
    let reply = server.call("POST", &format!("/v1/secrets/{name}/value"), body);
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json()["value"].as_str().expect("a value").to_owned()
}

fn kek_of(server: &Server, name: &str) -> String {
    let reply = server.call("GET", &format!("/v1/secrets/{name}"), "");
    reply.json()["secret"]["kek_id"].as_str().expect("an id").to_owned()
}

/// The ids of the KEKs in a state, as listed.
fn in_state(data: &Path, state: &str) -> Vec<String> {
    let listed = run(data, &["kek", "list"]).done();
    let rows = listed.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row[1] == state).map(|row| row[0].to_owned()).collect()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// How many sealed values are under a KEK, read beside the process that serves the store.
fn values_under(data: &Path, kek: &str) -> u64 {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    let conn = Connection::open_with_flags(data.join("secrets.db"), flags).expect("opened");
    let count =
        conn.query_row("SELECT count(*) FROM versions WHERE kek_id = ?1", [kek], |row| row.get::<_, i64>(0));
    u64::try_from(count.expect("counted")).expect("a count")
}

#[test]
fn the_kek_is_changed_beside_a_server_and_without_one_and_backups_name_the_one_they_need() {
    let server = Server::start();
    let data = server.process.data_dir().to_owned();
    let dir = tempfile::tempdir().expect("a directory");
    for name in ["a", "b"] {
        create(&server, name, &format!("value of {name}"));
    }
    let first = kek_of(&server, "a");
    assert_eq!(in_state(&data, "active"), [first.as_str()]);
    let old = dir.path().join("old");
    run(&data, &["backup", text(&old)]).done();

    let ran = run(&data, &["kek", "rotate"]);
    let note = "copy the KEK file to every other server on the same database, and keep a copy of it apart from the backups\n";
    assert_eq!(ran.err, note);
    let said = ran.done();
    let second = in_state(&data, "active").remove(0);
    assert_eq!(said, format!("KEK {second} is active: 4 key(s) were wrapped with it\n"));
    assert_eq!(in_state(&data, "former"), [first.as_str()]);
    assert_eq!((kek_of(&server, "a"), value(&server, "a")), (second.clone(), "value of a".to_owned()));
    let metrics = server.call("GET", "/metrics", "");
    let metrics = metrics.body;
    assert!(metrics.contains("\nagentrouter_secrets_kek_rewrap_keys_total 4\n"), "{metrics}");
    assert!(metrics.contains("\nagentrouter_secrets_kek_missing 0\n"), "{metrics}");
    let new = dir.path().join("new");
    run(&data, &["backup", text(&new)]).done();

    // A backup of before the rotation restores as long as the KEK is there.
    run(&data, &["backup", "verify", text(&old)]).done();
    let again = dir.path().join("again");
    std::fs::create_dir(&again).expect("made");
    std::fs::copy(data.join("kek.json"), again.join("kek.json")).expect("copied");
    run(&again, &["restore", text(&old)]).done();
    assert_eq!(run(&again, &["doctor"]).code, Some(0));

    let refused = run(&data, &["kek", "retire", &second]).refused(1);
    assert!(refused.contains("is active"), "{refused}");
    let refused = run(&data, &["kek", "retire", &first]).refused(1);
    assert!(refused.contains("backups that were made before") && refused.contains(&first), "{refused}");
    assert!(refused.contains("hint: run this again after"), "{refused}");
    let refused = run(&data, &["kek", "activate", &first]).refused(1);
    assert!(refused.contains("is older than the active KEK"), "{refused}");
    run(&data, &["kek", "retire", &first, "--backup-retention", "0s"]).done();
    assert_eq!(in_state(&data, "retired"), [first.as_str()]);
    assert!(!std::fs::read_to_string(data.join("kek.json")).expect("read").contains(&first));
    for args in [&["backup", "verify", text(&old)][..], &["restore", text(&old)]] {
        let target = dir.path().join("target");
        std::fs::create_dir(&target).expect("made");
        std::fs::copy(data.join("kek.json"), target.join("kek.json")).expect("copied");
        let refused = run(&target, args).refused(1);
        assert!(refused.contains(&format!("the backup needs KEK '{first}'")), "{refused}");
        std::fs::remove_dir_all(&target).expect("removed");
    }
    run(&data, &["backup", "verify", text(&new)]).done();
    assert!(run(&data, &["doctor"]).done().ends_with("\nall is well\n"));

    assert!(server.process.stop().success());
    run(&data, &["kek", "add"]).done();
    let third = in_state(&data, "added").remove(0);
    assert_eq!(run(&data, &["kek", "activate"]).code, Some(0));
    let said = run(&data, &["kek", "rewrap", "--reseal"]).done();
    assert!(said.contains(&third) && said.contains("; 2 value(s) were sealed again"), "{said}");
    assert!(run(&data, &["audit", "verify"]).done().ends_with(": the chain is whole\n"));
    let server = Server::on(&data);
    assert_eq!((kek_of(&server, "b"), value(&server, "b")), (third.clone(), "value of b".to_owned()));

    assert_recorded(&data, &first, &second, &third);
}

/// The audit log has the attempt and the outcome of each command, with its KEK.
fn assert_recorded(data: &Path, first: &str, second: &str, third: &str) {
    let audit = std::fs::read_to_string(data.join("audit/audit.jsonl")).expect("read");
    let records: Vec<Value> = audit.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let of = |rpc: &str| {
        let records = records.iter().filter(|record| record["rpc"] == rpc);
        let words = records.map(|record| {
            format!(
                "{} {}",
                record["outcome"].as_str().expect("a word"),
                record["kek_id"].as_str().unwrap_or("-")
            )
        });
        words.collect::<Vec<_>>()
    };
    let expected = |lines: &[(&str, &str)]| {
        lines.iter().map(|(outcome, kek)| format!("{outcome} {kek}")).collect::<Vec<_>>()
    };
    assert_eq!(of("AddKek"), expected(&[("ATTEMPT", "-"), ("OK", second), ("ATTEMPT", "-"), ("OK", third)]));
    assert_eq!(
        of("ActivateKek"),
        expected(&[
            ("ATTEMPT", second),
            ("OK", second),
            ("ATTEMPT", first),
            ("FAILED_PRECONDITION", first),
            ("ATTEMPT", third),
            ("OK", third)
        ])
    );
    assert_eq!(
        of("RewrapKeys"),
        expected(&[("ATTEMPT", second), ("OK", second), ("ATTEMPT", third), ("OK", third)])
    );
    assert_eq!(
        of("RetireKek"),
        expected(&[
            ("ATTEMPT", second),
            ("FAILED_PRECONDITION", second),
            ("ATTEMPT", first),
            ("FAILED_PRECONDITION", first),
            ("ATTEMPT", first),
            ("OK", first)
        ])
    );
    assert!(!of("ListKeks").is_empty());
}

/// `kek rewrap`, so slow that it moves a few keys and does not end.
fn slow_rewrap(data: &Path) -> Child {
    Command::new(binary())
        .args(["kek", "rewrap", "--rate", "1", "--data-dir"])
        .arg(data)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary runs")
}

#[test]
fn fifty_kills_of_a_rewrap_lose_no_value_and_the_next_one_continues() {
    const KILLS: u64 = 50;
    const SECRETS: u64 = 400;
    let server = Server::start();
    let data = server.process.data_dir().to_owned();
    for i in 0..SECRETS {
        create(&server, &format!("s{i}"), &format!("value {i}"));
    }
    let first = kek_of(&server, "s0");
    assert!(server.process.stop().success());
    run(&data, &["kek", "add"]).done();
    run(&data, &["kek", "activate"]).done();
    let mut left = values_under(&data, &first);
    assert_eq!(left, SECRETS);
    for kill in 0..KILLS {
        // Each tenth kill hits a server that rewraps for the command.
        let serving = (kill % 10 == 9).then(|| Server::on(&data));
        let mut command = slow_rewrap(&data);
        let moved = within(LIMIT, || values_under(&data, &first) < left);
        assert!(moved, "{kill}: it moves keys");
        if let Some(server) = serving {
            server.process.kill();
        } else {
            command.kill().expect("it runs still");
        }
        assert!(!command.wait().expect("it ends").success());
        left = values_under(&data, &first);
        assert!(left > 0, "the last kill hits a run that is not done");
        let opened = open_all(&data);
        assert_eq!(opened, SECRETS, "{kill}: every value opens");
    }
    let said = run(&data, &["kek", "rewrap"]).done();
    assert!(said.contains(&format!(": {left} key(s) were wrapped with it")), "{said}");
    assert_eq!(values_under(&data, &first), 0);
    run(&data, &["kek", "retire", &first, "--backup-retention", "0s"]).done();
    assert!(run(&data, &["audit", "verify"]).done().ends_with(": the chain is whole\n"));
    let server = Server::on(&data);
    for i in 0..SECRETS {
        assert_eq!(value(&server, &format!("s{i}")), format!("value {i}"));
    }
}

/// The number of values that open with the KEK file.
fn open_all(data: &Path) -> u64 {
    let keyring = Keyring::load(&data.join("kek.json")).expect("whole");
    let store = agentrouter_sqlite::SqliteStore::open_read_only(&data.join("secrets.db")).expect("opened");
    let mut opened = 0;
    let look = |stored: &agentrouter_store::Stored, _| {
        let Some(envelope) = &stored.envelope else { return };
        let secret = &stored.secret;
        let slot = agentrouter_model::Slot { place: &secret.place, id: secret.id, version: secret.version };
        let kek = keyring.kek(&envelope.kek_id).expect("held");
        opened += u64::from(agentrouter_crypto::open(kek, slot, envelope).is_ok());
    };
    store.each_version(look).expect("read");
    opened
}

#[test]
fn two_changes_at_once_are_refused_and_a_command_that_ends_stops_its_rewrap() {
    let server = Server::start();
    let data = server.process.data_dir().to_owned();
    for i in 0..100 {
        create(&server, &format!("s{i}"), "v");
    }
    let first = kek_of(&server, "s0");
    run(&data, &["kek", "add"]).done();
    run(&data, &["kek", "activate"]).done();
    let mut command = slow_rewrap(&data);
    assert!(within(LIMIT, || values_under(&data, &first) < 100));
    for args in [&["kek", "rewrap"][..], &["kek", "add"], &["kek", "rotate"], &["kek", "retire", &first]] {
        let refused = run(&data, args).refused(1);
        assert!(refused.contains("another command is changing the KEKs"), "{refused}");
    }
    command.kill().expect("it runs still");
    command.wait().expect("it ends");
    let mut ran: Option<CommandRun> = None;
    // The server notices it with the next page.
    let continued = within(LIMIT, || {
        let again = run(&data, &["kek", "rewrap"]);
        let done = again.code == Some(0);
        ran = Some(again);
        done
    });
    assert!(continued, "{ran:?}");
    assert_eq!(values_under(&data, &first), 0);
}

#[test]
fn the_keks_of_an_older_file_are_not_moved_beside_a_server_that_has_more() {
    let server = Server::start();
    let data = server.process.data_dir().to_owned();
    create(&server, "a", "v");
    let (file, older) = (data.join("kek.json"), data.join("older.json"));
    std::fs::copy(&file, &older).expect("copied");
    run(&data, &["kek", "rotate"]).done();
    let newest = std::fs::read(&file).expect("read");
    std::fs::copy(&older, &file).expect("copied");
    let passphrase = data.join("passphrase");
    std::fs::write(&passphrase, "a passphrase of some length").expect("written");
    std::fs::set_permissions(&passphrase, std::fs::Permissions::from_mode(0o600)).expect("set");
    let args = ["kek", "move", "--to", "passphrase", "--to-passphrase-file", text(&passphrase)];
    let refused = run(&data, &args).refused(1);
    assert!(refused.contains("which the running server has in memory"), "{refused}");
    assert!(
        std::fs::read(&file).expect("read") == std::fs::read(&older).expect("read"),
        "nothing is written"
    );
    std::fs::write(&file, newest).expect("written");
    assert_eq!(run(&data, &args).code, Some(0));
    assert_eq!(value(&server, "a"), "v");
}
