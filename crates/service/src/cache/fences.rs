//! The fences of a cache: the places or keys that are being written.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The number of fences around each key, and around all keys.
pub(super) struct Fences<K>(Mutex<(HashMap<K, usize>, usize)>);

impl<K> Default for Fences<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash + Clone> Fences<K> {
    /// Raises a fence around `key`, or around all keys.
    pub(super) fn raise(&self, key: Option<&K>) {
        let (counts, all) = &mut *self.lock();
        *key.map_or(all, |key| counts.entry(key.clone()).or_default()) += 1;
    }

    pub(super) fn lift(&self, key: Option<&K>) {
        let (counts, all) = &mut *self.lock();
        let Some(key) = key else {
            *all = all.saturating_sub(1);
            return;
        };
        if let Some(count) = counts.get_mut(key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(key);
            }
        }
    }

    pub(super) fn stand(&self, key: &K) -> bool {
        let (counts, all) = &*self.lock();
        *all > 0 || counts.contains_key(key)
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        let (counts, all) = &*self.lock();
        counts.len() + all
    }

    fn lock(&self) -> MutexGuard<'_, (HashMap<K, usize>, usize)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
