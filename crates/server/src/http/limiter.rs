//! The concurrency limiters of API requests, one for each class of requests that take about as long.
//!
//! A request takes a permit before its key or its body is read, and returns it when its response is complete. While it
//! waits for its client's body, it gives the permit back, so that slow clients hold none. How permits are counted,
//! queued and shed: crate `agentrouter-scheduling`. Called by `App`.
//!
//! `limit.requests` bounds all API requests, those that wait for their bodies included. Connections are bounded in
//! `listener`, bytes in `body`.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use agentrouter_model::{Reason, Refusal, Rpc};
use agentrouter_scheduling::{Bounds, Limiter, Permit, ShedRate};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Reads, as a rule from memory. They wait for the processor and for the audit log.
const READS: Bounds = Bounds { least: 64, initial: 128, most: 1024, wait: Duration::from_millis(5) };
/// Reads that always go to the store. A few keep every connection to a database busy.
const QUERIES: Bounds = Bounds { least: 16, initial: 32, most: 1024, wait: Duration::from_millis(10) };
/// Changes. The store commits all that wait together, so a few would be slow where a commit takes long.
const CHANGES: Bounds = Bounds { least: 32, initial: 64, most: 256, wait: Duration::from_millis(10) };

/// Why a request is shed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shed {
    /// Its connection is over `limit.connections` or the share of its address.
    Connections,
    /// There are as many as `limit.requests`.
    Requests,
    /// It waited too long for a permit.
    Delay,
    /// Its body arrived late, and all permits are taken.
    Permit,
    /// The queue is full.
    QueueFull,
}

impl Shed {
    pub(crate) const ALL: [Self; 5] =
        [Self::Connections, Self::Requests, Self::Delay, Self::Permit, Self::QueueFull];

    /// As in metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Requests => "requests",
            Self::Delay => "delay",
            Self::Permit => "permit",
            Self::QueueFull => "queue_full",
        }
    }

    /// The reason in the response.
    pub(crate) fn refusal(self) -> Refusal {
        Refusal::new(Reason::Overloaded).retry_after(Duration::from_secs(1))
    }
}

impl From<agentrouter_scheduling::Shed> for Shed {
    fn from(shed: agentrouter_scheduling::Shed) -> Self {
        match shed {
            agentrouter_scheduling::Shed::Delay => Self::Delay,
            agentrouter_scheduling::Shed::QueueFull => Self::QueueFull,
            agentrouter_scheduling::Shed::NoPermit => Self::Permit,
        }
    }
}

/// The limiters of a server.
pub(crate) struct Limiters {
    requests: Arc<Semaphore>,
    reads: Arc<Limiter>,
    queries: Arc<Limiter>,
    changes: Arc<Limiter>,
}

/// A request that may be served. Dropped, it is complete.
pub(crate) struct Admitted {
    limiter: Arc<Limiter>,
    permit: Option<Permit>,
    _request: OwnedSemaphorePermit,
}

impl Limiters {
    /// `requests` is `limit.requests`.
    pub(crate) fn new(requests: usize) -> Self {
        let rate = Arc::<ShedRate>::default();
        let limiter = |bounds| Limiter::new(bounds, Arc::clone(&rate));
        Self {
            requests: Arc::new(Semaphore::new(requests)),
            reads: limiter(READS),
            queries: limiter(QUERIES),
            changes: limiter(CHANGES),
        }
    }

    /// Takes a permit for a request whose head arrived at `since`. Without load it does not wait.
    ///
    /// # Errors
    /// Why the request is shed.
    pub(crate) async fn acquire(&self, rpc: Rpc, since: Instant) -> Result<Admitted, Shed> {
        let limiter = match rpc {
            Rpc::GetSecret | Rpc::GetSecretValue => &self.reads,
            Rpc::ListSecrets | Rpc::ValidateSecret => &self.queries,
            Rpc::CreateSecret | Rpc::RotateSecret | Rpc::DeleteSecret => &self.changes,
        };
        let permit = limiter.acquire(since).await?;
        let Ok(request) = Arc::clone(&self.requests).try_acquire_owned() else {
            permit.give_back();
            return Err(Shed::Requests);
        };
        Ok(Admitted { limiter: Arc::clone(limiter), permit: Some(permit), _request: request })
    }

    /// How many requests wait for a permit.
    pub(crate) fn waiting(&self) -> usize {
        self.reads.waiting() + self.queries.waiting() + self.changes.waiting()
    }
}

impl Admitted {
    /// Returns the permit of a request that runs no operation: the rate of the limiter does not count it.
    pub(crate) fn give_back(&mut self) {
        if let Some(permit) = self.permit.take() {
            permit.give_back();
        }
    }

    /// Awaits data of the client. Returns the permit meanwhile if the data is not there yet.
    ///
    /// # Errors
    /// When no permit is free afterwards.
    pub(crate) async fn await_client<F: Future>(&mut self, sent: F) -> Result<F::Output, Shed> {
        let mut sent = pin!(sent);
        if let Poll::Ready(sent) = std::future::poll_fn(|cx| Poll::Ready(sent.as_mut().poll(cx))).await {
            return Ok(sent);
        }
        self.give_back();
        let sent = sent.await;
        self.permit = Some(self.limiter.reacquire()?);
        Ok(sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn admitted(limiters: &Limiters, rpc: Rpc) -> Admitted {
        limiters.acquire(rpc, Instant::now()).await.expect("a permit is free")
    }

    #[tokio::test]
    async fn each_class_has_permits_of_its_own() {
        let limiters = Limiters::new(10_000);
        let mut held = Vec::new();
        for _ in 0..CHANGES.initial {
            held.push(admitted(&limiters, Rpc::CreateSecret).await);
        }
        let mut waits = pin!(limiters.acquire(Rpc::RotateSecret, Instant::now()));
        let now = std::future::poll_fn(|cx| Poll::Ready(waits.as_mut().poll(cx))).await;
        assert!(now.is_pending() && limiters.waiting() == 1);
        for rpc in [Rpc::GetSecretValue, Rpc::ListSecrets] {
            admitted(&limiters, rpc).await;
        }
        held.pop();
        assert!(waits.await.is_ok());
    }

    #[tokio::test]
    async fn a_request_holds_no_permit_while_its_client_is_slow() {
        let limiters = Limiters::new(10_000);
        let mut slow = Vec::new();
        for _ in 0..CHANGES.most {
            let mut request = admitted(&limiters, Rpc::CreateSecret).await;
            let (send, body) = tokio::sync::oneshot::channel::<()>();
            let mut waits = Box::pin(async move { request.await_client(body).await.map(|_| request) });
            let now = std::future::poll_fn(|cx| Poll::Ready(waits.as_mut().poll(cx))).await;
            assert!(now.is_pending());
            slow.push((send, waits));
        }
        let served = admitted(&limiters, Rpc::CreateSecret).await;
        // Then all bodies arrive at once: there is one permit less than needed.
        let mut results = Vec::new();
        for (send, waits) in slow {
            send.send(()).expect("it waits");
            results.push(waits.await);
        }
        let shed = results.iter().filter_map(|result| result.as_ref().err()).collect::<Vec<_>>();
        assert_eq!(shed, [&Shed::Permit]);
        drop(served);
    }

    #[tokio::test]
    async fn more_requests_than_the_setting_permits_are_shed() {
        let limiters = Limiters::new(1);
        let _first = admitted(&limiters, Rpc::GetSecret).await;
        let second = limiters.acquire(Rpc::GetSecret, Instant::now()).await;
        assert_eq!(second.err(), Some(Shed::Requests));
    }
}
