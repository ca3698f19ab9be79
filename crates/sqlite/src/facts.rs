//! API keys and the small facts: check values of KEKs, the service's own wrapped keys, the audit log's head.

use agentrouter_model::{ApiKeyId, ApiKeyRecord, KekId, Timestamp};
use rusqlite::{Connection, params};

use super::tx::{Snapshot, Tx, all, first};
use super::{rows, sql};
use agentrouter_store::decide::{KeyDecision, decide_key};
use agentrouter_store::row_tags::{self, KEY_MANIFEST, KeyChange};
use agentrouter_store::{AuditHead, ExaminedKey, RowTags, StoreError, WrappedKey, json, same_check};

pub(super) fn insert_key(tx: &Tx<'_>, key: &ApiKeyRecord) -> Result<(), StoreError> {
    let row = params![
        key.id.as_str(),
        key.digest,
        key.name,
        key.user.as_str(),
        key.scopes.to_string(),
        key.realm.as_str(),
        key.realms.as_deref().map(json::from_realms).transpose()?,
        key.created_at.as_micros(),
        key.expires_at.map(Timestamp::as_micros),
        key.revoked_at.map(Timestamp::as_micros),
    ];
    if tx.execute(sql::INSERT_KEY, row)? == 1 { Ok(()) } else { Err(StoreError::Exists("an API key")) }
}

/// Issues a key and revises the key manifest, which is returned. With `first`, only into a store without a key; false if
/// there is one.
pub(super) fn issue_key(
    tx: &Tx<'_>,
    tags: Option<&dyn RowTags>,
    key: &ApiKeyRecord,
    first: bool,
) -> Result<(bool, Option<String>), StoreError> {
    let any = tx.first(sql::ANY_KEY, (), |_| Ok(()))?.is_some();
    let same = tx.first(sql::KEY, params![key.id.as_str()], |_| Ok(()))?.is_some();
    match decide_key(first, any, same) {
        KeyDecision::Keep => return Ok((false, None)),
        KeyDecision::Exists => return Err(StoreError::Exists("an API key")),
        KeyDecision::Insert => insert_key(tx, key)?,
    }
    Ok((true, revise(tx, tags, KeyChange::Issued(key))?))
}

/// Writes the key manifest after a change, and returns it.
fn revise(
    tx: &Tx<'_>,
    tags: Option<&dyn RowTags>,
    change: KeyChange<'_>,
) -> Result<Option<String>, StoreError> {
    let Some(tags) = tags else { return Ok(None) };
    let present = tx.first(sql::FACT, params![KEY_MANIFEST], manifest_text)?;
    let revised = tags.revise(present.as_deref(), change)?;
    if let Some(text) = &revised {
        tx.execute(sql::SET_FACT, params![KEY_MANIFEST, text])?;
    }
    Ok(revised)
}

/// Writes a key manifest that says that all rows have tags, and returns it. A store without a manifest gets one of all keys
/// that parse.
pub(super) fn authenticate_rows(
    tx: &Tx<'_>,
    tags: Option<&dyn RowTags>,
) -> Result<Option<String>, StoreError> {
    let keys = tx.all(sql::KEYS, (), |row| match rows::api_key(row) {
        Err(StoreError::Corrupt(_)) => Ok(None),
        key => key.map(Some),
    })?;
    let keys: Vec<_> = keys.into_iter().flatten().collect();
    revise(tx, tags, KeyChange::All(&keys))
}

pub(super) fn key_manifest(conn: &Connection) -> Result<Option<String>, StoreError> {
    first(conn, sql::FACT, params![KEY_MANIFEST], manifest_text)
}

fn manifest_text(row: &rusqlite::Row<'_>) -> Result<String, StoreError> {
    rows::text(row, 0, "the key manifest").map(str::to_owned)
}

pub(super) fn key(
    conn: &Connection,
    tags: Option<&dyn RowTags>,
    id: &ApiKeyId,
) -> Result<Option<ApiKeyRecord>, StoreError> {
    let Some(tags) = tags else { return first(conn, sql::KEY, params![id.as_str()], rows::api_key) };
    row_tags::admitted(tags, || {
        let snapshot = Snapshot::begin(conn)?;
        let found = first(snapshot.conn(), sql::KEY, params![id.as_str()], rows::api_key)?;
        found.map(|key| Ok((key, key_manifest(snapshot.conn())?))).transpose()
    })
}

/// Every key that parses, the oldest first. A key that is not authentic fails the list, as one that does not parse.
pub(super) fn keys(conn: &Connection, tags: Option<&dyn RowTags>) -> Result<Vec<ApiKeyRecord>, StoreError> {
    examine_keys(conn, tags)?.into_iter().map(ExaminedKey::usable).collect()
}

pub(super) fn examine_keys(
    conn: &Connection,
    tags: Option<&dyn RowTags>,
) -> Result<Vec<ExaminedKey>, StoreError> {
    let mut reads = 0;
    loop {
        let snapshot = Snapshot::begin(conn)?;
        let mut keys = all(snapshot.conn(), sql::KEYS, (), rows::examined_key)?;
        let manifest = key_manifest(snapshot.conn())?;
        drop(snapshot);
        reads += 1;
        let current = tags.is_none_or(|tags| row_tags::examine(tags, manifest.as_deref(), &mut keys));
        if current || reads == row_tags::READS {
            ExaminedKey::sort(&mut keys);
            return Ok(keys);
        }
    }
}

