//! The embedded storage engine: one SQLite file, one process, one thread that writes.
//!
//! ```text
//! any thread ──► reader.rs   a read-only connection for each thread, inline
//!            ──► writer.rs   queue ─► batcher: one thread, a savepoint per job, one COMMIT (one fsync) per batch
//!                              secrets.rs, facts.rs   the statements of a job
//! sql.rs      every statement          rows.rs      rows ↔ model, every column parsed
//! file.rs     file, mode, migrations   portable.rs  export and import
//! watch.rs    files that change beneath the server                rescue.rs    a removed database is written again
//! inspect.rs  for `doctor`             fault.rs     fault injection for tests
//! retag.rs    tags for the rows of an older store
//! wrapped_keys.rs  change of the KEK
//! ```
//!
//! A version is a row of `secrets`, `pending` or `retired`, by its status. Its sealed value, while it can be read, is a
//! row of `versions`, which is ordered by the time of writing. So a rotation changes two pages of its own (the secret's
//! row and the pending one's) and shares the others with the rest of its batch.
//!
//! WAL with `synchronous=FULL`: an acknowledged write is on the disk, and readers and the writer do not wait for each
//! other. `secure_delete` overwrites deleted content, and the log is emptied a second after a value was destroyed. Not
//! protected: copies that a file system or a drive keeps of overwritten blocks, and backups.
//!
//! Nothing else in the process may open the database's files, not even to read them: closing such a file drops the
//! locks that SQLite holds on it.
//!
//! The lock file is locked before the database is opened and released last. Dropping a store without [`Store::close`]
//! loses nothing: it closes the store, blocking.

mod facts;
#[cfg(any(test, feature = "faults"))]
mod fault;
mod file;
mod inspect;
mod list;
mod portable;
mod reader;
mod rescue;
mod retag;
mod rows;
mod secrets;
mod sql;
#[cfg(test)]
mod tests;
mod tx;
mod watch;
mod wrapped_keys;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use agentrouter_model::{ApiKeyId, ApiKeyRecord, Clock, KekId, Place, Secret, Timestamp, Version};
use async_trait::async_trait;
use rusqlite::params;
use tokio::sync::Semaphore;
use tokio::time::Instant;

#[cfg(any(test, feature = "faults"))]
pub use self::fault::{Fault, Faults};
use self::reader::Readers;
use self::tx::{Snapshot, Tx, all, first};
use self::watch::Watch;
use self::writer::Writer;
use agentrouter_store::decide::Change;
use agentrouter_store::portable::{Export, Import, Item};
use agentrouter_store::row_tags::verified;
use agentrouter_store::wrapped_keys::{DekPage, DekQuery, DekSwap, KekLock};
use agentrouter_store::{
    AuditHead, Examined, ExaminedKey, Facts, Inspection, Keys, ListPage, ListQuery, Lock, Portable,
    Replicated, Rotation, RowTags, Secrets, Stats, Store, StoreError, Stored, Upsert, WrappedKey,
    WrappedKeys, WriteError,
};

/// How long a result of [`Store::check`] is used again.
const CHECK_AGE: Duration = Duration::from_secs(1);
/// Most concurrent lists that do not run inline. Further ones wait for a permit.
const ASIDE: usize = 2;

/// After a read has failed, the pause between two checks of the whole file.
const REREAD: Duration = Duration::from_secs(10);

/// Whether all of the file can be read. A read that failed makes the store unready until a check of the whole file has
/// passed: the next reads may be of other pages.
#[derive(Debug, Default)]
struct Reading {
    /// The number of failed reads before the last check that passed.
    passed: u64,
    /// When the last check started. Another starts [`REREAD`] later.
    start: Option<Instant>,
    /// Whether a check runs.
    runs: bool,
}

/// A store in one SQLite file.
#[derive(Debug)]
pub struct SqliteStore {
    readers: Arc<Readers>,
    /// None if opened for reading only.
    writer: Option<Writer>,
    checked: Mutex<Option<(Instant, Result<(), StoreError>)>>,
    /// The state of reads, after one has failed.
    reading: Arc<Mutex<Reading>>,
    /// Permits for long lists.
    aside: Arc<Semaphore>,
    damaged: AtomicU64,
    tags: OnceLock<Arc<dyn RowTags>>,
    /// Held by a store that is opened for an export. A store that writes holds its lock in the writer.
    #[expect(dead_code, reason = "held until dropped")]
    lock: Option<Lock>,
}

