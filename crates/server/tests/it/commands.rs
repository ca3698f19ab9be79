//! The server's command line, as an operator uses it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use crate::support::{Reply, binary};

mod backup;
mod doctor;
mod first_start;
mod keks;
mod keys;
mod output;
mod permissions;
mod process;
mod root_key;
mod settings;
mod stopped;

/// A command that has ended.
#[derive(Debug)]
struct CommandRun {
    code: Option<i32>,
    out: String,
    err: String,
}

impl CommandRun {
    fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Its standard output. It must succeed.
    fn done(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.out
    }

    /// Its standard error. It must fail.
    fn refused(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.out, "", "{self:?}");
        self.err
    }
}

/// `agentrouter-secrets ARGS --data-dir DIR`
fn run(dir: &Path, args: &[&str]) -> CommandRun {
    let output = Command::new(binary()).args(args).arg("--data-dir").arg(dir).output();
    CommandRun::of(output.expect("the binary runs"))
}

/// A server, started in any way, whose whole output is kept.
struct Serving {
    child: Child,
    out: PathBuf,
    url: String,
}

impl Serving {
    /// Waits until `command` (which gets `--data-dir` and a free port) serves requests.
    fn start(command: &mut Command, data: &Path) -> Self {
        let out = data.with_extension("out");
        let file = std::fs::File::create(&out).expect("a file for its words");
        let mut child = command
            .args(["--listen", "127.0.0.1:0", "--log-format", "pretty", "--data-dir"])
            .arg(data)
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(std::fs::File::create(data.with_extension("err")).expect("a file for its log"))
            .spawn()
            .expect("the server starts");
        for _ in 0..1200 {
            let said = std::fs::read_to_string(&out).expect("its words");
            // The last line of its output, which it writes line by line.
            if said.contains("curl \"") && said.ends_with('\n') {
                let url = said.lines().next().and_then(|line| line.rsplit(' ').next()).unwrap_or_default();
                return Self { child, url: url.to_owned(), out };
            }
            if child.try_wait().expect("its state").is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = child.kill();
        let log = std::fs::read_to_string(data.with_extension("err")).unwrap_or_default();
        panic!("the server did not start: {log}");
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.out).expect("its words")
    }

    /// The status of a list with `key` (without `ak-`).
    fn list(&self, key: &str) -> u16 {
        let host = self.url.split("://").nth(1).expect("an address");
        let request = format!(
            "GET /v1/secrets HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nAuthorization: Bearer ak-{key}\r\n\r\n"
        );
        let mut stream = std::net::TcpStream::connect(host).expect("it listens");
        std::io::Write::write_all(&mut stream, request.as_bytes()).expect("sent");
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut stream, &mut bytes).expect("a response");
        Reply::parse(&bytes).status
    }

    /// Kills it, as a crash would.
    fn kill(mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it ends");
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The key in `DIR/bootstrap.env`.
fn bootstrap_key(data: &Path) -> String {
    let text = std::fs::read_to_string(data.join("bootstrap.env")).expect("bootstrap.env");
    let line = text.lines().find_map(|line| line.strip_prefix("AGENTROUTER_API_KEY="));
    line.expect("a key").to_owned()
}
