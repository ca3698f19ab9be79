//! Reads: a few connections that many reads share.
//!
//! A read is one statement and needs no transaction of its own, so reads of many callers go down one connection one after
//! the other without waiting for each other's answers. A lane connects when it is first needed. A connection that was
//! lost is noticed by its end or by an error, a hung one by the time limit; either way the lane lets go of it, and what
//! was only lost is tried once more on a new one.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::failure::{LATE, failure, is_lost};
use super::link::{Dialer, Link, Purpose};
use super::sql::Sql;
use agentrouter_store::StoreError;

/// Longest time for a read, waiting for a place and connecting included.
const READ: Duration = Duration::from_secs(5);
/// Longest wait for a place.
const WAIT: Duration = Duration::from_secs(2);
/// Most reads in progress on one connection.
const DEPTH: usize = 64;

const CLOSED: StoreError = StoreError::unavailable("it is closed");

/// The connections for reads.
pub(super) struct Lanes {
    dialer: Arc<Dialer>,
    lanes: Vec<Lane>,
    places: Semaphore,
    closed: AtomicBool,
}

#[derive(Default)]
struct Lane {
    link: Mutex<Option<Arc<Link>>>,
    /// One connects, the others wait for it.
    connecting: tokio::sync::Mutex<()>,
    busy: AtomicUsize,
}

/// Counts a read in a lane.
struct Busy<'a>(&'a Lane);

impl<'a> Busy<'a> {
    fn new(lane: &'a Lane) -> Self {
        lane.busy.fetch_add(1, Ordering::Relaxed);
        Self(lane)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Lanes {
    pub(super) fn new(dialer: Arc<Dialer>, lanes: usize) -> Self {
        Self {
            dialer,
            lanes: std::iter::repeat_with(Lane::default).take(lanes).collect(),
            places: Semaphore::new(lanes * DEPTH),
            closed: AtomicBool::new(false),
        }
    }

    /// Runs a statement that only reads.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] within a few seconds, whatever is wrong.
    pub(super) async fn rows(
        &self,
        sql: Sql,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, StoreError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(CLOSED);
        }
        let deadline = Instant::now() + READ;
        let _place = match timeout_at(deadline.min(Instant::now() + WAIT), self.places.acquire()).await {
            Ok(place) => place.map_err(|_| CLOSED)?,
            Err(_) => return Err(StoreError::unavailable("all connections to the database are busy")),
        };
        let lane = self.lanes.iter().min_by_key(|lane| lane.busy.load(Ordering::Relaxed)).ok_or(CLOSED)?;
        let _busy = Busy::new(lane);
        let mut again = true;
        loop {
            let link = lane.link(&self.dialer, deadline).await?;
            match timeout_at(deadline, link.rows(sql, params)).await {
                Ok(Ok(rows)) => return Ok(rows),
                Ok(Err(error)) if is_lost(&error) => {
                    lane.let_go(&link);
                    if !again {
                        return Err(failure(error));
                    }
                    again = false;
                }
                Ok(Err(error)) => return Err(failure(error)),
                Err(_) => {
                    lane.let_go(&link);
                    return Err(LATE);
                }
            }
        }
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.places.close();
        for lane in &self.lanes {
            lane.slot().take();
        }
    }
}

impl Lane {
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

    fn let_go(&self, link: &Arc<Link>) {
        let mut slot = self.slot();
        if slot.as_ref().is_some_and(|present| Arc::ptr_eq(present, link)) {
            *slot = None;
        }
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Arc<Link>>> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
