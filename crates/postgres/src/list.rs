//! Pages of a list.
//!
//! A list covers *ranges*: from one (realm, name) to another, of one owner. A whole owner is one range, a realm is one
//! range, and a prefix within a realm is one range. The cursor shortens the first range. One statement reads many
//! ranges, each by one index and at most one page of it. So the work depends on the page's size, not on the store's.
//!
//! A filter by tags or by status may match few of the entries that are read. So a statement reads a bounded number of them
//! in each range, and says how far it came. Beyond the steps of the query the page ends, and the list continues after that
//! position. Entries read, their look-ups of further tags, realms and ranges count as steps.
//!
//! A list takes one round trip, with these exceptions: a list of a prefix over all realms reads the realms first, a list of
//! more than [`CHUNK`] realms continues when the first ones do not fill the page, and so does one of several ranges when
//! one of them has more entries than its share. Each owner is read by a
//! statement of its own, which sees one snapshot. Two owners never share a place, so nothing is shown twice. A row that
//! does not parse or is not authentic is left out and counted.

use std::collections::BTreeMap;

use agentrouter_model::limits::NAME_BYTES;
use agentrouter_model::{Owner, PageCursor, Realm, Secret, SecretName, Version};
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
/// Fewest entries that a statement reads in each range, so that each statement gets further.
const FEWEST: usize = 16;

/// A page, and how many rows were left out of it because they do not parse or are not authentic.
#[derive(Debug, Default)]
pub(super) struct Listed {
    pub(super) page: Vec<Secret>,
    /// Their bytes, by [`ListQuery::weight`].
    bytes: usize,
    pub(super) damaged: u64,
    /// The steps that are left.
    left: usize,
    /// Where the list continues if it ended early.
    pub(super) stopped: Option<PageCursor>,
}

impl Listed {
    /// Whether the page is full or has ended early.
    fn is_complete(&self, query: &ListQuery) -> bool {
        self.page.len() >= query.limit as usize || self.stopped.is_some()
    }

    fn count(&mut self, steps: usize) {
        self.left = self.left.saturating_sub(steps);
    }