impl SqliteStore {
    /// Opens the store in the file at `path` and takes its lock. Creates the file (mode 0600) if there is none. The
    /// directory must exist, and only its owner should have access. `clock` gives the time that the lock file names.
    ///
    /// # Errors
    /// [`StoreError::InUse`] when another process (or this one) has it open, [`StoreError::SchemaTooNew`],
    /// [`StoreError::Open`].
    pub fn open(path: &Path, clock: &dyn Clock) -> Result<Self, StoreError> {
        let path = absolute(path)?;
        let lock = Lock::take(&path, clock)?;
        let conn = file::open_writer(&path)?;
        let watch =
            Watch::of(&path).map_err(|error| StoreError::open("its files cannot be examined", error))?;
        let watch = Arc::new(watch);
        let writer = Writer::start(conn, Arc::clone(&watch), lock)?;
        Ok(Self::new(path, Some((writer, watch))))
    }

    /// Opens the store in the file at `path` for reading, beside a running server or without one. Takes no lock and
    /// makes no database; every write is refused.
    ///
    /// # Errors
    /// [`StoreError::SchemaTooNew`], [`StoreError::Open`]; also when the directory can be read only and the last server
    /// was not shut down in order, since SQLite must then write to read.
    pub fn open_read_only(path: &Path) -> Result<Self, StoreError> {
        let path = absolute(path)?;
        file::open_reader(&path)?;
        Ok(Self::new(path, None))
    }

    /// Opens the store in the file at `path` for an export: for reading, and with its lock, so that no other process
    /// serves it meanwhile. Does not change the file.
    ///
    /// # Errors
    /// [`StoreError::InUse`], [`StoreError::SchemaTooNew`], [`StoreError::Open`].
    pub fn open_locked(path: &Path, clock: &dyn Clock) -> Result<Self, StoreError> {
        let path = absolute(path)?;
        if !path.is_file() {
            return Err(StoreError::Open { reason: "there is no such file", source: None });
        }
        let lock = Lock::take(&path, clock)?;
        file::open_reader(&path)?;
        Ok(Self { lock: Some(lock), ..Self::new(path, None) })
    }

    fn new(path: PathBuf, writer: Option<(Writer, Arc<Watch>)>) -> Self {
        let aside = Arc::new(Semaphore::new(ASIDE));
        let (writer, watch) = writer.unzip();
        let readers = Readers::new(path, watch);
        Self {
            readers,
            writer,
            reading: Arc::default(),
            checked: Mutex::new(None),
            aside,
            damaged: AtomicU64::new(0),
            tags: OnceLock::new(),
            lock: None,
        }
    }

    /// Checks the whole file, for `doctor`. Takes as long as reading all of it takes, on the calling thread.
    ///
    /// # Errors
    /// When it cannot be read at all; what is wrong inside is in [`Inspection::problems`].
    pub fn inspect(&self) -> Result<Inspection, StoreError> {
        self.readers.with(inspect::inspect)
    }

