//! The project's own commands, run as `cargo xtask <command>`.
//!
//! `cargo xtask test` is the one command that says whether the tree is sound. A machine with Rust and a C compiler is
//! enough: what else is missing it installs through the ordinary clients (rustup, apt-get, cargo). It changes no
//! tracked file.
//!
//! [`steps`] is the list of what is checked, [`step`] runs such a list and sums it up, [`process`] starts programs;
//! every other module is the work of one step.

#![expect(clippy::print_stdout, reason = "talking to the terminal is this program's job")]

mod arrows;
mod bench;
mod console;
mod deny;
mod dist;
mod examples;
mod generate;
mod instructions;
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

/// The project's own commands.
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
    /// Installs what is missing, runs every step even after one has failed, and ends with a summary. The exit code is
    /// 0 when all of them passed, 1 otherwise.
    Test {
        /// Also the steps that need hosts beyond the package registries, such as the advisory database.
        #[arg(long)]
        full: bool,
        /// Only these steps, by name, separated by commas.
        #[arg(long, value_delimiter = ',', value_name = "STEP")]
        only: Vec<String>,
    },
    /// List the steps of `test`.
    Steps,
    /// Remake the SDKs' generated code from `proto/`, with pinned tools that are installed first.
    Generate {
        /// Change nothing; fail if something would change.
        #[arg(long, conflicts_with = "release")]
        check: bool,
        /// Take the definition as it is now for the released one, which later ones must stay compatible with.
        #[arg(long)]
        release: bool,
    },
    /// Run the documented examples in fresh folders, from the tarballs of the server that AGENTROUTER_BASE_URL names.
    Examples,
    /// Build the server as it is handed out, into `target/dist`: optimised by a profile of what it does most.
    ///
    /// Takes two whole builds with link-time optimisation and a minute of work between them; needs two cores.
    Dist,
    /// Measure the server beside nginx and write a table: rates, latencies, processor time, memory.
    ///
    /// `cargo xtask bench [run|overload|scale|replicas] [OPTION]…`; `cargo xtask bench run --help` lists the options.
    /// With `--write` the results go into `docs/` as well; with `--plain` the server is that of `cargo build --release`, not
    /// that of `dist`. Needs two cores, and nobody else on them.
    #[command(disable_help_flag = true)]
    Bench {
        /// What to measure and how, as `agentrouter-bench` takes it.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
        arguments: Vec<String>,
    },
    /// Count the instructions of the hot paths and hold them against `bench/instructions.toml`.
    Instructions {
        /// Write the numbers of this tree into the file.
        #[arg(long)]
        bless: bool,
    },
    /// Make the SDKs' tarballs that the server hands out; needs Node.
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

/// Runs the command; whether all went well.
fn run(arguments: Arguments) -> Result<bool> {
    match arguments.command {
        Command::Test { full, only } => {
            let chosen = step::choose(steps::STEPS, full, &only)?;
            let workspace = process::Workspace::find()?;
            let reports = step::run_all(&chosen, &workspace);
            println!("{}", step::summary(&reports));
            Ok(reports.iter().all(step::Report::is_well))
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
