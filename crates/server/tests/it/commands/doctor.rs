//! `doctor`: it detects faults, reports how to fix them, and changes nothing.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::{CommandRun, run};
use crate::support::{Server, copy, within};

/// Every file below `dir`: its inode, mode, size and time of change, without the files that SQLite rebuilds whenever it
/// opens a database.
fn state(dir: &Path) -> BTreeMap<PathBuf, (u64, u32, u64, i64, i64)> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        let m = path.symlink_metadata().expect("its metadata");
        if m.is_dir() {
            found.extend(state(&path));
        }
        if !path.ends_with("secrets.db-shm") {
            found.insert(path, (m.ino(), m.mode(), m.size(), m.mtime(), m.mtime_nsec()));
        }
    }
    let m = dir.metadata().expect("its metadata");
    found.insert(dir.to_owned(), (m.ino(), m.mode(), m.size(), m.mtime(), m.mtime_nsec()));
    found
}

/// The levels of a report by check.
fn levels(ran: &CommandRun) -> BTreeMap<String, String> {
    let parts = |line: &str| {
        let (level, rest) = line.split_at_checked(6)?;
        let what = rest.split("  ").next()?;
        matches!(level.trim(), "ok" | "warn" | "FAIL").then(|| (what.to_owned(), level.trim().to_owned()))
    };
    ran.out.lines().filter_map(parts).collect()
}

/// The directory of a stopped server, with a secret in two versions.
fn stopped() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let server = Server::on(&data);
    let create = r#"{"name":"canary-name","realm":"mcp","value":"canary-value"}"#;
    assert_eq!(server.call("POST", "/v1/secrets", create).status, 200);
    let rotate = r#"{"realm":"mcp","new_value":"canary-value-2"}"#;
    assert_eq!(server.call("POST", "/v1/secrets/canary-name/rotate", rotate).status, 200);
    assert!(server.process.stop().success());
    (dir, data)
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("set");
}

#[test]
fn doctor_finds_nothing_in_a_sound_directory_and_changes_nothing() {
    let (_dir, data) = stopped();
    for running in [false, true] {
        let server = running.then(|| Server::on(&data));
        let before = state(&data);
        let ran = run(&data, &["doctor"]);
        let after = state(&data);
        let server = server.inspect(|server| {
            assert_eq!(server.call("GET", "/v1/secrets?realm=mcp", "").status, 200, "the server continues");
        });
        // A running server writes too: its log's head, its probe.
        let mut changed: Vec<&PathBuf> =
            before.iter().filter(|(path, was)| after.get(*path) != Some(was)).map(|(path, _)| path).collect();
        changed.retain(|path| !running || !path.ends_with("secrets.db-wal"));
        assert!(changed.is_empty(), "running {running}: {changed:?}");
        assert_eq!(before.len(), after.len(), "running {running}: no file came or went");
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert!(ran.out.ends_with("\nall is well\n"), "{}", ran.out);
        for what in [
            "data directory",
            "server",
            "KEK file",
            "database",
            "KEK",
            "values",
            "audit log",
            "API keys",
            "key use",
            "first key",
            "clock",
        ] {
            assert_eq!(levels(&ran).get(what).map(String::as_str), Some("ok"), "{what}: {}", ran.out);
        }
        assert!(ran.out.contains("1 secret(s) in 2 version(s), 1 API key(s)"), "{}", ran.out);
        assert!(ran.out.contains("0 of 1 API key(s) have no record"), "{}", ran.out);
        assert!(ran.out.contains(" of admin: last used 20"), "{}", ran.out);
        match &server {
            Some(server) => {
                assert!(ran.out.contains(&format!("runs: process {}", server.process.id())), "{}", ran.out)
            }
            None => assert!(ran.out.contains("none runs now"), "{}", ran.out),
        }
        assert!(!ran.out.contains("canary") && !ran.err.contains("canary"), "{ran:?}");
    }
}

