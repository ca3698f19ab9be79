//! Secrets: versions by address, pages of metadata, and the writes.

use agentrouter_model::{Place, Secret, Timestamp, Version};
use async_trait::async_trait;

use crate::{Examined, ListPage, ListQuery, Rotation, StoreError, Stored, Upsert, WriteError};

/// Reads and writes of secrets. What a write does is decided by [`decide`](crate::decide::decide), in every engine.
#[async_trait]
pub trait Secrets: Send + Sync {
    /// The active version of the secret at `place`.
    ///
    /// # Errors
    /// When the store cannot be read, or the row does not parse or is not authentic (see [`row_tags`](crate::row_tags)).
    async fn active(&self, place: &Place) -> Result<Option<Stored>, StoreError>;

    /// One version of the secret at `place`, in any status.
    ///
    /// # Errors
    /// As [`Secrets::active`].
    async fn version(&self, place: &Place, version: Version) -> Result<Option<Stored>, StoreError>;

    /// The versions that can be opened at `now`, by number: pending ones first, the active one last. Read from the
    /// storage itself, not from any cache of the engine. Empty when there is no such secret.
    ///
    /// # Errors
    /// As [`Secrets::active`].
    async fn readable(&self, place: &Place, now: Timestamp) -> Result<Vec<Stored>, StoreError>;

    /// The same versions in pages of at most `limit`, the newest first: the active one, then the pending ones. A page
    /// after another begins below the number `before`. A version that does not parse or is not authentic is named and does
    /// not hide the others.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn examine(
        &self,
        place: &Place,
        now: Timestamp,
        before: Option<Version>,
        limit: u32,
    ) -> Result<Vec<Examined>, StoreError>;

    /// A page of metadata. A walk over pages during concurrent writes shows every row that exists throughout, and no
    /// row twice. A secret that is rotated during the walk is not shown again in a list of active versions. A row that
    /// does not parse or is not authentic is left out and counted in [`Stats::damaged`](crate::Stats::damaged).
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn list(&self, query: &ListQuery) -> Result<ListPage, StoreError>;

    /// Creates the secret, or changes it where there is one. A new value becomes the next version and active. The
    /// version that it replaces is retired at once and its ciphertext destroyed; pending versions stay. A field with an
    /// equal value is no change, and a change of nothing leaves `updated_at` as it is. Returns the active version
    /// afterwards.
    ///
    /// # Errors
    /// [`WriteError`], but not `NotFound`. A wrong `expected_version` is found before a missing value.
    async fn upsert(&self, change: Upsert) -> Result<Secret, WriteError>;

    /// Makes the new value the active version, and the present one pending until `expires_at`. Returns the new active
    /// version.
    ///
    /// # Errors
    /// [`WriteError`], but not `ValueNeeded`.
    async fn rotate(&self, change: Rotation) -> Result<Secret, WriteError>;

    /// Deletes the secret with all its versions. Returns its active version as it was, or none if there was no such
    /// secret. The place can be used again at once.
    ///
    /// # Errors
    /// Only [`WriteError::Store`].
    async fn delete(&self, place: &Place) -> Result<Option<Secret>, WriteError>;

    /// Deletes the secret as [`Secrets::delete`] does, without reading it: for one whose row does not parse or is not
    /// authentic. Returns whether there was one.
    ///
    /// # Errors
    /// Only [`WriteError::Store`].
    async fn purge(&self, place: &Place) -> Result<bool, WriteError>;

    /// Whether there is any secret, damaged ones included.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn has_secrets(&self) -> Result<bool, StoreError>;

    /// Retires pending versions whose grace was over by `now` and destroys their ciphertext: at most `limit` of them,
    /// the longest due first. Returns when the next one is due, which is not after `now` if some were left over; none
    /// if no version is pending. The row of a version that was not authentic has no tag afterwards.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    async fn retire_expired(&self, now: Timestamp, limit: u32) -> Result<Option<Timestamp>, StoreError>;
}
