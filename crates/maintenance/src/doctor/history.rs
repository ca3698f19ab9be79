//! Comparison of the secrets in the store with the changes that the audit log records.
//!
//! It finds a secret that an attacker who can write to the database has put back to an earlier state, has deleted, or has
//! brought back after it was deleted. The log has the version that each change left. The log must be complete: its chain
//! shows an attacker who can change both.
//!
//! A secret is accepted as it is if the log says nothing about it: it was not changed since the log started, it was
//! imported, or the outcome of its change is not known. A change of the last minute before the check is left out, because
//! its record may be in the log before the store has it. On PostgreSQL each server has a log of its own, so another server
//! may have deleted a secret that is missing. There, a secret that was created after the last change in this log is accepted
//! too.
//!
//! Memory: about 100 bytes for each secret that is there or was ever changed.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use agentrouter_model::{ApiKeyRecord, Place, SecretId, Status, Timestamp, Version};
use agentrouter_store::Stored;
use serde::Deserialize;

use super::{Finding, listed};

/// Changes that are younger than this at the start of the check are left out.
const SETTLED: Duration = Duration::from_secs(60);

/// A place as two independent hashes: names need not be kept.
type Key = (u64, u64);

/// The last change of a secret in the log.
#[derive(Clone, Copy, Debug)]
struct Change {
    left: Left,
    /// The number of the record.
    seq: u64,
    at: Timestamp,
    /// Whether a deletion was attempted since, whose outcome is not in the log.
    may_be_deleted: bool,
}

/// What a change left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Version(Version),
    Nothing,
    /// The outcome of the change is not known.
    Unknown,
}

/// An active version in the store.
#[derive(Clone, Copy, Debug)]
struct Present {
    id: SecretId,
    version: Version,
    created_at: Timestamp,
}

/// The secrets of the store, and the changes of the log.
pub(super) struct History {
    hashers: (RandomState, RandomState),
    present: HashMap<Key, Present>,
    changes: HashMap<Key, Change>,
    /// The time of the last record of each API key, as the log has it.
    used: HashMap<String, String>,
    /// Whether all of the store was seen.
    pub(super) is_read: bool,
    /// The start of the check.
    now: Timestamp,
}

/// The members of a record that are needed.
#[derive(Deserialize)]
struct Entry<'a> {
    seq: u64,
    time: &'a str,
    key_id: Option<&'a str>,
    rpc: &'a str,
    phase: &'a str,
    outcome: &'a str,
    owner: Option<&'a str>,
    realm: Option<&'a str>,
    name: Option<&'a str>,
    version: Option<i32>,
    reason: Option<&'a str>,
}

impl History {
    pub(super) fn new(now: Timestamp) -> Self {
        let hashers = (RandomState::new(), RandomState::new());
        let (present, changes, used) = (HashMap::new(), HashMap::new(), HashMap::new());
        Self { hashers, present, changes, used, is_read: false, now }
    }

    fn key(&self, place: (&str, &str, &str)) -> Key {
        (self.hashers.0.hash_one(place), self.hashers.1.hash_one(place))
    }

    /// Takes a version of the store.
    pub(super) fn see_stored(&mut self, stored: &Stored) {
        let secret = &stored.secret;
        if secret.status == Status::Active {
            let Place { owner, realm, name } = &secret.place;
            let key = self.key((owner.as_str(), realm.as_str(), name.as_str()));
            let present = Present { id: secret.id, version: secret.version, created_at: secret.created_at };
            self.present.insert(key, present);
        }
    }

    /// Takes a record of the log: its bytes up to the MAC, which was found genuine.
    pub(super) fn see_record(&mut self, signed: &[u8]) {
        let text = [signed, b"}"].concat();
        let Ok(entry) = serde_json::from_slice::<Entry<'_>>(&text) else { return };
        // The records of these commands name the key that they are about.
        let is_call = !matches!(entry.rpc, "CreateKey" | "RevokeKey");
        if let Some(key) = entry.key_id.filter(|_| is_call) {
            match self.used.get_mut(key) {
                Some(time) => entry.time.clone_into(time),
                None => drop(self.used.insert(key.to_owned(), entry.time.to_owned())),
            }
        }
        let done = entry.phase == "outcome" && entry.outcome == "OK";
        if matches!(entry.rpc, "Restore" | "Migrate") && done {
            // The contents are those of another time.
            self.changes.clear();
            return;
        }
        let deletes = entry.rpc == "DeleteSecret";
        if !deletes && !matches!(entry.rpc, "CreateSecret" | "RotateSecret") {
            return;
        }
        let (Some(owner), Some(realm), Some(name)) = (entry.owner, entry.realm, entry.name) else { return };
        let Some(at) = Timestamp::parse(entry.time) else { return };
        let key = self.key((owner, realm, name));
        let change = |left| Change { left, seq: entry.seq, at, may_be_deleted: false };
        match (entry.phase, entry.version.and_then(Version::new)) {
            ("attempt", _) => {
                if let (true, Some(known)) = (deletes, self.changes.get_mut(&key)) {
                    known.may_be_deleted = true;
                }
            }
            // The records of concurrent changes may be in another order than the changes: a creation and a deletion.
            (_, _) if done && deletes => {
                let created = |known: &Change| known.left == Left::Version(Version::FIRST);
                let left = if self.is_near(&key, at, created) { Left::Unknown } else { Left::Nothing };
                self.changes.insert(key, change(left));
            }
            (_, Some(version)) if done => {
                let may_be_deleted = self.is_near(&key, at, |known| known.left == Left::Nothing);
                let later = |known: &Change| matches!(known.left, Left::Version(last) if last > version);
                if !self.is_near(&key, at, later) {
                    let left = Left::Version(version);
                    self.changes.insert(key, Change { may_be_deleted, ..change(left) });
                }
            }
            _ if entry.reason == Some("OUTCOME_UNKNOWN") => {
                self.changes.insert(key, change(Left::Unknown));
            }
            _ => {
                if let (true, Some(known)) = (deletes, self.changes.get_mut(&key)) {
                    known.may_be_deleted = false;
                }
            }
        }
    }

