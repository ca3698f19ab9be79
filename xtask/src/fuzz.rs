//! `cargo xtask fuzz`: builds the fuzz targets of `fuzz/` and runs them from their corpora.
//!
//! The targets are in the layout of cargo-fuzz. They are built here with the flags that cargo-fuzz gives to a stable
//! compiler (coverage without a sanitizer: no crate of ours has unsafe code), so that the tests need no nightly compiler.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context, Result, bail, ensure};

use crate::process::Workspace;
use crate::step::Outcome;

/// The most targets: there is one for each format.
const MOST: usize = 14;
/// Seconds that the step runs each target.
const SMOKE_SECONDS: u32 = 10;
/// Seconds that the full step runs each target.
const FULL_SECONDS: u32 = 120;
/// The memory in MiB beyond which an input counts as a failure.
const MEMORY: u32 = 1024;
/// The time in seconds that one input may take.
const TIMEOUT: u32 = 5;
/// Targets that run at the same time.
const AT_ONCE: usize = 2;

/// What libFuzzer needs of the compiler: counters at each edge, and the operands of comparisons.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
                     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
                     -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares";

/// The step: each target runs for ten seconds from its corpus.
///
/// # Errors
/// When a target does not build, has no corpus, or fails.
pub(crate) fn smoke(workspace: &Workspace) -> Result<Outcome> {
    run(workspace, &[], SMOKE_SECONDS)
}

/// The step of `--full`: each target runs for two minutes.
///
/// # Errors
/// As [`smoke`].
pub(crate) fn full(workspace: &Workspace) -> Result<Outcome> {
    run(workspace, &[], FULL_SECONDS)
}

/// Runs the targets `names`, or all, for `seconds` each.
///
/// # Errors
/// As [`smoke`], and when there is no target of that name.
pub(crate) fn run(workspace: &Workspace, names: &[String], seconds: u32) -> Result<Outcome> {
    let all = targets(workspace)?;
    if let Some(unknown) = names.iter().find(|name| !all.contains(name)) {
        bail!("there is no target {unknown}; the targets are {}", all.join(", "));
    }
    let chosen: Vec<&String> = all.iter().filter(|name| names.is_empty() || names.contains(name)).collect();
    let programs = build(workspace)?;
    let queue = Mutex::new(chosen.iter());
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some(name) = queue.lock().expect("no panic while held").next() else { return };
                    if let Err(error) = fuzz(workspace, &programs, name, seconds) {
                        failures.lock().expect("no panic while held").push(format!("{name}: {error:#}"));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().expect("no panic while held");
    ensure!(failures.is_empty(), "{}", failures.join("; "));
    Ok(Outcome::Passed(format!("{} targets, {seconds} s each", chosen.len())))
}

/// The names of the targets, from their files.
fn targets(workspace: &Workspace) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(workspace.path("fuzz/fuzz_targets"))? {
        let path = entry?.path();
        let name = path.file_stem().context("a target has a name")?;
        names.push(name.to_string_lossy().into_owned());
    }
    names.sort();
    ensure!((1..=MOST).contains(&names.len()), "{} targets; there are 1 to {MOST}", names.len());
    Ok(names)
}

/// Builds the targets and returns the folder of their programs.
fn build(workspace: &Workspace) -> Result<PathBuf> {
    let target = workspace.target()?.join("fuzz");
    let host = host(workspace)?;
    // With a target given, the flags do not apply to build scripts and procedural macros.
    let arguments =
        ["build", "--manifest-path", "fuzz/Cargo.toml", "--release", "--locked", "--target", &host];
    workspace.cargo(&arguments).env("CARGO_TARGET_DIR", &target).env("RUSTFLAGS", FLAGS).run()?;
    Ok(target.join(host).join("release"))
}

/// The target triple of this machine.
fn host(workspace: &Workspace) -> Result<String> {
    let said = workspace.program("rustc", &["--print", "host-tuple"]).output()?;
    Ok(String::from_utf8(said)?.trim().to_owned())
}

/// Runs one target: first each input of its corpus, then new ones made from them. New inputs that reach more code are kept
/// in the target directory, and inputs that fail as well.
fn fuzz(workspace: &Workspace, programs: &Path, name: &str, seconds: u32) -> Result<()> {
    let corpus = workspace.path("fuzz/corpus").join(name);
    ensure!(corpus.is_dir(), "there is no corpus in {}", corpus.display());
    let work = workspace.target()?.join("fuzz");
    let (found, artifacts) = (work.join("corpus").join(name), work.join("artifacts").join(name));
    fs::create_dir_all(&found)?;
    fs::create_dir_all(&artifacts)?;
    let [found, corpus] = [&found, &corpus].map(|path| path.to_string_lossy().into_owned());
    let arguments = [
        format!("-max_total_time={seconds}"),
        format!("-rss_limit_mb={MEMORY}"),
        format!("-timeout={TIMEOUT}"),
        format!("-artifact_prefix={}/", artifacts.display()),
        "-max_len=4096".to_owned(),
        "-print_final_stats=1".to_owned(),
        found,
        corpus,
    ];
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (well, said) = workspace.program(programs.join(name), &arguments).said()?;
    if !well {
        println!("{said}");
        bail!("failed; the input is in {}", artifacts.display());
    }
    let executed = said.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    let executed: u64 = executed.context("libFuzzer reported no statistics")?.trim().parse()?;
    ensure!(executed > 0, "no input was run");
    println!("{name}: {executed} inputs");
    Ok(())
}
