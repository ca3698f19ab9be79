//! Interner for the texts that cached rows have in common.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, PoisonError};

use agentrouter_model::{Description, KekId, Owner, Place, Realm, Secret, Tags};

/// The number of slots for each kind of text.
const RECENT: usize = 64;

/// The texts of recently loaded rows. Rows loaded later share them: 10,000 rows of one user hold one copy of everything
/// but the names. Only a load calls it, never a cache hit.
#[derive(Default)]
pub(super) struct Interner(Mutex<Texts>);

#[derive(Default)]
struct Texts {
    owners: Recent<Owner>,
    realms: Recent<Realm>,
    descriptions: Recent<Description>,
    tags: Recent<Tags>,
    kek_ids: Recent<KekId>,
}

impl Interner {
    /// The same place with shared owner and realm.
    pub(super) fn place(&self, place: &Place) -> Place {
        let texts = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Place {
            owner: texts.owners.share(&place.owner),
            realm: texts.realms.share(&place.realm),
            name: place.name.clone(),
        }
    }

    /// Replaces the texts of `secret`, which is at `place`, by shared ones.
    pub(super) fn share(&self, place: &Place, secret: &mut Secret) {
        let texts = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if secret.place == *place {
            secret.place.clone_from(place);
        }
        secret.description = texts.descriptions.share(&secret.description);
        secret.tags = texts.tags.share(&secret.tags);
        secret.kek_id = texts.kek_ids.share(&secret.kek_id);
    }
}

/// Recent values in a direct-mapped table: a value evicts the one in its slot. So the memory is bounded, and many different
/// values at worst share nothing.
struct Recent<T> {
    slots: [Option<T>; RECENT],
    hasher: RandomState,
}

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self { slots: std::array::from_fn(|_| None), hasher: RandomState::new() }
    }
}

impl<T: Clone + Eq + Hash> Recent<T> {
    /// The stored equal value, or a clone of this one, which is stored then.
    fn share(&mut self, value: &T) -> T {
        #[expect(clippy::cast_possible_truncation, reason = "a slot's number")]
        let slot = &mut self.slots[self.hasher.hash_one(value) as usize % RECENT];
        match slot {
            Some(same) if same == value => same.clone(),
            _ => slot.insert(value.clone()).clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_equal_text_is_shared_and_another_is_not_mistaken_for_it() {
        let mut recent = Recent::default();
        for number in (0..1000).chain(0..1000) {
            let text = format!("owner-{number}");
            let [first, second] = [(); 2].map(|()| recent.share(&Owner::parse(&text).expect("an owner")));
            assert_eq!(first.as_str(), text);
            assert!(std::ptr::eq(first.as_str(), second.as_str()), "{text}");
        }
    }
}
