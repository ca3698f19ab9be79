//! Fencing: the task that commits fences in batches and waits for the replicas' confirmations.
//!
//! Called by the engine before each change of a row that replicas may have cached. One iteration of the task commits
//! the requested fences, reads the registrations, completes the requests whose wait is over, and removes released
//! fences. A request has a deadline of [`OVERALL`]. The change itself is made elsewhere (see `writer`).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::wire::{self, Columns};
use super::{Id, Shared};
use crate::failure::{LATE, failure};
use crate::link::{Dialer, Link, Purpose};
use crate::sql::Sql;
use agentrouter_lease::{Registration, Target, Token, Waiting};
use agentrouter_store::StoreError;

/// Most fences of one statement.
const BATCH: usize = 256;
/// Longest wait for a statement's result. The first statement's wait includes connecting.
const LIMIT: Duration = Duration::from_secs(3);
/// The interval at which the task reads the registrations while it waits for replicas and gets no notification.
const POLL: Duration = Duration::from_millis(50);
/// Longest wait for the replicas. It covers the longest lease and the time to remove a registration.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a fence that could not be committed is retried. [`PAUSE`] is the pause before a retry.
const AGAIN: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(20);
/// Longest time from a request to its result.
const OVERALL: Duration = Duration::from_secs(8);

const CLOSED: StoreError = StoreError::unavailable("it is closed");
const SILENT: StoreError = StoreError::unavailable("other servers have not dropped the old value in time");

/// The handle of the task.
pub(super) struct Fencer {
    requests: mpsc::UnboundedSender<Request>,
    task: tokio::task::JoinHandle<()>,
}

type FenceReply = oneshot::Sender<Result<Token, StoreError>>;

enum Request {
    Fence(Target, FenceReply),
    Release(Token),
}

impl Fencer {
    pub(super) fn start(dialer: Arc<Dialer>, shared: Arc<Shared>) -> Self {
        let (requests, inbox) = mpsc::unbounded_channel();
        let (asked, pending, released) = (Vec::new(), Vec::new(), Vec::new());
        let task = FencerTask { dialer, shared, link: None, asked, pending, released };
        Self { requests, task: tokio::spawn(task.run(inbox)) }
    }

    pub(super) async fn fence(&self, target: Target) -> Result<Token, StoreError> {
        let (reply, result) = oneshot::channel();
        self.requests.send(Request::Fence(target, reply)).map_err(|_| CLOSED)?;
        match timeout_at(Instant::now() + OVERALL, result).await {
            Ok(result) => result.map_err(|_| CLOSED)?,
            Err(_) => Err(LATE),
        }
    }

    pub(super) fn release(&self, token: Token) {
        let _ = self.requests.send(Request::Release(token));
    }

    pub(super) fn close(&self) {
        self.task.abort();
    }
}

impl Drop for Fencer {
    fn drop(&mut self) {
        self.close();
    }
}

/// Callers whose fence is committed.
struct PendingFences {
    waiting: Waiting<Id>,
    start: Instant,
    replies: Vec<(Token, FenceReply)>,
}

impl PendingFences {
    /// Sends `result` to the callers. Returns the fences that no caller will use, for removal.
    fn finish(self, result: &Result<(), StoreError>) -> Vec<Token> {
        let mut left = Vec::new();
        for (token, reply) in self.replies {
            let heard = reply.send(result.clone().map(|()| token)).is_ok();
            if !heard || result.is_err() {
                left.push(token);
            }
        }
        left
    }
}

/// A requested fence that is not committed yet.
struct Asked {
    target: Target,
    reply: FenceReply,
    since: Instant,
}

struct FencerTask {
    dialer: Arc<Dialer>,
    shared: Arc<Shared>,
    link: Option<Link>,
    asked: Vec<Asked>,
    pending: Vec<PendingFences>,
    /// Fences whose changes have ended, to be removed.
    released: Vec<Token>,
}

