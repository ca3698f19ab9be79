//! A server process for tests.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// The time-out of a start, generous for a debug build on a busy machine.
const START: Duration = Duration::from_secs(60);

/// A server process on a free port of 127.0.0.1. It is killed when dropped.
pub struct ServerProcess {
    child: Child,
    binary: PathBuf,
    data_dir: PathBuf,
    /// Its base URL, such as `http://127.0.0.1:40001` or `unix:/run/s.sock`.
    pub url: String,
}

impl ServerProcess {
    /// Starts `binary serve` on `data_dir` with `args`, and waits until it listens. Its log goes to `DATA_DIR.log` beside
    /// the directory.
    ///
    /// # Panics
    /// When it does not start. The panic has its log.
    pub fn start(binary: &Path, data_dir: &Path, args: &[&str]) -> Self {
        Self::start_with(binary, data_dir, args, &[])
    }

    /// As [`ServerProcess::start`], with additional environment variables.
    ///
    /// # Panics
    /// When it does not start. The panic has its log.
    pub fn start_with(binary: &Path, data_dir: &Path, args: &[&str], env: &[(&str, &str)]) -> Self {
        Self::spawn(binary, data_dir, "127.0.0.1:0", args, env)
    }

    /// A server on another address than a free port: its `url` is that address.
    ///
    /// # Panics
    /// When it does not start. The panic has its log.
    pub fn start_at(binary: &Path, data_dir: &Path, listen: &str) -> Self {
        Self::spawn(binary, data_dir, listen, &[], &[])
    }

    fn spawn(binary: &Path, data_dir: &Path, listen: &str, args: &[&str], env: &[(&str, &str)]) -> Self {
        let log_path = Self::log_of(data_dir);
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&log_path).expect("a log file");
        let mut child = Command::new(binary)
            .args(["serve", "--listen", listen, "--data-dir"])
            .arg(data_dir)
            .args(args)
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("the server binary runs");
        let stdout = child.stdout.take().expect("piped");
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // After the first line the receiver is closed. The pipe is still drained.
                let _ = sender.send(line);
            }
        });
        let Ok(first) = receiver.recv_timeout(START) else {
            let _ = child.kill();
            let _ = child.wait();
            panic!("the server did not start: {}", std::fs::read_to_string(&log_path).unwrap_or_default());
        };
        // A string in the JSON object of the line, or a word of the text.
        let words = &mut first.split(['"', ' ', ',']);
        let url = words.find(|word| word.starts_with("http") || word.starts_with("unix:"));
        let url =
            url.unwrap_or_else(|| panic!("the server's first line names its address: {first}")).to_owned();
        Self { child, binary: binary.to_owned(), data_dir: data_dir.to_owned(), url }
    }

    /// The path of the log of a server on `data_dir`.
    pub fn log_of(data_dir: &Path) -> PathBuf {
        let mut path = data_dir.as_os_str().to_owned();
        path.push(".log");
        path.into()
    }

    /// `host:port`.
    ///
    /// # Panics
    /// Never: the URL has a scheme.
    pub fn authority(&self) -> &str {
        self.url.split_once("://").expect("a URL").1
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its data directory.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The first key, from `bootstrap.env`, without `ak-`.
    ///
    /// # Panics
    /// When the file or the key in it is missing.
    pub fn bootstrap_key(&self) -> String {
        let text = std::fs::read_to_string(self.data_dir.join("bootstrap.env")).expect("bootstrap.env");
        let line = text.lines().find_map(|line| line.strip_prefix("AGENTROUTER_API_KEY="));
        line.expect("a key").to_owned()
    }

    /// Issues a key by `key create` on this server's data directory. Returns it without `ak-`.
    ///
    /// # Panics
    /// When the command fails.
    pub fn issue_key(&self, args: &[&str]) -> String {
        let output = Command::new(&self.binary)
            .args(["key", "create", "--data-dir"])
            .arg(&self.data_dir)
            .args(args)
            .output()
            .expect("the binary runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        text.trim().strip_prefix("AGENTROUTER_API_KEY=").expect("a key").to_owned()
    }

    /// Kills it with SIGKILL.
    ///
    /// # Panics
    /// When it cannot be killed.
    pub fn kill(mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it ends");
    }

    /// Sends it SIGTERM and waits until it exits.
    ///
    /// # Panics
    /// When the signal cannot be sent.
    pub fn stop(mut self) -> ExitStatus {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &id]).status().expect("kill runs");
        assert!(sent.success());
        self.child.wait().expect("it ends")
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
