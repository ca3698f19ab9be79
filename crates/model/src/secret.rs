//! The metadata of a secret.

use crate::{Description, KekId, Place, Realm, SecretId, SecretName, Status, Tags, Timestamp, Version};

/// The metadata of one version of a secret, never its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    /// The secret's id.
    pub id: SecretId,
    /// Owner, realm and name.
    pub place: Place,
    /// The description, possibly empty.
    pub description: Description,
    /// The tags, possibly none.
    pub tags: Tags,
    /// The status of this version.
    pub status: Status,
    /// The number of this version.
    pub version: Version,
    /// When the secret was created.
    pub created_at: Timestamp,
    /// When its value or metadata last changed.
    pub updated_at: Timestamp,
    /// When it was last rotated. `None` if never.
    pub rotated_at: Option<Timestamp>,
    /// When this version stops being readable. `None` for the active one.
    pub expires_at: Option<Timestamp>,
    /// The KEK that wraps this version's DEK.
    pub kek_id: KekId,
}

/// A position in a list, which is ordered by it: that of the last secret of a page. The next page begins after it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PageCursor {
    /// Its realm.
    pub realm: Realm,
    /// Its name.
    pub name: SecretName,
    /// Its version.
    pub version: Version,
}

impl PageCursor {
    /// The position of `secret`.
    pub fn of(secret: &Secret) -> Self {
        let Place { realm, name, .. } = &secret.place;
        Self { realm: realm.clone(), name: name.clone(), version: secret.version }
    }
}