impl FencerTask {
    async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Request>) {
        loop {
            let woken = self.link.as_ref().map(|link| Arc::clone(&link.woken));
            let confirmed = async {
                match (woken, self.pending.is_empty()) {
                    (Some(woken), false) => woken.notified().await,
                    _ => std::future::pending().await,
                }
            };
            let poll = async {
                if self.pending.is_empty() { std::future::pending().await } else { sleep(POLL).await }
            };
            let overdue = self.pending.iter().filter_map(|pending| pending.waiting.deadline()).min();
            let overdue = async {
                match overdue {
                    Some(at) => sleep_until(Instant::now() + at.since(self.shared.gate.now())).await,
                    None => std::future::pending().await,
                }
            };
            let again = async {
                if self.asked.is_empty() { std::future::pending().await } else { sleep(PAUSE).await }
            };
            let first = tokio::select! {
                request = inbox.recv() => match request {
                    Some(request) => Some(request),
                    None => return,
                },
                () = confirmed => None,
                () = poll => None,
                () = overdue => None,
                () = again => None,
            };
            let more = std::iter::from_fn(|| inbox.try_recv().ok());
            for request in first.into_iter().chain(more.take(BATCH - 1)) {
                match request {
                    Request::Fence(target, reply) => {
                        self.asked.push(Asked { target, reply, since: Instant::now() });
                    }
                    Request::Release(token) => self.released.push(token),
                }
            }
            self.run_once().await;
        }
    }

    async fn run_once(&mut self) {
        let deadline = Instant::now() + LIMIT;
        let mut failed = self.advance(deadline).await.is_err();
        self.complete();
        failed |= self.remove_released(deadline).await.is_err();
        if failed {
            self.link = None;
            if !self.pending.is_empty() {
                // Do not spin while the database is unreachable.
                sleep(PAUSE).await;
            }
        }
    }

    /// Commits the requested fences and records the replicas' confirmations.
    async fn advance(&mut self, deadline: Instant) -> Result<(), StoreError> {
        let found = if !self.asked.is_empty() {
            self.fence(deadline).await?
        } else if !self.pending.is_empty() {
            wire::registrations(&self.rows(Sql::Registrations, &[], deadline).await?)?
        } else {
            return Ok(());
        };
        self.follow(&found, deadline).await
    }

    /// Completes the requests whose wait is over.
    fn complete(&mut self) {
        for at in (0..self.pending.len()).rev() {
            let pending = &self.pending[at];
            let result = match pending.waiting.is_over() {
                true => Ok(()),
                false if pending.start.elapsed() > PATIENCE => Err(SILENT),
                false => continue,
            };
            let pending = self.pending.swap_remove(at);
            self.shared.counters.waited(pending.start.elapsed());
            self.released.extend(pending.finish(&result));
        }
    }

    /// Removes fences that their changes did not remove. Wakes the other replicas, so that they cache the place again.
    async fn remove_released(&mut self, deadline: Instant) -> Result<(), StoreError> {
        if self.released.is_empty() {
            return Ok(());
        }
        let tokens: Vec<Vec<u8>> = self.released.iter().map(|token| token.to_be_bytes().to_vec()).collect();
        self.connect(deadline).await?;
        let link = self.link.as_ref().ok_or(LATE)?;
        let params: [&(dyn ToSql + Sync); 1] = [&tokens];
        let both =
            async { tokio::join!(biased; link.rows(Sql::RemoveFences, &params), link.rows(Sql::Wake, &[])) };
        let (removed, woken) = timeout_at(deadline, both).await.map_err(|_| LATE)?;
        removed.and(woken).map_err(failure)?;
        self.released.clear();
        Ok(())
    }

    /// Commits a fence for each request. Returns the registrations that were read after that commit. Failed requests
    /// are retried for [`AGAIN`]. A fence without a waiting caller delays caching only and is removed later.
    async fn fence(&mut self, deadline: Instant) -> Result<Vec<Registration<Id>>, StoreError> {
        let asked = std::mem::take(&mut self.asked);
        let mut columns = Columns::default();
        for asked in &asked {
            columns.push(&asked.target);
        }
        let Columns { owners, realms, names, digests } = columns;
        let params: [&(dyn ToSql + Sync); 4] = [&owners, &realms, &names, &digests];
        let made = self.sound(Sql::Fence, &params, deadline).await;
        // Read after the commit was acknowledged. The wait for a lease to expire starts here.
        let (start, fenced_at) = (Instant::now(), self.shared.gate.now());
        let (seq, tokens) = match made.and_then(|rows| wire::fenced(&rows, asked.len())) {
            Ok(made) => made,
            Err(error) => return Err(self.ask_again(asked, error)),
        };
        if let Some(member) = &mut *self.shared.member() {
            let targets = asked.iter().map(|asked| asked.target.clone());
            member.replica.fenced_here(seq, tokens.iter().copied().zip(targets));
        }
        self.shared.counters.fences.fetch_add(tokens.len() as u64, Ordering::Relaxed);
        match self.wake_and_look(deadline).await {
            Ok(found) => {
                let waiting = Waiting::new(seq, fenced_at, found.iter().cloned());
                let replies = tokens.into_iter().zip(asked.into_iter().map(|asked| asked.reply)).collect();
                self.pending.push(PendingFences { waiting, start, replies });
                Ok(found)
            }
            // Without the registrations, the task cannot wait for the replicas, so the change must not be made.
            Err(error) => {
                self.released.extend(tokens);
                Err(self.ask_again(asked, error))
            }
        }
    }

    fn ask_again(&mut self, asked: Vec<Asked>, error: StoreError) -> StoreError {
        for asked in asked {
            if asked.since.elapsed() < AGAIN {
                self.asked.push(asked);
            } else {
                let _ = asked.reply.send(Err(error.clone()));
            }
        }
        error
    }

    /// Wakes the other replicas, then reads the registrations, in one round trip.
    async fn wake_and_look(&mut self, deadline: Instant) -> Result<Vec<Registration<Id>>, StoreError> {
        let link = self.link.as_ref().ok_or(LATE)?;
        let both =
            async { tokio::join!(biased; link.rows(Sql::Wake, &[]), link.rows(Sql::Registrations, &[])) };
        let (woken, found) = timeout_at(deadline, both).await.map_err(|_| LATE)?;
        woken.map_err(failure)?;
        wire::registrations(&found.map_err(failure)?)
    }

    /// Records the confirmations and removes registrations whose leases have expired.
    async fn follow(&mut self, found: &[Registration<Id>], deadline: Instant) -> Result<(), StoreError> {
        let own = self.own();
        for at in 0..self.pending.len() {
            let waiting = &mut self.pending[at].waiting;
            waiting.observed(found);
            waiting.settled(own.as_slice());
            let overdue = waiting.overdue(self.shared.gate.now());
            if overdue.is_empty() {
                continue;
            }
            let seq = waiting.seq();
            let ids: Vec<Vec<u8>> = overdue.iter().map(|id| id.to_be_bytes().to_vec()).collect();
            let removed = self.sound(Sql::Remove, &[&ids, &seq], deadline).await?;
            self.shared.counters.removed.fetch_add(removed.len() as u64, Ordering::Relaxed);
            self.pending[at].waiting.settled(&overdue);
        }
        Ok(())
    }

    /// This server's own registration. It needs no confirmation, because this task fences its caches directly.
    fn own(&self) -> Option<Id> {
        self.shared.member().as_ref().and_then(|member| member.id)
    }

    /// Runs a statement whose commit must be durable.
    async fn sound(
        &mut self,
        sql: Sql,
        params: &[&(dyn ToSql + Sync)],
        deadline: Instant,
    ) -> Result<Vec<Row>, StoreError> {
        self.connect(deadline).await?;
        let warnings = self.link.as_ref().map(Link::warnings);
        let rows = self.rows(sql, params, deadline).await?;
        if self.link.as_ref().map(Link::warnings) == warnings { Ok(rows) } else { Err(LATE) }
    }

    async fn rows(
        &mut self,
        sql: Sql,
        params: &[&(dyn ToSql + Sync)],
        deadline: Instant,
    ) -> Result<Vec<Row>, StoreError> {
        self.connect(deadline).await?;
        let link = self.link.as_ref().ok_or(LATE)?;
        timeout_at(deadline, link.rows(sql, params)).await.map_err(|_| LATE)?.map_err(failure)
    }

    async fn connect(&mut self, deadline: Instant) -> Result<(), StoreError> {
        if self.link.as_ref().is_none_or(Link::is_closed) {
            let link = self.dialer.link(Purpose::Lease, deadline).await?;
            let listening = link.client.batch_execute("LISTEN agentrouter_secrets_confirm");
            timeout_at(deadline, listening).await.map_err(|_| LATE)?.map_err(failure)?;
            self.link = Some(link);
        }
        Ok(())
    }
}
