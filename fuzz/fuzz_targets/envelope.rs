//! Envelopes: a sealed value and a wrapped DEK as stored.
//!
//! * `0` two length bytes, the wrapped DEK, the sealed value: nothing that was not sealed opens.
//! * `1` offset, mask: an envelope with one changed byte does not open, and the unchanged one does.
#![no_main]

use std::sync::LazyLock;

use agentrouter_crypto::{Kek, open, seal};
use agentrouter_fuzz::{FixedClock, FixedRng, select};
use agentrouter_model::{
    Envelope, KekId, Owner, Place, Realm, SecretId, SecretName, SecretValue, Slot, Version,
};
use libfuzzer_sys::fuzz_target;

static KEK: LazyLock<Kek> =
    LazyLock::new(|| Kek::generate(KekId::parse("kek-0001").expect("an id"), &FixedRng).expect("a KEK"));
static PLACE: LazyLock<Place> = LazyLock::new(|| Place {
    owner: Owner::parse("alice").expect("a user"),
    realm: Realm::parse("default").expect("a realm"),
    name: SecretName::parse("openai-api-key").expect("a name"),
});

fuzz_target!(|input: &[u8]| {
    let slot = Slot {
        place: &PLACE,
        id: SecretId::generate(&FixedClock, &FixedRng).expect("an id"),
        version: Version::FIRST,
    };
    match select(input) {
        Some((b'0', [high, low, rest @ ..])) => {
            let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
            let (wrapped, sealed) = rest.split_at(length);
            let envelope =
                Envelope { kek_id: KEK.id().clone(), wrapped_dek: wrapped.into(), sealed: sealed.into() };
            assert!(open(&KEK, slot, &envelope).is_err(), "a forged envelope opens");
        }
        Some((b'1', [high, low, mask, ..])) => {
            let value = SecretValue::parse("sk-example".to_owned()).expect("a value");
            let mut envelope = seal(&FixedRng, &KEK, slot, &value).expect("sealed");
            assert_eq!(open(&KEK, slot, &envelope).expect("opened").expose(), "sk-example");
            let at = usize::from(u16::from_be_bytes([*high, *low]));
            let parts = envelope.wrapped_dek.len() + envelope.sealed.len();
            let at = at % parts;
            let byte = match at.checked_sub(envelope.wrapped_dek.len()) {
                None => &mut envelope.wrapped_dek[at],
                Some(at) => &mut envelope.sealed[at],
            };
            *byte ^= mask;
            assert_eq!(open(&KEK, slot, &envelope).is_ok(), *mask == 0);
        }
        _ => {}
    }
});
