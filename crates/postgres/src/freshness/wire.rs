//! Rows of the protocol's tables.

use std::collections::HashMap;
use std::time::Duration;

use agentrouter_model::{Owner, Place, Realm, SecretName};
use tokio_postgres::Row;

use super::Id;
use agentrouter_lease::{Boottime, Registration, Seq, Target, Token, View};
use agentrouter_store::StoreError;

const DAMAGED: StoreError = StoreError::Corrupt("a row of the leases");

/// Targets by column.
#[derive(Default)]
pub(super) struct Columns {
    pub(super) owners: Vec<Option<String>>,
    pub(super) realms: Vec<Option<String>>,
    pub(super) names: Vec<Option<String>>,
    pub(super) digests: Vec<Option<Vec<u8>>>,
}

impl Columns {
    pub(super) fn push(&mut self, target: &Target) {
        let (place, digest) = match target {
            Target::Place(place) => (Some(place), None),
            Target::Key(digest) => (None, Some(digest.to_vec())),
            Target::Everything => (None, None),
        };
        self.owners.push(place.map(|place| place.owner.as_str().to_owned()));
        self.realms.push(place.map(|place| place.realm.as_str().to_owned()));
        self.names.push(place.map(|place| place.name.as_str().to_owned()));
        self.digests.push(digest);
    }
}

/// The view that a look or a renewal returned: one row for each fence, or one row without a fence.
pub(super) fn view(rows: &[Row], asked_at: Boottime, recorded: Option<Seq>) -> Result<View, StoreError> {
    let first = rows.first().ok_or(DAMAGED)?;
    let mut view = View {
        era: get(first, 0)?,
        registered: get(first, 1)?,
        seq: get(first, 2)?,
        fences: Vec::with_capacity(rows.len()),
        asked_at,
        recorded,
    };
    for row in rows {
        if let Some(bytes) = get::<Option<&[u8]>>(row, 3)? {
            view.fences.push((name(bytes)?, get(row, 4)?, target(row)?));
        }
    }
    Ok(view)
}

fn target(row: &Row) -> Result<Target, StoreError> {
    if let Some(digest) = get::<Option<&[u8]>>(row, 8)? {
        return Ok(Target::Key(digest.try_into().map_err(|_| DAMAGED)?));
    }
    let Some(owner) = get::<Option<&str>>(row, 5)? else { return Ok(Target::Everything) };
    Ok(Target::Place(Place {
        owner: Owner::parse(owner).map_err(|_| DAMAGED)?,
        realm: Realm::parse(get(row, 6)?).map_err(|_| DAMAGED)?,
        name: SecretName::parse(get(row, 7)?).map_err(|_| DAMAGED)?,
    }))
}

/// The registrations.
pub(super) fn registrations(rows: &[Row]) -> Result<Vec<Registration<Id>>, StoreError> {
    let registration = |row: &Row| {
        let lease: i32 = get(row, 2)?;
        Ok(Registration {
            id: name(get(row, 0)?)?,
            confirmed: get(row, 1)?,
            lease: Duration::from_millis(u64::try_from(lease).map_err(|_| DAMAGED)?),
        })
    };
    rows.iter().map(registration).collect()
}

/// How often each registration was renewed.
pub(crate) fn renewals(rows: &[Row]) -> Result<HashMap<Id, i64>, StoreError> {
    rows.iter().map(|row| Ok((name(get(row, 0)?)?, get(row, 1)?))).collect()
}

/// The fences that a statement made: their sequence, and their tokens in the order of their targets.
pub(super) fn fenced(rows: &[Row], count: usize) -> Result<(Seq, Vec<Token>), StoreError> {
    let seq = get(rows.first().ok_or(DAMAGED)?, 1)?;
    let mut tokens = vec![None; count];
    for row in rows {
        let at: i32 = get(row, 2)?;
        let slot = usize::try_from(at - 1).ok().and_then(|at| tokens.get_mut(at)).ok_or(DAMAGED)?;
        *slot = Some(name(get(row, 0)?)?);
    }
    Ok((seq, tokens.into_iter().collect::<Option<_>>().ok_or(DAMAGED)?))
}

/// A random number that the database generated.
pub(crate) fn name(bytes: &[u8]) -> Result<u128, StoreError> {
    Ok(u128::from_be_bytes(bytes.try_into().map_err(|_| DAMAGED)?))
}

fn get<'r, T: tokio_postgres::types::FromSql<'r>>(row: &'r Row, column: usize) -> Result<T, StoreError> {
    row.try_get(column).map_err(|_| DAMAGED)
}
