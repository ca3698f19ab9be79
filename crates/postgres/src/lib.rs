//! The storage engine for several servers: replicas over one PostgreSQL database, version 15 or later.
//!
//! ```text
//! any task ──► read_pool.rs  connection pool for reads: one statement, one round trip
//!          ──► queue.rs      queue of writes; changes of one place stay in order
//!              writer.rs     batcher: a few tasks, one transaction of two round trips per batch
//!                batch.rs    the statements of a batch
//!                step.rs     statements and the commit in one round trip, and what its failures mean
//! freshness/ driver of the read leases
//! connect_options.rs the URL  link.rs     one prepared connection     tls.rs      rustls
//! timeline.rs  old primaries  sql.rs      statements                  rows.rs     rows to model
//! file_source.rs  files that are read again for each connection
//! list.rs      pages          schema.rs   the schema's number         migrate.rs  migrations
//! manifest.rs  authentication of an older store            retag.rs    tags for its rows
//! failure.rs   errors         health.rs   hysteresis                  inspect.rs  for `doctor`
//! portable.rs  export and import          export_lock.rs  lock during an export
//! wrapped_keys.rs  change of the KEK
//! ```
//!
//! Advisory locks of the transaction keep two replicas from deciding about one place at the same time. The constraints
//! of the schema hold in any case. An acknowledged commit is on the disk of the database (and of its synchronous
//! standby, if there is one). A commit that was sent and got no response is [`StoreError::OutcomeUnknown`]. Every
//! operation has a deadline: without a database it fails within seconds, and the first operation after an outage
//! connects again.
//!
//! Not protected: ciphertext that was destroyed stays in dead rows until PostgreSQL vacuums them, and in its WAL.

mod batch;
mod connect_options;
mod export_lock;
mod failure;
mod file_source;
mod freshness;
mod health;
mod inspect;
mod link;
mod list;
mod manifest;
mod migrate;
mod portable;
mod queue;
mod read_pool;
mod retag;
mod rows;
mod schema;
mod sql;
mod step;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod timeline;
mod tls;
mod wrapped_keys;
mod writer;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use agentrouter_lease::{self as lease, LeaseStats};
use agentrouter_model::{
    ApiKeyId, ApiKeyRecord, KekId, Owner, Place, Realm, Secret, SecretId, SecretName, Slot, Timestamp,
    Version,
};
use async_trait::async_trait;
use tokio::time::Instant;
use tokio_postgres::Row;

use self::batch::Fenced;
pub use self::connect_options::ConnectOptions;
pub use self::export_lock::Hold;
pub use self::file_source::FileSource;
use self::freshness::{Freshness, wire};
use self::health::Health;
use self::link::Dialer;
use self::portable::PostgresExport;
use self::read_pool::ReadPool;
use self::sql::Sql;
use self::step::Step;
use self::writer::{AttachedTags, Writers};
use agentrouter_store::decide::{Change, KeyDecision, decide_due, decide_key};
use agentrouter_store::portable::{EPOCH, Export, Import, Item};
use agentrouter_store::row_tags::{self, Admission, KeyChange, RowTag};
use agentrouter_store::{
    AuditHead, Examined, ExaminedKey, Facts, Inspection, Keys, ListPage, ListQuery, Portable, Replicated,
    Rotation, RowTags, Secrets, Stats, Store, StoreError, Stored, Upsert, WrappedKey, WriteError, json,
    same_check,
};

/// Connections for reads, of one replica.
const READERS: usize = 4;
/// Connections that write, of one replica.
const WRITERS: usize = 3;
/// Longest time to open the store, another replica's migration included.
const OPEN: Duration = Duration::from_secs(30);
/// Longest time to find out whether the database can be reached.
const ABSENT: Duration = Duration::from_secs(5);
/// Most versions that are retired in one transaction.
const REAPED: u32 = 100;
/// The lock under which a first key is issued: the word `1key`.
const FIRST_KEY: i64 = 0x316b_6579;

