//! The writes on secrets, each inside a transaction of the writer.

use agentrouter_model::{KekId, Owner, Place, Secret, SecretId, Slot, Status, Tags, Timestamp, Version};
use rusqlite::params;
use rusqlite::types::Value;

use super::rows::{self, failure};
use super::sql;
use super::tx::Tx;
use crate::{Rotation, Sealer, StoreError, Upsert, WriteError, json};

/// See [`Store::upsert`](crate::Store::upsert).
pub(super) fn upsert(tx: &Tx<'_>, change: Upsert) -> Result<Secret, WriteError> {
    let present = secret(tx, &change.place)?;
    expect(change.expected_version, present.as_ref())?;
    match present {
        None => create(tx, change),
        Some(present) => update(tx, change, present),
    }
}

/// See [`Store::rotate`](crate::Store::rotate).
pub(super) fn rotate(tx: &Tx<'_>, change: &Rotation) -> Result<Secret, WriteError> {
    let mut secret = secret(tx, &change.place)?.ok_or(WriteError::NotFound)?;
    expect(change.expected_version, Some(&secret))?;
    let next = secret.version.next().ok_or(WriteError::VersionsExhausted)?;
    let leave = if change.expires_at > change.now { sql::PEND_ACTIVE } else { sql::RETIRE_ACTIVE };
    leave_active(tx, leave, &secret, Some(change.expires_at))?;
    secret.kek_id = insert_version(tx, &change.seal, &secret.place, secret.id, next)?;
    secret.version = next;
    secret.updated_at = change.now;
    secret.rotated_at = Some(change.now);
    write_head(tx, &secret)?;
    Ok(secret)
}

/// See [`Store::delete`](crate::Store::delete).
pub(super) fn delete(tx: &Tx<'_>, place: &Place) -> Result<Option<Secret>, WriteError> {
    let Some(secret) = secret(tx, place)? else { return Ok(None) };
    let Place { owner, realm, name } = place;
    let at = params![owner.as_str(), realm.as_str(), name.as_str()];
    retag(tx, place, &secret.tags, &Tags::default())?;
    tx.execute(sql::DELETE_VERSIONS, at)?;
    tx.execute(sql::DELETE_SECRET, at)?;
    tx.note_destroyed();
    Ok(Some(secret))
}

/// See [`Store::purge`](crate::Store::purge).
pub(super) fn purge(tx: &Tx<'_>, place: &Place) -> Result<bool, WriteError> {
    let Place { owner, realm, name } = place;
    let at = params![owner.as_str(), realm.as_str(), name.as_str()];
    tx.execute(sql::DELETE_VERSIONS_OF, at)?;
    tx.execute(sql::DELETE_VERSIONS, at)?;
    tx.execute(sql::DELETE_TAGS, at)?;
    let found = tx.execute(sql::DELETE_SECRET, at)? > 0;
    tx.note_destroyed();
    Ok(found)
}

/// See [`Store::retire_expired`](crate::Store::retire_expired).
pub(super) fn retire_expired(
    tx: &Tx<'_>,
    now: Timestamp,
    limit: u32,
) -> Result<Option<Timestamp>, StoreError> {
    // Taken as they are: a row that does not parse is destroyed when it is due like any other.
    let due = tx.all(sql::DUE, params![now.as_micros(), limit], |row| {
        let value = |column| row.get::<_, Value>(column).map_err(failure);
        Ok([value(0)?, value(1)?, value(2)?, value(3)?, value(4)?])
    })?;
    for version in due {
        if tx.execute(sql::RETIRE_DUE, version)? != 1 {
            return Err(StoreError::Corrupt("an index"));
        }
        tx.note_destroyed();
    }
    tx.first(sql::NEXT_DUE, params![i64::MIN], |row| rows::time(row, 0))
}

fn secret(tx: &Tx<'_>, place: &Place) -> Result<Option<Secret>, StoreError> {
    let Place { owner, realm, name } = place;
    tx.first(sql::SECRET, params![owner.as_str(), realm.as_str(), name.as_str()], rows::secret)
}

fn expect(expected: Option<i32>, present: Option<&Secret>) -> Result<(), WriteError> {
    let found = present.map_or(0, |secret| secret.version.get());
    if expected.is_none_or(|expected| expected == found) { Ok(()) } else { Err(WriteError::VersionMismatch) }
}

fn create(tx: &Tx<'_>, change: Upsert) -> Result<Secret, WriteError> {
    let Upsert { place, new_id, now, description, tags, seal, .. } = change;
    let seal = seal.ok_or(WriteError::ValueNeeded)?;
    let version = Version::FIRST;
    let envelope = seal(Slot { place: &place, id: new_id, version })?;
    let secret = Secret {
        id: new_id,
        place,
        description: description.unwrap_or_default(),
        tags: tags.unwrap_or_default(),
        status: Status::Active,
        version,
        created_at: now,
        updated_at: now,
        rotated_at: None,
        expires_at: None,
        kek_id: envelope.kek_id.clone(),
    };
    insert_head(tx, &secret)?;
    write_version(tx, &envelope, &secret.place, new_id, version)?;
    Ok(secret)
}

