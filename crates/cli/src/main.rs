//! `tare`: the command line of AgentRouter's secret service.
//!
//! Reads the command line, makes calls through the SDK and prints what comes back: data on stdout, everything else on
//! stderr. Holds no state and no rules of its own about secrets; the server has them.
//!
//! Deliberately absent: a configuration file, and any way to show a value other than `secret-value get` and the
//! environment of `secret run`.

mod api;
mod args;
mod code_variables;
mod dotenv;
mod failure;
mod hint;
mod import;
mod message;
mod output;
mod run;
mod value;

use std::process::ExitCode;

use agentrouter_sdk::{Client, SecretClient};
use clap::{CommandFactory, Parser};

use crate::args::{Api, Cli, Command, Global, SecretTask};
use crate::failure::{Failure, report_usage, warn};
use crate::output::Output;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return ExitCode::from(report_usage(&error)),
    };
    match dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report();
            ExitCode::from(failure.exit_code())
        }
    }
}

fn dispatch(cli: Cli) -> Result<(), Failure> {
    let output = Output::new(cli.global.output);
    match cli.command {
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "tare", &mut script);
            output.bytes(&script)
        }
        Command::Api(Api::Secret(call)) => {
            let client = connect(cli.global)?;
            runtime()?.block_on(api::call(&client, output, call))
        }
        Command::Secret(SecretTask::Import(task)) => {
            let client = connect(cli.global)?;
            runtime()?.block_on(import::import(&client, output, &task))
        }
        Command::Secret(SecretTask::Run(task)) => {
            let client = connect(cli.global)?;
            let variables = runtime()?.block_on(run::variables(&client, &task))?;
            // The runtime is gone by now: nothing of it is left to the command.
            run::replace(&task.command, variables)
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| {
        Failure::usage(
            format!("cannot start: {error}"),
            "the limits of this process ('ulimit -a') may be too low",
        )
    })
}

/// The client that the flags and the environment describe. Sends nothing.
fn connect(global: Global) -> Result<SecretClient, Failure> {
    let mut builder = Client::builder().user_agent(concat!("tare/", env!("CARGO_PKG_VERSION")));
    if let Some(url) = global.base_url {
        builder = builder.base_url(url);
    }
    if let Some(key) = global.api_key {
        warn(
            "--api-key shows in the process list and stays in the shell's history; prefer AGENTROUTER_API_KEY",
        );
        builder = builder.api_key(key);
    }
    if let Some(path) = global.ca_file {
        builder = builder.ca_file(path);
    }
    if let Some(timeout) = global.timeout {
        builder = builder.timeout(timeout);
    }
    Ok(builder.build()?.secret().clone())
}
