//! How fast the server is, and what bounds it. Started by `cargo xtask bench`, which builds and installs what is needed.
//!
//! ```text
//! run ── case      what is measured, by name
//!     ├─ subject/  nginx, the toy, the server, PostgreSQL: started, pinned to one core
//!     ├─ fill      stores of 10,000 and 1,000,000 secrets
//!     ├─ load/     the generator, on the other core
//!     └─ report/   a table, a chart, a page
//! overload         more than it can carry, callers that are slow, connections that are idle
//! scale            what a larger store costs
//! replicas         several servers over one PostgreSQL; writes: what one write waits for
//! ```
//!
//! It stands on nothing of the server but its binary and its wire formats.

#![allow(clippy::disallowed_methods, reason = "real time is what is measured here")]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "talking to the terminal is this program's job"
)]

mod call;
mod case;
mod fill;
mod load;
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

/// How fast the server is, and what bounds it.
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
    /// Where stores are made; removed afterwards. On a real disk: a durable commit costs nothing in memory.
    #[arg(long, value_name = "DIR", global = true, default_value_os_t = std::env::temp_dir())]
    scratch: PathBuf,
    /// Leave the stores and logs there.
    #[arg(long, global = true)]
    keep: bool,
    /// The folder with the pages to write the results into; none for the terminal alone.
    #[arg(long, value_name = "DIR", global = true)]
    docs: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Rates, latencies, processor time and memory, beside nginx.
    Run {
        /// Only these cases, separated by commas; what is no case's name in full stands for all whose names contain it.
        #[arg(long, value_delimiter = ',', value_name = "NAME")]
        only: Vec<String>,
        /// Every API, operation, engine and setting with every other: hours.
        #[arg(long)]
        all: bool,
        /// Also stores of a million secrets.
        #[arg(long)]
        million: bool,
        /// How long each loop runs.
        #[arg(long, default_value_t = 2.0)]
        seconds: f64,
        /// How often each case is measured.
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// Secrets of the caller in every store.
        #[arg(long, default_value_t = 10_000)]
        secrets: u64,
        /// One round of half a second each: a trial, not a measurement.
        #[arg(long, conflicts_with_all = ["seconds", "rounds"])]
        quick: bool,
        /// List the cases and end.
        #[arg(long)]
        list: bool,
    },
    /// What the server does most, each for a second, for a profile of it to be taken; measures nothing.
    Train,
    /// Ten times what it can carry, slow callers, 10,000 idle connections.
    Overload(overload::Options),
    /// What a larger store costs.
    Scale(scale::Options),
    /// What several servers over one PostgreSQL cost each other.
    Replicas(replicas::Options),
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
            ensure!(!cases.is_empty(), "no case has such a name; --list names them");
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
    }
}

/// Shows a run, and writes it into the pages.
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

/// Prints a text, and puts it into its place on a page.
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
        std::fs::create_dir_all(&path).with_context(|| format!("{} cannot be made", path.display()))?;
        Ok(Self { path: std::path::absolute(path)?, keep: common.keep })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.keep {
            eprintln!("kept: {}", self.path.display());
        } else {
            // What cannot be removed is in a folder for such things.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
