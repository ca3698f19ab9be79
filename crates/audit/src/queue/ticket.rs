//! What a caller holds while its record waits: its place in a batch, and the batch's completion.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::{Queue, lock};
use crate::error::{AuditError, Fault};

/// A record that was written after its caller had given up.
pub(crate) struct Withdrawn {
    pub(crate) seq: u64,
    pub(crate) request_id: Box<str>,
}

/// The completion that the callers of one batch share.
///
/// The writer wakes one of them, and that one the others: woken from their own runtime's thread they cost it no system
/// call each. (Measured on one processor: 32 wake-ups from outside cost as much as the rest of the batch's handling.)
#[derive(Default)]
pub(crate) struct Batch {
    done: AtomicBool,
    pub(super) state: Mutex<BatchState>,
}

#[derive(Default)]
pub(super) struct BatchState {
    pub(super) outcome: Option<Outcome>,
    /// Callers that gave up while the writer was at it, by index.
    pub(super) gave_up: Vec<(usize, Box<str>)>,
    /// Those who wait; none where one has gone.
    waiting: Vec<Option<Waker>>,
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
    /// Ends when the batch is completed.
    pub(crate) fn done(&self) -> Done<'_> {
        Done { batch: self, place: None }
    }

    /// Settles the batch and wakes the first who waits; returns those that had given up.
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

    /// Wakes all who wait still, after completion.
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

/// One who waits for a batch. Completed or dropped, it sees to it that nobody waits for a wake-up that only it got.
pub(crate) struct Done<'a> {
    batch: &'a Batch,
    /// Its place among those who wait.
    place: Option<usize>,
}

impl Future for Done<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if !self.batch.done.load(Ordering::Acquire) {
            let mut state = lock(&self.batch.state);
            if state.outcome.is_none() {
                match self.place.and_then(|place| state.waiting.get_mut(place)) {
                    Some(Some(waker)) => waker.clone_from(cx.waker()),
                    Some(none) => *none = Some(cx.waker().clone()),
                    None => {
                        self.place = Some(state.waiting.len());
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
        let Some(place) = self.place else { return };
        {
            let mut state = lock(&self.batch.state);
            if state.outcome.is_none() {
                state.waiting[place] = None;
                return;
            }
        }
        self.batch.wake_others();
    }
}

/// A record that waits to be written. Dropped before it is settled, it is taken back.
pub(crate) struct Ticket<'a> {
    pub(super) queue: &'a Queue,
    pub(super) request_id: &'a str,
    pub(super) batch: Arc<Batch>,
    pub(super) index: usize,
    /// The writer knows that there is work, or somebody else will tell it.
    pub(super) told: bool,
    pub(super) settled: bool,
}

impl Ticket<'_> {
    /// Waits until the record's batch is completed.
    ///
    /// The writer is told of the batch when this thread has nothing else to do. Where that is not soon, the first of the
    /// batch tells it.
    pub(crate) async fn done(&self) {
        const SOON: Duration = Duration::from_millis(1);
        if !self.told && self.index == 0 && tokio::time::timeout(SOON, self.batch.done()).await.is_err() {
            self.queue.tell();
        }
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
        if !self.told {
            self.queue.tell();
        }
        if self.take_back(false) {
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
    use super::*;

    fn outcome() -> Outcome {
        Outcome { result: Ok(()), first_seq: 1, skipped: Vec::new() }
    }

    #[tokio::test]
    async fn all_who_wait_are_woken_though_the_first_of_them_has_gone() {
        for gone in 0..3 {
            let batch = Arc::<Batch>::default();
            let mut tasks: Vec<_> = (0..5)
                .map(|_| {
                    let batch = Arc::clone(&batch);
                    tokio::spawn(async move { batch.done().await })
                })
                .collect();
            tokio::task::yield_now().await;
            assert_eq!(lock(&batch.state).waiting.len(), 5);
            // Told to stop, but not gone yet: it is the one that is woken.
            let first: Vec<_> = tasks.drain(..gone).collect();
            first.iter().for_each(tokio::task::JoinHandle::abort);
            let completed = Arc::clone(&batch);
            std::thread::spawn(move || completed.complete(outcome())).join().expect("no panic");
            for task in tasks {
                let ended = tokio::time::timeout(Duration::from_secs(5), task).await;
                ended.expect("it is woken").expect("no panic");
            }
        }
    }

    #[tokio::test]
    async fn one_who_left_before_is_not_the_one_that_is_woken() {
        let batch = Arc::<Batch>::default();
        let left = tokio::time::timeout(Duration::ZERO, batch.done()).await;
        assert!(left.is_err());
        let waits = tokio::spawn({
            let batch = Arc::clone(&batch);
            async move { batch.done().await }
        });
        tokio::task::yield_now().await;
        batch.complete(outcome());
        tokio::time::timeout(Duration::from_secs(5), waits).await.expect("it is woken").expect("no panic");
        batch.done().await;
    }
}
