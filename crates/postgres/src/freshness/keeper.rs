//! Lease renewal: the task that registers this server, renews its lease and confirms fences.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tokio_postgres::{Error, Row};

use super::{Id, Member, Shared, wire};
use crate::failure::{LATE, failure};
use crate::link::{Dialer, Link, Purpose};
use crate::schema::schema;
use crate::sql::Sql;
use agentrouter_lease::{LEASE, Next, RENEW_EVERY, Seq, Token};
use agentrouter_store::StoreError;

/// Longest wait for a result. After this time the connection is dropped, because the renewed lease would have expired.
const LIMIT: Duration = Duration::from_millis(900);
/// Longest time to connect.
const CONNECT: Duration = Duration::from_secs(3);
/// Longest time to remove the registration at shutdown, for example while the database restarts.
const LEAVE: Duration = Duration::from_secs(3);
/// Longest time to find the primary among several hosts.
const AROUND: Duration = Duration::from_millis(500);
/// The pause before the next attempt to connect.
const PAUSE: Duration = Duration::from_millis(100);
/// The interval of the check for another server with this one's id.
const NAMESAKES: Duration = Duration::from_secs(10);
/// The pause before the next renewal if the last one did not record the newest fence that it saw.
const SOON: Duration = Duration::from_millis(20);
/// The age at which a fence is treated as abandoned by its writer and removed. If the writer is still at work, the
/// removal only makes it fence again.
const LEFT_BEHIND: Duration = Duration::from_secs(30);

const DETACHED: StoreError = StoreError::unavailable("nothing is kept in memory");

/// The handle of the task.
pub(super) struct Keeper {
    task: JoinHandle<()>,
    stop: oneshot::Sender<()>,
}

impl Keeper {
    pub(super) fn start(dialer: Arc<Dialer>, shared: Arc<Shared>, name: String) -> Self {
        let (stop, stopped) = oneshot::channel();
        let standing = HashMap::new();
        let task = KeeperTask { dialer, shared, name, link: None, earlier: None, standing, namesakes: None };
        Self { task: tokio::spawn(task.run(stopped)), stop }
    }

    /// Closes the gate and removes the registration.
    pub(super) async fn close(self) {
        let _ = self.stop.send(());
        let _ = self.task.await;
    }
}

struct KeeperTask {
    dialer: Arc<Dialer>,
    shared: Arc<Shared>,
    name: String,
    link: Option<Link>,
    /// A former registration of this server that may still be in the database.
    earlier: Option<Id>,
    /// The standing fences, with the instant at which each was first seen.
    standing: HashMap<Token, Instant>,
    /// The registrations under this server's id, and when they were read.
    namesakes: Option<(Instant, HashMap<Id, i64>)>,
}

impl KeeperTask {
    async fn run(mut self, mut stopped: oneshot::Receiver<()>) {
        loop {
            tokio::select! {
                _ = &mut stopped => break,
                // Metrics show that the lease is not renewed. The errors of failing requests show why.
                Err(_) = self.keep() => {}
            }
            self.link = None;
            tokio::select! {
                _ = &mut stopped => break,
                () = sleep(PAUSE) => {}
            }
        }
        self.leave().await;
    }

    /// Keeps the lease until something fails.
    async fn keep(&mut self) -> Result<Infallible, StoreError> {
        // An old primary accepts connections, but its leases are not valid.
        self.dialer.look_around(AROUND).await;
        let link = self.dialer.link(Purpose::Lease, Instant::now() + CONNECT).await?;
        within(link.client.batch_execute("LISTEN agentrouter_secrets_fence")).await?;
        let woken = Arc::clone(&link.woken);
        self.link = Some(link);
        let (mut renew_at, mut confirmed) = (Instant::now(), 0);
        loop {
            if self.id().is_none() {
                self.register().await?;
                (renew_at, confirmed) = (Instant::now(), 0);
            }
            let renew = Instant::now() >= renew_at;
            if renew {
                renew_at = Instant::now() + RENEW_EVERY;
            }
            let recorded = self.seen();
            if let Next::Confirm(seq) = self.look(renew).await? {
                if seq > confirmed {
                    self.confirm(seq).await?;
                    confirmed = seq;
                }
                if renew && recorded != seq {
                    renew_at = Instant::now() + SOON;
                }
                self.clean().await?;
                self.look_for_namesakes().await?;
                tokio::select! {
                    () = woken.notified() => {}
                    () = sleep_until(renew_at) => {}
                }
            }
        }
    }

