use agentrouter_model::KekId;
use proptest::prelude::*;

use super::*;
use crate::SystemRng;
use crate::tests::{Counting, FailingAfter, Row, kek, near_rows, row, value};

fn sealed_row() -> (Kek, Row, Envelope) {
    let (kek, row) = (kek("kek-1", 1), Row::new("alice", "mcp", "token", 1, 1));
    let envelope = seal(&Counting::default(), &kek, row.slot(), &value("sk-canary")).expect("seals");
    (kek, row, envelope)
}

fn flipped(bytes: &[u8], bit: usize) -> Box<[u8]> {
    let mut changed: Box<[u8]> = bytes.into();
    changed[bit / 8] ^= 1 << (bit % 8);
    changed
}

/// The error for a flipped bit. The first 16 bits are format and algorithm.
fn error_of(bit: usize) -> CryptoError {
    if bit < 16 { CryptoError::UnknownFormat } else { CryptoError::Corrupt }
}

#[test]
fn a_value_of_any_allowed_size_comes_back() {
    let (kek, row) = (kek("kek-1", 1), Row::new("system", "llm-keys", "openai", 1, 1));
    for text in ["x".into(), "pä$$\0\n".to_owned(), "y".repeat(65535), "z".repeat(65536)] {
        let envelope = seal(&SystemRng, &kek, row.slot(), &value(&text)).expect("seals");
        assert_eq!(open(&kek, row.slot(), &envelope).expect("opens").expose(), text);
        assert_eq!(envelope.kek_id, *kek.id());
        assert_eq!(envelope.wrapped_dek.len(), 94);
        assert_eq!(envelope.sealed.len(), text.len() + 94);
    }
}

#[test]
fn the_envelope_does_not_contain_the_value() {
    let (_, _, envelope) = sealed_row();
    assert!(!envelope.sealed.windows(4).any(|window| window == b"sk-c"));
}

#[test]
fn an_envelope_with_a_flipped_bit_does_not_open() {
    let (kek, row, envelope) = sealed_row();
    for bit in 0..envelope.wrapped_dek.len() * 8 {
        let changed = Envelope { wrapped_dek: flipped(&envelope.wrapped_dek, bit), ..envelope.clone() };
        assert_eq!(open(&kek, row.slot(), &changed).err(), Some(error_of(bit)), "wrapped bit {bit}");
    }
    for bit in 0..envelope.sealed.len() * 8 {
        let changed = Envelope { sealed: flipped(&envelope.sealed, bit), ..envelope.clone() };
        assert_eq!(open(&kek, row.slot(), &changed).err(), Some(error_of(bit)), "sealed bit {bit}");
    }
    for bit in 0..envelope.kek_id.as_str().len() * 8 {
        let id = flipped(envelope.kek_id.as_str().as_bytes(), bit);
        let Some(kek_id) = str::from_utf8(&id).ok().and_then(|id| KekId::parse(id).ok()) else {
            continue; // not a valid id
        };
        let changed = Envelope { kek_id, ..envelope.clone() };
        assert_eq!(open(&kek, row.slot(), &changed).err(), Some(CryptoError::WrongKek), "id bit {bit}");
    }
}

#[test]
fn an_unwrapped_value_opens_in_its_slot_only() {
    let (kek, row, envelope) = sealed_row();
    let unwrapped = Unwrapped::new(&kek, row.slot(), &envelope).expect("unwraps");
    for _ in 0..2 {
        assert_eq!(unwrapped.open(row.slot()).expect("opens").expose(), "sk-canary");
    }
    assert_eq!(format!("{unwrapped:?}"), "Unwrapped(redacted)");
    let elsewhere = Row::new("bob", "mcp", "token", 1, 1);
    assert_eq!(unwrapped.open(elsewhere.slot()).err(), Some(CryptoError::Corrupt));
    assert!(Unwrapped::new(&kek, elsewhere.slot(), &envelope).is_err());
    assert_eq!(
        Unwrapped::new(&crate::tests::kek("kek-2", 1), row.slot(), &envelope).err(),
        Some(CryptoError::WrongKek)
    );
}

