//! Conversion of rows to the model.
//!
//! An attacker who can write the database can put anything into a row, so every column is parsed like a request. What
//! does not parse is [`StoreError::Corrupt`], with a fixed word and never with the bytes.

use agentrouter_model::{
    ApiKeyId, ApiKeyRecord, Description, KekId, Owner, ParseError, Place, Realm, ScopeSet, Secret, SecretId,
    SecretName, Status, Timestamp, Version,
};
use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

use agentrouter_store::row_tags::{refused, verify_secret, verify_version};
use agentrouter_store::{AuditHead, ExaminedKey, RowTags, StoreError, Stored, WrappedKey, json};

/// A column of any type.
pub(super) fn column<'r, T: FromSql<'r>>(
    row: &'r Row,
    at: usize,
    what: &'static str,
) -> Result<T, StoreError> {
    row.try_get(at).map_err(|_| StoreError::Corrupt(what))
}

/// A column of an instant. An instant outside the calendar is damage.
fn time(row: &Row, at: usize) -> Result<Timestamp, StoreError> {
    time_or_null(row, at)?.ok_or(StoreError::Corrupt("a time"))
}

fn time_or_null(row: &Row, at: usize) -> Result<Option<Timestamp>, StoreError> {
    let micros = column::<Option<i64>>(row, at, "a time")?;
    micros.map(|micros| Timestamp::checked(micros).ok_or(StoreError::Corrupt("a time"))).transpose()
}

/// When a version is due, for the reaper's schedule alone. Brought to the nearest instant, so that a damaged row does
/// not stop the others from being retired.
pub(super) fn due(row: &Row) -> Result<Timestamp, StoreError> {
    column::<i64>(row, 0, "a time").map(Timestamp::from_micros)
}

/// A column of exactly 32 bytes.
pub(super) fn bytes_32(row: &Row, at: usize, what: &'static str) -> Result<[u8; 32], StoreError> {
    column::<&[u8]>(row, at, what)?.try_into().map_err(|_| StoreError::Corrupt(what))
}

/// A column of a text that parses.
pub(super) fn parsed<T>(
    row: &Row,
    at: usize,
    what: &'static str,
    parse: fn(&str) -> Result<T, ParseError>,
) -> Result<T, StoreError> {
    parse(column(row, at, what)?).map_err(|_| StoreError::Corrupt(what))
}

/// A column of bytes that are UTF-8.
fn utf8<'r>(row: &'r Row, at: usize, what: &'static str) -> Result<&'r str, StoreError> {
    std::str::from_utf8(column(row, at, what)?).map_err(|_| StoreError::Corrupt(what))
}

/// The number of a version, of the columns that [`secret`] reads.
pub(super) fn version(row: &Row) -> Result<Version, StoreError> {
    Version::new(column(row, 9, "a version number")?).ok_or(StoreError::Corrupt("a version number"))
}

/// The first 15 columns of every statement that reads secrets (see `sql`). With `tags`, refuses the row of a secret that is
/// not authentic.
pub(super) fn secret(row: &Row, tags: Option<&dyn RowTags>) -> Result<Secret, StoreError> {
    let secret = Secret {
        place: Place {
            owner: parsed(row, 0, "an owner", Owner::parse)?,
            realm: parsed(row, 1, "a realm", Realm::parse)?,
            name: parsed(row, 2, "a name", SecretName::parse)?,
        },
        id: parsed(row, 3, "a secret's id", SecretId::parse)?,
        description: Description::parse(utf8(row, 4, "a description")?)
            .map_err(|_| StoreError::Corrupt("a description"))?,
        tags: json::tags(column(row, 5, "tags")?)?,
        created_at: time(row, 6)?,
        updated_at: time(row, 7)?,
        rotated_at: time_or_null(row, 8)?,
        version: version(row)?,
        status: Status::parse(column(row, 10, "a status")?).map_err(|_| StoreError::Corrupt("a status"))?,
        expires_at: time_or_null(row, 11)?,
        kek_id: parsed(row, 12, "a KEK's id", KekId::parse)?,
    };
    if let Some(row_tags) = tags {
        let active = Version::new(column(row, 13, "a version number")?);
        let active = active.ok_or(StoreError::Corrupt("a version number"))?;
        verify_secret(tags, &secret, active, column(row, 14, "a tag")?)?;
        // An earlier state of a version's row fits its tag. Which version is active, the row of the secret says.
        if secret.status == Status::Active && secret.version != active {
            return Err(refused(row_tags, "the status of a version"));
        }
    }
    Ok(secret)
}

