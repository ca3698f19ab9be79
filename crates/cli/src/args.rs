//! The command line: every field of a request is a flag of its name.

use std::path::PathBuf;
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use clap::builder::Styles;
use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;

mod named;

pub(crate) use named::Named;

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
  AGENTROUTER_BASE_URL  Where the server is
  AGENTROUTER_API_KEY   The API key, with or without 'ak-'
  AGENTROUTER_CA_FILE   PEM file of certificates to trust in place of the system's
  NO_COLOR              Set to anything: no colours

Exit status:
  0  done
  1  the server said no
  2  the command line or the settings are wrong
  3  the server cannot be reached";

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
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Where the server is [default: $AGENTROUTER_BASE_URL]
    #[arg(long, global = true, value_name = "URL", value_hint = ValueHint::Url)]
    pub(crate) base_url: Option<String>,

    /// API key; the process list shows it, so prefer $AGENTROUTER_API_KEY
    #[arg(long, global = true, value_name = "KEY")]
    pub(crate) api_key: Option<String>,

    /// PEM file of certificates to trust [default: $AGENTROUTER_CA_FILE]
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) ca_file: Option<PathBuf>,

    /// Time for one call with its retries, such as 500ms or 2m [default: 10s]
    #[arg(long, global = true, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) timeout: Option<Duration>,

    /// table for people, json (the REST answer's body) or yaml [default: table]
    #[arg(long, short, global = true, value_name = "FORMAT", default_value = "table")]
    #[arg(hide_default_value = true, hide_possible_values = true)]
    pub(crate) output: Format,
}

/// How an answer is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// The REST answer's body
    Json,
    /// The same as YAML
    Yaml,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make one call of the API
    #[command(subcommand, arg_required_else_help = true)]
    Api(Api),
    /// Work with many secrets at once: import a .env file, run a command with them
    #[command(subcommand, arg_required_else_help = true)]
    Secret(SecretTask),
    /// Print the completion script of a shell
    ///
    /// For example, in ~/.bashrc: source <(tare completion bash)
    Completion {
        /// Which shell
        shell: Shell,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Api {
    /// Calls of the secret service
    #[command(subcommand, arg_required_else_help = true)]
    Secret(SecretCall),
}

#[derive(Debug, Subcommand)]
pub(crate) enum SecretCall {
    /// Create a secret, or update the one of that owner, realm and name
    Create(Create),
    /// Show a secret's metadata
    Get(Named),
    /// List secrets' metadata
    List(List),
    /// Delete a secret with all its versions
    Delete(Delete),
    /// Put a new version in place of the active one, which stays readable for a while
    Rotate(Rotate),
    /// Try whether a secret can still be decrypted; exits with 1 if not
    Validate(Named),
    /// Values of secrets
    #[command(subcommand, arg_required_else_help = true)]
    SecretValue(SecretValueCall),
}

#[derive(Debug, Subcommand)]
pub(crate) enum SecretValueCall {
    /// Print a secret's value, and nothing else unless -o says so
    Get(GetValue),
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    #[command(flatten)]
    pub(crate) which: Named,

    /// What the secret is for
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) description: Option<String>,

    /// A label; give it again for more
    #[arg(long = "tag", alias = "tags", value_name = "KEY=VALUE", value_parser = tag)]
    pub(crate) tags: Vec<(String, String)>,

    /// Owner of the secret [default: the API key's user]
    #[arg(long, value_name = "ID", allow_hyphen_values = true)]
    pub(crate) user_id: Option<String>,

    /// Only if this is the current version; 0: only if it is new
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) expected_version: Option<i32>,

    /// Write exactly these of description,tags,value, even if empty
    #[arg(long, value_name = "FIELDS", value_delimiter = ',')]
    pub(crate) update_mask: Option<Vec<String>>,

    /// Read the value from a file; '-' is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "value", value_hint = ValueHint::FilePath)]
    pub(crate) value_file: Option<PathBuf>,

    /// The value; it stays in the shell's history, so prefer a file
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) value: Option<String>,

    /// Keep the one line end that is removed from a file's end
    #[arg(long)]
    pub(crate) keep_newline: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Rotate {
    #[command(flatten)]
    pub(crate) which: Named,

    /// How long the replaced version stays readable, such as 24h or 7d [default: the server's]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) grace_period: Option<Duration>,

    /// Only if this is the current version
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) expected_version: Option<i32>,

    /// Read the new value from a file; '-' is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "new_value", value_hint = ValueHint::FilePath)]
    pub(crate) new_value_file: Option<PathBuf>,

    /// The value; it stays in the shell's history, so prefer a file
    #[arg(long, value_name = "VALUE", allow_hyphen_values = true)]
    pub(crate) new_value: Option<String>,

    /// Keep the one line end that is removed from a file's end
    #[arg(long)]
    pub(crate) keep_newline: bool,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Only of this realm [default: every realm the API key may see]
    #[arg(long)]
    pub(crate) realm: Option<String>,

    /// Only versions in this state: active, rotated_pending, retired or any [default: active]
    #[arg(long)]
    pub(crate) status: Option<String>,

    /// Only with this label; give it again for more, all must match
    #[arg(long = "tag", alias = "tags", value_name = "KEY=VALUE", value_parser = tag)]
    pub(crate) tags: Vec<(String, String)>,

    /// Only if the name begins so
    #[arg(long, value_name = "TEXT")]
    pub(crate) name_prefix: Option<String>,

    /// Most secrets on a page, up to 1000 [default: 50]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) page_size: Option<i32>,

    /// Go on where a page ended: its next_page_token
    #[arg(long, value_name = "TOKEN", allow_hyphen_values = true)]
    pub(crate) page_token: Option<String>,

    /// All pages
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    #[command(flatten)]
    pub(crate) which: Named,

    /// Do not ask
    #[arg(long, short)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct GetValue {
    #[command(flatten)]
    pub(crate) which: Named,

    /// Owner of the secret [default: the API key's user]
    #[arg(long, value_name = "ID", allow_hyphen_values = true)]
    pub(crate) user_id: Option<String>,

    /// Which version, if not the active one
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) version: Option<i32>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SecretTask {
    /// Store every variable of a .env file as a secret of the same name
    Import(Import),
    /// Run a command with the secrets of a realm in its environment
    Run(Run),
}