/// A store in a PostgreSQL database, one of many replicas on it.
pub struct PostgresStore {
    replica: String,
    dialer: Arc<Dialer>,
    reads: Arc<ReadPool>,
    /// None if opened for reading only.
    writers: Option<Arc<Writers>>,
    health: Health,
    /// Rows left out of lists.
    damaged: AtomicU64,
    freshness: Freshness,
    tags: Arc<AttachedTags>,
}

impl PostgresStore {
    /// Opens the store in the database of `options`, bringing its schema up to date. `replica` tells this server from
    /// the others on the same database, and its audit log from theirs; it must stay the same from start to start.
    ///
    /// # Errors
    /// [`StoreError::SchemaTooNew`], [`StoreError::Open`].
    pub async fn open(options: ConnectOptions, replica: &str) -> Result<Self, StoreError> {
        options.load().await?;
        let dialer = Arc::new(Dialer::new(options));
        migrate::run(&dialer, Instant::now() + OPEN).await.map_err(failure::opening)?;
        let tags = Arc::default();
        let writers = Arc::new(Writers::start(&dialer, WRITERS, &tags));
        let health = Health::watch(Arc::clone(&writers.queue), replica.to_owned());
        let store = Self::new(dialer, replica, Some(writers), health, tags);
        // Prepares the statements once, so that a statement that the database refuses is found at the start.
        store.kek_checks().await.map_err(failure::opening)?;
        Ok(store)
    }

    /// Why the database of `options` cannot be reached at present, if that can be temporary. None if it can be reached,
    /// or if it refuses the connection: then [`PostgresStore::open`] returns the reason.
    pub async fn absence(options: &ConnectOptions) -> Option<StoreError> {
        // `open` also returns the reason for a file that cannot be used.
        options.load().await.ok()?;
        let dialer = Dialer::new(options.clone());
        let error = dialer.bare(Instant::now() + ABSENT).await.err()?;
        failure::may_pass(&error).then_some(error)
    }

    /// Opens the store for reading, beside running servers or without any. Changes nothing in the database; every write
    /// is refused.
    ///
    /// # Errors
    /// [`StoreError::SchemaTooNew`], [`StoreError::Open`]; also when no server has brought the schema up to date.
    pub async fn open_read_only(options: ConnectOptions, replica: &str) -> Result<Self, StoreError> {
        options.load().await?;
        let store =
            Self::new(Arc::new(Dialer::new(options)), replica, None, Health::read_only(), Arc::default());
        store.kek_checks().await.map_err(failure::opening)?;
        Ok(store)
    }

    fn new(
        dialer: Arc<Dialer>,
        replica: &str,
        writers: Option<Arc<Writers>>,
        health: Health,
        tags: Arc<AttachedTags>,
    ) -> Self {
        let reads = Arc::new(ReadPool::new(Arc::clone(&dialer), READERS));
        let freshness = Freshness::start(&dialer, replica, Arc::new(lease::SystemLeaseClock));
        let damaged = AtomicU64::new(0);
        Self { replica: replica.to_owned(), dialer, reads, writers, health, damaged, freshness, tags }
    }

    /// Checks all rows, for `doctor`. Takes as long as reading all of them takes.
    ///
    /// # Errors
    /// When they cannot be read at all; what is wrong inside is in [`Inspection::problems`].
    pub async fn inspect(&self) -> Result<Inspection, StoreError> {
        inspect::inspect(&self.dialer).await
    }

    /// Shows `look` every version, and whether it is authentic, one after another, for `doctor`. Those that do not parse are
    /// counted by [`PostgresStore::inspect`].
    ///
    /// # Errors
    /// When they cannot be read at all.
    pub async fn each_version(&self, look: impl FnMut(&Stored, bool)) -> Result<(), StoreError> {
        inspect::each_version(&self.dialer, self.verified(), look).await
    }

