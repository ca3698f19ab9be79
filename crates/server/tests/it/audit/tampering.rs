//! Changes of the log while no server runs are found and reported.

use std::fs;
use std::path::{Path, PathBuf};

use super::{assert_clean, verify};
use crate::support::Server;

/// A data directory with some recorded requests, and without a server.
fn stopped() -> (tempfile::TempDir, PathBuf) {
    let server = Server::start();
    let create = "{\"name\":\"a\",\"value\":\"value\"}";
    assert_eq!(server.call("POST", "/v1/secrets", create).status, 200);
    for _ in 0..20 {
        assert_eq!(server.call("POST", "/v1/secrets/a/value", "{}").status, 200);
    }
    let kept = tempfile::tempdir().expect("a directory");
    let data = kept.path().join("data");
    let from = server.process.data_dir().to_owned();
    let Server { process, .. } = server;
    assert!(process.stop().success());
    copy(&from, &data);
    (kept, data)
}

fn copy(from: &Path, to: &Path) {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new().mode(0o700).create(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let to = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).expect("copied");
        }
    }
}

/// Changes the lines of a log, and checks that `audit verify` fails and reports each of `findings`.
fn assert_found(data: &Path, what: &str, harm: impl FnOnce(&mut Vec<String>), findings: &[&str]) {
    let dir = tempfile::tempdir().expect("a directory");
    let copied = dir.path().join("data");
    copy(data, &copied);
    let log = copied.join("audit/audit.jsonl");
    let text = fs::read_to_string(&log).expect("readable");
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    harm(&mut lines);
    let harmed: String = lines.iter().map(|line| format!("{line}\n")).collect();
    assert_ne!(text, harmed, "{what}: nothing was done");
    fs::write(&log, harmed).expect("written");
    let (clean, said) = verify(&copied);
    assert!(!clean, "{what}: {said}");
    for finding in findings {
        assert!(said.contains(finding), "{what}: no '{finding}' in {said}");
    }
    // A second run reports it as well.
    assert!(!verify(&copied).0, "{what}");
}

#[test]
fn each_change_to_lines_is_named() {
    let (_kept, data) = stopped();
    assert_clean(&data);
    assert_found(
        &data,
        "a member edited",
        |lines| lines[9] = lines[9].replace("\"name\":\"a\"", "\"name\":\"b\""),
        &["audit.jsonl:10: record 10: edited"],
    );
    assert_found(
        &data,
        "an outcome edited",
        |lines| lines[7] = lines[7].replace("\"outcome\":\"OK\"", "\"outcome\":\"NO\""),
        &["audit.jsonl:8: record 8: edited"],
    );
    assert_found(
        &data,
        "a line removed",
        |lines| drop(lines.remove(9)),
        &["audit.jsonl:10: record 11: record 10 is missing before it"],
    );
    assert_found(
        &data,
        "three lines removed",
        |lines| drop(lines.drain(5..8)),
        &["audit.jsonl:6: record 9: records 6 to 8 are missing before it"],
    );
    assert_found(
        &data,
        "two lines swapped",
        |lines| lines.swap(9, 10),
        &["audit.jsonl:10: record 11: record 10 is missing", "audit.jsonl:11: record 10: repeated, moved"],
    );
    assert_found(
        &data,
        "a line repeated",
        |lines| lines.insert(10, lines[9].clone()),
        &["audit.jsonl:11: record 10: repeated, moved or inserted"],
    );
    assert_found(
        &data,
        "a line cut",
        |lines| lines[9].truncate(40),
        &["audit.jsonl:10: not a record", "record 11: record 10 is missing"],
    );
    assert_found(
        &data,
        "a line that is none",
        |lines| lines.insert(9, "canary".to_owned()),
        &["audit.jsonl:10: not a record"],
    );
    // The next start must not take them for a write that a crash interrupted.
    assert_found(
        &data,
        "lines added at the end",
        |lines| lines.extend(["junk", "{\"seq\":9}", "more junk"].map(str::to_owned)),
        &["not a record"],
    );
}

#[test]
fn a_truncated_log_is_found() {
    let (_kept, data) = stopped();
    for cut in [1, 5] {
        assert_found(
            &data,
            "the end cut off",
            |lines| lines.truncate(lines.len() - cut),
            &["at a start of the server the log did not hold the expected record"],
        );
    }
    assert_found(&data, "all cut off", Vec::clear, &["did not hold the expected record"]);

    // A crash may tear the last line. The store's head distinguishes a crash from a truncation.
    assert_found(
        &data,
        "the last line torn",
        |lines| {
            let last = lines.last_mut().expect("a line");
            last.truncate(last.len() / 2);
        },
        &["did not hold the expected record"],
    );

    // A full file that was removed.
    let dir = tempfile::tempdir().expect("a directory");
    let copied = dir.path().join("data");
    copy(&data, &copied);
    fs::remove_file(copied.join("audit/audit.jsonl")).expect("removed");
    let (clean, said) = verify(&copied);
    assert!(!clean && said.contains("did not hold the expected record"), "{said}");
}

#[test]
fn a_command_beside_a_running_server_finds_an_edited_line() {
    let server = Server::start();
    for _ in 0..10 {
        assert_eq!(server.call("GET", "/v1/secrets", "").status, 200);
    }
    assert_clean(server.process.data_dir());
    let log = server.data("audit").join("audit.jsonl");
    let text = fs::read(&log).expect("readable");
    // In place and of the same length, so that only the chain detects it.
    let at = text.windows(12).rposition(|bytes| bytes == b"\"ListSecrets").expect("a record") + 1;
    let file = fs::OpenOptions::new().write(true).open(&log).expect("opened");
    std::os::unix::fs::FileExt::write_all_at(&file, b"LISTsECRETS", at as u64).expect("written");
    let (clean, said) = verify(server.process.data_dir());
    assert!(!clean && said.contains("edited"), "{said}");
}
