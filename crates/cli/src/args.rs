//! The command line: every field of a request is a flag of its name.

use std::path::PathBuf;
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use clap::builder::Styles;
use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;
use clap_complete::engine::ArgValueCompleter;

use crate::completion;

mod account;
mod api;
mod bulk;
mod secret_argument;

pub(crate) use account::{Login, ProfileCall};
pub(crate) use api::{Create, Delete, GetValue, List, Rotate, SecretCall, SecretValueCall};
pub(crate) use bulk::{Choice, Destination, Export, Import, Inject, OnDifference, Run, SecretTask, Selected};
pub(crate) use secret_argument::Named;

const STYLES: Styles = Styles::styled()
    .header(Style::new().bold())
    .usage(Style::new().bold())
    .literal(AnsiColor::Cyan.on_default())
    .placeholder(Style::new().dimmed())
    .error(AnsiColor::Red.on_default().bold())
    .valid(AnsiColor::Green.on_default())
    .invalid(AnsiColor::Yellow.on_default());

const AFTER_HELP: &str = "\
Environment:
  AGENTROUTER_BASE_URL    URL of the server
  AGENTROUTER_API_KEY     API key, with or without 'ak-'
  AGENTROUTER_CA_FILE     PEM file of certificates to trust in place of the system's
  AGENTROUTER_PROFILE     Profile to use
  AGENTROUTER_ALLOW_HTTP  1: send the key to an http:// URL of another host, unencrypted
  HTTPS_PROXY, NO_PROXY   Proxy, and the servers that are reached without it
  SSL_CERT_FILE           PEM file of the system's certificates
  NO_COLOR                Set to anything: no colours

A flag wins over a variable, and a variable over the profile of 'tare login'. An empty variable counts as unset.

Exit status:
  0    done
  1    the server refused, or the result is negative
  2    the command line, a file or a setting is wrong; nothing was sent
  3    the server cannot be reached
  4    the API key lacks a permission
  126  'secret run': the command cannot be started; 127: it does not exist
  130  interrupted
  141  standard output was closed before everything was written";

/// The command line of AgentRouter's secret service.
#[derive(Debug, Parser)]
#[command(name = "tare", version, styles = STYLES, max_term_width = 100, after_help = AFTER_HELP)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    #[command(flatten)]
    pub(crate) connection: Connection,

    /// table for people, json (the REST response's body) or yaml [default: table]
    #[arg(long, short, global = true, value_name = "FORMAT", default_value = "table")]
    #[arg(hide_default_value = true, hide_possible_values = true)]
    pub(crate) output: Format,
}

/// How the server is reached.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Connection {
    /// Profile to use: see 'tare profile list' [default: $AGENTROUTER_PROFILE, else the current one]
    #[arg(long, global = true, value_name = "NAME", add = ArgValueCompleter::new(completion::profiles))]
    pub(crate) profile: Option<String>,

    /// URL of the server, or unix:PATH for its socket [default: $AGENTROUTER_BASE_URL]
    #[arg(long, global = true, value_name = "URL", value_hint = ValueHint::Url)]
    pub(crate) base_url: Option<String>,

    /// API key; the process list shows it, so prefer 'tare login'
    #[arg(long, global = true, value_name = "KEY")]
    pub(crate) api_key: Option<String>,

    /// PEM file of certificates to trust [default: $AGENTROUTER_CA_FILE]
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) ca_file: Option<PathBuf>,

    /// Send the API key to an http:// URL of another host, unencrypted
    #[arg(long, global = true)]
    pub(crate) allow_http: bool,

    /// Time for one call with its retries, such as 500ms or 2m [default: 10s]
    #[arg(long, global = true, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) timeout: Option<Duration>,
}

/// How a response is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// The REST response's body
    Json,
    /// The same as YAML
    Yaml,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make one call of the API; for many secrets at once see 'tare secret'
    #[command(subcommand, arg_required_else_help = true)]
    Api(Api),
    /// Work with many secrets: import, run, export, inject; for one secret see 'tare api secret'
    #[command(subcommand, arg_required_else_help = true)]
    #[command(after_help = "To create, read, rotate or delete one secret, see 'tare api secret --help'.")]
    Secret(SecretTask),
    /// Store a server and an API key as a profile
    Login(Login),
    /// Remove the API key of a profile from this computer
    Logout,
    /// List, choose, show and remove profiles
    #[command(subcommand, arg_required_else_help = true)]
    Profile(ProfileCall),
    /// Show the server, the API key's id and what the key may do
    Whoami,
    /// Print the completion script of a shell
    ///
    /// For example, in ~/.bashrc: source <(tare completion bash). Names of secrets come from the server, which records the
    /// lists in its audit log. With a profile that has a key command there are none.
    Completion {
        /// Which shell
        shell: Shell,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Api {
    /// Calls of the secret service
    #[command(subcommand, arg_required_else_help = true)]
    #[command(
        after_help = "To import a .env file, run a command with secrets, or export them, see 'tare secret --help'."
    )]
    Secret(SecretCall),
}

