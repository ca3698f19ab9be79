//! Conversion of rows to the model.
//!
//! An attacker who can write the file can put anything into a row, so every column is parsed like a request. A row that
//! does not parse is [`StoreError::Corrupt`], with a fixed word and never with the bytes.

use std::sync::Arc;

use agentrouter_model::{
    ApiKeyId, ApiKeyRecord, Description, KekId, Owner, ParseError, Place, Realm, ScopeSet, Secret, SecretId,
    SecretName, Status, Tags, Timestamp, Version,
};
use rusqlite::types::ValueRef;
use rusqlite::{ErrorCode, Row};

use agentrouter_store::row_tags::{RowTag, verify_secret, verify_version};
use agentrouter_store::{ExaminedKey, RowTags, StoreError, Stored, json};

/// What an error of SQLite means to a caller. Its text names tables and columns at most, never a value.
///
/// SQLite reports a page that the disk cannot read (`EIO`) or that a truncated file lacks as a damaged database. So that
/// is a failure of the store, and not [`StoreError::Corrupt`], which is damaged content that was read.
pub(super) fn failure(error: rusqlite::Error) -> StoreError {
    let reason = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => UNREADABLE,
        Some(ErrorCode::DiskFull) => "the disk is full",
        Some(ErrorCode::SystemIoFailure) => "the disk failed",
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => "another process holds the database",
        Some(ErrorCode::ReadOnly) => "the database is read-only",
        Some(ErrorCode::CannotOpen) => "the database file cannot be opened",
        _ => "the database refused",
    };
    StoreError::Unavailable { reason, source: Some(Arc::new(error)) }
}

/// Whether pages of the database could not be read.
pub(super) fn is_unreadable(error: &StoreError) -> bool {
    let StoreError::Unavailable { source: Some(source), .. } = error else { return false };
    let code = source.downcast_ref::<rusqlite::Error>().and_then(rusqlite::Error::sqlite_error_code);
    matches!(code, Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::SystemIoFailure))
}

/// The reason for pages that are damaged or missing.
pub(super) const UNREADABLE: &str = "the database file is damaged, or its disk cannot be read";

/// A column of text.
pub(super) fn text<'r>(row: &'r Row<'_>, column: usize, what: &'static str) -> Result<&'r str, StoreError> {
    row.get_ref(column).map_err(failure)?.as_str().map_err(|_| StoreError::Corrupt(what))
}

/// A column of text as stored, which may not be UTF-8.
pub(super) fn raw<'r>(row: &'r Row<'_>, column: usize, what: &'static str) -> Result<&'r [u8], StoreError> {
    match row.get_ref(column).map_err(failure)? {
        ValueRef::Text(bytes) => Ok(bytes),
        _ => Err(StoreError::Corrupt(what)),
    }
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

/// A column of an instant. An instant outside the calendar is damage.
fn time(row: &Row<'_>, column: usize) -> Result<Timestamp, StoreError> {
    time_or_null(row, column)?.ok_or(StoreError::Corrupt("a time"))
}

fn time_or_null(row: &Row<'_>, column: usize) -> Result<Option<Timestamp>, StoreError> {
    let micros = integer_or_null(row, column, "a time")?;
    micros.map(|micros| Timestamp::checked(micros).ok_or(StoreError::Corrupt("a time"))).transpose()
}

/// When a version is due, for the reaper's schedule alone. Brought to the nearest instant, so that a damaged row does
/// not stop the others from being retired.
pub(super) fn due(row: &Row<'_>) -> Result<Timestamp, StoreError> {
    integer(row, 0, "a time").map(Timestamp::from_micros)
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
    version_in(row, 9)
}

fn version_in(row: &Row<'_>, column: usize) -> Result<Version, StoreError> {
    let number = i32::try_from(integer(row, column, "a version number")?).ok();
    number.and_then(Version::new).ok_or(StoreError::Corrupt("a version number"))
}

/// The first 16 columns of every statement that reads secrets one by one (see `sql`). With `tags`, refuses a row that is
/// not authentic.
pub(super) fn secret(row: &Row<'_>, tags: Option<&dyn RowTags>) -> Result<Secret, StoreError> {
    let secret = Secret {
        place: Place {
            owner: parsed(row, 0, "an owner", Owner::parse)?,
            realm: parsed(row, 1, "a realm", Realm::parse)?,
            name: parsed(row, 2, "a name", SecretName::parse)?,
        },
        id: parsed(row, 3, "a secret's id", SecretId::parse)?,
        description: parsed(row, 4, "a description", Description::parse)?,
        tags: json::tags(text(row, 5, "tags")?)?,
        created_at: time(row, 6)?,
        updated_at: time(row, 7)?,
        rotated_at: time_or_null(row, 8)?,
        version: version(row)?,
        status: status(row, 10)?,
        expires_at: time_or_null(row, 11)?,
        kek_id: parsed(row, 12, "a KEK's id", KekId::parse)?,
    };
    verify(row, &secret, tags)?;
    Ok(secret)
}

