//! Rows to model and back.
//!
//! Whoever can write the file can put anything into a row, so every column is parsed like a request; what does not parse
//! is [`StoreError::Corrupt`], with a fixed word and never with the bytes.

use std::sync::Arc;

use agentrouter_model::{
    ApiKeyId, ApiKeyRecord, Description, Envelope, KekId, Owner, ParseError, Place, Realm, ScopeSet, Secret,
    SecretId, SecretName, Status, Tags, Timestamp, Version,
};
use rusqlite::{ErrorCode, Row};

use crate::{ExaminedKey, StoreError, Stored, json};

/// What an error of SQLite means to a caller. Its text names tables and columns at most, never a value.
pub(super) fn failure(error: rusqlite::Error) -> StoreError {
    let reason = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            return StoreError::Corrupt("the database file");
        }
        Some(ErrorCode::DiskFull) => "the disk is full",
        Some(ErrorCode::SystemIoFailure) => "the disk failed",
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => "another process holds the database",
        Some(ErrorCode::ReadOnly) => "the database is read-only",
        Some(ErrorCode::CannotOpen) => "the database file cannot be opened",
        _ => "the database refused",
    };
    StoreError::Unavailable { reason, source: Some(Arc::new(error)) }
}

/// A column of text.
pub(super) fn text<'r>(row: &'r Row<'_>, column: usize, what: &'static str) -> Result<&'r str, StoreError> {
    row.get_ref(column).map_err(failure)?.as_str().map_err(|_| StoreError::Corrupt(what))
}

/// A column of text or NULL.
fn text_or_null<'r>(
    row: &'r Row<'_>,
    column: usize,
    what: &'static str,
) -> Result<Option<&'r str>, StoreError> {
    row.get_ref(column).map_err(failure)?.as_str_or_null().map_err(|_| StoreError::Corrupt(what))
}

/// A column of an integer.
pub(super) fn integer(row: &Row<'_>, column: usize, what: &'static str) -> Result<i64, StoreError> {
    row.get_ref(column).map_err(failure)?.as_i64().map_err(|_| StoreError::Corrupt(what))
}

/// A column of an integer or NULL.
pub(super) fn integer_or_null(
    row: &Row<'_>,
    column: usize,
    what: &'static str,
) -> Result<Option<i64>, StoreError> {
    row.get_ref(column).map_err(failure)?.as_i64_or_null().map_err(|_| StoreError::Corrupt(what))
}

/// A column of an instant.
pub(super) fn time(row: &Row<'_>, column: usize) -> Result<Timestamp, StoreError> {
    integer(row, column, "a time").map(Timestamp::from_micros)
}

fn time_or_null(row: &Row<'_>, column: usize) -> Result<Option<Timestamp>, StoreError> {
    let micros = row.get_ref(column).map_err(failure)?.as_i64_or_null();
    Ok(micros.map_err(|_| StoreError::Corrupt("a time"))?.map(Timestamp::from_micros))
}

/// A column of bytes or NULL.
fn bytes_or_null<'r>(
    row: &'r Row<'_>,
    column: usize,
    what: &'static str,
) -> Result<Option<&'r [u8]>, StoreError> {
    row.get_ref(column).map_err(failure)?.as_blob_or_null().map_err(|_| StoreError::Corrupt(what))
}

/// A column of bytes.
pub(super) fn bytes<'r>(row: &'r Row<'_>, column: usize, what: &'static str) -> Result<&'r [u8], StoreError> {
    bytes_or_null(row, column, what)?.ok_or(StoreError::Corrupt(what))
}

/// A column of exactly 32 bytes.
pub(super) fn bytes_32(row: &Row<'_>, column: usize, what: &'static str) -> Result<[u8; 32], StoreError> {
    bytes(row, column, what)?.try_into().map_err(|_| StoreError::Corrupt(what))
}

/// A column of a text that parses.
pub(super) fn parsed<T>(
    row: &Row<'_>,
    column: usize,
    what: &'static str,
    parse: fn(&str) -> Result<T, ParseError>,
) -> Result<T, StoreError> {
    parse(text(row, column, what)?).map_err(|_| StoreError::Corrupt(what))
}

/// The number of a version, of the columns that [`secret`] reads.
pub(super) fn version(row: &Row<'_>) -> Result<Version, StoreError> {
    let number = i32::try_from(integer(row, 9, "a version number")?).ok();
    number.and_then(Version::new).ok_or(StoreError::Corrupt("a version number"))
}

