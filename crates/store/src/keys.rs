//! API keys.

use std::sync::Arc;

use agentrouter_model::{ApiKeyId, ApiKeyRecord, Timestamp};
use async_trait::async_trait;

use crate::{ExaminedKey, RowTags, StoreError};

/// Reads and writes of API keys. The only change of a key is its revocation, and a revoked key stays.
#[async_trait]
pub trait Keys: Send + Sync {
    /// Authenticates rows by `tags` from now on. Every write of an API key revises the key manifest in its transaction, and
    /// every write of a secret writes the tags of its rows. Every read refuses a row that is not authentic with
    /// [`StoreError::Corrupt`]. Called once, before the store is served. A second call does nothing.
    fn attach_tags(&self, tags: Arc<dyn RowTags>);

    /// The key manifest as it is stored. See [`row_tags`](crate::row_tags).
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn key_manifest(&self) -> Result<Option<String>, StoreError>;

    /// Writes the tags of all rows of secrets and versions as they are, and then a key manifest that says so. A store without
    /// a manifest gets one of all keys as they are. Rows that do not parse are left out. The store can be used meanwhile.
    /// Returns false, and authenticates nothing, while a server of an older program is registered, which would write rows
    /// without tags.
    ///
    /// # Errors
    /// As any write; [`StoreError::KeyManifest`] when the present manifest cannot be used.
    async fn authenticate_rows(&self) -> Result<bool, StoreError>;

    /// Stores a new API key.
    ///
    /// # Errors
    /// [`StoreError::Exists`] for an id that is taken; [`StoreError::KeyManifest`]; else as any write.
    async fn insert_key(&self, record: &ApiKeyRecord) -> Result<(), StoreError>;

    /// Stores a new API key if the store has no key yet, not even a revoked one. Returns whether it was stored. Of
    /// several concurrent callers, in any number of processes, one succeeds.
    ///
    /// # Errors
    /// [`StoreError::KeyManifest`], else as any write.
    async fn insert_first_key(&self, record: &ApiKeyRecord) -> Result<bool, StoreError>;

    /// The API key of that id.
    ///
    /// # Errors
    /// When the store cannot be read, or the row does not parse or is not authentic. A key with an unknown scope or a
    /// broken realm is refused as a whole.
    async fn key(&self, id: &ApiKeyId) -> Result<Option<ApiKeyRecord>, StoreError>;

    /// Every API key, the oldest first, revoked and expired ones too.
    ///
    /// # Errors
    /// As [`Keys::key`]. One damaged key fails the list.
    async fn keys(&self) -> Result<Vec<ApiKeyRecord>, StoreError>;

    /// As [`Keys::keys`], but a key that does not parse or is not authentic is named, after the others.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn examine_keys(&self) -> Result<Vec<ExaminedKey>, StoreError>;

    /// Whether there is any API key, revoked and damaged ones included.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn has_keys(&self) -> Result<bool, StoreError>;

    /// Revokes an API key and returns it. A key that is revoked keeps its earlier time of revocation. None if there is
    /// no such key.
    ///
    /// # Errors
    /// As any write.
    async fn revoke_key(&self, id: &ApiKeyId, now: Timestamp) -> Result<Option<ApiKeyRecord>, StoreError>;

    /// Revokes an API key without reading it: for one whose row does not parse. Returns whether there is one.
    ///
    /// # Errors
    /// As any write.
    async fn revoke_unread(&self, id: &ApiKeyId, now: Timestamp) -> Result<bool, StoreError>;
}