    /// Shows `look` every version that parses, and whether it is authentic, one after another and in bounded memory, for
    /// `doctor`. Takes as long as reading all of them takes, on the calling thread; `look` must not ask this store.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn each_version(&self, look: impl FnMut(&Stored, bool)) -> Result<(), StoreError> {
        self.readers.with(|conn| inspect::each_version(conn, verified(self.tags()), look))
    }

    /// The fault injection, for tests that make a step fail.
    ///
    /// # Panics
    /// If the store is open for reading only.
    #[cfg(any(test, feature = "faults"))]
    pub fn faults(&self) -> &Faults {
        &self.writer.as_ref().expect("a store that writes").state.faults
    }

    /// A list of more steps, on a thread of the blocking pool.
    async fn list_aside(&self, query: ListQuery) -> Result<list::Listed, StoreError> {
        const ENDED: StoreError = StoreError::unavailable("a read failed inside the program");
        let permit = Arc::clone(&self.aside).acquire_owned().await.map_err(|_| ENDED)?;
        let (readers, tags) = (Arc::clone(&self.readers), self.tags.get().cloned());
        let read = move || {
            // Held until the list is complete, also when its caller disconnects.
            let _permit = permit;
            readers.with(|conn| list::list(conn, &query, usize::MAX, verified(tags.as_deref())))
        };
        tokio::task::spawn_blocking(read).await.map_err(|_| ENDED)??.ok_or(ENDED)
    }

    /// A read that may take long, on a thread of the blocking pool.
    async fn read_aside<T: Send + 'static>(
        &self,
        read: impl FnOnce(&rusqlite::Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let readers = Arc::clone(&self.readers);
        let read = tokio::task::spawn_blocking(move || readers.with(read));
        read.await.map_err(|_| StoreError::unavailable("a read failed inside the program"))?
    }

    fn tags(&self) -> Option<&dyn RowTags> {
        self.tags.get().map(|tags| &**tags)
    }

    /// The tags by which rows are verified.
    fn verified(&self) -> Option<&dyn RowTags> {
        verified(self.tags())
    }

    /// Changes API keys. `write` also returns the revised key manifest, which is noted after the commit.
    async fn write_keys<T: Send + 'static>(
        &self,
        write: impl FnOnce(&Tx<'_>, Option<&dyn RowTags>) -> Result<(T, Option<String>), StoreError>
        + Send
        + 'static,
    ) -> Result<T, StoreError> {
        let tags = self.tags.get().cloned();
        let (done, manifest) = self.write(move |tx| write(tx, tags.as_deref())).await?;
        if let (Some(tags), Some(manifest)) = (self.tags(), manifest) {
            tags.note(Some(&manifest));
        }
        Ok(done)
    }

    /// Whether no read has failed since all of the file was last found readable. Starts a check of the file if one has.
    fn check_reading(&self) -> Result<(), StoreError> {
        const FAILED: StoreError = StoreError::unavailable(
            "a read failed, as the database file is damaged or its disk cannot be read",
        );
        let written = self.writer.as_ref().map_or(0, |writer| writer.state.unreadable.load(Ordering::SeqCst));
        let failed = self.readers.unreadable() + written;
        let mut reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        if failed == reading.passed {
            return Ok(());
        }
        if reading.runs || reading.start.is_some_and(|start| start.elapsed() < REREAD) {
            return Err(FAILED);
        }
        (reading.runs, reading.start) = (true, Some(Instant::now()));
        drop(reading);
        let (readers, reading) = (Arc::clone(&self.readers), Arc::clone(&self.reading));
        tokio::task::spawn_blocking(move || {
            let found = readers.connect().and_then(|conn| inspect::is_whole(&conn));
            if let Err(error) = &found {
                tracing::error!(error = error as &dyn std::error::Error, "the database cannot be read");
            }
            let mut reading = reading.lock().unwrap_or_else(PoisonError::into_inner);
            reading.runs = false;
            if found.is_ok() {
                reading.passed = failed;
            }
        });
        Err(FAILED)
    }

    async fn change(&self, change: Change) -> Result<Option<Secret>, WriteError> {
        let tags = self.tags.get().cloned();
        self.write(move |tx| secrets::change(tx, tags.as_deref(), &change)).await
    }

    async fn write<T, E>(&self, write: impl FnOnce(&Tx<'_>) -> Result<T, E> + Send + 'static) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        match &self.writer {
            Some(writer) => writer.submit(write).await,
            None => Err(StoreError::unavailable("it is open for reading only").into()),
        }
    }
}

/// Beginning with `/`, so that SQLite cannot take it for a URI, and independent of later changes of directory. Symbolic
/// links of the directory are resolved, because SQLite is to follow none.
fn absolute(path: &Path) -> Result<PathBuf, StoreError> {
    let whole = std::path::absolute(path).and_then(|path| match (path.parent(), path.file_name()) {
        (Some(folder), Some(name)) => Ok(folder.canonicalize()?.join(name)),
        _ => Ok(path),
    });
    whole.map_err(|error| StoreError::open("its path cannot be used", error))
}

#[async_trait]
impl Secrets for SqliteStore {
    async fn active(&self, place: &Place) -> Result<Option<Stored>, StoreError> {
        self.readers.with(|conn| active(conn, place, self.verified()))
    }

    async fn version(&self, place: &Place, version: Version) -> Result<Option<Stored>, StoreError> {
        let Place { owner, realm, name } = place;
        let params = params![owner.as_str(), realm.as_str(), name.as_str(), version.get()];
        let tags = self.verified();
        self.readers.with(|conn| first(conn, sql::VERSION, params, |row| rows::stored(row, tags)))
    }

