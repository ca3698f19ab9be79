//! The writes on secrets, each inside a transaction of the writer.

use agentrouter_model::{Envelope, Owner, Place, Secret, Slot, Status, Tags, Timestamp, Version};
use rusqlite::types::Value;
use rusqlite::{ToSql, params};

use super::rows::{self, failure};
use super::sql;
use super::tx::Tx;
use agentrouter_store::{Rotation, Sealer, StoreError, Upsert, WriteError, json};

const NO_ACTIVE: StoreError = StoreError::Corrupt("a secret without its active version");

/// A secret's row.
pub(super) struct Head {
    pub(super) secret: Secret,
    /// The row of the active version's sealed value. None only while a store is being filled.
    pub(super) version_id: Option<i64>,
}

/// See [`Store::upsert`](agentrouter_store::Store::upsert).
pub(super) fn upsert(tx: &Tx<'_>, change: Upsert) -> Result<Secret, WriteError> {
    let present = head(tx, &change.place)?;
    expect(change.expected_version, present.as_ref())?;
    match present {
        None => create(tx, change),
        Some(present) => update(tx, change, present),
    }
}

/// See [`Store::rotate`](agentrouter_store::Store::rotate).
pub(super) fn rotate(tx: &Tx<'_>, change: &Rotation) -> Result<Secret, WriteError> {
    let mut head = head(tx, &change.place)?.ok_or(WriteError::NotFound)?;
    expect(change.expected_version, Some(&head))?;
    let next = head.secret.version.next().ok_or(WriteError::VersionsExhausted)?;
    if change.expires_at > change.now {
        pend(tx, &head.secret, head.version_id, change.expires_at)?;
    } else {
        retire_active(tx, &head, Some(change.expires_at))?;
    }
    activate(tx, &change.seal, &mut head, next)?;
    head.secret.updated_at = change.now;
    head.secret.rotated_at = Some(change.now);
    write_head(tx, &head)?;
    Ok(head.secret)
}

/// See [`Store::delete`](agentrouter_store::Store::delete).
pub(super) fn delete(tx: &Tx<'_>, place: &Place) -> Result<Option<Secret>, WriteError> {
    let Some(Head { secret, .. }) = head(tx, place)? else { return Ok(None) };
    retag(tx, place, &secret.tags, &Tags::default())?;
    delete_rows(tx, place)?;
    Ok(Some(secret))
}

/// See [`Store::purge`](agentrouter_store::Store::purge).
pub(super) fn purge(tx: &Tx<'_>, place: &Place) -> Result<bool, WriteError> {
    let Place { owner, realm, name } = place;
    tx.execute(sql::DELETE_TAGS, params![owner.as_str(), realm.as_str(), name.as_str()])?;
    Ok(delete_rows(tx, place)?)
}

/// Deletes the rows of a secret, but for those of its tags; says whether there was a secret.
fn delete_rows(tx: &Tx<'_>, place: &Place) -> Result<bool, StoreError> {
    let Place { owner, realm, name } = place;
    let at = params![owner.as_str(), realm.as_str(), name.as_str()];
    let values = tx.execute(sql::DELETE_VERSIONS, at)?;
    let pending = tx.execute(sql::DELETE_PENDING, at)?;
    if values != pending + 1 {
        // A row is damaged and does not know where its value is. It is destroyed wherever it is.
        tx.execute(sql::DELETE_ALL_VERSIONS, at)?;
    }
    tx.execute(sql::DELETE_RETIRED, at)?;
    tx.note_destroyed();
    Ok(tx.execute(sql::DELETE_SECRET, at)? > 0)
}

/// See [`Store::retire_expired`](agentrouter_store::Store::retire_expired).
pub(super) fn retire_expired(
    tx: &Tx<'_>,
    now: Timestamp,
    limit: u32,
) -> Result<Option<Timestamp>, StoreError> {
    // Taken as they are: a row that does not parse is destroyed when it is due like any other.
    let due = tx.all(sql::DUE, params![now.as_micros(), limit], |row| {
        let value = |column| row.get::<_, Value>(column).map_err(failure);
        Ok([value(0)?, value(1)?, value(2)?, value(3)?])
    })?;
    for version in due {
        let version = || rusqlite::params_from_iter(&version);
        if tx.execute(sql::RETIRE_DUE, version())? != 1 {
            return Err(StoreError::Corrupt("an index"));
        }
        if tx.execute(sql::DESTROY_DUE, version())? == 0 {
            tx.execute(sql::DESTROY_LOST, version())?;
        }
        tx.execute(sql::FORGET_DUE, version())?;
        tx.note_destroyed();
    }
    tx.first(sql::NEXT_DUE, params![i64::MIN], |row| rows::time(row, 0))
}

fn head(tx: &Tx<'_>, place: &Place) -> Result<Option<Head>, StoreError> {
    let Place { owner, realm, name } = place;
    tx.first(sql::SECRET, params![owner.as_str(), realm.as_str(), name.as_str()], |row| {
        Ok(Head {
            secret: rows::secret(row)?,
            version_id: rows::integer_or_null(row, 13, "a version's row")?,
        })
    })
}

