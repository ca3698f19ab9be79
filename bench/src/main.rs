//! The benchmark of the server. `cargo xtask bench` starts it, after it has built and installed the programs.
//!
//! ```text
//! run ── case      the measured cases, by name
//!     ├─ subject/  nginx, the toy, the server, PostgreSQL: started, pinned to one core
//!     ├─ fill      stores of 10,000 and 1,000,000 secrets
//!     ├─ load/     the generator, on the other core
//!     └─ report/   a table, a chart, a page
//! overload         ten times the capacity, slow callers, idle connections
//! scale            the cost of a larger store
//! replicas         several servers over one PostgreSQL; writes: the latency of one write
//! keks             the cost of a root key, and the rewrapping of a store
//! ```
//!
//! It uses only the server's binary and wire formats, and none of its crates.

#![allow(clippy::disallowed_methods, reason = "it measures real time")]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this program prints to the terminal")]

mod case;
mod fill;
mod keks;
mod load;
mod operation;
mod overload;
mod process;
mod replicas;
mod report;
mod result;
mod run;
mod scale;
mod subject;
mod writes;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand};

use crate::result::Run;
use crate::subject::Programs;

/// The benchmark of the server.
#[derive(Parser)]
#[command(name = "agentrouter-bench")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
struct Common {
    /// The server's binary.
    #[arg(long, value_name = "FILE", global = true, default_value = "target/release/agentrouter-secrets")]
    server: PathBuf,
    /// The toy's binary.
    #[arg(long, value_name = "FILE", global = true, default_value = "target/release/agentrouter-toy")]
    toy: PathBuf,
    /// The folder for stores, which are removed at the end. Use a real disk: in memory a durable commit costs nothing.
    #[arg(long, value_name = "DIR", global = true, default_value_os_t = std::env::temp_dir())]
    scratch: PathBuf,
    /// Keep the stores and logs.
    #[arg(long, global = true)]
    keep: bool,
    /// The folder of the pages to write the results to. Without it they are only printed.
    #[arg(long, value_name = "DIR", global = true)]
    docs: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Measure rates, latencies, processor time and memory of the server and of nginx.
    Run {
        /// Only these cases, separated by commas. A text that is not a full name selects all cases that contain it.
        #[arg(long, value_delimiter = ',', value_name = "NAME")]
        only: Vec<String>,
        /// Measure every combination of API, operation, engine and setting. Takes hours.
        #[arg(long)]
        all: bool,
        /// Also measure stores of a million secrets.
        #[arg(long)]
        million: bool,
        /// Seconds of each loop.
        #[arg(long, default_value_t = 2.0)]
        seconds: f64,
        /// Measurements of each case.
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// Secrets of the caller in every store.
        #[arg(long, default_value_t = 10_000)]
        secrets: u64,
        /// Run one round of half a second each: a trial, not a measurement.
        #[arg(long, conflicts_with_all = ["seconds", "rounds"])]
        quick: bool,
        /// List the cases and exit.
        #[arg(long)]
        list: bool,
    },
    /// Run the most frequent requests for a second each, to record a profile. Measures nothing.
    Train,
    /// Measure ten times the capacity, slow callers, and 10,000 idle connections.
    Overload(overload::OverloadOptions),
    /// Measure the cost of a larger store.
    Scale(scale::ScaleOptions),
    /// Measure several servers over one PostgreSQL.
    Replicas(replicas::ReplicasOptions),
    /// Measure the cost of a root key, and the rewrapping of a store.
    Keks(keks::KeksOptions),
}

fn main() -> ExitCode {
    match execute(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(Arguments { command, common }: Arguments) -> Result<()> {
    let absolute = |path: &Path| std::path::absolute(path).context("a path");
    let programs = Programs { server: absolute(&common.server)?, toy: absolute(&common.toy)? };
    if let Command::Run { only, all, million, list: true, .. } = &command {
        case::choose(only, *all, *million).iter().for_each(|case| println!("{case}"));
        return Ok(());
    }
    process::raise_file_limit()?;
    process::pin(process::generator_core()?)?;
    let scratch = Scratch::make(&common)?;
    let machine = report::describe(&scratch.path, &programs);
    let docs = common.docs.as_deref();
    match command {
        Command::Run { only, all, million, seconds, rounds, secrets, quick, .. } => {
            let cases = case::choose(&only, all, million);
            ensure!(!cases.is_empty(), "no case has this name; run with --list to see all names");
            let (seconds, rounds) = if quick { (0.5, 1) } else { (seconds, rounds) };
            let plan = run::Plan { cases, seconds, rounds, secrets };
            show(&run::run(&scratch.path, &programs, &plan, machine)?, docs)
        }
        Command::Train => {
            run::train(&scratch.path, &programs, &case::training(), std::time::Duration::from_secs(1))
        }
        Command::Overload(options) => {
            publish(docs, "benchmarks.md", "overload", &overload::run(&scratch.path, &programs, &options)?)
        }
        Command::Scale(options) => {
            publish(docs, "scale.md", "sizes", &scale::run(&scratch.path, &programs, &options, &machine)?)
        }
        Command::Replicas(options) => {
            publish(docs, "scale.md", "replicas", &replicas::run(&scratch.path, &programs, &options)?)
        }
        Command::Keks(options) => {
            publish(docs, "benchmarks.md", "keks", &keks::run(&scratch.path, &programs, &options)?)
        }
    }
}

/// Prints the results of a run, and writes them to the pages.
fn show(run: &Run, docs: Option<&Path>) -> Result<()> {
    let mut text = run.machine.iter().map(|line| format!("* {line}\n")).collect::<String>();
    text.push_str(&format!("\n{}\n{}", report::footings(&run.footings), report::rows(run)));
    for missing in &run.missing {
        text.push_str(&format!("\nNot measured: {missing}.\n"));
    }
    publish(docs, "benchmarks.md", "results", &text)?;
    if let Some(docs) = docs {
        std::fs::write(docs.join("benchmarks.svg"), report::chart(run))?;
    }
    Ok(())
}

/// Prints a text, and writes it to its part of a page.
fn publish(docs: Option<&Path>, page: &str, part: &str, text: &str) -> Result<()> {
    println!("{text}");
    docs.map_or(Ok(()), |docs| report::replace(&docs.join(page), part, text))
}

/// A folder for stores, removed at the end.
struct Scratch {
    path: PathBuf,
    keep: bool,
}

impl Scratch {
    fn make(common: &Common) -> Result<Self> {
        let path = common.scratch.join(format!("agentrouter-bench-{}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| format!("{} cannot be created", path.display()))?;
        Ok(Self { path: std::path::absolute(path)?, keep: common.keep })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.keep {
            eprintln!("kept: {}", self.path.display());
        } else {
            // A folder that cannot be removed stays in the scratch folder.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
