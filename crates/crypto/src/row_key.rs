//! Tags that authenticate rows of the store.
//!
//! A tag is the AES-256-CMAC (NIST SP 800-38B, 16 bytes) of the row's fields. A row that was edited, forged or exchanged
//! with another row does not fit its tag. A row that was put back as it was earlier fits its earlier tag, so the holder
//! of the tags has to keep them together (see the key manifest in `service`).
//!
//! There is one encoding of fields, and it is injective: each field is preceded by its length as 8 bytes, big-endian.
//! An absent field is the length 2⁶⁴ − 1 without bytes. The first field is a domain string.
//!
//! | domain | fields after it |
//! |---|---|
//! | `agentrouter.secret/rows/api-key` | id, digest, name, user kind, user, scopes, realm, created_at, expires_at, revoked_at, number of realms, each realm |
//! | `agentrouter.secret/rows/key-manifest` | text of the manifest |
//! | `agentrouter.secret/rows/generation` | generation |
//!
//! The user kind (0 the system, 1 a user) is one byte. Times are microseconds since the Unix epoch, 8 bytes, big-endian,
//! in two's complement. The number of realms and the generation are 8 bytes, big-endian. The number of realms is absent
//! for a key without that limit. Scopes are comma-separated in their fixed order. The other fields are text, and the
//! digest is 32 bytes. `vectors/rows-v1.json` has a sample for each field.
//!
//! CMAC is deterministic and has no nonce that could repeat. It costs less than HMAC for the few hundred bytes of a row.

use std::fmt;

use agentrouter_model::{ApiKeyRecord, Owner, Timestamp};
use subtle::ConstantTimeEq;

use crate::error::CryptoError;
use crate::hazmat::{CmacKey, Key, Refused, TAG_LEN};

/// A tag of a row.
pub type Tag = [u8; TAG_LEN];

/// The key that authenticates rows. It is redacted in `Debug`. See [`InternalKey::row_key`](crate::InternalKey::row_key).
pub struct RowKey(CmacKey);

impl RowKey {
    pub(crate) const DOMAIN: &str = "agentrouter.secret/rows";

    pub(crate) fn new(key: &Key) -> Result<Self, Refused> {
        Ok(Self(CmacKey::new(key)?))
    }

    /// The tag of an API key: of all of its columns.
    ///
    /// # Errors
    /// When the library fails.
    pub fn api_key(&self, key: &ApiKeyRecord) -> Result<Tag, CryptoError> {
        let user_kind = match key.user {
            Owner::System => 0,
            Owner::User(_) => 1,
        };
        let mut row = Fields::of("agentrouter.secret/rows/api-key");
        row.field(key.id.as_str().as_bytes())
            .field(&key.digest)
            .field(key.name.as_bytes())
            .field(&[user_kind])
            .field(key.user.as_str().as_bytes())
            .field(key.scopes.to_string().as_bytes())
            .field(key.realm.as_str().as_bytes())
            .time(Some(key.created_at))
            .time(key.expires_at)
            .time(key.revoked_at);
        match &key.realms {
            None => row.absent(),
            Some(realms) => {
                row.field(&(realms.len() as u64).to_be_bytes());
                realms.iter().fold(&mut row, |row, realm| row.field(realm.as_str().as_bytes()))
            }
        };
        Ok(self.0.mac(&row.0)?)
    }

    /// The tag of the text of a key manifest.
    ///
    /// # Errors
    /// When the library fails.
    pub fn key_manifest(&self, text: &str) -> Result<Tag, CryptoError> {
        Ok(self.0.mac(&Fields::of("agentrouter.secret/rows/key-manifest").field(text.as_bytes()).0)?)
    }

    /// The tag of a generation of the key manifest, for its copy outside of the store.
    ///
    /// # Errors
    /// When the library fails.
    pub fn generation(&self, generation: u64) -> Result<Tag, CryptoError> {
        Ok(self
            .0
            .mac(&Fields::of("agentrouter.secret/rows/generation").field(&generation.to_be_bytes()).0)?)
    }

    /// Whether two tags are equal, in constant time.
    pub fn same(a: &Tag, b: &Tag) -> bool {
        a.ct_eq(b).into()
    }
}

impl fmt::Debug for RowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RowKey(redacted)")
    }
}

/// The fields of a row, encoded.
struct Fields(Vec<u8>);

impl Fields {
    fn of(domain: &str) -> Self {
        let mut fields = Self(Vec::with_capacity(TYPICAL_BYTES));
        fields.field(domain.as_bytes());
        fields
    }

    fn field(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
        self.0.extend_from_slice(bytes);
        self
    }

    fn absent(&mut self) -> &mut Self {
        self.0.extend_from_slice(&u64::MAX.to_be_bytes());
        self
    }

    fn time(&mut self, at: Option<Timestamp>) -> &mut Self {
        match at {
            Some(at) => self.field(&at.as_micros().to_be_bytes()),
            None => self.absent(),
        }
    }
}

/// The capacity fits the fields of nearly every row, so that a tag allocates once.
const TYPICAL_BYTES: usize = 512;

