//! Completion: what a shell offers for the word at the cursor.
//!
//! The script of `tare completion` calls `tare` with the variable [`VARIABLE`] and the words of the line. `main` calls
//! [`respond`] before it parses the command line. Names of secrets and realms come from the server's lists, names of profiles
//! from the configuration; no value is read. A failure offers nothing, because a shell has no place for a message. A key
//! command is not run: it may ask for a passphrase.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::time::Duration;

use agentrouter_sdk::SecretClient;
use agentrouter_sdk::secret::v1::ListSecretsRequest;
use clap::CommandFactory;
use clap_complete::Shell;
use clap_complete::engine::CompletionCandidate;
use clap_complete::env::{CompleteEnv, Shells};

use crate::args::{Cli, Connection};
use crate::connection::Settings;
use crate::profile::Profiles;

/// The variable that asks for completions. Its value is the shell.
const VARIABLE: &str = "TARE_COMPLETE";
/// The time for one call. Nobody waits longer for a suggestion.
const TIME: Duration = Duration::from_secs(2);
/// Secrets on a page of a list.
const PAGE: i32 = 1000;
/// Pages that are read for the names of realms.
const PAGES: usize = 10;

/// Prints completions and exits, if a shell asks for them.
pub(crate) fn respond() {
    CompleteEnv::with_factory(Cli::command).var(VARIABLE).complete();
}

/// The script that makes `shell` ask.
pub(crate) fn script(shell: Shell) -> io::Result<Vec<u8>> {
    let name = shell.to_string();
    let completer = Shells::builtins();
    let completer = completer.completer(&name).ok_or(io::ErrorKind::Unsupported)?;
    let program = std::env::args_os().next().unwrap_or_default();
    // A program that was not found by its name is called by its path.
    let program = match std::path::Path::new(&program) {
        path if path.components().count() > 1 => std::path::absolute(path)?,
        path => path.to_owned(),
    };
    let mut script = Vec::new();
    completer.write_registration(VARIABLE, "tare", "tare", &program.to_string_lossy(), &mut script)?;
    Ok(script)
}

/// Names of secrets, in the realm of the line if it has one.
pub(crate) fn secrets(current: &OsStr) -> Vec<CompletionCandidate> {
    let line = Line::read();
    let (Some(client), Some(prefix)) = (line.client(), current.to_str()) else { return Vec::new() };
    let request = ListSecretsRequest {
        realm: line.value("--realm").unwrap_or_default().to_owned(),
        name_prefix: prefix.to_owned(),
        ..Default::default()
    };
    let found = list(&client, request, 1).into_iter().map(|(_, name)| name);
    candidates(found.collect(), prefix)
}

/// Names of realms that have a secret.
pub(crate) fn realms(current: &OsStr) -> Vec<CompletionCandidate> {
    let (Some(client), Some(prefix)) = (Line::read().client(), current.to_str()) else { return Vec::new() };
    let found = list(&client, ListSecretsRequest::default(), PAGES).into_iter().map(|(realm, _)| realm);
    candidates(found.collect(), prefix)
}

/// Names of profiles.
pub(crate) fn profiles(current: &OsStr) -> Vec<CompletionCandidate> {
    let (Ok(profiles), Some(prefix)) = (Profiles::load(), current.to_str()) else { return Vec::new() };
    candidates(profiles.iter().map(|(name, _)| name.to_owned()).collect(), prefix)
}

/// A server could send names that a shell takes for something else.
fn candidates(found: BTreeSet<String>, prefix: &str) -> Vec<CompletionCandidate> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let fits = |name: &String| name.starts_with(prefix) && name.chars().all(is_plain);
    found.into_iter().filter(fits).map(CompletionCandidate::new).collect()
}

/// Realm and name of the secrets on the first pages, as far as they come in time.
fn list(client: &SecretClient, mut request: ListSecretsRequest, pages: usize) -> Vec<(String, String)> {
    request.page_size = PAGE;
    let mut found = Vec::new();
    let Ok(runtime) = crate::runtime() else { return found };
    runtime.block_on(async {
        let pages = async {
            for _ in 0..pages {
                let Ok(page) = client.list_secrets(request.clone()).await else { return };
                found.extend(page.secrets.into_iter().map(|secret| (secret.realm, secret.name)));
                request.page_token = page.next_page_token;
                if request.page_token.is_empty() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(TIME, pages).await;
    });
    found
}

/// The words of the line that is completed.
struct Line(Vec<String>);

impl Line {
    fn read() -> Self {
        let words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
        Self::of(words.skip_while(|word| word != "--").skip(1))
    }

    /// What stands behind `--` belongs to another command.
    fn of(words: impl IntoIterator<Item = String>) -> Self {
        Self(words.into_iter().take_while(|word| word != "--").collect())
    }

    /// The last value of a flag.
    fn value(&self, flag: &str) -> Option<&str> {
        let of = |(i, word): (usize, &String)| match word.strip_prefix(flag)? {
            "" => Some(i + 1),
            // The value is in the same word.
            joined if joined.starts_with('=') => Some(i),
            _ => None,
        };
        let at = self.0.iter().enumerate().filter_map(of).next_back()?;
        let word = self.0.get(at)?;
        let value = word.strip_prefix(flag).and_then(|joined| joined.strip_prefix('=')).unwrap_or(word);
        Some(value).filter(|value| !value.is_empty())
    }

    fn client(&self) -> Option<SecretClient> {
        let text = |flag| self.value(flag).map(str::to_owned);
        let connection = Connection {
            profile: text("--profile"),
            base_url: text("--base-url"),
            ca_file: text("--ca-file").map(Into::into),
            allow_http: self.0.iter().any(|word| word == "--allow-http"),
            timeout: Some(TIME),
            // It is in the process list already. A warning about that belongs to the command.
            api_key: None,
        };
        Settings::resolve_stored(&connection).ok()?.client().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_value_of_a_flag_on_the_line_counts() {
        let line = Line::of(
            "tare secret run --realm a --realm=b --profile -- env --realm c".split(' ').map(str::to_owned),
        );
        assert_eq!(line.value("--realm"), Some("b"));
        assert_eq!(line.value("--profile"), None, "the line ends there");
        assert_eq!(line.value("--base-url"), None);
    }

    #[test]
    fn a_name_that_a_shell_would_take_for_something_else_is_not_offered() {
        let found = ["a-1", "a b", "a$(id)", "a\nb", "b"].map(str::to_owned);
        let offered = candidates(found.into_iter().collect(), "a");
        assert_eq!(offered.iter().map(CompletionCandidate::get_value).collect::<Vec<_>>(), ["a-1"]);
    }
}
