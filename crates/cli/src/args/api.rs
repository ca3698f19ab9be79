//! `tare api secret`: the flags of the seven calls.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueHint};
use clap_complete::engine::ArgValueCompleter;

use super::{Named, tag};
use crate::completion;

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
    /// Store a new active version; the replaced one stays readable for a grace period
    Rotate(Rotate),
    /// Check that a secret can be decrypted; exits with 1 if not
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
    #[arg(long, value_name = "FILE", conflicts_with_all = ["value", "generate"], value_hint = ValueHint::FilePath)]
    pub(crate) value_file: Option<PathBuf>,

    /// The value; it stays in the shell's history, so prefer a file
    #[arg(long, allow_hyphen_values = true, conflicts_with = "generate")]
    pub(crate) value: Option<String>,

    /// Keep the line end of a file with one line
    #[arg(long, requires = "value_file", conflicts_with_all = ["value", "generate"])]
    pub(crate) keep_newline: bool,

    /// Generate a value of N letters and digits, 16 to 4096 [default: 40]; it is not shown
    #[arg(long, value_name = "N", num_args = 0..=1, require_equals = true, default_missing_value = "40")]
    #[arg(value_parser = clap::value_parser!(u16).range(16..=4096))]
    pub(crate) generate: Option<u16>,
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
    #[arg(long, value_name = "FILE", conflicts_with_all = ["new_value", "generate"], value_hint = ValueHint::FilePath)]
    pub(crate) new_value_file: Option<PathBuf>,

    /// The value; it stays in the shell's history, so prefer a file
    #[arg(long, value_name = "VALUE", allow_hyphen_values = true, conflicts_with = "generate")]
    pub(crate) new_value: Option<String>,

    /// Keep the line end of a file with one line
    #[arg(long, requires = "new_value_file", conflicts_with_all = ["new_value", "generate"])]
    pub(crate) keep_newline: bool,

    /// Generate a value of N letters and digits, 16 to 4096 [default: 40]; it is not shown
    #[arg(long, value_name = "N", num_args = 0..=1, require_equals = true, default_missing_value = "40")]
    #[arg(value_parser = clap::value_parser!(u16).range(16..=4096))]
    pub(crate) generate: Option<u16>,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Only of this realm [default: every realm the API key may see]
    #[arg(long, add = ArgValueCompleter::new(completion::realms))]
    pub(crate) realm: Option<String>,

    /// Only versions in this state: active, rotated_pending, retired or any [default: active]
    #[arg(long)]
    pub(crate) status: Option<String>,

    /// Only with this label; give it again for more, all must match
    #[arg(long = "tag", alias = "tags", value_name = "KEY=VALUE", value_parser = tag)]
    pub(crate) tags: Vec<(String, String)>,

    /// Only if the name begins with this
    #[arg(long, value_name = "TEXT", add = ArgValueCompleter::new(completion::secrets))]
    pub(crate) name_prefix: Option<String>,

    /// Most secrets on a page, up to 1000 [default: 50]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) page_size: Option<i32>,

    /// Continue after a page: its next_page_token
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

    /// Do not ask for confirmation
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
