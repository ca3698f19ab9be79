//! `tare secret`: the flags of the commands that work with many secrets.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser as NonEmpty;
use clap::{ArgGroup, Args, Subcommand, ValueHint};
use clap_complete::engine::ArgValueCompleter;

use super::tag;
use crate::completion;
use crate::reference::Reference;
use crate::variable;

#[derive(Debug, Subcommand)]
pub(crate) enum SecretTask {
    /// Store every variable of a .env file as a secret of the same name
    Import(Import),
    /// Run a command with secrets in its environment
    Run(Run),
    /// Print secrets as a .env file
    Export(Export),
    /// Fill secrets into a template
    Inject(Inject),
}

const IMPORT_HELP: &str = "\
Each line NAME=VALUE becomes the secret NAME. Values may be 'quoted' (taken as they are) or \"quoted\" (with the escapes \
\\n \\r \\t \\\\ \\\" \\$ \\`), and quoted ones may span lines. '#' behind a blank begins a comment. Nothing is ever \
expanded: $HOME stays $HOME. Empty values are skipped.

A secret that has the same value already stays as it is (unchanged). One that has another value is not overwritten unless \
--replace or --rotate is given, or you confirm it on a terminal; it is reported as kept, and the exit status is 1. To \
compare, tare reads the stored values, which needs the scope secrets/read/internal. Without that scope every secret that \
exists counts as one with another value.

No value is printed. One secret that fails does not stop the others; the exit status is then 1.

Scopes: secrets/write; secrets/read/internal to compare; secrets/read for --dry-run without it.";

#[derive(Debug, Args)]
#[command(after_help = IMPORT_HELP)]
pub(crate) struct Import {
    /// The .env file; '-' is standard input
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,

    /// Realm to store the secrets in
    #[arg(long, value_parser = NonEmpty::new(), add = ArgValueCompleter::new(completion::realms))]
    pub(crate) realm: String,

    /// Only report what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Overwrite other values: the old ones are unreadable at once
    #[arg(long, conflicts_with = "rotate")]
    replace: bool,

    /// Rotate secrets with another value: the old ones stay readable for the grace period
    #[arg(long, conflicts_with = "user_id")]
    rotate: bool,

    /// How long rotated values stay readable, such as 24h or 7d [default: the server's]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    #[arg(requires = "rotate", conflicts_with_all = ["replace", "user_id"])]
    pub(crate) grace_period: Option<Duration>,

    /// A label for each of the secrets; give it again for more
    #[arg(long = "tag", alias = "tags", value_name = "KEY=VALUE", value_parser = tag)]
    pub(crate) tags: Vec<(String, String)>,

    /// Owner of the secrets [default: the API key's user]
    #[arg(long, value_name = "ID", allow_hyphen_values = true)]
    pub(crate) user_id: Option<String>,
}

/// What an import does with a secret that has another value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnDifference {
    /// Leaves it as it is and reports it.
    Keep,
    /// Stores the new value and retires the old one.
    Replace,
    /// Rotates it.
    Rotate,
}

impl Import {
    /// What the flags ask for.
    pub(crate) fn on_difference(&self) -> OnDifference {
        match (self.replace, self.rotate) {
            (true, _) => OnDifference::Replace,
            (_, true) => OnDifference::Rotate,
            _ => OnDifference::Keep,
        }
    }
}

/// Which secrets, and how their variables are named.
#[derive(Debug, Default, Args)]
#[command(group = ArgGroup::new("choice").args(["only", "prefix", "mapping", "all"]))]
#[command(group = ArgGroup::new("named").args(["only", "mapping"]))]
pub(crate) struct Choice {
    /// Realm of the secrets; give it again for more
    #[arg(long = "realm", value_name = "REALM", value_parser = NonEmpty::new())]
    #[arg(add = ArgValueCompleter::new(completion::realms))]
    pub(crate) realms: Vec<String>,

    /// Only these secrets: NAME or sm://REALM/NAME[#VERSION], separated by commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = reference)]
    #[arg(add = ArgValueCompleter::new(completion::secrets))]
    only: Vec<Reference>,

    /// All secrets whose name begins with this
    #[arg(long, value_name = "TEXT", value_parser = NonEmpty::new())]
    #[arg(add = ArgValueCompleter::new(completion::secrets))]
    prefix: Option<String>,

    /// A file of lines VARIABLE=NAME or VARIABLE=sm://REALM/NAME[#VERSION]; '-' is standard input
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    mapping: Option<PathBuf>,

    /// All secrets of the realm, not only those named like a credential
    #[arg(long)]
    all: bool,

    /// Use the secrets' names as they are, even those that no shell takes for a variable
    #[arg(long, conflicts_with = "mapping")]
    keep_names: bool,

    /// Owner of the secrets that --only or --mapping names [default: the API key's user]
    #[arg(long, value_name = "ID", allow_hyphen_values = true, requires = "named")]
    user_id: Option<String>,
}

