//! `tare secret import`: every variable of a `.env` file becomes a secret.
//!
//! The file is read whole and checked before anything is sent. Then each variable is compared with the stored secret, and
//! what differs is written. A stored value is never overwritten unless the caller asks for it. A secret that cannot be
//! stored does not stop the others. A server that cannot be reached does, and so does a signal; the report then says how
//! far the import came. No value is shown.

use std::collections::HashMap;

use agentrouter_sdk::secret::v1::{CreateSecretRequest, RotateSecretRequest};
use agentrouter_sdk::types;
use agentrouter_sdk::{Error, reason};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::api::tags;
use crate::args::{Import, OnDifference};
use crate::dotenv::{self, Entry};
use crate::failure::Failure;
use crate::message::one_line;
use crate::notice::warn;
use crate::output::Output;
use crate::paced_client::PacedClient;
use crate::terminal;
use crate::value::read_text;

mod compare;
mod report;
mod signal;

use compare::{State, compare};
use report::{Line, Outcome, print};
use signal::Signals;

/// The largest file that is read, in bytes.
const MOST: usize = 16 * 1024 * 1024;

/// Imports the file and prints what became of each variable.
///
/// # Errors
/// When the file cannot be read, the server cannot be reached, or at least one secret was not stored.
pub(crate) async fn import(client: &PacedClient, output: Output, task: &Import) -> Result<(), Failure> {
    let entries = read(task)?;
    let mut job = Job { client, task, tags: tags(task.tags.clone())?, on_difference: task.on_difference() };
    let states = compare(client, task, &entries, &job.tags).await;
    if job.on_difference == OnDifference::Keep && !task.dry_run {
        job.on_difference = ask(task, &entries, &states)?;
    }
    let progress = progress(entries.len());
    let mut signals = Signals::listen();
    let mut lines = Vec::with_capacity(entries.len());
    let (mut unreachable, mut interrupted) = (None, None);
    for (entry, state) in entries.iter().zip(states) {
        progress.set_message(entry.name.clone());
        let outcome = if unreachable.is_some() || interrupted.is_some() {
            Outcome::skipped("not tried")
        } else {
            tokio::select! {
                biased;
                status = signals.next() => {
                    interrupted = Some(status);
                    Outcome::failed("interrupted; it may be stored")
                }
                result = job.apply(entry, state) => result.unwrap_or_else(|error| {
                    let why = one_line(&error);
                    unreachable = error.is_transport().then_some(error);
                    Outcome::failed(why)
                }),
            }
        };
        lines.push(Line::new(entry, outcome));
        progress.inc(1);
    }
    progress.finish_and_clear();
    for entry in entries.iter().filter(|entry| entry.looks_expandable) {
        warn(&format!("line {}: the '${{' in {} is taken as it is, not expanded", entry.line, entry.name));
    }
    let advice = print(output, task, lines)?;
    match (interrupted, unreachable, advice) {
        (Some(status), ..) => Err(Failure::Interrupted { status }),
        (None, Some(error), _) => Err(error.into()),
        (None, None, Some(advice)) => Err(Failure::Reported(advice)),
        (None, None, None) => Ok(()),
    }
}

fn read(task: &Import) -> Result<Vec<Entry>, Failure> {
    let text = read_text(&task.file, MOST, "a file has at most 16 MiB")?;
    let entries = dotenv::parse(&text).map_err(|errors| Failure::unreadable("the file", &errors))?;
    if entries.is_empty() {
        warn("there are no variables in the file");
    }
    Ok(entries)
}

/// Asks on a terminal what to do with secrets that have another value.
fn ask(task: &Import, entries: &[Entry], states: &[State]) -> Result<OnDifference, Failure> {
    let differing: Vec<&str> = entries
        .iter()
        .zip(states)
        .filter(|(_, state)| matches!(state, State::Differs { .. }))
        .map(|(entry, _)| entry.name.as_str())
        .collect();
    if differing.is_empty() || !terminal::is_interactive() {
        return Ok(OnDifference::Keep);
    }
    let question = format!(
        "Stored in the realm {} with another value: {}\nWrite the new values? \
         [r]otate (the old ones stay readable for a grace period), \
         [o]verwrite (the old ones are unreadable at once), [N]o:",
        task.realm,
        differing.join(", "),
    );
    Ok(match terminal::ask(&question)?.as_str() {
        "r" | "rotate" if task.user_id.is_none() => OnDifference::Rotate,
        "o" | "overwrite" => OnDifference::Replace,
        _ => OnDifference::Keep,
    })
}

