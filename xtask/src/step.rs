//! Runner of a list of steps: one after the other, each timed, all of them even if one fails.
//!
//! A step prints its full output to the same stdout and stderr, so that a log has the cause of a failure where it happened.
//! The summary at the end names the failed steps.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::process::Workspace;

/// One check.
pub(crate) struct Step {
    /// Its name for `--only` and the summary.
    pub(crate) name: &'static str,
    /// What it checks, for people.
    pub(crate) what: &'static str,
    /// Whether it runs with `--full` only.
    pub(crate) full_only: bool,
    /// The check. An error is a failure of the step.
    pub(crate) run: fn(&Workspace) -> Result<Outcome>,
}

/// The outcome of a step that did not fail.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The step passed, with a note for the summary.
    Passed(String),
    /// The step could not run, for a reason outside the project. The summary has the reason. It is not a failure.
    NotChecked(String),
}

/// The result of a step.
pub(crate) struct Report {
    name: &'static str,
    took: Duration,
    result: Result<Outcome>,
}

impl Report {
    /// Whether the step did not fail.
    pub(crate) fn succeeded(&self) -> bool {
        self.result.is_ok()
    }
}

/// The steps to run: those named in `only`. If it is empty, all, or without `full` all but those for `--full`.
///
/// # Errors
/// When `only` has an unknown name. The message lists the steps.
pub(crate) fn choose<'a>(steps: &'a [Step], full: bool, only: &[String]) -> Result<Vec<&'a Step>> {
    for name in only {
        if !steps.iter().any(|step| step.name == name) {
            let names: Vec<_> = steps.iter().map(|step| step.name).collect();
            bail!("there is no step '{name}'; there are {}", names.join(", "));
        }
    }
    let chosen = |step: &&Step| {
        if only.is_empty() { full || !step.full_only } else { only.iter().any(|name| name == step.name) }
    };
    Ok(steps.iter().filter(chosen).collect())
}

/// Runs the steps in order and prints a line before and after each.
pub(crate) fn run_all(steps: &[&Step], workspace: &Workspace) -> Vec<Report> {
    let mut reports = Vec::with_capacity(steps.len());
    for (index, step) in steps.iter().enumerate() {
        println!("\n==> [{}/{}] {}: {}", index + 1, steps.len(), step.name, step.what);
        // Programs that a step starts write to the same stdout, not through this process's buffer.
        let _ = std::io::stdout().flush();
        let (took, result) = timed(|| (step.run)(workspace));
        match &result {
            Ok(Outcome::Passed(note)) => println!("<== {}: ok, {}: {note}", step.name, seconds(took)),
            Ok(Outcome::NotChecked(why)) => {
                println!("<== {}: NOT CHECKED, {}: {why}", step.name, seconds(took));
            }
            Err(error) => println!("<== {}: FAILED, {}: {error:#}", step.name, seconds(took)),
        }
        let _ = std::io::stdout().flush();
        reports.push(Report { name: step.name, took, result });
    }
    reports
}

/// The table of results, and a sentence below it.
pub(crate) fn summary(reports: &[Report]) -> String {
    let mut text = String::from("\nSummary\n");
    for Report { name, took, result } in reports {
        let (mark, note) = match result {
            Ok(Outcome::Passed(note)) => ("ok", note.clone()),
            Ok(Outcome::NotChecked(why)) => ("NOT CHECKED", why.clone()),
            Err(error) => ("FAILED", format!("{error:#}")),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {name:<12} {mark:<11} {:>8}  {note}", seconds(*took));
    }
    let total: Duration = reports.iter().map(|report| report.took).sum();
    let failed: Vec<_> =
        reports.iter().filter(|report| !report.succeeded()).map(|report| report.name).collect();
    let verdict = if failed.is_empty() {
        "all steps passed".to_owned()
    } else {
        format!("{} of {} steps failed: {}", failed.len(), reports.len(), failed.join(", "))
    };
    let _ = write!(text, "{verdict} ({})", seconds(total));
    text
}

fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    #[expect(clippy::disallowed_methods, reason = "the time of a step is printed only")]
    let start = Instant::now();
    let result = work();
    (start.elapsed(), result)
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEPS: &[Step] = &[
        Step { name: "good", what: "", full_only: false, run: |_| Ok(Outcome::Passed("fine".into())) },
        Step { name: "bad", what: "", full_only: false, run: |_| bail!("broken") },
        Step { name: "far", what: "", full_only: true, run: |_| Ok(Outcome::NotChecked("no net".into())) },
    ];

    fn names(full: bool, only: &[&str]) -> Vec<&'static str> {
        let only: Vec<_> = only.iter().map(|&name| name.to_owned()).collect();
        choose(STEPS, full, &only).expect("known steps").iter().map(|step| step.name).collect()
    }

    #[test]
    fn full_adds_steps_and_only_names_them() {
        assert_eq!(names(false, &[]), ["good", "bad"]);
        assert_eq!(names(true, &[]), ["good", "bad", "far"]);
        assert_eq!(names(false, &["far", "good"]), ["good", "far"]);
    }

    #[test]
    fn an_unknown_step_is_an_error() {
        let error = choose(STEPS, false, &["god".to_owned()]).err().expect("refused").to_string();
        assert_eq!(error, "there is no step 'god'; there are good, bad, far");
    }

    #[test]
    fn the_steps_after_a_failure_run_and_the_summary_names_it() {
        let chosen = choose(STEPS, true, &[]).expect("steps");
        let reports = run_all(&chosen, &Workspace::at("/nowhere"));
        assert_eq!(reports.iter().map(Report::succeeded).collect::<Vec<_>>(), [true, false, true]);
        let text = summary(&reports);
        assert!(text.contains("1 of 3 steps failed: bad"), "{text}");
        assert!(text.contains("broken") && text.contains("NOT CHECKED"), "{text}");
        assert!(summary(&reports[..1]).contains("all steps passed"));
    }
}