    async fn readable(&self, place: &Place, now: Timestamp) -> Result<Vec<Stored>, StoreError> {
        let Place { owner, realm, name } = place;
        let params = params![owner.as_str(), realm.as_str(), name.as_str(), now.as_micros(), i64::MAX, -1];
        self.readers.with(|conn| {
            // Drop cached pages: this call reads the disk.
            conn.release_memory().map_err(rows::failure)?;
            let snapshot = Snapshot::begin(conn)?;
            let tags = self.verified();
            let mut versions = all(snapshot.conn(), sql::PENDING, params, |row| rows::stored(row, tags))?;
            versions.reverse();
            versions.extend(active(snapshot.conn(), place, tags)?);
            Ok(versions)
        })
    }

    async fn examine(
        &self,
        place: &Place,
        now: Timestamp,
        before: Option<Version>,
        limit: u32,
    ) -> Result<Vec<Examined>, StoreError> {
        self.readers.with(|conn| {
            if before.is_none() {
                conn.release_memory().map_err(rows::failure)?;
            }
            let snapshot = conn.unchecked_transaction().map_err(rows::failure)?;
            examine(&snapshot, place, now, (before, limit), self.verified())
        })
    }

    async fn list(&self, query: &ListQuery) -> Result<ListPage, StoreError> {
        let inline = self.readers.with(|conn| list::list(conn, query, list::INLINE, self.verified()))?;
        let list::Listed { page: rows, damaged, stopped } = match inline {
            Some(listed) => listed,
            None => self.list_aside(query.clone()).await?,
        };
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
        self.change(Change::Upsert(change)).await?.ok_or(WriteError::NotFound)
    }

    async fn rotate(&self, change: Rotation) -> Result<Secret, WriteError> {
        self.change(Change::Rotate(change)).await?.ok_or(WriteError::NotFound)
    }

    async fn delete(&self, place: &Place) -> Result<Option<Secret>, WriteError> {
        self.change(Change::Delete(place.clone())).await
    }

    async fn purge(&self, place: &Place) -> Result<bool, WriteError> {
        let place = place.clone();
        self.write(move |tx| secrets::purge(tx, &place)).await
    }

    async fn retire_expired(&self, now: Timestamp, limit: u32) -> Result<Option<Timestamp>, StoreError> {
        let next = self.readers.with(|conn| first(conn, sql::NEXT_DUE, params![i64::MIN], rows::due))?;
        match next {
            Some(due) if due <= now && limit > 0 => {
                let tags = self.tags.get().cloned();
                self.write(move |tx| secrets::retire_expired(tx, tags.as_deref(), now, limit)).await
            }
            other => Ok(other),
        }
    }

    async fn has_secrets(&self) -> Result<bool, StoreError> {
        self.readers.with(|conn| first(conn, sql::ANY_SECRET, (), |_| Ok(()))).map(|found| found.is_some())
    }
}

#[async_trait]
impl Keys for SqliteStore {
    fn attach_tags(&self, tags: Arc<dyn RowTags>) {
        let _ = self.tags.set(tags);
    }

    async fn key_manifest(&self) -> Result<Option<String>, StoreError> {
        self.readers.with(facts::key_manifest)
    }

    async fn authenticate_rows(&self) -> Result<bool, StoreError> {
        let mut next = self.tags.get().map(|_| retag::Position::default());
        while let (Some(tags), Some(at)) = (self.tags.get().cloned(), next) {
            next = self.write(move |tx| retag::retag(tx, &*tags, &at)).await?;
        }
        self.write_keys(move |tx, tags| Ok(((), facts::authenticate_rows(tx, tags)?))).await?;
        Ok(true)
    }

    async fn insert_key(&self, record: &ApiKeyRecord) -> Result<(), StoreError> {
        let record = record.clone();
        self.write_keys(move |tx, tags| facts::issue_key(tx, tags, &record, false)).await.map(|_| ())
    }

    async fn insert_first_key(&self, record: &ApiKeyRecord) -> Result<bool, StoreError> {
        let record = record.clone();
        self.write_keys(move |tx, tags| facts::issue_key(tx, tags, &record, true)).await
    }

    async fn key(&self, id: &ApiKeyId) -> Result<Option<ApiKeyRecord>, StoreError> {
        self.readers.with(|conn| facts::key(conn, self.tags(), id))
    }

