//! What is known of a secret, short of its value.

use std::fmt;

use crate::{
    Clock, Description, KekId, ParseError, Place, Realm, Rng, RngError, SecretName, Status, Tags, Timestamp,
    Version,
};

/// The id of a secret: a ULID, 26 characters of Crockford's base 32 (<https://github.com/ulid/spec>). It stays through
/// rotations; a secret that is deleted and made again gets a new one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretId(ulid::Ulid);

impl SecretId {
    /// A new id: the clock's milliseconds and 80 random bits.
    ///
    /// # Errors
    /// When the random source fails.
    pub fn generate(clock: &dyn Clock, rng: &dyn Rng) -> Result<Self, RngError> {
        let mut random = [0; 16];
        rng.fill(&mut random[6..])?;
        Ok(Self(ulid::Ulid::from_parts(clock.now().as_millis(), u128::from_be_bytes(random))))
    }

    /// # Errors
    /// When `text` is no ULID in its 26 upper-case characters.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        match ulid::Ulid::from_string(text) {
            Ok(id) if Self(id).text().as_str() == text => Ok(Self(id)),
            _ => Err(ParseError::new("must be a ULID")),
        }
    }

    /// Its 26 characters.
    pub fn text(self) -> SecretIdText {
        let mut text = SecretIdText([0; ulid::ULID_LEN]);
        self.0.array_to_str(&mut text.0);
        text
    }

    /// The 16 bytes, big-endian, as sealed into the associated data.
    pub fn to_bytes(self) -> [u8; 16] {
        u128::from(self.0).to_be_bytes()
    }
}

/// The characters of a [`SecretId`].
#[derive(Clone, Copy)]
pub struct SecretIdText([u8; ulid::ULID_LEN]);

impl SecretIdText {
    /// The text.
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The text, which is ASCII.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for SecretId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text().as_str())
    }
}

impl fmt::Debug for SecretId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The metadata of one version of a secret, never its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    /// The secret's id.
    pub id: SecretId,
    /// Owner, realm and name.
    pub place: Place,
    /// What it is for; possibly empty.
    pub description: Description,
    /// Its tags; possibly none.
    pub tags: Tags,
    /// The state of this version.
    pub status: Status,
    /// Which version this is.
    pub version: Version,
    /// When the secret was made.
    pub created_at: Timestamp,
    /// When its value or metadata last changed.
    pub updated_at: Timestamp,
    /// When it was last rotated; none if never.
    pub rotated_at: Option<Timestamp>,
    /// When this version stops being readable; none for the active one.
    pub expires_at: Option<Timestamp>,
    /// The KEK that wraps this version's DEK.
    pub kek_id: KekId,
}

/// Where a page of a list ended: the next one begins after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageCursor {
    /// The realm of the last secret shown.
    pub realm: Realm,
    /// Its name.
    pub name: SecretName,
    /// Its version.
    pub version: Version,
}

#[cfg(test)]
mod tests {
    use super::*;

    struct At(i64);
    impl Clock for At {
        fn now(&self) -> Timestamp {
            Timestamp::from_micros(self.0)
        }
    }
    struct Ones;
    impl Rng for Ones {
        fn fill(&self, bytes: &mut [u8]) -> Result<(), RngError> {
            bytes.fill(0xff);
            Ok(())
        }
    }

    #[test]
    fn an_id_is_a_ulid_and_reads_back() {
        let id = SecretId::generate(&At(1_700_000_000_000_000), &Ones).expect("random");
        let text = id.to_string();
        assert_eq!(text, "01HF7YAT00ZZZZZZZZZZZZZZZZ");
        assert_eq!(SecretId::parse(&text), Ok(id));
        assert!(SecretId::parse(&text.to_lowercase()).is_err());
        assert!(SecretId::parse("01H").is_err());
    }
}
