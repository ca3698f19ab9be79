//! `tare login`, `logout`, `profile` and `whoami`.

use std::collections::BTreeMap;

use agentrouter_sdk::secret::v1;
use agentrouter_sdk::{Code, Error, SecretClient};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::args::{Connection, Login, ProfileCall};
use crate::connection::{Origin, Settings, named_profile};
use crate::failure::Failure;
use crate::notice::hint;
use crate::output::{Output, Table};
use crate::profile::{self, Profile, Profiles};
use crate::terminal;
use crate::value::read_text;

const KEY_STILL_WORKS: &str =
    "the key still works elsewhere; 'agentrouter-secrets key revoke' on the server ends it";

/// The name of the first profile.
const DEFAULT: &str = "default";

/// Who calls, and what the key may do.
#[derive(Serialize)]
struct Identity {
    base_url: String,
    base_url_from: String,
    key_id: String,
    key_from: String,
    /// Null if the server was not asked.
    scopes: Option<Vec<&'static str>>,
}

impl Identity {
    fn table(&self) -> Table {
        let mut rows = vec![
            ("base_url", format!("{} (from {})", self.base_url, self.base_url_from)),
            ("key_id", format!("{} (from {})", self.key_id, self.key_from)),
        ];
        if let Some(scopes) = &self.scopes {
            let scopes = if scopes.is_empty() { "none".to_owned() } else { scopes.join(", ") };
            rows.push(("scopes", scopes));
        }
        Table::fields(rows)
    }
}

/// Shows the settings in use and what the server lets the key do.
pub(crate) async fn whoami(output: Output, settings: &Settings) -> Result<(), Failure> {
    let scopes = scopes(&settings.client()?).await?;
    let identity = identity(settings, Some(scopes));
    output.print(&identity, || identity.table())
}

fn identity(settings: &Settings, scopes: Option<Vec<&'static str>>) -> Identity {
    let origin = |origin: Option<&Origin>| origin.map(ToString::to_string).unwrap_or_default();
    let base_url = settings.base_url.as_ref();
    let key = settings.api_key.as_ref();
    Identity {
        base_url: base_url.map(|(url, _)| url.clone()).unwrap_or_default(),
        base_url_from: origin(base_url.map(|(_, origin)| origin)),
        key_id: key.map(|(key, _)| key_id(key)).unwrap_or_default(),
        key_from: origin(key.map(|(_, origin)| origin)),
        scopes,
    }
}

/// The public part of a key: what stands before the `_`.
fn key_id(key: &str) -> String {
    let key = key.strip_prefix("ak-").unwrap_or(key);
    key.split_once('_').map(|(id, _)| id.to_owned()).unwrap_or_default()
}

/// The scopes that the key has.
///
/// Each call lacks a name, so none of them can do anything. The server checks the scope first: a key without it is refused
/// with PERMISSION_DENIED, and one that has it with INVALID_ARGUMENT.
async fn scopes(client: &SecretClient) -> Result<Vec<&'static str>, Failure> {
    let foreign = v1::CreateSecretRequest { user_id: "-".into(), ..Default::default() };
    let results = [
        ("secrets/read", client.validate_secret(v1::ValidateSecretRequest::default()).await.err()),
        ("secrets/write", client.rotate_secret(v1::RotateSecretRequest::default()).await.err()),
        ("secrets/read/internal", client.get_secret_value(v1::GetSecretValueRequest::default()).await.err()),
        ("secrets/write/internal", client.create_secret(foreign).await.err()),
    ];
    let mut scopes = Vec::new();
    for (scope, error) in results {
        match error.as_ref().and_then(Error::code) {
            Some(Code::PermissionDenied) => {}
            Some(Code::InvalidArgument) => scopes.push(scope),
            _ => return Err(error.map_or_else(unexpected, Failure::from)),
        }
    }
    // Its one probe needs the right to write as well.
    if !scopes.contains(&"secrets/write") {
        scopes.retain(|scope| *scope != "secrets/write/internal");
    }
    Ok(scopes)
}

fn unexpected() -> Failure {
    Failure::usage(
        "the server accepted a request without a name",
        "check that --base-url is the secret service",
    )
}

