//! Commands beside a server that is stopped, and a start beside a command.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use agentrouter_model::SystemClock;
use agentrouter_store::Lock;

use super::run;
use crate::support::{Server, binary, within};

/// Longer than any of it takes. The time is not tested.
const LONG: Duration = Duration::from_secs(120);

fn signal(id: u32, name: &str) {
    let status = Command::new("kill").args([name, &id.to_string()]).status().expect("kill runs");
    assert!(status.success());
}

/// A server that is stopped. It continues when this is dropped.
struct Stopped(Server);

impl Stopped {
    fn of(server: Server) -> Self {
        signal(server.process.id(), "-STOP");
        Self(server)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        signal(self.0.process.id(), "-CONT");
    }
}

/// The number of sockets that a process has open.
fn sockets(child: &Child) -> usize {
    let files = std::fs::read_dir(format!("/proc/{}/fd", child.id())).into_iter().flatten().flatten();
    let targets = files.filter_map(|file| std::fs::read_link(file.path()).ok());
    targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
}

#[test]
fn a_command_beside_a_stopped_server_ends_and_is_not_executed_later() {
    let server = Stopped::of(Server::start());
    let data = server.0.process.data_dir().to_owned();
    let holder = format!("process {}", server.0.process.id());
    std::thread::scope(|scope| {
        for args in [
            &["key", "create", "--user", "ann", "--scopes", "secrets/read"][..],
            &["key", "list"],
            &["audit", "verify"],
            &["backup", data.with_extension("b").to_str().expect("UTF-8")],
        ] {
            let (data, holder) = (&data, &holder);
            let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
            scope.spawn(move || {
                let args: Vec<&str> = args.iter().map(String::as_str).collect();
                let error = run(data, &args).refused(1);
                assert!(error.contains("has sent nothing for 20 seconds"), "{args:?}: {error}");
                assert!(error.contains(holder) && error.contains("hint: "), "{args:?}: {error}");
            });
        }
    });
    assert!(!data.with_extension("b").exists());
    signal(server.0.process.id(), "-CONT");
    let skipped = || server.0.written().matches("so it was not executed").count();
    assert!(within(LONG, || skipped() == 4), "{}", server.0.written());
    assert_eq!(run(&data, &["key", "list"]).done().lines().count(), 2, "the heading and the first key");
}

#[test]
fn a_signal_ends_a_backup_that_waits_for_a_stopped_server() {
    let server = Stopped::of(Server::start());
    let data = server.0.process.data_dir();
    let mut command = Command::new(binary());
    command.arg("backup").arg(data.with_extension("b")).arg("--data-dir").arg(data);
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it runs");
    // Two by which the runtime receives signals, and the connection.
    assert!(within(LONG, || sockets(&child) >= 3));
    signal(child.id(), "-TERM");
    let output = child.wait_with_output().expect("it ends");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && error.contains("interrupted by a signal"), "{output:?}");
}

#[test]
fn a_start_waits_for_a_command_that_holds_the_lock_and_not_for_a_server() {
    let server = Server::start();
    let data = server.process.data_dir().to_owned();
    let error = run(&data, &["serve", "--listen", "127.0.0.1:0"]).refused(1);
    assert!(error.contains("is in use by process") && !error.contains("waiting"), "{error}");
    assert!(server.process.stop().success());

    // A machine that halts for too long spoils one attempt.
    let starts = || {
        let lock = Lock::take(&data.join("secrets.db"), &SystemClock).expect("free");
        let mut child = Command::new(binary())
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(&data)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it runs");
        let log = BufReader::new(child.stderr.take().expect("piped"));
        let waits =
            log.lines().map_while(Result::ok).any(|line| line.contains("waiting for a command to end"));
        drop(lock);
        let mut first = String::new();
        let mut out = BufReader::new(child.stdout.take().expect("piped"));
        let serves = out.read_line(&mut first).is_ok() && first.contains("http://");
        let _ = child.kill();
        child.wait().expect("it ends");
        assert!(waits);
        serves
    };
    assert!((0..5).any(|_| starts()));
}
