//! The backup file: the format of a line.
//!
//! UTF-8 text, a JSON object a line, each line ended by one `\n`. There is one encoding only: the keys in the order
//! given here, no space, times as whole microseconds since the Unix epoch, bytes as base64 (RFC 4648, §4). A line in
//! any other encoding is damaged, even if it means the same.
//!
//! ```text
//! {"backup":{…}}          1  format (1), created_at, program (its version), kek_id and key (below), epoch, audit_head
//! {"kek":{…}}             *  by id: the check value of a KEK
//! {"internal_key":{…}}    *  by purpose: a key of the service's own, wrapped; the one for page tokens is left out
//! {"api_key":{…}}         *  by id: an API key, hashed
//! {"secret":{…}}          *  by owner, realm and name: a secret's metadata
//! {"version":{…}}            *  below it, by number: a version, its value sealed; none if it is destroyed
//! {"end":{…}}             1  items (the number of lines between the first and this one) and mac
//! {"sha256":"…"}          1  in lower-case hexadecimal: of every byte before this line
//! ```
//!
//! `mac` is HMAC-SHA-256 over a domain string, `items` (8 bytes, big-endian) and SHA-256 of every byte before its line,
//! under a random key in the first line, which the KEK `kek_id` wraps for the purpose `backup`. Any damage is found
//! without a KEK file. With it, a change is also found if its author has updated the SHA-256.

use std::collections::BTreeMap;

use agentrouter_crypto::InternalKey;
use agentrouter_model::{
    ApiKeyId, ApiKeyRecord, Description, Envelope, KekId, Owner, ParseError, Place, Realm, ScopeSet, Secret,
    SecretId, SecretName, Status, Tags, Timestamp, Version,
};
use agentrouter_store::Stored;
use agentrouter_store::portable::Item;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// The format of this program. There is no other yet.
pub(crate) const FORMAT: u32 = 1;
/// The purpose of the key that authenticates a backup.
pub(crate) const PURPOSE: &str = "backup";
/// The longest line, in bytes: many times the longest item.
pub(crate) const LONGEST: u64 = 16 * 1024 * 1024;

/// A line.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Line {
    Backup(Header),
    Kek(KekLine),
    InternalKey(InternalKeyLine),
    ApiKey(ApiKeyLine),
    Secret(SecretLine),
    Version(VersionLine),
    End(EndLine),
    Sha256(String),
}

/// The first line.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Header {
    pub(crate) format: u32,
    pub(crate) created_at: i64,
    pub(crate) program: String,
    pub(crate) kek_id: String,
    pub(crate) key: String,
    pub(crate) epoch: Option<String>,
    pub(crate) audit_head: Option<HeadLine>,
}

impl Header {
    /// Whether the program's version may be printed: 1 to 64 letters, digits, `.`, `+` and `-`.
    pub(crate) fn is_printable(&self) -> bool {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b".+-".contains(&byte);
        (1..=64).contains(&self.program.len()) && self.program.bytes().all(fits)
    }
}