#[cfg(test)]
mod tests {
    use agentrouter_model::{ApiKeyId, Realm, Scope, ScopeSet};
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    use super::*;
    use crate::InternalKey;
    use crate::tests::Counting;

    const V1: &str = include_str!("../vectors/rows-v1.json");

    fn row_key() -> RowKey {
        InternalKey::generate(&Counting::default()).expect("random").row_key().expect("derived")
    }

    fn realm(text: &str) -> Realm {
        Realm::parse(text).expect("a realm")
    }

    fn key() -> ApiKeyRecord {
        ApiKeyRecord {
            id: ApiKeyId::parse("abcdefghijklmnop").expect("an id"),
            digest: [7; 32],
            name: "n".to_owned(),
            user: Owner::parse("ann@example.com").expect("a user"),
            scopes: ScopeSet::ALL,
            realm: realm("mcp"),
            realms: None,
            created_at: Timestamp::from_micros(1),
            expires_at: None,
            revoked_at: None,
        }
    }

    /// Keys that differ from [`key`] in one field each, and in what an ambiguous encoding would confuse.
    fn variants() -> Vec<ApiKeyRecord> {
        let at = |micros| Some(Timestamp::from_micros(micros));
        vec![
            key(),
            ApiKeyRecord { id: ApiKeyId::parse("abcdefghijklmnoq").expect("an id"), ..key() },
            ApiKeyRecord { digest: [8; 32], ..key() },
            ApiKeyRecord { name: String::new(), ..key() },
            ApiKeyRecord { user: Owner::System, ..key() },
            ApiKeyRecord { user: Owner::parse("bob").expect("a user"), ..key() },
            ApiKeyRecord {
                scopes: [Scope::parse("secrets/read").expect("a scope")].into_iter().collect(),
                ..key()
            },
            ApiKeyRecord { realm: realm("mcq"), ..key() },
            ApiKeyRecord { realms: Some(Vec::new()), ..key() },
            ApiKeyRecord { realms: Some(vec![realm("mcp")]), ..key() },
            ApiKeyRecord { realms: Some(vec![realm("mcp"), realm("a")]), ..key() },
            ApiKeyRecord { realms: Some(vec![realm("mcpa")]), ..key() },
            ApiKeyRecord { created_at: Timestamp::from_micros(2), ..key() },
            ApiKeyRecord { expires_at: at(5), ..key() },
            ApiKeyRecord { revoked_at: at(5), ..key() },
            ApiKeyRecord { expires_at: at(5), revoked_at: at(5), ..key() },
        ]
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn every_column_of_an_api_key_changes_its_tag() {
        let (row_key, keys) = (row_key(), variants());
        let tags: Vec<Tag> = keys.iter().map(|key| row_key.api_key(key).expect("a tag")).collect();
        for (i, one) in tags.iter().enumerate() {
            for (j, other) in tags.iter().enumerate() {
                assert_eq!(RowKey::same(one, other), i == j, "{:?} {:?}", keys[i], keys[j]);
            }
        }
    }

    #[test]
    fn tags_match_the_vectors() {
        let row_key = row_key();
        let vectors: serde_json::Value = serde_json::from_str(V1).expect("JSON");
        let mut found: Vec<String> =
            variants().iter().map(|key| hex(&row_key.api_key(key).expect("a tag"))).collect();
        found.push(hex(&row_key.key_manifest("v1 7\n").expect("a tag")));
        found.push(hex(&row_key.generation(7).expect("a tag")));
        let expected: Vec<String> = serde_json::from_value(vectors["tags"].clone()).expect("a list of tags");
        assert_eq!(found, expected);
    }

    #[test]
    fn the_encoding_is_the_documented_one() {
        let mut fields = Fields::of("d");
        fields.field(b"ab").absent().time(Some(Timestamp::from_micros(-1)));
        let mut expected = Vec::new();
        expected.extend([0, 0, 0, 0, 0, 0, 0, 1, b'd', 0, 0, 0, 0, 0, 0, 0, 2, b'a', b'b']);
        expected.extend([0xff; 8]);
        expected.extend([0, 0, 0, 0, 0, 0, 0, 8]);
        expected.extend([0xff; 8]);
        assert_eq!(fields.0, expected);
    }

    #[test]
    fn a_key_is_redacted() {
        assert_eq!(format!("{:?}", row_key()), "RowKey(redacted)");
    }

    proptest! {
        #[test]
        fn the_encoding_of_any_fields_is_injective(
            a in vec(option::of(vec(0_u8..3, 0..4)), 0..5),
            b in vec(option::of(vec(0_u8..3, 0..4)), 0..5),
        ) {
            let encoded = |all: &[Option<Vec<u8>>]| {
                let mut fields = Fields::of("d");
                for field in all {
                    match field {
                        Some(bytes) => fields.field(bytes),
                        None => fields.absent(),
                    };
                }
                fields.0
            };
            prop_assert_eq!(encoded(&a) == encoded(&b), a == b);
        }
    }
}
