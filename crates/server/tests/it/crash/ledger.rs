//! The expected state after a kill.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use super::Writes;
use crate::support::{Connection, Reply};

/// The name that all clients write to.
pub(super) const SHARED: &str = "shared";

/// One write.
#[derive(Clone, Debug)]
pub(super) enum WriteRequest {
    Create(String),
    Rotate(String),
    Delete,
}

impl WriteRequest {
    fn send(&self, connection: &mut Connection, name: &str) -> Option<Reply> {
        let (method, path, body) = match self {
            Self::Create(value) => {
                let body = format!("{{\"name\":\"{name}\",\"value\":\"{value}\"}}");
                ("POST", "/v1/secrets".to_owned(), body)
            }
            Self::Rotate(value) => {
                ("POST", format!("/v1/secrets/{name}/rotate"), format!("{{\"new_value\":\"{value}\"}}"))
            }
            Self::Delete => ("DELETE", format!("/v1/secrets/{name}"), String::new()),
        };
        connection.call(method, &path, &body).ok()
    }

    fn value(&self) -> Option<&str> {
        match self {
            Self::Create(value) | Self::Rotate(value) => Some(value),
            Self::Delete => None,
        }
    }
}

/// A version, with its value while that is readable.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kept {
    Active(String),
    Pending(String),
    Retired,
}

/// A secret: its id (empty if no response had it) and its versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) id: String,
    versions: BTreeMap<i64, Kept>,
}

impl Held {
    pub(super) fn new(id: String) -> Self {
        Self { id, versions: BTreeMap::new() }
    }

    /// Adds a version. False if it was there already.
    pub(super) fn see(&mut self, version: i64, status: &str, value: Option<String>) -> bool {
        let kept = match (status, value) {
            ("active", Some(value)) => Kept::Active(value),
            ("rotated_pending", Some(value)) => Kept::Pending(value),
            ("retired", None) => Kept::Retired,
            other => panic!("no such state: {other:?}"),
        };
        self.versions.insert(version, kept).is_none()
    }

    /// The value of the one active version, which is the newest.
    pub(super) fn active_value(&self) -> String {
        let active = self.versions.values().filter(|kept| matches!(kept, Kept::Active(_))).count();
        match self.versions.last_key_value() {
            Some((_, Kept::Active(value))) if active == 1 => value.clone(),
            _ => panic!("not one active version, the newest: {self:?}"),
        }
    }

    pub(super) fn retired(&self) -> Option<i64> {
        let retired = self.versions.iter().rev().find(|(_, kept)| **kept == Kept::Retired);
        retired.map(|(version, _)| *version)
    }

    fn newest(&self) -> i64 {
        self.versions.last_key_value().map_or(0, |(version, _)| *version)
    }
}

/// The state after a write. `None` if the secret does not exist.
fn apply(before: Option<&Held>, write: &WriteRequest) -> Option<Held> {
    let mut held = match (before, write) {
        (_, WriteRequest::Delete) | (None, WriteRequest::Rotate(_)) => return None,
        (None, WriteRequest::Create(_)) => Held::new(String::new()),
        (Some(held), _) => held.clone(),
    };
    let newest = held.newest();
    if let Some(kept) = held.versions.get_mut(&newest) {
        *kept = match (&*kept, write) {
            (Kept::Active(value), WriteRequest::Rotate(_)) => Kept::Pending(value.clone()),
            _ => Kept::Retired,
        };
    }
    held.versions.insert(newest + 1, Kept::Active(write.value().unwrap_or_default().to_owned()));
    Some(held)
}

/// A name that only one client writes to: its state, and the write that may have been interrupted.
pub(super) struct Ledger {
    pub(super) name: String,
    held: Option<Held>,
    in_flight: Option<WriteRequest>,
    writes: Writes,
}

impl Ledger {
    pub(super) fn new(name: String) -> Self {
        Self { name, held: None, in_flight: None, writes: Writes::default() }
    }

    /// Sends a write and records its outcome. False if the server has stopped.
    pub(super) fn write(&mut self, connection: &mut Connection, write: WriteRequest) -> bool {
        self.in_flight = Some(write.clone());
        let Some(reply) = write.send(connection, &self.name) else { return false };
        self.in_flight = None;
        let absent = self.held.is_none();
        if absent && !matches!(write, WriteRequest::Create(_)) {
            assert_eq!(reply.status, 404, "{}: {reply:?}", self.name);
            return true;
        }
        assert_eq!(reply.status, 200, "{}: {reply:?}", self.name);
        self.writes.acknowledged += 1;
        self.held = apply(self.held.as_ref(), &write);
        if let Some(held) = &mut self.held {
            let secret = &reply.json()["secret"];
            let id = secret["id"].as_str().expect("an id");
            if absent {
                id.clone_into(&mut held.id);
            }
            assert_eq!((id, secret["version"].as_i64()), (&*held.id, Some(held.newest())), "{}", self.name);
        }
        true
    }

