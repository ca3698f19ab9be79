//! Writes of secrets, each inside a transaction of the writer. [`decide`](agentrouter_store::decide) decides what a
//! write does, and this module applies the decision to the rows.

use agentrouter_model::{
    Envelope, Owner, Place, Realm, Secret, SecretId, SecretName, Slot, Status, Tags, Timestamp, Version,
};
use agentrouter_store::decide::{Change, Decision, Replaced, decide, decide_due};
use agentrouter_store::row_tags::{RowTag, secret_tag, verified, version_tag};
use agentrouter_store::{RowTags, StoreError, WriteError, json, row_tags};
use rusqlite::types::Value;
use rusqlite::{Row, ToSql, params};

use super::rows::{self, failure};
use super::sql;
use super::tx::Tx;

/// Makes a change. Returns the active version afterwards, or of a deleted secret before; none if there was nothing to
/// delete.
pub(super) fn change(
    tx: &Tx<'_>,
    tags: Option<&dyn RowTags>,
    change: &Change,
) -> Result<Option<Secret>, WriteError> {
    let (present, version_id) = head(tx, tags, change.place())?.unzip();
    let version_id = version_id.flatten();
    let after = match decide(present.as_ref(), change)? {
        Decision::Keep => return Ok(present),
        Decision::Create(after) => {
            let (after, envelope) = after.seal()?;
            let version_id = insert_version(tx, &envelope, slot(&after))?;
            insert_head(tx, tags, &after, Some(version_id))?;
            after
        }
        Decision::Describe { before, after } => {
            update_head(tx, tags, before, &after, version_id)?;
            after
        }
        Decision::Replace { before, replaced, after } => {
            match replaced {
                Replaced::Pending { until } => pend(tx, tags, before, version_id, until)?,
                Replaced::Retired { expires_at } => retire_active(tx, tags, before, version_id, expires_at)?,
            }
            let (after, envelope) = after.seal()?;
            let version_id = insert_version(tx, &envelope, slot(&after))?;
            update_head(tx, tags, before, &after, Some(version_id))?;
            after
        }
        Decision::Delete(before) => {
            retag(tx, &before.place, &before.tags, &Tags::default())?;
            delete_rows(tx, &before.place)?;
            before.clone()
        }
    };
    Ok(Some(after))
}

/// See [`Secrets::purge`](agentrouter_store::Secrets::purge).
pub(super) fn purge(tx: &Tx<'_>, place: &Place) -> Result<bool, WriteError> {
    let Place { owner, realm, name } = place;
    tx.execute(sql::DELETE_TAGS, params![owner.as_str(), realm.as_str(), name.as_str()])?;
    Ok(delete_rows(tx, place)?)
}

/// Deletes the rows of a secret, but for those of its tags; returns whether there was a secret.
fn delete_rows(tx: &Tx<'_>, place: &Place) -> Result<bool, StoreError> {
    let Place { owner, realm, name } = place;
    let at = params![owner.as_str(), realm.as_str(), name.as_str()];
    let values = tx.execute(sql::DELETE_VERSIONS, at)?;
    let pending = tx.execute(sql::DELETE_PENDING, at)?;
    if values != pending + 1 {
        // A damaged row does not refer to its value. The value is found by a full scan and destroyed.
        tx.execute(sql::DELETE_ALL_VERSIONS, at)?;
    }
    tx.execute(sql::DELETE_RETIRED, at)?;
    tx.note_destroyed();
    Ok(tx.execute(sql::DELETE_SECRET, at)? > 0)
}

/// See [`Secrets::retire_expired`](agentrouter_store::Secrets::retire_expired).
pub(super) fn retire_expired(
    tx: &Tx<'_>,
    tags: Option<&dyn RowTags>,
    now: Timestamp,
    limit: u32,
) -> Result<Option<Timestamp>, StoreError> {
    // A version that does not parse or is not authentic is destroyed when it is due like any other.
    let found = tx.all(sql::DUE, params![now.as_micros(), limit], |row| {
        let value = |column| row.get::<_, Value>(column).map_err(failure);
        let until = rows::integer(row, 4, "a time").ok().and_then(Timestamp::checked);
        let version = [value(0)?, value(1)?, value(2)?, value(3)?];
        Ok((decide_due(until, now), version, retired_tag(row, tags)?))
    })?;
    for (_, version, tag) in found.into_iter().filter(|(is_due, ..)| *is_due) {
        let tag = tag.map_or(Value::Null, |tag| Value::Blob(tag.to_vec()));
        let retired = rusqlite::params_from_iter(version.iter().chain([&tag]));
        let version = || rusqlite::params_from_iter(&version);
        if tx.execute(sql::RETIRE_DUE, retired)? != 1 {
            return Err(StoreError::Corrupt("an index"));
        }
        if tx.execute(sql::DESTROY_DUE, version())? == 0 {
            tx.execute(sql::DESTROY_LOST, version())?;
        }
        tx.execute(sql::DELETE_DUE, version())?;
        tx.note_destroyed();
    }
    tx.first(sql::NEXT_DUE, params![i64::MIN], rows::due)
}