    /// The database's settings that are weaker than the service's guarantees require, a sentence each.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn weaknesses(&self) -> Result<Vec<String>, StoreError> {
        inspect::weaknesses(&self.dialer).await
    }

    /// The number of servers that are registered to cache rows, for `doctor`. A server that has died counts until
    /// another one waits for it.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn registered(&self) -> Result<usize, StoreError> {
        Ok(self.reads.rows(Sql::Registrations, &[]).await?.len())
    }

    /// Whether another server runs under this one's id, because one data directory is a copy of the other's. Call it
    /// before [`Replicated::attach`]. Takes a second if the id is registered, even if by this server before a crash.
    ///
    /// # Errors
    /// When the registrations cannot be read.
    pub async fn has_namesake(&self) -> Result<bool, StoreError> {
        let registered = async || wire::renewals(&self.reads.rows(Sql::Namesakes, &[&self.replica]).await?);
        let before = registered().await?;
        if before.is_empty() {
            return Ok(false);
        }
        tokio::time::sleep(lease::RENEW_EVERY * 4).await;
        let after = registered().await?;
        Ok(after.iter().any(|(id, renewals)| export_lock::lives(before.get(id).copied(), *renewals)))
    }

    /// Locks the content until the hold is dropped. Reads continue, and every change waits or fails. Changes nothing in
    /// the database.
    ///
    /// # Errors
    /// [`StoreError::InUse`] with the ids of the running servers; else when it cannot be read or locked.
    pub async fn hold(&self) -> Result<Hold, StoreError> {
        Hold::take(&self.dialer).await
    }

    /// Makes a change, behind a fence if a secret is present that other replicas may have cached.
    async fn change(&self, change: Change) -> Result<Option<Secret>, WriteError> {
        let Some(writers) = &self.writers else { return Err(READ_ONLY.into()) };
        let place = change.place().clone();
        let mut fenced = Fenced { token: None, change: Arc::new(change) };
        let mut first = fenced.change.may_create();
        for _ in 0..FENCES {
            if !first {
                fenced.token = Some(self.freshness.fence(lease::Target::Place(place.clone())).await?);
            }
            first = false;
            let outcome = writers.queue.change(fenced.clone()).await;
            if let Some(token) = fenced.token {
                self.freshness.release(token);
            }
            if let Some(outcome) = outcome {
                return outcome;
            }
        }
        Err(UNFENCED.into())
    }

    /// Revokes the key `id`, which is there; `before` is it, if it can be used. Every server drops `target` from its cache
    /// before that is visible.
    async fn revoke(
        &self,
        id: &ApiKeyId,
        before: Option<&ApiKeyRecord>,
        now: Timestamp,
    ) -> Result<Row, StoreError> {
        // Servers may have cached the key before it was damaged, under an unknown digest.
        let target = before.map_or(lease::Target::Everything, |key| lease::Target::Key(key.digest));
        for _ in 0..FENCES {
            let present = self.latest_manifest().await?;
            let change = KeyChange::Revoked { id, before, at: now };
            let revised = self.revised(present.as_deref(), change)?;
            let token = self.freshness.fence(target.clone()).await?;
            let sql = if revised.is_some() { Sql::RevokeListedKey } else { Sql::RevokeKey };
            let mut revoke = Step::new(sql)
                .with(id.as_str().to_owned())
                .with(now.as_micros())
                .with(token.to_be_bytes().to_vec())
                .with(Timestamp::MIN.as_micros())
                .with(Timestamp::MAX.as_micros());
            if let Some(revised) = &revised {
                revoke = revoke.with(present).with(revised.clone());
            }
            let rows = self.script(vec![revoke]).await;
            self.freshness.release(token);
            if let Some(row) = rows?.into_iter().flatten().next() {
                self.note(revised.as_deref());
                return Ok(row);
            }
        }
        Err(UNFENCED)
    }

    /// Issues a key. With `first`, only into a store without a key; false if there is one.
    async fn issue(&self, record: &ApiKeyRecord, first: bool) -> Result<bool, StoreError> {
        for _ in 0..REVISIONS {
            let present = self.latest_manifest().await?;
            let same = !self.reads.rows(Sql::Key, &[&record.id.as_str()]).await?.is_empty();
            match decide_key(first, self.has_keys().await?, same) {
                KeyDecision::Keep => return Ok(false),
                KeyDecision::Exists => return Err(StoreError::Exists("an API key")),
                KeyDecision::Insert => {}
            }
            let revised = self.revised(present.as_deref(), KeyChange::Issued(record))?;
            let steps = match &revised {
                Some(revised) => {
                    let issue = key_step(Sql::IssueKey, record)?;
                    vec![issue.with(present.clone()).with(revised.clone()).with(first)]
                }
                None if first => {
                    let lock = Step::new(Sql::Lock).with(vec![FIRST_KEY]);
                    vec![lock, key_step(Sql::InsertFirstKey, record)?]
                }
                None => vec![key_step(Sql::InsertKey, record)?],
            };
            let rows = self.script(steps).await?;
            if rows.last().is_some_and(|rows| rows.len() == 1) {
                self.note(revised.as_deref());
                return Ok(true);
            }
            // Another server has issued a key, or revised the manifest.
        }
        Err(REVISED)
    }

    /// Removes a key from the key manifest whose row was deleted. Returns whether the manifest listed it.
    async fn unlist_deleted(&self, id: &ApiKeyId, now: Timestamp) -> Result<bool, StoreError> {
        for _ in 0..REVISIONS {
            let present = self.latest_manifest().await?;
            if !self.tags().is_some_and(|tags| tags.listed(present.as_deref()).contains(id)) {
                return Ok(false);
            }
            let change = KeyChange::Revoked { id, before: None, at: now };
            let Some(revised) = self.revised(present.as_deref(), change)? else { return Ok(false) };
            let rows = self.script(vec![Step::new(Sql::ReviseManifest).with(present).with(revised.clone())]);
            if first(&rows.await?).is_some() {
                self.note(Some(&revised));
                return Ok(true);
            }
        }
        Err(REVISED)
    }

    /// The key manifest that a change starts from. If it is older than one that was seen before, it is read again, because a
    /// change of another caller may have overtaken the read. After the last read it is older only if the database was put
    /// back.
    async fn latest_manifest(&self) -> Result<Option<String>, StoreError> {
        let mut reads = 1;
        loop {
            let present = self.key_manifest().await?;
            let is_older = self.tags().is_some_and(|tags| tags.note(present.as_deref()) == Admission::Older);
            if !is_older || reads == row_tags::READS {
                return Ok(present);
            }
            reads += 1;
        }
    }

    fn tags(&self) -> Option<&dyn RowTags> {
        self.tags.get().map(|tags| &**tags)
    }

    /// The tags by which rows are verified that are read from now on.
    fn verified(&self) -> Option<&dyn RowTags> {
        row_tags::verified(self.tags())
    }

    fn revised(&self, present: Option<&str>, change: KeyChange<'_>) -> Result<Option<String>, StoreError> {
        self.tags().map_or(Ok(None), |tags| tags.revise(present, change))
    }

    fn note(&self, manifest: Option<&str>) {
        if let (Some(tags), Some(_)) = (self.tags(), manifest) {
            tags.note(manifest);
        }
    }

    fn may_write(&self) -> Result<(), StoreError> {
        if self.writers.is_some() { Ok(()) } else { Err(READ_ONLY) }
    }

    async fn script(&self, steps: Vec<Step>) -> Result<Vec<Vec<Row>>, StoreError> {
        match &self.writers {
            Some(writers) => writers.queue.script(steps).await,
            None => Err(READ_ONLY),
        }
    }
}