    /// After a kill, the state is the acknowledged one, or the one after the interrupted write.
    pub(super) fn reconcile(&mut self, seen: Option<&Held>) -> Writes {
        let after = self.in_flight.as_ref().map(|write| apply(self.held.as_ref(), write));
        let fits = |expected: Option<&Held>| match (expected, seen) {
            (None, None) => true,
            (Some(expected), Some(seen)) => {
                expected.versions == seen.versions && (expected.id.is_empty() || expected.id == seen.id)
            }
            _ => false,
        };
        assert!(
            fits(self.held.as_ref()) || after.as_ref().is_some_and(|after| fits(after.as_ref())),
            "{}: {seen:?} is neither {:?} nor that with {:?}",
            self.name,
            self.held,
            self.in_flight,
        );
        self.held = seen.cloned();
        let cut = u64::from(self.in_flight.take().is_some());
        Writes { cut, ..std::mem::take(&mut self.writes) }
    }
}

/// The name that all clients write to: the versions of each id in the responses.
#[derive(Default)]
pub(super) struct SharedSecret {
    /// The value of every version that was acknowledged or seen, by id and number.
    versions: BTreeMap<(String, i64), String>,
    /// Values sent, acknowledged or not.
    sent: BTreeSet<String>,
    /// Deletions sent since the last check. While one is in progress, an id may be absent.
    deletions: u64,
    in_flight: u64,
    writes: Writes,
    /// The id and version at the last check, or acknowledged since.
    last: Option<(String, i64)>,
}

impl SharedSecret {
    pub(super) fn write(shared: &Mutex<Self>, connection: &mut Connection, write: WriteRequest) -> bool {
        let lock = || shared.lock().expect("no client panicked");
        {
            let mut shared = lock();
            shared.in_flight += 1;
            shared.deletions += u64::from(matches!(write, WriteRequest::Delete));
            shared.sent.extend(write.value().map(str::to_owned));
        }
        let Some(reply) = write.send(connection, SHARED) else { return false };
        let mut shared = lock();
        shared.in_flight -= 1;
        if reply.status == 404 && !matches!(write, WriteRequest::Create(_)) {
            return true;
        }
        assert_eq!(reply.status, 200, "{reply:?}");
        shared.writes.acknowledged += 1;
        if let Some(value) = write.value() {
            let secret = &reply.json()["secret"];
            let id = secret["id"].as_str().expect("an id").to_owned();
            let version = secret["version"].as_i64().expect("a number");
            shared.note(id.clone(), version, value);
            shared.last = match shared.last.take() {
                Some(last) if last.0 == id && last.1 > version => Some(last),
                _ => Some((id, version)),
            };
        }
        true
    }

    /// A version number has one value under one id, for ever.
    fn note(&mut self, id: String, version: i64, value: &str) {
        let known = self.versions.entry((id, version)).or_insert_with(|| value.to_owned());
        assert_eq!(known, value, "version {version} was used twice");
    }

    pub(super) fn reconcile(&mut self, seen: Option<&Held>) -> Writes {
        if let Some(held) = seen {
            for (version, kept) in &held.versions {
                if let Kept::Active(value) | Kept::Pending(value) = kept {
                    assert!(self.sent.contains(value), "version {version} was never sent");
                    self.note(held.id.clone(), *version, value);
                }
            }
            let numbers: Vec<i64> = held.versions.keys().copied().collect();
            assert_eq!(numbers, (1..=held.newest()).collect::<Vec<_>>(), "numbers have gaps");
        }
        if self.deletions == 0
            && let Some((id, version)) = &self.last
        {
            let found = seen.map(|held| (&held.id, held.newest()));
            assert!(
                found.is_some_and(|(found, newest)| found == id && newest >= *version),
                "version {version} was acknowledged and not deleted, but there is {seen:?}"
            );
        }
        self.last = seen.map(|held| (held.id.clone(), held.newest()));
        self.deletions = 0;
        let cut = std::mem::take(&mut self.in_flight);
        Writes { cut, ..std::mem::take(&mut self.writes) }
    }
}
