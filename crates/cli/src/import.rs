//! `tare secret import`: every variable of a `.env` file becomes a secret.
//!
//! The file is read whole and checked before anything is sent. A secret that cannot be stored does not stop the others;
//! a server that cannot be reached does, since it would fail all of them, each after its timeout. No value is shown.

use std::collections::HashMap;

use agentrouter_sdk::secret::v1::{CreateSecretRequest, GetSecretRequest};
use agentrouter_sdk::{Error, SecretClient};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::api::tags;
use crate::args::{Format, Import};
use crate::dotenv::{self, Entry};
use crate::failure::{Failure, warn};
use crate::message::one_line;
use crate::output::{Output, Table};
use crate::value::read_text;

/// The largest file that is read, in bytes.
const MOST: usize = 16 * 1024 * 1024;

/// What became of one variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Created,
    Updated,
    Skipped,
    Failed,
    WouldCreate,
    WouldUpdate,
}

impl Outcome {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Updated => "updated",
            Self::Skipped => "skipped",
            Self::Failed => "failed",
            Self::WouldCreate => "would create",
            Self::WouldUpdate => "would update",
        }
    }
}

/// One variable in the report.
#[derive(Debug, Serialize)]
struct Line {
    name: String,
    line: usize,
    outcome: Outcome,
    /// The version that is active now; 0 if nothing was stored.
    version: i32,
    /// Why it was skipped or failed; else empty.
    why: String,
}

/// What `-o json` and `-o yaml` print.
#[derive(Debug, Serialize)]
struct Report {
    realm: String,
    dry_run: bool,
    created: usize,
    updated: usize,
    skipped: usize,
    failed: usize,
    secrets: Vec<Line>,
}

/// Imports the file and prints what became of each variable.
///
/// # Errors
/// When the file cannot be read, the server cannot be reached, or at least one secret could not be stored.
pub(crate) async fn import(client: &SecretClient, output: Output, task: &Import) -> Result<(), Failure> {
    let entries = read(task)?;
    let tags: HashMap<String, String> = tags(task.tags.clone())?;
    let last: HashMap<&str, usize> = entries.iter().map(|entry| (entry.name.as_str(), entry.line)).collect();
    let progress = progress(entries.len());
    let mut lines = Vec::with_capacity(entries.len());
    let mut unreachable = None;
    for entry in &entries {
        progress.set_message(entry.name.clone());
        let overridden_at = last.get(entry.name.as_str()).copied().filter(|at| *at != entry.line);
        let (outcome, version, why) = match (&unreachable, overridden_at) {
            (Some(_), _) => (Outcome::Skipped, 0, "not tried".to_owned()),
            (None, Some(at)) => (Outcome::Skipped, 0, format!("line {at} sets it again")),
            (None, None) if entry.value.is_empty() => (Outcome::Skipped, 0, "the value is empty".to_owned()),
            (None, None) => match store(client, task, &tags, entry).await {
                Ok((outcome, version)) => (outcome, version, String::new()),
                Err(error) => {
                    let why = one_line(&error);
                    unreachable = error.is_transport().then_some(error);
                    (Outcome::Failed, 0, why)
                }
            },
        };
        lines.push(Line { name: entry.name.clone(), line: entry.line, outcome, version, why });
        progress.inc(1);
    }
    progress.finish_and_clear();
    for entry in entries.iter().filter(|entry| entry.looks_expandable) {
        warn(&format!("line {}: the '${{' in {} is taken as it is, not expanded", entry.line, entry.name));
    }
    conclude(output, task, lines, unreachable)
}

fn read(task: &Import) -> Result<Vec<Entry>, Failure> {
    let text = read_text(&task.file, MOST, "a file has at most 16 MiB")?;
    let entries = dotenv::parse(&text).map_err(|unreadable| {
        let lines: String = unreadable.iter().map(|error| format!("\n  {error}")).collect();
        Failure::usage(
            format!("the file cannot be read; nothing was stored{lines}"),
            "see 'tare secret import --help'",
        )
    })?;
    if entries.is_empty() {
        warn("there are no variables in the file");
    }
    Ok(entries)
}