const IMPORT_HELP: &str = "\
Each line NAME=VALUE becomes the secret NAME; one that exists gets the value as its next version. Values may be \
'quoted' (taken as they are) or \"quoted\" (with the escapes \\n \\r \\t \\\\ \\\" \\$), and quoted ones may span lines. \
' #' begins a comment. Nothing is ever expanded: $HOME stays $HOME. Empty values are skipped.

No value is printed. One that fails does not stop the others; the exit status is then 1.";

#[derive(Debug, Args)]
#[command(after_help = IMPORT_HELP)]
pub(crate) struct Import {
    /// The .env file; '-' is standard input
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,

    /// Realm to store the secrets in
    #[arg(long)]
    pub(crate) realm: String,

    /// Only say what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// A label for each of the secrets; give it again for more
    #[arg(long = "tag", alias = "tags", value_name = "KEY=VALUE", value_parser = tag)]
    pub(crate) tags: Vec<(String, String)>,

    /// Owner of the secrets [default: the API key's user]
    #[arg(long, value_name = "ID", allow_hyphen_values = true)]
    pub(crate) user_id: Option<String>,
}

const RUN_HELP: &str = "\
Every active secret of the realm becomes a variable: its name in upper case, with '-' and '.' as '_', so that \
openai-api-key is OPENAI_API_KEY. It replaces a variable of that name. If a secret cannot be read, or two become the \
same variable, COMMAND is not started; nor is it when one becomes a variable that makes programs run other code, such \
as PATH, LD_PRELOAD or NODE_OPTIONS, unless --only names it.

COMMAND takes the place of tare: signals and the exit status are its own. 127 means that there is no such command, \
126 that it cannot be run.";

#[derive(Debug, Args)]
#[command(after_help = RUN_HELP)]
pub(crate) struct Run {
    /// Realm of the secrets
    #[arg(long)]
    pub(crate) realm: String,

    /// Only these secrets
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub(crate) only: Vec<String>,

    /// The command and its arguments, after '--'
    #[arg(last = true, required = true, value_name = "COMMAND", value_hint = ValueHint::CommandWithArguments)]
    pub(crate) command: Vec<std::ffi::OsString>,
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
            "tare api secret get n",
            "tare api secret list",
            "tare api secret list --tag a=b --tags c=d",
            "tare api secret delete n --yes",
            "tare api secret rotate n --new-value-file f --grace-period 24h",
            "tare api secret validate n",
            "tare api secret secret-value get n --version 2 --user-id system",
            "tare secret import f --realm r --dry-run",
            "tare secret run --realm r --only a,b -- env -0",
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
            "tare api secret create n --tag novalue",
            "tare api secret list --page-size many",
            "tare api secret rotate n --grace-period soon",
            "tare api secret get n -o xml",
            "tare secret run -- env",
            "tare secret run --realm r",
            "tare secret import f",
            "tare frobnicate",
        ] {
            assert_eq!(parse(line).expect_err(line).exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn global_flags_stand_anywhere() {
        let cli = parse("tare api secret get n -o json --timeout 3s --base-url http://h").expect("valid");
        assert_eq!(cli.global.output, Format::Json);
        assert_eq!(cli.global.timeout, Some(Duration::from_secs(3)));
        assert!(parse("tare -o yaml api secret list").is_ok());
    }

    #[test]
    fn a_negative_number_reaches_the_server_which_has_the_rules() {
        assert!(parse("tare api secret list --page-size -1").is_ok());
    }
}
