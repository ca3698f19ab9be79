//! Pages of a list.
//!
//! A list reads realm by realm in order. Within a realm it reads one range of one index per owner, row by row until the
//! page is full. So the work depends on the page's size, not on the store's. Several tags are intersected on their
//! index: each tag skips to the name that the previous one has reached, and only secrets with all tags are read. A list
//! is one read transaction and sees one snapshot.
//!
//! An intersection of tags with few rows in common can still take many steps, and so can a tag that no row of the wanted
//! status has. Beyond a budget the walk stops, and the caller repeats it on a thread of the blocking pool. Beyond the
//! steps or the bytes of the query the page ends, and the list continues after the position that the walk has reached.
//! A row that does not parse or is not authentic is left out and counted, so that it does not hide the other rows.

use agentrouter_model::limits::NAME_BYTES;
use agentrouter_model::{Owner, PageCursor, Place, Realm, Secret, SecretName, Version};
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, Rows, ToSql, params};

use super::rows::{self, Before, failure};
use super::sql;
use super::tx::{Snapshot, first};
use agentrouter_store::row_tags::RowTag;
use agentrouter_store::{ListQuery, Realms, RowTags, StatusFilter, StoreError};

/// Most steps (rows read and index look-ups) that a list takes on its caller's own thread.
pub(super) const INLINE: usize = 2_000;

/// Most rows for which memory is reserved before they are read.
const ROOM: usize = 64;

/// Above every name, since names are ASCII.
const LAST: &str = "\u{10ffff}";

/// A page, and how many rows were left out of it because they do not parse or are not authentic.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) page: Vec<Secret>,
    pub(super) damaged: u64,
    /// Where the list continues if it ended early.
    pub(super) stopped: Option<PageCursor>,
}

/// See [`Secrets::list`](agentrouter_store::Secrets::list). None if it would take more than `budget` steps and may.
pub(super) fn list(
    conn: &Connection,
    query: &ListQuery,
    budget: usize,
    tags: Option<&dyn RowTags>,
) -> Result<Option<Listed>, StoreError> {
    let snapshot = Snapshot::begin(conn)?;
    let mut walk = Walk {
        conn: snapshot.conn(),
        query,
        left: budget.min(query.steps),
        may_stop: budget >= query.steps,
        bytes: query.bytes,
        at: Reached::Start,
        realm: None,
        listed: Listed { page: Vec::new(), damaged: 0, stopped: None },
        before: Before::default(),
        tags,
        stored: Vec::new(),
    };
    match walk.run() {
        Ok(()) => Ok(Some(walk.listed)),
        Err(Stop::Bound) => {
            walk.listed.stopped = walk.position();
            Ok(Some(walk.listed))
        }
        Err(Stop::OverBudget) => Ok(None),
        Err(Stop::Failed(error)) => Err(error),
    }
}

/// Why a walk ended early.
enum Stop {
    /// A bound of the query.
    Bound,
    OverBudget,
    Failed(StoreError),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

/// Text as stored, which may not be UTF-8.
pub(super) struct Raw<'a>(pub(super) &'a [u8]);

impl ToSql for Raw<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(ValueRef::Text(self.0)))
    }
}

fn raw(row: &rusqlite::Row<'_>) -> Result<Vec<u8>, StoreError> {
    rows::raw(row, 0, "a text").map(<[u8]>::to_vec)
}

/// How far a walk has come: every row up to there is in the page, or does not match.
#[derive(Clone)]
enum Reached {
    Start,
    /// The last row of the page.
    Row,
    /// A row that was left out.
    LeftOut(Box<Secret>),
    /// A name in the present realm: its rows are in the page, or it lacks one of the tags.
    Past(SecretName),
    /// The position at which the rows of several owners in the present realm end.
    Merged(PageCursor),
    /// The end of a realm.
    End(Realm),
}

/// A list in progress.
struct Walk<'a> {
    conn: &'a Connection,
    query: &'a ListQuery,
    /// The steps that are left.
    left: usize,
    /// Whether the page ends when none is left.
    may_stop: bool,
    /// The bytes that are left.
    bytes: usize,
    at: Reached,
    /// The present realm.
    realm: Option<Realm>,
    listed: Listed,
    before: Before,
    tags: Option<&'a dyn RowTags>,
    /// The tags of the last rows of the page, which are not verified yet.
    stored: Vec<Option<RowTag>>,
}