#[test]
fn doctor_finds_each_fault_and_hints_at_the_fix() {
    type Break = fn(&Path);
    let (dir, data) = stopped();
    let breaks: [(&str, Break); 12] = [
        ("data directory", |data| set_mode(data, 0o770)),
        ("KEK file", |data| set_mode(&data.join("kek.json"), 0o644)),
        ("KEK file", |data| std::fs::remove_file(data.join("kek.json")).expect("removed")),
        ("KEK file", |data| std::fs::write(data.join("kek.json"), "{}").expect("written")),
        ("database", |data| std::fs::remove_file(data.join("secrets.db")).expect("removed")),
        ("database", |data| std::fs::write(data.join("secrets.db"), [7; 8192]).expect("written")),
        ("database", |data| {
            // Two pages of a B-tree, overwritten.
            let mut bytes = std::fs::read(data.join("secrets.db")).expect("read");
            bytes[4096 * 2..4096 * 4].fill(0xa5);
            std::fs::write(data.join("secrets.db"), bytes).expect("written");
        }),
        ("database", |data| set_mode(&data.join("secrets.db"), 0o666)),
        ("audit log", |data| {
            let path = data.join("audit/audit.jsonl");
            let text = std::fs::read_to_string(&path).expect("read");
            std::fs::write(&path, text.replacen("RotateSecret", "ListSecretss", 1)).expect("written");
        }),
        ("audit log", |data| {
            let path = data.join("audit/audit.jsonl");
            let text = std::fs::read_to_string(&path).expect("read");
            let lines: Vec<&str> = text.lines().collect();
            std::fs::write(&path, lines[..lines.len() - 1].join("\n") + "\n").expect("written");
        }),
        ("first key", |data| set_mode(&data.join("bootstrap.env"), 0o640)),
        ("clock", |data| {
            let path = data.join("audit/audit.jsonl");
            let done = Command::new("touch").args(["-d", "+1 day"]).arg(path).status().expect("touch runs");
            assert!(done.success());
        }),
    ];
    for (i, (what, act)) in breaks.into_iter().enumerate() {
        let broken = dir.path().join(format!("broken{i}"));
        copy(&data, &broken);
        act(&broken);
        let ran = run(&broken, &["doctor"]);
        assert_eq!(ran.code, Some(1), "{i} {what}: {ran:?}");
        assert_eq!(levels(&ran).get(what).map(String::as_str), Some("FAIL"), "{i} {what}: {}", ran.out);
        let below = ran.out.lines().skip_while(|line| !line.starts_with("FAIL")).skip(1);
        let details = below.take_while(|line| line.starts_with("      "));
        assert!(details.into_iter().any(|line| line.trim().starts_with("hint: ")), "{i} {what}: {}", ran.out);
        assert!(!ran.out.contains("canary"), "{i} {what}: {}", ran.out);
    }
    let ran = run(&dir.path().join("nothing"), &["doctor"]);
    assert_eq!(
        (ran.code, levels(&ran).get("data directory").map(String::as_str)),
        (Some(1), Some("FAIL")),
        "{ran:?}"
    );
}