#[test]
fn an_envelope_with_a_flipped_bit_does_not_unwrap_and_open() {
    let (kek, row, envelope) = sealed_row();
    for bit in 0..envelope.wrapped_dek.len() * 8 {
        let changed = Envelope { wrapped_dek: flipped(&envelope.wrapped_dek, bit), ..envelope.clone() };
        let unwrapped = Unwrapped::new(&kek, row.slot(), &changed);
        assert_eq!(unwrapped.err(), Some(error_of(bit)), "wrapped bit {bit}");
    }
    for bit in 0..envelope.sealed.len() * 8 {
        let changed = Envelope { sealed: flipped(&envelope.sealed, bit), ..envelope.clone() };
        let unwrapped = Unwrapped::new(&kek, row.slot(), &changed);
        // Salt and commitment are checked when the key is derived, the other parts when the value is opened.
        let (early, late) = match unwrapped {
            Ok(unwrapped) => (None, unwrapped.open(row.slot()).err()),
            Err(error) => (Some(error), None),
        };
        let expected = Some(error_of(bit));
        assert_eq!((early, late), if bit < 66 * 8 { (expected, None) } else { (None, expected) }, "{bit}");
    }
}

#[test]
fn a_truncated_or_extended_envelope_does_not_open() {
    let (kek, row, envelope) = sealed_row();
    let cut = |bytes: &[u8]| -> Vec<Box<[u8]>> {
        let shorter = (0..bytes.len()).map(|len| bytes[..len].into());
        shorter.chain([[bytes, &[0]].concat().into()]).collect()
    };
    for wrapped_dek in cut(&envelope.wrapped_dek) {
        let changed = Envelope { wrapped_dek, ..envelope.clone() };
        assert_eq!(open(&kek, row.slot(), &changed).err(), Some(CryptoError::Corrupt));
    }
    for sealed in cut(&envelope.sealed) {
        let changed = Envelope { sealed, ..envelope.clone() };
        assert_eq!(open(&kek, row.slot(), &changed).err(), Some(CryptoError::Corrupt));
    }
}

#[test]
fn the_same_key_under_another_id_does_not_open() {
    let (_, row, envelope) = sealed_row();
    let renamed = kek("kek-2", 1);
    assert_eq!(open(&renamed, row.slot(), &envelope).err(), Some(CryptoError::WrongKek));
    let relabelled = Envelope { kek_id: renamed.id().clone(), ..envelope };
    assert_eq!(open(&renamed, row.slot(), &relabelled).err(), Some(CryptoError::Corrupt));
}

#[test]
fn another_key_under_the_same_id_does_not_open() {
    let (_, row, envelope) = sealed_row();
    assert_eq!(open(&kek("kek-1", 2), row.slot(), &envelope).err(), Some(CryptoError::Corrupt));
}

#[test]
fn authentic_bytes_that_are_not_a_value_are_corrupt() {
    let (kek, row) = (kek("kek-1", 1), Row::new("alice", "mcp", "token", 1, 1));
    for bytes in [&b"\xff\xfe"[..], b"", &[b'x'; 65537]] {
        let (rng, mut aad) = (Counting::default(), Aad::default());
        let dek = Dek::generate(&rng).expect("random");
        let wrapped_dek = wrap::wrap(&rng, &kek, &dek.0, aad.wrap(row.slot(), kek.id())).expect("wraps");
        let sealed = dek.seal(&rng, bytes, aad.data(row.slot())).expect("seals");
        let envelope = Envelope { kek_id: kek.id().clone(), wrapped_dek, sealed };
        assert_eq!(open(&kek, row.slot(), &envelope).err(), Some(CryptoError::Corrupt));
    }
}