/// How often a change is fenced again after its fence was removed.
const FENCES: u32 = 4;
const UNFENCED: StoreError = StoreError::unavailable("the fence of the change was removed too often");
/// How often a change of the API keys is tried again after another server has made one.
const REVISIONS: u32 = 16;
const REVISED: StoreError =
    StoreError::unavailable("other servers changed the API keys at each attempt; try again");
const READ_ONLY: StoreError = StoreError::unavailable("it is open for reading only");
const MISSING: StoreError = StoreError::Corrupt("a row that was just written");

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore").field("options", self.dialer.options()).finish_non_exhaustive()
    }
}

#[async_trait]
impl Secrets for PostgresStore {
    async fn active(&self, place: &Place) -> Result<Option<Stored>, StoreError> {
        let (Place { owner, realm, name }, tags) = (place, self.verified());
        let rows = self.reads.rows(Sql::Active, &[&owner.as_str(), &realm.as_str(), &name.as_str()]).await?;
        rows.first().map(|row| rows::active(row, tags)).transpose()
    }

    async fn version(&self, place: &Place, version: Version) -> Result<Option<Stored>, StoreError> {
        let Place { owner, realm, name } = place;
        let (at, tags) = ((owner.as_str(), realm.as_str(), name.as_str(), version.get()), self.verified());
        let rows = self.reads.rows(Sql::Version, &[&at.0, &at.1, &at.2, &at.3]).await?;
        rows.first().map(|row| rows::stored(row, tags)).transpose()
    }

