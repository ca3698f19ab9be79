//! `cargo xtask instructions`: counts the instructions of a request and compares them with `bench/instructions.toml`.
//!
//! Time depends on the machine and its load. Instructions, counted by valgrind's callgrind, hardly do. Each path of
//! `bench/instructions` runs twice with different numbers of requests. The difference of the counts is divided by the
//! difference of the numbers, so the start does not count. The caller's thread is counted separately from those behind it
//! (the writers of the store and of the audit log). The runtime's instructions for waiting are excluded: how often a thread
//! finds its result ready depends on the scheduler. (The caller's thread never does, as in the server: its audit record is
//! never acknowledged before it waits.)
//!
//! The counts belong to one compiler and C library. With others the step is not checked. The processor does not matter:
//! valgrind emulates one with AVX2 and without the SHA-256 instructions, so hashes weigh more in counts than in time.

mod callgrind;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::process::Workspace;
use crate::step::Outcome;
use crate::tools::{self, Program};

/// The file of the recorded counts.
const FILE: &str = "bench/instructions.toml";
/// The paths, and the two numbers of requests.
const PATHS: &[(&str, u64, u64)] =
    &[("value", 100, 300), ("token", 100, 300), ("create", 60, 160), ("rotate", 60, 160), ("list", 40, 120)];

const HEAD: &str = "\
# Instructions of one call, counted under callgrind by `cargo xtask instructions`, which fails when one takes more than
# these by a few percent. After a change that is worth its cost, or that saves: `cargo xtask instructions --bless`.
#
# caller: the thread that makes the call: authenticate, parse, run, write JSON.
# behind: the store's writer and the audit log's, for that call.
";

/// The file.
#[derive(Debug, Deserialize, PartialEq)]
struct Numbers {
    /// The toolchain of the counts.
    toolchain: String,
    /// The percentage by which the caller's count may rise.
    caller_percent: f64,
    /// The percentage for the threads behind it.
    behind_percent: f64,
    paths: BTreeMap<String, Count>,
}

/// The instructions of one request.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
struct Count {
    caller: u64,
    behind: u64,
}

/// The step.
///
/// # Errors
/// When a path costs more than the file allows, or cannot be counted.
pub(crate) fn check(workspace: &Workspace) -> Result<Outcome> {
    let numbers: Numbers = toml::from_str(&std::fs::read_to_string(workspace.path(FILE))?)
        .with_context(|| format!("{FILE} cannot be read"))?;
    let toolchain = toolchain(workspace)?;
    let counts = count(workspace)?;
    let (mut said, mut wrong) = (Vec::new(), Vec::new());
    for (path, count) in &counts {
        let allowed = numbers.paths.get(path).with_context(|| format!("{FILE} has no path {path}"))?;
        println!("{path}: {} and {} instructions", count.caller, count.behind);
        for (what, now, then, percent) in [
            ("", count.caller, allowed.caller, numbers.caller_percent),
            (" behind the caller", count.behind, allowed.behind, numbers.behind_percent),
        ] {
            match verdict(now, then, percent) {
                Verdict::More(by) => {
                    wrong.push(format!("{path}{what}: {now}, which is {by:.1} % more than {then}"))
                }
                Verdict::Less(by) => said.push(format!("{path}{what} takes {by:.1} % less")),
                Verdict::Same => {}
            }
        }
    }
    if toolchain != numbers.toolchain {
        let note = format!("the numbers are those of {}, and this is {toolchain}", numbers.toolchain);
        return Ok(Outcome::NotChecked(note));
    }
    wrong.iter().for_each(|line| println!("{line}"));
    ensure!(
        wrong.is_empty(),
        "{}; reduce them, or accept them with `cargo xtask instructions --bless` and give the reason in the commit",
        wrong.join("; ")
    );
    if said.is_empty() {
        return Ok(Outcome::Passed(format!("{} paths", counts.len())));
    }
    Ok(Outcome::Passed(format!("{}: record it with `cargo xtask instructions --bless`", said.join(", "))))
}

/// Writes the counts of this tree to the file.
///
/// # Errors
/// When they cannot be counted or written.
pub(crate) fn bless(workspace: &Workspace) -> Result<Outcome> {
    let mut text = format!("{HEAD}\ntoolchain = \"{}\"\n", toolchain(workspace)?);
    let path = workspace.path(FILE);
    let before = std::fs::read_to_string(&path).unwrap_or_default();
    let before: Option<Numbers> = toml::from_str(&before).ok();
    let (caller, behind) = before
        .map_or((CALLER_PERCENT, BEHIND_PERCENT), |numbers| (numbers.caller_percent, numbers.behind_percent));
    // Writing to a String cannot fail.
    let _ = write!(text, "caller_percent = {caller:?}\nbehind_percent = {behind:?}\n\n[paths]\n");
    for (path, Count { caller, behind }) in count(workspace)? {
        let _ = writeln!(text, "{path} = {{ caller = {caller}, behind = {behind} }}");
    }
    std::fs::write(&path, &text)?;
    Ok(Outcome::Passed(text))
}

/// The default tolerances.
const CALLER_PERCENT: f64 = 3.0;
const BEHIND_PERCENT: f64 = 6.0;
/// The percentage from which a decrease is reported.
const WORTH: f64 = 5.0;

enum Verdict {
    More(f64),
    Less(f64),
    Same,
}

fn verdict(now: u64, then: u64, percent: f64) -> Verdict {
    #[expect(clippy::cast_precision_loss, reason = "instructions of one call fit a double")]
    let change = (now as f64 - then as f64) / (then as f64).max(1.0) * 100.0;
    match change {
        more if more > percent => Verdict::More(more),
        less if less < -WORTH.max(percent) => Verdict::Less(-less),
        _ => Verdict::Same,
    }
}

