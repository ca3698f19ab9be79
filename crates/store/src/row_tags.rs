//! Authentication of rows: the interface between an engine and the holder of the key.
//!
//! An engine calls it inside each write and after each read that decides something. It holds no key itself.
//!
//! The **key manifest** is a fact, [`KEY_MANIFEST`], that lists every API key by its id with a tag of its row, and has a
//! generation that only rises. A key that the manifest does not list, or lists with another tag, is refused. So is every
//! key while the manifest is missing, altered, or older than one that was seen before. So a revocation cannot be undone
//! by writing to the database.
//!
//! The rows of secrets and versions have a column with their **tag**, which the engine writes with the row. The key
//! manifest says whether all rows have one. From then on, a row without its tag is refused like one that does not parse
//! ([`verified`]). A row that was put back as it was earlier has its earlier tag, so it is not refused.

use std::fmt;

use agentrouter_model::{ApiKeyId, ApiKeyRecord, Secret, Slot, Status, Timestamp, Version};

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
    /// All rows of secrets have their tags: at the upgrade of an older store, and after an import. The keys of a store
    /// without a manifest, and of an import, are authenticated as they are.
    All(&'a [ApiKeyRecord]),
}

/// The tag of a row of a secret or version.
pub type RowTag = [u8; 16];

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
    /// program), a revocation finds no authentic manifest to change, or the manifest already says that all rows have tags.
    ///
    /// # Errors
    /// [`StoreError::KeyManifest`] when a key is to be issued or all rows have tags and the present manifest cannot be
    /// used.
    fn revise(&self, manifest: Option<&str>, change: KeyChange<'_>) -> Result<Option<String>, StoreError>;

    /// Notes a manifest that was committed or read, if it is authentic. A later one that is older is refused.
    fn note(&self, manifest: Option<&str>) -> Admission;

    /// Whether a key that was read together with the manifest may be used. Notes the manifest. Does not count a refusal.
    fn admit(&self, manifest: Option<&str>, key: &ApiKeyRecord) -> Admission;

    /// The ids of the keys that the manifest lists with a tag; none if it is not authentic.
    fn listed(&self, manifest: Option<&str>) -> Vec<ApiKeyId>;

    /// Whether all rows of secrets and versions have tags, as far as this server has seen. It stays so.
    fn requires_tags(&self) -> bool;

    /// The tag of the row of a secret, of which `active` is the number of the active version.
    fn secret_tag(&self, secret: &Secret, active: Version) -> RowTag;

    /// Calls `tag` with the tag of the row of each secret, described by its active version, in order. Faster than one at a
    /// time.
    fn secret_tags(&self, secrets: &[Secret], tag: &mut dyn FnMut(RowTag));

    /// The tag of the row of a version, in the status that is stored.
    fn version_tag(&self, slot: Slot<'_>, status: Status, expires_at: Option<Timestamp>) -> RowTag;

    /// The tag of a fact of the service, which has a name.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when it cannot be computed.
    fn fact_tag(&self, name: &str, text: &str) -> Result<RowTag, StoreError>;

    /// Whether two tags are equal, in constant time.
    fn are_equal(&self, tag: &RowTag, stored: Option<&[u8]>) -> bool;

    /// Counts a refused row.
    fn count_refusal(&self);

    /// The number of refused rows that were counted.
    fn refusals(&self) -> u64;
}

/// The tags by which rows are verified; none while rows of the store may lack them. An engine asks before it reads, since
/// another server may authenticate the store between the read and the verification.
pub fn verified(tags: Option<&dyn RowTags>) -> Option<&dyn RowTags> {
    tags.filter(|tags| tags.requires_tags())
}

/// The tag to write into the row of a secret, whose active version it describes. None for a store without tags.
pub fn secret_tag(tags: Option<&dyn RowTags>, secret: &Secret) -> Option<RowTag> {
    tags.map(|tags| tags.secret_tag(secret, secret.version))
}

/// The tag to write into the row of a version of `secret`, in this status. None for a store without tags.
pub fn version_tag(
    tags: Option<&dyn RowTags>,
    secret: &Secret,
    status: Status,
    expires_at: Option<Timestamp>,
) -> Option<RowTag> {
    tags.map(|tags| tags.version_tag(slot(secret), status, expires_at))
}

/// The tag of a version that was pending until `expires_at`, once it is retired. `stored` is the tag of its present row,
/// which is verified if `required`: that is [`RowTags::requires_tags`], asked before the row was read.
///
/// # Errors
/// [`StoreError::Corrupt`] when the present row is not authentic.
pub fn retired_tag(
    tags: &dyn RowTags,
    slot: Slot<'_>,
    expires_at: Option<Timestamp>,
    stored: Option<&[u8]>,
    required: bool,
) -> Result<RowTag, StoreError> {
    if required && !tags.are_equal(&tags.version_tag(slot, Status::RotatedPending, expires_at), stored) {
        return Err(refused(tags, "a version that is not authentic"));
    }
    Ok(tags.version_tag(slot, Status::Retired, expires_at))
}

fn slot(secret: &Secret) -> Slot<'_> {
    Slot { place: &secret.place, id: secret.id, version: secret.version }
}

/// Refuses the row of a secret without its tag. `active` is the number of the active version.
///
/// # Errors
/// [`StoreError::Corrupt`] when it is not authentic.
#[inline]
pub fn verify_secret(
    tags: Option<&dyn RowTags>,
    secret: &Secret,
    active: Version,
    stored: Option<&[u8]>,
) -> Result<(), StoreError> {
    let Some(tags) = tags else { return Ok(()) };
    let tag = tags.secret_tag(secret, active);
    if tags.are_equal(&tag, stored) { Ok(()) } else { Err(refused(tags, "a secret that is not authentic")) }
}

/// Refuses the row of a version without its tag.
///
/// # Errors
/// As [`verify_secret`].
#[inline]
pub fn verify_version(
    tags: Option<&dyn RowTags>,
    version: &Secret,
    stored: Option<&[u8]>,
) -> Result<(), StoreError> {
    let Some(tags) = tags else { return Ok(()) };
    let tag = tags.version_tag(slot(version), version.status, version.expires_at);
    if tags.are_equal(&tag, stored) { Ok(()) } else { Err(refused(tags, "a version that is not authentic")) }
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
