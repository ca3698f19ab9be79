//! The remembered head: an attacker that cuts the log must also change both the store and the data directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{assert_clean, verify};
use crate::support::{Server, copy, within};

const CUT: &str = "the log ends before record";

/// A data directory whose server was killed, so that nothing was written at its end.
fn killed() -> (tempfile::TempDir, PathBuf) {
    let server = Server::start();
    assert_eq!(server.call("POST", "/v1/secrets", r#"{"name":"a","value":"value"}"#).status, 200);
    for _ in 0..50 {
        assert_eq!(server.call("POST", "/v1/secrets/a/value", "{}").status, 200);
    }
    let data = server.process.data_dir().to_owned();
    let last = i64::try_from(lines(&data).len()).expect("few");
    assert!(within(Duration::from_secs(60), || row(&data) == Some(last)), "{:?} of {last}", row(&data));
    let kept = tempfile::tempdir().expect("a directory");
    let copied = kept.path().join("data");
    server.process.kill();
    copy(&data, &copied);
    (kept, copied)
}

fn lines(data: &Path) -> Vec<String> {
    let text = fs::read_to_string(data.join("audit/audit.jsonl")).expect("readable");
    text.lines().map(|line| format!("{line}\n")).collect()
}

fn row(data: &Path) -> Option<i64> {
    let conn = rusqlite::Connection::open(data.join("secrets.db")).expect("opened");
    conn.query_row("SELECT seq FROM audit_head", (), |row| row.get(0)).ok()
}

fn change(data: &Path, sql: &str) {
    let conn = rusqlite::Connection::open(data.join("secrets.db")).expect("opened");
    assert_eq!(conn.execute(sql, ()), Ok(1));
}

fn cut(data: &Path) {
    let lines = lines(data);
    fs::write(data.join("audit/audit.jsonl"), lines[..lines.len() - 20].concat()).expect("written");
}

#[test]
fn a_tail_cut_after_a_kill_is_found_in_spite_of_each_change_to_the_head() {
    type Attack = fn(&Path);
    let attacks: [(&str, Attack, &[&str]); 6] = [
        ("the tail alone", |_| {}, &[CUT]),
        ("the row deleted", |data| change(data, "DELETE FROM audit_head"), &["the store has lost the head"]),
        (
            "the row put back",
            |data| change(data, "UPDATE audit_head SET seq = 3, mac = zeroblob(32)"),
            &["the head of the audit log in the store is not authentic"],
        ),
        (
            "the file removed",
            |data| fs::remove_file(data.join("audit/head")).expect("removed"),
            &["the file 'head' of the audit log is missing"],
        ),
        (
            "the file edited",
            |data| {
                let path = data.join("audit/head");
                let text = fs::read_to_string(&path).expect("readable");
                fs::write(path, text.replacen("{\"seq\":", "{\"seq\":1", 1)).expect("written");
            },
            &["the file 'head' of the audit log is not authentic"],
        ),
        (
            "both removed",
            |data| {
                change(data, "DELETE FROM audit_head");
                fs::remove_file(data.join("audit/head")).expect("removed");
            },
            &["neither the store nor the file 'head' remembers the head"],
        ),
    ];
    let (_kept, data) = killed();
    for (what, attack, findings) in attacks {
        for is_cut in [false, true] {
            let dir = tempfile::tempdir().expect("a directory");
            let copied = dir.path().join("data");
            copy(&data, &copied);
            attack(&copied);
            if is_cut {
                cut(&copied);
            } else if what == "the tail alone" {
                assert_clean(&copied);
                continue;
            }
            let doctor = crate::support::run(&["doctor", "--data-dir", copied.to_str().expect("a path")]);
            let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
            for finding in findings {
                assert!(said.contains(finding), "doctor, {what}: no '{finding}' in {said}");
            }
            // The command is a start, which records what it found. Then every verification reports that.
            for round in 0..2 {
                let (clean, said) = verify(&copied);
                assert!(!clean, "{round} {what}: {said}");
                let findings =
                    if what == "the tail alone" { &["did not hold the expected record"] } else { findings };
                for finding in findings {
                    assert!(said.contains(finding), "{round} {what}: no '{finding}' in {said}");
                }
            }
        }
    }
}

#[test]
fn a_head_that_cannot_be_kept_is_reported_until_the_cause_is_removed() {
    let server = Server::start();
    let new = server.data("audit/head.new");
    // The name exists for a moment at each write.
    assert!(within(Duration::from_secs(60), || fs::create_dir(&new).is_ok()));
    let read = || server.call("GET", "/v1/secrets", "").status;
    assert_eq!(read(), 200, "calls are served");
    let detail = || server.send("GET", "/readyz", &[], b"").json()["detail"].as_str().map(str::to_owned);
    let expected = Some("the head of the audit log cannot be kept; see the log".to_owned());
    assert!(
        within(Duration::from_secs(120), || read() == 200 && detail() == expected),
        "{}",
        server.written()
    );
    let failing = |value| {
        let metrics = server.send("GET", "/metrics", &[], b"").body;
        metrics.contains(&format!("agentrouter_secrets_audit_head_failing {value}\n"))
    };
    assert!(failing(1));
    assert!(
        server.written().contains("head.new is a directory, and must be removed"),
        "{}",
        server.written()
    );
    fs::remove_dir(&new).expect("removed");
    assert!(within(Duration::from_secs(60), || failing(0) && detail().is_none()));
    assert_clean(server.process.data_dir());
}

#[test]
fn a_start_reports_what_was_done_to_the_head() {
    let (_kept, data) = killed();
    change(&data, "DELETE FROM audit_head");
    let server = Server::on(&data);
    let log = agentrouter_testkit::ServerProcess::log_of(&data);
    let is_logged = || fs::read_to_string(&log).is_ok_and(|log| log.contains("the store has lost the head"));
    assert!(within(Duration::from_secs(60), is_logged));
    let metrics = server.send("GET", "/metrics", &[], b"").body;
    assert!(metrics.contains("agentrouter_secrets_audit_broken 1"), "{metrics}");
}
