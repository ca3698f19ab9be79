//! Where a secret stands.

use crate::{Owner, Realm, SecretId, SecretName, Version};

/// Where a secret stands: the key of every query and of the cache. One secret at most per place.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// Whose it is.
    pub owner: Owner,
    /// In which realm.
    pub realm: Realm,
    /// Under which name.
    pub name: SecretName,
}

/// Where one version of a secret stands: what its ciphertext is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot<'a> {
    /// Owner, realm and name.
    pub place: &'a Place,
    /// The secret's id; a secret deleted and made anew has another.
    pub id: SecretId,
    /// The version.
    pub version: Version,
}
