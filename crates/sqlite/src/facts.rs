//! API keys and the small facts: check values of KEKs, the service's own wrapped keys, the audit log's head.

use agentrouter_model::{ApiKeyId, ApiKeyRecord, KekId, Timestamp};
use rusqlite::{Connection, params};

use super::tx::{Tx, all, first};
use super::{rows, sql};
use agentrouter_store::{AuditHead, ExaminedKey, StoreError, WrappedKey, json, same_check};

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

pub(super) fn insert_first_key(tx: &Tx<'_>, key: &ApiKeyRecord) -> Result<bool, StoreError> {
    match tx.first(sql::ANY_KEY, (), |_| Ok(()))? {
        Some(()) => Ok(false),
        None => insert_key(tx, key).map(|()| true),
    }
}

pub(super) fn key(conn: &Connection, id: &ApiKeyId) -> Result<Option<ApiKeyRecord>, StoreError> {
    first(conn, sql::KEY, params![id.as_str()], rows::api_key)
}

pub(super) fn keys(conn: &Connection) -> Result<Vec<ApiKeyRecord>, StoreError> {
    let mut keys = all(conn, sql::KEYS, (), rows::api_key)?;
    keys.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
    Ok(keys)
}

pub(super) fn examine_keys(conn: &Connection) -> Result<Vec<ExaminedKey>, StoreError> {
    let mut keys = all(conn, sql::KEYS, (), rows::examined_key)?;
    ExaminedKey::sort(&mut keys);
    Ok(keys)
}

pub(super) fn has_keys(conn: &Connection) -> Result<bool, StoreError> {
    first(conn, sql::ANY_KEY, (), |_| Ok(())).map(|found| found.is_some())
}

pub(super) fn revoke_unread(tx: &Tx<'_>, id: &ApiKeyId, now: Timestamp) -> Result<bool, StoreError> {
    revoke(tx, id, now)?;
    tx.first(sql::KEY, params![id.as_str()], |_| Ok(())).map(|found| found.is_some())
}

pub(super) fn revoke_key(
    tx: &Tx<'_>,
    id: &ApiKeyId,
    now: Timestamp,
) -> Result<Option<ApiKeyRecord>, StoreError> {
    revoke(tx, id, now)?;
    tx.first(sql::KEY, params![id.as_str()], rows::api_key)
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
