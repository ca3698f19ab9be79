//! Running a list of steps: one after the other, each with its time, all of them whatever fails.
//!
//! A step prints what it does to the same stdout and stderr, in full, so that a reader of a log sees the cause where it
//! happened; the summary at the end only says which one to look for.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::process::Workspace;

/// One thing that is checked.
pub(crate) struct Step {
    /// A word for it, as `--only` and the summary have it.
    pub(crate) name: &'static str,
    /// What it shows, for people.
    pub(crate) what: &'static str,
    /// Whether it runs with `--full` alone.
    pub(crate) full_only: bool,
    /// The work. An error is a failure of the step.
    pub(crate) run: fn(&Workspace) -> Result<Outcome>,
}

/// How a step ended that did not fail.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// All is well; with a few words on what was seen.
    Passed(String),
    /// It could not be checked for a reason outside the project. Said in the summary, and no failure.
    NotChecked(String),
}

/// What became of a step.
pub(crate) struct Report {
    name: &'static str,
    took: Duration,
    result: Result<Outcome>,
}

impl Report {
    /// Whether the step did not fail.
    pub(crate) fn is_well(&self) -> bool {
        self.result.is_ok()
    }
}

/// The steps to run: those named in `only`, else all but the ones for `--full`.
///
/// # Errors
/// When a name in `only` is none of a step; the message lists those there are.
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

/// Runs the steps in order, announcing each.
pub(crate) fn run_all(steps: &[&Step], workspace: &Workspace) -> Vec<Report> {
    let mut reports = Vec::with_capacity(steps.len());
    for (index, step) in steps.iter().enumerate() {
        println!("\n==> [{}/{}] {}: {}", index + 1, steps.len(), step.name, step.what);
        // The programs that a step starts write to the same stdout, past this process's buffer.
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

/// The table that ends a run, and the sentence under it.
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
        reports.iter().filter(|report| !report.is_well()).map(|report| report.name).collect();
    let verdict = if failed.is_empty() {
        "all is well".to_owned()
    } else {
        format!("{} of {} steps failed: {}", failed.len(), reports.len(), failed.join(", "))
    };
    let _ = write!(text, "{verdict} ({})", seconds(total));
    text
}

fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    #[expect(clippy::disallowed_methods, reason = "the time of a step is for people and decides nothing")]
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
    fn a_step_that_does_not_exist_is_an_error_and_not_an_empty_run() {
        let error = choose(STEPS, false, &["god".to_owned()]).err().expect("refused").to_string();
        assert_eq!(error, "there is no step 'god'; there are good, bad, far");
    }

    #[test]
    fn a_failure_stops_nothing_and_is_named_at_the_end() {
        let chosen = choose(STEPS, true, &[]).expect("steps");
        let reports = run_all(&chosen, &Workspace::at("/nowhere"));
        assert_eq!(reports.iter().map(Report::is_well).collect::<Vec<_>>(), [true, false, true]);
        let text = summary(&reports);
        assert!(text.contains("1 of 3 steps failed: bad"), "{text}");
        assert!(text.contains("broken") && text.contains("NOT CHECKED"), "{text}");
        assert!(summary(&reports[..1]).contains("all is well"));
    }
}
