//! Pages of a list.
//!
//! Realm by realm in order, and within a realm one range of one index per owner, read row by row until the page is full;
//! so the work is that of the page (and of the rows a second tag filters out), however large the store is. All of it
//! happens in one read transaction and sees one state.

use agentrouter_model::{Owner, Place, Realm, Secret, Tags};
use rusqlite::{Connection, params};

use super::rows::{self, failure};
use super::sql;
use super::tx::first;
use crate::{ListQuery, Realms, StatusFilter, StoreError};

/// Above every name, since names are ASCII.
const LAST: &str = "\u{10ffff}";

/// See [`Store::list`](crate::Store::list).
pub(super) fn list(conn: &Connection, query: &ListQuery) -> Result<Vec<Secret>, StoreError> {
    let snapshot = conn.unchecked_transaction().map_err(failure)?;
    let limit = query.limit as usize;
    let mut page: Vec<Secret> = Vec::new();
    let mut at = match &query.after {
        Some(after) => Some(after.realm.clone()),
        None => next_realm(&snapshot, query, None)?,
    };
    while let Some(realm) = at
        && page.len() < limit
    {
        let from = page.len();
        let owners = owners_in(query, &realm);
        for owner in &owners {
            read_realm(&snapshot, query, owner, &realm, limit - from, &mut page)?;
        }
        if owners.len() > 1 {
            page[from..].sort_by(|a, b| key(a).cmp(&key(b)));
            page.truncate(limit);
        }
        at = next_realm(&snapshot, query, Some(&realm))?;
    }
    Ok(page)
}

fn key(secret: &Secret) -> (&str, i32, &str) {
    let Place { owner, name, .. } = &secret.place;
    (name.as_str(), secret.version.get(), owner.as_str())
}

/// The owners whose secrets the query covers in `realm`, each once.
fn owners_in<'q>(query: &'q ListQuery, realm: &Realm) -> Vec<&'q Owner> {
    let mut owners: Vec<&Owner> = query
        .scopes
        .iter()
        .filter(|scope| match &scope.realms {
            Realms::All => true,
            Realms::Only(realms) => realms.contains(realm),
        })
        .map(|scope| &scope.owner)
        .collect();
    owners.sort_unstable();
    owners.dedup();
    owners
}

/// The first realm after `realm` that the query covers; for a scope over all realms, the next in which there is
/// anything.
fn next_realm(
    conn: &Connection,
    query: &ListQuery,
    realm: Option<&Realm>,
) -> Result<Option<Realm>, StoreError> {
    let mut next: Option<Realm> = None;
    for scope in &query.scopes {
        let candidate = match &scope.realms {
            Realms::Only(realms) => {
                realms.iter().filter(|r| realm.is_none_or(|realm| *r > realm)).min().cloned()
            }
            Realms::All => {
                let after = params![scope.owner.as_str(), realm.map_or("", Realm::as_str)];
                first(conn, sql::NEXT_REALM, after, |row| rows::parsed(row, 0, "a realm", Realm::parse))?
            }
        };
        next = next.into_iter().chain(candidate).min();
    }
    Ok(next)
}

/// Appends at most `limit` rows of one owner in one realm.
fn read_realm(
    conn: &Connection,
    query: &ListQuery,
    owner: &Owner,
    realm: &Realm,
    limit: usize,
    page: &mut Vec<Secret>,
) -> Result<(), StoreError> {
    let tag = rarest_tag(conn, &query.tags, owner, realm)?;
    let mut statement = conn.prepare_cached(statement(query.statuses, tag.is_some())).map_err(failure)?;
    let range = Range::new(query, realm);
    for i in 1..=statement.parameter_count() {
        let bound = match i {
            1 => statement.raw_bind_parameter(i, owner.as_str()),
            2 => statement.raw_bind_parameter(i, realm.as_str()),
            3 => statement.raw_bind_parameter(i, range.from),
            4 if query.statuses == StatusFilter::Active => statement.raw_bind_parameter(i, range.shown),
            4 => statement.raw_bind_parameter(i, range.version),
            5 => statement.raw_bind_parameter(i, &range.end),
            6 => statement.raw_bind_parameter(i, query.now.as_micros()),
            7 => statement.raw_bind_parameter(i, tag.map(|(key, _)| key)),
            _ => statement.raw_bind_parameter(i, tag.map(|(_, value)| value)),
        };
        bound.map_err(failure)?;
    }
    let mut rows = statement.raw_query();
    let full = page.len() + limit;
    while page.len() < full
        && let Some(row) = rows.next().map_err(failure)?
    {
        let mut secret = rows::secret(row)?;
        if secret.tags.contains_all(&query.tags) {
            secret.status = secret.status.at(query.now, secret.expires_at);
            page.push(secret);
        }
    }
    Ok(())
}

/// Where a page begins and ends within a realm.
struct Range<'q> {
    /// The first name, and the version of it after which to begin.
    from: &'q str,
    version: i32,
    /// The name that was shown last, for lists with one row a name.
    shown: &'q str,
    /// Before this name the page ends.
    end: String,
}

impl<'q> Range<'q> {
    fn new(query: &'q ListQuery, realm: &Realm) -> Self {
        let prefix = query.name_prefix.as_deref().unwrap_or("");
        let after = query.after.as_ref().filter(|after| after.realm == *realm);
        let (shown, version) = after.map_or(("", 0), |after| (after.name.as_str(), after.version.get()));
        let end = [prefix, LAST].concat();
        if shown < prefix {
            Self { from: prefix, version: 0, shown: "", end }
        } else {
            Self { from: shown, version, shown, end }
        }
    }
}

/// The statement for a list, driven by a tag or not.
fn statement(statuses: StatusFilter, tagged: bool) -> &'static str {
    match (statuses, tagged) {
        (StatusFilter::Active, false) => sql::LIST_ACTIVE,
        (StatusFilter::Active, true) => sql::LIST_ACTIVE_TAGGED,
        (StatusFilter::RotatedPending, false) => sql::LIST_PENDING,
        (StatusFilter::RotatedPending, true) => sql::LIST_PENDING_TAGGED,
        (StatusFilter::Retired, false) => sql::LIST_RETIRED,
        (StatusFilter::Retired, true) => sql::LIST_RETIRED_TAGGED,
        (StatusFilter::Any, false) => sql::LIST_ANY,
        (StatusFilter::Any, true) => sql::LIST_ANY_TAGGED,
    }
}

/// Of the wanted tags the one that fewest secrets have: it drives the query, the others are compared row by row.
fn rarest_tag<'q>(
    conn: &Connection,
    tags: &'q Tags,
    owner: &Owner,
    realm: &Realm,
) -> Result<Option<(&'q str, &'q str)>, StoreError> {
    let mut pairs = tags.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    if tags.len() <= 1 {
        return Ok(pairs.next());
    }
    let mut rarest = None;
    for (key, value) in pairs {
        let params = params![owner.as_str(), realm.as_str(), key, value];
        let count = first(conn, sql::COUNT_TAG, params, |row| rows::integer(row, 0, "a count"))?;
        if rarest.is_none_or(|(fewest, _)| count < fewest) {
            rarest = Some((count, (key, value)));
        }
    }
    Ok(rarest.map(|(_, tag)| tag))
}
