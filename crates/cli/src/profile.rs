//! Profiles: servers and API keys by name, in the user's configuration folder.
//!
//! ```text
//! $XDG_CONFIG_HOME/tare/config.toml      current = "prod"  [profiles.prod] base_url = "https://…" …
//! $XDG_CONFIG_HOME/tare/keys/<profile>   the API key, mode 0600
//! ```
//!
//! Files are replaced whole, so that a reader sees the old or the new one. A key file that others may read is refused.
//! Keys are not put into a desktop's keyring: servers and containers have none. `key_command` reaches any password
//! manager, and nothing is stored then.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::failure::Failure;
use crate::private_file::{self, Existing};
use crate::value::read_text;

/// The largest configuration file, in bytes.
const MOST: usize = 1024 * 1024;

/// A server and how its key is obtained.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Profile {
    /// URL of the server.
    pub(crate) base_url: String,
    /// Certificates to trust.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ca_file: Option<PathBuf>,
    /// Whether the key may be sent to another host without TLS.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) allow_http: bool,
    /// The command that prints the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key_command: Option<String>,
}

/// `config.toml`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(skip_serializing_if = "Option::is_none")]
    current: Option<String>,
    #[serde(default)]
    profiles: BTreeMap<String, Profile>,
}

/// All profiles of this user.
#[derive(Debug)]
pub(crate) struct Profiles {
    folder: PathBuf,
    config: Config,
}

impl Profiles {
    /// Reads the configuration file. No file means no profiles.
    pub(crate) fn load() -> Result<Self, Failure> {
        match folder(env::var_os("XDG_CONFIG_HOME"), env::var_os("HOME")) {
            Some(folder) => Self::load_from(folder),
            None => Ok(Self { folder: PathBuf::new(), config: Config::default() }),
        }
    }

    fn load_from(folder: PathBuf) -> Result<Self, Failure> {
        let path = folder.join("config.toml");
        if !path.exists() {
            return Ok(Self { folder, config: Config::default() });
        }
        let text = read_text(&path, MOST, "a configuration file has at most 1 MiB")?;
        let config = toml::from_str(&text).map_err(|error| {
            Failure::usage(
                format!("{} cannot be read: {}", path.display(), error.message()),
                "correct the file, or remove it and run 'tare login' again",
            )
        })?;
        Ok(Self { folder, config })
    }

    /// The current profile's name, if there is one.
    pub(crate) fn current(&self) -> Option<&str> {
        self.config.current.as_deref()
    }

    /// The profiles by name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Profile)> {
        self.config.profiles.iter().map(|(name, profile)| (name.as_str(), profile))
    }

    /// The profile of that name, if there is one.
    pub(crate) fn find(&self, name: &str) -> Option<&Profile> {
        self.config.profiles.get(name)
    }

    /// The profile of that name.
    pub(crate) fn get(&self, name: &str) -> Result<&Profile, Failure> {
        self.find(name).ok_or_else(|| {
            Failure::usage(
                format!("there is no profile {name}"),
                "'tare profile list' shows the profiles, 'tare login --profile NAME' makes one",
            )
        })
    }

    /// Makes a profile the current one.
    pub(crate) fn select(&mut self, name: &str) -> Result<(), Failure> {
        self.get(name)?;
        self.config.current = Some(name.to_owned());
        self.save()
    }

    /// Stores a profile and its key. Without a key, one that is stored is removed. The first profile becomes current.
    pub(crate) fn store(&mut self, name: &str, profile: Profile, key: Option<&str>) -> Result<(), Failure> {
        check_name(name)?;
        if self.folder.as_os_str().is_empty() {
            return Err(Failure::usage("there is no folder for profiles", "set HOME or XDG_CONFIG_HOME"));
        }
        match key {
            Some(key) => {
                replace(&self.key_path(name), key.as_bytes()).map_err(|error| self.failed(&error))?
            }
            None => {
                self.remove_key(name)?;
            }
        }
        self.config.profiles.insert(name.to_owned(), profile);
        self.config.current.get_or_insert_with(|| name.to_owned());
        self.save()
    }

    /// Removes the stored key of a profile. Whether there was one.
    pub(crate) fn remove_key(&self, name: &str) -> Result<bool, Failure> {
        match fs::remove_file(self.key_path(name)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// Removes a profile and its key. Returns whether a key was stored.
    pub(crate) fn remove(&mut self, name: &str) -> Result<bool, Failure> {
        self.get(name)?;
        let had_key = self.remove_key(name)?;
        self.config.profiles.remove(name);
        self.config.current.take_if(|current| current == name);
        self.save()?;
        Ok(had_key)
    }

    /// The key of a profile, if it has one.
    pub(crate) fn key(&self, name: &str) -> Result<Option<Zeroizing<String>>, Failure> {
        match &self.get(name)?.key_command {
            Some(command) => run_key_command(command).map(Some),
            None => self.stored_key(name),
        }
    }

    /// The key in the file of a profile. None if a command prints the key.
    pub(crate) fn stored_key(&self, name: &str) -> Result<Option<Zeroizing<String>>, Failure> {
        if self.get(name)?.key_command.is_some() {
            return Ok(None);
        }
        let path = self.key_path(name);
        if !path.exists() {
            return Ok(None);
        }
        check_mode(&path)?;
        let mut key = read_text(&path, 4096, "an API key has 69 characters")?;
        let length = key.trim_end().len();
        key.truncate(length);
        Ok(Some(key))
    }

    fn key_path(&self, name: &str) -> PathBuf {
        self.folder.join("keys").join(name)
    }

    fn save(&self) -> Result<(), Failure> {
        let text = toml::to_string(&self.config).map_err(|error| {
            Failure::usage(format!("the profiles cannot be written: {error}"), "choose plain names and URLs")
        })?;
        replace(&self.folder.join("config.toml"), text.as_bytes()).map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &io::Error) -> Failure {
        Failure::usage(
            format!("cannot write in {}: {error}", self.folder.display()),
            "set XDG_CONFIG_HOME to a folder that you may write to",
        )
    }
}

/// `$XDG_CONFIG_HOME/tare`, else `~/.config/tare`. The specification ignores relative paths.
fn folder(config_home: Option<OsString>, home: Option<OsString>) -> Option<PathBuf> {
    let absolute = |path: Option<OsString>| path.map(PathBuf::from).filter(|path| path.is_absolute());
    let config_home = absolute(config_home).or_else(|| Some(absolute(home)?.join(".config")))?;
    Some(config_home.join("tare"))
}

/// A profile's name is a file's name too.
fn check_name(name: &str) -> Result<(), Failure> {
    let fits = (1..=64).contains(&name.len())
        && !name.starts_with(['.', '-'])
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if fits {
        return Ok(());
    }
    Err(Failure::usage(
        "the name of the profile is not valid",
        "a profile's name has 1 to 64 letters, digits, '.', '_' and '-', and begins with a letter or digit",
    ))
}

/// Replaces a file in the folder of the profiles, which is made if it does not exist.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    create_private_folder(path.parent().unwrap_or(Path::new("/")))?;
    private_file::write(path, content, Existing::Replace)
}