#[test]
fn a_commitment_to_another_dek_is_refused_though_the_ciphertext_verifies() {
    let row = Row::new("alice", "mcp", "token", 1, 1);
    let (rng, mut aad) = (Counting::default(), Aad::default());
    let (dek, other) = (Dek::generate(&rng).expect("random"), Dek::generate(&rng).expect("random"));
    let same = Dek(dek.0.clone());
    let mut sealed = dek.seal(&rng, b"value", aad.data(row.slot())).expect("seals");
    let salt = sealed[2..34].to_vec();
    let commitment =
        Prk::extract(&salt, &*other.0).and_then(|prk| prk.expand(&[b"commit"])).expect("derives");
    sealed[34..66].copy_from_slice(&*commitment);
    assert_eq!(same.open(&sealed, aad.data(row.slot())).err(), Some(CryptoError::Corrupt));
}

#[test]
fn the_same_value_sealed_twice_shares_no_bytes() {
    let (kek, row) = (kek("kek-1", 1), Row::new("alice", "mcp", "token", 1, 1));
    let text = value(&"secret".repeat(10));
    let [a, b] = [(); 2].map(|()| seal(&SystemRng, &kek, row.slot(), &text).expect("seals"));
    let pieces = |envelope: &Envelope| -> Vec<Vec<u8>> {
        [&envelope.wrapped_dek[2..], &envelope.sealed[2..]]
            .iter()
            .flat_map(|bytes| bytes.chunks_exact(8).map(<[u8]>::to_vec))
            .collect()
    };
    let (a, b) = (pieces(&a), pieces(&b));
    assert!(!a.iter().any(|piece| b.contains(piece)));
}

#[test]
fn sealing_fails_if_the_random_source_fails() {
    let (kek, row) = (kek("kek-1", 1), Row::new("alice", "mcp", "token", 1, 1));
    // DEK, wrap's salt and nonce, seal's salt and nonce.
    for fills in 0..5 {
        let sealed = seal(&FailingAfter::new(fills), &kek, row.slot(), &value("v"));
        assert!(matches!(sealed, Err(CryptoError::Random(_))), "{fills}");
    }
    assert!(seal(&FailingAfter::new(5), &kek, row.slot(), &value("v")).is_ok());
    let (_, _, envelope) = sealed_row();
    for fills in 0..2 {
        let rewrapped = rewrap(&FailingAfter::new(fills), &kek, &kek, row.slot(), &envelope.wrapped_dek);
        assert!(matches!(rewrapped, Err(CryptoError::Random(_))), "{fills}");
    }
}