    async fn readable(&self, place: &Place, now: Timestamp) -> Result<Vec<Stored>, StoreError> {
        let Place { owner, realm, name } = place;
        let (at, tags) = ((owner.as_str(), realm.as_str(), name.as_str(), now.as_micros()), self.verified());
        let page = (None::<i32>, i64::MAX);
        let rows = self.reads.rows(Sql::Readable, &[&at.0, &at.1, &at.2, &at.3, &page.0, &page.1]).await?;
        let Some((first, pending)) = rows.split_first() else { return Ok(Vec::new()) };
        let pending = pending.iter().rev().map(|row| rows::stored(row, tags));
        pending.chain([rows::active(first, tags)]).collect()
    }

    async fn examine(
        &self,
        place: &Place,
        now: Timestamp,
        before: Option<Version>,
        limit: u32,
    ) -> Result<Vec<Examined>, StoreError> {
        let Place { owner, realm, name } = place;
        let (at, tags) = ((owner.as_str(), realm.as_str(), name.as_str(), now.as_micros()), self.verified());
        let page = (before.map(Version::get), i64::from(limit));
        let rows = self.reads.rows(Sql::Readable, &[&at.0, &at.1, &at.2, &at.3, &page.0, &page.1]).await?;
        let examined = |(i, row): (usize, &Row)| {
            let is_active = i == 0 && before.is_none();
            let parsed = if is_active { rows::active(row, tags) } else { rows::stored(row, tags) };
            Examined::new(parsed, || rows::version(row).ok())
        };
        rows.iter().enumerate().map(examined).collect()
    }

    async fn list(&self, query: &ListQuery) -> Result<ListPage, StoreError> {
        let list::Listed { page: rows, damaged, stopped, .. } =
            list::list(&self.reads, query, self.tags()).await?;
        if damaged > 0 {
            self.damaged.fetch_add(damaged, Ordering::Relaxed);
            tracing::error!(
                damaged,
                "rows that do not parse or are not authentic were left out of a list; 'doctor' looks for them"
            );
        }
        Ok(ListPage { rows, stopped })
    }

    async fn upsert(&self, change: Upsert) -> Result<Secret, WriteError> {
        self.change(Change::Upsert(change)).await?.ok_or(WriteError::Store(MISSING))
    }

    async fn rotate(&self, change: Rotation) -> Result<Secret, WriteError> {
        self.change(Change::Rotate(change)).await?.ok_or(WriteError::Store(MISSING))
    }

    async fn delete(&self, place: &Place) -> Result<Option<Secret>, WriteError> {
        self.change(Change::Delete(place.clone())).await
    }

    async fn purge(&self, place: &Place) -> Result<bool, WriteError> {
        let deletes = [Sql::PurgeVersions, Sql::PurgeStrays, Sql::PurgeTags, Sql::PurgeSecret];
        for _ in 0..FENCES {
            let token = self.freshness.fence(lease::Target::Place(place.clone())).await?;
            let fence = token.to_be_bytes().to_vec();
            let lock = Step::new(Sql::Lock).with(vec![writer::lock_of(place)]);
            let mut steps = vec![lock, Step::new(Sql::HoldFence).with(fence.clone())];
            steps.extend(deletes.map(|sql| batch::at(sql, place).with(fence.clone())));
            steps.push(Step::new(Sql::Lift).with(vec![fence]));
            let rows = self.script(steps).await;
            self.freshness.release(token);
            // The first two steps lock the place and the fence. The last deletion shows whether there was a secret.
            if let [_, held, .., purged, _] = &rows?[..]
                && !held.is_empty()
            {
                return Ok(!purged.is_empty());
            }
        }
        Err(UNFENCED.into())
    }