pub(super) fn has_keys(conn: &Connection) -> Result<bool, StoreError> {
    first(conn, sql::ANY_KEY, (), |_| Ok(())).map(|found| found.is_some())
}

/// Revokes a key, also one that does not parse. Returns whether there is one, and the revised key manifest.
pub(super) fn revoke_unread(
    tx: &Tx<'_>,
    tags: Option<&dyn RowTags>,
    id: &ApiKeyId,
    now: Timestamp,
) -> Result<(bool, Option<String>), StoreError> {
    let before = match tx.first(sql::KEY, params![id.as_str()], rows::api_key) {
        Ok(None) => {
            let present = tx.first(sql::FACT, params![KEY_MANIFEST], manifest_text)?;
            if !tags.is_some_and(|tags| tags.listed(present.as_deref()).contains(id)) {
                return Ok((false, None));
            }
            // Its row was deleted, and the manifest still lists it.
            None
        }
        Ok(Some(key)) => Some(key),
        Err(StoreError::Corrupt(_)) => None,
        Err(error) => return Err(error),
    };
    revoke(tx, id, now)?;
    let change = KeyChange::Revoked { id, before: before.as_ref(), at: now };
    Ok((true, revise(tx, tags, change)?))
}

/// As [`revoke_unread`], and returns the key.
pub(super) fn revoke_key(
    tx: &Tx<'_>,
    tags: Option<&dyn RowTags>,
    id: &ApiKeyId,
    now: Timestamp,
) -> Result<(Option<ApiKeyRecord>, Option<String>), StoreError> {
    let (_, manifest) = revoke_unread(tx, tags, id, now)?;
    Ok((tx.first(sql::KEY, params![id.as_str()], rows::api_key)?, manifest))
}

/// Revokes a key that is not revoked, or whose time of revocation is damaged.
fn revoke(tx: &Tx<'_>, id: &ApiKeyId, now: Timestamp) -> Result<(), StoreError> {
    let bounds = (Timestamp::MIN.as_micros(), Timestamp::MAX.as_micros());
    tx.execute(sql::REVOKE_KEY, params![id.as_str(), now.as_micros(), bounds.0, bounds.1]).map(|_| ())
}

pub(super) fn kek_checks(conn: &Connection) -> Result<Vec<(KekId, [u8; 32])>, StoreError> {
    all(conn, sql::KEK_CHECKS, (), kek_check)
}

pub(super) fn insert_kek_check(tx: &Tx<'_>, id: &KekId, check: &[u8; 32]) -> Result<(), StoreError> {
    match tx.first(sql::KEK_CHECK, params![id.as_str()], kek_check)? {
        Some((_, present)) => same_check(&present, check),
        None => tx.execute(sql::INSERT_KEK_CHECK, params![id.as_str(), check]).map(|_| ()),
    }
}

pub(super) fn internal_key(conn: &Connection, purpose: &str) -> Result<Option<WrappedKey>, StoreError> {
    first(conn, sql::INTERNAL_KEY, params![purpose], wrapped)
}

pub(super) fn insert_internal_key(
    tx: &Tx<'_>,
    purpose: &str,
    kek: KekId,
    key: Box<[u8]>,
) -> Result<WrappedKey, StoreError> {
    if let Some(present) = tx.first(sql::INTERNAL_KEY, params![purpose], wrapped)? {
        return Ok(present);
    }
    tx.execute(sql::INSERT_INTERNAL_KEY, params![purpose, kek.as_str(), key])?;
    Ok((kek, key))
}

pub(super) fn audit_head(conn: &Connection) -> Result<Option<AuditHead>, StoreError> {
    first(conn, sql::AUDIT_HEAD, (), |row| {
        let seq = u64::try_from(rows::integer(row, 0, "the audit head")?);
        Ok((
            seq.map_err(|_| StoreError::Corrupt("the audit head"))?,
            rows::bytes_32(row, 1, "the audit head")?,
        ))
    })
}

pub(super) fn set_audit_head(tx: &Tx<'_>, (seq, mac): AuditHead) -> Result<(), StoreError> {
    let seq =
        i64::try_from(seq).map_err(|_| StoreError::unavailable("the audit log's number is too large"))?;
    tx.execute(sql::SET_AUDIT_HEAD, params![seq, mac]).map(|_| ())
}

fn kek_check(row: &rusqlite::Row<'_>) -> Result<(KekId, [u8; 32]), StoreError> {
    Ok((rows::parsed(row, 0, "a KEK's id", KekId::parse)?, rows::bytes_32(row, 1, "a KEK's check value")?))
}

fn wrapped(row: &rusqlite::Row<'_>) -> Result<WrappedKey, StoreError> {
    Ok((rows::parsed(row, 0, "a KEK's id", KekId::parse)?, rows::bytes(row, 1, "a wrapped key")?.into()))
}
