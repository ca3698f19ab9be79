//! Tags that authenticate rows of the store.
//!
//! A tag is the AES-256-CMAC (NIST SP 800-38B, 16 bytes) of the row's fields. A row that was edited, forged or exchanged
//! with another row does not fit its tag. A row that was put back as it was earlier fits its earlier tag, so the holder
//! of the tags has to keep them together (see the key manifest in `service`).
//!
//! There is one encoding of rows, and it is injective. The first byte is the domain. It determines the number of bytes of the
//! numbers after it, which is fixed, and the fields after those. Each field is preceded by its length: one byte below 254, or
//! the byte 255 and 8 bytes. An absent field is the byte 254.
//!
//! | domain | numbers | fields |
//! |---|---|---|
//! | 1: an API key | user kind, digest (32 bytes), created_at, expires_at, revoked_at | id, name, user, scopes, realm, number of realms, each realm |
//! | 2: a secret | user kind of the owner, id (16 bytes), number of the active version, created_at, updated_at, rotated_at | owner, realm, name, description, key and value of each tag |
//! | 3: a version | user kind of the owner, id of the secret, number, status (0 active, 1 pending, 2 retired; only a retired version has no value), expires_at | owner, realm, name |
//! | 4: a key manifest | | text of the manifest |
//! | 5: a generation | generation | `secrets` if the rows of secrets are authenticated |
//! | 6: a fact of the service | | name, text |
//!
//! All numbers are big-endian. The user kind (0 the system, 1 a user) and the status are one byte. Times are microseconds
//! since the Unix epoch, 8 bytes in two's complement; an absent one is −2⁶³. The number of a version has 4 bytes, a
//! generation has 8. The number of realms is a field of 8 bytes, and absent for a key without that limit. Scopes are
//! comma-separated in their fixed order. The other fields are text. `vectors/rows-v1.json` has a sample for each part.
//!
//! Neither tag of a secret or version covers the KEK's id nor the envelope: the AAD binds the envelope to the same owner,
//! realm, name, id and number. So a change of KEK needs no new tag. The KEK's id of a version without a value is not
//! authenticated.
//!
//! CMAC is deterministic and has no nonce that could repeat. It costs less than HMAC for the hundred bytes of a row. So do
//! short rows: a row waits for the cipher once for each 16 bytes.

use std::cell::Cell;
use std::fmt;

use agentrouter_model::{ApiKeyRecord, Owner, Place, Secret, Slot, Status, Timestamp, Version};
use subtle::ConstantTimeEq;

use crate::hazmat::{CmacKey, Key, Messages, TAG_LEN};

/// A tag of a row.
pub type Tag = [u8; TAG_LEN];

/// The key that authenticates rows. It is redacted in `Debug`. See [`InternalKey::row_key`](crate::InternalKey::row_key).
pub struct RowKey(CmacKey);

impl RowKey {
    pub(crate) const DOMAIN: &str = "agentrouter.secret/rows";

    pub(crate) fn new(key: &Key) -> Self {
        Self(CmacKey::new(key))
    }

    /// The tag of an API key: of all of its columns.
    pub fn api_key(&self, key: &ApiKeyRecord) -> Tag {
        self.tag(|row| {
            let times = [Some(key.created_at), key.expires_at, key.revoked_at].map(micros);
            row.numbers(&[1, kind(&key.user)]).numbers(&key.digest);
            for time in &times {
                row.numbers(time);
            }
            row.text(key.id.as_str())
                .text(&key.name)
                .text(key.user.as_str())
                .text(&key.scopes.to_string())
                .text(key.realm.as_str());
            match &key.realms {
                None => row.absent(),
                Some(realms) => {
                    row.field(&(realms.len() as u64).to_be_bytes());
                    realms.iter().fold(row, |row, realm| row.text(realm.as_str()))
                }
            };
        })
    }

    /// The tag of the row of a secret, of which `active` is the number of the active version. Of a version that is not
    /// active, it is the tag of the row of its secret.
    pub fn secret(&self, secret: &Secret, active: Version) -> Tag {
        self.tag(|row| row.secret(secret, active))
    }

