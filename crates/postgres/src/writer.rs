//! Batchers for writes: a few tasks, each with a connection of its own.
//!
//! A batch of changes is one transaction of two round trips. The first begins the transaction, locks every place of the
//! batch (also places without a secret) and reads the present secrets. Then each change is decided and sealed in memory
//! (see `batch`). The second round trip sends every statement and the commit. The locks are advisory locks on a hash of
//! the place. Every writer takes them in ascending order, so writers of all replicas cannot deadlock.
//!
//! * A transaction that fails before its commit is sent has no effect. If it failed because of another transaction or a
//!   lost connection, it is retried, for [`AGAIN`] at most.
//! * If the database refuses the transaction for another reason, each change is tried in a transaction of its own, so
//!   that one bad change does not fail the others.
//! * When the commit was sent and no response came, the changes of that transaction get
//!   [`StoreError::OutcomeUnknown`]. Changes that were refused before get their refusals.

use std::collections::HashSet;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use agentrouter_model::{Place, Secret};
use futures_util::FutureExt as _;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::Row;

use super::batch::{Batch, Fenced, Outcome, Places, Reply};
use super::failure::LATE;
use super::link::{Dialer, Link, Purpose};
use super::queue::{Job, Queue, Work};
use super::rows;
use super::sql::Sql;
use super::step::{BEGIN, Step, Undone, commit};
use agentrouter_lease::Token;
use agentrouter_store::row_tags::verified;
use agentrouter_store::{RowTags, Stats, StoreError, WriteError};

/// How long a transaction is retried, counted from its first failure.
const AGAIN: Duration = Duration::from_secs(2);
/// The pause before the first retry. Each further pause is twice as long.
const PAUSE: Duration = Duration::from_millis(5);
/// The longest of these pauses.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// Longest time for the first round trip, connecting included.
const FIRST: Duration = Duration::from_secs(5);

const CLOSED: StoreError = StoreError::unavailable("it is closed");
const WAITED: StoreError = StoreError::unavailable("too many writes wait for the database");

#[derive(Default)]
struct Counters {
    commits: AtomicU64,
    writes: AtomicU64,
}

/// The handle of the writers.
pub(super) struct Writers {
    pub(super) queue: Arc<Queue>,
    counters: Arc<Counters>,
    tasks: std::sync::Mutex<JoinSet<()>>,
}

impl Writers {
    /// Starts `writers` writers. Each connects when it has something to write.
    pub(super) fn start(dialer: &Arc<Dialer>, writers: usize, tags: &Arc<AttachedTags>) -> Self {
        let (queue, counters) = (Arc::new(Queue::new()), Arc::new(Counters::default()));
        let mut tasks = JoinSet::new();
        for _ in 0..writers {
            let (dialer, queue, counters) = (Arc::clone(dialer), Arc::clone(&queue), Arc::clone(&counters));
            let tags = Arc::clone(tags);
            tasks.spawn(async move {
                let mut writer = Writer { dialer, counters, tags, link: None };
                while let Some(mut hand) = queue.take().await {
                    let jobs = std::mem::take(&mut hand.jobs);
                    // A panic is a defect. The callers of these jobs get an unknown outcome; other jobs are not
                    // affected.
                    if AssertUnwindSafe(writer.write(jobs)).catch_unwind().await.is_err() {
                        writer.link = None;
                    }
                }
            });
        }
        Self { queue, counters, tasks: std::sync::Mutex::new(tasks) }
    }

    pub(super) fn stats(&self) -> Stats {
        Stats {
            commits: self.counters.commits.load(Ordering::Relaxed),
            writes: self.counters.writes.load(Ordering::Relaxed),
            ..Stats::default()
        }
    }

    /// Closes the queue and writes what is queued.
    pub(super) async fn close(&self) {
        self.queue.close();
        let mut tasks = {
            let mut tasks = self.tasks.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            std::mem::take(&mut *tasks)
        };
        while tasks.join_next().await.is_some() {}
    }
}

/// A store that is dropped without being closed still writes the queued changes.
impl Drop for Writers {
    fn drop(&mut self) {
        self.queue.close();
        self.tasks.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner).detach_all();
    }
}

/// The tags of rows, once they are attached.
pub(super) type AttachedTags = OnceLock<Arc<dyn RowTags>>;

/// A change and the sender of its outcome.
type Pending = (Fenced, oneshot::Sender<Reply>);

struct Writer {
    dialer: Arc<Dialer>,
    counters: Arc<Counters>,
    tags: Arc<AttachedTags>,
    link: Option<Link>,
}

