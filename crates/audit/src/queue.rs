//! Batcher: the queue between the callers and the writer thread.
//!
//! A caller formats its record into a buffer of its thread, and holds the lock while it copies a few hundred bytes. The
//! writer swaps the whole queue for an empty one under the same lock. The lock is not held across I/O, so a stuck disk blocks
//! no caller. The callers of one batch share one completion (`ticket`), and no record needs an allocation.
//!
//! The first record wakes an idle writer. Before the writer takes the queue, it yields to the threads that share its
//! processor, if any is ready: so the records of their tasks make one batch.
//!
//! A caller that gives up (after 2 s, or by dropping its future) withdraws its record if the writer has not taken the batch.
//! Otherwise it leaves its request id, and if the record was written, the writer adds a `WITHDRAWN` record. The lock that
//! completes the batch decides which of the two happened.

mod ticket;

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

pub(crate) use self::ticket::{Batch, Outcome, Ticket, Withdrawn};
use crate::error::{AuditError, Fault, Status};
use crate::{AuditHead, Kept, Record};

/// The most records in the queue.
const MOST_RECORDS: usize = 64 * 1024;
/// The most bytes of records in the queue.
const MOST_BYTES: usize = 16 * 1024 * 1024;

/// The state that the callers, the handle and the writer thread share.
#[derive(Default)]
pub(crate) struct Queue {
    pending: Mutex<Pending>,
    /// Wakes the writer.
    work: Condvar,
    /// Wakes the threads that wait for the writer to end.
    ended: Condvar,
    ended_async: Notify,
    synced_async: Notify,
    fault: AtomicU8,
    stuck: AtomicBool,
    pub(crate) chain_broken: AtomicBool,
    /// The faults found when the log was opened are not on disk yet.
    pub(crate) unrecorded: AtomicBool,
    /// The last fsync of the writer succeeded.
    pub(crate) ended_well: AtomicBool,
    synced: Mutex<AuditHead>,
    counters: Counters,
}

/// Counters since the log was opened, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Records of callers that were written.
    pub records: u64,
    /// Calls of write(2).
    pub writes: u64,
    /// Calls of fsync that succeeded.
    pub fsyncs: u64,
    /// Appends that failed.
    pub failures: u64,
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

/// A batch: the records that the writer takes at once.
#[derive(Default)]
pub(crate) struct Work {
    /// The members of the records, end to end.
    pub(crate) bytes: Vec<u8>,
    pub(crate) entries: Vec<Entry>,
    /// Records already written whose callers gave up.
    pub(crate) withdrawn: Vec<Withdrawn>,
    /// A caller waits for an fsync.
    pub(crate) flush: bool,
    pub(crate) batch: Arc<Batch>,
}

/// One record in [`Work::bytes`].
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    /// Where it ends. It begins where the previous one ends.
    pub(crate) end: usize,
    /// Its caller withdrew it.
    pub(crate) withdrawn: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The state under the locks is consistent after every statement, so a panic elsewhere does not corrupt it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Queue {
    /// Adds `record` to the batch that is being collected.
    pub(crate) fn enqueue<'a>(&'a self, record: &Record<'a>) -> Result<Ticket<'a>, AuditError> {
        thread_local! {
            static MEMBERS: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        MEMBERS.with_borrow_mut(|members| {
            members.clear();
            record.write_members(members);
            self.ticket(members, record.request_id)
        })
    }

    /// The same for a formatted record.
    pub(crate) fn enqueue_kept<'a>(&'a self, kept: &'a Kept) -> Result<Ticket<'a>, AuditError> {
        self.ticket(&kept.members, &kept.request_id)
    }

    fn ticket<'a>(&'a self, members: &[u8], request_id: &'a str) -> Result<Ticket<'a>, AuditError> {
        match self.refuse_if_down().and_then(|()| self.push(members)) {
            Ok((batch, index)) => Ok(Ticket { queue: self, request_id, batch, index, settled: false }),
            Err(error) => {
                self.count_failures(1);
                Err(error)
            }
        }
    }

    /// Returns the record's batch, and its index there.
    fn push(&self, members: &[u8]) -> Result<(Arc<Batch>, usize), AuditError> {
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
        self.wake(pending);
        Ok((batch, index))
    }

    /// Requests an fsync. The batch completes after it.
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

    /// Reports a record that was written without its caller knowing.
    fn report_withdrawn(&self, withdrawn: Withdrawn) {
        let mut pending = lock(&self.pending);
        pending.work.withdrawn.push(withdrawn);
        self.wake(pending);
    }

    /// Wakes the writer if it waits.
    fn wake(&self, mut pending: MutexGuard<'_, Pending>) {
        if std::mem::take(&mut pending.idle) {
            drop(pending);
            self.work.notify_one();
        }
    }

    /// Waits up to `patience` for work, and swaps it for the empty `work`. Returns true when the log is closing and nothing is
    /// left.
    pub(crate) fn take(&self, work: &mut Work, patience: Duration) -> bool {
        work.reset();
        let mut pending = lock(&self.pending);
        // The writer is not in a system call, so it is not stuck.
        self.stuck.store(false, Ordering::Release);
        if pending.work.is_empty() && !pending.closing {
            pending.idle = true;
            pending = self
                .work
                .wait_timeout_while(pending, patience, |p| p.work.is_empty() && !p.closing)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
            pending.idle = false;
            drop(pending);
            // Where this thread shares a processor with the callers, it runs as soon as it is woken, before the next record is
            // queued. Elsewhere this returns at once. The case is `rest.value.one` of `docs/benchmarks.md`.
            std::thread::yield_now();
            pending = lock(&self.pending);
        }
        std::mem::swap(&mut pending.work, work);
        pending.closing && work.is_empty()
    }

    /// Completes a batch. Returns the callers that had given up on records that were written.
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
        match self.fault() {
            Fault::None if self.stuck.load(Ordering::Acquire) => Status::Unavailable("stuck"),
            Fault::None => Status::Ok,
            fault => Status::Unavailable(fault.reason()),
        }
    }

    fn fault(&self) -> Fault {
        Fault::from_code(self.fault.load(Ordering::Acquire))
    }

    pub(crate) fn set_fault(&self, fault: Fault) {
        self.fault.store(fault as u8, Ordering::Release);
    }

    fn refuse_if_down(&self) -> Result<(), AuditError> {
        match self.status() {
            Status::Ok => Ok(()),
            Status::Unavailable(_) if self.fault() == Fault::Stopped => Err(AuditError::Closed),
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
        self.synced_async.notify_one();
    }

    /// Waits for the next fsync, or returns at once if there was one since the last call.
    pub(crate) async fn next_sync(&self) {
        self.synced_async.notified().await;
    }

    /// Rejects new records. The writer writes those in the queue, and ends.
    pub(crate) fn start_closing(&self) {
        lock(&self.pending).closing = true;
        self.work.notify_one();
    }

    /// Completes the remaining records when the writer has ended, by a panic or otherwise.
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

    /// Waits for the writer to end. Returns false if it does not within `patience`.
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

    /// The number of records that were not withdrawn.
    pub(crate) fn live(&self) -> usize {
        self.entries.iter().filter(|entry| !entry.withdrawn).count()
    }

    /// The indices that were withdrawn.
    pub(crate) fn skipped(&self) -> Vec<usize> {
        let indices = self.entries.iter().enumerate();
        indices.filter(|(_, entry)| entry.withdrawn).map(|(index, _)| index).collect()
    }
}
