//! The KEKs that the service uses at the moment. They can be replaced, and dropped while the root key is denied.
//!
//! A request takes the keyring when it needs one, so a request in progress completes with the former keyring. Without a
//! keyring, no value is opened, sealed or validated: the response is `KEK_UNAVAILABLE`. Metadata and deletions need none. The
//! service's own keys stay in memory, because the audit log must record every refusal.

use std::sync::Arc;

use agentrouter_crypto::Kek;
use agentrouter_keyring::Keyring;
use arc_swap::ArcSwapOption;

use crate::Service;

/// The current keyring. `None` while it is dropped.
#[derive(Clone)]
pub(crate) struct Keks(Arc<ArcSwapOption<Keyring>>);

impl Keks {
    pub(crate) fn new(keyring: Keyring) -> Self {
        Self(Arc::new(ArcSwapOption::from_pointee(keyring)))
    }

    /// The active KEK. `None` while the KEKs are dropped.
    pub(crate) fn active(&self) -> Option<Arc<Kek>> {
        self.0.load().as_ref().map(|keyring| Arc::clone(keyring.active()))
    }
}

impl Service {
    /// The current keyring. `None` while the KEKs are dropped.
    pub fn keyring(&self) -> Option<Arc<Keyring>> {
        self.keks.0.load_full()
    }

    /// Whether the service has its KEKs.
    pub fn has_keks(&self) -> bool {
        self.keks.0.load().is_some()
    }

    /// Replaces the keyring. The caller has checked it against the store (`check_keks`).
    pub fn use_keyring(&self, keyring: Keyring) {
        if self.keks.0.swap(Some(Arc::new(keyring))).is_none() {
            // Rows that were cached without a keyring have no unwrapped key.
            self.rows.clear();
        }
    }

    /// Puts what `change` makes of the current keyring in its place, unless the KEKs are dropped. Calls `change` again if the
    /// keyring was replaced meanwhile.
    pub(crate) fn change_keyring(&self, change: impl Fn(&Keyring) -> Option<Keyring>) {
        while let Some(present) = self.keyring() {
            let Some(changed) = change(&present) else { return };
            let former = self.keks.0.compare_and_swap(&present, Some(Arc::new(changed)));
            if former.as_ref().is_some_and(|former| Arc::ptr_eq(former, &present)) {
                return;
            }
        }
    }

    /// Drops the KEKs and every key in the cache that they unwrapped. No request that begins after this opens a value.
    pub fn drop_keks(&self) {
        self.keks.0.store(None);
        // In this order: a row that is being loaded has a placeholder, which this removes, so it is not cached late.
        self.rows.clear();
    }
}
