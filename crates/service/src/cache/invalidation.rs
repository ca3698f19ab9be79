//! Invalidation of the caches by the store, for stores that other processes write too.

use agentrouter_lease::{Caches, Target};

use crate::Service;

impl Caches for Service {
    fn fence(&self, target: &Target) {
        match target {
            Target::Place(place) => self.rows.raise(Some(place)),
            Target::Key(digest) => self.keys.raise(Some(digest)),
            Target::Everything => {
                self.rows.raise(None);
                self.keys.raise(None);
            }
        }
    }

    fn lift(&self, target: &Target) {
        match target {
            Target::Place(place) => self.rows.lift(Some(place)),
            Target::Key(digest) => {
                self.keys.lift(Some(digest));
                self.keys_changed.notify_one();
            }
            Target::Everything => {
                self.rows.lift(None);
                self.keys.lift(None);
                self.keys_changed.notify_one();
            }
        }
    }

    fn forget(&self) {
        self.rows.clear();
        self.keys.clear();
    }
}
