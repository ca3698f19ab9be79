//! Authentication of API keys by the key manifest. See [`agentrouter_store::row_tags`].
//!
//! The manifest is lines of text: `v1 GENERATION`, a line `ID TAG` for each key in the order of ids, and the tag of the
//! lines before. Tags are in hexadecimal (see [`RowKey`]). A `-` in place of a tag is a revoked key whose row was not
//! authentic or was deleted: it never works.
//!
//! The generation rises with each change of the set of keys. It is never less than the present time in microseconds, so
//! that a restored store has a higher one than all earlier ones. Each server remembers the highest generation that it
//! has seen, in its data directory ([`Memory`]), and refuses every key while the manifest is older. So an attacker who can
//! write to the database, but not to a data directory, cannot undo a revocation.
//!
//! Not protected: the moment between a revocation on one server and the next look of another server at the manifest.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agentrouter_crypto::{CryptoError, RowKey, Tag};
use agentrouter_model::{ApiKeyId, ApiKeyRecord, Clock, Timestamp};
use agentrouter_store::row_tags::{Admission, KeyChange};
use agentrouter_store::{RowTags, StoreError};

/// Keeps the highest generation outside of the database.
pub trait Memory: Send + Sync {
    /// Keeps a generation. It is higher than the ones before.
    ///
    /// # Errors
    /// When it cannot be written. The caller logs that, and tries again a second later.
    fn keep(&self, generation: u64) -> std::io::Result<()>;
}

/// Authenticates API keys under the key that `crypto` derives for rows.
pub struct KeyManifest {
    key: RowKey,
    clock: Arc<dyn Clock>,
    memory: Box<dyn Memory>,
    /// Not above any later generation.
    floor: u64,
    /// Whether the first manifest that is written here has the generation `floor`.
    keeps: bool,
    seen: Mutex<Seen>,
    /// Locked while a generation is written, which takes an fsync. It is taken before `seen`.
    kept: Mutex<KeptGeneration>,
    refusals: AtomicU64,
}

/// The highest generation that was seen, and the last manifest that was found authentic.
#[derive(Default)]
struct Seen {
    /// None while the store is not authenticated.
    generation: Option<u64>,
    last: Option<Arc<Manifest>>,
}

/// The highest generation that was kept.
#[derive(Default)]
struct KeptGeneration {
    generation: Option<u64>,
    /// After a failure to keep a generation: when to try again.
    retry_at: Option<Timestamp>,
}

/// A manifest that is authentic.
struct Manifest {
    text: String,
    generation: u64,
    /// None for a key that never works.
    tags: BTreeMap<ApiKeyId, Option<Tag>>,
}

/// The time between two attempts to keep a generation.
const RETRY: Duration = Duration::from_secs(1);

const ABSENT: &str = "the key manifest is missing";
const ALTERED: &str = "the key manifest is not authentic";
const UNLISTED: &str = "the key manifest does not list it, so its row was forged or put back";
const DIFFERENT: &str = "its row was altered, or put back as it was earlier";

impl KeyManifest {
    /// Authenticates under `key`. `remembered` is the highest generation that `memory` kept; none if the store has not
    /// been authenticated yet. Until then every key is admitted.
    pub fn new(key: RowKey, remembered: Option<u64>, memory: Box<dyn Memory>, clock: Arc<dyn Clock>) -> Self {
        Self {
            key,
            clock,
            memory,
            floor: remembered.unwrap_or(0),
            keeps: false,
            seen: Mutex::new(Seen { generation: remembered, last: None }),
            kept: Mutex::new(KeptGeneration { generation: remembered, retry_at: None }),
            refusals: AtomicU64::new(0),
        }
    }

    /// As [`KeyManifest::new`], for a store that is being filled: its keys are authenticated at the end. With `same`, at the
    /// remembered generation: the store is filled from the one whose generation that is, which works until one of the two
    /// changes.
    #[must_use]
    pub fn of_import(self, same: bool) -> Self {
        let keeps = same && self.floor > 0;
        Self { seen: Mutex::default(), kept: Mutex::default(), keeps, ..self }
    }

    /// The manifest of a text, checked against the generation that was seen before. None for a store that is not
    /// authenticated yet. Remembers nothing, because the text may be that of a transaction in progress.
    fn check(&self, text: Option<&str>) -> Result<Option<Arc<Manifest>>, Admission> {
        self.check_against(&self.seen(), text)
    }