    async fn keys(&self) -> Result<Vec<ApiKeyRecord>, StoreError> {
        self.readers.with(|conn| facts::keys(conn, self.tags()))
    }

    async fn examine_keys(&self) -> Result<Vec<ExaminedKey>, StoreError> {
        self.readers.with(|conn| facts::examine_keys(conn, self.tags()))
    }

    async fn has_keys(&self) -> Result<bool, StoreError> {
        self.readers.with(facts::has_keys)
    }

    async fn revoke_unread(&self, id: &ApiKeyId, now: Timestamp) -> Result<bool, StoreError> {
        let id = id.clone();
        self.write_keys(move |tx, tags| facts::revoke_unread(tx, tags, &id, now)).await
    }

    async fn revoke_key(&self, id: &ApiKeyId, now: Timestamp) -> Result<Option<ApiKeyRecord>, StoreError> {
        let id = id.clone();
        self.write_keys(move |tx, tags| facts::revoke_key(tx, tags, &id, now)).await
    }
}

#[async_trait]
impl Facts for SqliteStore {
    async fn kek_checks(&self) -> Result<Vec<(KekId, [u8; 32])>, StoreError> {
        self.readers.with(facts::kek_checks)
    }

    async fn insert_kek_check(&self, id: &KekId, check: &[u8; 32]) -> Result<(), StoreError> {
        let (id, check) = (id.clone(), *check);
        self.write(move |tx| facts::insert_kek_check(tx, &id, &check)).await
    }

    async fn internal_key(&self, purpose: &str) -> Result<Option<WrappedKey>, StoreError> {
        self.readers.with(|conn| facts::internal_key(conn, purpose))
    }

    async fn insert_internal_key(
        &self,
        purpose: &str,
        kek: &KekId,
        wrapped: &[u8],
    ) -> Result<WrappedKey, StoreError> {
        let (purpose, kek, wrapped) = (purpose.to_owned(), kek.clone(), wrapped.into());
        self.write(move |tx| facts::insert_internal_key(tx, &purpose, kek, wrapped)).await
    }

    async fn audit_head(&self) -> Result<Option<AuditHead>, StoreError> {
        self.readers.with(facts::audit_head)
    }

    async fn set_audit_head(&self, head: AuditHead) -> Result<(), StoreError> {
        self.write(move |tx| facts::set_audit_head(tx, head)).await
    }
}

#[async_trait]
impl Portable for SqliteStore {
    async fn export(&self) -> Result<Box<dyn Export>, StoreError> {
        Ok(Box::new(portable::SqliteExport::begin(self.readers.connect()?, self.tags.get().cloned())?))
    }

    async fn unfinished_import(&self) -> Result<Option<Import>, StoreError> {
        self.readers.with(portable::unfinished)
    }

    async fn begin_import(&self, source: &str) -> Result<u64, StoreError> {
        let source = source.to_owned();
        self.write(move |tx| portable::begin(tx, source)).await
    }

    async fn import(&self, from: u64, items: Vec<Item>) -> Result<(), StoreError> {
        let tags = self.tags.get().cloned();
        self.write(move |tx| portable::import(tx, tags.as_deref(), from, &items)).await
    }

    async fn finish_import(&self, epoch: Option<&str>) -> Result<(), StoreError> {
        let epoch = epoch.map(str::to_owned);
        self.write(move |tx| portable::finish(tx, epoch.as_deref())).await
    }

    async fn epoch(&self) -> Result<Option<String>, StoreError> {
        self.readers.with(portable::epoch)
    }
}

/// Only one process writes this store, so the defaults apply.
impl Replicated for SqliteStore {}

#[async_trait]
impl WrappedKeys for SqliteStore {
    async fn kek_use(&self) -> Result<Vec<(KekId, u64)>, StoreError> {
        self.read_aside(wrapped_keys::kek_use).await
    }

    async fn wrapped_deks(&self, query: &DekQuery) -> Result<DekPage, StoreError> {
        let query = query.clone();
        self.read_aside(move |conn| wrapped_keys::page(conn, &query)).await
    }

    async fn swap_deks(&self, swaps: Vec<DekSwap>, cursor: Option<String>) -> Result<u64, StoreError> {
        self.write(move |tx| wrapped_keys::swap(tx, &swaps, cursor.as_deref())).await
    }

