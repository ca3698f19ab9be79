//! `tare login` and `tare profile`: the flags of the commands that work with profiles.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};
use clap_complete::engine::ArgValueCompleter;

use crate::completion;

const LOGIN_HELP: &str = "\
The profile is --profile NAME, else $AGENTROUTER_PROFILE, else the current one, else 'default'. The server comes from \
--base-url or $AGENTROUTER_BASE_URL, else from the profile if it exists. The key comes from --api-key-file, --key-command \
or $AGENTROUTER_API_KEY, else from a hidden prompt.

Profiles are in $XDG_CONFIG_HOME/tare (~/.config/tare): config.toml, and each key in a file of its own that only you can \
read. With --key-command no key is stored: the command prints it each time, for example from a password manager.";

#[derive(Debug, Args)]
#[command(after_help = LOGIN_HELP)]
pub(crate) struct Login {
    /// Read the API key from a file; '-' is standard input
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) api_key_file: Option<PathBuf>,

    /// Run this command of the shell for the API key, each time it is needed
    #[arg(long, value_name = "COMMAND", conflicts_with = "api_key_file")]
    pub(crate) key_command: Option<String>,

    /// Store the profile without asking the server whether it accepts the key
    #[arg(long)]
    pub(crate) no_check: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ProfileCall {
    /// List the profiles
    List,
    /// Make a profile the current one
    Use {
        /// Name of the profile
        #[arg(add = ArgValueCompleter::new(completion::profiles))]
        name: String,
    },
    /// Show a profile
    Show {
        /// Name of the profile [default: the one in use]
        #[arg(add = ArgValueCompleter::new(completion::profiles))]
        name: Option<String>,
    },
    /// Remove a profile, and its API key from this computer
    Remove {
        /// Name of the profile
        #[arg(add = ArgValueCompleter::new(completion::profiles))]
        name: String,
    },
}