    /// The same for a text that is committed, which is remembered.
    fn remember(&self, text: Option<&str>) -> Result<Option<Arc<Manifest>>, Admission> {
        let mut seen = self.seen();
        let Some(manifest) = self.check_against(&seen, text)? else { return Ok(None) };
        seen.generation = Some(manifest.generation);
        seen.last = Some(Arc::clone(&manifest));
        Ok(Some(manifest))
    }

    fn check_against(&self, seen: &Seen, text: Option<&str>) -> Result<Option<Arc<Manifest>>, Admission> {
        let Some(text) = text else {
            return if seen.generation.is_none() { Ok(None) } else { Err(Admission::Refused(ABSENT)) };
        };
        let manifest = match &seen.last {
            Some(last) if last.text == text => Arc::clone(last),
            _ => Arc::new(self.parse(text).ok_or(Admission::Refused(ALTERED))?),
        };
        if seen.generation.is_some_and(|generation| manifest.generation < generation) {
            return Err(Admission::Older);
        }
        Ok(Some(manifest))
    }

    /// Keeps the highest generation that was seen outside of the database. After a failure it tries again a second later at
    /// the earliest.
    fn keep(&self, mut kept: MutexGuard<'_, KeptGeneration>) {
        let Some(generation) = self.seen().generation else { return };
        if kept.generation.is_some_and(|kept| kept >= generation) {
            return;
        }
        let now = self.clock.now();
        if kept.retry_at.is_some_and(|retry_at| now < retry_at) {
            return;
        }
        match self.memory.keep(generation) {
            Ok(()) => *kept = KeptGeneration { generation: Some(generation), retry_at: None },
            Err(error) => {
                kept.retry_at = Some(now.saturating_add(RETRY));
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the generation of the key manifest could not be kept in the data directory"
                );
            }
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kept(&self) -> MutexGuard<'_, KeptGeneration> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The manifest of a text, if it is authentic.
    fn parse(&self, text: &str) -> Option<Manifest> {
        let (body, tag) = text.rsplit_once('\n')?;
        let body = &text[..=body.len()];
        if !RowKey::same(&self.key.key_manifest(body).ok()?, &unhex(tag)?) {
            return None;
        }
        let mut lines = body.lines();
        let generation = lines.next()?.strip_prefix("v1 ")?.parse().ok()?;
        let entry = |line: &str| {
            let (id, tag) = line.split_once(' ')?;
            Some((ApiKeyId::parse(id).ok()?, if tag == "-" { None } else { Some(unhex(tag)?) }))
        };
        let tags = lines.map(entry).collect::<Option<_>>()?;
        Some(Manifest { text: text.to_owned(), generation, tags })
    }

    fn write(&self, generation: u64, tags: &BTreeMap<ApiKeyId, Option<Tag>>) -> Result<String, CryptoError> {
        let mut text = format!("v1 {generation}\n");
        for (id, tag) in tags {
            text.push_str(id.as_str());
            text.push(' ');
            text.push_str(&tag.as_ref().map_or_else(|| "-".to_owned(), hex));
            text.push('\n');
        }
        let tag = self.key.key_manifest(&text)?;
        text.push_str(&hex(&tag));
        Ok(text)
    }

    /// A generation above all earlier ones.
    fn next(&self, present: Option<u64>) -> u64 {
        let seen = self.seen().generation;
        let now = u64::try_from(self.clock.now().as_micros()).unwrap_or(0);
        let last = seen.max(present).unwrap_or(0).max(self.floor);
        now.max(last.saturating_add(1))
    }

    /// The last manifest that was found authentic.
    fn last(&self) -> Option<Arc<Manifest>> {
        self.seen().last.clone()
    }

    /// Refuses every manifest so far, and so every key.
    fn outdate(&self, present: Option<&str>) {
        let present = present.and_then(|text| self.parse(text)).map(|manifest| manifest.generation);
        let generation = self.next(present);
        self.seen().generation = Some(generation);
        self.keep(self.kept());
    }

    fn revised(&self, present: Option<&str>, change: KeyChange<'_>) -> Result<Option<String>, Failure> {
        let manifest = match (change, self.check(present)) {
            (KeyChange::All(keys), _) => {
                let mut tags = BTreeMap::new();
                for key in keys {
                    tags.insert(key.id.clone(), Some(self.key.api_key(key)?));
                }
                let generation = present.and_then(|text| self.parse(text)).map(|present| present.generation);
                let generation = if self.keeps { self.floor } else { self.next(generation) };
                return Ok(Some(self.write(generation, &tags)?));
            }
            (_, Ok(Some(manifest))) => manifest,
            (_, Ok(None)) => return Ok(None),
            // No manifest from before the revocation may count again. The set of keys is known if one was seen.
            (KeyChange::Revoked { .. }, Err(_)) => match self.last() {
                Some(manifest) => manifest,
                None => {
                    self.outdate(present);
                    return Ok(None);
                }
            },
            (KeyChange::Issued(_), Err(Admission::Refused(why))) => return Err(Failure::Refused(why)),
            (KeyChange::Issued(_), Err(_)) => {
                return Err(Failure::Refused(agentrouter_store::row_tags::OLDER));
            }
        };
        let mut tags = manifest.tags.clone();
        match change {
            KeyChange::Issued(key) => tags.insert(key.id.clone(), Some(self.key.api_key(key)?)),
            KeyChange::Revoked { id, before, at } => {
                let authentic = before.filter(|key| self.fits(&manifest, key) == Admission::Admitted);
                let after = authentic.map(|key| ApiKeyRecord {
                    revoked_at: Some(key.revoked_at.unwrap_or(at)),
                    ..key.clone()
                });
                let tag = after.map(|key| self.key.api_key(&key)).transpose()?;
                tags.insert(id.clone(), tag)
            }
            KeyChange::All(_) => None,
        };
        Ok(Some(self.write(self.next(Some(manifest.generation)), &tags)?))
    }

    fn fits(&self, manifest: &Manifest, key: &ApiKeyRecord) -> Admission {
        match (manifest.tags.get(&key.id), self.key.api_key(key)) {
            (Some(Some(tag)), Ok(found)) if RowKey::same(tag, &found) => Admission::Admitted,
            // Nothing that it says is known to be true, and it does not work.
            (Some(None), _) if key.revoked_at.is_some() => Admission::Admitted,
            (Some(_), _) => Admission::Refused(DIFFERENT),
            (None, _) => Admission::Refused(UNLISTED),
        }
    }
}

enum Failure {
    Refused(&'static str),
    Crypto,
}

impl From<CryptoError> for Failure {
    fn from(_: CryptoError) -> Self {
        Self::Crypto
    }
}

impl RowTags for KeyManifest {
    fn revise(&self, manifest: Option<&str>, change: KeyChange<'_>) -> Result<Option<String>, StoreError> {
        self.revised(manifest, change).map_err(|failure| match failure {
            Failure::Refused(why) => StoreError::KeyManifest(why),
            Failure::Crypto => StoreError::unavailable("a tag could not be computed"),
        })
    }