    /// When each of these keys was last used, the longest unused first.
    pub(super) fn key_use(&self, keys: &[ApiKeyRecord]) -> Option<Finding> {
        let live = keys.iter().filter(|key| key.is_live(self.now));
        let mut uses: Vec<_> = live.map(|key| (self.used.get(key.id.as_str()), key)).collect();
        uses.sort_by_key(|(time, key)| (*time, key.created_at));
        let unused = uses.iter().filter(|(time, _)| time.is_none()).count();
        let line = |(time, key): (Option<&String>, &ApiKeyRecord)| {
            let when = time.map_or_else(|| "not used".to_owned(), |time| format!("last used {time}"));
            format!("{} of {}: {when}", key.id, key.user)
        };
        let text = format!("{unused} of {} API key(s) have no record in this audit log", uses.len());
        (!self.used.is_empty() && !uses.is_empty())
            .then(|| Finding::ok("key use", listed(text, uses.into_iter().map(line).collect())))
    }

    /// Whether the last change of a place is `like` that, and at about the same time.
    fn is_near(&self, key: &Key, at: Timestamp, like: impl Fn(&Change) -> bool) -> bool {
        self.changes.get(key).is_some_and(|known| {
            like(known) && at.saturating_since(known.at) < SETTLED && known.at.saturating_since(at) < SETTLED
        })
    }

    /// The finding. `alone` if this log has all changes of the store.
    pub(super) fn finding(&self, alone: bool) -> Finding {
        let what = "history";
        let mut problems: Vec<(u64, String)> = Vec::new();
        for (key, change) in &self.changes {
            let Change { left, seq, at, may_be_deleted } = *change;
            if self.now.saturating_since(at) < SETTLED {
                continue;
            }
            let problem = match (left, self.present.get(key)) {
                (Left::Unknown, _) | (Left::Nothing, None) => continue,
                // Another server created it since.
                (_, Some(present)) if !alone && present.created_at > at => continue,
                (Left::Version(version), Some(present)) if present.version >= version => continue,
                (Left::Version(version), Some(Present { id, version: found, .. })) => {
                    format!("secret {id} has version {found}, and record {seq} left version {version}")
                }
                (Left::Version(_), None) if !alone || may_be_deleted => continue,
                (Left::Version(version), None) => {
                    format!("the secret of record {seq} is missing, which left version {version}")
                }
                (Left::Nothing, Some(Present { id, .. })) => {
                    format!("secret {id} is there, and record {seq} deleted it")
                }
            };
            problems.push((seq, problem));
        }
        if problems.is_empty() {
            let count = self.changes.len();
            return Finding::ok(what, format!("{count} secret(s) are as the audit log left them"));
        }
        problems.sort_unstable();
        let text = format!("{} secret(s) are not as the audit log left them", problems.len());
        let lines = problems.into_iter().map(|(_, problem)| problem).collect();
        Finding::fail(what, listed(text, lines))
            .hint("find out who changed rows of the database, or whether an older database was put back")
            .hint("restore a backup, or write new values; the records are in the audit log by their 'seq'")
    }
}

#[cfg(test)]
mod tests {
    use agentrouter_model::{Description, KekId, Owner, Realm, Secret, SecretName, Tags};

    use super::super::Level;
    use super::*;

