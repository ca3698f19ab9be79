//! Facts: check values of KEKs, the service's own wrapped keys, the head of the audit log.

use agentrouter_model::KekId;
use async_trait::async_trait;

use crate::StoreError;

/// One of the service's own keys, wrapped, and the KEK that wraps it.
pub type WrappedKey = (KekId, Box<[u8]>);

/// The number of an audit record, and the bytes by which the audit log authenticates it.
pub type AuditHead = (u64, [u8; 32]);

/// Reads and writes of the few facts that the service stores about itself.
#[async_trait]
pub trait Facts: Send + Sync {
    /// The check value of every KEK that ever wrapped anything here and is not retired, by id.
    ///
    /// # Errors
    /// When the store cannot be read, or a row does not parse.
    async fn kek_checks(&self) -> Result<Vec<(KekId, [u8; 32])>, StoreError>;

    /// Stores the check value of a KEK. An equal one is no error.
    ///
    /// # Errors
    /// [`StoreError::Exists`] when the id has another check value, else as any write.
    async fn insert_kek_check(&self, id: &KekId, check: &[u8; 32]) -> Result<(), StoreError>;

    /// The service's own key for `purpose`.
    ///
    /// # Errors
    /// As [`Facts::kek_checks`].
    async fn internal_key(&self, purpose: &str) -> Result<Option<WrappedKey>, StoreError>;

    /// Stores a wrapped key for `purpose` unless there is one. Returns the one that is there afterwards.
    ///
    /// # Errors
    /// As any write.
    async fn insert_internal_key(
        &self,
        purpose: &str,
        kek: &KekId,
        wrapped: &[u8],
    ) -> Result<WrappedKey, StoreError>;

    /// The last audit record that was stored here.
    ///
    /// # Errors
    /// As [`Facts::kek_checks`].
    async fn audit_head(&self) -> Result<Option<AuditHead>, StoreError>;

    /// Stores the last audit record, in place of the one before.
    ///
    /// # Errors
    /// As any write.
    async fn set_audit_head(&self, head: AuditHead) -> Result<(), StoreError>;
}

/// Whether `check` may be stored as the check value of a KEK that has `present`.
///
/// # Errors
/// [`StoreError::Exists`] when they differ.
pub fn same_check(present: &[u8; 32], check: &[u8; 32]) -> Result<(), StoreError> {
    if present == check { Ok(()) } else { Err(StoreError::Exists("another KEK")) }
}