proptest! {
    #[test]
    fn what_is_sealed_opens_in_its_place(row in row(), text in "\\PC{1,200}") {
        let (rng, kek) = (Counting::default(), kek("kek-1", 1));
        let envelope = seal(&rng, &kek, row.slot(), &value(&text)).expect("seals");
        prop_assert_eq!(open(&kek, row.slot(), &envelope), Ok(value(&text)));
    }

    #[test]
    fn an_envelope_opens_in_no_other_slot((a, b) in near_rows()) {
        let (rng, kek) = (Counting::default(), kek("kek-1", 1));
        let envelope = seal(&rng, &kek, a.slot(), &value("v")).expect("seals");
        let opened = open(&kek, b.slot(), &envelope);
        prop_assert_eq!(opened, if a == b { Ok(value("v")) } else { Err(CryptoError::Corrupt) });
    }

    #[test]
    fn one_changed_field_of_the_slot_is_enough(row in row(), other in row(), field in 0..5) {
        let (rng, kek) = (Counting::default(), kek("kek-1", 1));
        let envelope = seal(&rng, &kek, row.slot(), &value("v")).expect("seals");
        let mut changed = row.clone();
        match field {
            0 => changed.place.owner = other.place.owner,
            1 => changed.place.realm = other.place.realm,
            2 => changed.place.name = other.place.name,
            3 => changed.id = other.id,
            _ => changed.version = other.version,
        }
        prop_assume!(changed != row);
        prop_assert_eq!(open(&kek, changed.slot(), &envelope).err(), Some(CryptoError::Corrupt));
        // The AAD of the data binds it even if an attacker could wrap the DEK for the other slot.
        let mut aad = Aad::default();
        let dek = wrap::unwrap(&kek, &envelope.wrapped_dek, aad.wrap(row.slot(), kek.id())).expect("unwraps");
        let opened = Dek(dek).open(&envelope.sealed, aad.data(changed.slot()));
        prop_assert_eq!(opened.err(), Some(CryptoError::Corrupt));
    }

    #[test]
    fn columns_of_two_rows_never_mix((a, b) in near_rows()) {
        let (rng, kek) = (Counting::default(), kek("kek-1", 1));
        let of_a = seal(&rng, &kek, a.slot(), &value("v")).expect("seals");
        let of_b = seal(&rng, &kek, b.slot(), &value("v")).expect("seals");
        for row in [&a, &b] {
            let mixed = Envelope { sealed: of_b.sealed.clone(), ..of_a.clone() };
            prop_assert!(open(&kek, row.slot(), &mixed).is_err());
            let mixed = Envelope { wrapped_dek: of_b.wrapped_dek.clone(), ..of_a.clone() };
            prop_assert!(open(&kek, row.slot(), &mixed).is_err());
            let mixed = Envelope { sealed: of_a.wrapped_dek.clone(), wrapped_dek: of_a.sealed.clone(), ..of_a.clone() };
            prop_assert!(open(&kek, row.slot(), &mixed).is_err());
        }
    }

    #[test]
    fn any_damage_is_noticed(row in row(), seed in any::<u64>(), flips in 1_usize..9) {
        let (rng, kek) = (Counting::default(), kek("kek-1", 1));
        let envelope = seal(&rng, &kek, row.slot(), &value("some value")).expect("seals");
        let mut changed = envelope.clone();
        let bits = (changed.wrapped_dek.len() + changed.sealed.len()) * 8;
        for flip in 0..flips {
            let noise = crate::hazmat::sha256(&[seed.to_be_bytes(), flip.to_be_bytes()].concat());
            let at = usize::from(u16::from_be_bytes([noise[0], noise[1]])) % bits;
            match at.checked_sub(changed.wrapped_dek.len() * 8) {
                None => changed.wrapped_dek = flipped(&changed.wrapped_dek, at),
                Some(at) => changed.sealed = flipped(&changed.sealed, at),
            }
        }
        prop_assume!(changed != envelope);
        prop_assert!(open(&kek, row.slot(), &changed).is_err());
    }

    #[test]
    fn rewrapping_leaves_the_sealed_value_alone_and_opens_under_the_new_kek_only(row in row()) {
        let (rng, from, to) = (Counting::default(), kek("kek-1", 1), kek("kek-2", 2));
        let before = seal(&rng, &from, row.slot(), &value("v")).expect("seals");
        let wrapped_dek = rewrap(&rng, &from, &to, row.slot(), &before.wrapped_dek).expect("rewraps");
        let after = Envelope { kek_id: to.id().clone(), wrapped_dek, sealed: before.sealed.clone() };
        prop_assert_eq!(open(&to, row.slot(), &after), Ok(value("v")));
        prop_assert_eq!(open(&from, row.slot(), &after).err(), Some(CryptoError::WrongKek));
        let relabelled = Envelope { kek_id: from.id().clone(), ..after };
        prop_assert_eq!(open(&from, row.slot(), &relabelled).err(), Some(CryptoError::Corrupt));
    }

    #[test]
    fn rewrapping_is_refused_in_another_slot_and_from_another_kek((a, b) in near_rows()) {
        let (rng, from, to) = (Counting::default(), kek("kek-1", 1), kek("kek-2", 2));
        let envelope = seal(&rng, &from, a.slot(), &value("v")).expect("seals");
        let rewrapped = rewrap(&rng, &from, &to, b.slot(), &envelope.wrapped_dek);
        prop_assert_eq!(rewrapped.is_ok(), a == b);
        let rewrapped = rewrap(&rng, &to, &from, a.slot(), &envelope.wrapped_dek);
        prop_assert_eq!(rewrapped.err(), Some(CryptoError::Corrupt));
    }
}
