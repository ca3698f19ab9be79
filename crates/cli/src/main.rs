//! `tare`: the command line of AgentRouter's secret service.
//!
//! Reads the command line, makes calls through the SDK and prints the responses: data on stdout, everything else on
//! stderr. Has no rules of its own about secrets; the server has them. Keeps profiles and API keys in the user's
//! configuration folder, and no values. Values are shown by `secret-value get`, `export` and `inject` only, and passed to the
//! command of `secret run`.

mod account;
mod api;
mod args;
mod code_variables;
mod completion;
mod connection;
mod dotenv;
mod export;
mod failure;
mod generate;
mod hardening;
mod hint;
mod import;
mod inject;
mod message;
mod notice;
mod output;
mod paced_client;
mod private_file;
mod profile;
mod reference;
mod run;
mod selection;
mod terminal;
mod value;
mod variable;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

use crate::args::{Api, Cli, Command, Format, SecretTask};
use crate::connection::{Settings, refuse_unused};
use crate::failure::{Failure, report_usage};
use crate::output::Output;

fn main() -> ExitCode {
    hardening::apply();
    completion::respond();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            if asks_for_json(std::env::args_os()) {
                notice::set_format(Format::Json);
            }
            return ExitCode::from(report_usage(&error));
        }
    };
    notice::set_format(cli.global.output);
    match dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report();
            ExitCode::from(failure.exit_status())
        }
    }
}

fn dispatch(cli: Cli) -> Result<(), Failure> {
    let output = Output::new(cli.global.output);
    let connection = cli.global.connection;
    match cli.command {
        Command::Completion { shell } => {
            refuse_unused(&connection, "tare completion")?;
            let script = completion::script(shell).map_err(|error| {
                Failure::usage(format!("there is no script: {error}"), "call tare by its name, from PATH")
            })?;
            output.bytes(&script)
        }
        Command::Login(task) => runtime()?.block_on(account::login(output, &connection, &task)),
        Command::Logout => {
            let profile = connection.profile.clone();
            refuse_unused(&args::Connection { profile: None, ..connection }, "tare logout")?;
            account::logout(output, profile)
        }
        Command::Profile(call) => {
            refuse_unused(&connection, "tare profile")?;
            account::profile(output, call)
        }
        Command::Whoami => {
            let settings = Settings::resolve(&connection)?;
            runtime()?.block_on(account::whoami(output, &settings))
        }
        Command::Api(Api::Secret(call)) => {
            let client = Settings::resolve(&connection)?.client()?;
            runtime()?.block_on(api::call(&client, output, call))
        }
        Command::Secret(task) => {
            let client = Settings::resolve(&connection)?.paced_client()?;
            match task {
                SecretTask::Import(task) => runtime()?.block_on(import::import(&client, output, &task)),
                SecretTask::Export(task) => runtime()?.block_on(export::export(&client, output, &task)),
                SecretTask::Inject(task) => runtime()?.block_on(inject::inject(&client, output, &task)),
                SecretTask::Run(task) => {
                    let variables = runtime()?.block_on(run::variables(&client, &task))?;
                    // The runtime is dropped here, so the command inherits nothing of it.
                    run::replace(&task.command, variables)
                }
            }
        }
    }
}

/// Whether a command line that cannot be parsed asks for JSON.
fn asks_for_json(arguments: impl Iterator<Item = OsString>) -> bool {
    let arguments: Vec<OsString> = arguments.take_while(|argument| argument != "--").collect();
    let joined = ["-ojson", "-o=json", "--output=json"];
    arguments.iter().any(|argument| joined.iter().any(|form| argument == form))
        || arguments.windows(2).any(|pair| (pair[0] == "-o" || pair[0] == "--output") && pair[1] == "json")
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| {
        Failure::usage(
            format!("cannot start: {error}"),
            "the limits of this process ('ulimit -a') may be too low",
        )
    })
}