    /// Ends the page after a realm if no step is left.
    fn pass(&mut self, realm: &str) {
        // No name is greater.
        let last = SecretName::parse(&"z".repeat(NAME_BYTES));
        if let (0, Ok(realm), Ok(name)) = (self.left, Realm::parse(realm), last) {
            self.stopped = Some(PageCursor { realm, name, version: Version::MAX });
        }
    }
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
    let covered = covered(query);
    let share = query.steps / covered.len().max(1);
    for (owner, realms) in covered {
        let listed = Listed { left: share, ..Listed::default() };
        owners.push(of_owner(reader, query, owner, realms, listed));
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
    mut listed: Listed,
) -> Result<Listed, StoreError> {
    let start = query.after.as_ref().map_or("", |after| after.realm.as_str());
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
        listed.count(rows.len());
        in_realms(reader, query, owner, &realms, listed).await?;
        match realms.last() {
            Some(last) if rows.len() == REALMS as usize && !listed.is_complete(query) => {
                // The smallest text greater than this realm.
                from = [*last, "\u{1}"].concat();
                listed.pass(last);
            }
            _ => return Ok(()),
        }
        if listed.stopped.is_some() {
            return Ok(());
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
    let mut chunks = ranges.chunks(CHUNK).peekable();
    while let Some(chunk) = chunks.next() {
        read(reader, query, owner, chunk, listed).await?;
        if listed.is_complete(query) {
            break;
        }
        if let (Some(last), Some(_)) = (chunk.last(), chunks.peek()) {
            listed.pass(&last.to.0);
            if listed.stopped.is_some() {
                break;
            }
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

/// An entry that a statement has read: a row of the list, or the last entry of a range.
struct Entry {
    /// Its realm and name, and the version up to which its versions are done.
    place: (String, String),
    version: i32,
    /// Its number among those of its range.
    number: usize,
    matches: bool,
}

impl Entry {
    /// The columns after those of a secret or a version. A list of active versions without tags has no filter: each entry
    /// is a row, and has no number.
    fn of(row: &Row, query: &ListQuery) -> Result<Self, StoreError> {
        let first = match query.statuses {
            StatusFilter::Active if query.tags.is_empty() => {
                let place = (text(row, 1)?, text(row, 2)?);
                let version = rows::column(row, 9, "a version number")?;
                return Ok(Self { place, version, number: 0, matches: true });
            }
            StatusFilter::Active => 15,
            _ => 16,
        };
        Ok(Self {
            place: (text(row, first)?, text(row, first + 1)?),
            version: rows::column(row, first + 2, "a version number")?,
            number: usize::try_from(rows::column::<i64>(row, first + 3, "a number")?).unwrap_or(usize::MAX),
            matches: rows::column(row, first + 4, "a comparison")?,
        })
    }

    /// The position of the list after this entry. None if its names do not parse; those of the next entry may.
    fn position(&self) -> Option<PageCursor> {
        let (realm, name) = (Realm::parse(&self.place.0).ok()?, SecretName::parse(&self.place.1).ok()?);
        Some(PageCursor { realm, name, version: Version::new(self.version)? })
    }
}

fn text(row: &Row, at: usize) -> Result<String, StoreError> {
    rows::column::<&str>(row, at, "a place").map(str::to_owned)
}

/// Adds to the page from these ranges, in order, until it is full, has the bytes of the query or has taken its steps. Reads
/// again if there may be more rows.
async fn read(
    reader: Reader<'_>,
    query: &ListQuery,
    owner: &Owner,
    ranges: &[Range],
    listed: &mut Listed,
) -> Result<(), StoreError> {
    let full = listed.page.len() + query.limit as usize;
    let mut ranges = ranges.to_vec();
    // What an entry costs: a look-up for each tag.
    let cost = query.tags.len().max(1);
    while !ranges.is_empty() && listed.page.len() < full {
        let asked = u32::try_from(full - listed.page.len()).unwrap_or(ROWS).min(ROWS);
        // One row more for the last entry of each range.
        let asked = asked + u32::try_from(ranges.len()).unwrap_or(0);
        let most = (listed.left / cost / ranges.len()).max(FEWEST);
        let tags = verified(reader.tags);
        let rows = read_rows(reader.reads, query, owner, &ranges, (asked, most)).await?;
        let entries = rows.iter().map(|row| Entry::of(row, query)).collect::<Result<Vec<_>, _>>()?;
        listed.count(ranges.len() + cost * count(&entries));
        let mut last = None;
        for (row, entry) in rows.iter().zip(&entries) {
            if entry.matches && !add(row, query, tags, listed)? {
                return Ok(());
            }
            last = Some(entry);
            // The next rows may come after entries that were not read.
            if listed.page.len() == full || entry.number == most {
                break;
            }
        }
        let Some(last) = last else { break };
        if rows.len() < asked as usize && last.number != most {
            break;
        }
        if listed.left == 0 && listed.page.len() < full {
            listed.stopped = last.position();
            if listed.stopped.is_some() {
                break;
            }
        }
        ranges = ranges.iter().filter_map(|range| range.after(&last.place, last.version)).collect();
    }
    Ok(())
}

/// How many entries were read. Their numbers start again in each range.
fn count(entries: &[Entry]) -> usize {
    let ends = entries.iter().zip(entries.iter().skip(1)).filter(|(one, next)| next.number <= one.number);
    let ended: usize = ends.map(|(one, _)| one.number.max(1)).sum();
    ended + entries.last().map_or(0, |last| last.number.max(1))
}

/// Adds a row to the page. Returns whether the list continues: the page ends before a row that is too large for it.
fn add(
    row: &Row,
    query: &ListQuery,
    tags: Option<&dyn RowTags>,
    listed: &mut Listed,
) -> Result<bool, StoreError> {
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
                return Ok(false);
            }
            listed.bytes += weight;
            secret.status = secret.status.at(query.now, secret.expires_at);
            listed.page.push(secret);
        }
        Err(_) => listed.damaged += 1,
    }
    Ok(true)
}

async fn read_rows(
    reads: &ReadPool,
    query: &ListQuery,
    owner: &Owner,
    ranges: &[Range],
    (limit, most): (u32, usize),
) -> Result<Vec<Row>, StoreError> {
    let from_realm: Vec<&str> = ranges.iter().map(|range| range.from.0.as_str()).collect();
    let from_name: Vec<&str> = ranges.iter().map(|range| range.from.1.as_str()).collect();
    let version: Vec<i32> = ranges.iter().map(|range| range.version).collect();
    let to_realm: Vec<&str> = ranges.iter().map(|range| range.to.0.as_str()).collect();
    let to_name: Vec<&str> = ranges.iter().map(|range| range.to.1.as_str()).collect();
    let (keys, values): (Vec<&str>, Vec<&str>) =
        query.tags.iter().map(|(key, value)| (key.as_str(), value.as_str())).unzip();
    let (owner, limit, now) = (owner.as_str(), i64::from(limit), query.now.as_micros());
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let mut params: Vec<&(dyn ToSql + Sync)> =
        vec![&owner, &from_realm, &from_name, &version, &to_realm, &to_name, &limit, &now];
    let tagged = !query.tags.is_empty();
    if tagged || query.statuses != StatusFilter::Active {
        params.push(&most);
    }
    if tagged {
        params.push(&keys);
        params.push(&values);
    }
    reads.rows(statement(query.statuses, tagged), &params).await
}
