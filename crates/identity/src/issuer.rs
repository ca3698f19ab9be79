//! An issuer in use: its keys and its revocations, and when they are read again.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use agentrouter_model::Timestamp;
use arc_swap::ArcSwapOption;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use crate::Fetch;
use crate::key_set::KeySet;
use crate::settings::{Document, IssuerSettings};

/// The time between two fetches of a key set that works.
const KEYS_EVERY: Duration = Duration::from_secs(5 * 60);
/// The least time between two fetches of a key set.
const KEYS_PAUSE: Duration = Duration::from_secs(30);
/// The time between two fetches of the revocations.
const REVOCATIONS_EVERY: Duration = Duration::from_secs(10);
/// How long keys and revocations are used after the last fetch that succeeded.
const LAST_GOOD: Duration = Duration::from_secs(24 * 60 * 60);
/// The longest time of a fetch.
const FETCH: Duration = Duration::from_secs(5);
/// Most bytes of a key set.
const KEY_SET: usize = 1024 * 1024;
/// Most bytes of a list of revocations.
const LIST: usize = 64 * 1024 * 1024;
/// Most revocations of an issuer.
const REVOCATIONS: usize = 1_000_000;

/// The keys and revocations of an issuer.
pub(crate) struct Source {
    keys: ArcSwapOption<KeySet>,
    keys_work: Mutex<KeysWork>,
    revoked: ArcSwapOption<HashMap<String, i64>>,
    revoked_work: Mutex<RevokedWork>,
    /// Failed fetches.
    pub(crate) failures: AtomicU64,
    /// Whether the last fetch failed: of the keys, and of the revocations.
    is_failing: [AtomicBool; 2],
}

#[derive(Clone, Copy)]
enum What {
    Keys,
    Revocations,
}

#[derive(Default)]
struct KeysWork {
    attempt: Option<Instant>,
    success: Option<Instant>,
    stamp: Option<Stamp>,
}

#[derive(Default)]
struct RevokedWork {
    attempt: Option<Instant>,
    success: Option<Instant>,
    /// The `as_of` of the last response.
    since: Option<i64>,
}

/// When a file was changed last, and its size.
type Stamp = (Option<SystemTime>, u64);

/// A list of revoked tokens.
#[derive(Deserialize)]
struct Revocations {
    revocations: Vec<Revocation>,
    /// When the list was made: seconds since the Unix epoch.
    as_of: i64,
}

#[derive(Deserialize)]
struct Revocation {
    /// The claim `jti` of the token.
    jti: String,
    /// The claim `exp` of the token, if it is known.
    #[serde(default)]
    exp: Option<i64>,
}