    async fn retire_expired(&self, now: Timestamp, limit: u32) -> Result<Option<Timestamp>, StoreError> {
        let due = |rows: &[Row]| rows.first().map(rows::due).transpose();
        let next = due(&self.reads.rows(Sql::NextDue, &[]).await?)?;
        if limit == 0 || next.is_none_or(|next| next > now) {
            return Ok(next);
        }
        let mut left = limit;
        while left > 0 {
            let batch = left.min(REAPED);
            let required = self.verified().is_some();
            let due = self.reads.rows(Sql::Due, &[&now.as_micros(), &i64::from(batch)]).await?;
            self.script(retire(&due, now, self.tags(), required)?).await?;
            left -= batch;
            if due.len() < batch as usize {
                break;
            }
        }
        due(&self.reads.rows(Sql::NextDue, &[]).await?)
    }

    async fn has_secrets(&self) -> Result<bool, StoreError> {
        Ok(!self.reads.rows(Sql::AnySecret, &[]).await?.is_empty())
    }
}

#[async_trait]
impl Keys for PostgresStore {
    fn attach_tags(&self, tags: Arc<dyn RowTags>) {
        let _ = self.tags.set(tags);
    }

    async fn key_manifest(&self) -> Result<Option<String>, StoreError> {
        let rows = self.reads.rows(Sql::KeyManifest, &[]).await?;
        rows.first().map(|row| rows::column(row, 0, "the key manifest")).transpose()
    }

    async fn authenticate_rows(&self) -> Result<bool, StoreError> {
        self.may_write()?;
        match self.tags() {
            Some(tags) => manifest::authenticate(&self.dialer, tags).await,
            None => Ok(false),
        }
    }

    async fn insert_key(&self, record: &ApiKeyRecord) -> Result<(), StoreError> {
        self.issue(record, false).await.map(|_| ())
    }

    async fn insert_first_key(&self, record: &ApiKeyRecord) -> Result<bool, StoreError> {
        self.issue(record, true).await
    }

    async fn key(&self, id: &ApiKeyId) -> Result<Option<ApiKeyRecord>, StoreError> {
        for _ in 0..row_tags::READS {
            let rows = self.reads.rows(Sql::Key, &[&id.as_str()]).await?;
            let Some(row) = rows.first() else { return Ok(None) };
            let key = rows::api_key(row)?;
            let Some(tags) = self.tags() else { return Ok(Some(key)) };
            let manifest = rows::column::<Option<&str>>(row, 10, "the key manifest")?;
            match tags.admit(manifest, &key) {
                Admission::Admitted => return Ok(Some(key)),
                // A write may have overtaken this read.
                Admission::Older => {}
                Admission::Refused(why) => return Err(row_tags::refused(tags, why)),
            }
        }
        Err(self.tags().map_or(MISSING, |tags| row_tags::refused(tags, row_tags::OLDER)))
    }

    async fn keys(&self) -> Result<Vec<ApiKeyRecord>, StoreError> {
        self.examine_keys().await?.into_iter().map(ExaminedKey::usable).collect()
    }

    async fn examine_keys(&self) -> Result<Vec<ExaminedKey>, StoreError> {
        let mut reads = 0;
        loop {
            let before = self.key_manifest().await?;
            let rows = self.reads.rows(Sql::Keys, &[]).await?;
            let mut keys: Vec<_> = rows.iter().map(rows::examined_key).collect();
            // The keys may have changed between the two reads.
            let mut current = self.key_manifest().await? == before;
            if let Some(tags) = self.tags() {
                current &= row_tags::examine(tags, before.as_deref(), &mut keys);
            }
            reads += 1;
            if current || reads == row_tags::READS {
                ExaminedKey::sort(&mut keys);
                return Ok(keys);
            }
        }
    }

    async fn has_keys(&self) -> Result<bool, StoreError> {
        Ok(!self.reads.rows(Sql::AnyKey, &[]).await?.is_empty())
    }

