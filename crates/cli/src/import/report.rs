//! The report of an import: what became of each variable.

use serde::Serialize;

use crate::args::{Format, Import, OnDifference};
use crate::dotenv::Entry;
use crate::failure::Failure;
use crate::output::{Output, Table};

use super::compare::State;

/// What became of one variable. Versions are the active ones afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Created { version: i32 },
    Updated { version: i32 },
    Rotated { version: i32 },
    Unchanged { version: i32 },
    Kept,
    Skipped { why: String },
    Failed { why: String },
    WouldCreate,
    WouldUpdate { version: i32 },
    WouldRotate { version: i32 },
    WouldKeep,
}

const KEPT: &str = "has another value; --replace or --rotate writes the new one";

impl Outcome {
    pub(super) fn skipped(why: impl Into<String>) -> Self {
        Self::Skipped { why: why.into() }
    }

    pub(super) fn failed(why: impl Into<String>) -> Self {
        Self::Failed { why: why.into() }
    }

    /// What an import would do.
    pub(super) fn planned(state: &State, on_difference: OnDifference) -> Self {
        match (state, on_difference) {
            (State::Unchanged { version, .. }, _) => Self::WouldUpdate { version: *version },
            (State::Differs { .. }, OnDifference::Keep) => Self::WouldKeep,
            (State::Differs { version }, OnDifference::Replace) => Self::WouldUpdate { version: *version },
            (State::Differs { version }, OnDifference::Rotate) => Self::WouldRotate { version: *version },
            (State::Unknown, _) => {
                Self::failed("whether it exists is not known; that needs the scope secrets/read")
            }
            (State::Absent | State::Skipped(_) | State::Failed(_), _) => Self::WouldCreate,
        }
    }

    const fn word(&self) -> &'static str {
        match self {
            Self::Created { .. } => "created",
            Self::Updated { .. } => "updated",
            Self::Rotated { .. } => "rotated",
            Self::Unchanged { .. } => "unchanged",
            Self::Kept => "kept",
            Self::Skipped { .. } => "skipped",
            Self::Failed { .. } => "failed",
            Self::WouldCreate => "would_create",
            Self::WouldUpdate { .. } => "would_update",
            Self::WouldRotate { .. } => "would_rotate",
            Self::WouldKeep => "would_keep",
        }
    }

    const fn version(&self) -> i32 {
        match self {
            Self::Created { version }
            | Self::Updated { version }
            | Self::Rotated { version }
            | Self::Unchanged { version }
            | Self::WouldUpdate { version }
            | Self::WouldRotate { version } => *version,
            _ => 0,
        }
    }

    fn why(&self) -> &str {
        match self {
            Self::Skipped { why } | Self::Failed { why } => why,
            Self::Kept | Self::WouldKeep => KEPT,
            _ => "",
        }
    }
}

/// One variable in the report.
#[derive(Debug, Serialize)]
pub(super) struct Line {
    name: String,
    line: usize,
    outcome: &'static str,
    /// The version that is active now; 0 if that is not known.
    version: i32,
    /// Why it was not stored; else empty.
    why: String,
}

impl Line {
    pub(super) fn new(entry: &Entry, outcome: Outcome) -> Self {
        Self {
            name: entry.name.clone(),
            line: entry.line,
            outcome: outcome.word(),
            version: outcome.version(),
            why: outcome.why().to_owned(),
        }
    }
}

/// What `-o json` and `-o yaml` print.
#[derive(Debug, Serialize)]
struct Report {
    realm: String,
    dry_run: bool,
    created: usize,
    updated: usize,
    rotated: usize,
    unchanged: usize,
    kept: usize,
    skipped: usize,
    failed: usize,
    secrets: Vec<Line>,
}

