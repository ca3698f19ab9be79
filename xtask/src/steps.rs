//! The steps of `cargo xtask test`. To add a step, add a line to [`STEPS`].

use anyhow::{Result, bail};

use crate::process::Workspace;
use crate::step::{Outcome, Step};
use crate::{
    arrows, bench, conformance, console, deny, examples, fuzz, generate, instructions, kms, languages, sdk,
    tools,
};

const fn step(name: &'static str, what: &'static str, run: fn(&Workspace) -> Result<Outcome>) -> Step {
    Step { name, what, full_only: false, run }
}

const fn full(name: &'static str, what: &'static str, run: fn(&Workspace) -> Result<Outcome>) -> Step {
    Step { name, what, full_only: true, run }
}

/// The steps in the order in which they run. Quick ones come first, and later ones use the builds of earlier ones.
pub(crate) const STEPS: &[Step] = &[
    step("tools", "the programs of the other steps are installed", tools::provide),
    step("fmt", "the code is formatted", fmt),
    step("arrows", "the crates depend on each other inward only", arrows::check),
    step("console", "the console's forms send what was typed into them", console::check),
    step("clippy", "no target has a lint warning", clippy),
    step("tests", "all tests of the workspace pass", tests),
    step("kms", "the KMS plugin works with real counterparts of its providers", kms::check),
    step("instructions", "the hot paths take no more instructions than recorded", instructions::check),
    step("bench", "the benchmark runs and prints the measured cases", bench::check),
    step("rustdoc", "the documentation builds without broken links", rustdoc),
    step(
        "generate",
        "the SDKs' generated code matches the definition, which is compatible with the released one",
        generate::check,
    ),
    step("sdk", "the tarballs that the server serves match the SDKs", sdk::check),
    step("go", "the Go SDK passes its own tests and the shared cases", languages::go),
    step("python", "the Python SDK passes its own tests and the shared cases", languages::python),
    step("typescript", "the TypeScript SDK passes its own tests and the shared cases", languages::typescript),
    step("examples", "the documented examples run from downloaded tarballs in new folders", examples::check),
    step("openapi", "the responses match the OpenAPI document", conformance::openapi),
    step("http2", "the server speaks HTTP/2 as its specification says", conformance::http2),
    step("deny", "licences, crates and sources follow deny.toml", deny::check),
    step("advisories", "no dependency has a known vulnerability", deny::check_advisories),
    step("fuzz", "the fuzz targets find nothing in ten seconds each", fuzz::smoke),
    full("fuzz-long", "the fuzz targets find nothing in two minutes each", fuzz::full),
    full("histories", "ten times as many simulated worlds and histories are linearizable", histories),
];

fn fmt(workspace: &Workspace) -> Result<Outcome> {
    workspace.cargo(&["fmt", "--all", "--check"]).run()?;
    workspace.cargo(&["fmt", "--manifest-path", "fuzz/Cargo.toml", "--check"]).run()?;
    Ok(Outcome::Passed("nothing to change".to_owned()))
}

fn clippy(workspace: &Workspace) -> Result<Outcome> {
    let features = ["--all-targets", "--features", kms::FEATURE];
    let arguments =
        [&["clippy", "--workspace", "--locked"], &features[..], &["--", "-D", "warnings"]].concat();
    workspace.cargo(&arguments).run()?;
    // A separate workspace, in the same target directory to share the built dependencies.
    let toy = ["clippy", "--manifest-path", bench::TOY, "--locked", "--", "-D", "warnings"];
    workspace.cargo(&toy).env("CARGO_TARGET_DIR", workspace.target()?).run()?;
    Ok(Outcome::Passed("no warning".to_owned()))
}

fn tests(workspace: &Workspace) -> Result<Outcome> {
    let mut tally = Tally::default();
    let well = workspace
        .cargo(&["test", "--workspace", "--locked", "--no-fail-fast"])
        .run_watched(|line| tally.look(line))?;
    let seen = tally.seen();
    if !well || !tally.is_good() {
        bail!("{seen}");
    }
    Ok(Outcome::Passed(seen))
}

/// Runs the randomised tests of replicas with ten times the seeds.
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

/// The sum of the test programs' results.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    suites: u32,
    passed: u32,
    failed: u32,
    ignored: u32,
    /// The names of the failed tests.
    failures: Vec<String>,
}

impl Tally {
    /// Counts `line` if it is a closing line, `test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; …`, and
    /// keeps the name out of a line `test NAME ... FAILED`.
    pub(crate) fn look(&mut self, line: &str) {
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

    /// Whether no test failed. A run without a test is a failure.
    pub(crate) fn is_good(&self) -> bool {
        self.failed == 0 && self.passed > 0
    }

    /// The counts, and the names of the failed tests.
    pub(crate) fn seen(&self) -> String {
        let Self { suites, passed, failed, ignored, failures } = self;
        let counts = format!("{passed} passed, {failed} failed, {ignored} ignored in {suites} suites");
        [&[counts], failures.as_slice()].concat().join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_lines_are_added_up_and_other_lines_are_not() {
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
        assert_eq!(tally.seen(), "7 passed, 3 failed, 1 ignored in 2 suites; b::c");
        assert!(!tally.is_good() && !Tally::default().is_good());
    }

    #[test]
    fn every_step_has_a_name_of_its_own() {
        let mut names: Vec<_> = STEPS.iter().map(|step| step.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), STEPS.len());
    }
}