/// A column of a text that parses, like that of a row before: what is the same text was parsed then and is shared.
fn parsed_like<T: Clone>(
    row: &Row<'_>,
    column: usize,
    what: &'static str,
    before: Option<(&T, &str)>,
    parse: fn(&str) -> Result<T, ParseError>,
) -> Result<T, StoreError> {
    let text = text(row, column, what)?;
    match before {
        Some((before, same)) if same == text => Ok(before.clone()),
        _ => parse(text).map_err(|_| StoreError::Corrupt(what)),
    }
}

/// The first 13 columns of every statement that reads secrets (see `sql`).
pub(super) fn secret(row: &Row<'_>) -> Result<Secret, StoreError> {
    secret_like(row, None, &mut String::new())
}

/// The same for one row of many. Rows of a list have most of their texts in common: what is as in the row `before` is
/// shared with it, which made a page of 50 a third cheaper. `tags_before` is the stored form of that row's tags, and
/// becomes this one's.
pub(super) fn secret_like(
    row: &Row<'_>,
    before: Option<&Secret>,
    tags_before: &mut String,
) -> Result<Secret, StoreError> {
    let place = before.map(|before| &before.place);
    let owner = place.map(|place| (&place.owner, place.owner.as_str()));
    let realm = place.map(|place| (&place.realm, place.realm.as_str()));
    let description = before.map(|before| (&before.description, before.description.as_str()));
    let kek_id = before.map(|before| (&before.kek_id, before.kek_id.as_str()));
    Ok(Secret {
        place: Place {
            owner: parsed_like(row, 0, "an owner", owner, Owner::parse)?,
            realm: parsed_like(row, 1, "a realm", realm, Realm::parse)?,
            name: parsed(row, 2, "a name", SecretName::parse)?,
        },
        id: parsed(row, 3, "a secret's id", SecretId::parse)?,
        description: parsed_like(row, 4, "a description", description, Description::parse)?,
        tags: tags_like(text(row, 5, "tags")?, before, tags_before)?,
        created_at: time(row, 6)?,
        updated_at: time(row, 7)?,
        rotated_at: time_or_null(row, 8)?,
        version: version(row)?,
        status: Status::parse(text(row, 10, "a status")?).map_err(|_| StoreError::Corrupt("a status"))?,
        expires_at: time_or_null(row, 11)?,
        kek_id: parsed_like(row, 12, "a KEK's id", kek_id, KekId::parse)?,
    })
}

/// The same and the two columns of the sealed value after them.
pub(super) fn stored(row: &Row<'_>) -> Result<Stored, StoreError> {
    let secret = secret(row)?;
    let wrapped_dek = bytes_or_null(row, 13, "a wrapped key")?;
    let sealed = bytes_or_null(row, 14, "a sealed value")?;
    let envelope = match (wrapped_dek, sealed) {
        (Some(wrapped_dek), Some(sealed)) => Some(Envelope {
            kek_id: secret.kek_id.clone(),
            wrapped_dek: wrapped_dek.into(),
            sealed: sealed.into(),
        }),
        (None, None) if !secret.status.is_readable() => None,
        _ => return Err(StoreError::Corrupt("half a sealed value")),
    };
    Ok(Stored { secret, envelope })
}

/// The columns of an API key.
pub(super) fn api_key(row: &Row<'_>) -> Result<ApiKeyRecord, StoreError> {
    let scopes = ScopeSet::parse(text(row, 4, "a key's scopes")?);
    Ok(ApiKeyRecord {
        id: parsed(row, 0, "a key's id", ApiKeyId::parse)?,
        digest: bytes_32(row, 1, "a key's digest")?,
        name: text(row, 2, "a key's name")?.to_owned(),
        user: parsed(row, 3, "a key's user", Owner::parse)?,
        scopes: scopes.map_err(|_| StoreError::Corrupt("a key's scopes"))?,
        realm: parsed(row, 5, "a key's realm", Realm::parse)?,
        realms: text_or_null(row, 6, "a key's realms")?.map(json::realms).transpose()?,
        created_at: time(row, 7)?,
        expires_at: time_or_null(row, 8)?,
        revoked_at: time_or_null(row, 9)?,
    })
}

fn tags_like(text: &str, before: Option<&Secret>, json_before: &mut String) -> Result<Tags, StoreError> {
    match before {
        Some(before) if json_before == text => Ok(before.tags.clone()),
        _ => {
            json_before.clear();
            json_before.push_str(text);
            json::tags(text)
        }
    }
}

/// What can be said of an API key that does not parse.
pub(super) fn damaged_key(row: &Row<'_>) -> ExaminedKey {
    ExaminedKey::Damaged {
        id: parsed(row, 0, "a key's id", ApiKeyId::parse).ok(),
        revoked: matches!(time_or_null(row, 9), Ok(Some(_))),
    }
}