    async fn internal_keys(&self) -> Result<Vec<(String, WrappedKey)>, StoreError> {
        self.readers.with(wrapped_keys::internal_keys)
    }

    async fn swap_internal_key(
        &self,
        purpose: &str,
        from: &WrappedKey,
        to: &WrappedKey,
    ) -> Result<bool, StoreError> {
        let (purpose, from, to) = (purpose.to_owned(), from.clone(), to.clone());
        self.write(move |tx| wrapped_keys::swap_internal_key(tx, &purpose, &from, &to)).await
    }

    async fn kek_fact(&self, name: &'static str) -> Result<Option<String>, StoreError> {
        self.readers.with(|conn| wrapped_keys::fact(conn, name))
    }

    async fn set_kek_fact(&self, name: &'static str, value: Option<&str>) -> Result<(), StoreError> {
        let value = value.map(str::to_owned);
        self.write(move |tx| wrapped_keys::set_fact(tx, name, value.as_deref())).await
    }

    async fn retire_kek(&self, id: &KekId, fact: &str) -> Result<bool, StoreError> {
        let (id, fact) = (id.clone(), fact.to_owned());
        self.write(move |tx| wrapped_keys::retire(tx, &id, &fact)).await
    }

    /// The lock of the store excludes other processes. The caller excludes itself.
    async fn lock_keks(&self) -> Result<Option<KekLock>, StoreError> {
        Ok(Some(Box::new(())))
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn check(&self) -> Result<(), StoreError> {
        let known = self.checked.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((when, finding)) = known
            && when.elapsed() < CHECK_AGE
        {
            return finding;
        }
        let written = self.write(|tx| tx.execute(sql::PROBE, ()).map(|_| ())).await;
        let finding = written.and(self.check_reading());
        *self.checked.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((Instant::now(), finding.clone()));
        finding
    }

    fn stats(&self) -> Stats {
        let damaged = self.damaged.load(Ordering::Relaxed);
        let refused = self.tags().map_or(0, RowTags::refusals);
        Stats { damaged, refused, ..self.writer.as_ref().map(Writer::stats).unwrap_or_default() }
    }

    /// Also checkpoints and empties the log, and releases the lock.
    async fn close(&self) {
        if let Some(writer) = &self.writer {
            writer.close().await;
        }
        self.readers.close();
    }
}

fn active(
    conn: &rusqlite::Connection,
    place: &Place,
    tags: Option<&dyn RowTags>,
) -> Result<Option<Stored>, StoreError> {
    let Place { owner, realm, name } = place;
    let params = params![owner.as_str(), realm.as_str(), name.as_str()];
    let stored = first(conn, sql::ACTIVE, params, |row| rows::stored(row, tags))?;
    let stored = stored.map(Stored::active).transpose()?;
    // Uses the query's own texts, which are equal, so that a caller that keeps both stores them once.
    Ok(stored.map(|mut stored| {
        stored.secret.place.clone_from(place);
        stored
    }))
}

/// See [`Secrets::examine`]: each version is parsed by itself.
fn examine(
    conn: &rusqlite::Connection,
    place: &Place,
    now: Timestamp,
    (before, limit): (Option<Version>, u32),
    tags: Option<&dyn RowTags>,
) -> Result<Vec<Examined>, StoreError> {
    let Place { owner, realm, name } = place;
    let at = params![owner.as_str(), realm.as_str(), name.as_str()];
    let examined = |row: &rusqlite::Row<'_>, parsed| Examined::new(parsed, || rows::version(row).ok());
    let active = match before.map_or_else(|| active(conn, place, tags), |_| Ok(None)) {
        Ok(stored) => stored.map(|stored| Examined::Whole(Box::new(stored))),
        Err(error @ StoreError::Corrupt(_)) => first(conn, sql::SECRET, at, |row| examined(row, Err(error)))?,
        Err(error) => return Err(error),
    };
    let mut found = Vec::from_iter(active);
    let left = i64::from(limit).saturating_sub(i64::try_from(found.len()).unwrap_or(0));
    // A number that is damaged may be any.
    let before = before.map_or(i64::MAX, |before| i64::from(before.get()));
    let pending =
        params![owner.as_str(), realm.as_str(), name.as_str(), now.as_micros(), before, left.max(0)];
    found.extend(all(conn, sql::PENDING, pending, |row| examined(row, rows::stored(row, tags)))?);
    Ok(found)
}