/// Writes the row of a secret that is not there yet, and its tags.
pub(super) fn insert_head(tx: &Tx<'_>, secret: &Secret) -> Result<(), StoreError> {
    let Place { owner, realm, name } = &secret.place;
    let row = params![
        owner.as_str(),
        realm.as_str(),
        name.as_str(),
        secret.id.to_string(),
        secret.description.as_str(),
        json::from_tags(&secret.tags)?,
        secret.created_at.as_micros(),
        secret.updated_at.as_micros(),
        secret.rotated_at.map(Timestamp::as_micros),
        secret.version.get(),
        secret.kek_id.as_str(),
    ];
    tx.execute(sql::INSERT_SECRET, row)?;
    retag(tx, &secret.place, &Tags::default(), &secret.tags)
}

fn update(tx: &Tx<'_>, change: Upsert, present: Secret) -> Result<Secret, WriteError> {
    let mut secret = present.clone();
    if let Some(seal) = &change.seal {
        let next = secret.version.next().ok_or(WriteError::VersionsExhausted)?;
        leave_active(tx, sql::RETIRE_ACTIVE, &secret, None)?;
        secret.kek_id = insert_version(tx, seal, &secret.place, secret.id, next)?;
        secret.version = next;
    }
    if let Some(description) = change.description {
        secret.description = description;
    }
    if let Some(tags) = change.tags {
        retag(tx, &secret.place, &secret.tags, &tags)?;
        secret.tags = tags;
    }
    if secret != present {
        secret.updated_at = change.now;
        write_head(tx, &secret)?;
    }
    Ok(secret)
}

/// Takes the active version out of that state, by `leave`. There must be exactly one.
fn leave_active(
    tx: &Tx<'_>,
    leave: &str,
    secret: &Secret,
    expires_at: Option<Timestamp>,
) -> Result<(), StoreError> {
    let Place { owner, realm, name } = &secret.place;
    let row = params![
        owner.as_str(),
        realm.as_str(),
        name.as_str(),
        secret.id.to_string(),
        secret.version.get(),
        expires_at.map(Timestamp::as_micros),
    ];
    if tx.execute(leave, row)? != 1 {
        return Err(StoreError::Corrupt("a secret without its active version"));
    }
    if leave == sql::RETIRE_ACTIVE {
        tx.note_destroyed();
    }
    Ok(())
}

/// Seals the next version and writes it, active; returns the KEK that wraps its DEK.
fn insert_version(
    tx: &Tx<'_>,
    seal: &Sealer,
    place: &Place,
    id: SecretId,
    version: Version,
) -> Result<KekId, WriteError> {
    let envelope = seal(Slot { place, id, version })?;
    write_version(tx, &envelope, place, id, version)?;
    Ok(envelope.kek_id)
}

fn write_version(
    tx: &Tx<'_>,
    envelope: &agentrouter_model::Envelope,
    place: &Place,
    id: SecretId,
    version: Version,
) -> Result<(), StoreError> {
    let row = params![
        place.owner.as_str(),
        place.realm.as_str(),
        place.name.as_str(),
        id.to_string(),
        version.get(),
        envelope.kek_id.as_str(),
        envelope.wrapped_dek,
        envelope.sealed,
    ];
    tx.execute(sql::INSERT_VERSION, row).map(|_| ())
}

/// Writes the secret's own row after a change.
fn write_head(tx: &Tx<'_>, secret: &Secret) -> Result<(), StoreError> {
    let Place { owner, realm, name } = &secret.place;
    let row = params![
        owner.as_str(),
        realm.as_str(),
        name.as_str(),
        secret.id.to_string(),
        secret.description.as_str(),
        json::from_tags(&secret.tags)?,
        secret.updated_at.as_micros(),
        secret.rotated_at.map(Timestamp::as_micros),
        secret.version.get(),
        secret.kek_id.as_str(),
    ];
    tx.execute(sql::UPDATE_SECRET, row).map(|_| ())
}

/// Brings the rows of the tag filter from `before` to `after`.
fn retag(tx: &Tx<'_>, place: &Place, before: &Tags, after: &Tags) -> Result<(), StoreError> {
    let Place { owner, realm, name } = place;
    let write = |statement, (key, value): (&agentrouter_model::TagKey, &agentrouter_model::TagValue)| {
        let row = params![Owner::as_str(owner), realm.as_str(), name.as_str(), key.as_str(), value.as_str()];
        tx.execute(statement, row).map(|_| ())
    };
    before.iter().try_for_each(|tag| write(sql::DELETE_TAG, tag))?;
    after.iter().try_for_each(|tag| write(sql::INSERT_TAG, tag))
}