impl Source {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            keys: ArcSwapOption::empty(),
            keys_work: Mutex::default(),
            revoked: ArcSwapOption::empty(),
            revoked_work: Mutex::default(),
            failures: AtomicU64::new(0),
            is_failing: [const { AtomicBool::new(false) }; 2],
        })
    }

    pub(crate) fn key(&self, id: Option<&str>, algorithm: Algorithm) -> Option<DecodingKey> {
        self.keys.load().as_ref()?.find(id, algorithm)
    }

    pub(crate) fn has_keys(&self) -> bool {
        self.keys.load().as_ref().is_some_and(|keys| !keys.is_empty())
    }

    /// Whether a token is revoked, or it cannot be known.
    pub(crate) fn is_revoked(&self, settings: &IssuerSettings, id: Option<&str>) -> bool {
        settings.revocations.is_some()
            && match (self.revoked.load().as_ref(), id) {
                (Some(revoked), Some(id)) => revoked.contains_key(id),
                // A token without an id could not be revoked.
                _ => true,
            }
    }

    /// Reads the keys, unless that was tried less than 30 seconds ago. Returns whether they changed.
    pub(crate) async fn read_unless_recent(&self, settings: &IssuerSettings, fetch: &dyn Fetch) -> bool {
        let mut work = self.keys_work.lock().await;
        let is_recent = work.attempt.is_some_and(|attempt| attempt.elapsed() < KEYS_PAUSE);
        !is_recent && self.read_keys(settings, fetch, &mut work).await
    }

    /// Reads what is due. Returns whether anything changed.
    pub(crate) async fn read_due(
        &self,
        settings: &IssuerSettings,
        fetch: &dyn Fetch,
        now: Timestamp,
    ) -> bool {
        let keys = {
            let mut work = self.keys_work.lock().await;
            let every = if work.success == work.attempt { KEYS_EVERY } else { KEYS_PAUSE };
            let is_due = match &settings.keys {
                Document::Url(_) => work.attempt.is_none_or(|attempt| attempt.elapsed() >= every),
                Document::File(path) => stamp(path) != work.stamp || work.attempt.is_none(),
            };
            let changed = is_due && self.read_keys(settings, fetch, &mut work).await;
            let is_failing = work.success != work.attempt;
            let lost = is_failing && is_outdated(work.success) && self.keys.swap(None).is_some();
            if lost {
                tracing::error!(issuer = settings.name, "its keys are a day old: its tokens are refused");
            }
            changed || lost
        };
        let revoked = match &settings.revocations {
            Some(url) => self.read_revocations(settings, url, fetch, now).await,
            None => false,
        };
        keys || revoked
    }

    async fn read_keys(&self, settings: &IssuerSettings, fetch: &dyn Fetch, work: &mut KeysWork) -> bool {
        work.attempt = Some(Instant::now());
        let read = match &settings.keys {
            Document::Url(url) => self.get(settings, url, fetch, KEY_SET).await,
            Document::File(path) => {
                work.stamp = stamp(path);
                let path = path.clone();
                tokio::task::spawn_blocking(move || std::fs::read(path))
                    .await
                    .unwrap_or_else(|_| Err(other("stopped")))
            }
        };
        let parsed = read.and_then(|text| KeySet::parse(&text).map_err(std::io::Error::other));
        let result = match parsed {
            Ok(keys) => {
                work.success = work.attempt;
                let is_same = self.keys.load().as_ref().is_some_and(|old| old.is_same(&keys));
                if !is_same {
                    self.keys.store(Some(Arc::new(keys)));
                    tracing::info!(issuer = settings.name, "the keys of an issuer were read");
                }
                Ok(!is_same)
            }
            Err(error) => Err(error),
        };
        self.note(settings, What::Keys, result)
    }

    async fn read_revocations(
        &self,
        settings: &IssuerSettings,
        url: &str,
        fetch: &dyn Fetch,
        now: Timestamp,
    ) -> bool {
        let mut work = self.revoked_work.lock().await;
        if work.attempt.is_some_and(|attempt| attempt.elapsed() < REVOCATIONS_EVERY) {
            return false;
        }
        work.attempt = Some(Instant::now());
        let url = match work.since {
            Some(since) => format!("{url}{}since={since}", if url.contains('?') { '&' } else { '?' }),
            None => url.to_owned(),
        };
        let result = match self.get(settings, &url, fetch, LIST).await {
            Ok(text) => parse(text).await.and_then(|list| {
                let changed = self.add(list.revocations, now)?;
                work.success = work.attempt;
                work.since = Some(list.as_of);
                Ok(changed)
            }),
            Err(error) => Err(error),
        };
        let changed = self.note(settings, What::Revocations, result);
        let lost = is_outdated(work.success) && self.revoked.swap(None).is_some();
        if lost {
            work.since = None;
            tracing::error!(issuer = settings.name, "its revocations are a day old: its tokens are refused");
        }
        changed || lost
    }

    /// Adds revocations, and drops those of tokens that have expired. Returns whether there are new ones.
    fn add(&self, list: Vec<Revocation>, now: Timestamp) -> std::io::Result<bool> {
        let now = now.as_seconds_and_nanos().0;
        let present = self.revoked.load_full();
        let is_first = present.is_none();
        let mut all = present.as_deref().cloned().unwrap_or_default();
        // One minute of leeway, and one for the clocks.
        all.retain(|_, exp| *exp > now - 120);
        let before = all.len();
        all.extend(list.into_iter().map(|one| (one.jti, one.exp.unwrap_or(i64::MAX))));
        if all.len() > REVOCATIONS {
            return Err(other("it has more than a million revocations"));
        }
        let changed = is_first || all.len() != before;
        self.revoked.store(Some(Arc::new(all)));
        Ok(changed)
    }

    async fn get(
        &self,
        settings: &IssuerSettings,
        url: &str,
        fetch: &dyn Fetch,
        most: usize,
    ) -> std::io::Result<Vec<u8>> {
        let (ca, token) = (settings.ca_file.as_deref(), settings.token_file.as_deref());
        let fetched = timeout(FETCH, fetch.fetch(url, ca, token, most)).await;
        fetched.unwrap_or_else(|_| Err(other("there was no response within 5 seconds")))
    }

    /// Logs when reading begins to fail, and when it works again.
    fn note(&self, settings: &IssuerSettings, what: What, result: std::io::Result<bool>) -> bool {
        let failing = self.is_failing[what as usize].swap(result.is_err(), Ordering::Relaxed);
        let what = match what {
            What::Keys => "keys",
            What::Revocations => "revocations",
        };
        match &result {
            Err(error) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                if !failing {
                    let error = error as &dyn std::error::Error;
                    tracing::warn!(error, issuer = settings.name, "the {what} of an issuer cannot be read");
                }
            }
            Ok(_) if failing => {
                tracing::info!(issuer = settings.name, "the {what} of an issuer can be read again")
            }
            Ok(_) => {}
        }
        result.unwrap_or(false)
    }
}

/// Parses a list of revocations, which may be long.
async fn parse(text: Vec<u8>) -> std::io::Result<Revocations> {
    let parsed = tokio::task::spawn_blocking(move || serde_json::from_slice(&text)).await;
    parsed.ok().and_then(Result::ok).ok_or_else(|| other("it is no list of revocations"))
}

fn is_outdated(success: Option<Instant>) -> bool {
    success.is_some_and(|success| success.elapsed() > LAST_GOOD)
}

fn stamp(path: &Path) -> Option<Stamp> {
    let data = std::fs::metadata(path).ok()?;
    Some((data.modified().ok(), data.len()))
}

fn other(what: &'static str) -> std::io::Error {
    std::io::Error::other(what)
}
