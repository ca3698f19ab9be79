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
//! | `agentrouter.secret/rows/secret` | numbers of the secret, owner, realm, name, description, key and value of each tag |
//! | `agentrouter.secret/rows/version` | numbers of the version, owner, realm, name |
//! | `agentrouter.secret/rows/key-manifest` | text of the manifest |
//! | `agentrouter.secret/rows/generation` | generation, and `secrets` if the rows of secrets are authenticated |
//! | `agentrouter.secret/rows/fact` | name and text of a fact of the service |
//!
//! The user kind (0 the system, 1 a user) is one byte. Times are microseconds since the Unix epoch, 8 bytes, big-endian,
//! in two's complement. The number of realms and the generation are 8 bytes, big-endian. The number of realms is absent
//! for a key without that limit. Scopes are comma-separated in their fixed order. The other fields are text, and the
//! digest is 32 bytes. `vectors/rows-v1.json` has a sample for each field.
//!
//! The numbers of a row are one field of fixed length, because they are most of its columns. In it, an absent time is
//! −2⁶³, and the number of a version has 4 bytes.
//!
//! * Of a secret: user kind of the owner, id (16 bytes), number of the active version, created_at, updated_at, rotated_at.
//! * Of a version: user kind of the owner, id of the secret, number, status (0 active, 1 pending, 2 retired; only a
//!   retired version has no value), expires_at.
//!
//! Neither covers the KEK's id nor the envelope: the AAD binds the envelope to the same owner, realm, name, id and number.
//! So a change of KEK needs no new tag. The KEK's id of a version without a value is not authenticated.
//!
//! CMAC is deterministic and has no nonce that could repeat. It costs less than HMAC for the few hundred bytes of a row.

use std::cell::Cell;
use std::fmt;

use agentrouter_model::{ApiKeyRecord, Owner, Place, Secret, Slot, Status, Timestamp, Version};
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
        let mut row = Fields::of("agentrouter.secret/rows/api-key");
        row.field(key.id.as_str().as_bytes())
            .field(&key.digest)
            .field(key.name.as_bytes())
            .field(&[kind(&key.user)])
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
        self.tag(row)
    }

    /// The tag of the row of a secret, of which `active` is the number of the active version. Of a version that is not
    /// active, it is the tag of the row of its secret.
    ///
    /// # Errors
    /// When the library fails.
    pub fn secret(&self, secret: &Secret, active: Version) -> Result<Tag, CryptoError> {
        let mut row = Fields::of("agentrouter.secret/rows/secret");
        row.numbers(45, |row| {
            row.number(&[kind(&secret.place.owner)])
                .number(&secret.id.to_bytes())
                .number(&active.get().to_be_bytes())
                .number(&secret.created_at.as_micros().to_be_bytes())
                .number(&secret.updated_at.as_micros().to_be_bytes())
                .number(&micros(secret.rotated_at));
        });
        row.place(&secret.place).field(secret.description.as_str().as_bytes());
        for (key, value) in secret.tags.iter() {
            row.field(key.as_str().as_bytes()).field(value.as_str().as_bytes());
        }
        self.tag(row)
    }

    /// The tag of the row of a version, in the status that is stored.
    ///
    /// # Errors
    /// When the library fails.
    pub fn version(
        &self,
        Slot { place, id, version }: Slot<'_>,
        status: Status,
        expires_at: Option<Timestamp>,
    ) -> Result<Tag, CryptoError> {
        let status = match status {
            Status::Active => 0,
            Status::RotatedPending => 1,
            Status::Retired => 2,
        };
        let mut row = Fields::of("agentrouter.secret/rows/version");
        row.numbers(30, |row| {
            row.number(&[kind(&place.owner)])
                .number(&id.to_bytes())
                .number(&version.get().to_be_bytes())
                .number(&[status])
                .number(&micros(expires_at));
        });
        row.place(place);
        self.tag(row)
    }

    /// The tag of the text of a key manifest.
    ///
    /// # Errors
    /// When the library fails.
    pub fn key_manifest(&self, text: &str) -> Result<Tag, CryptoError> {
        let mut fields = Fields::of("agentrouter.secret/rows/key-manifest");
        fields.field(text.as_bytes());
        self.tag(fields)
    }

    /// The tag of a generation of the key manifest, for its copy outside of the store. `secrets` says whether the rows of
    /// secrets are authenticated.
    ///
    /// # Errors
    /// When the library fails.
    pub fn generation(&self, generation: u64, secrets: bool) -> Result<Tag, CryptoError> {
        let mut fields = Fields::of("agentrouter.secret/rows/generation");
        fields.field(&generation.to_be_bytes());
        if secrets {
            fields.field(b"secrets");
        }
        self.tag(fields)
    }

    /// The tag of a fact of the service, which has a name.
    ///
    /// # Errors
    /// When the library fails.
    pub fn fact(&self, name: &str, text: &str) -> Result<Tag, CryptoError> {
        let mut fields = Fields::of("agentrouter.secret/rows/fact");
        fields.field(name.as_bytes()).field(text.as_bytes());
        self.tag(fields)
    }

    fn tag(&self, mut fields: Fields) -> Result<Tag, CryptoError> {
        let tag = self.0.mac(&mut fields.0);
        fields.recycle();
        Ok(tag?)
    }

    /// Whether two tags are equal, in constant time.
    pub fn same(a: &Tag, b: &Tag) -> bool {
        u128::from_be_bytes(*a).ct_eq(&u128::from_be_bytes(*b)).into()
    }
}

