//! Pages of a list.
//!
//! A list covers *ranges*: from one (realm, name) to another, of one owner. A whole owner is one range, a realm is one
//! range, and a prefix within a realm is one range. The cursor shortens the first range. One statement reads many
//! ranges, each by one index and at most one page of it. So the work depends on the page's size, not on the store's.
//!
//! A list takes one round trip, with two exceptions: a list of a prefix over all realms reads the realms first, and a
//! list of more than [`CHUNK`] realms continues when the first ones do not fill the page. Each owner is read by a
//! statement of its own, which sees one snapshot. Two owners never share a place, so nothing is shown twice. A row that
//! does not parse or is not authentic is left out and counted.

use std::collections::BTreeMap;

use agentrouter_model::{Owner, PageCursor, Realm, Secret};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::read_pool::ReadPool;
use super::rows;
use super::sql::Sql;
use agentrouter_store::row_tags::verified;
use agentrouter_store::{ListQuery, Realms, RowTags, StatusFilter, StoreError};

/// Above every name, since names are ASCII.
const LAST: &str = "\u{10ffff}";
/// Most ranges in one statement.
const CHUNK: usize = 16;
/// Most rows that one statement reads, so that few rows beyond the bytes of a page are held.
const ROWS: u32 = 256;
/// Most realms that one statement reads.
const REALMS: i32 = 256;

/// A page, and how many rows were left out of it because they do not parse or are not authentic.
#[derive(Debug, Default)]
pub(super) struct Listed {
    pub(super) page: Vec<Secret>,
    /// Their bytes, by [`ListQuery::weight`].
    bytes: usize,
    pub(super) damaged: u64,
    /// Where the list continues if it ended early.
    pub(super) stopped: Option<PageCursor>,
}

/// See [`Secrets::list`](agentrouter_store::Secrets::list).
pub(super) async fn list(
    reads: &ReadPool,
    query: &ListQuery,
    tags: Option<&dyn RowTags>,
) -> Result<Listed, StoreError> {
    let reader = Reader { reads, tags };
    let mut all = Listed::default();
    // PostgreSQL's text cannot hold NUL, so no name has this prefix.
    let impossible = query.name_prefix.as_ref().is_some_and(|prefix| prefix.contains('\0'));
    if query.limit == 0 || impossible {
        return Ok(all);
    }
    let mut owners = Vec::new();
    for (owner, realms) in covered(query) {
        owners.push(of_owner(reader, query, owner, realms));
    }
    let is_merged = owners.len() > 1;
    for listed in futures_util::future::try_join_all(owners).await? {
        all.page.extend(listed.page);
        all.damaged += listed.damaged;
        // Another owner may have rows after this position that this owner's rows would come between.
        all.stopped = all.stopped.into_iter().chain(listed.stopped).min();
    }
    all.page.sort_by(|a, b| key(a).cmp(&key(b)));
    if let Some(stopped) = &all.stopped {
        all.page.retain(|secret| PageCursor::of(secret) <= *stopped);
    }
    if is_merged {
        all.stopped = query.cut(&mut all.page).or(all.stopped);
    }
    if all.page.len() > query.limit as usize {
        all.page.truncate(query.limit as usize);
        all.stopped = None;
    }
    Ok(all)
}

fn key(secret: &Secret) -> (&str, &str, i32, &str) {
    let place = &secret.place;
    (place.realm.as_str(), place.name.as_str(), secret.version.get(), place.owner.as_str())
}

/// The realms that the scopes cover for each owner; none means every realm.
fn covered(query: &ListQuery) -> BTreeMap<&Owner, Option<Vec<&Realm>>> {
    let mut covered: BTreeMap<&Owner, Option<Vec<&Realm>>> = BTreeMap::new();
    for scope in &query.scopes {
        let of_owner = covered.entry(&scope.owner).or_insert_with(|| Some(Vec::new()));
        match (&scope.realms, of_owner.as_mut()) {
            (Realms::All, _) => *of_owner = None,
            (Realms::Only(realms), Some(sofar)) => sofar.extend(realms),
            (Realms::Only(_), None) => {}
        }
    }
    for realms in covered.values_mut().flatten() {
        realms.sort_unstable();
        realms.dedup();
    }
    covered
}

