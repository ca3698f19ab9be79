//! The plugin's program as a child, and the server's client of it.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use agentrouter_kms_api::client::{Plugin, PluginError, Wrapped};
use tempfile::TempDir;
use tokio::time::Instant;

/// The longest wait for anything that a test waits for.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// What is wrapped.
pub(crate) const SECRET: &[u8] = b"a key encryption key, 32 bytes..";

/// A running plugin. It ends when it is dropped.
pub(crate) struct Running {
    child: Child,
    log: mpsc::Receiver<String>,
    lines: Vec<String>,
    pub(crate) socket: PathBuf,
    pub(crate) api: Plugin,
    _folder: TempDir,
}

impl Running {
    /// Starts the plugin and waits until it serves.
    pub(crate) fn start(provider: &str, key: &str, environment: &[(&str, &OsStr)]) -> Self {
        Self::start_at(provider, key, None, environment)
    }

    /// Starts the plugin with an address of the provider's API.
    pub(crate) fn start_at(
        provider: &str,
        key: &str,
        address: Option<&str>,
        environment: &[(&str, &OsStr)],
    ) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("run/kms.sock");
        let mut child = Command::new(env!("CARGO_BIN_EXE_agentrouter-secrets-kms"))
            .args([provider, "--child", "--key", key, "--socket"])
            .arg(&socket)
            .args(address.iter().flat_map(|address| ["--endpoint", address]))
            .env_clear()
            .env("HOME", folder.path())
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the plugin starts");
        let (sender, log) = mpsc::channel();
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        std::thread::spawn(move || {
            stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        let api = Plugin::new(&socket, LONG);
        let mut running = Self { child, log, lines: Vec::new(), socket, api, _folder: folder };
        running.wait_for("serving");
        running
    }

    /// Waits for a line of the log.
    pub(crate) fn wait_for(&mut self, text: &str) {
        while !self.lines.last().is_some_and(|line| line.contains(text)) {
            match self.log.recv_timeout(LONG) {
                Ok(line) => self.lines.push(line),
                Err(_) => panic!("no {text:?} in:\n{}", self.lines.join("\n")),
            }
        }
    }

    /// Closes the standard input. Returns the whole log when the plugin has ended.
    pub(crate) async fn end(self) -> String {
        // The client's connection needs this runtime to take part in the end.
        tokio::task::spawn_blocking(|| self.close()).await.expect("no panic")
    }

    fn close(mut self) -> String {
        drop(self.child.stdin.take());
        while let Ok(line) = self.log.recv_timeout(LONG) {
            self.lines.push(line);
        }
        assert!(self.child.wait().expect("ended").success(), "{}", self.lines.join("\n"));
        assert!(!self.socket.exists(), "the socket was left");
        self.lines.join("\n")
    }

    /// The id of the key that encrypts.
    pub(crate) async fn key_id(&self) -> String {
        let status = self.api.status().await.expect("the root is there");
        assert_eq!((status.version.as_str(), status.healthz.as_str()), ("v2", "ok"));
        status.key_id
    }

    /// Encrypts [`SECRET`]. The key's id is that of Status.
    pub(crate) async fn encrypt(&self) -> Wrapped {
        let wrapped = self.api.encrypt(SECRET, "uid-1").await.expect("encrypted");
        assert_eq!(wrapped.key_id, self.key_id().await);
        assert!(!wrapped.ciphertext.windows(8).any(|part| SECRET.windows(8).any(|secret| secret == part)));
        wrapped
    }

    /// Checks that this decrypts to [`SECRET`].
    pub(crate) async fn decrypt(&self, wrapped: &Wrapped) {
        assert_eq!(**self.api.decrypt(wrapped, "uid-2").await.expect("decrypted"), *SECRET);
    }

    /// Checks that no changed byte of the ciphertext decrypts, and no shorter one.
    pub(crate) async fn refuses_changes(&self, wrapped: &Wrapped) {
        self.refuses_changes_from(wrapped, 0).await;
    }

    /// As [`Self::refuses_changes`], from this byte on.
    pub(crate) async fn refuses_changes_from(&self, wrapped: &Wrapped, first: usize) {
        let length = wrapped.ciphertext.len();
        for at in [first, (first + length) / 2, length - 1] {
            let mut changed = wrapped.clone();
            changed.ciphertext[at] ^= 1;
            self.decrypt_fails(&changed, "the root key did not make this ciphertext").await;
        }
        let shorter = Wrapped { ciphertext: wrapped.ciphertext[..length - 1].to_vec(), ..wrapped.clone() };
        self.decrypt_fails(&shorter, "the root key did not make this ciphertext").await;
    }

    /// Checks that this does not decrypt, with a text.
    pub(crate) async fn decrypt_fails(&self, wrapped: &Wrapped, text: &str) {
        let error = self.api.decrypt(wrapped, "uid-3").await.expect_err("refused").to_string();
        assert!(error.contains(text), "{error}");
    }

    /// Repeats Status until it succeeds.
    pub(crate) async fn recovers(&self) -> String {
        let start = Instant::now();
        loop {
            match self.api.status().await {
                Ok(status) => return status.key_id,
                Err(error) => assert!(start.elapsed() < LONG, "{error}"),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Checks that the failure is an outage: the server keeps its keys.
pub(crate) fn is_outage<T: std::fmt::Debug>(result: Result<T, PluginError>) {
    let error = result.expect_err("an outage");
    assert!(matches!(error, PluginError::Unreachable { .. } | PluginError::Silent), "{error:?}");
}

/// Checks that the failure is a denial with this text: the server drops its keys.
pub(crate) fn is_denied<T: std::fmt::Debug>(result: Result<T, PluginError>, text: &str) {
    let error = result.expect_err("a denial");
    assert!(matches!(&error, PluginError::Denied { what } if what.contains(text)), "{error:?}");
}
