//! The reading half of an import: how each variable of the file compares with the stored secret.
//!
//! The comparison is made here and not by the server, because a key that may only write could otherwise test guesses.

use std::cell::Cell;
use std::collections::HashMap;

use agentrouter_sdk::secret::v1::{GetSecretRequest, GetSecretValueRequest};
use agentrouter_sdk::{Code, Error, reason};
use futures_util::{StreamExt, stream};

use crate::args::Import;
use crate::dotenv::Entry;
use crate::notice::warn;
use crate::paced_client::{CONCURRENT_READS, PacedClient};

/// How a variable compares with the stored secret.
#[derive(Debug)]
pub(super) enum State {
    /// It is not stored, for this reason.
    Skipped(String),
    /// There is no such secret.
    Absent,
    /// The stored value is the same.
    Unchanged {
        /// The active version.
        version: i32,
        /// Whether the secret has the tags that the import asks for.
        tagged: bool,
    },
    /// The stored value is another one, or cannot be read.
    Differs {
        /// The active version.
        version: i32,
    },
    /// The key may not read whether there is such a secret.
    Unknown,
    /// The secret cannot be looked at.
    Failed(Error),
}

/// The state of each entry.
pub(super) async fn compare(
    client: &PacedClient,
    task: &Import,
    entries: &[Entry],
    tags: &HashMap<String, String>,
) -> Vec<State> {
    let comparison = Comparison { client, task, tags, reads: Cell::new(Reads::Values) };
    let last: HashMap<&str, usize> = entries.iter().map(|entry| (entry.name.as_str(), entry.line)).collect();
    let look_up = async |entry: &Entry| match last.get(entry.name.as_str()) {
        Some(line) if *line != entry.line => State::Skipped(format!("line {line} sets it again")),
        _ if entry.value.is_empty() => State::Skipped("the value is empty".to_owned()),
        _ => comparison.look_up(entry).await,
    };
    // The first one that is looked up shows what the key may read, before many others fail for the same reason.
    let first = entries.iter().position(|entry| !entry.value.is_empty()).map_or(0, |at| at + 1);
    let (first, rest) = entries.split_at(first);
    let mut states = Vec::with_capacity(entries.len());
    for entry in first {
        states.push(look_up(entry).await);
    }
    states.extend(stream::iter(rest).map(look_up).buffered(CONCURRENT_READS).collect::<Vec<_>>().await);
    match comparison.reads.get() {
        Reads::Values => {}
        Reads::Metadata => warn(
            "the API key may not read values (secrets/read/internal), so unchanged values are not recognized",
        ),
        Reads::Nothing => warn(
            "the API key may read neither values (secrets/read/internal) nor names (secrets/read), so secrets cannot \
             be compared",
        ),
    }
    states
}

/// What the key may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reads {
    Values,
    Metadata,
    Nothing,
}

struct Comparison<'a> {
    client: &'a PacedClient,
    task: &'a Import,
    tags: &'a HashMap<String, String>,
    reads: Cell<Reads>,
}

impl Comparison<'_> {
    async fn look_up(&self, entry: &Entry) -> State {
        if self.reads.get() == Reads::Values
            && let Some(state) = self.by_value(entry).await
        {
            return state;
        }
        // GetSecret knows the key's own user only.
        if self.reads.get() == Reads::Metadata && self.task.user_id.is_none() {
            return self.by_metadata(entry).await;
        }
        State::Unknown
    }

    /// None if the key may not read values, or this value cannot be decrypted.
    async fn by_value(&self, entry: &Entry) -> Option<State> {
        let request = GetSecretValueRequest {
            name: entry.name.clone(),
            realm: self.task.realm.clone(),
            user_id: self.task.user_id.clone().unwrap_or_default(),
            ..Default::default()
        };
        let response = match self.client.get_secret_value(request).await {
            Ok(response) => response,
            Err(error) if error.is_not_found() => return Some(State::Absent),
            Err(error) if error.code() == Some(Code::PermissionDenied) => {
                self.reads.set(Reads::Metadata);
                return None;
            }
            Err(error)
                if matches!(error.reason(), Some(reason::KEK_UNAVAILABLE | reason::SECRET_CORRUPT)) =>
            {
                return Some(self.by_metadata(entry).await);
            }
            Err(error) => return Some(State::Failed(error)),
        };
        let value = zeroize::Zeroizing::new(response.value);
        let version = response.secret.version;
        if *value != *entry.value {
            return Some(State::Differs { version });
        }
        let stored = &response.secret.tags;
        let tagged = self.tags.iter().all(|(key, value)| stored.get(key) == Some(value));
        Some(State::Unchanged { version, tagged })
    }

    async fn by_metadata(&self, entry: &Entry) -> State {
        let request = GetSecretRequest { name: entry.name.clone(), realm: self.task.realm.clone() };
        match self.client.get_secret(request).await {
            Ok(response) => State::Differs { version: response.secret.version },
            Err(error) if error.is_not_found() => State::Absent,
            Err(error) if error.code() == Some(Code::PermissionDenied) => {
                self.reads.set(Reads::Nothing);
                State::Unknown
            }
            Err(error) => State::Failed(error),
        }
    }
}
