//! Associated data (AAD): the data that a ciphertext is bound to.
//!
//! There is one encoding: a sequence of fields, each preceded by its length as 8 bytes, big-endian. It is injective: two
//! different sequences never encode to the same bytes (`("ab", "c")` is not `("a", "bc")`). The first field is a domain
//! string. Each use has its own domain, and each domain has a fixed number of fields.
//!
//! | domain | fields after it |
//! |---|---|
//! | `agentrouter.secret/data` | format, algorithm, realm, owner kind, user_id, id, name, version |
//! | `agentrouter.secret/wrap` | the same, kek_id |
//! | `agentrouter.secret/internal` | format, algorithm, purpose, kek_id |
//! | `agentrouter.secret/kek` | format, algorithm, kek_id, id of the root key |
//!
//! Format, algorithm and owner kind (0 the system, 1 a user) are one byte, id is the ULID's 16 bytes, version 4 bytes
//! big-endian. The other fields are text. The AAD of the data does not contain the kek_id, so that a change of KEK does not
//! touch sealed values.

use agentrouter_model::{KekId, Owner, Slot};

use crate::wrap::{ALGORITHM, FORMAT};

/// A buffer for associated data, reused for one ciphertext after the other.
#[derive(Default)]
pub(crate) struct Aad(Vec<u8>);

impl Aad {
    /// The AAD of a sealed value.
    pub(crate) fn data(&mut self, slot: Slot<'_>) -> &[u8] {
        self.begin("agentrouter.secret/data").slot(slot);
        &self.0
    }

    /// The AAD of a wrapped DEK.
    pub(crate) fn wrap(&mut self, slot: Slot<'_>, kek_id: &KekId) -> &[u8] {
        self.begin("agentrouter.secret/wrap").slot(slot).field(kek_id.as_str().as_bytes());
        &self.0
    }

    /// The AAD of a wrapped internal key.
    pub(crate) fn internal(&mut self, purpose: &str, kek_id: &KekId) -> &[u8] {
        self.begin("agentrouter.secret/internal");
        self.field(purpose.as_bytes()).field(kek_id.as_str().as_bytes());
        &self.0
    }

    /// The AAD of a wrapped KEK.
    pub(crate) fn kek(&mut self, kek_id: &KekId, root_id: &str) -> &[u8] {
        self.begin("agentrouter.secret/kek").field(kek_id.as_str().as_bytes()).field(root_id.as_bytes());
        &self.0
    }

    fn begin(&mut self, domain: &str) -> &mut Self {
        self.0.clear();
        self.0.reserve(TYPICAL_BYTES);
        self.field(domain.as_bytes()).field(&[FORMAT]).field(&[ALGORITHM])
    }

    fn slot(&mut self, slot: Slot<'_>) -> &mut Self {
        let owner_kind = match slot.place.owner {
            Owner::System => 0,
            Owner::User(_) => 1,
        };
        self.field(slot.place.realm.as_str().as_bytes())
            .field(&[owner_kind])
            .field(slot.place.owner.as_str().as_bytes())
            .field(&slot.id.to_bytes())
            .field(slot.place.name.as_str().as_bytes())
            .field(&slot.version.get().to_be_bytes())
    }

    fn field(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
        self.0.extend_from_slice(bytes);
        self
    }
}

/// The capacity fits the associated data of nearly every secret, so that a read allocates once.
const TYPICAL_BYTES: usize = 384;

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::tests::{Row, near_rows, row};

    fn encoded(fields: &[Vec<u8>]) -> Vec<u8> {
        let mut aad = Aad::default();
        for field in fields {
            aad.field(field);
        }
        aad.0
    }

    fn data(row: &Row) -> Vec<u8> {
        Aad::default().data(row.slot()).to_vec()
    }

    fn wrap(row: &Row, kek_id: &KekId) -> Vec<u8> {
        Aad::default().wrap(row.slot(), kek_id).to_vec()
    }

    #[test]
    fn moving_a_byte_from_one_field_to_the_next_changes_the_encoding() {
        assert_ne!(encoded(&[b"ab".into(), b"c".into()]), encoded(&[b"a".into(), b"bc".into()]));
        assert_ne!(encoded(&[b"".into(), b"a".into()]), encoded(&[b"a".into(), b"".into()]));
        assert_ne!(encoded(&[b"a".into()]), encoded(&[b"a".into(), b"".into()]));
    }

    #[test]
    fn the_system_and_a_user_never_share_an_encoding() {
        let kind_of = |row: &Row| match row.place.owner {
            Owner::System => 0,
            Owner::User(_) => 1,
        };
        let system = Row::new("system", "mcp", "name", 1, 1);
        let user = Row::new("SYSTEM", "mcp", "name", 1, 1);
        assert_eq!((kind_of(&system), kind_of(&user)), (0, 1));
        assert_ne!(data(&system), data(&user));
    }

    #[test]
    fn the_data_encoding_is_the_documented_one() {
        let row = Row::new("u", "r", "n", 7, 0x0102_0304);
        let mut expected = Vec::new();
        for field in [
            &b"agentrouter.secret/data"[..],
            &[1],
            &[1],
            b"r",
            &[1],
            b"u",
            &row.id.to_bytes(),
            b"n",
            &[1, 2, 3, 4],
        ] {
            expected.extend([0, 0, 0, 0, 0, 0, 0, u8::try_from(field.len()).expect("short")]);
            expected.extend(field);
        }
        assert_eq!(data(&row), expected);
    }

    proptest! {
        #[test]
        fn the_encoding_of_any_fields_is_injective(
            a in vec(vec(0_u8..3, 0..4), 0..5),
            b in vec(vec(0_u8..3, 0..4), 0..5),
        ) {
            prop_assert_eq!(encoded(&a) == encoded(&b), a == b);
        }

        #[test]
        fn two_rows_have_the_same_aad_only_if_they_are_the_same_row((a, b) in near_rows()) {
            prop_assert_eq!(data(&a) == data(&b), a == b);
            let kek_id = KekId::parse("kek-1").expect("valid");
            prop_assert_eq!(wrap(&a, &kek_id) == wrap(&b, &kek_id), a == b);
        }

        #[test]
        fn domains_and_key_ids_never_share_an_aad(row in row(), a in "[a-z]{1,2}", b in "[a-z]{1,2}") {
            let (a, b) = (KekId::parse(&a).expect("valid"), KekId::parse(&b).expect("valid"));
            prop_assert_eq!(wrap(&row, &a) == wrap(&row, &b), a == b);
            prop_assert_ne!(wrap(&row, &a), data(&row));
            prop_assert_ne!(Aad::default().internal("audit", &a).to_vec(), wrap(&row, &a));
        }

        #[test]
        fn a_buffer_used_again_gives_what_a_new_one_gives((a, b) in near_rows()) {
            let mut aad = Aad::default();
            aad.data(a.slot());
            prop_assert_eq!(aad.data(b.slot()), &data(&b)[..]);
        }
    }
}
