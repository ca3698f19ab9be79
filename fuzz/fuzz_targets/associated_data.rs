//! The associated data (AAD) of values, DEKs and internal keys: different contexts have different bytes.
//!
//! * `0` two contexts, six lines: owner, realm, name, owner, realm, name.
//! * `1` two purposes of internal keys, two lines.
#![no_main]

use agentrouter_crypto::fuzzing::{data_aad, internal_aad, wrap_aad};
use agentrouter_fuzz::{FixedClock, FixedRng, select, text};
use agentrouter_model::{KekId, Owner, Place, Realm, SecretId, SecretName, Slot, Version};
use libfuzzer_sys::fuzz_target;

fn place<'a>(mut lines: impl Iterator<Item = &'a str>) -> Option<Place> {
    Some(Place {
        owner: Owner::parse(lines.next()?).ok()?,
        realm: Realm::parse(lines.next()?).ok()?,
        name: SecretName::parse(lines.next()?).ok()?,
    })
}

fuzz_target!(|input: &[u8]| {
    let kek = KekId::parse("kek-0001").expect("an id");
    match select(input) {
        Some((b'0', rest)) => {
            let mut lines = text(rest).split('\n');
            let (Some(one), Some(other)) = (place(lines.by_ref()), place(lines.by_ref())) else { return };
            let id = SecretId::generate(&FixedClock, &FixedRng).expect("an id");
            let slot = |place| Slot { place, id, version: Version::FIRST };
            assert_eq!(data_aad(slot(&one)) == data_aad(slot(&other)), one == other);
            assert_eq!(wrap_aad(slot(&one), &kek) == wrap_aad(slot(&other), &kek), one == other);
            assert_ne!(data_aad(slot(&one)), wrap_aad(slot(&one), &kek));
        }
        Some((b'1', rest)) => {
            let Some((one, other)) = text(rest).split_once('\n') else { return };
            assert_eq!(internal_aad(one, &kek) == internal_aad(other, &kek), one == other);
        }
        _ => {}
    }
});