#[test]
fn a_running_server_that_cannot_serve_is_reported_with_its_reason() {
    let server = Server::start();
    let data = server.process.data_dir().to_owned();
    let ran = run(&data, &["doctor"]);
    assert_eq!(levels(&ran).get("serving").map(String::as_str), Some("ok"), "{}", ran.out);
    std::fs::remove_file(data.join("secrets.db-wal")).expect("removed");
    let unready = || server.send("GET", "/readyz", &[], b"").status == 503;
    assert!(within(Duration::from_secs(60), unready), "the server notices the file");
    let ran = run(&data, &["doctor"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert_eq!(levels(&ran).get("serving").map(String::as_str), Some("FAIL"), "{}", ran.out);
    assert!(ran.out.contains("STORE_UNAVAILABLE: the database's log (-wal) was moved"), "{}", ran.out);
}

#[test]
fn a_kek_file_that_is_no_regular_file_is_refused_and_not_waited_for() {
    let (dir, data) = stopped();
    let pipe = dir.path().join("kek.pipe");
    assert!(Command::new("mkfifo").args(["-m", "600"]).arg(&pipe).status().expect("mkfifo runs").success());
    for (file, kind) in [(&pipe, "a pipe"), (&data, "a directory")] {
        let file = ["--kek-file", file.to_str().expect("UTF-8")];
        let ran = run(&data, &[&["doctor"][..], &file].concat());
        assert_eq!(levels(&ran).get("KEK file").map(String::as_str), Some("FAIL"), "{}", ran.out);
        assert!(ran.out.contains(kind) && ran.out.contains("hint: name a regular file"), "{}", ran.out);
        for args in [&["serve", "--listen", "127.0.0.1:0"][..], &["key", "list"], &["kek", "list"]] {
            let err = run(&data, &[args, &file].concat()).refused(1);
            assert!(err.contains(kind) && err.contains("hint: name a regular file"), "{args:?}: {err}");
        }
    }
}

#[test]
fn a_used_store_without_its_internal_keys_gets_no_new_ones() {
    let (dir, data) = stopped();
    for purpose in ["audit", "page-tokens"] {
        let broken = dir.path().join(purpose);
        copy(&data, &broken);
        let conn = rusqlite::Connection::open(broken.join("secrets.db")).expect("opened");
        // Not even the head of the audit log is left.
        conn.execute("DELETE FROM audit_head", ()).expect("deleted");
        assert_eq!(conn.execute("DELETE FROM internal_keys WHERE purpose = ?1", [purpose]), Ok(1));
        drop(conn);
        let err = run(&broken, &["serve", "--listen", "127.0.0.1:0"]).refused(1);
        assert!(err.contains(&format!("own key for '{purpose}' is missing")), "{err}");
        let ran = run(&broken, &["doctor"]);
        assert_eq!(
            (ran.code, levels(&ran).get("KEK").map(String::as_str)),
            (Some(1), Some("FAIL")),
            "{ran:?}"
        );
        assert!(ran.out.contains("hint: restore the store from a backup"), "{}", ran.out);
    }
}

#[test]
fn values_that_do_not_open_are_found_and_counted() {
    let (dir, data) = stopped();
    let ids: Vec<String> = {
        let conn = rusqlite::Connection::open(data.join("secrets.db")).expect("opened");
        let mut rows = conn.prepare("SELECT DISTINCT secret_id FROM versions").expect("a query");
        rows.query_map((), |row| row.get(0)).expect("rows").map(|id| id.expect("an id")).collect()
    };
    let elsewhere = "kek-01ARZ3NDEKTSV4RRFFQ69G5FAV";
    for (i, (change, found)) in [
        ("UPDATE versions SET sealed = zeroblob(length(sealed)) WHERE version = 1".to_owned(), ["1: corrupt", ""]),
        (
            "CREATE TEMP TABLE v AS SELECT version, sealed, wrapped_dek FROM versions; UPDATE versions \
             SET (sealed, wrapped_dek) = (SELECT sealed, wrapped_dek FROM v WHERE v.version = 3 - versions.version)"
                .to_owned(),
            ["1: corrupt", "2: corrupt"],
        ),
        (
            format!(
                "UPDATE versions SET kek_id = '{elsewhere}'; UPDATE secrets SET kek_id = '{elsewhere}'; \
                 UPDATE versions SET kek_id = (SELECT kek_id FROM keks) WHERE version = 1"
            ),
            ["2: kek_unavailable", ""],
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let broken = dir.path().join(format!("values{i}"));
        copy(&data, &broken);
        let conn = rusqlite::Connection::open(broken.join("secrets.db")).expect("opened");
        conn.execute_batch(&change).expect("changed");
        drop(conn);
        let ran = run(&broken, &["doctor"]);
        assert_eq!(ran.code, Some(1), "{change}: {ran:?}");
        let wrong = levels(&ran).into_iter().filter(|(_, level)| level == "FAIL").map(|(what, _)| what);
        assert_eq!(wrong.collect::<Vec<_>>(), ["values"], "{change}: {}", ran.out);
        let count = found.iter().filter(|line| !line.is_empty()).count();
        assert!(ran.out.contains(&format!("{count} of 2 do not open")), "{change}: {}", ran.out);
        for line in found {
            assert!(ran.out.contains(&format!("secret {} version {line}", ids[0])) || line.is_empty(), "{}", ran.out);
        }
        assert!(ran.out.contains("hint: "), "{}", ran.out);
        assert!(!ran.out.contains("canary") && !ran.err.contains("canary"), "{}", ran.out);
    }
}

#[test]
fn a_kek_file_of_another_store_is_named() {
    let (dir, data) = stopped();
    let (_other_dir, other) = stopped();
    let broken = dir.path().join("broken");
    copy(&data, &broken);
    std::fs::copy(other.join("kek.json"), broken.join("kek.json")).expect("copied");
    let ran = run(&broken, &["doctor"]);
    assert_eq!((ran.code, levels(&ran).get("KEK").map(String::as_str)), (Some(1), Some("FAIL")), "{ran:?}");
    let id = |data: &Path| {
        let text = std::fs::read_to_string(data.join("kek.json")).expect("read");
        let at = text.find("kek-").expect("an id");
        text[at..at + 30].to_owned()
    };
    let line = ran.out.lines().find(|line| line.contains("  KEK  ")).expect("a line");
    assert!(line.contains(&id(&data)), "the KEK that is needed: {line}");
    assert!(ran.out.contains(&id(&other)), "and the one that is there: {}", ran.out);
    assert!(!levels(&ran).contains_key("audit log"), "what cannot be checked is left out: {}", ran.out);
}

#[test]
fn keys_that_expire_soon_are_a_warning_and_no_live_key_is_a_failure() {
    let (_dir, data) = stopped();
    let create = ["key", "create", "--user", "alice", "--scopes", "secrets/read", "--expires", "3d"];
    let id = run(&data, &create).done()["AGENTROUTER_API_KEY=".len()..][..16].to_owned();
    let ran = run(&data, &["doctor"]);
    assert_eq!(
        (ran.code, levels(&ran).get("API keys").map(String::as_str)),
        (Some(0), Some("warn")),
        "{ran:?}"
    );
    assert!(ran.out.contains(&format!("{id} of alice ends at 20")), "{}", ran.out);
    assert!(ran.out.contains("1 of 2 API key(s) have no record"), "{}", ran.out);
    assert!(ran.out.contains(&format!("{id} of alice: not used")), "{}", ran.out);
    assert!(ran.out.ends_with("\n0 failed, 1 warning(s)\n"), "{}", ran.out);

    let listed = run(&data, &["key", "list"]).done();
    for line in listed.lines().skip(1) {
        run(&data, &["key", "revoke", &line[..16]]).done();
    }
    let ran = run(&data, &["doctor"]);
    assert_eq!(
        (ran.code, levels(&ran).get("API keys").map(String::as_str)),
        (Some(1), Some("FAIL")),
        "{ran:?}"
    );
    assert!(ran.out.contains("key create --user"), "{}", ran.out);
    assert!(ran.out.contains("holds a key that no longer works"), "{}", ran.out);
}
