//! Standard output that breaks: no key is lost, and every effect is reported.

use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{CommandRun, run};
use crate::support::{Server, binary, within};

/// A command whose standard output is `redirection`, as the shell writes it.
fn redirected(data: &Path, args: &[&str], redirection: &str) -> CommandRun {
    let script = format!("exec \"$0\" \"$@\" {redirection}");
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).arg(binary()).args(args).arg("--data-dir").arg(data);
    CommandRun::of(shell.output().expect("sh runs"))
}

const CREATE: [&str; 6] = ["key", "create", "--user", "alice", "--scopes", "secrets/read"];

fn states(data: &Path) -> Vec<String> {
    let listed = run(data, &["key", "list"]).done();
    let alice = listed.lines().filter(|line| line.contains(" alice "));
    alice.map(|line| line.split_whitespace().nth(1).expect("a state").to_owned()).collect()
}

#[test]
fn a_new_key_that_cannot_be_printed_is_revoked() {
    let server = Server::start();
    let data = server.process.data_dir();
    // A full disk.
    let err = redirected(data, &CREATE, "> /dev/full").refused(1);
    assert!(err.contains("could not be printed, and is revoked") && err.contains("No space left"), "{err}");
    assert_eq!(states(data), ["revoked"]);
    // An output that is closed, or thrown away, is noticed before.
    for redirection in [">&-", "> /dev/null"] {
        let err = redirected(data, &CREATE, redirection).refused(1);
        assert!(err.contains("the new key would be lost"), "{redirection}: {err}");
        let err = redirected(data, &["backup", "-"], redirection).refused(1);
        assert!(err.contains("the backup would be lost"), "{redirection}: {err}");
    }
    assert_eq!(states(data).len(), 1);
    // Without a server.
    let data = data.to_owned();
    let Server { process, _dir, .. } = server;
    assert!(process.stop().success());
    assert!(redirected(&data, &CREATE, "> /dev/full").refused(1).contains("is revoked"));
    assert_eq!(states(&data), ["revoked", "revoked"]);
}

#[test]
fn a_new_key_that_a_signal_keeps_from_being_printed_is_revoked() {
    let server = Server::start();
    let data = server.process.data_dir();
    for (count, signal) in ["-TERM", "-INT"].into_iter().enumerate() {
        // A standard output that is full. Its reader takes nothing.
        let (_reader, mut full) = UnixStream::pair().expect("a pair");
        full.set_nonblocking(true).expect("set");
        while full.write(b"x").is_ok() {}
        full.set_nonblocking(false).expect("set");
        let mut create = Command::new(binary());
        create.args(CREATE).arg("--data-dir").arg(data).stdin(Stdio::null()).stdout(OwnedFd::from(full));
        let child = create.stderr(Stdio::piped()).spawn().expect("it runs");
        assert!(within(Duration::from_secs(60), || states(data).len() > count), "it is issued");
        assert!(states(data).contains(&"live".to_owned()));
        let id = child.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().expect("kill runs").success());
        // Nothing was written to the output.
        let err = CommandRun::of(child.wait_with_output().expect("it ends")).refused(1);
        assert!(err.contains("stopped by a signal") && err.contains("and is revoked"), "{signal}: {err}");
        assert_eq!(states(data), vec!["revoked"; count + 1]);
    }
}

#[test]
fn an_effect_is_reported_on_standard_error_and_lost_data_is_an_error() {
    let server = Server::start();
    let data = server.process.data_dir();
    let backup = data.with_extension("backup");
    let ran = redirected(data, &["backup", backup.to_str().expect("UTF-8")], "> /dev/full");
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.err.contains("0 secret(s)") && ran.err.contains("No space left"), "{ran:?}");
    assert!(backup.exists());

    let key = server.issue("alice", "secrets/read", &[]);
    let id = key.split('_').next().expect("an id");
    let ran = redirected(data, &["key", "revoke", id], "> /dev/full");
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.err.contains(&format!("key {id} is revoked")), "{ran:?}");

    for args in [&["key", "list"][..], &["audit", "verify"], &["doctor"]] {
        let err = redirected(data, args, "> /dev/full").refused(1);
        assert!(err.contains("standard output cannot be written"), "{args:?}: {err}");
    }
}

#[test]
fn a_server_whose_standard_output_has_no_reader_starts() {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("s");
    let mut serve = Command::new(binary());
    serve.args(["serve", "--listen", &format!("unix:{}", socket.display()), "--data-dir"]);
    let mut child = serve
        .arg(dir.path().join("data"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    drop(child.stdout.take());
    let mut log = std::io::BufRead::lines(std::io::BufReader::new(child.stderr.take().expect("piped")));
    assert!(log.any(|line| line.is_ok_and(|line| line.contains("the addresses were not printed"))));
    assert!(within(Duration::from_secs(60), || UnixStream::connect(&socket).is_ok()), "it serves");
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().expect("kill runs").success());
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}

#[test]
fn everything_that_a_server_with_json_logs_prints_is_json() {
    let dir = tempfile::tempdir().expect("a directory");
    let out = dir.path().join("out");
    let socket = dir.path().join("s");
    let file = std::fs::File::create(&out).expect("a file");
    let mut serve = Command::new(binary());
    serve.args(["serve", "--log-format", "json", "--listen", &format!("unix:{}", socket.display())]);
    let mut child = serve
        .arg("--data-dir")
        .arg(dir.path().join("data"))
        .stdin(Stdio::null())
        .stdout(file.try_clone().expect("a copy"))
        .stderr(file)
        .spawn()
        .expect("it runs");
    let printed = || std::fs::read_to_string(&out).expect("its output");
    assert!(within(Duration::from_secs(60), || printed().contains("\"urls\"")), "{}", printed());
    assert!(UnixStream::connect(&socket).is_ok());
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().expect("kill runs").success());
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    assert!(printed().lines().count() >= 2, "{}", printed());
    for line in printed().lines() {
        let parsed: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        for field in ["timestamp", "level", "target", "message"] {
            assert!(parsed[field].is_string(), "{field}: {line}");
        }
    }
}
