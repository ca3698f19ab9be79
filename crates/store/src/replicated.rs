//! Stores that several servers write at once: the running servers, and the invalidation of their caches.

use std::sync::{Arc, Weak};

use agentrouter_lease::{Caches, Gate, LeaseStats};
use async_trait::async_trait;

use crate::StoreError;

/// The other writers of a store. The defaults are right for a store that one process alone writes.
#[async_trait]
pub trait Replicated: Send + Sync {
    /// The names of the other processes that serve this store now. Watches their renewals for two seconds. Empty where
    /// a lock excludes other processes.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn servers(&self) -> Result<Vec<String>, StoreError> {
        Ok(Vec::new())
    }

    /// The gate that a cache checks before it serves a row. Always open where no other process writes the store.
    fn gate(&self) -> Arc<Gate> {
        Arc::new(Gate::always())
    }

    /// Attaches `caches`: from now on they may cache rows that the gate admits, and they are notified of changes by
    /// other processes. Called by servers. Does nothing where no other process writes the store.
    fn attach(&self, caches: Weak<dyn Caches>) {
        drop(caches);
    }

    /// The lease under which rows are served from caches. None where no other process writes the store.
    fn lease(&self) -> Option<LeaseStats> {
        None
    }
}
