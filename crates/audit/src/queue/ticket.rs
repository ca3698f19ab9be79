//! The caller's side of a queued record: its ticket, and the completion of its batch.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use super::{Queue, lock};
use crate::error::{AuditError, Fault};

/// A record that was written after its caller had given up.
pub(crate) struct Withdrawn {
    pub(crate) seq: u64,
    pub(crate) request_id: Box<str>,
}

/// The completion that the callers of one batch share.
///
/// The writer wakes the first waiter, and that waiter wakes the others. A wake-up from another thread is a system call, one
/// from a thread of the same runtime is none.
#[derive(Default)]
pub(crate) struct Batch {
    done: AtomicBool,
    pub(super) state: Mutex<BatchState>,
}

#[derive(Default)]
pub(super) struct BatchState {
    pub(super) outcome: Option<Outcome>,
    /// Callers that gave up while the batch was written, by index.
    pub(super) gave_up: Vec<(usize, Box<str>)>,
    /// The waiters. `None` where a waiter was cancelled.
    waiting: Vec<Option<Waker>>,
}

/// The result of a batch.
#[derive(Clone)]
pub(crate) struct Outcome {
    pub(crate) result: Result<(), Fault>,
    /// Number of the batch's first record.
    pub(crate) first_seq: u64,
    /// Indices that were withdrawn before the writer took the batch, ascending.
    pub(crate) skipped: Vec<usize>,
}

impl Outcome {
    pub(super) fn seq(&self, index: usize) -> u64 {
        let skipped = self.skipped.partition_point(|skipped| *skipped < index);
        self.first_seq + (index - skipped) as u64
    }
}

impl Batch {
    /// Completes with the batch.
    pub(crate) fn done(&self) -> Done<'_> {
        Done { batch: self, slot: None }
    }

    /// Completes the batch and wakes the first waiter. Returns the callers that had given up.
    pub(super) fn complete(&self, outcome: Outcome) -> Vec<(usize, Box<str>)> {
        let (late, first) = {
            let mut state = lock(&self.state);
            state.outcome = Some(outcome);
            self.done.store(true, Ordering::Release);
            let first = state.waiting.iter_mut().find_map(Option::take);
            (std::mem::take(&mut state.gave_up), first)
        };
        if let Some(first) = first {
            first.wake();
        }
        late
    }

    /// Wakes the other waiters, after completion.
    fn wake_others(&self) {
        let others = std::mem::take(&mut lock(&self.state).waiting);
        others.into_iter().flatten().for_each(Waker::wake);
    }

    pub(crate) fn result(&self) -> Result<(), AuditError> {
        match lock(&self.state).outcome.as_ref().map(|outcome| outcome.result) {
            Some(Ok(())) => Ok(()),
            Some(Err(fault)) => Err(AuditError::Unavailable(fault.reason())),
            None => Err(AuditError::TimedOut),
        }
    }
}

/// A waiter. Completed or dropped, it passes the wake-up on to the others.
pub(crate) struct Done<'a> {
    batch: &'a Batch,
    /// Its index in the waiters.
    slot: Option<usize>,
}

impl Future for Done<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if !self.batch.done.load(Ordering::Acquire) {
            let mut state = lock(&self.batch.state);
            if state.outcome.is_none() {
                match self.slot.and_then(|slot| state.waiting.get_mut(slot)) {
                    Some(Some(waker)) => waker.clone_from(cx.waker()),
                    Some(none) => *none = Some(cx.waker().clone()),
                    None => {
                        self.slot = Some(state.waiting.len());
                        state.waiting.push(Some(cx.waker().clone()));
                    }
                }
                return Poll::Pending;
            }
        }
        Poll::Ready(())
    }
}

impl Drop for Done<'_> {
    fn drop(&mut self) {
        let Some(slot) = self.slot else { return };
        {
            let mut state = lock(&self.batch.state);
            if state.outcome.is_none() {
                state.waiting[slot] = None;
                return;
            }
        }
        self.batch.wake_others();
    }
}

/// A record in the queue. Dropped before it is settled, the record is withdrawn.
pub(crate) struct Ticket<'a> {
    pub(super) queue: &'a Queue,
    pub(super) request_id: &'a str,
    pub(super) batch: Arc<Batch>,
    pub(super) index: usize,
    pub(super) settled: bool,
}

impl Ticket<'_> {
    /// Completes with the record's batch.
    pub(crate) fn done(&self) -> Done<'_> {
        self.batch.done()
    }

    /// The outcome of the record, after [`Ticket::done`].
    pub(crate) fn settle(mut self) -> Result<(), AuditError> {
        self.settled = true;
        self.batch.result().inspect_err(|_| self.queue.count_failures(1))
    }

    /// Withdraws the record. `Ok` if it was written meanwhile.
    pub(crate) fn give_up(mut self, stuck: bool) -> Result<(), AuditError> {
        self.settled = true;
        if self.withdraw(stuck) {
            self.queue.count_failures(1);
            return Err(AuditError::TimedOut);
        }
        self.batch.result()
    }

    /// Returns false if the batch is complete. `stuck` marks the writer as stuck. The writer clears the mark when it takes or
    /// completes this batch, which needs the lock that is held here.
    fn withdraw(&self, stuck: bool) -> bool {
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
        state.gave_up.push((self.index, self.request_id.into()));
        flag();
        true
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        if self.withdraw(false) {
            return;
        }
        let seq = match &lock(&self.batch.state).outcome {
            Some(outcome) if outcome.result.is_ok() => outcome.seq(self.index),
            _ => return,
        };
        let request_id = self.request_id.into();
        self.queue.report_withdrawn(Withdrawn { seq, request_id });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn outcome() -> Outcome {
        Outcome { result: Ok(()), first_seq: 1, skipped: Vec::new() }
    }

    #[tokio::test]
    async fn all_waiters_are_woken_even_if_the_first_was_cancelled() {
        for cancelled in 0..3 {
            let batch = Arc::<Batch>::default();
            let mut tasks: Vec<_> = (0..5)
                .map(|_| {
                    let batch = Arc::clone(&batch);
                    tokio::spawn(async move { batch.done().await })
                })
                .collect();
            tokio::task::yield_now().await;
            assert_eq!(lock(&batch.state).waiting.len(), 5);
            // Aborted, but not dropped yet: it is the one that is woken.
            let first: Vec<_> = tasks.drain(..cancelled).collect();
            first.iter().for_each(tokio::task::JoinHandle::abort);
            let completed = Arc::clone(&batch);
            std::thread::spawn(move || completed.complete(outcome())).join().expect("no panic");
            for task in tasks {
                let ended = tokio::time::timeout(Duration::from_secs(60), task).await;
                ended.expect("it is woken").expect("no panic");
            }
        }
    }

    #[tokio::test]
    async fn a_waiter_that_left_is_not_the_one_that_is_woken() {
        let batch = Arc::<Batch>::default();
        let left = tokio::time::timeout(Duration::ZERO, batch.done()).await;
        assert!(left.is_err());
        let waits = tokio::spawn({
            let batch = Arc::clone(&batch);
            async move { batch.done().await }
        });
        tokio::task::yield_now().await;
        batch.complete(outcome());
        tokio::time::timeout(Duration::from_secs(60), waits).await.expect("it is woken").expect("no panic");
        batch.done().await;
    }
}