async fn store(
    client: &SecretClient,
    task: &Import,
    tags: &HashMap<String, String>,
    entry: &Entry,
) -> Result<(Outcome, i32), Error> {
    if task.dry_run {
        let request = GetSecretRequest { name: entry.name.clone(), realm: task.realm.clone() };
        return match client.get_secret(request).await {
            Ok(answer) => Ok((Outcome::WouldUpdate, answer.secret.version)),
            Err(error) if error.is_not_found() => Ok((Outcome::WouldCreate, 0)),
            Err(error) => Err(error),
        };
    }
    let request = CreateSecretRequest {
        name: entry.name.clone(),
        realm: task.realm.clone(),
        value: (*entry.value).clone(),
        tags: tags.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
        user_id: task.user_id.clone().unwrap_or_default(),
        ..Default::default()
    };
    let version = client.create_secret(request).await?.secret.version;
    // A value that replaces another makes version 2 or later.
    Ok((if version == 1 { Outcome::Created } else { Outcome::Updated }, version))
}

fn conclude(
    output: Output,
    task: &Import,
    lines: Vec<Line>,
    unreachable: Option<Error>,
) -> Result<(), Failure> {
    let count = |outcomes: &[Outcome]| lines.iter().filter(|line| outcomes.contains(&line.outcome)).count();
    let report = Report {
        realm: task.realm.clone(),
        dry_run: task.dry_run,
        created: count(&[Outcome::Created, Outcome::WouldCreate]),
        updated: count(&[Outcome::Updated, Outcome::WouldUpdate]),
        skipped: count(&[Outcome::Skipped]),
        failed: count(&[Outcome::Failed]),
        secrets: lines,
    };
    output.print(&report, || table(&report.secrets))?;
    if output.format == Format::Table {
        output.bytes(format!("{}\n", summary(&report)).as_bytes())?;
    }
    match unreachable {
        Some(error) => Err(error.into()),
        None if report.failed > 0 => Err(Failure::Told(
            "WHY says what to mend; the others are stored, and storing them again does no harm",
        )),
        None => Ok(()),
    }
}

fn table(lines: &[Line]) -> Table {
    let rows = lines.iter().map(|line| {
        let version = if line.version == 0 { String::new() } else { line.version.to_string() };
        vec![line.name.clone(), line.outcome.as_str().to_owned(), version, line.why.clone()]
    });
    Table::new(vec!["NAME", "OUTCOME", "VERSION", "WHY"], rows.collect(), "")
}

/// `realm mcp: 11 created, 1 updated, 1 skipped, 0 failed`.
fn summary(report: &Report) -> String {
    let Report { realm, created, updated, skipped, failed, .. } = report;
    if report.dry_run {
        return format!(
            "realm {realm}: {created} to create, {updated} to update, {skipped} to skip, {failed} would fail; nothing was stored"
        );
    }
    format!("realm {realm}: {created} created, {updated} updated, {skipped} skipped, {failed} failed")
}

/// A bar on stderr, if that is a terminal.
fn progress(count: usize) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(count as u64), ProgressDrawTarget::stderr());
    match ProgressStyle::with_template("{bar:30} {pos:>4}/{len} {wide_msg}") {
        Ok(style) => bar.with_style(style.progress_chars("=> ")),
        Err(_) => bar,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_counts_every_line_once() {
        let line = |outcome| Line { name: "N".into(), line: 1, outcome, version: 0, why: String::new() };
        let task =
            Import { file: "f".into(), realm: "mcp".into(), dry_run: false, tags: Vec::new(), user_id: None };
        let outcomes = [Outcome::Created, Outcome::Created, Outcome::Updated, Outcome::Skipped];
        let lines: Vec<Line> = outcomes.into_iter().map(line).collect();
        let report = Report {
            realm: task.realm,
            dry_run: task.dry_run,
            created: 2,
            updated: 1,
            skipped: 1,
            failed: 0,
            secrets: lines,
        };
        assert_eq!(summary(&report), "realm mcp: 2 created, 1 updated, 1 skipped, 0 failed");
    }
}
