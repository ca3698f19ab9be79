//! Export and import of the whole database. See [`agentrouter_store::portable`].

use std::sync::Arc;

use agentrouter_model::{ApiKeyRecord, SecretId, Slot};
use async_trait::async_trait;
use rusqlite::{Connection, Row, params};

use super::rows::{self, failure};
use super::tx::{Tx, all, first};
use super::{facts, secrets, sql, wrapped_keys};
use agentrouter_store::portable::{EPOCH, Export, Import, Item, LeftOut, whole_secret};
use agentrouter_store::row_tags::{self, verified};
use agentrouter_store::{ExaminedKey, RowTags, State, StoreError, Stored};

/// A read transaction on a connection of its own. Until it is dropped, the log keeps the pages that it sees.
pub(super) struct SqliteExport {
    conn: Connection,
    at: Stage,
    left_out: LeftOut,
    tags: Option<Arc<dyn RowTags>>,
}

/// Owner, realm and name as stored. They may not parse.
type PlaceTexts = [String; 3];

/// The next part of the export.
enum Stage {
    Facts,
    /// Secrets after this place.
    Secrets(PlaceTexts),
    End,
}

impl SqliteExport {
    /// Begins on a connection from [`open_reader`](super::file::open_reader).
    pub(super) fn begin(conn: Connection, tags: Option<Arc<dyn RowTags>>) -> Result<Self, StoreError> {
        conn.execute_batch("BEGIN").map_err(failure)?;
        // The first read takes the snapshot.
        first(&conn, sql::FACT, params![EPOCH], |_| Ok(()))?;
        Ok(Self { conn, at: Stage::Facts, left_out: LeftOut::default(), tags })
    }

    fn facts(&self) -> Result<Vec<Item>, StoreError> {
        let mut items = Vec::new();
        for (id, check) in wrapped_keys::needed_checks(&self.conn)? {
            items.push(Item::Kek { id, check });
        }
        items.extend(all(&self.conn, sql::INTERNAL_KEYS, (), |row| {
            Ok(Item::InternalKey {
                purpose: rows::text(row, 0, "a purpose")?.to_owned(),
                kek: rows::parsed(row, 1, "a KEK's id", agentrouter_model::KekId::parse)?,
                wrapped: rows::bytes(row, 2, "a wrapped key")?.into(),
            })
        })?);
        let mut keys = all(&self.conn, sql::KEYS, (), rows::examined_key)?;
        if let Some(tags) = &self.tags {
            let manifest = facts::key_manifest(&self.conn)?;
            if !row_tags::examine(&**tags, manifest.as_deref(), &mut keys) {
                return Err(row_tags::refused(&**tags, row_tags::OLDER));
            }
        }
        let mut keys: Vec<_> = keys.into_iter().filter_map(exported).collect();
        keys.sort_by(|a, b| a.id.cmp(&b.id));
        items.extend(keys.into_iter().map(|key| Item::ApiKey(Box::new(key))));
        Ok(items)
    }

    /// The secrets after a place, and the last place among them; none at the end.
    fn secrets(
        &mut self,
        after: &PlaceTexts,
        count: usize,
    ) -> Result<(Vec<Item>, Option<PlaceTexts>), StoreError> {
        let [owner, realm, name] = after;
        let limit = i64::try_from(count.max(1)).unwrap_or(i64::MAX);
        let tags = verified(self.tags.as_deref());
        let found = all(&self.conn, sql::EXPORT_SECRETS, params![owner, realm, name, limit], |row| {
            let id = rows::parsed(row, 3, "a secret's id", SecretId::parse).ok().map(|id| id.to_string());
            Ok((at(row)?, id, rows::secret(row, tags)))
        })?;
        let last = found.last().map(|(at, ..)| at.clone());
        let mut items = Vec::new();
        for ([owner, realm, name], id, secret) in found {
            let versions = match &secret {
                Ok(_) => all(&self.conn, sql::EXPORT_VERSIONS, params![owner, realm, name], |row| {
                    Ok(rows::stored(row, tags))
                })?,
                Err(_) => Vec::new(),
            };
            items.extend(whole_secret(secret, || id, versions, &mut self.left_out)?);
        }
        Ok((items, last))
    }
}

/// A key for an export. One that is refused everywhere is left out, and the export continues.
fn exported(key: ExaminedKey) -> Option<ApiKeyRecord> {
    match key.usable() {
        Ok(key) => Some(key),
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "an API key is left out");
            None
        }
    }
}

fn at(row: &Row<'_>) -> Result<PlaceTexts, StoreError> {
    let text = |column| rows::text(row, column, "a secret's place").map(str::to_owned);
    Ok([text(0)?, text(1)?, text(2)?])
}