/// Stores a profile.
pub(crate) async fn login(output: Output, connection: &Connection, task: &Login) -> Result<(), Failure> {
    let mut profiles = Profiles::load()?;
    let named = named_profile(connection.profile.as_deref())?.map(|(name, _)| name);
    let name = named.or_else(|| profiles.current().map(str::to_owned)).unwrap_or_else(|| DEFAULT.to_owned());
    let stored = profiles.find(&name).cloned().unwrap_or_default();
    let origin = Origin::Profile(name.clone());

    let mut settings = Settings::explicit(connection)?;
    if settings.base_url.is_none() && !stored.base_url.is_empty() {
        settings.base_url = Some((stored.base_url.clone(), origin.clone()));
        settings.allow_http |= stored.allow_http;
        settings.ca_file = settings.ca_file.or_else(|| stored.ca_file.clone().map(|path| (path, origin)));
    }
    let Some((base_url, _)) = settings.base_url.clone() else {
        return Err(Failure::usage("no server is given", "add --base-url https://…"));
    };
    settings.api_key = Some(key(task, settings.api_key.take(), &base_url).await?);
    let client = settings.client()?;
    let scopes = if task.no_check { None } else { Some(scopes(&client).await?) };

    let ca_file = settings.ca_file.as_ref().map(|(path, _)| std::path::absolute(path));
    let ca_file = ca_file.transpose().map_err(|error| {
        Failure::usage(format!("the path of the certificates cannot be resolved: {error}"), "give it whole")
    })?;
    let key_command = task.key_command.clone();
    let kept = settings.api_key.as_ref().filter(|_| key_command.is_none()).map(|(key, _)| key.as_str());
    let profile = Profile { base_url, ca_file, allow_http: settings.allow_http, key_command };
    profiles.store(&name, profile, kept)?;

    let identity = identity(&settings, scopes);
    let stored = || format!("the profile {name} is stored");
    output.print(&identity, || identity.table()).map_err(|failure| failure.after(stored))?;
    if profiles.current() != Some(&name) {
        hint(&format!("'tare profile use {name}' makes this profile the current one"));
    }
    Ok(())
}

type Key = (Zeroizing<String>, Origin);

async fn key(task: &Login, explicit: Option<Key>, base_url: &str) -> Result<Key, Failure> {
    if let Some(command) = &task.key_command {
        return Ok((profile::run_key_command(command)?, Origin::Flag("--key-command")));
    }
    if let Some(path) = &task.api_key_file {
        let text = read_text(path, 4096, "an API key has 69 characters")?;
        return Ok((Zeroizing::new(text.trim().to_owned()), Origin::Flag("--api-key-file")));
    }
    if let Some(key) = explicit {
        return Ok(key);
    }
    if !terminal::is_interactive() {
        return Err(Failure::usage(
            "no API key is given, and there is no terminal to ask on",
            "add --api-key-file FILE; '-' is standard input",
        ));
    }
    let key = terminal::prompt(format!("API key for {base_url} (hidden): ")).await?;
    Ok((key, Origin::Flag("the prompt")))
}

/// Removes the key of the profile in use.
pub(crate) fn logout(output: Output, profile: Option<String>) -> Result<(), Failure> {
    let profiles = Profiles::load()?;
    let name = in_use(&profiles, profile.as_deref())?;
    profiles.get(&name)?;
    let id = stored_key_id(&profiles, &name);
    if !profiles.remove_key(&name)? {
        return Err(Failure::usage(
            format!("no key is stored for the profile {name}"),
            "'tare profile show' shows where its key comes from",
        ));
    }
    removed(output, &name, id, "the key of the profile")?;
    hint(KEY_STILL_WORKS);
    Ok(())
}

/// Removes a profile with its key.
fn remove(output: Output, profiles: &mut Profiles, name: &str) -> Result<(), Failure> {
    let id = stored_key_id(profiles, name);
    let had_key = profiles.remove(name)?;
    removed(output, name, id, "the profile")?;
    if had_key {
        hint(KEY_STILL_WORKS);
    }
    if profiles.current().is_none() && profiles.iter().next().is_some() {
        hint("there is no current profile now; 'tare profile use NAME' chooses one");
    }
    Ok(())
}