/// The tag of a due version once it is retired; none if the version does not parse or is not authentic.
fn retired_tag(row: &Row<'_>, tags: Option<&dyn RowTags>) -> Result<Option<RowTag>, StoreError> {
    let Some(tags) = tags else { return Ok(None) };
    let tag = || {
        let place = Place {
            owner: rows::parsed(row, 0, "an owner", Owner::parse)?,
            realm: rows::parsed(row, 1, "a realm", Realm::parse)?,
            name: rows::parsed(row, 2, "a name", SecretName::parse)?,
        };
        let number = i32::try_from(rows::integer(row, 3, "a version number")?).ok();
        let version = number.and_then(Version::new).ok_or(StoreError::Corrupt("a version number"))?;
        let until = Timestamp::checked(rows::integer(row, 4, "a time")?);
        let id = rows::parsed(row, 5, "a secret's id", SecretId::parse)?;
        let slot = Slot { place: &place, id, version };
        row_tags::retired_tag(tags, slot, until, rows::tag(row, 6)?, tags.requires_tags())
    };
    match tag() {
        Err(StoreError::Corrupt(_)) => Ok(None),
        tag => tag.map(Some),
    }
}

/// A secret's own row, and the number of the row with the sealed value of its active version. The number is missing
/// only during an import.
fn head(
    tx: &Tx<'_>,
    tags: Option<&dyn RowTags>,
    place: &Place,
) -> Result<Option<(Secret, Option<i64>)>, StoreError> {
    let Place { owner, realm, name } = place;
    tx.first(sql::SECRET, params![owner.as_str(), realm.as_str(), name.as_str()], |row| {
        Ok((rows::secret(row, verified(tags))?, rows::integer_or_null(row, 16, "a version's row")?))
    })
}

fn slot(secret: &Secret) -> Slot<'_> {
    Slot { place: &secret.place, id: secret.id, version: secret.version }
}

/// Inserts the row of a new secret, and its tags.
pub(super) fn insert_head(
    tx: &Tx<'_>,
    tags: Option<&dyn RowTags>,
    secret: &Secret,
    version_id: Option<i64>,
) -> Result<(), StoreError> {
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
        secret_tag(tags, secret),
    ];
    tx.execute(sql::INSERT_SECRET, row)?;
    retag(tx, &secret.place, &Tags::default(), &secret.tags)
}

/// Updates the row of an existing secret, and its tags if they change.
fn update_head(
    tx: &Tx<'_>,
    tags: Option<&dyn RowTags>,
    before: &Secret,
    secret: &Secret,
    version_id: Option<i64>,
) -> Result<(), StoreError> {
    if before.tags != secret.tags {
        retag(tx, &secret.place, &before.tags, &secret.tags)?;
    }
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
        secret_tag(tags, secret),
    ];
    tx.execute(sql::UPDATE_SECRET, row).map(|_| ())
}

/// Makes the active version pending. Its sealed value is in the row `version_id`. There must be exactly one.
pub(super) fn pend(
    tx: &Tx<'_>,
    tags: Option<&dyn RowTags>,
    secret: &Secret,
    version_id: Option<i64>,
    until: Timestamp,
) -> Result<(), StoreError> {
    let tag = version_tag(tags, secret, Status::RotatedPending, Some(until));
    let pended = with_slot(slot(secret), &[&version_id, &until.as_micros(), &tag], |row| {
        tx.execute(sql::INSERT_PENDING, row)
    })?;
    if pended == 1 { Ok(()) } else { Err(StoreError::NO_ACTIVE) }
}

/// Retires the active version and destroys its sealed value. There must be exactly one.
fn retire_active(
    tx: &Tx<'_>,
    tags: Option<&dyn RowTags>,
    secret: &Secret,
    version_id: Option<i64>,
    expires_at: Option<Timestamp>,
) -> Result<(), StoreError> {
    if with_slot(slot(secret), &[&version_id], |row| tx.execute(sql::DELETE_VERSION, row))? != 1 {
        return Err(StoreError::NO_ACTIVE);
    }
    tx.note_destroyed();
    insert_retired(tx, tags, secret, expires_at)
}

/// Writes the row of a version whose sealed value is destroyed.
pub(super) fn insert_retired(
    tx: &Tx<'_>,
    tags: Option<&dyn RowTags>,
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
        version_tag(tags, secret, Status::Retired, expires_at),
    ];
    tx.execute(sql::INSERT_RETIRED, row).map(|_| ())
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

/// Changes the rows of the index of tags from `before` to `after`.
fn retag(tx: &Tx<'_>, place: &Place, before: &Tags, after: &Tags) -> Result<(), StoreError> {
    let Place { owner, realm, name } = place;
    let write = |statement, (key, value): (&agentrouter_model::TagKey, &agentrouter_model::TagValue)| {
        let row = params![Owner::as_str(owner), realm.as_str(), name.as_str(), key.as_str(), value.as_str()];
        tx.execute(statement, row).map(|_| ())
    };
    before.iter().try_for_each(|tag| write(sql::DELETE_TAG, tag))?;
    after.iter().try_for_each(|tag| write(sql::INSERT_TAG, tag))
}
