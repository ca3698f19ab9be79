//! Checkpoints that are kept elsewhere, and the comparison of a log with them.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::{Server, copy, run, within};

const WAIT: Duration = Duration::from_secs(20);

/// The number of records that a checkpoint covers.
fn size(note: &str) -> u64 {
    note.lines().nth(1).and_then(|size| size.parse().ok()).unwrap_or(0)
}

fn compare(data: &Path, note: &Path) -> (bool, String) {
    let [data, note] = [data, note].map(|path| path.to_str().expect("a path"));
    let output = run(&["audit", "verify", "--data-dir", data, "--checkpoint", note]);
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// An endpoint that takes one request a connection. Returns its address and the bodies.
fn endpoint() -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let url = format!("http://{}/checkpoints", listener.local_addr().expect("an address"));
    let bodies = Arc::new(Mutex::new(Vec::new()));
    let taken = Arc::clone(&bodies);
    // It ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut request = Vec::new();
            let mut chunk = [0; 4096];
            while let Ok(read @ 1..) = stream.read(&mut chunk) {
                request.extend_from_slice(&chunk[..read]);
                let text = String::from_utf8_lossy(&request);
                if let Some((head, body)) = text.split_once("\r\n\r\n") {
                    let length = head.to_ascii_lowercase();
                    let length =
                        length.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
                    if Some(body.len()) == length {
                        assert!(head.starts_with("POST /checkpoints HTTP/1.1"), "{head}");
                        taken.lock().expect("not poisoned").push(body.to_owned());
                        let _ = stream
                            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                        break;
                    }
                }
            }
        }
    });
    (url, bodies)
}

#[test]
fn a_checkpoint_is_kept_in_a_file_by_a_command_and_at_an_endpoint() {
    let elsewhere = tempfile::tempdir().expect("a directory");
    let file = elsewhere.path().join("checkpoint");
    let out = elsewhere.path().join("out");
    let written = elsewhere.path().join("keep.new");
    let program = elsewhere.path().join("keep");
    fs::write(&written, format!("#!/bin/sh\ncat > {0}.new && mv {0}.new {0}\n", out.display()))
        .expect("written");
    fs::set_permissions(&written, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    copy(&written, &program);
    let (url, bodies) = endpoint();
    let [file_text, program] = [&file, &program].map(|path| path.to_str().expect("a path"));
    let server = Server::start_with(&[
        "--audit-checkpoint-file",
        file_text,
        "--audit-checkpoint-command",
        program,
        "--audit-checkpoint-url",
        &url,
        "--audit-checkpoint-interval",
        "100ms",
    ]);
    for _ in 0..30 {
        assert_eq!(server.call("GET", "/v1/secrets", "").status, 200);
    }
    let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
    assert!(within(WAIT, || size(&read(&file)) >= 30), "{}", server.written());
    assert!(within(WAIT, || size(&read(&out)) >= 30), "{}", server.written());
    let last = || bodies.lock().expect("not poisoned").last().cloned().unwrap_or_default();
    assert!(within(WAIT, || size(&last()) >= 30), "{}", server.written());
    let early = elsewhere.path().join("early");
    fs::write(&early, last()).expect("written");

    // While the server runs, and after it stopped. The last checkpoint covers the stop.
    for note in [&file, &out, &early] {
        let (holds, said) = compare(server.process.data_dir(), note);
        assert!(holds && said.contains("the checkpoint holds"), "{said}");
    }
    let metrics = server.send("GET", "/metrics", &[], b"").body;
    assert!(metrics.contains("agentrouter_secrets_audit_checkpoint_failures_total 0"), "{metrics}");
    let kept = tempfile::tempdir().expect("a directory");
    let data = kept.path().join("data");
    let from = server.process.data_dir().to_owned();
    let Server { process, _dir, .. } = server;
    assert!(process.stop().success());
    copy(&from, &data);
    let lines: Vec<String> =
        read(&data.join("audit/audit.jsonl")).lines().map(|line| format!("{line}\n")).collect();
    assert_eq!(size(&read(&file)), lines.len() as u64);
    assert!(lines.last().expect("a record").contains("\"rpc\":\"Stop\""));

    // A log and a store that were put back together: no head differs.
    let early_size = usize::try_from(size(&read(&early))).expect("few");
    fs::write(data.join("audit/audit.jsonl"), lines[..early_size].concat()).expect("written");
    fs::remove_file(data.join("audit/head")).expect("removed");
    let conn = rusqlite::Connection::open(data.join("secrets.db")).expect("opened");
    conn.execute("DELETE FROM audit_head", ()).expect("deleted");
    drop(conn);
    let (holds, said) = compare(&data, &file);
    let finding = "and the checkpoint covers that record";
    assert!(!holds && said.contains(finding), "{said}");
    let (_, said) = compare(&data, &early);
    assert!(said.contains("the checkpoint holds"), "{said}");

    // The checkpoint of another log, and a text that is none.
    let other = Server::start();
    let (holds, said) = compare(other.process.data_dir(), &file);
    assert!(!holds && said.contains("this checkpoint is of another audit log"), "{said}");
    let (holds, said) = compare(other.process.data_dir(), &data.join("kek.json"));
    assert!(!holds && said.contains("this is not a checkpoint"), "{said}");
}

#[test]
fn a_command_prints_a_checkpoint_with_and_without_a_server() {
    let server = Server::start();
    let data = server.process.data_dir().to_owned();
    let elsewhere = tempfile::tempdir().expect("a directory");
    let print = |name: &str| {
        let output = run(&["audit", "checkpoint", "--data-dir", data.to_str().expect("a path")]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stderr).contains("verifier key: agentrouter-secrets/audit/"));
        let path = elsewhere.path().join(name);
        fs::write(&path, &output.stdout).expect("written");
        path
    };
    let first = print("first");
    assert!(compare(&data, &first).0);
    let Server { process, _dir, .. } = server;
    assert!(process.stop().success());
    let second = print("second");
    for note in [first, second] {
        assert!(compare(&data, &note).0);
    }
}

#[test]
fn targets_that_fail_stop_nothing_and_are_counted() {
    let elsewhere = tempfile::tempdir().expect("a directory");
    let missing = elsewhere.path().join("missing/checkpoint");
    let (_socket, closed) = crate::support::closed_port();
    let server = Server::start_with(&[
        "--audit-checkpoint-file",
        missing.to_str().expect("a path"),
        "--audit-checkpoint-command",
        "/bin/false",
        "--audit-checkpoint-url",
        &format!("http://{closed}/"),
        "--audit-checkpoint-interval",
        "100ms",
    ]);
    let failures = || {
        server.call("GET", "/v1/secrets", "");
        let metrics = server.send("GET", "/metrics", &[], b"").body;
        let count = metrics
            .lines()
            .find_map(|line| line.strip_prefix("agentrouter_secrets_audit_checkpoint_failures_total "));
        count.and_then(|count| count.parse::<u64>().ok()).unwrap_or(0)
    };
    assert!(within(WAIT, || failures() >= 9));
    let log = fs::read_to_string(agentrouter_testkit::ServerProcess::log_of(server.process.data_dir()))
        .expect("a log");
    for setting in ["file", "command", "url"] {
        let warning = format!("cannot be kept by audit.checkpoint-{setting}");
        assert_eq!(log.matches(&warning).count(), 1, "{log}");
    }
}
