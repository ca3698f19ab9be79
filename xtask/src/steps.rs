//! What `cargo xtask test` checks. To add a step, add a line to [`STEPS`].

use anyhow::{Result, bail};

use crate::process::Workspace;
use crate::step::{Outcome, Step};
use crate::{arrows, bench, console, deny, examples, generate, instructions, languages, sdk, tools};

const fn step(name: &'static str, what: &'static str, run: fn(&Workspace) -> Result<Outcome>) -> Step {
    Step { name, what, full_only: false, run }
}

const fn full(name: &'static str, what: &'static str, run: fn(&Workspace) -> Result<Outcome>) -> Step {
    Step { name, what, full_only: true, run }
}

/// In the order in which they run: the quick ones first, each on what those before it have built.
pub(crate) const STEPS: &[Step] = &[
    step("tools", "what the other steps call is installed", tools::provide),
    step("fmt", "the code is formatted", fmt),
    step("arrows", "the crates depend on each other inward only", arrows::check),
    step("console", "what the console's forms send is what was typed into them", console::check),
    step("clippy", "no lint has anything to say, in any target", clippy),
    step("tests", "all tests of the workspace pass", tests),
    step("instructions", "the hot paths take no more instructions than is on record", instructions::check),
    step("bench", "the benchmark measures what it says", bench::check),
    step("rustdoc", "the documentation builds, every link in it leads somewhere", rustdoc),
    step(
        "generate",
        "the SDKs' generated code is what the definition gives, and stays compatible",
        generate::check,
    ),
    step("sdk", "the tarballs that the server hands out are what the SDKs give", sdk::check),
    step("go", "the Go SDK does what it should, by itself and against a server", languages::go),
    step("python", "so does the Python SDK", languages::python),
    step("typescript", "so does the TypeScript SDK", languages::typescript),
    step(
        "examples",
        "the documented examples run from downloaded tarballs in fresh folders",
        examples::check,
    ),
    step("deny", "licences, banned crates and sources are in order", deny::check),
    full("histories", "many more simulated worlds and histories of several servers are fresh", histories),
    full("advisories", "no dependency has a known vulnerability", deny::check_advisories),
];

fn fmt(workspace: &Workspace) -> Result<Outcome> {
    workspace.cargo(&["fmt", "--all", "--check"]).run()?;
    Ok(Outcome::Passed("nothing to change".to_owned()))
}

fn clippy(workspace: &Workspace) -> Result<Outcome> {
    workspace.cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]).run()?;
    // A workspace of its own; in the same target directory, so that what both use is there already.
    let toy = ["clippy", "--manifest-path", bench::TOY, "--locked", "--", "-D", "warnings"];
    workspace.cargo(&toy).env("CARGO_TARGET_DIR", workspace.target()?).run()?;
    Ok(Outcome::Passed("no warning".to_owned()))
}

fn tests(workspace: &Workspace) -> Result<Outcome> {
    let mut tally = Tally::default();
    let well = workspace
        .cargo(&["test", "--workspace", "--locked", "--no-fail-fast"])
        .run_watched(|line| tally.look(line))?;
    let Tally { suites, passed, failed, ignored, failures } = tally;
    let seen = format!("{passed} passed, {failed} failed, {ignored} ignored in {suites} suites");
    // A run that tested nothing has shown nothing.
    if !well || failed > 0 || passed == 0 {
        bail!("{}", [&[seen], failures.as_slice()].concat().join("; "));
    }
    Ok(Outcome::Passed(seen))
}

/// What the tests do for a minute, for ten.
fn histories(workspace: &Workspace) -> Result<Outcome> {
    const RUNS: [(&str, &str, &str, &str); 2] = [
        ("agentrouter-lease", "simulator", "AGENTROUTER_MODEL_RUNS", "4000"),
        ("agentrouter-secrets", "replicas::histories", "AGENTROUTER_HISTORIES", "150"),
    ];
    for (package, filter, variable, count) in RUNS {
        let arguments = ["test", "--locked", "--package", package, filter, "--", "--nocapture"];
        workspace.cargo(&arguments).env(variable, count).run()?;
    }
    Ok(Outcome::Passed("4000 worlds, 150 histories".to_owned()))
}

fn rustdoc(workspace: &Workspace) -> Result<Outcome> {
    for private in [&[][..], &["--document-private-items"][..]] {
        let arguments = [&["doc", "--workspace", "--no-deps", "--locked"], private].concat();
        workspace.cargo(&arguments).env("RUSTDOCFLAGS", "-D warnings").run()?;
    }
    Ok(Outcome::Passed("public and private items".to_owned()))
}

/// What the test programs say, added up.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    suites: u32,
    passed: u32,
    failed: u32,
    ignored: u32,
    /// The names of those that failed.
    failures: Vec<String>,
}

impl Tally {
    /// Counts `line` if it is a closing line, `test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; …`, and
    /// keeps the name out of a line `test NAME ... FAILED`.
    fn look(&mut self, line: &str) {
        if let Some(name) = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED")) {
            self.failures.push(name.to_owned());
        }
        let Some((_verdict, counts)) =
            line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        self.suites += 1;
        for count in counts.split("; ") {
            let Some((number, what)) = count.split_once(' ') else { continue };
            let number = number.parse().unwrap_or(0);
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_add_up_and_others_do_not_count() {
        let mut tally = Tally::default();
        for line in [
            "running 5 tests",
            "test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "test a ... ok",
            "test b::c ... FAILED",
            "test result: FAILED. 2 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "the test result: ok. 9 passed; 9 failed",
        ] {
            tally.look(line);
        }
        assert_eq!(
            tally,
            Tally { suites: 2, passed: 7, failed: 3, ignored: 1, failures: vec!["b::c".to_owned()] }
        );
    }

    #[test]
    fn every_step_has_a_name_of_its_own() {
        let mut names: Vec<_> = STEPS.iter().map(|step| step.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), STEPS.len());
    }
}
