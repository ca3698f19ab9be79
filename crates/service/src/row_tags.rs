//! Authentication of rows: of API keys by the key manifest, of secrets and versions by a tag in each row. See
//! [`agentrouter_store::row_tags`].
//!
//! The manifest is lines of text: `v2 GENERATION`, a line `ID TAG` for each key in the order of ids, and the tag of the
//! lines before. Tags are in hexadecimal (see [`RowKey`]). A `-` in place of a tag is a revoked key whose row was not
//! authentic or was deleted: it never works. `v1` in place of `v2` is a store whose rows of secrets may lack tags: an older
//! program wrote it, or writes it still.
//!
//! The generation rises with each change of the set of keys. It is never less than the present time in microseconds, so
//! that a restored store has a higher one than all earlier ones. Each server remembers the highest generation that it
//! has seen, in its data directory ([`Memory`]), and refuses every key while the manifest is older. So an attacker who can
//! write to the database, but not to a data directory, cannot undo a revocation. With it, each server remembers that all
//! rows have tags, so a manifest or a schema that claims less changes nothing.
//!
//! Not protected: the moment between a revocation on one server and the next look of another server at the manifest.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agentrouter_crypto::{RowKey, Tag};
use agentrouter_model::{ApiKeyId, ApiKeyRecord, Clock, Secret, Slot, Status, Timestamp, Version};
use agentrouter_store::row_tags::{Admission, KeyChange, RowTag};
use agentrouter_store::{RowTags, StoreError};

/// What a server has seen of a store. It only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Known {
    /// The highest generation of the key manifest.
    pub generation: u64,
    /// Whether all rows of secrets have tags.
    pub tagged: bool,
}

/// Keeps what is known outside of the database.
pub trait Memory: Send + Sync {
    /// Keeps what is known, which is more than before.
    ///
    /// # Errors
    /// When it cannot be written. The caller logs that, and tries again a second later.
    fn keep(&self, known: Known) -> std::io::Result<()>;
}

/// Authenticates rows under the key that `crypto` derives for them.
pub struct KeyManifest {
    key: RowKey,
    clock: Arc<dyn Clock>,
    memory: Box<dyn Memory>,
    /// Not above any later generation.
    floor: u64,
    /// Whether the first manifest that is written here has the generation `floor`.
    keeps: bool,
    /// Whether the store is being filled.
    imports: bool,
    seen: Mutex<Seen>,
    /// Whether all rows of secrets have tags.
    tagged: AtomicBool,
    /// Locked while a generation is written, which takes an fsync. It is taken before `seen`.
    kept: Mutex<Kept>,
    refusals: AtomicU64,
}

/// The highest generation that was seen, and the last manifest that was found authentic.
#[derive(Default)]
struct Seen {
    /// None while the store is not authenticated.
    generation: Option<u64>,
    last: Option<Arc<Manifest>>,
}

/// What was kept.
#[derive(Default)]
struct Kept {
    known: Option<Known>,
    /// After a failure to keep it: when to try again.
    retry_at: Option<Timestamp>,
}

/// A manifest that is authentic.
struct Manifest {
    text: String,
    generation: u64,
    /// Whether all rows of secrets have tags.
    tagged: bool,
    /// None for a key that never works.
    tags: BTreeMap<ApiKeyId, Option<Tag>>,
}

/// The time between two attempts to keep a generation.
const RETRY: Duration = Duration::from_secs(1);

const ABSENT: &str = "the key manifest is missing";
const ALTERED: &str = "the key manifest is not authentic";
const UNTAGGED: &str = "the key manifest is of a store whose rows are not authenticated";
const UNLISTED: &str = "the key manifest does not list it, so its row was forged or put back";
const DIFFERENT: &str = "its row was altered, or put back as it was earlier";

impl KeyManifest {
    /// Authenticates under `key`. `remembered` is what `memory` kept; none if the store has not been authenticated yet. Until
    /// then every key is admitted.
    pub fn new(
        key: RowKey,
        remembered: Option<Known>,
        memory: Box<dyn Memory>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let generation = remembered.map(|known| known.generation);
        Self {
            key,
            clock,
            memory,
            floor: generation.unwrap_or(0),
            keeps: false,
            imports: false,
            seen: Mutex::new(Seen { generation, last: None }),
            tagged: AtomicBool::new(remembered.is_some_and(|known| known.tagged)),
            kept: Mutex::new(Kept { known: remembered, retry_at: None }),
            refusals: AtomicU64::new(0),
        }
    }

    /// As [`KeyManifest::new`], for a store that is being filled: its rows are authenticated at the end. With `same`, at the
    /// remembered generation: the store is filled from the one whose generation that is, which works until one of the two
    /// changes.
    #[must_use]
    pub fn of_import(self, same: bool) -> Self {
        let keeps = same && self.floor > 0;
        let tagged = AtomicBool::new(false);
        Self { seen: Mutex::default(), kept: Mutex::default(), tagged, keeps, imports: true, ..self }
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
        if manifest.tagged {
            self.tagged.store(true, Ordering::SeqCst);
        }
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
        if !manifest.tagged && self.requires_tags() {
            return Err(Admission::Refused(UNTAGGED));
        }
        Ok(Some(manifest))
    }