/// The connections of a list, and the tags of the rows that they read.
#[derive(Clone, Copy)]
struct Reader<'a> {
    reads: &'a ReadPool,
    tags: Option<&'a dyn RowTags>,
}

async fn of_owner(
    reader: Reader<'_>,
    query: &ListQuery,
    owner: &Owner,
    realms: Option<Vec<&Realm>>,
) -> Result<Listed, StoreError> {
    let start = query.after.as_ref().map_or("", |after| after.realm.as_str());
    let mut listed = Listed::default();
    let Some(realms) = realms else {
        if query.name_prefix.is_none() {
            read(reader, query, owner, &[Range::everything(query)], &mut listed).await?;
        } else {
            by_prefix(reader, query, owner, start, &mut listed).await?;
        }
        return Ok(listed);
    };
    let realms: Vec<&str> = realms.into_iter().map(Realm::as_str).filter(|realm| *realm >= start).collect();
    in_realms(reader, query, owner, &realms, &mut listed).await?;
    Ok(listed)
}

/// Lists a prefix in each realm in which the owner has a secret.
async fn by_prefix(
    reader: Reader<'_>,
    query: &ListQuery,
    owner: &Owner,
    start: &str,
    listed: &mut Listed,
) -> Result<(), StoreError> {
    let mut from = start.to_owned();
    loop {
        let rows = reader.reads.rows(Sql::Realms, &[&owner.as_str(), &from, &REALMS]).await?;
        let realms: Vec<&str> =
            rows.iter().map(|row| rows::column(row, 0, "a realm")).collect::<Result<_, _>>()?;
        in_realms(reader, query, owner, &realms, listed).await?;
        match realms.last() {
            Some(last)
                if rows.len() == REALMS as usize
                    && listed.page.len() < query.limit as usize
                    && listed.stopped.is_none() =>
            {
                // The smallest text greater than this realm.
                from = [*last, "\u{1}"].concat();
            }
            _ => return Ok(()),
        }
    }
}

/// Adds to the page from these realms, in order, until it is full.
async fn in_realms(
    reader: Reader<'_>,
    query: &ListQuery,
    owner: &Owner,
    realms: &[&str],
    listed: &mut Listed,
) -> Result<(), StoreError> {
    let ranges: Vec<Range> = realms.iter().filter_map(|realm| Range::within(query, realm)).collect();
    for chunk in ranges.chunks(CHUNK) {
        read(reader, query, owner, chunk, listed).await?;
        if listed.page.len() >= query.limit as usize || listed.stopped.is_some() {
            break;
        }
    }
    Ok(())
}

/// One range. It excludes `version` and earlier versions of the name that it begins with; 0 excludes none.
#[derive(Clone)]
struct Range {
    from: (String, String),
    version: i32,
    to: (String, String),
}

impl Range {
    /// Every realm.
    fn everything(query: &ListQuery) -> Self {
        let (from, version) = query.after.as_ref().map_or_else(Default::default, |after| {
            ((after.realm.as_str().to_owned(), after.name.as_str().to_owned()), after.version.get())
        });
        Self { from, version, to: (LAST.to_owned(), String::new()) }
    }

    /// The prefix within one realm; none if the previous page ended after it.
    fn within(query: &ListQuery, realm: &str) -> Option<Self> {
        let prefix = query.name_prefix.as_deref().unwrap_or("");
        let to = (realm.to_owned(), [prefix, LAST].concat());
        let (from, version) = match query.after.as_ref().filter(|after| after.realm.as_str() == realm) {
            Some(after) if after.name.as_str() >= prefix => (after.name.as_str(), after.version.get()),
            _ => (prefix, 0),
        };
        let range = Self { from: (realm.to_owned(), from.to_owned()), version, to };
        (range.from < range.to).then_some(range)
    }

    /// The rest of the range after a row; none if it is empty.
    fn after(&self, place: &(String, String), version: i32) -> Option<Self> {
        match self {
            _ if self.to <= *place => None,
            _ if self.from > *place => Some(self.clone()),
            _ => Some(Self { from: place.clone(), version, to: self.to.clone() }),
        }
    }
}