/// What a [`Choice`] asks for.
#[derive(Debug)]
pub(crate) enum Selected<'a> {
    /// These secrets.
    Named(&'a [Reference]),
    /// The secrets and variables of a file.
    Mapped(&'a Path),
    /// Those of the realms' list.
    Listed {
        /// What their names begin with; empty for all.
        prefix: &'a str,
        /// Whether only those that are named like a credential are meant.
        credentials_only: bool,
    },
}

impl Choice {
    /// What the flags ask for.
    pub(crate) fn selected(&self) -> Selected<'_> {
        match (&*self.only, &self.mapping, &self.prefix) {
            (only @ [_, ..], _, _) => Selected::Named(only),
            (_, Some(path), _) => Selected::Mapped(path),
            (_, _, Some(prefix)) => Selected::Listed { prefix, credentials_only: false },
            _ => Selected::Listed { prefix: "", credentials_only: !self.all },
        }
    }

    /// Whether the caller named each secret.
    pub(crate) fn names_each(&self) -> bool {
        matches!(self.selected(), Selected::Named(_) | Selected::Mapped(_))
    }

    /// The owner of the secrets; empty for the API key's user.
    pub(crate) fn user_id(&self) -> &str {
        self.user_id.as_deref().unwrap_or_default()
    }

    /// The variable of a secret.
    pub(crate) fn variable(&self, name: &str) -> String {
        if self.keep_names { name.to_owned() } else { variable::of(name) }
    }
}

fn reference(text: &str) -> Result<Reference, &'static str> {
    text.trim().parse()
}

const CHOICE_HELP: &str = "\
Without --only, --prefix, --mapping or --all, the active secrets of the realm whose names end like a credential's are \
taken: KEY, KEYS, KEY_ID, APIKEY, TOKEN, SECRET, PASSWORD, PASSWD, PASS, PWD, PASSPHRASE or PAT. The others are listed on \
standard error. AGENTROUTER_* is never taken.

A name of letters, digits and '_' is the variable's name. In any other one letters become upper case, and '-' and '.' \
become '_': openai-api-key is OPENAI_API_KEY. Two secrets that become the same variable are an error.

Scopes: secrets/read/internal to read values. With --only and --mapping that is all; otherwise secrets/read too, to list \
the names. A list has the secrets of the API key's user alone, so --user-id needs --only or --mapping.";

const RUN_HELP: &str = "\
A variable that is already set stays as it is, unless --override names it. If a secret cannot be read, COMMAND is not \
started; nor is it when --all or --prefix would set a variable that makes programs run other code, such as LD_PRELOAD or \
NODE_OPTIONS.

COMMAND takes the place of tare: signals and the exit status are its own. 127 means that there is no such command, \
126 that it cannot be started.";

#[derive(Debug, Args)]
#[command(after_help = format!("{CHOICE_HELP}\n\n{RUN_HELP}"))]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) choice: Choice,

    /// Set these variables even if they are set already, separated by commas
    #[arg(long = "override", value_name = "VARIABLES", value_delimiter = ',')]
    pub(crate) overridden: Vec<String>,

    /// The command and its arguments, after '--'
    #[arg(last = true, required = true, value_name = "COMMAND", value_hint = ValueHint::CommandWithArguments)]
    pub(crate) command: Vec<std::ffi::OsString>,
}

/// Where secrets in clear text are written.
#[derive(Debug, Args)]
pub(crate) struct Destination {
    /// Write to this file, readable by you alone, instead of standard output
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) out: Option<PathBuf>,

    /// Replace the file if it exists
    #[arg(long, requires = "out")]
    pub(crate) force: bool,
}

const EXPORT_HELP: &str = "\
The lines are quoted so that 'tare secret import', bash and the common parsers of .env files read the values unchanged. \
-o json and -o yaml print a map of names and values.";

#[derive(Debug, Args)]
#[command(after_help = format!("{CHOICE_HELP}\n\n{EXPORT_HELP}"))]
pub(crate) struct Export {
    #[command(flatten)]
    pub(crate) choice: Choice,

    /// Print lines 'export NAME=VALUE' for a shell
    #[arg(long)]
    pub(crate) shell: bool,

    #[command(flatten)]
    pub(crate) destination: Destination,
}

const INJECT_HELP: &str = "\
Each {{ sm://REALM/NAME }} or {{ sm://REALM/NAME#VERSION }} is replaced by the value, as it is. Other text between {{ and }} \
stays. If a secret cannot be read, nothing is written.

Scopes: secrets/read/internal.";

#[derive(Debug, Args)]
#[command(after_help = INJECT_HELP)]
pub(crate) struct Inject {
    /// The template; '-' is standard input
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) template: PathBuf,

    /// Owner of the secrets [default: the API key's user]
    #[arg(long, value_name = "ID", allow_hyphen_values = true)]
    pub(crate) user_id: Option<String>,

    #[command(flatten)]
    pub(crate) destination: Destination,
}
