//! The cache of a simulated node. It follows the rules of the service's cache: no row is cached behind a fence, and no
//! row is cached if its fence was raised during its load.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::database::{Value, target};
use crate::{Caches, Target};

#[derive(Default)]
struct CachedRows {
    /// Value and generation.
    rows: HashMap<usize, (u64, u64)>,
    /// The load that may insert a row, by place.
    loading: HashMap<usize, u64>,
    fences: HashMap<Option<usize>, usize>,
    loads: u64,
}

#[derive(Default)]
pub(super) struct Cache(Mutex<CachedRows>);

impl Cache {
    pub(super) fn get(&self, place: usize) -> Option<(u64, u64)> {
        self.lock().rows.get(&place).copied()
    }

    pub(super) fn drop_row(&self, place: usize) {
        self.lock().rows.remove(&place);
    }

    /// Begins a load and returns its number. [`Cache::keep`] takes that number.
    pub(super) fn begin(&self, place: usize) -> u64 {
        let mut inner = self.lock();
        inner.loads += 1;
        let load = inner.loads;
        inner.loading.insert(place, load);
        load
    }

    pub(super) fn is_fenced(&self, place: usize) -> bool {
        let inner = self.lock();
        [None, Some(place)].iter().any(|place| inner.fences.contains_key(place))
    }

    /// Caches a row if no fence was raised during its load, or if `always`.
    pub(super) fn keep(&self, place: usize, load: u64, value: Value, generation: u64, always: bool) {
        let mut inner = self.lock();
        let current = inner.loading.get(&place) == Some(&load);
        if current {
            inner.loading.remove(&place);
        }
        if let (true, Some(value)) = (current || always, value) {
            inner.rows.insert(place, (value, generation));
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, CachedRows> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn place_of(wanted: &Target) -> Option<usize> {
    match wanted {
        Target::Key(digest) => Some(usize::from(digest[0])),
        other => {
            assert_eq!(*other, target(None));
            None
        }
    }
}

impl Caches for Cache {
    fn fence(&self, target: &Target) {
        let place = place_of(target);
        let mut inner = self.lock();
        *inner.fences.entry(place).or_default() += 1;
        match place {
            Some(place) => {
                inner.rows.remove(&place);
                inner.loading.remove(&place);
            }
            None => {
                inner.rows.clear();
                inner.loading.clear();
            }
        }
    }

    fn lift(&self, target: &Target) {
        let place = place_of(target);
        let mut inner = self.lock();
        let count = inner.fences.get_mut(&place).expect("a fence stands");
        *count -= 1;
        if *count == 0 {
            inner.fences.remove(&place);
        }
    }

    fn forget(&self) {
        let mut inner = self.lock();
        inner.rows.clear();
        inner.loading.clear();
    }
}
