//! Between the callers and the writer thread.
//!
//! A caller formats its record into its own thread's buffer, then holds one lock for as long as it takes to copy a few
//! hundred bytes. The writer swaps the whole queue for an empty one under the same lock. The lock is never held across
//! I/O, so a stuck disk blocks no caller. All callers of one batch share one completion; there is no allocation per
//! record.
//!
//! On a thread that tells when it is about to sleep ([`before_park`]) a record does not wake the writer at once: the
//! thread goes on with what else is ready, and the records of all of it make one batch (see `gather`).
//!
//! A caller that gives up (2 s, or its future is dropped) takes its record back if the writer has not taken the batch.
//! Otherwise it leaves its name, and if the record was written all the same the writer says so with a `WITHDRAWN`
//! record. Which of the two happened is decided under the lock that the writer takes to complete the batch.

mod gather;
mod ticket;

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

pub use self::gather::before_park;
pub(crate) use self::ticket::{Batch, Outcome, Ticket, Withdrawn};
use crate::error::{AuditError, Fault, Status};
use crate::{AuditHead, Kept, Record, Stats};

/// Most records that wait.
const MOST_RECORDS: usize = 64 * 1024;
/// Most bytes of records that wait.
const MOST_BYTES: usize = 16 * 1024 * 1024;

/// What callers, the handle and the writer thread share.
#[derive(Default)]
pub(crate) struct Queue {
    pending: Mutex<Pending>,
    /// Wakes the writer.
    work: Condvar,
    /// Wakes whoever waits for the writer to end.
    ended: Condvar,
    ended_async: Notify,
    fault: AtomicU8,
    stuck: AtomicBool,
    pub(crate) chain_broken: AtomicBool,
    /// The writer's last act, an fsync, went well.
    pub(crate) ended_well: AtomicBool,
    synced: Mutex<AuditHead>,
    counters: Counters,
}

#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) records: AtomicU64,
    pub(crate) writes: AtomicU64,
    pub(crate) fsyncs: AtomicU64,
    pub(crate) failures: AtomicU64,
}

#[derive(Default)]
struct Pending {
    work: Work,
    closing: bool,
    ended: bool,
    /// The writer waits for work.
    idle: bool,
}

/// What the writer takes at once.
#[derive(Default)]
pub(crate) struct Work {
    /// The members of the records, end to end.
    pub(crate) bytes: Vec<u8>,
    pub(crate) entries: Vec<Entry>,
    /// Records already written whose callers gave up.
    pub(crate) withdrawn: Vec<Withdrawn>,
    /// Somebody waits for an fsync.
    pub(crate) flush: bool,
    pub(crate) batch: Arc<Batch>,
}

/// Where a record came to stand.
struct Place {
    batch: Arc<Batch>,
    index: usize,
    /// The writer knows of it, or is busy and will.
    told: bool,
}