/// Refuses a row of which [`secret`] is `secret`, if it is not authentic. A version that is active has no row of its own.
pub(super) fn verify(row: &Row<'_>, secret: &Secret, tags: Option<&dyn RowTags>) -> Result<(), StoreError> {
    if tags.is_none() {
        return Ok(());
    }
    verify_secret(tags, secret, version_in(row, 13)?, tag(row, 14)?)?;
    if secret.status == Status::Active { Ok(()) } else { verify_version(tags, secret, tag(row, 15)?) }
}

/// A column of a tag or NULL.
pub(super) fn tag<'r>(row: &'r Row<'_>, column: usize) -> Result<Option<&'r [u8]>, StoreError> {
    bytes_or_null(row, column, "a tag")
}

fn status(row: &Row<'_>, column: usize) -> Result<Status, StoreError> {
    Status::parse(text(row, column, "a status")?).map_err(|_| StoreError::Corrupt("a status"))
}

/// The values that rows of a list usually have in common. A value that is equal to the previous row's is shared with it
/// and not parsed again.
#[derive(Default)]
pub(super) struct Before {
    description: Option<(Box<[u8]>, Description)>,
    tags: Option<(Box<[u8]>, Tags)>,
    kek_id: Option<(Box<[u8]>, KekId)>,
}

/// A row of a list of one owner's secrets in one realm. Owner and realm are known from the query and not read. A list
/// of active versions has the columns of `listed_columns` in `sql`. Other lists have the columns that [`secret`] reads.
///
/// With `tags`, refuses a row that is not authentic, except one of a list of active versions: it returns the tag of that
/// row, which its caller verifies together with those of other rows.
pub(super) fn listed(
    row: &Row<'_>,
    (owner, realm): (&Owner, &Realm),
    is_active: bool,
    before: &mut Before,
    tags: Option<&dyn RowTags>,
) -> Result<(Secret, Option<RowTag>), StoreError> {
    let (first, kek_id) = if is_active { (0, 8) } else { (2, 12) };
    let (status, expires_at) =
        if is_active { (Status::Active, None) } else { (status(row, 10)?, time_or_null(row, 11)?) };
    let secret = Secret {
        place: Place {
            owner: owner.clone(),
            realm: realm.clone(),
            name: parsed(row, first, "a name", SecretName::parse)?,
        },
        id: SecretId::parse_bytes(raw(row, first + 1, "a secret's id")?)
            .map_err(|_| StoreError::Corrupt("a secret's id"))?,
        description: like(&mut before.description, raw(row, first + 2, "a description")?, |text| {
            Description::parse(text).map_err(|_| StoreError::Corrupt("a description"))
        })?,
        tags: match raw(row, first + 3, "tags")? {
            // Not remembered, so that the values of the rows around it stay remembered.
            b"{}" => Tags::default(),
            json => like(&mut before.tags, json, json::tags)?,
        },
        created_at: time(row, first + 4)?,
        updated_at: time(row, first + 5)?,
        rotated_at: time_or_null(row, first + 6)?,
        version: version_in(row, first + 7)?,
        status,
        expires_at,
        kek_id: like(&mut before.kek_id, raw(row, kek_id, "a KEK's id")?, |text| {
            KekId::parse(text).map_err(|_| StoreError::Corrupt("a KEK's id"))
        })?,
    };
    if is_active {
        let stored = tag(row, 9)?.and_then(|stored| stored.try_into().ok());
        return Ok((secret, stored));
    }
    verify(row, &secret, tags)?;
    Ok((secret, None))
}

/// The value of a text: the previous row's value if the text is equal.
fn like<T: Clone>(
    before: &mut Option<(Box<[u8]>, T)>,
    bytes: &[u8],
    parse: impl FnOnce(&str) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    match before {
        Some((same, value)) if **same == *bytes => Ok(value.clone()),
        _ => {
            let text = str::from_utf8(bytes).map_err(|_| StoreError::Corrupt("a text"))?;
            let value = parse(text)?;
            *before = Some((bytes.into(), value.clone()));
            Ok(value)
        }
    }
}

/// The same and the two columns of the sealed value after them.
pub(super) fn stored(row: &Row<'_>, tags: Option<&dyn RowTags>) -> Result<Stored, StoreError> {
    let secret = secret(row, tags)?;
    Stored::new(secret, bytes_or_null(row, 16, "a wrapped key")?, bytes_or_null(row, 17, "a sealed value")?)
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

/// An API key, damaged or not.
pub(super) fn examined_key(row: &Row<'_>) -> Result<ExaminedKey, StoreError> {
    match api_key(row) {
        Ok(key) => Ok(ExaminedKey::Whole(key)),
        Err(StoreError::Corrupt(_)) => Ok(ExaminedKey::Damaged {
            id: parsed(row, 0, "a key's id", ApiKeyId::parse).ok(),
            revoked: matches!(time_or_null(row, 9), Ok(Some(_))),
        }),
        Err(error) => Err(error),
    }
}