    /// Keeps the highest generation that was seen outside of the database. After a failure it tries again a second later at
    /// the earliest.
    fn keep(&self, mut kept: MutexGuard<'_, Kept>) {
        let Some(generation) = self.seen().generation else { return };
        let known = Known { generation, tagged: self.requires_tags() };
        if kept.known.is_some_and(|kept| kept >= known) {
            return;
        }
        let now = self.clock.now();
        if kept.retry_at.is_some_and(|retry_at| now < retry_at) {
            return;
        }
        match self.memory.keep(known) {
            Ok(()) => *kept = Kept { known: Some(known), retry_at: None },
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

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The manifest of a text, if it is authentic.
    fn parse(&self, text: &str) -> Option<Manifest> {
        let (body, tag) = text.rsplit_once('\n')?;
        let body = &text[..=body.len()];
        if !RowKey::same(&self.key.key_manifest(body), &unhex(tag)?) {
            return None;
        }
        let mut lines = body.lines();
        let (format, generation) = lines.next()?.split_once(' ')?;
        let tagged = match format {
            "v1" => false,
            "v2" => true,
            _ => return None,
        };
        let generation = generation.parse().ok()?;
        let entry = |line: &str| {
            let (id, tag) = line.split_once(' ')?;
            Some((ApiKeyId::parse(id).ok()?, if tag == "-" { None } else { Some(unhex(tag)?) }))
        };
        let tags = lines.map(entry).collect::<Option<_>>()?;
        Some(Manifest { text: text.to_owned(), generation, tagged, tags })
    }

    fn write(&self, generation: u64, tagged: bool, tags: &BTreeMap<ApiKeyId, Option<Tag>>) -> String {
        let format = if tagged { "v2" } else { "v1" };
        let mut text = format!("{format} {generation}\n");
        for (id, tag) in tags {
            text.push_str(id.as_str());
            text.push(' ');
            text.push_str(&tag.as_ref().map_or_else(|| "-".to_owned(), hex));
            text.push('\n');
        }
        let tag = self.key.key_manifest(&text);
        text.push_str(&hex(&tag));
        text
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

    fn revised(&self, present: Option<&str>, change: KeyChange<'_>) -> Result<Option<String>, &'static str> {
        let manifest = match (change, self.check(present)) {
            (KeyChange::All(_), Ok(Some(manifest))) if !self.imports => {
                if manifest.tagged {
                    return Ok(None);
                }
                manifest
            }
            // A forged key is not authenticated, nor one that was put back.
            (KeyChange::All(_), Err(refused)) if !self.imports => {
                return Err(match refused {
                    Admission::Refused(why) => why,
                    _ => agentrouter_store::row_tags::OLDER,
                });
            }
            (KeyChange::All(keys), _) => {
                let mut tags = BTreeMap::new();
                for key in keys {
                    tags.insert(key.id.clone(), Some(self.key.api_key(key)));
                }
                let generation = present.and_then(|text| self.parse(text)).map(|present| present.generation);
                let generation = if self.keeps { self.floor } else { self.next(generation) };
                return Ok(Some(self.write(generation, true, &tags)));
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
            (KeyChange::Issued(_), Err(Admission::Refused(why))) => return Err(why),
            (KeyChange::Issued(_), Err(_)) => return Err(agentrouter_store::row_tags::OLDER),
        };
        let (mut tags, mut tagged) = (manifest.tags.clone(), manifest.tagged);
        match change {
            KeyChange::Issued(key) => tags.insert(key.id.clone(), Some(self.key.api_key(key))),
            KeyChange::Revoked { id, before, at } => {
                let authentic = before.filter(|key| self.fits(&manifest, key) == Admission::Admitted);
                let after = authentic.map(|key| ApiKeyRecord {
                    revoked_at: Some(key.revoked_at.unwrap_or(at)),
                    ..key.clone()
                });
                let tag = after.map(|key| self.key.api_key(&key));
                tags.insert(id.clone(), tag)
            }
            KeyChange::All(_) => {
                tagged = true;
                None
            }
        };
        Ok(Some(self.write(self.next(Some(manifest.generation)), tagged, &tags)))
    }

    fn fits(&self, manifest: &Manifest, key: &ApiKeyRecord) -> Admission {
        match manifest.tags.get(&key.id) {
            Some(Some(tag)) if RowKey::same(tag, &self.key.api_key(key)) => Admission::Admitted,
            // Nothing that it says is known to be true, and it does not work.
            Some(None) if key.revoked_at.is_some() => Admission::Admitted,
            Some(_) => Admission::Refused(DIFFERENT),
            None => Admission::Refused(UNLISTED),
        }
    }
}

impl RowTags for KeyManifest {
    fn revise(&self, manifest: Option<&str>, change: KeyChange<'_>) -> Result<Option<String>, StoreError> {
        self.revised(manifest, change).map_err(StoreError::KeyManifest)
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

    fn requires_tags(&self) -> bool {
        self.tagged.load(Ordering::SeqCst)
    }

    fn secret_tag(&self, secret: &Secret, active: Version) -> RowTag {
        self.key.secret(secret, active)
    }

    fn secret_tags(&self, secrets: &[Secret], tag: &mut dyn FnMut(RowTag)) {
        self.key.secrets(secrets, tag);
    }

    fn version_tag(&self, slot: Slot<'_>, status: Status, expires_at: Option<Timestamp>) -> RowTag {
        self.key.version(slot, status, expires_at)
    }

    fn fact_tag(&self, name: &str, text: &str) -> Result<RowTag, StoreError> {
        Ok(self.key.fact(name, text))
    }

    fn are_equal(&self, tag: &RowTag, stored: Option<&[u8]>) -> bool {
        stored.and_then(|stored| stored.try_into().ok()).is_some_and(|stored| RowKey::same(tag, stored))
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

pub(crate) fn hex(tag: &Tag) -> String {
    format!("{:032x}", u128::from_be_bytes(*tag))
}

pub(crate) fn unhex(text: &str) -> Option<Tag> {
    let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = u128::from_str_radix(text, 16).ok().filter(|_| digits)?;
    Some(number.to_be_bytes())
}

#[cfg(test)]
mod tests;
