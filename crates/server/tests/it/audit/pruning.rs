//! Removal of the oldest files, and kills while files are compressed and removed.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use agentrouter_testkit::ServerProcess;

use super::{assert_clean, verify};
use crate::support::{Connection, Server, binary, run, within};

const SMALL: [&str; 2] = ["--audit-max-size", "64KiB"];
const PRUNE: [&str; 5] = ["audit", "prune", "--older-than", "1s", "--data-dir"];

fn prune(data: &Path) -> Output {
    run(&[&PRUNE[..], &[data.to_str().expect("a path")]].concat())
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn full_files(data: &Path) -> usize {
    let names = fs::read_dir(data.join("audit")).expect("lists").flatten().map(|entry| entry.file_name());
    names.filter(|name| name.to_string_lossy().starts_with("audit-")).count()
}

fn fill(connection: &mut Connection) {
    for _ in 0..600 {
        assert_eq!(connection.call("GET", "/v1/secrets", "").expect("a response").status, 200);
    }
}

#[test]
fn old_files_are_removed_beside_a_server_and_without_one() {
    let server = Server::start_with(&SMALL);
    let data = server.process.data_dir().to_owned();
    let mut connection = Connection::open(server.process.authority(), &server.key).expect("it accepts");
    fill(&mut connection);
    assert!(full_files(&data) >= 2);
    // They are old enough after a second.
    assert!(within(Duration::from_secs(60), || prune(&data).status.success() && full_files(&data) == 0));
    let (clean, text) = verify(&data);
    assert!(
        clean && text.contains("records 1 to") && text.contains("were removed by 'audit prune'"),
        "{text}"
    );
    let doctor = run(&["doctor", "--data-dir", data.to_str().expect("a path")]);
    assert!(said(&doctor).contains("up to which they were removed"), "{}", said(&doctor));
    let log = fs::read_to_string(data.join("audit/audit.jsonl")).expect("readable");
    let records = log.lines().filter(|line| line.contains("\"rpc\":\"PruneAudit\""));
    assert!(records.count() >= 2, "an attempt and an outcome");
    fill(&mut connection);
    let Server { process, _dir, .. } = server;
    assert!(process.stop().success());
    assert!(within(Duration::from_secs(60), || {
        let output = prune(&data);
        assert!(output.status.success(), "{}", said(&output));
        full_files(&data) == 0
    }));
    assert_clean(&data);
    // Without the note, the log begins too late.
    let note = data.join("audit/pruned");
    let text = fs::read_to_string(&note).expect("readable");
    fs::remove_file(&note).expect("removed");
    let (clean, found) = verify(&data);
    assert!(!clean && found.contains("records 1 to"), "{found}");
    fs::write(&note, text.replacen("mac ", "mac 0", 1)).expect("written");
    let (clean, found) = verify(&data);
    assert!(!clean && found.contains("the note about removed files is not authentic"), "{found}");
}

#[test]
fn files_with_problems_are_removed_only_with_the_flag() {
    let server = Server::start_with(&[SMALL[0], SMALL[1], "--audit-compression", "none"]);
    let data = server.process.data_dir().to_owned();
    let mut connection = Connection::open(server.process.authority(), &server.key).expect("it accepts");
    fill(&mut connection);
    let first = data.join("audit/audit-00000000000000000001.jsonl");
    let text = fs::read_to_string(&first).expect("readable");
    fs::write(&first, text.replacen("ListSecrets", "LISTsECRETS", 1)).expect("written");
    let mut output = prune(&data);
    assert!(within(Duration::from_secs(60), || {
        output = prune(&data);
        !output.status.success()
    }));
    assert!(said(&output).contains("the files to be removed have 1 problem(s)"), "{}", said(&output));
    assert!(said(&output).contains("--accept-problems") && first.exists());
    let data_text = data.to_str().expect("a path");
    let output = run(&[&PRUNE[..], &[data_text, "--accept-problems"]].concat());
    assert!(output.status.success() && !first.exists(), "{}", said(&output));
    let (clean, text) = verify(&data);
    assert!(clean && text.contains("the removed files had 1 problem(s)"), "{text}");
}

#[test]
fn kills_while_files_are_compressed_and_removed_lose_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    for round in 0..8 {
        let server = ServerProcess::start(binary(), &data, &SMALL);
        let key = server.bootstrap_key();
        let mut connection = Connection::open(server.authority(), &key).expect("it accepts");
        fill(&mut connection);
        let mut pruning = Command::new(binary())
            .args(PRUNE)
            .arg(&data)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it runs");
        for _ in 0..round * 20 {
            assert_eq!(connection.call("GET", "/v1/secrets", "").expect("a response").status, 200);
        }
        server.kill();
        // Without its server the command fails, unless it was done.
        let _ = pruning.wait();
        assert_clean(&data);
    }
}