/// The last record of the audit log in the store.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HeadLine {
    pub(crate) seq: u64,
    pub(crate) mac: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KekLine {
    id: String,
    check: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct InternalKeyLine {
    purpose: String,
    kek_id: String,
    wrapped: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ApiKeyLine {
    id: String,
    digest: String,
    name: String,
    user: String,
    scopes: String,
    realm: String,
    realms: Option<Vec<String>>,
    created_at: i64,
    expires_at: Option<i64>,
    revoked_at: Option<i64>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SecretLine {
    owner: String,
    realm: String,
    name: String,
    id: String,
    description: String,
    tags: BTreeMap<String, String>,
    created_at: i64,
    updated_at: i64,
    rotated_at: Option<i64>,
    version: i32,
    kek_id: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct VersionLine {
    version: i32,
    status: String,
    expires_at: Option<i64>,
    kek_id: String,
    wrapped_dek: Option<String>,
    sealed: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EndLine {
    pub(crate) items: u64,
    pub(crate) mac: String,
}

/// A line in another format.
#[derive(Debug)]
pub(crate) struct Damaged;

impl From<ParseError> for Damaged {
    fn from(_: ParseError) -> Self {
        Self
    }
}

impl Line {
    /// Parses a line without its newline.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, Damaged> {
        let line: Self = serde_json::from_slice(text).map_err(|_| Damaged)?;
        // There is one encoding only: this program did not write a line with the same meaning in another one.
        if line.to_text().map_err(|_| Damaged)? == text { Ok(line) } else { Err(Damaged) }
    }

    pub(crate) fn to_text(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(self)
    }

    pub(crate) fn of(item: &Item) -> Self {
        match item {
            Item::Kek { id, check } => {
                Self::Kek(KekLine { id: id.to_string(), check: STANDARD.encode(check) })
            }
            Item::InternalKey { purpose, kek, wrapped } => Self::InternalKey(InternalKeyLine {
                purpose: purpose.clone(),
                kek_id: kek.to_string(),
                wrapped: STANDARD.encode(wrapped),
            }),
            Item::ApiKey(key) => Self::ApiKey(api_key_line(key)),
            Item::Secret(secret) => Self::Secret(secret_line(secret)),
            Item::Version(stored) => Self::Version(version_line(stored)),
        }
    }

    /// The item of a line. A version belongs to `secret`, the last one before it. `None` for a line that is not an
    /// item.
    pub(crate) fn item(self, secret: Option<&Secret>) -> Result<Option<Item>, Damaged> {
        Ok(Some(match self {
            Self::Kek(line) => Item::Kek { id: KekId::parse(&line.id)?, check: bytes_32(&line.check)? },
            Self::InternalKey(line) => Item::InternalKey {
                kek: KekId::parse(&line.kek_id)?,
                wrapped: bytes(&line.wrapped)?.into(),
                purpose: line.purpose,
            },
            Self::ApiKey(line) => Item::ApiKey(Box::new(api_key(line)?)),
            Self::Secret(line) => Item::Secret(Box::new(read_secret(line)?)),
            Self::Version(line) => Item::Version(Box::new(version(line, secret.ok_or(Damaged)?)?)),
            Self::Backup(_) | Self::End(_) | Self::Sha256(_) => return Ok(None),
        }))
    }
}

/// The mac of a backup of `items` items whose bytes hash to `hash`.
pub(crate) fn mac(key: &InternalKey, items: u64, hash: &[u8; 32]) -> [u8; 32] {
    key.mac(&[b"agentrouter backup v1\0", &items.to_be_bytes(), hash])
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

pub(crate) fn bytes(text: &str) -> Result<Vec<u8>, Damaged> {
    STANDARD.decode(text).map_err(|_| Damaged)
}

pub(crate) fn bytes_32(text: &str) -> Result<[u8; 32], Damaged> {
    bytes(text)?.try_into().map_err(|_| Damaged)
}

fn time(micros: i64) -> Result<Timestamp, Damaged> {
    let time = Timestamp::from_micros(micros);
    if time.as_micros() == micros { Ok(time) } else { Err(Damaged) }
}

fn api_key_line(key: &ApiKeyRecord) -> ApiKeyLine {
    ApiKeyLine {
        id: key.id.to_string(),
        digest: STANDARD.encode(key.digest),
        name: key.name.clone(),
        user: key.user.to_string(),
        scopes: key.scopes.to_string(),
        realm: key.realm.to_string(),
        realms: key.realms.as_ref().map(|realms| realms.iter().map(ToString::to_string).collect()),
        created_at: key.created_at.as_micros(),
        expires_at: key.expires_at.map(Timestamp::as_micros),
        revoked_at: key.revoked_at.map(Timestamp::as_micros),
    }
}

fn api_key(line: ApiKeyLine) -> Result<ApiKeyRecord, Damaged> {
    let realms = line.realms.map(|realms| realms.iter().map(|realm| Realm::parse(realm)).collect());
    Ok(ApiKeyRecord {
        id: ApiKeyId::parse(&line.id)?,
        digest: bytes_32(&line.digest)?,
        name: line.name,
        user: Owner::parse(&line.user)?,
        scopes: ScopeSet::parse(&line.scopes).map_err(|_| Damaged)?,
        realm: Realm::parse(&line.realm)?,
        realms: realms.transpose()?,
        created_at: time(line.created_at)?,
        expires_at: line.expires_at.map(time).transpose()?,
        revoked_at: line.revoked_at.map(time).transpose()?,
    })
}

fn secret_line(secret: &Secret) -> SecretLine {
    let tags = secret.tags.iter().map(|(key, value)| (key.as_str().to_owned(), value.as_str().to_owned()));
    SecretLine {
        owner: secret.place.owner.to_string(),
        realm: secret.place.realm.to_string(),
        name: secret.place.name.to_string(),
        id: secret.id.to_string(),
        description: secret.description.as_str().to_owned(),
        tags: tags.collect(),
        created_at: secret.created_at.as_micros(),
        updated_at: secret.updated_at.as_micros(),
        rotated_at: secret.rotated_at.map(Timestamp::as_micros),
        version: secret.version.get(),
        kek_id: secret.kek_id.to_string(),
    }
}

fn read_secret(line: SecretLine) -> Result<Secret, Damaged> {
    Ok(Secret {
        id: SecretId::parse(&line.id)?,
        place: Place {
            owner: Owner::parse(&line.owner)?,
            realm: Realm::parse(&line.realm)?,
            name: SecretName::parse(&line.name)?,
        },
        description: Description::parse(&line.description)?,
        tags: Tags::parse(line.tags.iter().map(|(key, value)| (key.as_str(), value.as_str())))?,
        status: Status::Active,
        version: Version::new(line.version).ok_or(Damaged)?,
        created_at: time(line.created_at)?,
        updated_at: time(line.updated_at)?,
        rotated_at: line.rotated_at.map(time).transpose()?,
        expires_at: None,
        kek_id: KekId::parse(&line.kek_id)?,
    })
}

fn version_line(stored: &Stored) -> VersionLine {
    let envelope = stored.envelope.as_ref();
    VersionLine {
        version: stored.secret.version.get(),
        status: stored.secret.status.as_str().to_owned(),
        expires_at: stored.secret.expires_at.map(Timestamp::as_micros),
        kek_id: stored.secret.kek_id.to_string(),
        wrapped_dek: envelope.map(|envelope| STANDARD.encode(&envelope.wrapped_dek)),
        sealed: envelope.map(|envelope| STANDARD.encode(&envelope.sealed)),
    }
}

fn version(line: VersionLine, secret: &Secret) -> Result<Stored, Damaged> {
    let kek_id = KekId::parse(&line.kek_id)?;
    let status = Status::parse(&line.status).map_err(|_| Damaged)?;
    let expires_at = line.expires_at.map(time).transpose()?;
    let envelope = match (line.wrapped_dek, line.sealed, status) {
        (None, None, Status::Retired) => None,
        (Some(wrapped_dek), Some(sealed), Status::Active | Status::RotatedPending) => Some(Envelope {
            kek_id: kek_id.clone(),
            wrapped_dek: bytes(&wrapped_dek)?.into(),
            sealed: bytes(&sealed)?.into(),
        }),
        _ => return Err(Damaged),
    };
    let fits = match status {
        Status::Active => expires_at.is_none(),
        Status::RotatedPending => expires_at.is_some(),
        Status::Retired => true,
    };
    let version = Version::new(line.version).filter(|_| fits).ok_or(Damaged)?;
    Ok(Stored { secret: Secret { version, status, expires_at, kek_id, ..secret.clone() }, envelope })
}