/// The writing half of an import.
struct Job<'a> {
    client: &'a PacedClient,
    task: &'a Import,
    tags: HashMap<String, String>,
    on_difference: OnDifference,
}

impl Job<'_> {
    /// Brings one secret from its state to the file's value, or says what that would do.
    async fn apply(&self, entry: &Entry, state: State) -> Result<Outcome, Error> {
        match (state, self.on_difference) {
            (State::Skipped(why), _) => Ok(Outcome::skipped(why)),
            (State::Failed(error), _) => Err(error),
            (State::Unchanged { version, tagged: true }, _) => Ok(Outcome::Unchanged { version }),
            (state, on_difference) if self.task.dry_run => Ok(Outcome::planned(&state, on_difference)),
            (State::Unchanged { version, tagged: false }, _) => {
                self.create(entry, "", Some(version)).await.map(|version| Outcome::Updated { version })
            }
            (State::Absent, _) => {
                self.create(entry, &entry.value, Some(0)).await.map(|version| Outcome::Created { version })
            }
            (State::Differs { .. }, OnDifference::Keep) => Ok(Outcome::Kept),
            (State::Differs { version }, OnDifference::Replace) => {
                let version = self.create(entry, &entry.value, Some(version)).await?;
                Ok(Outcome::Updated { version })
            }
            (State::Differs { version }, OnDifference::Rotate) => self.rotate(entry, Some(version)).await,
            (State::Unknown, OnDifference::Keep) => match self.create(entry, &entry.value, Some(0)).await {
                Ok(version) => Ok(Outcome::Created { version }),
                Err(error) if error.reason() == Some(reason::VERSION_MISMATCH) => Ok(Outcome::Kept),
                Err(error) => Err(error),
            },
            (State::Unknown, OnDifference::Replace) => {
                let version = self.create(entry, &entry.value, None).await?;
                // A value that replaces another makes version 2 or later.
                Ok(if version == 1 { Outcome::Created { version } } else { Outcome::Updated { version } })
            }
            (State::Unknown, OnDifference::Rotate) => match self.rotate(entry, None).await {
                Err(error) if error.is_not_found() => {
                    let version = self.create(entry, &entry.value, Some(0)).await?;
                    Ok(Outcome::Created { version })
                }
                result => result,
            },
        }
    }

    /// Creates or updates the secret. An empty value leaves a stored one as it is. The version that is active then.
    async fn create(&self, entry: &Entry, value: &str, expected_version: Option<i32>) -> Result<i32, Error> {
        let request = CreateSecretRequest {
            name: entry.name.clone(),
            realm: self.task.realm.clone(),
            value: value.to_owned(),
            tags: self.tags.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
            user_id: self.task.user_id.clone().unwrap_or_default(),
            expected_version,
            ..Default::default()
        };
        Ok(self.client.create_secret(request).await?.secret.version)
    }

    async fn rotate(&self, entry: &Entry, expected_version: Option<i32>) -> Result<Outcome, Error> {
        let request = RotateSecretRequest {
            name: entry.name.clone(),
            realm: self.task.realm.clone(),
            new_value: (*entry.value).clone(),
            expected_version,
            grace_period: self.task.grace_period.map(types::Duration::from).into(),
        };
        let version = self.client.rotate_secret(request).await?.secret.version;
        if !self.tags.is_empty() {
            self.create(entry, "", Some(version)).await?;
        }
        Ok(Outcome::Rotated { version })
    }
}

/// A bar on stderr, if that is a terminal.
fn progress(count: usize) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(count as u64), ProgressDrawTarget::stderr());
    match ProgressStyle::with_template("{bar:30} {pos:>4}/{len} {wide_msg}") {
        Ok(style) => bar.with_style(style.progress_chars("=> ")),
        Err(_) => bar,
    }
}