    async fn revoke_unread(&self, id: &ApiKeyId, now: Timestamp) -> Result<bool, StoreError> {
        let before = match self.key(id).await {
            Ok(None) => return self.unlist_deleted(id, now).await,
            Ok(before) => before,
            Err(StoreError::Corrupt(_)) => None,
            Err(error) => return Err(error),
        };
        self.revoke(id, before.as_ref(), now).await.map(|_| true)
    }

    async fn revoke_key(&self, id: &ApiKeyId, now: Timestamp) -> Result<Option<ApiKeyRecord>, StoreError> {
        let Some(before) = self.key(id).await? else { return Ok(None) };
        let row = self.revoke(id, Some(&before), now).await?;
        rows::api_key(&row).map(Some)
    }
}

#[async_trait]
impl Facts for PostgresStore {
    async fn kek_checks(&self) -> Result<Vec<(KekId, [u8; 32])>, StoreError> {
        self.reads.rows(Sql::KekChecks, &[]).await?.iter().map(rows::kek_check).collect()
    }

    async fn insert_kek_check(&self, id: &KekId, check: &[u8; 32]) -> Result<(), StoreError> {
        let id = id.as_str().to_owned();
        let insert = Step::new(Sql::InsertKekCheck).with(id.clone()).with(check.to_vec());
        let rows = self.script(vec![insert, Step::new(Sql::KekCheck).with(id)]).await?;
        let (_, present) = rows::kek_check(first(&rows).ok_or(MISSING)?)?;
        same_check(&present, check)
    }

    async fn internal_key(&self, purpose: &str) -> Result<Option<WrappedKey>, StoreError> {
        self.reads.rows(Sql::InternalKey, &[&purpose]).await?.first().map(rows::wrapped).transpose()
    }

    async fn insert_internal_key(
        &self,
        purpose: &str,
        kek: &KekId,
        wrapped: &[u8],
    ) -> Result<WrappedKey, StoreError> {
        let purpose = purpose.to_owned();
        let insert = Step::new(Sql::InsertInternalKey)
            .with(purpose.clone())
            .with(kek.as_str().to_owned())
            .with(wrapped.to_vec());
        let rows = self.script(vec![insert, Step::new(Sql::InternalKey).with(purpose)]).await?;
        rows::wrapped(first(&rows).ok_or(MISSING)?)
    }

    async fn audit_head(&self) -> Result<Option<AuditHead>, StoreError> {
        self.reads.rows(Sql::AuditHead, &[&self.replica]).await?.first().map(rows::audit_head).transpose()
    }

    async fn set_audit_head(&self, (seq, mac): AuditHead) -> Result<(), StoreError> {
        let seq =
            i64::try_from(seq).map_err(|_| StoreError::unavailable("the audit log's number is too large"))?;
        let set = Step::new(Sql::SetAuditHead).with(self.replica.clone()).with(seq).with(mac.to_vec());
        self.script(vec![set]).await.map(|_| ())
    }
}

#[async_trait]
impl Portable for PostgresStore {
    async fn export(&self) -> Result<Box<dyn Export>, StoreError> {
        Ok(Box::new(PostgresExport::begin(&self.dialer, self.tags.get().cloned()).await?))
    }

    async fn unfinished_import(&self) -> Result<Option<Import>, StoreError> {
        portable::unfinished(&self.dialer).await
    }

    async fn begin_import(&self, source: &str) -> Result<u64, StoreError> {
        self.may_write()?;
        portable::begin(&self.dialer, source).await
    }

    async fn import(&self, from: u64, items: Vec<Item>) -> Result<(), StoreError> {
        self.may_write()?;
        portable::import(&self.dialer, self.tags(), from, &items).await
    }

    async fn finish_import(&self, epoch: Option<&str>) -> Result<(), StoreError> {
        self.may_write()?;
        portable::finish(&self.dialer, epoch).await
    }

    async fn epoch(&self) -> Result<Option<String>, StoreError> {
        portable::fact(&self.dialer, EPOCH).await
    }
}

#[async_trait]
impl Replicated for PostgresStore {
    async fn servers(&self) -> Result<Vec<String>, StoreError> {
        export_lock::servers(&self.dialer).await
    }

    fn gate(&self) -> Arc<lease::Gate> {
        self.freshness.gate()
    }

