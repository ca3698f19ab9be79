//! Connection pool for reads: a few connections that many reads share.
//!
//! A read is one statement and needs no transaction of its own, so reads of many callers are pipelined on one
//! connection and do not wait for each other's results. A reader connects when it is first needed. A lost connection is
//! noticed by its end or by an error, a hung one by the time limit. In both cases the reader drops it, and a read whose
//! connection was only lost is tried once more on a new one.
//!
//! Called by the engine for every read but exports and inspections. Does not cache, and does not write.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::failure::{LATE, failure, is_lost, is_unreadable};
use super::link::{Dialer, Link, Purpose};
use super::sql::Sql;
use agentrouter_store::StoreError;

/// Longest time for a read, waiting for a permit and connecting included.
const READ: Duration = Duration::from_secs(5);
/// Longest wait for a permit.
const WAIT: Duration = Duration::from_secs(2);
/// How long the pool reports a read that failed because the database's files could not be read. Other reads may succeed.
const UNREADABLE: Duration = Duration::from_secs(30);
/// Most reads in progress on one connection.
const DEPTH: usize = 64;

const CLOSED: StoreError = StoreError::unavailable("it is closed");

/// The connections for reads.
pub(super) struct ReadPool {
    dialer: Arc<Dialer>,
    readers: Vec<Reader>,
    permits: Semaphore,
    closed: AtomicBool,
    /// The last read that failed because the database's files could not be read.
    unreadable: Mutex<Option<(Instant, StoreError)>>,
}

#[derive(Default)]
struct Reader {
    link: Mutex<Option<Arc<Link>>>,
    /// Held by the caller that connects, while the others wait for it.
    connecting: tokio::sync::Mutex<()>,
    busy: AtomicUsize,
}

/// Counts a read in progress on a reader until it is dropped.
struct Busy<'a>(&'a Reader);

impl<'a> Busy<'a> {
    fn new(reader: &'a Reader) -> Self {
        reader.busy.fetch_add(1, Ordering::Relaxed);
        Self(reader)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

impl ReadPool {
    pub(super) fn new(dialer: Arc<Dialer>, count: usize) -> Self {
        Self {
            dialer,
            readers: std::iter::repeat_with(Reader::default).take(count).collect(),
            permits: Semaphore::new(count * DEPTH),
            closed: AtomicBool::new(false),
            unreadable: Mutex::default(),
        }
    }

    /// Runs a statement that only reads.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] within a few seconds, for every failure.
    pub(super) async fn rows(
        &self,
        sql: Sql,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, StoreError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(CLOSED);
        }
        let deadline = Instant::now() + READ;
        let _permit = match timeout_at(deadline.min(Instant::now() + WAIT), self.permits.acquire()).await {
            Ok(permit) => permit.map_err(|_| CLOSED)?,
            Err(_) => return Err(StoreError::unavailable("all connections to the database are busy")),
        };
        let reader =
            self.readers.iter().min_by_key(|reader| reader.busy.load(Ordering::Relaxed)).ok_or(CLOSED)?;
        let _busy = Busy::new(reader);
        let mut again = true;
        loop {
            let link = reader.link(&self.dialer, deadline).await?;
            match timeout_at(deadline, link.rows(sql, params)).await {
                Ok(Ok(rows)) => return Ok(rows),
                Ok(Err(error)) if is_lost(&error) => {
                    reader.drop_link(&link);
                    if !again {
                        return Err(failure(error));
                    }
                    again = false;
                }
                Ok(Err(error)) => return Err(self.noted(failure(error))),
                Err(_) => {
                    reader.drop_link(&link);
                    return Err(LATE);
                }
            }
        }
    }

    /// The error of a read, which is noted if it says that a file cannot be read.
    pub(super) fn noted(&self, error: StoreError) -> StoreError {
        if is_unreadable(&error) {
            let now = Some((Instant::now(), error.clone()));
            *self.unreadable.lock().unwrap_or_else(PoisonError::into_inner) = now;
        }
        error
    }

    /// Whether no read has failed lately because the database's files could not be read.
    pub(super) fn finding(&self) -> Result<(), StoreError> {
        match &*self.unreadable.lock().unwrap_or_else(PoisonError::into_inner) {
            Some((when, error)) if when.elapsed() < UNREADABLE => Err(error.clone()),
            _ => Ok(()),
        }
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.permits.close();
        for reader in &self.readers {
            reader.slot().take();
        }
    }
}

impl Reader {
    async fn link(&self, dialer: &Dialer, deadline: Instant) -> Result<Arc<Link>, StoreError> {
        if let Some(link) = self.present() {
            return Ok(link);
        }
        let _connecting = timeout_at(deadline, self.connecting.lock()).await.map_err(|_| LATE)?;
        if let Some(link) = self.present() {
            return Ok(link);
        }
        let link = Arc::new(dialer.link(Purpose::Read, deadline).await?);
        *self.slot() = Some(Arc::clone(&link));
        Ok(link)
    }

    fn present(&self) -> Option<Arc<Link>> {
        self.slot().as_ref().filter(|link| !link.is_closed()).map(Arc::clone)
    }

    fn drop_link(&self, link: &Arc<Link>) {
        let mut slot = self.slot();
        if slot.as_ref().is_some_and(|present| Arc::ptr_eq(present, link)) {
            *slot = None;
        }
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Arc<Link>>> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