/// Compiler, C compiler and C library.
fn toolchain(workspace: &Workspace) -> Result<String> {
    let said = |program: &str, arguments: &[&str]| -> Result<String> {
        let said = workspace.program(program, arguments).output()?;
        Ok(String::from_utf8_lossy(&said).trim().to_owned())
    };
    let rustc = said("rustc", &["--version", "--verbose"])?;
    let value = |name: &str| rustc.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("?").to_owned();
    let (release, host) = (value("release: "), value("host: "));
    let cc = said("cc", &["-dumpfullversion"])?;
    let libc = said("getconf", &["GNU_LIBC_VERSION"])?;
    Ok(format!("rustc {release}, {host}, cc {cc}, {libc}"))
}

/// Counts every path.
fn count(workspace: &Workspace) -> Result<BTreeMap<String, Count>> {
    tools::install_missing(workspace, &[Program { name: "valgrind", package: "valgrind" }])?;
    let program = build(workspace)?;
    let folder = workspace.target()?.join("instructions");
    // All paths run at once, because valgrind runs the threads of one program in turn.
    std::thread::scope(|scope| {
        let counting: Vec<_> = PATHS
            .iter()
            .map(|&(path, few, many)| {
                let (program, folder) = (&program, &folder);
                scope.spawn(move || -> Result<(String, Count)> {
                    let few_cost =
                        totals(workspace, program, &folder.join(format!("{path}-few")), path, few)?;
                    let many_cost =
                        totals(workspace, program, &folder.join(format!("{path}-many")), path, many)?;
                    Ok((path.to_owned(), per_call(few_cost, many_cost, many - few)?))
                })
            })
            .collect();
        counting
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| bail!("a count panicked")))
            .collect()
    })
}

fn per_call(few: Count, many: Count, calls: u64) -> Result<Count> {
    let each = |few: u64, many: u64| many.checked_sub(few).map(|more| more / calls);
    let caller = each(few.caller, many.caller).filter(|caller| *caller > 0);
    // A path may have no work behind it. Its count then differs by noise.
    let behind = each(few.behind, many.behind).unwrap_or(0);
    Ok(Count { caller: caller.context("more requests took no more instructions")?, behind })
}

/// Builds the paths as released and returns the program.
fn build(workspace: &Workspace) -> Result<PathBuf> {
    #[derive(Deserialize)]
    struct Message {
        executable: Option<PathBuf>,
    }
    let arguments = ["build", "--release", "--locked", "--package", "agentrouter-instructions"];
    let target = ["--bench", "hot_path", "--message-format", "json-render-diagnostics"];
    let messages = workspace.cargo(&[&arguments[..], &target].concat()).output()?;
    let messages = String::from_utf8(messages)?;
    let mut executables =
        messages.lines().filter_map(|line| serde_json::from_str::<Message>(line).ok()?.executable);
    executables.next_back().context("cargo names no program")
}

/// The instructions of a run with `calls` requests: of the first thread, and of all others.
fn totals(workspace: &Workspace, program: &Path, folder: &Path, path: &str, calls: u64) -> Result<Count> {
    // Files of an earlier run would be added.
    let _ = std::fs::remove_dir_all(folder);
    std::fs::create_dir_all(folder)?;
    let out = format!("--callgrind-out-file={}", folder.join("out").display());
    let program = program.to_string_lossy();
    let arguments = ["--tool=callgrind", "--separate-threads=yes", &out, &program, path, &calls.to_string()];
    workspace.program("valgrind", &arguments).output()?;
    let mut count = Count { caller: 0, behind: 0 };
    for entry in std::fs::read_dir(folder)? {
        let text = std::fs::read_to_string(entry?.path())?;
        match callgrind::work(&text) {
            Some((1, instructions)) => count.caller += instructions,
            Some((_, instructions)) => count.behind += instructions,
            None => {}
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_the_tolerance_fails_and_much_less_is_worth_keeping() {
        assert!(matches!(verdict(1031, 1000, 3.0), Verdict::More(_)));
        assert!(matches!(verdict(1029, 1000, 3.0), Verdict::Same));
        assert!(matches!(verdict(951, 1000, 3.0), Verdict::Same));
        assert!(matches!(verdict(949, 1000, 3.0), Verdict::Less(_)));
        assert!(matches!(verdict(930, 1000, 8.0), Verdict::Same));
        assert!(matches!(verdict(10, 0, 3.0), Verdict::More(_)));
    }

    #[test]
    fn the_cost_of_a_call_is_the_difference_between_two_counts() {
        let (few, many) = (Count { caller: 1000, behind: 500 }, Count { caller: 3000, behind: 490 });
        assert_eq!(per_call(few, many, 20).expect("a count"), Count { caller: 100, behind: 0 });
        assert!(per_call(many, few, 20).is_err());
    }

    #[test]
    fn the_committed_numbers_are_those_of_the_paths_that_are_counted() {
        let workspace = Workspace::find().expect("a workspace");
        let text = std::fs::read_to_string(workspace.path(FILE)).expect("the file");
        let numbers: Numbers = toml::from_str(&text).expect("numbers");
        let mut counted: Vec<_> = PATHS.iter().map(|(path, ..)| *path).collect();
        counted.sort_unstable();
        assert_eq!(numbers.paths.keys().collect::<Vec<_>>(), counted);
        assert!(text.starts_with(HEAD));
        assert!(numbers.caller_percent <= 5.0 && numbers.behind_percent <= 10.0);
    }
}
