//! One connection: set up, prepared, and watched for notices.
//!
//! Every link but a bare one sets the engine's schema as its search path, limits the wait for locks, fixes the plans so
//! that they do not depend on the data, and requires commits to be on the database's disk. Links for reads also limit
//! the time of a statement. Then the link prepares every statement of `sql` in one round trip, so that each operation
//! takes one round trip.

use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_postgres::tls::NoTls;
use tokio_postgres::types::ToSql;
use tokio_postgres::{AsyncMessage, Client, Connection, Error, Row, Socket, Statement};

use super::connect_options::{ConnectOptions, HOST};
use super::failure::{LATE, connecting, failure};
use super::schema;
use super::sql::{self, Sql};
use super::timeline::{Timeline, Timelines};
use agentrouter_store::StoreError;

/// A connection, set up and prepared, closed when dropped.
pub(super) struct Link {
    pub(super) client: Client,
    statements: Vec<Statement>,
    /// How many warnings the server has sent.
    warnings: Arc<AtomicU64>,
    made: Instant,
    /// When plans are next discarded, in milliseconds since it was made.
    replan: AtomicU64,
    /// Notified of every NOTIFY on the channels that it listens to.
    pub(super) woken: Arc<Notify>,
    /// The turn of `timelines` at which it was made.
    turn: u64,
    timelines: Arc<Timelines>,
    _task: ConnectionTask,
}

/// The task that moves a connection's bytes. It is aborted when its owner is dropped, since a hung task does not end.
pub(super) struct ConnectionTask(JoinHandle<()>);

impl Drop for ConnectionTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Link {
    pub(super) fn statement(&self, sql: Sql) -> &Statement {
        &self.statements[sql as usize]
    }

    /// Runs a prepared statement.
    pub(super) async fn rows(&self, sql: Sql, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Error> {
        let rows = self.client.query(self.statement(sql), params);
        if !self.is_time_to_replan() {
            return rows.await;
        }
        // Sent together with the statement. Within a failed transaction it fails too, which has no effect.
        let (_, rows) = tokio::join!(biased; self.client.batch_execute("DISCARD PLANS"), rows);
        rows
    }

    /// Whether the plans are due to be discarded; true for one caller at a time. Plans made for empty tables are bad
    /// for full tables, and PostgreSQL replaces them only after it has counted the rows.
    fn is_time_to_replan(&self) -> bool {
        let now = u64::try_from(self.made.elapsed().as_millis()).unwrap_or(u64::MAX);
        let due = self.replan.load(Ordering::Relaxed);
        let next = now.saturating_add(REPLAN);
        now >= due && self.replan.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Whether it can no longer be used: the connection has ended, or leads to a server that another has replaced.
    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed() || self.turn != self.timelines.turn()
    }

    pub(super) fn warnings(&self) -> u64 {
        self.warnings.load(Ordering::Acquire)
    }
}

/// How often plans are discarded, in milliseconds.
const REPLAN: u64 = 10_000;

/// Raises `synchronous_commit` where the database has it lower. Every session that commits needs this.
macro_rules! durable {
    () => {
        "SELECT set_config('synchronous_commit', 'on', false) \
         WHERE current_setting('synchronous_commit') NOT IN ('on', 'remote_apply')"
    };
}
pub(super) use durable;

/// The settings of every session that runs the statements of `sql`.
///
/// They keep the planner from sequential scans, from sorting what is in order in part, and from plans that depend on the data.
/// Every statement has an index.
pub(super) const SESSION: &str = concat!(
    "SET search_path = agentrouter_secrets, pg_temp; SET default_transaction_isolation = 'read committed'; \
     SET lock_timeout = '3s'; SET idle_in_transaction_session_timeout = '5s'; \
     SET plan_cache_mode = force_generic_plan; SET jit = off; SET enable_seqscan = off; \
     SET enable_bitmapscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_material = off; \
     SET enable_sort = off; SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 3; SET tcp_keepalives_count = 3; ",
    durable!()
);
/// The settings of sessions that read. A session that commits must have no such limit: when the limit ends a commit's
/// wait for its standby, the server reports success.
const READING: &str = "SET statement_timeout = '4s'";

/// What a link is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Read,
    Write,
    /// To keep a lease, or to fence.
    Lease,
    Bare,
}

/// Makes links.
pub(super) struct Dialer {
    options: ConnectOptions,
    /// The host of the last connection.
    last: AtomicUsize,
    timelines: Arc<Timelines>,
    /// The last failure, while it is recent: further callers get it without another attempt.
    failed: Mutex<Option<(Instant, StoreError)>>,
}

/// How long a failure to connect holds for all callers.
const FAILED: Duration = Duration::from_millis(200);

impl Dialer {
    pub(super) fn new(options: ConnectOptions) -> Self {
        let (last, timelines) = (AtomicUsize::new(0), Arc::default());
        Self { options, last, timelines, failed: Mutex::new(None) }
    }

