//! Which secret a command is about: its name, as an argument or as `--name`, and its realm.
//!
//! Implements clap's traits by hand, because the derive cannot express one required value with two spellings.

use clap::error::ErrorKind;
use clap::{Arg, ArgGroup, ArgMatches, Args, Command, Error, FromArgMatches};
use clap_complete::engine::ArgValueCompleter;

use crate::completion;

/// The name and the realm of a secret.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    /// The name.
    pub(crate) name: String,
    /// The realm. None means the key's current realm.
    pub(crate) realm: Option<String>,
}

impl Named {
    /// The realm as requests have it: empty if none was given.
    pub(crate) fn wire_realm(&self) -> String {
        self.realm.clone().unwrap_or_default()
    }
}

impl Args for Named {
    fn augment_args(command: Command) -> Command {
        command
            .arg(
                Arg::new("position")
                    .value_name("NAME")
                    .help("Name of the secret")
                    .add(ArgValueCompleter::new(completion::secrets)),
            )
            .arg(
                Arg::new("name")
                    .long("name")
                    .value_name("NAME")
                    .help("Name of the secret, as a flag")
                    .add(ArgValueCompleter::new(completion::secrets)),
            )
            .arg(
                Arg::new("realm")
                    .long("realm")
                    .value_name("REALM")
                    .help("Realm of the secret [default: the API key's current realm]")
                    .add(ArgValueCompleter::new(completion::realms)),
            )
            .group(ArgGroup::new("which").args(["position", "name"]).required(true))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Named {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let text = |id| matches.get_one::<String>(id).cloned();
        let name = text("position").or_else(|| text("name"));
        let name = name.ok_or_else(|| Error::new(ErrorKind::MissingRequiredArgument))?;
        Ok(Self { name, realm: text("realm") })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