impl fmt::Debug for RowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RowKey(redacted)")
    }
}

fn kind(owner: &Owner) -> u8 {
    match owner {
        Owner::System => 0,
        Owner::User(_) => 1,
    }
}

fn micros(at: Option<Timestamp>) -> [u8; 8] {
    at.map_or(i64::MIN, Timestamp::as_micros).to_be_bytes()
}

thread_local! {
    /// The buffer for the fields of a row. A list computes a tag for each row, and they share it.
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A longer buffer is freed, so that a key manifest of many keys leaves none behind.
const LONGEST_BUFFER: usize = 16 * 1024;

/// The fields of a row, encoded.
struct Fields(Vec<u8>);

impl Fields {
    fn of(domain: &str) -> Self {
        let mut fields = Self(BUFFER.take());
        fields.0.clear();
        fields.0.reserve(TYPICAL_BYTES);
        fields.field(domain.as_bytes());
        fields
    }

    fn field(&mut self, bytes: &[u8]) -> &mut Self {
        self.length(bytes.len()).number(bytes)
    }

    fn length(&mut self, length: usize) -> &mut Self {
        self.number(&(length as u64).to_be_bytes())
    }

    /// A part of a field.
    fn number(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// A field of numbers, which have `length` bytes.
    fn numbers(&mut self, length: usize, write: impl FnOnce(&mut Self)) {
        self.length(length);
        let start = self.0.len();
        write(self);
        debug_assert_eq!(self.0.len(), start + length, "the numbers have a fixed length");
    }

    fn place(&mut self, place: &Place) -> &mut Self {
        self.field(place.owner.as_str().as_bytes())
            .field(place.realm.as_str().as_bytes())
            .field(place.name.as_str().as_bytes())
    }

    fn absent(&mut self) -> &mut Self {
        self.number(&u64::MAX.to_be_bytes())
    }

    fn time(&mut self, at: Option<Timestamp>) -> &mut Self {
        match at {
            Some(at) => self.field(&at.as_micros().to_be_bytes()),
            None => self.absent(),
        }
    }

    /// Keeps the buffer for the next row.
    fn recycle(self) {
        if self.0.capacity() <= LONGEST_BUFFER {
            BUFFER.set(self.0);
        }
    }
}

/// The capacity fits the fields of nearly every row, so that a tag allocates at most once.
const TYPICAL_BYTES: usize = 512;

#[cfg(test)]
mod tests {
    use agentrouter_model::{
        ApiKeyId, Description, KekId, Realm, Scope, ScopeSet, SecretId, SecretName, Tags,
    };
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
        found.push(hex(&row_key.generation(7, false).expect("a tag")));
        found.push(hex(&row_key.generation(7, true).expect("a tag")));
        found.push(hex(&row_key.fact("keks", "a b\n").expect("a tag")));
        found.push(hex(&row_key.fact("keksa", " b\n").expect("a tag")));
        let listed = |name: &str| -> Vec<String> {
            serde_json::from_value(vectors[name].clone()).expect("a list of tags")
        };
        assert_eq!(found, listed("tags"));
        let secrets = secrets();
        let found = secrets.iter().map(|secret| row_key.secret(secret, secret.version));
        assert_eq!(found.map(|tag| hex(&tag.expect("a tag"))).collect::<Vec<_>>(), listed("secrets"));
        let found = versions().iter().map(|version| tag_of_version(&row_key, version)).collect::<Vec<_>>();
        assert_eq!(
            found.iter().map(|tag| hex(tag.as_ref().expect("a tag"))).collect::<Vec<_>>(),
            listed("versions")
        );
    }

    fn tag_of_version(row_key: &RowKey, of: &Secret) -> Result<Tag, CryptoError> {
        let slot = Slot { place: &of.place, id: of.id, version: of.version };
        row_key.version(slot, of.status, of.expires_at)
    }

    fn secret() -> Secret {
        Secret {
            id: SecretId::parse("01ARZ3NDEKTSV4RRFFQ69G5FAV").expect("an id"),
            place: Place {
                owner: Owner::parse("ann@example.com").expect("a user"),
                realm: realm("mcp"),
                name: SecretName::parse("a").expect("a name"),
            },
            description: Description::default(),
            tags: Tags::default(),
            status: Status::Active,
            version: Version::FIRST,
            created_at: Timestamp::from_micros(1),
            updated_at: Timestamp::from_micros(1),
            rotated_at: None,
            expires_at: None,
            kek_id: KekId::parse("kek-1").expect("an id"),
        }
    }

    /// Secrets that differ from [`secret`] in what both tags cover.
    fn addresses() -> Vec<Secret> {
        let place = secret().place;
        let at = |place| Secret { place, ..secret() };
        vec![
            secret(),
            Secret { id: SecretId::parse("01ARZ3NDEKTSV4RRFFQ69G5FAW").expect("an id"), ..secret() },
            Secret { version: Version::new(2).expect("a number"), ..secret() },
            at(Place { owner: Owner::System, ..place.clone() }),
            at(Place { owner: Owner::parse("ann").expect("a user"), ..place.clone() }),
            at(Place { realm: realm("mcq"), ..place.clone() }),
            at(Place { name: SecretName::parse("b").expect("a name"), ..place.clone() }),
            at(Place { realm: realm("mcpa"), ..place }),
        ]
    }

    fn secrets() -> Vec<Secret> {
        let tags = |pairs: &[(&'static str, &'static str)]| Tags::parse(pairs.iter().copied()).expect("tags");
        let about = |text| Description::parse(text).expect("a description");
        let mut all = addresses();
        all.extend([
            Secret { description: about("d"), ..secret() },
            Secret { description: about("k"), tags: tags(&[("d", "")]), ..secret() },
            Secret { tags: tags(&[("k", "v")]), ..secret() },
            Secret { tags: tags(&[("kv", "")]), ..secret() },
            Secret { tags: tags(&[("k", "v"), ("l", "")]), ..secret() },
            Secret { created_at: Timestamp::from_micros(2), ..secret() },
            Secret { updated_at: Timestamp::from_micros(2), ..secret() },
            Secret { rotated_at: Some(Timestamp::from_micros(1)), ..secret() },
        ]);
        all
    }

    fn versions() -> Vec<Secret> {
        let until = |status, at| Secret { status, expires_at: Some(Timestamp::from_micros(at)), ..secret() };
        let mut all = addresses();
        all.extend([
            until(Status::RotatedPending, 1),
            until(Status::RotatedPending, 2),
            until(Status::Retired, 1),
            Secret { status: Status::Retired, ..secret() },
        ]);
        all
    }

    #[test]
    fn every_column_of_a_secret_or_version_changes_its_tag() {
        let row_key = row_key();
        let of_secrets = secrets().into_iter().map(|secret| row_key.secret(&secret, secret.version));
        let of_versions = versions().into_iter().map(|version| tag_of_version(&row_key, &version));
        let tags: Vec<Tag> = of_secrets.chain(of_versions).map(|tag| tag.expect("a tag")).collect();
        for (i, one) in tags.iter().enumerate() {
            for (j, other) in tags.iter().enumerate() {
                assert_eq!(RowKey::same(one, other), i == j, "{i} {j}");
            }
        }
    }

    #[test]
    fn the_kek_of_a_version_is_not_in_its_tags() {
        let (row_key, secret) = (row_key(), secret());
        let other = Secret { kek_id: KekId::parse("kek-2").expect("an id"), ..secret.clone() };
        let tags = |of: &Secret| (row_key.secret(of, of.version).ok(), tag_of_version(&row_key, of).ok());
        assert_eq!(tags(&secret), tags(&other));
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