#[async_trait]
impl Export for SqliteExport {
    async fn next(&mut self, count: usize) -> Result<Vec<Item>, StoreError> {
        loop {
            let (items, next) = match &self.at {
                Stage::Facts => (self.facts()?, Stage::Secrets(PlaceTexts::default())),
                Stage::Secrets(after) => {
                    let (items, last) = self.secrets(&after.clone(), count)?;
                    (items, last.map_or(Stage::End, Stage::Secrets))
                }
                Stage::End => return Ok(Vec::new()),
            };
            self.at = next;
            if !items.is_empty() {
                return Ok(items);
            }
        }
    }

    fn left_out(&self) -> &LeftOut {
        &self.left_out
    }
}

pub(super) fn unfinished(conn: &Connection) -> Result<Option<Import>, StoreError> {
    fact(conn, Import::FACT)?.map(|text| Import::parse(&text)).transpose()
}

pub(super) fn epoch(conn: &Connection) -> Result<Option<String>, StoreError> {
    fact(conn, EPOCH)
}

fn fact(conn: &Connection, name: &str) -> Result<Option<String>, StoreError> {
    first(conn, sql::FACT, params![name], |row| rows::text(row, 0, "a fact").map(str::to_owned))
}

/// See [`Portable::begin_import`](agentrouter_store::Portable::begin_import).
pub(super) fn begin(tx: &Tx<'_>, source: String) -> Result<u64, StoreError> {
    if let Some(import) = in_progress(tx)? {
        return import.resume(&source);
    }
    let used = tx.first(sql::IS_USED, (), |row| rows::integer(row, 0, "a count"))?;
    if used != Some(0) {
        return Err(StoreError::NotEmpty);
    }
    mark(tx, &Import::begin(source))?;
    Ok(0)
}

/// See [`Portable::import`](agentrouter_store::Portable::import).
pub(super) fn import(
    tx: &Tx<'_>,
    tags: Option<&dyn RowTags>,
    from: u64,
    items: &[Item],
) -> Result<(), StoreError> {
    let import = Import::advance(in_progress(tx)?, from, items.len())?;
    items.iter().try_for_each(|item| insert(tx, tags, item))?;
    mark(tx, &import)
}

/// See [`Portable::finish_import`](agentrouter_store::Portable::finish_import).
pub(super) fn finish(tx: &Tx<'_>, epoch: Option<&str>) -> Result<(), StoreError> {
    in_progress(tx)?.ok_or(StoreError::NotEmpty)?;
    if let Some(epoch) = epoch {
        tx.execute(sql::SET_FACT, params![EPOCH, epoch])?;
    }
    tx.execute(sql::DELETE_FACT, params![Import::FACT]).map(|_| ())
}

fn in_progress(tx: &Tx<'_>) -> Result<Option<Import>, StoreError> {
    let text =
        tx.first(sql::FACT, params![Import::FACT], |row| rows::text(row, 0, "a fact").map(str::to_owned))?;
    text.map(|text| Import::parse(&text)).transpose()
}

fn mark(tx: &Tx<'_>, import: &Import) -> Result<(), StoreError> {
    tx.execute(sql::SET_FACT, params![Import::FACT, import.to_text()]).map(|_| ())
}

fn insert(tx: &Tx<'_>, tags: Option<&dyn RowTags>, item: &Item) -> Result<(), StoreError> {
    match item {
        Item::Kek { id, check } => facts::insert_kek_check(tx, id, check),
        Item::InternalKey { purpose, kek, wrapped } => {
            facts::insert_internal_key(tx, purpose, kek.clone(), wrapped.clone()).map(|_| ())
        }
        Item::ApiKey(key) => facts::insert_key(tx, key),
        Item::Secret(secret) => secrets::insert_head(tx, tags, secret, None),
        Item::Version(stored) => insert_version(tx, tags, stored),
    }
}

/// Adds a version of a secret that is already there.
fn insert_version(tx: &Tx<'_>, tags: Option<&dyn RowTags>, stored: &Stored) -> Result<(), StoreError> {
    let secret = &stored.secret;
    let slot = Slot { place: &secret.place, id: secret.id, version: secret.version };
    match stored.state()? {
        State::Active { value } => {
            let id = secrets::insert_version(tx, value, slot)?;
            let found = secrets::with_slot(slot, &[&id], |row| tx.execute(sql::IMPORT_ACTIVE, row))?;
            if found == 1 { Ok(()) } else { Err(StoreError::NO_ACTIVE) }
        }
        State::Pending { until, value } => {
            let id = secrets::insert_version(tx, value, slot)?;
            secrets::pend(tx, tags, secret, Some(id), until)
        }
        State::Retired { expires_at } => secrets::insert_retired(tx, tags, secret, expires_at),
    }
}
