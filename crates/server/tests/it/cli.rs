//! `tare` against the real server, from end to end.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::support::{Server, tare};

mod failures;
mod output;
mod providers;
mod rate;
mod terminal;

/// `tare` in an environment of its own.
fn command(url: &str, key: &str, args: &[&str]) -> Command {
    let mut command = Command::new(tare());
    command
        .args(args)
        .env_remove("AGENTROUTER_CA_FILE")
        .env_remove("AGENTROUTER_PROFILE")
        .env("XDG_CONFIG_HOME", "/nowhere")
        .env("AGENTROUTER_BASE_URL", url)
        .env("AGENTROUTER_API_KEY", key)
        .env("NO_COLOR", "1");
    command
}

/// The result of one run.
#[derive(Debug)]
struct TareRun {
    code: Option<i32>,
    out: String,
    err: String,
}

impl TareRun {
    fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Its standard output. It must succeed with nothing on stderr.
    fn done(self) -> String {
        assert_eq!((self.code, self.err.as_str()), (Some(0), ""), "{self:?}");
        self.out
    }
}

/// A server, and `tare` with its first key.
struct Setup {
    server: Server,
}

impl Setup {
    fn new() -> Self {
        Self { server: Server::start() }
    }

    fn command(&self, args: &[&str]) -> Command {
        command(&self.server.process.url, &self.server.key, args)
    }

    fn run(&self, args: &[&str]) -> TareRun {
        self.run_with(args, "")
    }

    /// With something on standard input.
    fn run_with(&self, args: &[&str], stdin: &str) -> TareRun {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("tare starts");
        // A command that does not read it may have ended.
        let _ = child.stdin.take().expect("piped").write_all(stdin.as_bytes());
        TareRun::of(child.wait_with_output().expect("tare ends"))
    }

    /// `tare api secret …` with a realm.
    fn secret(&self, args: &[&str]) -> TareRun {
        self.run(&[&["api", "secret"], args, &["--realm", "mcp"]].concat())
    }
}

/// A file with that text in a directory of its own.
fn file(name: &str, text: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join(name);
    std::fs::write(&path, text).expect("written");
    let path = Path::to_str(&path).expect("UTF-8").to_owned();
    (dir, path)
}
