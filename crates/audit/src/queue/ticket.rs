//! What a caller holds while its record waits: its place in a batch, and the batch's completion.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use super::{Queue, lock};
use crate::Record;
use crate::error::{AuditError, Fault};

/// A record that was written after its caller had given up.
pub(crate) struct Withdrawn {
    pub(crate) seq: u64,
    pub(crate) request_id: Box<str>,
}

/// The completion that the callers of one batch share.
#[derive(Default)]
pub(crate) struct Batch {
    pub(super) done: AtomicBool,
    pub(super) state: Mutex<BatchState>,
    pub(super) notify: Notify,
}

#[derive(Default)]
pub(super) struct BatchState {
    pub(super) outcome: Option<Outcome>,
    /// Callers that gave up while the writer was at it, by index.
    pub(super) gave_up: Vec<(usize, Box<str>)>,
}

/// What became of a batch.
#[derive(Clone)]
pub(crate) struct Outcome {
    pub(crate) result: Result<(), Fault>,
    /// Number of the batch's first record.
    pub(crate) first_seq: u64,
    /// Indices that were taken back before the batch was taken, ascending.
    pub(crate) skipped: Vec<usize>,
}

impl Outcome {
    pub(super) fn seq(&self, index: usize) -> u64 {
        let skipped = self.skipped.partition_point(|skipped| *skipped < index);
        self.first_seq + (index - skipped) as u64
    }
}

impl Batch {
    pub(crate) async fn done(&self) {
        loop {
            // Made before the flag is read: a completion in between wakes it.
            let notified = self.notify.notified();
            if self.done.load(Ordering::Acquire) {
                return;
            }
            notified.await;
        }
    }

    pub(crate) fn result(&self) -> Result<(), AuditError> {
        match lock(&self.state).outcome.as_ref().map(|outcome| outcome.result) {
            Some(Ok(())) => Ok(()),
            Some(Err(fault)) => Err(AuditError::Unavailable(fault.reason())),
            None => Err(AuditError::TimedOut),
        }
    }
}

/// A record that waits to be written. Dropped before it is settled, it is taken back.
pub(crate) struct Ticket<'a> {
    pub(super) queue: &'a Queue,
    pub(super) record: &'a Record,
    pub(super) batch: Arc<Batch>,
    pub(super) index: usize,
    pub(super) settled: bool,
}

impl Ticket<'_> {
    pub(crate) async fn done(&self) {
        self.batch.done().await;
    }

    /// What became of the record, after [`Ticket::done`].
    pub(crate) fn settle(mut self) -> Result<(), AuditError> {
        self.settled = true;
        self.batch.result().inspect_err(|_| self.queue.count_failures(1))
    }

    /// Takes the record back; `Ok` if it was written after all, a moment ago.
    pub(crate) fn give_up(mut self, stuck: bool) -> Result<(), AuditError> {
        self.settled = true;
        if self.take_back(stuck) {
            self.queue.count_failures(1);
            return Err(AuditError::TimedOut);
        }
        self.batch.result()
    }

    /// False if the batch is done already. `stuck` says so of the writer, which will clear it: it has yet to take or
    /// to complete this batch, and both happen under the lock that is held here.
    fn take_back(&self, stuck: bool) -> bool {
        let flag = || {
            if stuck {
                self.queue.stuck.store(true, Ordering::Release);
            }
        };
        {
            let mut pending = lock(&self.queue.pending);
            if Arc::ptr_eq(&pending.work.batch, &self.batch) {
                pending.work.entries[self.index].withdrawn = true;
                flag();
                return true;
            }
        }
        let mut state = lock(&self.batch.state);
        if state.outcome.is_some() {
            return false;
        }
        state.gave_up.push((self.index, self.record.request_id.as_str().into()));
        flag();
        true
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if self.settled || self.take_back(false) {
            return;
        }
        let seq = match &lock(&self.batch.state).outcome {
            Some(outcome) if outcome.result.is_ok() => outcome.seq(self.index),
            _ => return,
        };
        let request_id = self.record.request_id.as_str().into();
        self.queue.report_withdrawn(Withdrawn { seq, request_id });
    }
}