/// One record in [`Work::bytes`].
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    /// Where it ends; it begins where the one before it ends.
    pub(crate) end: usize,
    /// Its caller took it back.
    pub(crate) withdrawn: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What the locks protect is consistent after every statement, so a panic elsewhere spoils nothing.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Queue {
    /// Puts `record` into the batch that is being collected.
    pub(crate) fn enqueue<'a>(self: &'a Arc<Self>, record: &Record<'a>) -> Result<Ticket<'a>, AuditError> {
        thread_local! {
            static MEMBERS: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        MEMBERS.with_borrow_mut(|members| {
            members.clear();
            record.write_members(members);
            self.ticket(members, record.request_id)
        })
    }

    /// The same for a record that was kept.
    pub(crate) fn enqueue_kept<'a>(self: &'a Arc<Self>, kept: &'a Kept) -> Result<Ticket<'a>, AuditError> {
        self.ticket(&kept.members, &kept.request_id)
    }

    fn ticket<'a>(
        self: &'a Arc<Self>,
        members: &[u8],
        request_id: &'a str,
    ) -> Result<Ticket<'a>, AuditError> {
        match self.refuse_if_down().and_then(|()| self.push(members)) {
            Ok(Place { batch, index, told }) => {
                Ok(Ticket { queue: self, request_id, batch, index, told, settled: false })
            }
            Err(error) => {
                self.count_failures(1);
                Err(error)
            }
        }
    }

    fn push(self: &Arc<Self>, members: &[u8]) -> Result<Place, AuditError> {
        let mut pending = lock(&self.pending);
        if pending.closing {
            return Err(AuditError::Closed);
        }
        let work = &mut pending.work;
        if work.entries.len() >= MOST_RECORDS || work.bytes.len() + members.len() > MOST_BYTES {
            return Err(AuditError::QueueFull);
        }
        work.bytes.extend_from_slice(members);
        work.entries.push(Entry { end: work.bytes.len(), withdrawn: false });
        let (batch, index) = (Arc::clone(&work.batch), work.entries.len() - 1);
        let told = !pending.idle || !gather::will_tell(self, index + 1);
        if told {
            self.wake(pending);
        }
        Ok(Place { batch, index, told })
    }

    /// Wakes the writer if there is anything for it.
    pub(crate) fn tell(&self) {
        let pending = lock(&self.pending);
        if !pending.work.is_empty() {
            self.wake(pending);
        }
    }

    /// Asks for an fsync; the batch is done when it has happened.
    pub(crate) fn request_flush(&self) -> Result<Arc<Batch>, AuditError> {
        self.refuse_if_down()?;
        let mut pending = lock(&self.pending);
        if pending.closing {
            return Err(AuditError::Closed);
        }
        pending.work.flush = true;
        let batch = Arc::clone(&pending.work.batch);
        self.wake(pending);
        Ok(batch)
    }

    /// A caller never learned that its record was written.
    fn report_withdrawn(&self, withdrawn: Withdrawn) {
        let mut pending = lock(&self.pending);
        pending.work.withdrawn.push(withdrawn);
        self.wake(pending);
    }

    fn wake(&self, mut pending: MutexGuard<'_, Pending>) {
        if std::mem::take(&mut pending.idle) {
            drop(pending);
            self.work.notify_one();
        }
    }

    /// Swaps what waits for the empty `work`, waiting up to `patience` for there to be something. True once the log
    /// is closing and nothing is left.
    pub(crate) fn take(&self, work: &mut Work, patience: Duration) -> bool {
        work.reset();
        let mut pending = lock(&self.pending);
        // The writer is not in any system call, so it is not stuck.
        self.stuck.store(false, Ordering::Release);
        if pending.work.is_empty() && !pending.closing {
            pending.idle = true;
            pending = self
                .work
                .wait_timeout_while(pending, patience, |p| p.work.is_empty() && !p.closing)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
            pending.idle = false;
        }
        std::mem::swap(&mut pending.work, work);
        pending.closing && work.is_empty()
    }

    /// Tells the callers of a batch what became of it; returns those that had given up on records now written.
    pub(crate) fn complete(&self, batch: &Batch, outcome: Outcome) -> Vec<Withdrawn> {
        let written = outcome.result.is_ok();
        let late = batch.complete(outcome.clone());
        if !written {
            return Vec::new();
        }
        late.into_iter()
            .map(|(index, request_id)| Withdrawn { seq: outcome.seq(index), request_id })
            .collect()
    }

    pub(crate) fn status(&self) -> Status {
        match Fault::from_code(self.fault.load(Ordering::Acquire)) {
            Fault::None if self.stuck.load(Ordering::Acquire) => Status::Unavailable("stuck"),
            Fault::None => Status::Ok,
            fault => Status::Unavailable(fault.reason()),
        }
    }

    pub(crate) fn set_fault(&self, fault: Fault) {
        self.fault.store(fault as u8, Ordering::Release);
    }

    fn refuse_if_down(&self) -> Result<(), AuditError> {
        match self.status() {
            Status::Ok => Ok(()),
            Status::Unavailable(reason) if reason == Fault::Stopped.reason() => Err(AuditError::Closed),
            Status::Unavailable(reason) => Err(AuditError::Unavailable(reason)),
        }
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    pub(crate) fn count_failures(&self, count: u64) {
        self.counters.failures.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn stats(&self) -> Stats {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            records: load(&self.counters.records),
            writes: load(&self.counters.writes),
            fsyncs: load(&self.counters.fsyncs),
            failures: load(&self.counters.failures),
        }
    }

    pub(crate) fn synced(&self) -> AuditHead {
        *lock(&self.synced)
    }

    pub(crate) fn set_synced(&self, head: AuditHead) {
        *lock(&self.synced) = head;
    }

    /// Takes no more records; the writer finishes those that wait, and ends.
    pub(crate) fn start_closing(&self) {
        lock(&self.pending).closing = true;
        self.work.notify_one();
    }

    /// The writer has ended, by itself or by a panic.
    pub(crate) fn end(&self) {
        let mut work = Work::default();
        {
            let mut pending = lock(&self.pending);
            pending.closing = true;
            pending.ended = true;
            std::mem::swap(&mut pending.work, &mut work);
        }
        let outcome = Outcome { result: Err(Fault::Stopped), first_seq: 0, skipped: Vec::new() };
        self.complete(&work.batch, outcome);
        self.ended.notify_all();
        self.ended_async.notify_waiters();
    }

    pub(crate) fn has_ended(&self) -> bool {
        lock(&self.pending).ended
    }

    /// Waits for the writer to end; false if it has not within `patience`.
    pub(crate) fn wait_ended(&self, patience: Duration) -> bool {
        let pending = lock(&self.pending);
        let waited = self.ended.wait_timeout_while(pending, patience, |p| !p.ended);
        waited.unwrap_or_else(PoisonError::into_inner).0.ended
    }

    pub(crate) async fn ended(&self) {
        loop {
            let notified = self.ended_async.notified();
            if self.has_ended() {
                return;
            }
            notified.await;
        }
    }
}

impl Work {
    fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.withdrawn.is_empty() && !self.flush
    }

    fn reset(&mut self) {
        self.bytes.clear();
        self.entries.clear();
        self.withdrawn.clear();
        self.flush = false;
        self.batch = Arc::default();
    }

    /// How many records their callers still want.
    pub(crate) fn live(&self) -> usize {
        self.entries.iter().filter(|entry| !entry.withdrawn).count()
    }

    /// Indices that their callers took back.
    pub(crate) fn skipped(&self) -> Vec<usize> {
        let indices = self.entries.iter().enumerate();
        indices.filter(|(_, entry)| entry.withdrawn).map(|(index, _)| index).collect()
    }
}