impl Writer {
    async fn write(&mut self, jobs: Vec<Job>) {
        let mut changes: Vec<Pending> = Vec::with_capacity(jobs.len());
        for job in jobs {
            if job.deadline < Instant::now() {
                job.refuse(WAITED);
                continue;
            }
            match job.work {
                Work::Change(change, reply) => changes.push((change, reply)),
                Work::Script(steps, reply) => {
                    let result = self.script(&steps).await;
                    let _ = reply.send(result);
                }
            }
        }
        if !changes.is_empty() {
            self.changes(changes).await;
        }
    }

    /// Runs a script until it is committed or must not be retried.
    async fn script(&mut self, steps: &[Step]) -> Result<Vec<Vec<Row>>, StoreError> {
        let mut tries = Tries::new();
        loop {
            let result = match self.link(Instant::now() + FIRST).await {
                Ok(link) => commit(link, true, steps).await,
                Err(error) => Err(Undone::Nothing { again: true, error }),
            };
            match result {
                Ok(rows) => {
                    self.count(1);
                    return Ok(rows);
                }
                Err(undone) => {
                    self.link = None;
                    match undone {
                        Undone::Unknown(error) => return Err(error),
                        Undone::Nothing { again: true, .. } if tries.again().await => {}
                        Undone::Nothing { error, .. } => return Err(error),
                    }
                }
            }
        }
    }

    /// Writes changes in one transaction if possible. Boxed, because it calls itself for each change alone.
    fn changes(&mut self, pending: Vec<Pending>) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            let changes: Vec<&Fenced> = pending.iter().map(|(change, _)| change).collect();
            let mut tries = Tries::new();
            let outcomes = loop {
                match self.attempt(&changes).await {
                    Ok(outcomes) => break outcomes,
                    Err((Undone::Unknown(error), decided)) => break all(decided, &error),
                    Err((Undone::Nothing { again: true, .. }, _)) if tries.again().await => {}
                    Err((Undone::Nothing { again: false, .. }, _)) if changes.len() > 1 => {
                        for one in pending {
                            self.changes(vec![one]).await;
                        }
                        return;
                    }
                    Err((Undone::Nothing { error, .. }, decided)) => break all(decided, &error),
                }
            };
            for ((_, reply), outcome) in pending.into_iter().zip(outcomes) {
                let _ = reply.send(outcome);
            }
        })
    }

    /// Runs one transaction. A failure comes with the replies that were decided before it, since refusals stay valid.
    async fn attempt(&mut self, changes: &[&Fenced]) -> Result<Vec<Reply>, (Undone, Vec<Reply>)> {
        let undecided = || changes.iter().map(|_| Some(Ok(None))).collect();
        let tags = Arc::clone(&self.tags);
        let tags = tags.get().map(|tags| &**tags);
        let nothing = |error| (Undone::Nothing { again: true, error }, undecided());
        let deadline = Instant::now() + FIRST;
        let link = self.link(deadline).await.map_err(nothing)?;
        let read = timeout_at(deadline, present(link, changes, verified(tags))).await;
        let Present { secrets, lifted } = match read {
            Ok(Ok(present)) => present,
            Ok(Err(error)) => {
                self.link = None;
                return Err((Undone::nothing(error), undecided()));
            }
            Err(_) => {
                self.link = None;
                return Err((Undone::Nothing { again: true, error: LATE }, undecided()));
            }
        };
        let mut batch = Batch::new(tags);
        let mut add = |(change, present): (&&Fenced, Result<Option<Secret>, StoreError>)| match present {
            // A replica may have it in its cache.
            Ok(Some(_)) if change.token.is_none_or(|token| !lifted.contains(&token)) => None,
            Ok(present) => Some(batch.add(&change.change, present)),
            Err(error) => Some(Err(error.into())),
        };
        let replies: Vec<Reply> = changes.iter().zip(secrets).map(&mut add).collect();
        let steps = batch.steps();
        // Commit even without statements: this removes the lifted fences and releases the locks.
        if let Err(undone) = commit(link, false, &steps).await {
            self.link = None;
            return Err((undone, replies));
        }
        if !steps.is_empty() {
            self.count(replies.iter().filter(|reply| matches!(reply, Some(Ok(_)))).count() as u64);
        }
        Ok(replies)
    }

    async fn link(&mut self, deadline: Instant) -> Result<&Link, StoreError> {
        if self.link.as_ref().is_none_or(Link::is_closed) {
            self.link = Some(self.dialer.link(Purpose::Write, deadline).await?);
        }
        self.link.as_ref().ok_or(CLOSED)
    }

    fn count(&self, writes: u64) {
        self.counters.commits.fetch_add(1, Ordering::Relaxed);
        self.counters.writes.fetch_add(writes, Ordering::Relaxed);
    }
}

