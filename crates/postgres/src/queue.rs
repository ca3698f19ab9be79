//! Queue of writes, for the batchers in `writer`.
//!
//! A writer takes the queued changes into one transaction. While it commits, the next batch gathers. Changes of one
//! place stay in order: a batch has at most one of them, and none while another writer has a change of that place. So
//! writers of one process never wait for each other's locks in the database.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agentrouter_model::Place;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, timeout};
use tokio_postgres::Row;

use super::batch::{Fenced, Reply};
use super::step::Step;
use agentrouter_store::{StoreError, WriteError};

/// Most changes in one transaction.
const BATCH: usize = 128;
/// Most writes in the queue. Further callers wait for a permit.
const QUEUE: usize = 1024;
/// Longest wait for a permit.
const WAIT: Duration = Duration::from_secs(2);
/// Longest time in the queue.
const PATIENCE: Duration = Duration::from_secs(4);

const CLOSED: StoreError = StoreError::unavailable("it is closed");

/// What is to be written.
pub(super) enum Work {
    /// A change of a secret; many of them share a transaction.
    Change(Fenced, oneshot::Sender<Reply>),
    /// Statements in a transaction of their own, without a decision between them. The result is the rows of each.
    Script(Vec<Step>, oneshot::Sender<Result<Vec<Vec<Row>>, StoreError>>),
}

/// Work, and its deadline.
pub(super) struct Job {
    pub(super) work: Work,
    pub(super) deadline: Instant,
    _permit: OwnedSemaphorePermit,
}

impl Job {
    /// Rejects the work: nothing happened.
    pub(super) fn refuse(self, error: StoreError) {
        match self.work {
            Work::Change(_, reply) => drop(reply.send(Some(Err(WriteError::Store(error))))),
            Work::Script(_, reply) => drop(reply.send(Err(error))),
        }
    }
}

/// The queue.
pub(super) struct Queue {
    state: Mutex<State>,
    wake: Notify,
    permits: Arc<Semaphore>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Job>,
    /// The places of which a writer has a change.
    busy: HashSet<Place>,
    closed: bool,
}

/// The jobs that a writer has taken. Dropping it releases their places.
pub(super) struct Hand<'q> {
    queue: &'q Queue,
    pub(super) jobs: Vec<Job>,
    places: Vec<Place>,
}

impl Drop for Hand<'_> {
    fn drop(&mut self) {
        let mut state = self.queue.state();
        for place in &self.places {
            state.busy.remove(place);
        }
        drop(state);
        self.queue.wake.notify_one();
    }
}

impl Queue {
    pub(super) fn new() -> Self {
        Self { state: Mutex::default(), wake: Notify::new(), permits: Arc::new(Semaphore::new(QUEUE)) }
    }

    /// Queues a change and waits for its outcome.
    pub(super) async fn change(&self, change: Fenced) -> Reply {
        let (reply, outcome) = oneshot::channel();
        if let Err(error) = self.push(Work::Change(change, reply)).await {
            return Some(Err(error.into()));
        }
        outcome.await.unwrap_or_else(|_| Some(Err(StoreError::OutcomeUnknown { source: None }.into())))
    }

    /// Queues statements for a transaction of their own and waits for their rows.
    pub(super) async fn script(&self, steps: Vec<Step>) -> Result<Vec<Vec<Row>>, StoreError> {
        let (reply, outcome) = oneshot::channel();
        self.push(Work::Script(steps, reply)).await?;
        outcome.await.unwrap_or(Err(StoreError::OutcomeUnknown { source: None }))
    }

    async fn push(&self, work: Work) -> Result<(), StoreError> {
        let permit = match timeout(WAIT, Arc::clone(&self.permits).acquire_owned()).await {
            Ok(permit) => permit.map_err(|_| CLOSED)?,
            Err(_) => return Err(StoreError::unavailable("too many writes wait for the database")),
        };
        let mut state = self.state();
        if state.closed {
            return Err(CLOSED);
        }
        state.waiting.push_back(Job { work, deadline: Instant::now() + PATIENCE, _permit: permit });
        drop(state);
        self.wake.notify_one();
        Ok(())
    }

    /// Waits for work and takes the jobs that can share a transaction; none once the queue is closed and empty.
    pub(super) async fn take(&self) -> Option<Hand<'_>> {
        loop {
            if let Some(hand) = self.take_now() {
                return Some(hand);
            }
            if self.is_over() {
                // Wake the other writers, so that they end, too.
                self.wake.notify_one();
                return None;
            }
            self.wake.notified().await;
        }
    }

    /// Closes the queue to further writes.
    pub(super) fn close(&self) {
        self.permits.close();
        self.state().closed = true;
        self.wake.notify_one();
    }

    fn take_now(&self) -> Option<Hand<'_>> {
        let mut state = self.state();
        let mut hand = Hand { queue: self, jobs: Vec::new(), places: Vec::new() };
        let mut left = VecDeque::with_capacity(state.waiting.len());
        // The places of changes that stay in the queue. Later changes of these places must stay too.
        let mut passed = HashSet::new();
        while let Some(job) = state.waiting.pop_front() {
            let taken = match &job.work {
                _ if hand.jobs.len() == BATCH => false,
                Work::Script(..) => hand.jobs.is_empty(),
                Work::Change(change, _) => {
                    let place = change.change.place();
                    let free = !state.busy.contains(place) && !passed.contains(place);
                    if free {
                        hand.places.push(place.clone());
                        state.busy.insert(place.clone());
                    } else {
                        passed.insert(place.clone());
                    }
                    free
                }
            };
            let alone = matches!(job.work, Work::Script(..));
            if taken {
                hand.jobs.push(job);
            } else {
                left.push_back(job);
            }
            if hand.jobs.len() == BATCH || (taken && alone) {
                break;
            }
        }
        left.append(&mut state.waiting);
        let more = !left.is_empty();
        state.waiting = left;
        drop(state);
        if hand.jobs.is_empty() {
            // No job was taken, so there is no place to release and no writer to wake.
            std::mem::forget(hand);
            return None;
        }
        if more {
            self.wake.notify_one();
        }
        Some(hand)
    }

    fn is_over(&self) -> bool {
        let state = self.state();
        state.closed && state.waiting.is_empty()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
