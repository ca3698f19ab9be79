//! Authentication of rows: the interface between an engine and the holder of the key.
//!
//! An engine calls it inside each write and after each read that decides something. It holds no key itself.
//!
//! The **key manifest** is a fact, [`KEY_MANIFEST`], that lists every API key by its id with a tag of its row, and has a
//! generation that only rises. A key that the manifest does not list, or lists with another tag, is refused. So is every
//! key while the manifest is missing, altered, or older than one that was seen before. So a revocation cannot be undone
//! by writing to the database.

use std::fmt;

use agentrouter_model::{ApiKeyId, ApiKeyRecord, Timestamp};

use crate::{ExaminedKey, StoreError};

/// The fact under which an engine stores the key manifest.
pub const KEY_MANIFEST: &str = "keys";

/// A change of the set of API keys.
#[derive(Clone, Copy, Debug)]
pub enum KeyChange<'a> {
    /// A new key.
    Issued(&'a ApiKeyRecord),
    /// A key is revoked.
    Revoked {
        /// Its id.
        id: &'a ApiKeyId,
        /// The key before the revocation, if it parses.
        before: Option<&'a ApiKeyRecord>,
        /// When.
        at: Timestamp,
    },
    /// All keys of the store are authenticated as they are: at the upgrade of an older store, and after an import.
    All(&'a [ApiKeyRecord]),
}

/// Whether a key may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is authentic.
    Admitted,
    /// The manifest is older than the last one that was seen. A reader that was overtaken by a write reads again.
    Older,
    /// It is not authentic. The reason is a few fixed words.
    Refused(&'static str),
}

/// Authenticates rows.
pub trait RowTags: Send + Sync + fmt::Debug {
    /// The key manifest after a change. None if the store is not authenticated yet (its other servers may run an older
    /// program), or a revocation finds no authentic manifest to change.
    ///
    /// # Errors
    /// [`StoreError::KeyManifest`] when a key is to be issued and the present manifest cannot be used,
    /// [`StoreError::Unavailable`] when no tag can be computed.
    fn revise(&self, manifest: Option<&str>, change: KeyChange<'_>) -> Result<Option<String>, StoreError>;

    /// Notes a manifest that was committed or read, if it is authentic. A later one that is older is refused.
    fn note(&self, manifest: Option<&str>) -> Admission;

    /// Whether a key that was read together with the manifest may be used. Notes the manifest. Does not count a refusal.
    fn admit(&self, manifest: Option<&str>, key: &ApiKeyRecord) -> Admission;

    /// The ids of the keys that the manifest lists with a tag; none if it is not authentic.
    fn listed(&self, manifest: Option<&str>) -> Vec<ApiKeyId>;

    /// Counts a refused row.
    fn count_refusal(&self);

    /// The number of refused rows that were counted.
    fn refusals(&self) -> u64;
}

/// Reads a key as `read` finds it with its manifest, and refuses it if it is not authentic.
///
/// # Errors
/// Those of `read`; [`StoreError::Corrupt`] when it is refused.
pub fn admitted(
    tags: &dyn RowTags,
    mut read: impl FnMut() -> Result<Option<(ApiKeyRecord, Option<String>)>, StoreError>,
) -> Result<Option<ApiKeyRecord>, StoreError> {
    for _ in 0..READS {
        let Some((key, manifest)) = read()? else { return Ok(None) };
        match tags.admit(manifest.as_deref(), &key) {
            Admission::Admitted => return Ok(Some(key)),
            Admission::Older => {}
            Admission::Refused(why) => return Err(refused(tags, why)),
        }
    }
    Err(refused(tags, OLDER))
}

/// Counts a refused row, and returns the error.
pub fn refused(tags: &dyn RowTags, why: &'static str) -> StoreError {
    tags.count_refusal();
    StoreError::Corrupt(why)
}

/// The most reads of a reader that writes overtake.
pub const READS: usize = 4;
/// [`Admission::Older`] in words.
pub const OLDER: &str = "the key manifest is older than one that was seen before";

/// Names the keys that are not authentic, and those whose rows are missing. Returns false if the manifest is older than
/// one that was seen before, because a write may have overtaken the reader.
pub fn examine(tags: &dyn RowTags, manifest: Option<&str>, keys: &mut Vec<ExaminedKey>) -> bool {
    let missing: Vec<_> = tags
        .listed(manifest)
        .into_iter()
        .filter(|id| !keys.iter().any(|key| key.id() == Some(id)))
        .map(|id| ExaminedKey::Refused { id, why: "its row was deleted" })
        .collect();
    for key in keys.iter_mut() {
        let ExaminedKey::Whole(record) = key else { continue };
        let why = match tags.admit(manifest, record) {
            Admission::Admitted => continue,
            Admission::Older => OLDER,
            Admission::Refused(why) => why,
        };
        *key = ExaminedKey::Refused { id: record.id.clone(), why };
    }
    keys.extend(missing);
    tags.note(manifest) != Admission::Older
}