    /// The tags of the rows of secrets, each described by its active version, in order. Faster than one at a time.
    pub fn secrets(&self, secrets: &[Secret], tag: impl FnMut(Tag)) {
        let mut rows = Rows::new();
        for secret in secrets {
            rows.secret(secret, secret.version);
            rows.0.end(&self.0);
        }
        self.0.tags(&rows.0, tag);
        rows.recycle();
    }

    /// The tag of the row of a version, in the status that is stored.
    pub fn version(
        &self,
        Slot { place, id, version }: Slot<'_>,
        status: Status,
        expires_at: Option<Timestamp>,
    ) -> Tag {
        let status = match status {
            Status::Active => 0,
            Status::RotatedPending => 1,
            Status::Retired => 2,
        };
        self.tag(|row| {
            row.numbers(&[3, kind(&place.owner)])
                .numbers(&id.to_bytes())
                .numbers(&version.get().to_be_bytes())
                .numbers(&[status])
                .numbers(&micros(expires_at))
                .place(place);
        })
    }

    /// The tag of the text of a key manifest.
    pub fn key_manifest(&self, text: &str) -> Tag {
        self.tag(|row| {
            row.numbers(&[4]).text(text);
        })
    }

    /// The tag of a generation of the key manifest, for its copy outside of the store. `secrets` says whether the rows of
    /// secrets are authenticated.
    pub fn generation(&self, generation: u64, secrets: bool) -> Tag {
        self.tag(|row| {
            row.numbers(&[5]).numbers(&generation.to_be_bytes());
            if secrets {
                row.text("secrets");
            }
        })
    }

    /// The tag of a fact of the service, which has a name.
    pub fn fact(&self, name: &str, text: &str) -> Tag {
        self.tag(|row| {
            row.numbers(&[6]).text(name).text(text);
        })
    }

    fn tag(&self, write: impl FnOnce(&mut Rows)) -> Tag {
        let mut rows = Rows::new();
        write(&mut rows);
        rows.0.end(&self.0);
        let mut tag = Tag::default();
        self.0.tags(&rows.0, |found| tag = found);
        rows.recycle();
        tag
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
    /// The buffer for the fields of rows.
    static BUFFER: Cell<Messages> = const { Cell::new(Messages::new()) };
}

/// A larger buffer is freed, so that a key manifest of many keys leaves none behind.
const LARGEST_BUFFER: usize = 64 * 1024;

/// Lengths from here on have 8 bytes more.
const LONG: u8 = 254;
const ABSENT: u8 = 254;
const LONGER: u8 = 255;

/// Rows, encoded one after the other.
struct Rows(Messages);

impl Rows {
    fn new() -> Self {
        let mut messages = BUFFER.replace(Messages::new());
        messages.clear();
        Self(messages)
    }

    fn secret(&mut self, secret: &Secret, active: Version) {
        let times = [Some(secret.created_at), Some(secret.updated_at), secret.rotated_at].map(micros);
        let mut numbers = [0; 46];
        numbers[..2].copy_from_slice(&[2, kind(&secret.place.owner)]);
        numbers[2..18].copy_from_slice(&secret.id.to_bytes());
        numbers[18..22].copy_from_slice(&active.get().to_be_bytes());
        numbers[22..].copy_from_slice(times.as_flattened());
        self.numbers(&numbers).place(&secret.place).text(secret.description.as_str());
        for (key, value) in secret.tags.iter() {
            self.text(key.as_str()).text(value.as_str());
        }
    }

    fn place(&mut self, place: &Place) -> &mut Self {
        self.text(place.owner.as_str()).text(place.realm.as_str()).text(place.name.as_str())
    }

    /// Numbers of a fixed length.
    fn numbers(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend(bytes);
        self
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.field(text.as_bytes())
    }

    fn field(&mut self, bytes: &[u8]) -> &mut Self {
        match u8::try_from(bytes.len()) {
            Ok(length) if length < LONG => self.0.extend(&[length]),
            _ => {
                self.0.extend(&[LONGER]);
                self.0.extend(&(bytes.len() as u64).to_be_bytes());
            }
        }
        self.numbers(bytes)
    }

    fn absent(&mut self) -> &mut Self {
        self.numbers(&[ABSENT])
    }

