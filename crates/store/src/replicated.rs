//! Stores that several servers write at once: who they are, and what keeps their caches fresh.

use std::sync::{Arc, Weak};

use agentrouter_lease::{Caches, Gate, LeaseStats};
use async_trait::async_trait;

use crate::StoreError;

/// The other writers of a store. The defaults are right for a store that one process alone writes.
#[async_trait]
pub trait Replicated: Send + Sync {
    /// The other processes that serve this store now, by a name for people each. Watches for signs of life for two
    /// seconds. Empty where a lock keeps others out.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn servers(&self) -> Result<Vec<String>, StoreError> {
        Ok(Vec::new())
    }

    /// What a cache checks before it serves a row. Always open where no other process writes the store.
    fn gate(&self) -> Arc<Gate> {
        Arc::new(Gate::always())
    }

    /// From this call on `caches` may keep rows, as far as the gate admits, and is notified of changes that others make.
    /// Called by servers; nothing is cached before. Does nothing where no other process writes the store.
    fn attach(&self, caches: Weak<dyn Caches>) {
        drop(caches);
    }

    /// The lease under which rows are served from caches. None where no other process writes the store.
    fn lease(&self) -> Option<LeaseStats> {
        None
    }
}
