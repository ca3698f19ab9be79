//! Connection settings: flags, then environment variables, then the profile of `tare login`.
//!
//! The key of a profile is sent to the server of that profile only: with another base URL it is not used. A key is never
//! sent in clear text to another host unless the caller asks for it. A profile that is named and not used is an error.

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use agentrouter_sdk::{Client, ConfigError, Error, SecretClient};
use zeroize::Zeroizing;

use crate::args::Connection;
use crate::failure::Failure;
use crate::notice::warn;
use crate::paced_client::PacedClient;
use crate::profile::Profiles;

/// Time for one call unless a flag sets it, as in the SDK.
const TIMEOUT: Duration = Duration::from_secs(10);

const BASE_URL: &str = "AGENTROUTER_BASE_URL";
const API_KEY: &str = "AGENTROUTER_API_KEY";
const CA_FILE: &str = "AGENTROUTER_CA_FILE";
const PROFILE: &str = "AGENTROUTER_PROFILE";
const ALLOW_HTTP: &str = "AGENTROUTER_ALLOW_HTTP";

/// Where a setting comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A flag.
    Flag(&'static str),
    /// An environment variable.
    Variable(&'static str),
    /// A profile.
    Profile(String),
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Flag(flag) => f.write_str(flag),
            Self::Variable(variable) => f.write_str(variable),
            Self::Profile(name) => write!(f, "profile {name}"),
        }
    }
}

/// A setting and where it comes from.
pub(crate) type Sourced<T> = (T, Origin);

/// Obtains the key of a profile.
type KeyOf = fn(&Profiles, &str) -> Result<Option<Zeroizing<String>>, Failure>;

/// What a client is made of.
#[derive(Default)]
pub(crate) struct Settings {
    /// URL of the server.
    pub(crate) base_url: Option<Sourced<String>>,
    /// The API key.
    pub(crate) api_key: Option<Sourced<Zeroizing<String>>>,
    /// Certificates to trust.
    pub(crate) ca_file: Option<Sourced<PathBuf>>,
    /// Whether the key may be sent to another host without TLS.
    pub(crate) allow_http: bool,
    /// Time for one call.
    pub(crate) timeout: Option<Duration>,
}

/// The name of the profile that a flag or a variable asks for.
pub(crate) fn named_profile(flag: Option<&str>) -> Result<Option<Sourced<String>>, Failure> {
    match flag {
        Some(name) => Ok(Some((name.to_owned(), Origin::Flag("--profile")))),
        None => Ok(variable(PROFILE)?.map(|name| (name, Origin::Variable(PROFILE)))),
    }
}

impl Settings {
    /// Collects the settings of flags and variables.
    pub(crate) fn explicit(connection: &Connection) -> Result<Self, Failure> {
        if connection.api_key.is_some() {
            warn("--api-key shows in the process list and stays in the shell's history; prefer 'tare login'");
        }
        let api_key = text(&connection.api_key, "--api-key", API_KEY)?;
        let ca_file = match &connection.ca_file {
            Some(path) => Some((path.clone(), Origin::Flag("--ca-file"))),
            None => env::var_os(CA_FILE)
                .filter(|path| !path.is_empty())
                .map(|path| (PathBuf::from(path), Origin::Variable(CA_FILE))),
        };
        Ok(Self {
            base_url: text(&connection.base_url, "--base-url", BASE_URL)?,
            api_key: api_key.map(|(key, origin)| (Zeroizing::new(key), origin)),
            ca_file,
            allow_http: connection.allow_http || switch(ALLOW_HTTP)?,
            timeout: connection.timeout,
        })
    }

    /// The same, completed from the profile.
    ///
    /// # Errors
    /// When the profile cannot be read, does not exist, or is named without being used.
    pub(crate) fn resolve(connection: &Connection) -> Result<Self, Failure> {
        Self::resolve_with(connection, Profiles::key)
    }

    /// As [`Settings::resolve`], without running a key command.
    pub(crate) fn resolve_stored(connection: &Connection) -> Result<Self, Failure> {
        Self::resolve_with(connection, Profiles::stored_key)
    }

    fn resolve_with(connection: &Connection, key: KeyOf) -> Result<Self, Failure> {
        let mut settings = Self::explicit(connection)?;
        let named = named_profile(connection.profile.as_deref())?;
        if settings.base_url.is_some() && settings.api_key.is_some() {
            return match named {
                Some((name, origin)) => Err(Failure::usage(
                    format!("the profile {name} of {origin} has no effect: server and key are set otherwise"),
                    format!("unset {BASE_URL} and {API_KEY}, or leave {origin} out"),
                )),
                None => Ok(settings),
            };
        }
        let profiles = Profiles::load()?;
        let Some(name) = named.map(|(name, _)| name).or_else(|| profiles.current().map(str::to_owned)) else {
            return Ok(settings);
        };
        settings.complete(&profiles, &name, key)?;
        Ok(settings)
    }

    fn complete(&mut self, profiles: &Profiles, name: &str, key: KeyOf) -> Result<(), Failure> {
        let profile = profiles.get(name)?;
        let origin = Origin::Profile(name.to_owned());
        let same_server = self.base_url.as_ref().is_none_or(|(url, _)| *url == profile.base_url);
        if !same_server {
            return if self.api_key.is_some() {
                Ok(())
            } else {
                Err(Failure::usage(
                    format!("the key of the profile {name} is for another server than the base URL"),
                    format!("unset {BASE_URL}, or set {API_KEY} too"),
                ))
            };
        }
        self.base_url.get_or_insert_with(|| (profile.base_url.clone(), origin.clone()));
        self.allow_http |= profile.allow_http;
        if self.api_key.is_none() {
            self.api_key = key(profiles, name)?.map(|key| (key, origin.clone()));
        }
        if self.ca_file.is_none() {
            self.ca_file = profile.ca_file.clone().map(|path| (path, origin));
        }
        Ok(())
    }