/// Prints the report. What to do next, if a secret was kept or failed.
///
/// # Errors
/// When the report cannot be written.
pub(super) fn print(
    output: Output,
    task: &Import,
    lines: Vec<Line>,
) -> Result<Option<&'static str>, Failure> {
    let report = Report::new(task, lines);
    let print = || {
        output.print(&report, || table(&report.secrets))?;
        match output.format {
            Format::Table => output.bytes(format!("{}\n", report.summary()).as_bytes()),
            Format::Json | Format::Yaml => Ok(()),
        }
    };
    print().map_err(|failure: Failure| failure.after(|| report.summary()))?;
    Ok(match (report.failed, report.kept) {
        (1.., _) => Some("correct what WHY names and import the file again; what is stored stays unchanged"),
        (0, 1..) => Some("secrets with another value were kept; --rotate or --replace writes the new values"),
        (0, 0) => None,
    })
}

impl Report {
    fn new(task: &Import, lines: Vec<Line>) -> Self {
        let count =
            |outcomes: [&str; 2]| lines.iter().filter(|line| outcomes.contains(&line.outcome)).count();
        Self {
            realm: task.realm.clone(),
            dry_run: task.dry_run,
            created: count(["created", "would_create"]),
            updated: count(["updated", "would_update"]),
            rotated: count(["rotated", "would_rotate"]),
            unchanged: count(["unchanged"; 2]),
            kept: count(["kept", "would_keep"]),
            skipped: count(["skipped"; 2]),
            failed: count(["failed"; 2]),
            secrets: lines,
        }
    }

    /// `realm mcp: 11 created, 1 skipped`.
    fn summary(&self) -> String {
        let counts = if self.dry_run {
            ["to create", "to update", "to rotate", "unchanged", "to keep", "to skip", "would fail"]
        } else {
            ["created", "updated", "rotated", "unchanged", "kept", "skipped", "failed"]
        };
        let numbers =
            [self.created, self.updated, self.rotated, self.unchanged, self.kept, self.skipped, self.failed];
        let counted: Vec<String> = numbers
            .iter()
            .zip(counts)
            .filter(|(number, _)| **number > 0)
            .map(|(number, word)| format!("{number} {word}"))
            .collect();
        let counted = if counted.is_empty() { "nothing to import".to_owned() } else { counted.join(", ") };
        let dry = if self.dry_run { "; nothing was stored" } else { "" };
        format!("realm {}: {counted}{dry}", self.realm)
    }
}

fn table(lines: &[Line]) -> Table {
    let rows = lines.iter().map(|line| {
        let version = if line.version == 0 { String::new() } else { line.version.to_string() };
        vec![line.name.clone(), line.outcome.replace('_', " "), version, line.why.clone()]
    });
    Table::new(vec!["NAME", "OUTCOME", "VERSION", "WHY"], rows.collect(), "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    fn task(line: &str) -> Import {
        let cli = crate::args::Cli::try_parse_from(line.split(' ')).expect("valid");
        match cli.command {
            crate::args::Command::Secret(crate::args::SecretTask::Import(task)) => task,
            other => panic!("{other:?}"),
        }
    }

    fn line(outcome: Outcome) -> Line {
        let entries = crate::dotenv::parse("N=v").expect("valid");
        Line::new(&entries[0], outcome)
    }

    #[test]
    fn the_summary_counts_every_line_once() {
        let lines = [
            Outcome::Created { version: 1 },
            Outcome::Created { version: 1 },
            Outcome::Updated { version: 2 },
            Outcome::Unchanged { version: 2 },
            Outcome::Kept,
            Outcome::skipped("w"),
        ];
        let report = Report::new(&task("tare secret import f --realm mcp"), lines.map(line).into());
        assert_eq!(report.summary(), "realm mcp: 2 created, 1 updated, 1 unchanged, 1 kept, 1 skipped");
        let report = Report::new(
            &task("tare secret import f --realm mcp --dry-run"),
            vec![line(Outcome::WouldCreate), line(Outcome::WouldRotate { version: 1 })],
        );
        assert_eq!(report.summary(), "realm mcp: 1 to create, 1 to rotate; nothing was stored");
        let report = Report::new(&task("tare secret import f --realm mcp"), Vec::new());
        assert_eq!(report.summary(), "realm mcp: nothing to import");
    }
}