/// The locked rows that a transaction has read.
struct Present {
    /// The secrets at the changes' places, in their order.
    secrets: Vec<Result<Option<Secret>, StoreError>>,
    /// The fences that it has removed.
    lifted: HashSet<Token>,
}

/// Begins a transaction, locks the places, removes the changes' fences, and reads the secrets, which `tags` verify.
async fn present(
    link: &Link,
    changes: &[&Fenced],
    tags: Option<&dyn RowTags>,
) -> Result<Present, tokio_postgres::Error> {
    let mut locks: Vec<i64> = changes.iter().map(|change| lock_of(change.change.place())).collect();
    locks.sort_unstable();
    locks.dedup();
    let mut places = Places::default();
    for change in changes {
        places.push(change.change.place());
    }
    let lock = Step::new(Sql::Lock).with(locks);
    let mut tokens: Vec<Token> = changes.iter().filter_map(|change| change.token).collect();
    tokens.sort_unstable();
    let tokens: Vec<Vec<u8>> = tokens.into_iter().map(|token| token.to_be_bytes().to_vec()).collect();
    let lift = async {
        if tokens.is_empty() { Ok(Vec::new()) } else { Step::new(Sql::Lift).with(tokens).run(link).await }
    };
    let Some(read) = places.step(Sql::Present) else {
        return Ok(Present { secrets: Vec::new(), lifted: HashSet::new() });
    };
    let (opened, locked, lifted_rows, rows) = tokio::join!(
        biased;
        link.client.batch_execute(BEGIN),
        lock.run(link),
        lift,
        read.run(link),
    );
    opened?;
    locked?;
    let token = |row: &Row| row.try_get::<_, &[u8]>(0).ok().and_then(|bytes| bytes.try_into().ok());
    let lifted = lifted_rows?.iter().filter_map(token).map(Token::from_be_bytes).collect();
    let mut present: Vec<Result<Option<Secret>, StoreError>> = changes.iter().map(|_| Ok(None)).collect();
    for row in rows? {
        let at = row.try_get::<_, i64>(15)?;
        if let Some(slot) = usize::try_from(at - 1).ok().and_then(|at| present.get_mut(at)) {
            *slot = match row.try_get::<_, bool>(16)? {
                true => rows::secret(&row, tags).map(Some),
                false => Err(StoreError::NO_ACTIVE),
            };
        }
    }
    Ok(Present { secrets: present, lifted })
}

pub(super) fn lock_of(place: &Place) -> i64 {
    lock(place.owner.as_str(), place.realm.as_str(), place.name.as_str())
}

/// The number of a place's lock: FNV-1a over its parts, separated by a byte that none of them contains. Two places with
/// the same number only wait for each other.
pub(super) fn lock(owner: &str, realm: &str, name: &str) -> i64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in [owner, realm, name].iter().flat_map(|part| part.bytes().chain([0])) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash.cast_signed()
}

/// The replies for a failed transaction: refusals unchanged, and `error` for the other changes.
fn all(decided: Vec<Reply>, error: &StoreError) -> Vec<Reply> {
    let failed = |outcome: Outcome| outcome.and(Err(WriteError::Store(error.clone())));
    decided.into_iter().map(|reply| reply.map(failed)).collect()
}

/// Limits the retries of a transaction.
struct Tries {
    pause: Duration,
    until: Instant,
}

impl Tries {
    fn new() -> Self {
        Self { pause: PAUSE, until: Instant::now() + AGAIN }
    }

    /// Waits before the next try. Returns false if the time for retries is over.
    async fn again(&mut self) -> bool {
        if Instant::now() + self.pause > self.until {
            return false;
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentrouter_store::conformance::fixtures::place;

    #[test]
    fn places_that_read_alike_have_locks_of_their_own() {
        let texts = ["ab/c/d", "a/bc/d", "a/b/cd", "a/b/c", "b/a/c"];
        let mut locks: Vec<i64> = texts.map(|text| lock_of(&place(text))).into();
        locks.sort_unstable();
        locks.dedup();
        assert_eq!(locks.len(), texts.len());
    }
}