/// The statement for a list. `tagged` selects the one that starts from the index of tags.
fn statement(statuses: StatusFilter, tagged: bool) -> Sql {
    match (statuses, tagged) {
        (StatusFilter::Active, false) => Sql::ListActive,
        (StatusFilter::Active, true) => Sql::ListActiveTagged,
        (StatusFilter::RotatedPending, false) => Sql::ListPending,
        (StatusFilter::RotatedPending, true) => Sql::ListPendingTagged,
        (StatusFilter::Retired, false) => Sql::ListRetired,
        (StatusFilter::Retired, true) => Sql::ListRetiredTagged,
        (StatusFilter::Any, false) => Sql::ListAny,
        (StatusFilter::Any, true) => Sql::ListAnyTagged,
    }
}

/// Adds to the page from these ranges, in order, until it is full or has the bytes of the query. Reads again if there may
/// be more rows.
async fn read(
    reader: Reader<'_>,
    query: &ListQuery,
    owner: &Owner,
    ranges: &[Range],
    listed: &mut Listed,
) -> Result<(), StoreError> {
    let full = listed.page.len() + query.limit as usize;
    let mut ranges = ranges.to_vec();
    while !ranges.is_empty() && listed.page.len() < full {
        let asked = u32::try_from(full - listed.page.len()).unwrap_or(ROWS).min(ROWS);
        let tags = verified(reader.tags);
        let rows = read_rows(reader.reads, query, owner, &ranges, asked).await?;
        for row in &rows {
            let parsed = match query.statuses {
                StatusFilter::Active => rows::secret(row, tags),
                _ => rows::of_version(row, tags),
            };
            match parsed {
                // The index of tags is not authenticated.
                Ok(secret) if !secret.tags.contains_all(&query.tags) => {}
                Ok(mut secret) => {
                    let weight = ListQuery::weight(&secret);
                    if let Some(last) = listed.page.last()
                        && listed.bytes + weight > query.bytes
                    {
                        listed.stopped = Some(PageCursor::of(last));
                        return Ok(());
                    }
                    listed.bytes += weight;
                    secret.status = secret.status.at(query.now, secret.expires_at);
                    listed.page.push(secret);
                }
                Err(_) => listed.damaged += 1,
            }
        }
        let Some(last) = rows.last() else { break };
        if rows.len() < asked as usize {
            break;
        }
        let text = |at| rows::column::<&str>(last, at, "a place").map(str::to_owned);
        let (place, version) = ((text(1)?, text(2)?), rows::column::<i32>(last, 9, "a version number")?);
        ranges = ranges.iter().filter_map(|range| range.after(&place, version)).collect();
    }
    Ok(())
}

async fn read_rows(
    reads: &ReadPool,
    query: &ListQuery,
    owner: &Owner,
    ranges: &[Range],
    limit: u32,
) -> Result<Vec<Row>, StoreError> {
    let from_realm: Vec<&str> = ranges.iter().map(|range| range.from.0.as_str()).collect();
    let from_name: Vec<&str> = ranges.iter().map(|range| range.from.1.as_str()).collect();
    let version: Vec<i32> = ranges.iter().map(|range| range.version).collect();
    let to_realm: Vec<&str> = ranges.iter().map(|range| range.to.0.as_str()).collect();
    let to_name: Vec<&str> = ranges.iter().map(|range| range.to.1.as_str()).collect();
    let (keys, values): (Vec<&str>, Vec<&str>) =
        query.tags.iter().map(|(key, value)| (key.as_str(), value.as_str())).unzip();
    let (owner, limit, now) = (owner.as_str(), i64::from(limit), query.now.as_micros());
    let mut params: Vec<&(dyn ToSql + Sync)> =
        vec![&owner, &from_realm, &from_name, &version, &to_realm, &to_name, &limit, &now];
    let tagged = !query.tags.is_empty();
    if tagged {
        params.push(&keys);
        params.push(&values);
    }
    reads.rows(statement(query.statuses, tagged), &params).await
}
