//! The KEK file with its root key, as the settings say.
//!
//! [`file()`] makes the root key of `kek.provider`. `kms` reaches a KMS through a plugin, `child` runs the plugin of this
//! project, `passphrase` reads a passphrase, and `recheck` asks at intervals whether the root key may still be used.

mod child;
mod kms;
mod passphrase;
mod recheck;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use agentrouter_crypto::SystemRng;
use agentrouter_keyring::{KekFile, Keyring, KeyringError, Passphrase, Root, RootError};
use anyhow::Context as _;

use self::child::Child;
use self::kms::KmsRoot;
pub use self::recheck::{RECHECKS, Recheck, Rechecks};
use crate::permissions::check_kek_file;
use crate::settings::{KekProvider, KekSettings, Settings};
use crate::{Advised, storage};

/// The KEK file with its root key. The first call may ask for a passphrase.
///
/// # Errors
/// When a setting that the provider needs is missing, the passphrase cannot be read, or the plugin is not installed.
pub fn file(settings: &Settings) -> anyhow::Result<KekFile> {
    if let Some(file) = settings.kek_with_root.get() {
        return Ok(file.clone());
    }
    let is_new = !settings.kek_file().exists();
    let root = root(&settings.kek, settings, is_new, Given::Settings)?;
    let file = KekFile::new(settings.kek_file(), root);
    Ok(settings.kek_with_root.get_or_init(|| file).clone())
}

/// Reads the KEKs that the settings name.
///
/// # Errors
/// As [`file()`], and when the KEK file is no regular file, cannot be read, or its root key does not unwrap it.
pub fn load(settings: &Settings) -> anyhow::Result<Keyring> {
    check_kek_file(&settings.kek_file())?;
    Ok(Keyring::load(&file(settings)?)?)
}

/// How a root key was given, for the texts of errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Given {
    /// By the settings `kek.…`.
    Settings,
    /// By the flags `--to…` of `kek move`.
    Flags,
}

impl Given {
    /// The name of a setting, such as `socket`.
    fn name(self, setting: &str) -> String {
        match (self, setting) {
            (Self::Settings, _) => format!("kek.{setting}"),
            (Self::Flags, "provider") => "--to".to_owned(),
            (Self::Flags, _) => format!("--to-{setting}"),
        }
    }

    /// What to do to set it.
    fn set(self, setting: &str) -> String {
        match self {
            Self::Settings => format!("set {}", self.name(setting)),
            Self::Flags => format!("give {}", self.name(setting)),
        }
    }
}

/// The root key that `kek` names, as `given`. None for `file`. A new passphrase is asked for twice, and must be long.
///
/// # Errors
/// As [`file()`].
pub fn root(
    kek: &KekSettings,
    settings: &Settings,
    is_new: bool,
    given: Given,
) -> anyhow::Result<Option<Arc<dyn Root>>> {
    let rng = Arc::new(SystemRng);
    let provider = kek.provider.as_str();
    let lacks = |setting| {
        format!("{} is '{provider}', and {} is not set", given.name("provider"), given.name(setting))
    };
    Ok(Some(match kek.provider {
        KekProvider::File => {
            require_no_root_key(kek, given)?;
            return Ok(None);
        }
        KekProvider::Passphrase => Arc::new(Passphrase::new(passphrase::read(kek, is_new, given)?, rng)),
        KekProvider::KmsPlugin => {
            let socket = kek.socket.clone().context(Advised::new(
                lacks("socket"),
                format!("{}, the Unix socket of the plugin", given.set("socket")),
            ))?;
            Arc::new(KmsRoot::on(provider, socket, rng))
        }
        _ => {
            let key = kek.key.clone().context(Advised::new(
                lacks("key"),
                format!(
                    "{}, the name of the root key at the provider; docs/kek has its form",
                    given.set("key")
                ),
            ))?;
            require_no_secret(given, &key, kek.endpoint.as_deref())?;
            let name = given.name("provider");
            let child = Child::new(&name, provider, key, kek.endpoint.clone(), &settings.data_dir)?;
            Arc::new(KmsRoot::of_child(provider, child, rng))
        }
    }))
}

/// Refuses settings of a root key without a provider that has one: the KEKs would be in clear.
fn require_no_root_key(kek: &KekSettings, given: Given) -> anyhow::Result<()> {
    let settings = [
        ("key", kek.key.is_some()),
        ("socket", kek.socket.is_some()),
        ("endpoint", kek.endpoint.is_some()),
        ("passphrase-file", kek.passphrase_file.is_some()),
        ("passphrase-fd", kek.passphrase_fd.is_some()),
    ];
    let Some((name, _)) = settings.into_iter().find(|(_, is_set)| *is_set) else { return Ok(()) };
    anyhow::bail!(Advised::new(
        format!(
            "{} is set, and {} is 'file', which does not use it",
            given.name(name),
            given.name("provider")
        ),
        format!("{} to the provider that uses it, or leave {} out", given.set("provider"), given.name(name)),
    ))
}

/// Refuses a provider that is not that of the KEK file, before anything waits for it. Another fault of the file is found
/// when it is loaded.
fn require_provider(settings: &Settings) -> anyhow::Result<()> {
    let asked = settings.kek.provider;
    match Keyring::provider(&settings.kek_file()) {
        Ok(None) if asked.has_root() => {
            Err(KeyringError::Bare { provider: asked.as_str().to_owned() }.into())
        }
        Ok(Some(found)) if found != asked.as_str() => {
            Err(KeyringError::OtherProvider { found, asked: asked.as_str().to_owned() }.into())
        }
        _ => Ok(()),
    }
}

/// Refuses a secret in what is written on the command line of the plugin, which other users see.
fn require_no_secret(given: Given, key: &str, endpoint: Option<&str>) -> anyhow::Result<()> {
    // A PIN in a URI of RFC 7512.
    if key.split([':', '?', '&', ';']).any(|attribute| attribute.starts_with("pin-value=")) {
        anyhow::bail!(Advised::new(
            format!(
                "{} has a PIN, which other users would see on the command line of the plugin",
                given.name("key")
            ),
            "write the PIN to a file that only this user can read, and name it with pin-source",
        ));
    }
    let address = endpoint.and_then(|url| url.split_once("://")).map_or("", |(_, rest)| rest);
    if address.split(['/', '?', '#']).next().is_some_and(|authority| authority.contains('@')) {
        anyhow::bail!(Advised::new(
            format!(
                "{} has a user or a password, which other users would see on the command line of the plugin",
                given.name("endpoint")
            ),
            "remove them from the URL; the plugin takes its credentials from the environment",
        ));
    }
    Ok(())
}

/// Waits until the root key can be reached, for `kek.start-time` at most. An outage may follow.
///
/// # Errors
/// As [`file()`].
pub async fn await_there(settings: &Settings) -> anyhow::Result<()> {
    require_provider(settings)?;
    let file = file(settings)?;
    let warning = "the root key cannot be reached yet: waiting for --kek-start-time";
    let absence = async || {
        let file = file.clone();
        let checked = tokio::task::spawn_blocking(move || file.root().map_or(Ok(()), Root::check)).await;
        // Any other error is for the reader of the file.
        checked.ok()?.err().filter(|error| matches!(error, RootError::Unreachable { .. }))
    };
    storage::wait_until_reached(settings.kek.start_time, warning, absence).await;
    Ok(())
}
