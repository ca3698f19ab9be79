//! Writes that wait, and who may go with whom.
//!
//! A writer takes whatever waits into one transaction, so while some commit, the next batch gathers. Changes of one place
//! go one after the other, in the order in which they came: one a batch, and none while another writer has that place in
//! hand. That way writers of one process never wait for each other's locks in the database.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agentrouter_model::Place;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, timeout};
use tokio_postgres::Row;

use super::batch::{Answer, Fenced};
use super::step::Step;
use agentrouter_store::{StoreError, WriteError};

/// Most changes in one transaction.
const BATCH: usize = 128;
/// Most writes that wait; further callers wait for a place.
const QUEUE: usize = 1024;
/// Longest wait for a place.
const WAIT: Duration = Duration::from_secs(2);
/// Longest time until a write that got a place is taken up.
const PATIENCE: Duration = Duration::from_secs(4);

const CLOSED: StoreError = StoreError::unavailable("it is closed");

/// What is to be written.
pub(super) enum Work {
    /// A change of a secret; many of them share a transaction.
    Change(Fenced, oneshot::Sender<Answer>),
    /// Statements that need no decision between them, in a transaction of their own; the rows of each are the answer.
    Script(Vec<Step>, oneshot::Sender<Result<Vec<Vec<Row>>, StoreError>>),
}

/// Work, and when it has waited too long.
pub(super) struct Job {
    pub(super) work: Work,
    pub(super) deadline: Instant,
    _place: OwnedSemaphorePermit,
}

impl Job {
    /// Answers that nothing happened.
    pub(super) fn refuse(self, error: StoreError) {
        match self.work {
            Work::Change(_, reply) => drop(reply.send(Some(Err(WriteError::Store(error))))),
            Work::Script(_, reply) => drop(reply.send(Err(error))),
        }
    }
}

/// The writes that wait.
pub(super) struct Queue {
    state: Mutex<State>,
    wake: Notify,
    places: Arc<Semaphore>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Job>,
    /// The places that some writer has in hand.
    busy: HashSet<Place>,
    closed: bool,
}

/// Jobs in one writer's hands. Their places are free again when it is dropped.
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
        Self { state: Mutex::default(), wake: Notify::new(), places: Arc::new(Semaphore::new(QUEUE)) }
    }

    /// Has a change written.
    pub(super) async fn change(&self, change: Fenced) -> Answer {
        let (reply, answer) = oneshot::channel();
        if let Err(error) = self.push(Work::Change(change, reply)).await {
            return Some(Err(error.into()));
        }
        answer.await.unwrap_or_else(|_| Some(Err(StoreError::OutcomeUnknown { source: None }.into())))
    }

    /// Has statements run in a transaction of their own.
    pub(super) async fn script(&self, steps: Vec<Step>) -> Result<Vec<Vec<Row>>, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.push(Work::Script(steps, reply)).await?;
        answer.await.unwrap_or(Err(StoreError::OutcomeUnknown { source: None }))
    }

    async fn push(&self, work: Work) -> Result<(), StoreError> {
        let place = match timeout(WAIT, Arc::clone(&self.places).acquire_owned()).await {
            Ok(place) => place.map_err(|_| CLOSED)?,
            Err(_) => return Err(StoreError::unavailable("too many writes wait for the database")),
        };
        let mut state = self.state();
        if state.closed {
            return Err(CLOSED);
        }
        state.waiting.push_back(Job { work, deadline: Instant::now() + PATIENCE, _place: place });
        drop(state);
        self.wake.notify_one();
        Ok(())
    }

    /// Waits for work and takes what can go together; none once the queue is closed and empty.
    pub(super) async fn take(&self) -> Option<Hand<'_>> {
        loop {
            if let Some(hand) = self.take_now() {
                return Some(hand);
            }
            if self.is_over() {
                // The other writers are to see it, too.
                self.wake.notify_one();
                return None;
            }
            self.wake.notified().await;
        }
    }

    /// Lets nobody in any more.
    pub(super) fn close(&self) {
        self.places.close();
        self.state().closed = true;
        self.wake.notify_one();
    }

    fn take_now(&self) -> Option<Hand<'_>> {
        let mut state = self.state();
        let mut hand = Hand { queue: self, jobs: Vec::new(), places: Vec::new() };
        let mut left = VecDeque::with_capacity(state.waiting.len());
        // Places with a change that stays: those after it must stay, too.
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
            // Nothing was taken, so nothing is to be given back, and nobody woken.
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