#[cfg(unix)]
fn create_private_folder(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

#[cfg(not(unix))]
fn create_private_folder(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)
}

#[cfg(unix)]
fn check_mode(path: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::MetadataExt as _;
    let others_may = fs::metadata(path).is_ok_and(|file| file.mode() & 0o077 != 0);
    if !others_may {
        return Ok(());
    }
    Err(Failure::usage(
        format!("the key file {} is readable by others", path.display()),
        format!("run: chmod 600 '{}'", path.display()),
    ))
}

#[cfg(not(unix))]
fn check_mode(_path: &Path) -> Result<(), Failure> {
    Ok(())
}

/// The first line that the command prints.
pub(crate) fn run_key_command(command: &str) -> Result<Zeroizing<String>, Failure> {
    let failed = |why: String| {
        Failure::usage(format!("the key command failed: {why}"), "run it by hand; it must print the API key")
    };
    let output = Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| failed(error.to_string()))?;
    let printed = Zeroizing::new(output.stdout);
    if !output.status.success() {
        return Err(failed(output.status.to_string()));
    }
    let text = std::str::from_utf8(&printed).map_err(|_| failed("it printed no text".into()))?;
    Ok(Zeroizing::new(text.lines().next().unwrap_or_default().trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(url: &str) -> Profile {
        Profile { base_url: url.into(), ..Profile::default() }
    }

    #[test]
    fn profiles_and_keys_are_kept_in_private_files() {
        use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
        let home = tempfile::tempdir().expect("a folder");
        let folder = home.path().join("tare");
        let mut profiles = Profiles::load_from(folder.clone()).expect("no file is no profile");
        profiles.store("prod", profile("https://p"), Some("key-1")).expect("stored");
        profiles.store("dev", profile("http://127.0.0.1"), Some("key-2")).expect("stored");
        let read = Profiles::load_from(folder.clone()).expect("readable");
        assert_eq!(read.current(), Some("prod"), "the first one");
        assert_eq!(read.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["dev", "prod"]);
        assert_eq!(read.key("dev").expect("readable").expect("stored").as_str(), "key-2");
        for (path, mode) in [("keys", 0o700), ("keys/dev", 0o600), ("config.toml", 0o600)] {
            assert_eq!(fs::metadata(folder.join(path)).expect(path).mode() & 0o777, mode, "{path}");
        }
        assert!(!fs::read_to_string(folder.join("config.toml")).expect("text").contains("key-"));

        fs::set_permissions(folder.join("keys/dev"), fs::Permissions::from_mode(0o640)).expect("set");
        assert!(read.key("dev").expect_err("others may read it").to_string().contains("readable by others"));
        assert!(read.remove_key("prod").expect("removed"));
        assert_eq!(read.key("prod").expect("none is no error"), None);
    }

    #[test]
    fn a_key_command_prints_the_key() {
        assert_eq!(run_key_command("echo key-3; echo more").expect("printed").as_str(), "key-3");
        assert_eq!(run_key_command("exit 3").expect_err("failed").exit_status(), 2);
    }

    #[test]
    fn a_name_stays_within_the_folder() {
        for name in ["", ".", "..", "../x", "a/b", "-x", "a b"] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        assert!(check_name("prod-eu.1").is_ok());
    }

    #[test]
    fn the_folder_follows_the_xdg_specification() {
        let path = |config: Option<&str>, home: &str| folder(config.map(Into::into), Some(home.into()));
        assert_eq!(path(Some("/c"), "/h").as_deref(), Some(Path::new("/c/tare")));
        for config in [None, Some(""), Some("relative")] {
            assert_eq!(path(config, "/h").as_deref(), Some(Path::new("/h/.config/tare")));
            assert_eq!(path(config, ""), None, "never the current folder");
        }
    }

    #[test]
    fn an_unknown_word_in_the_file_is_an_error() {
        let home = tempfile::tempdir().expect("a folder");
        fs::write(home.path().join("config.toml"), "[profiles.a]\nbase_url = 'x'\nbaseurl = 'y'\n")
            .expect("written");
        assert!(Profiles::load_from(home.path().to_owned()).is_err());
    }
}
