//! Storage traits: the interface between the service and a storage engine.
//!
//! [`Store`] is all that the service knows of storage. Its parts are split by use: [`Secrets`], [`Keys`], [`Facts`],
//! [`Portable`] (export and import), [`Replicated`] (several servers over one store) and [`WrappedKeys`] (change of the
//! KEK). Each call is one transaction.
//! Values arrive and leave sealed; this crate holds no key and opens nothing. Policy (who may, what a name may be, how
//! long grace is) lives in the service, and every argument is parsed. The engines are the crates `sqlite` and
//! `postgres`.
//!
//! What every engine promises:
//!
//! 1. A write that returned `Ok` is durable, and every read that begins afterwards sees it. A write that returned `Err`
//!    had no effect, except for [`StoreError::OutcomeUnknown`].
//! 2. One secret per place, one active version per secret, and no version number twice under one secret id.
//! 3. What is read back parses, or is [`StoreError::Corrupt`].
//! 4. What a write does is what [`decide`](decide::decide) says.
//!
//! Deliberately absent: SQL, plaintext, clocks (the present is an argument), scans of the whole store and queries without
//! an owner and a realm (except for a change of the KEK), and anything particular to one engine.

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod decide;
mod error;
mod facts;
pub mod files;
pub mod json;
mod keys;
mod lock;
pub mod portable;
mod replicated;
pub mod row_tags;
mod secrets;
mod types;
pub mod wrapped_keys;

use async_trait::async_trait;

pub use error::{Cause, SealError, StoreError, WriteError};
pub use facts::{AuditHead, Facts, WrappedKey, same_check};
pub use keys::Keys;
pub use lock::Lock;
pub use portable::Portable;
pub use replicated::Replicated;
pub use row_tags::RowTags;
pub use secrets::Secrets;
pub use types::{
    Examined, ExaminedKey, Inspection, ListPage, ListQuery, ListScope, Realms, Rotation, Sealer, State,
    Stats, StatusFilter, Stored, Upsert,
};
pub use wrapped_keys::WrappedKeys;

/// The traits, for callers of a concrete engine: `use agentrouter_store::prelude::*`. Callers of `dyn Store` need none.
pub mod prelude {
    pub use crate::{
        Facts as _, Keys as _, Portable as _, Replicated as _, Secrets as _, Store as _, WrappedKeys as _,
    };
}

/// A store, held as `Arc<dyn Store>`.
///
/// Dropping the future of a write does not undo the write: once it is queued it runs to completion.
#[async_trait]
pub trait Store: Secrets + Keys + Facts + Portable + Replicated + WrappedKeys + 'static {
    /// Health check: whether the store can be written now, determined by a write. The result may be a second old. The
    /// call waits as long as a write would, so the caller sets its own limit. An engine that several servers share
    /// tolerates failures of a few seconds, so that a short outage does not take all of them out of service at once.
    ///
    /// # Errors
    /// The error that a write would get.
    async fn check(&self) -> Result<(), StoreError>;

    /// Counters for metrics.
    fn stats(&self) -> Stats;

    /// Closes the store: queued writes are committed, and everything is refused from this call on. A second call does
    /// nothing.
    async fn close(&self);
}