    fn attach(&self, caches: Weak<dyn lease::Caches>) {
        if self.writers.is_some() {
            self.freshness.attach(caches);
        }
    }

    fn lease(&self) -> Option<LeaseStats> {
        self.writers.is_some().then(|| self.freshness.stats())
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn check(&self) -> Result<(), StoreError> {
        self.reads.finding()?;
        self.health.finding()
    }

    fn stats(&self) -> Stats {
        let damaged = self.damaged.load(Ordering::Relaxed);
        let refused = self.tags().map_or(0, RowTags::refusals);
        Stats { damaged, refused, ..self.writers.as_ref().map(|writers| writers.stats()).unwrap_or_default() }
    }

    async fn close(&self) {
        self.health.stop();
        if let Some(writers) = &self.writers {
            writers.close().await;
        }
        self.freshness.close().await;
        self.reads.close();
    }
}

/// The first row of the first step that has one.
fn first(rows: &[Vec<Row>]) -> Option<&Row> {
    rows.iter().flatten().next()
}

/// Retires versions that are due, under the locks of their places, like every other change. A version that does not parse or
/// is not authentic is destroyed when it is due like any other, and has no tag afterwards.
fn retire(
    due: &[Row],
    now: Timestamp,
    tags: Option<&dyn RowTags>,
    required: bool,
) -> Result<Vec<Step>, StoreError> {
    let (mut locks, mut steps) = (Vec::new(), Vec::new());
    for row in due {
        let until = rows::column(row, 5, "a time").ok().and_then(Timestamp::checked);
        if !decide_due(until, now) {
            continue;
        }
        let text = |at| rows::column::<&str>(row, at, "a version's place");
        let (owner, realm, name, id) = (text(0)?, text(1)?, text(2)?, text(3)?);
        locks.push(writer::lock(owner, realm, name));
        let place = [owner, realm, name, id].map(str::to_owned);
        let step = place.into_iter().fold(Step::new(Sql::RetireDue), Step::with);
        let step = step.with(rows::column::<i32>(row, 4, "a version number")?).with(now.as_micros());
        let tag = tags.map(|tags| retired_tag(row, tags, required)).transpose()?.flatten();
        steps.push(step.with(tag.map(Vec::from)).with(rows::column::<Option<Vec<u8>>>(row, 6, "a tag")?));
    }
    locks.sort_unstable();
    locks.dedup();
    steps.insert(0, Step::new(Sql::Lock).with(locks));
    Ok(steps)
}

/// The tag of a due version once it is retired; none if the version does not parse or is not authentic.
fn retired_tag(row: &Row, tags: &dyn RowTags, required: bool) -> Result<Option<RowTag>, StoreError> {
    let tag = || {
        let place = Place {
            owner: rows::parsed(row, 0, "an owner", Owner::parse)?,
            realm: rows::parsed(row, 1, "a realm", Realm::parse)?,
            name: rows::parsed(row, 2, "a name", SecretName::parse)?,
        };
        let id = rows::parsed(row, 3, "a secret's id", SecretId::parse)?;
        let version = Version::new(rows::column(row, 4, "a version number")?);
        let version = version.ok_or(StoreError::Corrupt("a version number"))?;
        let until = Timestamp::checked(rows::column(row, 5, "a time")?);
        let slot = Slot { place: &place, id, version };
        row_tags::retired_tag(tags, slot, until, rows::column(row, 6, "a tag")?, required)
    };
    match tag() {
        Err(StoreError::Corrupt(_)) => Ok(None),
        tag => tag.map(Some),
    }
}

fn key_step(sql: Sql, record: &ApiKeyRecord) -> Result<Step, StoreError> {
    Ok(Step::new(sql)
        .with(record.id.as_str().to_owned())
        .with(record.digest.to_vec())
        .with(record.name.as_bytes().to_vec())
        .with(record.user.as_str().to_owned())
        .with(record.scopes.to_string())
        .with(record.realm.as_str().to_owned())
        .with(record.realms.as_deref().map(json::from_realms).transpose()?)
        .with(record.created_at.as_micros())
        .with(record.expires_at.map(Timestamp::as_micros))
        .with(record.revoked_at.map(Timestamp::as_micros)))
}
