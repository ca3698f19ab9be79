//! Tags for the rows of an older store, in batches: the server can be stopped between two of them, and continues at the next
//! start. A row that has its tag is not written again.

use agentrouter_model::{Place, Secret, Slot, Status};
use rusqlite::types::Value;
use rusqlite::{Row, params};

use super::list::Raw;
use super::tx::Tx;
use super::{rows, sql};
use agentrouter_store::row_tags::RowTag;
use agentrouter_store::{RowTags, StoreError};

/// Most secrets in one batch.
const BATCH: u32 = 1_000;

/// Owner, realm and name of a secret as stored. They may not parse.
#[derive(Clone, Debug, Default)]
pub(super) struct Position([Vec<u8>; 3]);

/// Writes the tags of the first secrets after a position, and of their versions. Returns the position of the last one; none
/// at the end. Rows that do not parse are left as they are.
pub(super) fn retag(
    tx: &Tx<'_>,
    tags: &dyn RowTags,
    Position([owner, realm, name]): &Position,
) -> Result<Option<Position>, StoreError> {
    let after = params![Raw(owner), Raw(realm), Raw(name), BATCH];
    let found = tx.all(sql::EXPORT_SECRETS, after, |row| {
        let text = |column| rows::raw(row, column, "a secret's place").map(<[u8]>::to_vec);
        let position = Position([text(0)?, text(1)?, text(2)?]);
        Ok((position, untagged(row, tags, 14, |secret| tags.secret_tag(secret, secret.version))?))
    })?;
    for (position, untagged_secret) in &found {
        if let Some((secret, tag)) = untagged_secret {
            let Place { owner, realm, name } = &secret.place;
            tx.execute(sql::TAG_SECRET, params![owner.as_str(), realm.as_str(), name.as_str(), tag])?;
        }
        retag_versions(tx, tags, position)?;
    }
    Ok(found.into_iter().next_back().map(|(position, _)| position))
}

/// Writes the tags of the versions of a secret that are not active.
fn retag_versions(
    tx: &Tx<'_>,
    tags: &dyn RowTags,
    Position([owner, realm, name]): &Position,
) -> Result<(), StoreError> {
    let found = tx.all(sql::PAST_VERSIONS, params![Raw(owner), Raw(realm), Raw(name)], |row| {
        untagged(row, tags, 15, |secret| {
            let slot = Slot { place: &secret.place, id: secret.id, version: secret.version };
            tags.version_tag(slot, secret.status, secret.expires_at)
        })
    })?;
    for (secret, tag) in found.into_iter().flatten() {
        let Place { owner, realm, name } = &secret.place;
        let statement =
            if secret.status == Status::RotatedPending { sql::TAG_PENDING } else { sql::TAG_RETIRED };
        let version = secret.version.get();
        tx.execute(statement, params![owner.as_str(), realm.as_str(), name.as_str(), tag, version])?;
    }
    Ok(())
}

/// A row that parses, and the tag that its column lacks.
fn untagged(
    row: &Row<'_>,
    tags: &dyn RowTags,
    column: usize,
    tag: impl FnOnce(&Secret) -> RowTag,
) -> Result<Option<(Secret, Value)>, StoreError> {
    let secret = match rows::secret(row, None) {
        Err(StoreError::Corrupt(_)) => return Ok(None),
        secret => secret?,
    };
    let tag = tag(&secret);
    let is_tagged = tags.are_equal(&tag, rows::tag(row, column)?);
    Ok((!is_tagged).then(|| (secret, Value::Blob(tag.to_vec()))))
}