    async fn register(&mut self) -> Result<(), StoreError> {
        let earlier = self.earlier.map(|id| id.to_be_bytes().to_vec());
        let lease = i32::try_from(LEASE.as_millis()).unwrap_or(i32::MAX);
        let (rows, sound) = self.rows(Sql::Register, &[&earlier, &self.name, &lease, &schema()]).await?;
        let row = rows.first().filter(|_| sound).ok_or(LATE)?;
        let id = wire::name(row.try_get(0).map_err(failure)?)?;
        self.earlier = None;
        if let Some(member) = &mut *self.shared.member() {
            member.replica.registered();
            member.id = Some(id);
        }
        self.shared.counters.registrations.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Reads the fences, or renews the lease, and applies the fences to the caches.
    async fn look(&mut self, renew: bool) -> Result<Next, StoreError> {
        let id = self.id().ok_or(DETACHED)?;
        let (bytes, seen) = (id.to_be_bytes().to_vec(), self.seen());
        // Read before the statement is sent. The lease counts from this instant.
        let asked_at = self.shared.gate.now();
        let (rows, recorded) = if renew {
            let (rows, sound) = self.rows(Sql::Renew, &[&bytes, &seen]).await?;
            (rows, sound.then_some(seen))
        } else {
            (self.rows(Sql::Look, &[&bytes]).await?.0, None)
        };
        let view = wire::view(&rows, asked_at, recorded)?;
        let now = Instant::now();
        let standing = view.fences.iter().map(|(token, ..)| *token);
        self.standing =
            standing.map(|token| (token, self.standing.get(&token).copied().unwrap_or(now))).collect();
        let counters = &self.shared.counters;
        counters.standing.store(view.fences.len() as u64, Ordering::Relaxed);
        counters.renewals.fetch_add(u64::from(recorded.is_some()), Ordering::Relaxed);
        let mut member = self.shared.member();
        let member = member.as_mut().ok_or(DETACHED)?;
        let next = member.replica.synced(view);
        if next == Next::Register {
            self.earlier = member.id.take();
        }
        Ok(next)
    }

    async fn confirm(&self, seq: Seq) -> Result<(), StoreError> {
        let id = self.id().ok_or(DETACHED)?.to_be_bytes().to_vec();
        self.rows(Sql::Confirm, &[&id, &seq]).await.map(|_| ())
    }

    /// Removes abandoned fences.
    async fn clean(&mut self) -> Result<(), StoreError> {
        let left: Vec<Vec<u8>> = self
            .standing
            .iter()
            .filter(|(_, since)| since.elapsed() > LEFT_BEHIND)
            .map(|(token, _)| token.to_be_bytes().to_vec())
            .collect();
        if left.is_empty() { Ok(()) } else { self.rows(Sql::RemoveFences, &[&left]).await.map(|_| ()) }
    }

    /// Logs an error if another server uses this one's id. Each has a registration of its own, so neither serves stale
    /// rows. But each overwrites the audit head that the other has stored.
    async fn look_for_namesakes(&mut self) -> Result<(), StoreError> {
        if self.namesakes.as_ref().is_some_and(|(when, _)| when.elapsed() < NAMESAKES) {
            return Ok(());
        }
        let found = wire::renewals(&self.rows(Sql::Namesakes, &[&self.name]).await?.0)?;
        let own = self.id();
        let lives = |before: &HashMap<Id, i64>| {
            let others = found.iter().filter(|(id, _)| Some(**id) != own);
            others.into_iter().any(|(id, renewals)| before.get(id).is_some_and(|before| renewals > before))
        };
        if self.namesakes.as_ref().is_some_and(|(_, before)| lives(before)) {
            tracing::error!(
                "another running server has this server's id: its data directory is a copy; stop one of them, remove 'replica' and 'audit' from its directory, and start it again"
            );
        }
        self.namesakes = Some((Instant::now(), found));
        Ok(())
    }

    /// Drops all cached rows and removes the registration, if the database responds in time.
    async fn leave(&mut self) {
        let id = {
            let mut member = self.shared.member();
            member.as_mut().and_then(|member| {
                member.replica.removed();
                member.id.take()
            })
        };
        let mut left: Vec<Id> = [id, self.earlier].into_iter().flatten().collect();
        let deadline = Instant::now() + LEAVE;
        while let Some(id) = left.last() {
            if self.link.as_ref().is_none_or(Link::is_closed) {
                self.link = self.dialer.link(Purpose::Lease, deadline).await.ok();
            }
            let removed =
                timeout_at(deadline, self.rows(Sql::Unregister, &[&id.to_be_bytes().to_vec()])).await;
            match removed {
                Ok(Ok(_)) => drop(left.pop()),
                Ok(Err(_)) if Instant::now() + PAUSE < deadline => {
                    self.link = None;
                    sleep(PAUSE).await;
                }
                _ => return,
            }
        }
    }

    fn id(&self) -> Option<Id> {
        self.shared.member().as_ref().and_then(|member| member.id)
    }

    fn seen(&self) -> Seq {
        self.shared.member().as_ref().map_or(0, |Member { replica, .. }| replica.seen())
    }

    /// Runs a statement. Also returns whether its commit is durable, or stopped waiting for the standby.
    async fn rows(
        &self,
        sql: Sql,
        params: &[&(dyn tokio_postgres::types::ToSql + Sync)],
    ) -> Result<(Vec<Row>, bool), StoreError> {
        let link = self.link.as_ref().ok_or(LATE)?;
        let warnings = link.warnings();
        let rows = within(link.rows(sql, params)).await?;
        Ok((rows, link.warnings() == warnings))
    }
}

/// The result, if it comes in time.
async fn within<T>(result: impl Future<Output = Result<T, Error>>) -> Result<T, StoreError> {
    timeout(LIMIT, result).await.map_err(|_| LATE)?.map_err(failure)
}
