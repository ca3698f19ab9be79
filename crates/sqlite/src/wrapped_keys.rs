//! Wrapped keys. See [`agentrouter_store::wrapped_keys`].

use agentrouter_model::{KekId, Owner, Place, Realm, SecretId, SecretName, Slot, Version};
use agentrouter_store::wrapped_keys::{DekCursor, DekPage, DekQuery, DekSwap, KEKS, RESEALED, StoredDek};
use agentrouter_store::{StoreError, WrappedKey};
use rusqlite::{Connection, Row, ToSql, params};

use super::tx::{Tx, all, first};
use super::{facts, rows, secrets, sql};

pub(super) fn kek_use(conn: &Connection) -> Result<Vec<(KekId, u64)>, StoreError> {
    let found = all(conn, sql::KEK_USE, (), |row| {
        let count = u64::try_from(rows::integer(row, 1, "a count")?).unwrap_or(0);
        // No KEK has an id that does not parse. The rows are found when they are read one by one.
        Ok(rows::parsed(row, 0, "a KEK's id", KekId::parse).ok().map(|id| (id, count)))
    })?;
    Ok(found.into_iter().flatten().collect())
}

pub(super) fn page(conn: &Connection, query: &DekQuery) -> Result<DekPage, StoreError> {
    let DekQuery { not_under, after, limit, with_values } = query;
    let statement = if *with_values { sql::DEKS_AND_VALUES } else { sql::DEKS };
    let not_under = not_under.as_ref().map_or("", KekId::as_str);
    let found = all(conn, statement, params![after.number, not_under, limit], |row| {
        let number = rows::integer(row, 0, "a row's number")?;
        match stored(row, number, *with_values) {
            Ok(dek) => Ok((number, Some(dek))),
            Err(StoreError::Corrupt(_)) => Ok((number, None)),
            Err(error) => Err(error),
        }
    })?;
    let is_full = found.len() >= *limit as usize;
    let next = found.last().filter(|_| is_full);
    let next = next.map(|(number, _)| DekCursor { secret: String::new(), number: *number });
    let damaged = found.iter().filter(|(_, dek)| dek.is_none()).count() as u64;
    Ok(DekPage { deks: found.into_iter().filter_map(|(_, dek)| dek).collect(), damaged, next })
}

fn stored(row: &Row<'_>, number: i64, with_value: bool) -> Result<StoredDek, StoreError> {
    let version = i32::try_from(rows::integer(row, 5, "a version number")?).ok().and_then(Version::new);
    Ok(StoredDek {
        place: Place {
            owner: rows::parsed(row, 1, "an owner", Owner::parse)?,
            realm: rows::parsed(row, 2, "a realm", Realm::parse)?,
            name: rows::parsed(row, 3, "a name", SecretName::parse)?,
        },
        id: rows::parsed(row, 4, "a secret's id", SecretId::parse)?,
        version: version.ok_or(StoreError::Corrupt("a version number"))?,
        kek_id: rows::parsed(row, 6, "a KEK's id", KekId::parse)?,
        wrapped: rows::bytes(row, 7, "a wrapped key")?.into(),
        sealed: with_value.then(|| rows::bytes(row, 8, "a sealed value").map(Into::into)).transpose()?,
        row: number,
    })
}

pub(super) fn swap(tx: &Tx<'_>, swaps: &[DekSwap], cursor: Option<&str>) -> Result<u64, StoreError> {
    let mut swapped = 0;
    for DekSwap { from, kek_id, wrapped, sealed } in swaps {
        let slot = Slot { place: &from.place, id: from.id, version: from.version };
        let (kek_id, before) = (kek_id.as_str(), from.kek_id.as_str());
        let mut more: Vec<&dyn ToSql> = vec![&from.row, &kek_id, wrapped, &before, &from.wrapped];
        let statement = match sealed {
            Some(sealed) => {
                more.push(sealed);
                tx.note_destroyed();
                sql::SWAP_DEK_AND_VALUE
            }
            None => sql::SWAP_DEK,
        };
        if secrets::with_slot(slot, &more, |row| tx.execute(statement, row))? != 1 {
            continue;
        }
        swapped += 1;
        let active =
            secrets::with_slot(slot, &[&from.row, &kek_id], |row| tx.execute(sql::SWAP_ACTIVE_KEK, row))?;
        if active == 0 {
            let Place { owner, realm, name } = &from.place;
            let row =
                params![owner.as_str(), realm.as_str(), name.as_str(), from.version.get(), from.row, kek_id];
            tx.execute(sql::SWAP_PENDING_KEK, row)?;
        }
    }
    if let Some(cursor) = cursor {
        tx.execute(sql::SET_FACT, params![RESEALED, cursor])?;
    }
    Ok(swapped)
}

pub(super) fn internal_keys(conn: &Connection) -> Result<Vec<(String, WrappedKey)>, StoreError> {
    all(conn, sql::INTERNAL_KEYS, (), |row| {
        let kek = rows::parsed(row, 1, "a KEK's id", KekId::parse)?;
        Ok((rows::text(row, 0, "a purpose")?.to_owned(), (kek, rows::bytes(row, 2, "a wrapped key")?.into())))
    })
}

pub(super) fn swap_internal_key(
    tx: &Tx<'_>,
    purpose: &str,
    from: &WrappedKey,
    to: &WrappedKey,
) -> Result<bool, StoreError> {
    let row = params![purpose, from.0.as_str(), from.1, to.0.as_str(), to.1];
    tx.execute(sql::SWAP_INTERNAL_KEY, row).map(|swapped| swapped == 1)
}

pub(super) fn fact(conn: &Connection, name: &str) -> Result<Option<String>, StoreError> {
    first(conn, sql::FACT, params![name], |row| rows::text(row, 0, "a fact").map(str::to_owned))
}

pub(super) fn set_fact(tx: &Tx<'_>, name: &str, value: Option<&str>) -> Result<(), StoreError> {
    match value {
        Some(value) => tx.execute(sql::SET_FACT, params![name, value]),
        None => tx.execute(sql::DELETE_FACT, params![name]),
    }
    .map(|_| ())
}

pub(super) fn retire(tx: &Tx<'_>, id: &KekId, fact: &str) -> Result<bool, StoreError> {
    let used = tx.first(sql::IS_KEK_USED, params![id.as_str()], |row| rows::integer(row, 0, "a count"))?;
    if used != Some(0) {
        return Ok(false);
    }
    tx.execute(sql::DELETE_KEK_CHECK, params![id.as_str()])?;
    tx.execute(sql::SET_FACT, params![KEKS, fact])?;
    Ok(true)
}

/// The check values that an export needs: of the KEKs that wrap keys, and of the newest by id, which is the active one.
pub(super) fn needed_checks(conn: &Connection) -> Result<Vec<(KekId, [u8; 32])>, StoreError> {
    let used = kek_use(conn)?;
    let mut checks = facts::kek_checks(conn)?;
    let newest = checks.last().map(|(id, _)| id.clone());
    checks.retain(|(id, _)| used.iter().any(|(used, _)| used == id) || Some(id) == newest.as_ref());
    Ok(checks)
}