impl Walk<'_> {
    fn run(&mut self) -> Result<(), Stop> {
        let limit = self.query.limit as usize;
        let mut at = match &self.query.after {
            Some(after) => Some(after.realm.clone()),
            None => self.next_realm(None)?,
        };
        while let Some(realm) = at {
            self.realm = Some(realm.clone());
            match owners_in(self.query, &realm)[..] {
                [owner] => self.read_realm(owner, &realm, limit)?,
                ref owners => self.read_owners(owners, &realm, limit)?,
            }
            if self.listed.page.len() >= limit {
                break;
            }
            self.at = Reached::End(realm.clone());
            at = self.next_realm(Some(&realm))?;
        }
        Ok(())
    }

    /// Counts a step. A walk without progress continues, since the next page would begin at the same position.
    fn step(&mut self) -> Result<(), Stop> {
        match self.left.checked_sub(1) {
            Some(left) => self.left = left,
            None if !self.may_stop => return Err(Stop::OverBudget),
            None if self.position() == self.query.after => {}
            None => return Err(Stop::Bound),
        }
        Ok(())
    }

    /// Everything up to this name is done.
    fn pass(&mut self, name: &[u8]) {
        // Bytes that are not a name cannot be a position. The next name can.
        if let Some(name) = std::str::from_utf8(name).ok().and_then(|name| SecretName::parse(name).ok()) {
            self.at = Reached::Past(name);
        }
    }

    /// The position that the walk has reached: the start of the query if it made no progress.
    fn position(&self) -> Option<PageCursor> {
        let after = |realm: &Realm, name| PageCursor { realm: realm.clone(), name, version: Version::MAX };
        match &self.at {
            Reached::Start => self.query.after.clone(),
            Reached::Row => self.listed.page.last().map(PageCursor::of),
            Reached::LeftOut(secret) => Some(PageCursor::of(secret)),
            Reached::Past(name) => self.realm.as_ref().map(|realm| after(realm, name.clone())),
            Reached::Merged(position) => Some(position.clone()),
            // No name is greater.
            Reached::End(realm) => {
                SecretName::parse(&"z".repeat(NAME_BYTES)).ok().map(|name| after(realm, name))
            }
        }
    }

    /// The first realm after `realm` that the query covers; for a scope over all realms, the next realm with a secret.
    fn next_realm(&mut self, realm: Option<&Realm>) -> Result<Option<Realm>, Stop> {
        let query = self.query;
        let mut next: Option<Realm> = None;
        for scope in &query.scopes {
            let candidate = match &scope.realms {
                Realms::Only(realms) => {
                    realms.iter().filter(|r| realm.is_none_or(|realm| *r > realm)).min().cloned()
                }
                Realms::All => self.next_realm_of(&scope.owner, realm.map_or("", Realm::as_str))?,
            };
            next = next.into_iter().chain(candidate).min();
        }
        Ok(next)
    }

    /// The next realm after `after` in which `owner` has a secret. Skips names that do not parse as a realm.
    fn next_realm_of(&mut self, owner: &Owner, after: &str) -> Result<Option<Realm>, Stop> {
        let mut after = after.as_bytes().to_vec();
        loop {
            self.step()?;
            let found = first(self.conn, sql::NEXT_REALM, params![owner.as_str(), Raw(&after)], raw)?;
            let Some(found) = found else { return Ok(None) };
            if let Some(realm) = std::str::from_utf8(&found).ok().and_then(|text| Realm::parse(text).ok()) {
                return Ok(Some(realm));
            }
            self.listed.damaged += 1;
            after = found;
        }
    }

    /// Reads the rows of several owners in one realm until the page has `limit` rows.
    ///
    /// Each owner is read from the start of the realm, with an equal share of the steps that are left. If a bound stops one
    /// of them, the page ends at the first position at which one stopped: rows of that owner may come next.
    fn read_owners(&mut self, owners: &[&Owner], realm: &Realm, limit: usize) -> Result<(), Stop> {
        let from = self.listed.page.len();
        let (start, bytes) = (self.at.clone(), self.bytes);
        let mut stopped: Option<PageCursor> = None;
        for (i, owner) in owners.iter().enumerate() {
            // A walk that may not stop has no shares: it is repeated as a whole.
            let others = if self.may_stop { self.left - self.left / (owners.len() - i) } else { 0 };
            self.left -= others;
            (self.at, self.bytes) = (start.clone(), bytes);
            match self.read_realm(owner, realm, self.listed.page.len() + limit - from) {
                Err(Stop::Bound) => stopped = stopped.into_iter().chain(self.position()).min(),
                read => read?,
            }
            self.left += others;
        }
        let page = &mut self.listed.page;
        page[from..].sort_by(|a, b| key(a).cmp(&key(b)));
        if let Some(stopped) = &stopped {
            page.retain(|secret| PageCursor::of(secret) <= *stopped);
        }
        stopped = self.query.cut(page).or(stopped);
        page.truncate(limit);
        let read: usize = page.iter().skip(from).map(ListQuery::weight).sum();
        self.bytes = bytes.saturating_sub(read);
        match stopped {
            // A full page continues after its last row.
            Some(stopped) if page.len() < limit => {
                self.at = Reached::Merged(stopped);
                Err(Stop::Bound)
            }
            _ => Ok(()),
        }
    }

    /// Reads rows of one owner in one realm until the page has `full` rows.
    fn read_realm(&mut self, owner: &Owner, realm: &Realm, full: usize) -> Result<(), Stop> {
        let range = Range::new(self.query, realm);
        let tagged = match (self.query.tags.len(), self.query.statuses) {
            (0, _) => false,
            // Each secret with the tag is a row.
            (1, StatusFilter::Active) => true,
            _ => return self.read_intersection(owner, realm, &range, full),
        };
        let from = (range.from.as_bytes(), range.version);
        self.read_rows(owner, realm, from, range.end.as_bytes(), tagged, full)
    }

    /// The same for several tags, or for versions that few secrets with the tag may have: reads each name that has all of
    /// them. So each step is counted. SQLite would search for the next row in one step.
    fn read_intersection(
        &mut self,
        owner: &Owner,
        realm: &Realm,
        range: &Range,
        full: usize,
    ) -> Result<(), Stop> {
        let mut from = range.from.as_bytes().to_vec();
        while self.listed.page.len() < full {
            let Some(name) = self.next_in_all(owner, realm, from, range.end.as_bytes())? else {
                return Ok(());
            };
            let version = if name == range.from.as_bytes() { range.version } else { 0 };
            // The smallest text greater than the name.
            let after = [&name[..], b"\0"].concat();
            self.read_rows(owner, realm, (&name, version), &after, false, full)?;
            self.pass(&name);
            from = after;
        }
        Ok(())
    }

    /// The first name from `from` on and before `end` under which every wanted tag is found.
    fn next_in_all(
        &mut self,
        owner: &Owner,
        realm: &Realm,
        from: Vec<u8>,
        end: &[u8],
    ) -> Result<Option<Vec<u8>>, Stop> {
        let tags: Vec<_> =
            self.query.tags.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let (mut name, mut agreed) = (from, 0);
        // The search begins at the first name, which need not be the name of a secret.
        let mut is_found = false;
        for (key, value) in tags.iter().cycle() {
            self.step()?;
            let at = params![owner.as_str(), realm.as_str(), key, value, Raw(&name), Raw(end)];
            let Some(found) = first(self.conn, sql::NEXT_TAGGED, at, raw)? else { return Ok(None) };
            if found == name {
                agreed += 1;
            } else {
                agreed = 1;
                // This tag is not at the name before, nor at any name between.
                if is_found {
                    self.pass(&name);
                }
                name = found;
            }
            is_found = true;
            if agreed == tags.len() {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    fn read_rows(
        &mut self,
        owner: &Owner,
        realm: &Realm,
        (from, version): (&[u8], i32),
        end: &[u8],
        tagged: bool,
        full: usize,
    ) -> Result<(), Stop> {
        let query = self.query;
        let tag = query.tags.iter().next().map(|(key, value)| (key.as_str(), value.as_str()));
        let mut statement = self.conn.prepare_cached(statement(query.statuses, tagged)).map_err(failure)?;
        for i in 1..=statement.parameter_count() {
            let bound = match i {
                1 => statement.raw_bind_parameter(i, owner.as_str()),
                2 => statement.raw_bind_parameter(i, realm.as_str()),
                3 => statement.raw_bind_parameter(i, Raw(from)),
                4 => statement.raw_bind_parameter(i, version),
                5 => statement.raw_bind_parameter(i, Raw(end)),
                6 => statement.raw_bind_parameter(i, tag.map(|(key, _)| key)),
                _ => statement.raw_bind_parameter(i, tag.map(|(_, value)| value)),
            };
            bound.map_err(failure)?;
        }
        let mut rows = statement.raw_query();
        loop {
            let from = self.listed.page.len();
            let read = self.add_rows(&mut rows, (owner, realm), full);
            let refused = self.verify(from);
            read?;
            // Other rows take the places of those that were refused.
            if refused == 0 || self.listed.page.len() >= full {
                return Ok(());
            }
        }
    }

    /// Adds rows until there are none left or the page has `full` rows. Those of a list of active versions are not verified.
    fn add_rows(
        &mut self,
        rows: &mut Rows<'_>,
        (owner, realm): (&Owner, &Realm),
        full: usize,
    ) -> Result<(), Stop> {
        let query = self.query;
        let is_active = query.statuses == StatusFilter::Active;
        let room = full.saturating_sub(self.listed.page.len()).min(ROOM);
        self.listed.page.reserve(room);
        while self.listed.page.len() < full
            && let Some(row) = rows.next().map_err(failure)?
        {
            self.step()?;
            match rows::listed(row, (owner, realm), is_active, &mut self.before, self.tags) {
                Ok((mut secret, stored)) if is_wanted(query, &secret) => {
                    let weight = ListQuery::weight(&secret);
                    if weight > self.bytes
                        && !self.listed.page.is_empty()
                        && self.position() != self.query.after
                    {
                        return Err(Stop::Bound);
                    }
                    self.bytes = self.bytes.saturating_sub(weight);
                    secret.status = secret.status.at(query.now, secret.expires_at);
                    self.listed.page.push(secret);
                    if is_active {
                        self.stored.push(stored);
                    }
                    self.at = Reached::Row;
                }
                Ok((secret, _)) => self.at = Reached::LeftOut(Box::new(secret)),
                Err(StoreError::Corrupt(_)) => self.listed.damaged += 1,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Removes the rows from `from` on that are not authentic. Returns their number.
    fn verify(&mut self, from: usize) -> usize {
        let stored = std::mem::take(&mut self.stored);
        let Some(tags) = self.tags.filter(|_| self.query.statuses == StatusFilter::Active) else { return 0 };
        let page = &mut self.listed.page;
        let (mut at, mut refused) = (0, Vec::new());
        tags.secret_tags(&page[from..], &mut |tag| {
            if !tags.are_equal(&tag, stored.get(at).and_then(Option::as_ref).map(|stored| &stored[..])) {
                refused.push(from + at);
            }
            at += 1;
        });
        for at in refused.iter().rev() {
            tags.count_refusal();
            let secret = page.remove(*at);
            if *at == page.len() && matches!(self.at, Reached::Row) {
                self.at = Reached::LeftOut(Box::new(secret));
            }
        }
        self.listed.damaged += refused.len() as u64;
        refused.len()
    }
}

/// Whether a row is shown. The index of tags is not authenticated, and a pending version may be overdue.
fn is_wanted(query: &ListQuery, secret: &Secret) -> bool {
    query.statuses.covers(secret.status.at(query.now, secret.expires_at))
        && secret.tags.contains_all(&query.tags)
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

/// Where a page begins and ends within a realm.
struct Range {
    /// The first name, and the version of it after which to begin.
    from: String,
    version: i32,
    /// Before this name the page ends.
    end: String,
}

impl Range {
    fn new(query: &ListQuery, realm: &Realm) -> Self {
        let prefix = query.name_prefix.as_deref().unwrap_or("");
        let after = query.after.as_ref().filter(|after| after.realm == *realm);
        let end = [prefix, LAST].concat();
        match after {
            Some(after) if after.name.as_str() >= prefix => match query.statuses {
                // There is one row for each name, so begin at the smallest text greater than it.
                StatusFilter::Active => Self { from: [after.name.as_str(), "\0"].concat(), version: 0, end },
                _ => Self { from: after.name.as_str().to_owned(), version: after.version.get(), end },
            },
            _ => Self { from: prefix.to_owned(), version: 0, end },
        }
    }
}

/// The statement for a list. `tagged` selects the one that starts from the index of tags.
fn statement(statuses: StatusFilter, tagged: bool) -> &'static str {
    match (statuses, tagged) {
        (StatusFilter::Active, true) => sql::LIST_ACTIVE_TAGGED,
        (StatusFilter::Active, false) => sql::LIST_ACTIVE,
        (StatusFilter::RotatedPending, _) => sql::LIST_PENDING,
        (StatusFilter::Retired, _) => sql::LIST_RETIRED,
        (StatusFilter::Any, _) => sql::LIST_ANY,
    }
}
