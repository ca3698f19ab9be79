//! Anchors of the audit log: targets outside of this host's control that keep the latest checkpoint. A target is a file, a
//! command or an HTTP endpoint.
//!
//! A task makes a checkpoint every `audit.checkpoint-interval` if there are new records, and one when the server stops, and
//! hands it to each target of the settings. A target that fails gets the next checkpoint: only the newest is needed. No
//! request waits for any of this.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agentrouter_audit::Audit;
use agentrouter_instance::durable_file;
use agentrouter_instance::settings::Settings;
use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http::{Request, header};
use http_body_util::Full;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::https::{HttpsClient, client};

/// The longest time for one target.
const DELIVERY: Duration = Duration::from_secs(10);

/// Counters of all anchors since the start, for metrics.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Checkpoints that a target took.
    pub(crate) kept: AtomicU64,
    /// Checkpoints that a target did not take.
    pub(crate) failed: AtomicU64,
}

/// A process has one set of anchors.
pub(crate) static COUNTS: Counts = Counts { kept: AtomicU64::new(0), failed: AtomicU64::new(0) };

/// The targets of checkpoints.
pub(crate) struct Anchors {
    targets: Vec<Target>,
    every: Duration,
    audit: Audit,
    /// The last record of the newest checkpoint that all targets took.
    kept: u64,
}

struct Target {
    /// The setting that names it.
    setting: &'static str,
    way: Way,
    failing: bool,
}

enum Way {
    File(PathBuf),
    Command(PathBuf),
    Http(http::Uri, Box<HttpsClient>),
}

impl Anchors {
    /// The anchors of the settings, if there are any.
    ///
    /// # Errors
    /// When a setting cannot be used.
    pub(crate) fn of(settings: &Settings, audit: &Audit) -> anyhow::Result<Option<Self>> {
        let mut targets = Vec::new();
        let mut add = |setting, way| targets.push(Target { setting, way, failing: false });
        if let Some(path) = &settings.audit_checkpoint_file {
            ensure!(path.file_name().is_some(), "audit.checkpoint-file must be the path of a file");
            add("audit.checkpoint-file", Way::File(path.clone()));
        }
        if let Some(path) = &settings.audit_checkpoint_command {
            add("audit.checkpoint-command", Way::Command(path.clone()));
        }
        if let Some(url) = &settings.audit_checkpoint_url {
            add("audit.checkpoint-url", Way::Http(url.parse()?, Box::new(client(None)?)));
        }
        let every = settings.audit_checkpoint_interval;
        let anchors = Self { targets, every, audit: audit.clone(), kept: 0 };
        Ok((!anchors.targets.is_empty()).then_some(anchors))
    }

    /// Runs until the future is dropped. If that happens during a delivery, some targets get the checkpoint again.
    pub(crate) async fn run(&mut self) {
        let mut tick = interval(self.every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.keep().await;
        }
    }

    /// Delivers a checkpoint of the present log to all targets, unless they have it.
    pub(crate) async fn keep(&mut self) {
        let last = self.audit.synced_head().seq;
        if last == self.kept {
            return;
        }
        let audit = self.audit.clone();
        let note = match tokio::task::spawn_blocking(move || audit.checkpoint()).await {
            Ok(Ok(note)) => note,
            Ok(Err(error)) => {
                COUNTS.failed.fetch_add(1, Ordering::Relaxed);
                let error = &error as &dyn std::error::Error;
                return tracing::error!(error, "a checkpoint of the audit log could not be made");
            }
            Err(_) => return,
        };
        let mut all = true;
        for target in &mut self.targets {
            all &= target.deliver(&note).await;
        }
        if all {
            self.kept = last;
        }
    }
}

impl Target {
    /// Whether the target took the checkpoint. Logs only when that changes, so that an absent target does not fill the log.
    async fn deliver(&mut self, note: &str) -> bool {
        let delivered = timeout(DELIVERY, self.way.deliver(note)).await;
        let delivered = delivered.unwrap_or_else(|_| Err(anyhow::anyhow!("it took longer than 10 seconds")));
        let failed = delivered.is_err();
        let count = if failed { &COUNTS.failed } else { &COUNTS.kept };
        count.fetch_add(1, Ordering::Relaxed);
        match (delivered, std::mem::replace(&mut self.failing, failed)) {
            (Err(error), false) => tracing::warn!(
                error = &*error as &dyn std::error::Error,
                "checkpoints of the audit log cannot be kept by {}",
                self.setting
            ),
            (Ok(()), true) => {
                tracing::info!("checkpoints of the audit log are kept by {} again", self.setting)
            }
            _ => {}
        }
        !failed
    }
}

impl Way {
    async fn deliver(&self, note: &str) -> anyhow::Result<()> {
        match self {
            Self::File(path) => {
                let (path, note) = (path.clone(), note.to_owned());
                tokio::task::spawn_blocking(move || replace(&path, &note)).await?
            }
            Self::Command(path) => run(path, note).await,
            Self::Http(uri, client) => {
                let request = Request::post(uri.clone())
                    .header(header::CONTENT_TYPE, "text/plain; charset=utf-8")
                    .header(header::USER_AGENT, concat!("agentrouter-secrets/", env!("CARGO_PKG_VERSION")))
                    .body(Full::from(Bytes::copy_from_slice(note.as_bytes())))?;
                let response = client.request(request).await?;
                ensure!(response.status().is_success(), "the endpoint responded {}", response.status());
                Ok(())
            }
        }
    }
}

fn replace(path: &Path, note: &str) -> anyhow::Result<()> {
    let name = path.file_name().and_then(|name| name.to_str()).context("the file's name is not UTF-8")?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok(durable_file::replace(dir, name, note)?)
}

/// Runs a program with the checkpoint on its standard input. It gets `PATH` and nothing else of the environment, which may
/// have passwords.
async fn run(path: &Path, note: &str) -> anyhow::Result<()> {
    let mut child = Command::new(path)
        .env_clear()
        .envs(std::env::var_os("PATH").map(|value| ("PATH", value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context("the program cannot be run")?;
    if let Some(mut input) = child.stdin.take() {
        // A program that needs no input may have closed it. Its exit status decides.
        let _ = input.write_all(note.as_bytes()).await;
    }
    let status = child.wait().await?;
    ensure!(status.success(), "the program failed: {status}");
    Ok(())
}
