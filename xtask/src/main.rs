//! The project's development commands, run as `cargo xtask <command>`.
//!
//! `cargo xtask test` checks the whole tree. It needs a machine with Rust and a C compiler. It installs other missing
//! programs through their ordinary clients (rustup, apt-get, cargo). It changes no tracked file.
//!
//! [`steps`] lists the checks, [`step`] runs such a list and prints a summary, and [`process`] starts programs. Every other
//! module implements one step.

#![expect(clippy::print_stdout, reason = "this program prints to the terminal")]

mod arrows;
mod bench;
mod conformance;
mod console;
mod deny;
mod dist;
mod examples;
mod fuzz;
mod generate;
mod instructions;
mod kms;
mod languages;
#[cfg(test)]
mod pages;
mod process;
mod sdk;
mod step;
mod steps;
mod tools;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// The project's development commands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check everything: format, lints, dependency arrows, licences, tests, documentation.
    ///
    /// Installs missing programs, runs every step even if one fails, and prints a summary. Exits with 0 if all steps pass,
    /// otherwise with 1.
    Test {
        /// Also run the steps that take long or need hosts other than the package registries.
        #[arg(long)]
        full: bool,
        /// Run only these steps: names separated by commas.
        #[arg(long, value_delimiter = ',', value_name = "STEP")]
        only: Vec<String>,
    },
    /// List the steps of `test`.
    Steps,
    /// Generate the SDKs' code from `proto/`. Installs the pinned tools first.
    Generate {
        /// Change nothing; fail if a file would change.
        #[arg(long, conflicts_with = "release")]
        check: bool,
        /// Store the current definition as the released one, with which later ones must be compatible.
        #[arg(long)]
        release: bool,
    },
    /// Run the documented examples in fresh folders, from the tarballs of the server that AGENTROUTER_BASE_URL names.
    Examples,
    /// Build the server for distribution into `target/dist`, with profile-guided optimisation.
    ///
    /// Takes two builds with link-time optimisation and a minute of training between them. Needs two cores.
    Dist,
    /// Measure the server and nginx: rates, latencies, processor time, memory.
    ///
    /// `cargo xtask bench [run|overload|scale|replicas] [OPTION]…`; `cargo xtask bench run --help` lists the options.
    /// `--write` also writes the results to `docs/`. `--plain` measures the server of `cargo build --release` instead of
    /// that of `dist`. Needs two idle cores.
    #[command(disable_help_flag = true)]
    Bench {
        /// The arguments of `agentrouter-bench`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
        arguments: Vec<String>,
    },
    /// Count the instructions of the hot paths and compare them with `bench/instructions.toml`.
    Instructions {
        /// Write the counts of this tree to the file.
        #[arg(long)]
        bless: bool,
    },
    /// Run the fuzz targets of `fuzz/` from their corpora.
    Fuzz {
        /// The targets; none means all.
        #[arg(value_name = "TARGET")]
        names: Vec<String>,
        /// Seconds that each target runs.
        #[arg(long, default_value_t = 60)]
        seconds: u32,
    },
    /// Build the SDKs' tarballs that the server serves. Needs Node.
    Sdk {
        /// Change nothing; fail if a tarball would change.
        #[arg(long)]
        check: bool,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the command. Returns whether it succeeded.
fn run(arguments: Arguments) -> Result<bool> {
    match arguments.command {
        Command::Test { full, only } => {
            let chosen = step::choose(steps::STEPS, full, &only)?;
            let workspace = process::Workspace::find()?;
            let reports = step::run_all(&chosen, &workspace);
            println!("{}", step::summary(&reports));
            Ok(reports.iter().all(step::Report::succeeded))
        }
        Command::Steps => {
            for step in steps::STEPS {
                let when = if step.full_only { " (with --full)" } else { "" };
                println!("{:<12} {}{when}", step.name, step.what);
            }
            Ok(true)
        }
        Command::Generate { check, release } => {
            let workspace = process::Workspace::find()?;
            let work = match (check, release) {
                (true, _) => generate::check,
                (_, true) => generate::release,
                _ => generate::write,
            };
            if let step::Outcome::Passed(note) = work(&workspace)? {
                println!("{note}");
            }
            Ok(true)
        }
        Command::Examples => {
            let workspace = process::Workspace::find()?;
            if let step::Outcome::Passed(note) = examples::run(&workspace)? {
                println!("{note}");
            }
            Ok(true)
        }
        Command::Fuzz { names, seconds } => {
            if let step::Outcome::Passed(note) = fuzz::run(&process::Workspace::find()?, &names, seconds)? {
                println!("{note}");
            }
            Ok(true)
        }
        Command::Dist => {
            println!("{}", dist::run(&process::Workspace::find()?)?.display());
            Ok(true)
        }
        Command::Bench { arguments } => {
            bench::run(&process::Workspace::find()?, &arguments)?;
            Ok(true)
        }
        Command::Instructions { bless } => {
            let workspace = process::Workspace::find()?;
            let work = if bless { instructions::bless } else { instructions::check };
            match work(&workspace)? {
                step::Outcome::Passed(note) => println!("{note}"),
                step::Outcome::NotChecked(why) => println!("not checked: {why}"),
            }
            Ok(true)
        }
        Command::Sdk { check } => {
            let workspace = process::Workspace::find()?;
            let work = if check { sdk::check } else { sdk::write };
            if let step::Outcome::Passed(note) = work(&workspace)? {
                println!("{note}");
            }
            Ok(true)
        }
    }
}