/// `KEY=VALUE`; the value may have more '=' in it.
fn tag(text: &str) -> Result<(String, String), &'static str> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write it as KEY=VALUE"),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_documented_command_is_there() {
        for line in [
            "tare api secret create --name n --value-file -",
            "tare api secret create n --generate",
            "tare api secret create n --generate=64",
            "tare api secret get n",
            "tare api secret list",
            "tare api secret list --tag a=b --tags c=d",
            "tare api secret delete n --yes",
            "tare api secret rotate n --new-value-file f --grace-period 24h",
            "tare api secret validate n",
            "tare api secret secret-value get n --version 2 --user-id system",
            "tare secret import f --realm r --dry-run",
            "tare secret import f --realm r --rotate --grace-period 1h",
            "tare secret run --realm r --only a,b -- env -0",
            "tare secret run --realm r --realm s --all --override A,B -- env",
            "tare secret run --mapping f -- env",
            "tare secret export --realm r --prefix p --shell",
            "tare secret inject f --out g",
            "tare secret inject f --user-id u",
            "tare secret run --realm r --only a --user-id u -- env",
            "tare secret export --mapping f --user-id u",
            "tare login --base-url http://h --api-key-file -",
            "tare logout",
            "tare profile list",
            "tare profile use p",
            "tare profile show",
            "tare profile remove p",
            "tare whoami",
            "tare completion bash",
        ] {
            assert!(parse(line).is_ok(), "{line}");
        }
    }

    #[test]
    fn a_name_is_given_once_by_position_or_by_flag() {
        for (line, fits) in [
            ("tare api secret get n", true),
            ("tare api secret get --name n", true),
            ("tare api secret get", false),
            ("tare api secret get n --name n", false),
        ] {
            assert_eq!(parse(line).is_ok(), fits, "{line}");
        }
        let Command::Api(Api::Secret(SecretCall::Get(named))) =
            parse("tare api secret get --name n").expect("valid").command
        else {
            panic!("not a get");
        };
        assert_eq!(named.name, "n");
    }

    #[test]
    fn wrong_command_lines_are_usage_errors_with_status_2() {
        for line in [
            "tare api secret create n --value a --value-file b",
            "tare api secret create n --value a --generate",
            "tare api secret create n --value a --keep-newline",
            "tare api secret create n --generate=7",
            "tare api secret create n --tag novalue",
            "tare api secret list --page-size many",
            "tare api secret rotate n --grace-period soon",
            "tare api secret rotate n --grace-period 24",
            "tare api secret get n -o xml",
            "tare secret run --realm r",
            "tare secret run --realm r --only a --all -- env",
            "tare secret run --realm  -- env",
            "tare secret run --mapping f --keep-names -- env",
            "tare secret import f",
            "tare secret import f --realm r --replace --rotate",
            "tare secret import f --realm r --grace-period 1h",
            "tare secret import f --realm r --replace --grace-period 1h",
            "tare secret import f --realm r --user-id u --grace-period 1h",
            "tare secret export --realm r --force",
            "tare secret export --realm r --user-id u",
            "tare secret export --realm r --all --user-id u",
            "tare secret import f --realm r --rotate --user-id u",
            "tare login --api-key-file f --key-command c",
            "tare frobnicate",
        ] {
            assert_eq!(parse(line).expect_err(line).exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn global_flags_stand_anywhere() {
        let cli = parse("tare api secret get n -o json --timeout 3s --base-url http://h").expect("valid");
        assert_eq!(cli.global.output, Format::Json);
        assert_eq!(cli.global.connection.timeout, Some(Duration::from_secs(3)));
        assert!(parse("tare -o yaml api secret list").is_ok());
    }

    #[test]
    fn a_negative_number_reaches_the_server_which_has_the_rules() {
        assert!(parse("tare api secret list --page-size -1").is_ok());
    }
}