    /// Keeps the buffer for the next rows.
    fn recycle(self) {
        if self.0.capacity() <= LARGEST_BUFFER {
            BUFFER.set(self.0);
        }
    }
}

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
        let tags: Vec<Tag> = keys.iter().map(|key| row_key.api_key(key)).collect();
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
        let mut found: Vec<String> = variants().iter().map(|key| hex(&row_key.api_key(key))).collect();
        found.push(hex(&row_key.key_manifest("v1 7\n")));
        found.push(hex(&row_key.generation(7, false)));
        found.push(hex(&row_key.generation(7, true)));
        found.push(hex(&row_key.fact("keks", "a b\n")));
        found.push(hex(&row_key.fact("keksa", " b\n")));
        let listed = |name: &str| -> Vec<String> {
            serde_json::from_value(vectors[name].clone()).expect("a list of tags")
        };
        assert_eq!(found, listed("tags"));
        let secrets = secrets();
        let found = secrets.iter().map(|secret| row_key.secret(secret, secret.version));
        assert_eq!(found.map(|tag| hex(&tag)).collect::<Vec<_>>(), listed("secrets"));
        let found = versions().iter().map(|version| tag_of_version(&row_key, version)).collect::<Vec<_>>();
        assert_eq!(found.iter().map(|tag| hex(tag)).collect::<Vec<_>>(), listed("versions"));
    }

    fn tag_of_version(row_key: &RowKey, of: &Secret) -> Tag {
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
        let tags: Vec<Tag> = of_secrets.chain(of_versions).collect();
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
        let tags = |of: &Secret| (row_key.secret(of, of.version), tag_of_version(&row_key, of));
        assert_eq!(tags(&secret), tags(&other));
    }

    #[test]
    fn the_encoding_is_the_documented_one() {
        let mut rows = Rows::new();
        rows.numbers(&[3, 1]).field(b"ab").absent().field(&[7; 253]).field(&[8; 254]);
        let mut expected = vec![3, 1, 2, b'a', b'b', 254, 253];
        expected.extend([7; 253]);
        expected.extend([255, 0, 0, 0, 0, 0, 0, 0, 254]);
        expected.extend([8; 254]);
        assert_eq!(rows.0.present(), expected);

        let mut rows = Rows::new();
        rows.secret(&Secret { tags: Tags::parse([("k", "v")]).expect("tags"), ..secret() }, Version::FIRST);
        let mut expected = vec![2, 1];
        expected.extend(secret().id.to_bytes());
        expected.extend([0, 0, 0, 1]);
        expected.extend([0, 0, 0, 0, 0, 0, 0, 1].repeat(2));
        expected.extend([0x80, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend(b"\x0fann@example.com\x03mcp\x01a\x00\x01k\x01v");
        assert_eq!(rows.0.present(), expected);
    }

    #[test]
    fn the_tags_of_many_secrets_are_those_of_each() {
        let row_key = row_key();
        let long = Description::parse(&"d".repeat(1024)).expect("a description");
        let mut all = secrets();
        all.insert(3, Secret { description: long, ..secret() });
        for count in 0..=all.len() {
            let mut tags = Vec::new();
            row_key.secrets(&all[..count], |tag| tags.push(tag));
            let each: Vec<Tag> = all[..count].iter().map(|one| row_key.secret(one, one.version)).collect();
            assert_eq!(tags, each);
        }
    }

    #[test]
    fn a_key_is_redacted() {
        assert_eq!(format!("{:?}", row_key()), "RowKey(redacted)");
    }

    /// A short field, or one about as long as the longest with a length of one byte.
    fn field() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![4 => vec(0_u8..3, 0..4), 1 => vec(253_u8..=255, 252..256)]
    }

    proptest! {
        #[test]
        fn the_encoding_of_any_fields_is_injective(
            a in vec(option::of(field()), 0..5),
            b in vec(option::of(field()), 0..5),
        ) {
            let encoded = |all: &[Option<Vec<u8>>]| {
                let mut rows = Rows::new();
                for field in all {
                    match field {
                        Some(bytes) => rows.field(bytes),
                        None => rows.absent(),
                    };
                }
                rows.0.present().to_vec()
            };
            prop_assert_eq!(encoded(&a) == encoded(&b), a == b);
        }
    }
}