    /// The check starts an hour after the epoch of the tests.
    const NOW: i64 = 3_600;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_micros(1_700_000_000_000_000 + seconds * 1_000_000)
    }

    fn record(seq: u64, seconds: i64, rpc: &str, rest: &str) -> String {
        format!(
            "{{\"seq\":{seq},\"time\":\"{}\",\"request_id\":\"r\\n\",\"rpc\":\"{rpc}\",\"owner\":\"ann\",\"realm\":\"mcp\",\
             \"name\":\"a\",{rest}",
            at(seconds).text().as_str()
        )
    }

    fn done(version: i32) -> String {
        format!("\"version\":{version},\"phase\":\"outcome\",\"outcome\":\"OK\"")
    }

    fn stored(version: i32, created: i64) -> Stored {
        let secret = Secret {
            id: SecretId::parse("01ARZ3NDEKTSV4RRFFQ69G5FAV").expect("an id"),
            place: Place {
                owner: Owner::parse("ann").expect("an owner"),
                realm: Realm::parse("mcp").expect("a realm"),
                name: SecretName::parse("a").expect("a name"),
            },
            description: Description::default(),
            tags: Tags::default(),
            status: Status::Active,
            version: Version::new(version).expect("1 or more"),
            created_at: at(created),
            updated_at: at(created),
            rotated_at: None,
            expires_at: None,
            kek_id: KekId::parse("kek-1").expect("an id"),
        };
        Stored { secret, envelope: None }
    }

    /// The finding for a log and the version in the store, if there is one: of a single server, and of one among several.
    fn found(log: &[String], present: Option<(i32, i64)>) -> [Option<String>; 2] {
        let mut history = History::new(at(NOW));
        for line in log {
            history.see_record(line.as_bytes());
        }
        if let Some((version, created)) = present {
            history.see_stored(&stored(version, created));
        }
        [true, false].map(|alone| {
            let finding = history.finding(alone);
            (finding.level == Level::Fail).then_some(finding.text)
        })
    }

    #[test]
    fn a_secret_as_the_log_left_it_or_newer_is_accepted() {
        let log = [record(1, 0, "CreateSecret", &done(1)), record(2, 100, "RotateSecret", &done(2))];
        assert_eq!(found(&log, Some((2, 0))), [None, None]);
        assert_eq!(found(&log, Some((3, 0))), [None, None], "the record of the last change is owed");
        assert_eq!(found(&[], Some((7, 0))), [None, None], "older than the log");
        let deleted = record(3, 200, "DeleteSecret", &done(2));
        assert_eq!(found(&[log[0].clone(), log[1].clone(), deleted], None), [None, None]);
    }

    #[test]
    fn a_secret_that_was_put_back_deleted_or_brought_back_is_named() {
        let log = vec![record(1, 0, "CreateSecret", &done(1)), record(2, 100, "RotateSecret", &done(2))];
        let [alone, beside] = found(&log, Some((1, 0)));
        assert!(
            alone.as_ref().is_some_and(|text| text.contains("has version 1, and record 2 left version 2"))
        );
        assert_eq!(alone, beside);
        assert_eq!(found(&log, Some((1, 150)))[1], None, "another server created it again");

        let [alone, beside] = found(&log, None);
        assert!(alone.is_some_and(|text| text.contains("of record 2 is missing")));
        assert_eq!(beside, None, "another server may have deleted it");

        let deleted = [&log[..], &[record(3, 200, "DeleteSecret", &done(2))]].concat();
        let [alone, beside] = found(&deleted, Some((2, 0)));
        assert!(alone.as_ref().is_some_and(|text| text.contains("is there, and record 3 deleted it")));
        assert_eq!(alone, beside);
    }

    #[test]
    fn a_secret_whose_state_the_log_leaves_open_is_accepted() {
        let created = record(1, 0, "CreateSecret", &done(1));
        let attempt = "\"phase\":\"attempt\",\"outcome\":\"ATTEMPT\"";
        let unknown = "\"phase\":\"outcome\",\"outcome\":\"UNAVAILABLE\",\"reason\":\"OUTCOME_UNKNOWN\"";
        let refused = "\"phase\":\"outcome\",\"outcome\":\"UNAVAILABLE\",\"reason\":\"STORE_UNAVAILABLE\"";
        let deletion = |rest| vec![created.clone(), record(2, 100, "DeleteSecret", rest)];
        assert_eq!(found(&deletion(attempt), None), [None, None], "the server was killed");
        assert_eq!(found(&deletion(unknown), None), [None, None]);
        let undone = [deletion(attempt), vec![record(3, 100, "DeleteSecret", refused)]].concat();
        assert!(found(&undone, None)[0].is_some(), "nothing was deleted");

        let young = [created.clone(), record(2, NOW - 30, "RotateSecret", &done(2))];
        assert_eq!(found(&young, Some((1, 0))), [None, None]);
        let restored =
            [created.clone(), record(2, 100, "Restore", "\"phase\":\"outcome\",\"outcome\":\"OK\"")];
        assert_eq!(found(&restored, None), [None, None], "a backup from before it");
        let reads = [record(1, 0, "GetSecretValue", &done(9))];
        assert_eq!(found(&reads, Some((1, 0))), [None, None]);
    }

    #[test]
    fn records_of_concurrent_changes_may_be_in_any_order() {
        let (created, deleted) =
            (record(1, 0, "CreateSecret", &done(1)), record(2, 1, "DeleteSecret", &done(1)));
        for log in [[created.clone(), deleted.clone()], [deleted, created]] {
            for present in [None, Some((1, 0))] {
                assert_eq!(found(&log, present), [None, None], "{log:?}");
            }
        }
        let rotated = |seq, version| record(seq, 200, "RotateSecret", &done(version));
        let log = [record(1, 0, "CreateSecret", &done(1)), rotated(2, 3), rotated(3, 2)];
        assert!(found(&log, Some((2, 0)))[0].is_some());
        assert_eq!(found(&log, Some((3, 0))), [None, None]);
    }
}