fn expect(expected: Option<i32>, present: Option<&Head>) -> Result<(), WriteError> {
    let found = present.map_or(0, |head| head.secret.version.get());
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
    let version_id = insert_version(tx, &envelope, Slot { place: &secret.place, id: new_id, version })?;
    let head = Head { secret, version_id: Some(version_id) };
    insert_head(tx, &head)?;
    Ok(head.secret)
}

/// Writes the row of a secret that is not there yet, and its tags.
pub(super) fn insert_head(tx: &Tx<'_>, Head { secret, version_id }: &Head) -> Result<(), StoreError> {
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
        version_id,
    ];
    tx.execute(sql::INSERT_SECRET, row)?;
    retag(tx, &secret.place, &Tags::default(), &secret.tags)
}

fn update(tx: &Tx<'_>, change: Upsert, mut head: Head) -> Result<Secret, WriteError> {
    let present = head.secret.clone();
    if let Some(seal) = &change.seal {
        let next = present.version.next().ok_or(WriteError::VersionsExhausted)?;
        retire_active(tx, &head, None)?;
        activate(tx, seal, &mut head, next)?;
    }
    let secret = &mut head.secret;
    if let Some(description) = change.description {
        secret.description = description;
    }
    if let Some(tags) = change.tags {
        retag(tx, &secret.place, &secret.tags, &tags)?;
        secret.tags = tags;
    }
    if *secret != present {
        secret.updated_at = change.now;
        write_head(tx, &head)?;
    }
    Ok(head.secret)
}

/// The version whose sealed value is in the row `version_id` becomes pending. There must be exactly one.
pub(super) fn pend(
    tx: &Tx<'_>,
    secret: &Secret,
    version_id: Option<i64>,
    expires_at: Timestamp,
) -> Result<(), StoreError> {
    let slot = Slot { place: &secret.place, id: secret.id, version: secret.version };
    let pended =
        with_slot(slot, &[&version_id, &expires_at.as_micros()], |row| tx.execute(sql::INSERT_PENDING, row))?;
    if pended == 1 { Ok(()) } else { Err(NO_ACTIVE) }
}

/// The active version is retired and its sealed value destroyed. There must be exactly one.
fn retire_active(
    tx: &Tx<'_>,
    Head { secret, version_id }: &Head,
    expires_at: Option<Timestamp>,
) -> Result<(), StoreError> {
    let slot = Slot { place: &secret.place, id: secret.id, version: secret.version };
    if with_slot(slot, &[version_id], |row| tx.execute(sql::DELETE_VERSION, row))? != 1 {
        return Err(NO_ACTIVE);
    }
    tx.note_destroyed();
    insert_retired(tx, secret, expires_at)
}

/// Writes the row of a version whose sealed value is destroyed.
pub(super) fn insert_retired(
    tx: &Tx<'_>,
    secret: &Secret,
    expires_at: Option<Timestamp>,
) -> Result<(), StoreError> {
    let Place { owner, realm, name } = &secret.place;
    let row = params![
        owner.as_str(),
        realm.as_str(),
        name.as_str(),
        secret.version.get(),
        expires_at.map(Timestamp::as_micros),
        secret.kek_id.as_str(),
    ];
    tx.execute(sql::INSERT_RETIRED, row).map(|_| ())
}

/// Seals the next version and makes it the active one.
fn activate(tx: &Tx<'_>, seal: &Sealer, head: &mut Head, next: Version) -> Result<(), WriteError> {
    let slot = Slot { place: &head.secret.place, id: head.secret.id, version: next };
    let envelope = seal(slot)?;
    head.version_id = Some(insert_version(tx, &envelope, slot)?);
    head.secret.version = next;
    head.secret.kek_id = envelope.kek_id;
    Ok(())
}

/// Writes a sealed value and returns its row's number.
pub(super) fn insert_version(tx: &Tx<'_>, envelope: &Envelope, slot: Slot<'_>) -> Result<i64, StoreError> {
    let value: [&dyn ToSql; 3] = [&envelope.kek_id.as_str(), &envelope.wrapped_dek, &envelope.sealed];
    with_slot(slot, &value, |row| tx.insert(sql::INSERT_VERSION, row))
}

/// Calls `run` with the parameters of a statement on one version: place, id, number, and `more`.
pub(super) fn with_slot<T>(
    Slot { place, id, version }: Slot<'_>,
    more: &[&dyn ToSql],
    run: impl FnOnce(&[&dyn ToSql]) -> T,
) -> T {
    let (id, version) = (id.to_string(), version.get());
    let (owner, realm, name) = (place.owner.as_str(), place.realm.as_str(), place.name.as_str());
    run(&[&[&owner as &dyn ToSql, &realm, &name, &id, &version][..], more].concat())
}

/// Writes the secret's own row after a change.
fn write_head(tx: &Tx<'_>, Head { secret, version_id }: &Head) -> Result<(), StoreError> {
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
        version_id,
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