/// The id of a stored key, if the key can be read.
fn stored_key_id(profiles: &Profiles, name: &str) -> Option<String> {
    profiles.stored_key(name).ok().flatten().map(|key| key_id(&key))
}

/// Reports what was removed.
fn removed(output: Output, name: &str, key_id: Option<String>, what: &str) -> Result<(), Failure> {
    let rows = BTreeMap::from([("profile", name.to_owned()), ("removed_key_id", key_id.unwrap_or_default())]);
    let done = || format!("{what} {name} is removed");
    let print = output.print(&rows, || Table::fields(rows.clone().into_iter().collect()));
    print.map_err(|failure| failure.after(done))
}

fn in_use(profiles: &Profiles, flag: Option<&str>) -> Result<String, Failure> {
    let named = named_profile(flag)?.map(|(name, _)| name);
    named.or_else(|| profiles.current().map(str::to_owned)).ok_or_else(|| {
        Failure::usage(
            "there is no current profile",
            "'tare login' makes one, 'tare profile use NAME' chooses one",
        )
    })
}

#[derive(Serialize)]
struct Shown {
    name: String,
    current: bool,
    base_url: String,
    ca_file: Option<String>,
    allow_http: bool,
    key_command: Option<String>,
    /// Null if no key is stored.
    key_id: Option<String>,
}

impl Shown {
    fn of(profiles: &Profiles, name: &str) -> Result<Self, Failure> {
        let profile = profiles.get(name)?;
        let key = profiles.stored_key(name)?;
        Ok(Self {
            name: name.to_owned(),
            current: profiles.current() == Some(name),
            base_url: profile.base_url.clone(),
            ca_file: profile.ca_file.as_ref().map(|path| path.display().to_string()),
            allow_http: profile.allow_http,
            key_command: profile.key_command.clone(),
            key_id: key.map(|key| key_id(&key)),
        })
    }

    fn table(&self) -> Table {
        let mut rows = vec![("name", self.name.clone()), ("base_url", self.base_url.clone())];
        let mut add = |name, value: &Option<String>| rows.extend(value.clone().map(|value| (name, value)));
        add("key_id", &self.key_id);
        add("key_command", &self.key_command);
        add("ca_file", &self.ca_file);
        rows.push(("current", self.current.to_string()));
        if self.allow_http {
            rows.push(("allow_http", "true".into()));
        }
        Table::fields(rows)
    }
}

/// Lists, chooses, shows or removes profiles.
pub(crate) fn profile(output: Output, call: ProfileCall) -> Result<(), Failure> {
    let mut profiles = Profiles::load()?;
    match call {
        ProfileCall::List => {
            let names = profiles.iter().map(|(name, _)| name);
            let list: Vec<Shown> = names.map(|name| Shown::of(&profiles, name)).collect::<Result<_, _>>()?;
            output.print(&list, || {
                let row = |shown: &Shown| {
                    let current = if shown.current { "*" } else { "" };
                    vec![shown.name.clone(), current.to_owned(), shown.base_url.clone()]
                };
                Table::new(vec!["NAME", "CURRENT", "BASE_URL"], list.iter().map(row).collect(), "no profiles")
            })
        }
        ProfileCall::Use { name } => {
            profiles.select(&name)?;
            let shown = Shown::of(&profiles, &name)?;
            output.print(&shown, || shown.table())
        }
        ProfileCall::Remove { name } => remove(output, &mut profiles, &name),
        ProfileCall::Show { name } => {
            let name = name.map_or_else(|| in_use(&profiles, None), Ok)?;
            let shown = Shown::of(&profiles, &name)?;
            output.print(&shown, || shown.table())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_a_key_is_its_public_part() {
        assert_eq!(key_id("ak-0123456789abcdef_secret"), "0123456789abcdef");
        assert_eq!(key_id("0123456789abcdef_secret"), "0123456789abcdef");
        assert_eq!(key_id("no key"), "");
    }
}
