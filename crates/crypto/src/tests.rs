//! Test fixtures of this crate: rows, keys, and deterministic generators.

use std::sync::atomic::{AtomicU64, Ordering};

use agentrouter_model::{
    Clock, KekId, Owner, Place, Realm, Rng, RngError, SecretId, SecretName, SecretValue, Slot, Timestamp,
    Version,
};
use proptest::prelude::*;
use zeroize::Zeroizing;

use crate::Kek;

/// A KEK of one byte repeated.
pub(crate) fn kek(id: &str, byte: u8) -> Kek {
    Kek::from_bytes(KekId::parse(id).expect("a KEK id"), Zeroizing::new([byte; 32]))
}

/// A generator of SHA-256 of a counter: no block repeats, and every run has the same.
#[derive(Default)]
pub(crate) struct Counting(AtomicU64);

impl Rng for Counting {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), RngError> {
        for chunk in bytes.chunks_mut(32) {
            let count = self.0.fetch_add(1, Ordering::Relaxed);
            chunk.copy_from_slice(&crate::hazmat::sha256(&count.to_be_bytes())[..chunk.len()]);
        }
        Ok(())
    }
}

/// A generator that fails after `left` fills.
pub(crate) struct FailingAfter {
    left: AtomicU64,
    rng: Counting,
}

impl FailingAfter {
    pub(crate) fn new(left: u64) -> Self {
        Self { left: left.into(), rng: Counting::default() }
    }
}

impl Rng for FailingAfter {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), RngError> {
        if self.left.load(Ordering::Relaxed) == 0 {
            return Err(RngError);
        }
        self.left.fetch_sub(1, Ordering::Relaxed);
        self.rng.fill(bytes)
    }
}

/// A generator that always returns the same byte.
pub(crate) struct Stuck(pub(crate) u8);

impl Rng for Stuck {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), RngError> {
        bytes.fill(self.0);
        Ok(())
    }
}

/// A secret value.
pub(crate) fn value(text: &str) -> SecretValue {
    SecretValue::parse(text.to_owned()).expect("a value")
}

/// The slot of one version, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) place: Place,
    pub(crate) id: SecretId,
    pub(crate) version: Version,
}

impl Row {
    pub(crate) fn new(owner: &str, realm: &str, name: &str, id: u64, version: i32) -> Self {
        struct Fixed(u64);
        impl Clock for Fixed {
            fn now(&self) -> Timestamp {
                Timestamp::from_micros(0)
            }
        }
        impl Rng for Fixed {
            fn fill(&self, bytes: &mut [u8]) -> Result<(), RngError> {
                bytes.fill(0);
                bytes[2..].copy_from_slice(&self.0.to_be_bytes());
                Ok(())
            }
        }
        Self {
            place: Place {
                owner: Owner::parse(owner).expect("an owner"),
                realm: Realm::parse(realm).expect("a realm"),
                name: SecretName::parse(name).expect("a name"),
            },
            id: SecretId::generate(&Fixed(id), &Fixed(id)).expect("an id"),
            version: Version::new(version).expect("a version"),
        }
    }

    pub(crate) fn slot(&self) -> Slot<'_> {
        Slot { place: &self.place, id: self.id, version: self.version }
    }
}

/// Any row.
pub(crate) fn row() -> impl Strategy<Value = Row> {
    (
        prop_oneof![Just("system".to_owned()), "[A-Za-z0-9._@:+-]{1,40}"],
        "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?",
        "[A-Za-z0-9]([A-Za-z0-9_-]{0,40}[A-Za-z0-9])?",
        any::<u64>(),
        1..=i32::MAX,
    )
        .prop_map(|(owner, realm, name, id, version)| Row::new(&owner, &realm, &name, id, version))
}

/// Two rows from a small alphabet, so that they often differ in one field only, or not at all.
pub(crate) fn near_rows() -> impl Strategy<Value = (Row, Row)> {
    let near = || {
        ("a{1,2}", "a{1,2}", "a{1,2}", 0_u64..2, 1..=2)
            .prop_map(|(owner, realm, name, id, version)| Row::new(&owner, &realm, &name, id, version))
    };
    (near(), near())
}