    pub(super) fn options(&self) -> &ConnectOptions {
        &self.options
    }

    /// A link for reads or writes, before `deadline`.
    pub(super) async fn link(&self, purpose: Purpose, deadline: Instant) -> Result<Link, StoreError> {
        if let Some((when, error)) = &*self.failed()
            && when.elapsed() < FAILED
        {
            return Err(error.clone());
        }
        let made = self.dial(purpose, deadline).await;
        if let Err(error) = &made {
            *self.failed() = Some((Instant::now(), error.clone()));
        }
        made
    }

    /// A link on which nothing is set up, for migrations and for `doctor`.
    pub(super) async fn bare(&self, deadline: Instant) -> Result<Link, StoreError> {
        self.dial(Purpose::Bare, deadline).await
    }

    /// Checks, for at most `limit`, whether another host has replaced the one of the last connection. The old host may
    /// still accept connections.
    pub(super) async fn look_around(&self, limit: Duration) {
        let hosts = self.options.hosts.len();
        if hosts < 2 {
            return;
        }
        let look = |host| async move {
            let before = self.timelines.turn();
            if let Ok(link) = self.set_up(host, Purpose::Bare).await
                && link.turn != before
            {
                self.last.store(host, Ordering::Relaxed);
            }
        };
        // A host that is down may take the whole limit.
        let _ = timeout(limit, join_all((0..hosts).map(look))).await;
    }

    /// Tries one host after the other, beginning with the one of the last connection.
    async fn dial(&self, purpose: Purpose, deadline: Instant) -> Result<Link, StoreError> {
        let hosts = self.options.hosts.len();
        let first = self.last.load(Ordering::Relaxed);
        let mut failed = LATE;
        for i in 0..hosts {
            let host = (first + i) % hosts;
            let limit = deadline.min(Instant::now() + HOST);
            match timeout_at(limit, self.set_up(host, purpose)).await {
                Ok(Ok(made)) => {
                    self.last.store(host, Ordering::Relaxed);
                    return Ok(made);
                }
                Ok(Err(error)) => failed = error,
                Err(_) => {}
            }
        }
        Err(failed)
    }

    async fn set_up(&self, host: usize, purpose: Purpose) -> Result<Link, StoreError> {
        let mut link = self.connect(host).await?;
        link.turn = self.timelines.admit(Timeline::of(&link.client).await?)?;
        if purpose == Purpose::Bare {
            return Ok(link);
        }
        link.client.batch_execute(SESSION).await.map_err(failure)?;
        if purpose == Purpose::Read {
            link.client.batch_execute(READING).await.map_err(failure)?;
        }
        // Another replica may have brought the database to a newer schema since this one started.
        schema::check(&link.client).await?;
        let mut prepared = Vec::with_capacity(sql::ALL.len());
        for sql in sql::ALL {
            prepared.push(link.client.prepare(sql));
        }
        link.statements = try_join_all(prepared).await.map_err(failure)?;
        Ok(link)
    }

    async fn connect(&self, host: usize) -> Result<Link, StoreError> {
        // Both are read from their files again: they may have been rotated since the last connection.
        let config = self.options.config(host).await?;
        let connector = self.options.connector(host).await?;
        let warnings = Arc::new(AtomicU64::new(0));
        let woken = Arc::new(Notify::new());
        let (counter, bell) = (Arc::clone(&warnings), Arc::clone(&woken));
        let (client, task) = match connector {
            Some(tls) => {
                let connected = config.connect(tls).await;
                let (client, connection) = connected.map_err(|error| connecting(error, true))?;
                (client, tokio::spawn(drive(connection, counter, bell)))
            }
            None => {
                let connected = config.connect(NoTls).await;
                let (client, connection) = connected.map_err(|error| connecting(error, false))?;
                (client, tokio::spawn(drive(connection, counter, bell)))
            }
        };
        let (made, replan) = (Instant::now(), AtomicU64::new(REPLAN));
        let (turn, timelines) = (0, Arc::clone(&self.timelines));
        let statements = Vec::new();
        Ok(Link {
            client,
            statements,
            warnings,
            made,
            replan,
            woken,
            turn,
            timelines,
            _task: ConnectionTask(task),
        })
    }

    fn failed(&self) -> std::sync::MutexGuard<'_, Option<(Instant, StoreError)>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Moves a connection's bytes until it ends. Counts the warnings that the server sends, and passes on its
/// notifications.
async fn drive<T>(mut connection: Connection<Socket, T>, warnings: Arc<AtomicU64>, woken: Arc<Notify>)
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    // The caller of a statement gets the error as well.
    while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
        match message {
            AsyncMessage::Notice(notice)
                if notice.parsed_severity() == Some(tokio_postgres::error::Severity::Warning) =>
            {
                warnings.fetch_add(1, Ordering::Release);
            }
            AsyncMessage::Notification(_) => woken.notify_one(),
            _ => {}
        }
    }
    // Wake a waiter, which then finds the connection closed.
    woken.notify_one();
}