    /// The client. Sends nothing.
    pub(crate) fn client(&self) -> Result<SecretClient, Failure> {
        let mut builder = Client::builder().user_agent(concat!("tare/", env!("CARGO_PKG_VERSION")));
        if let Some((url, _)) = &self.base_url {
            builder = builder.base_url(url);
        }
        if let Some((key, _)) = &self.api_key {
            builder = builder.api_key(key.as_str());
        }
        // Without TLS, the file of a variable or a profile is left out. The SDK refuses that of a flag.
        let tls =
            self.base_url.as_ref().is_some_and(|(url, _)| url.to_ascii_lowercase().starts_with("https:"));
        if let Some((path, _)) = self.ca_file.as_ref().filter(|(_, origin)| tls || is_flag(origin)) {
            builder = builder.ca_file(path);
        }
        builder = builder.allow_http(self.allow_http).timeout(self.timeout());
        Ok(builder.build().map_err(refusal)?.secret().clone())
    }

    /// A client for many calls.
    pub(crate) fn paced_client(&self) -> Result<PacedClient, Failure> {
        Ok(PacedClient::new(self.client()?, self.timeout()))
    }

    fn timeout(&self) -> Duration {
        self.timeout.unwrap_or(TIMEOUT)
    }
}

fn is_flag(origin: &Origin) -> bool {
    matches!(origin, Origin::Flag(_))
}

/// What the SDK refuses, with the names of the command line.
fn refusal(error: Error) -> Failure {
    match error {
        Error::Config(ConfigError::ClearText) => Failure::usage(
            "the base URL is http://, so the API key and all values would cross the network in clear text",
            "use https://, or add --allow-http (or AGENTROUTER_ALLOW_HTTP=1) if the network is trusted",
        ),
        Error::Config(ConfigError::Unused(..)) => {
            Failure::usage("--ca-file has no effect without https://", "use https://, or leave it out")
        }
        error => error.into(),
    }
}

/// The text of a flag, else of a variable.
fn text(
    flag: &Option<String>,
    flag_name: &'static str,
    variable_name: &'static str,
) -> Result<Option<Sourced<String>>, Failure> {
    match flag {
        Some(value) => Ok(Some((value.clone(), Origin::Flag(flag_name)))),
        None => Ok(variable(variable_name)?.map(|value| (value, Origin::Variable(variable_name)))),
    }
}

/// A variable that is set and not empty.
fn variable(name: &'static str) -> Result<Option<String>, Failure> {
    match env::var(name) {
        Ok(value) => Ok(Some(value).filter(|value| !value.is_empty())),
        Err(env::VarError::NotPresent) => Ok(None),
        Err(env::VarError::NotUnicode(_)) => {
            Err(Failure::usage(format!("{name} is not UTF-8 text"), format!("set {name} again")))
        }
    }
}

/// A variable that is `1` or `true`, or `0` or `false`.
fn switch(name: &'static str) -> Result<bool, Failure> {
    match variable(name)?.map(|value| value.to_ascii_lowercase()).as_deref() {
        None | Some("0" | "false") => Ok(false),
        Some("1" | "true") => Ok(true),
        Some(_) => {
            Err(Failure::usage(format!("{name} must be 1 or 0"), format!("set {name} again, or unset it")))
        }
    }
}

/// Refuses the flags of a connection for a command that makes none.
pub(crate) fn refuse_unused(connection: &Connection, command: &str) -> Result<(), Failure> {
    let Connection { profile, base_url, api_key, ca_file, allow_http, timeout } = connection;
    let given = [
        ("--profile", profile.is_some()),
        ("--base-url", base_url.is_some()),
        ("--api-key", api_key.is_some()),
        ("--ca-file", ca_file.is_some()),
        ("--allow-http", *allow_http),
        ("--timeout", timeout.is_some()),
    ];
    match given.into_iter().find(|(_, given)| *given) {
        Some((flag, _)) => Err(Failure::usage(
            format!("{flag} has no effect on '{command}', which makes no call"),
            format!("leave {flag} out"),
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(url: &str, allow_http: bool) -> Settings {
        let base_url = Some((url.to_owned(), Origin::Flag("--base-url")));
        let key = "0000000000000000_0000000000000000000000000000000000000000000000000";
        let api_key = Some((Zeroizing::new(key.to_owned()), Origin::Flag("--api-key")));
        Settings { base_url, api_key, allow_http, ..Settings::default() }
    }

    #[test]
    fn a_key_is_not_sent_in_clear_text_to_another_host() {
        for (url, fits) in [
            ("https://secrets.example.com", true),
            ("http://127.0.0.1:8080", true),
            ("http://localhost", true),
            ("HTTP://LOCALHOST:1", true),
            ("http://[::1]:8080", true),
            ("http://app.localhost", true),
            ("http://secrets.example.com", false),
            ("http://10.0.0.1:8080", false),
            ("http://localhost.example.com", false),
            ("http://[2001:db8::1]", false),
        ] {
            assert_eq!(to(url, false).client().is_ok(), fits, "{url}");
            assert!(to(url, true).client().is_ok(), "{url}");
        }
    }

    #[test]
    fn a_flag_of_a_connection_is_refused_where_there_is_none() {
        assert!(refuse_unused(&Connection::default(), "tare completion").is_ok());
        let connection = Connection { allow_http: true, ..Connection::default() };
        let failure = refuse_unused(&connection, "tare completion").expect_err("unused");
        assert!(failure.to_string().starts_with("--allow-http has no effect"));
    }
}