    fn note(&self, manifest: Option<&str>) -> Admission {
        let noted = self.remember(manifest);
        // Waits for the thread that keeps a generation: a change of the keys is done when its generation is kept.
        self.keep(self.kept());
        noted.err().unwrap_or(Admission::Admitted)
    }

    fn admit(&self, manifest: Option<&str>, key: &ApiKeyRecord) -> Admission {
        let remembered = self.remember(manifest);
        // Reads do not wait for a thread that keeps a generation. The next look at the manifest keeps a later one.
        if let Ok(kept) = self.kept.try_lock() {
            self.keep(kept);
        }
        match remembered {
            Ok(None) => Admission::Admitted,
            Ok(Some(manifest)) => self.fits(&manifest, key),
            Err(refused) => refused,
        }
    }

    fn listed(&self, manifest: Option<&str>) -> Vec<ApiKeyId> {
        match self.check(manifest) {
            Ok(Some(manifest)) => {
                let tagged = manifest.tags.iter().filter(|(_, tag)| tag.is_some());
                tagged.map(|(id, _)| id.clone()).collect()
            }
            _ => Vec::new(),
        }
    }

    fn count_refusal(&self) {
        self.refusals.fetch_add(1, Ordering::Relaxed);
    }

    fn refusals(&self) -> u64 {
        self.refusals.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for KeyManifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyManifest").finish_non_exhaustive()
    }
}

fn hex(tag: &Tag) -> String {
    format!("{:032x}", u128::from_be_bytes(*tag))
}

fn unhex(text: &str) -> Option<Tag> {
    let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = u128::from_str_radix(text, 16).ok().filter(|_| digits)?;
    Some(number.to_be_bytes())
}

#[cfg(test)]
mod tests;