/// The same and the column of the tag of the version's own row. With `tags`, refuses it too if it is not authentic.
pub(super) fn of_version(row: &Row, tags: Option<&dyn RowTags>) -> Result<Secret, StoreError> {
    let secret = secret(row, tags)?;
    verify_version(tags, &secret, column(row, 15, "a tag")?)?;
    Ok(secret)
}

/// The same and the two columns of the sealed value after them.
pub(super) fn stored(row: &Row, tags: Option<&dyn RowTags>) -> Result<Stored, StoreError> {
    let secret = of_version(row, tags)?;
    Stored::new(secret, column(row, 16, "a wrapped key")?, column(row, 17, "a sealed value")?)
}

/// The same of a version that must be the active one.
pub(super) fn active(row: &Row, tags: Option<&dyn RowTags>) -> Result<Stored, StoreError> {
    stored(row, tags)?.active()
}

/// The columns of an API key.
pub(super) fn api_key(row: &Row) -> Result<ApiKeyRecord, StoreError> {
    let scopes = ScopeSet::parse(column(row, 4, "a key's scopes")?);
    Ok(ApiKeyRecord {
        id: parsed(row, 0, "a key's id", ApiKeyId::parse)?,
        digest: bytes_32(row, 1, "a key's digest")?,
        name: utf8(row, 2, "a key's name")?.to_owned(),
        user: parsed(row, 3, "a key's user", Owner::parse)?,
        scopes: scopes.map_err(|_| StoreError::Corrupt("a key's scopes"))?,
        realm: parsed(row, 5, "a key's realm", Realm::parse)?,
        realms: column::<Option<&str>>(row, 6, "a key's realms")?.map(json::realms).transpose()?,
        created_at: time(row, 7)?,
        expires_at: time_or_null(row, 8)?,
        revoked_at: time_or_null(row, 9)?,
    })
}

/// An API key, damaged or not.
pub(super) fn examined_key(row: &Row) -> ExaminedKey {
    api_key(row).map_or_else(
        |_| ExaminedKey::Damaged {
            id: parsed(row, 0, "a key's id", ApiKeyId::parse).ok(),
            revoked: matches!(time_or_null(row, 9), Ok(Some(_))),
        },
        ExaminedKey::Whole,
    )
}

/// A KEK's id and its check value.
pub(super) fn kek_check(row: &Row) -> Result<(KekId, [u8; 32]), StoreError> {
    Ok((parsed(row, 0, "a KEK's id", KekId::parse)?, bytes_32(row, 1, "a KEK's check value")?))
}

/// A KEK's id and a key that it wraps.
pub(super) fn wrapped(row: &Row) -> Result<WrappedKey, StoreError> {
    let wrapped: &[u8] = column(row, 1, "a wrapped key")?;
    Ok((parsed(row, 0, "a KEK's id", KekId::parse)?, wrapped.into()))
}

/// The number and the MAC of an audit record.
pub(super) fn audit_head(row: &Row) -> Result<AuditHead, StoreError> {
    let seq: i64 = column(row, 0, "the audit head")?;
    let seq = u64::try_from(seq).map_err(|_| StoreError::Corrupt("the audit head"))?;
    Ok((seq, bytes_32(row, 1, "the audit head")?))
}
