//! The address of a secret and of one of its versions.

use crate::{Owner, Realm, SecretId, SecretName, Version};

/// A secret's address. It is the key of every query and of the cache. A place holds at most one secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The owner.
    pub owner: Owner,
    /// The realm.
    pub realm: Realm,
    /// The name.
    pub name: SecretName,
}

/// The address of one version of a secret. Its ciphertext is bound to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot<'a> {
    /// Owner, realm and name.
    pub place: &'a Place,
    /// The secret's id. A secret that is deleted and created again has another.
    pub id: SecretId,
    /// The version.
    pub version: Version,
}
