//! Concurrency limiter with a CoDel queue.
//!
//! A request takes a permit when its head has arrived and returns it when its response is complete. There are as many
//! permits as requests complete in about ten milliseconds (`capacity`). A request without a permit waits in the queue
//! (`queue`). A permit that is returned goes to the next waiter at once; the task that returns it wakes the waiter. When the
//! queue is standing, each returned permit also rejects the oldest waiters that are due. A timer task, the *dispatcher*,
//! rejects them while no permit returns. It runs only while requests wait.
//!
//! # Invariants
//!
//! * No more than [`Bounds::most`] permits are taken; [`Limiter::acquire`] takes none above the current number.
//! * A request does not overtake waiters: while one waits, all others wait.
//! * No wake-up is lost. A waiter publishes itself in `waiting` and then looks for a free permit; a permit is returned
//!   to `taken`, and then its holder looks at `waiting`. Both accesses of both are sequentially consistent, so at least
//!   one of the two sees the other.
//! * The lock is held for the work of a few pointers, never across an await, and no permit is dropped under it.
//!
//! Deliberately absent: a bound of bytes, connections or requests whose bodies have not arrived.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use crate::capacity::{Alone, Capacity};
use crate::queue::WaitQueue;
use crate::{Bounds, Shed, ShedRate};

/// The most waiters of one limiter.
const MAX_WAITING: usize = 16 * 1024;

/// The limiter of one class of requests. See the module's documentation.
pub struct Limiter {
    capacity: Capacity,
    /// The length of the queue.
    waiting: AtomicUsize,
    state: Mutex<State>,
    shed_rate: Arc<ShedRate>,
}

#[derive(Default)]
struct State {
    queue: WaitQueue<Permit>,
    /// The dispatcher's task runs.
    dispatcher: bool,
}

/// The right to be in service. Dropped, it goes to the next waiter.
pub struct Permit {
    limiter: Arc<Limiter>,
    alone: Alone,
    completes: bool,
}

impl Limiter {
    /// A limiter with no requests in service.
    pub fn new(bounds: Bounds, shed_rate: Arc<ShedRate>) -> Arc<Self> {
        Arc::new(Self {
            capacity: Capacity::new(bounds, Instant::now()),
            waiting: AtomicUsize::new(0),
            state: Mutex::default(),
            shed_rate,
        })
    }

    /// Takes a permit for a request that arrived at `since`, and waits for one if none is free. A caller that drops the
    /// future has left the queue.
    ///
    /// # Errors
    /// [`Shed::Delay`], [`Shed::QueueFull`].
    pub async fn acquire(self: &Arc<Self>, since: Instant) -> Result<Permit, Shed> {
        if self.waiting() == 0
            && let Some(permit) = self.try_acquire()
        {
            return Ok(permit);
        }
        let granted = {
            let mut state = self.lock();
            if state.queue.len() >= MAX_WAITING {
                return Err(Shed::QueueFull);
            }
            let granted = state.queue.push(since);
            self.publish(&state);
            let unused = self.dispatch(&mut state);
            if state.queue.len() > 0 && !std::mem::replace(&mut state.dispatcher, true) {
                tokio::spawn(Arc::clone(self).run_dispatcher());
            }
            drop(state);
            drop(unused);
            granted
        };
        // No waiter is dropped without a grant, unless the runtime ends.
        granted.await.unwrap_or(Err(Shed::Delay))
    }

    /// Takes a permit for a request that has had one and gave it back while it waited for its client. Such requests do not
    /// wait again, and may exceed the current number of permits.
    ///
    /// # Errors
    /// [`Shed::NoPermit`] when [`Bounds::most`] are taken.
    pub fn reacquire(self: &Arc<Self>) -> Result<Permit, Shed> {
        self.capacity.take_above().map(|alone| self.permit(alone)).ok_or(Shed::NoPermit)
    }

    /// How many requests wait.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    fn try_acquire(self: &Arc<Self>) -> Option<Permit> {
        self.capacity.take().map(|alone| self.permit(alone))
    }

    fn permit(self: &Arc<Self>, alone: Alone) -> Permit {
        Permit { limiter: Arc::clone(self), alone, completes: true }
    }

    /// Rejects the waiters that are due, and gives the free permits to others. Returns a permit that no waiter took:
    /// the caller drops it after it has released the lock.
    ///
    /// A busy runtime may not look at its timers for long, so shedding does not wait for the dispatcher.
    fn dispatch(self: &Arc<Self>, state: &mut State) -> Option<Permit> {
        let now = Instant::now();
        state.queue.shed(now, &self.shed_rate);
        let mut unused = None;
        while state.queue.is_ready(now)
            && let Some(permit) = unused.take().or_else(|| self.try_acquire())
        {
            unused = match state.queue.pop(now) {
                Some(waiter) => waiter.grant(permit),
                None => Some(permit),
            };
        }
        self.publish(state);
        unused
    }

    /// Gives the free permits to waiters, if there are any.
    fn dispatch_waiting(self: &Arc<Self>) {
        if self.waiting() > 0 {
            let unused = self.dispatch(&mut self.lock());
            drop(unused);
        }
    }

    /// Rejects waiters that are due, until the queue is empty.
    async fn run_dispatcher(self: Arc<Self>) {
        while let Some(next) = self.shed(Instant::now()) {
            tokio::time::sleep_until(next).await;
        }
    }

    /// Rejects the waiters that are due. Returns when the next one is; none ends the dispatcher.
    fn shed(&self, now: Instant) -> Option<Instant> {
        let mut state = self.lock();
        let next = state.queue.shed(now, &self.shed_rate);
        state.dispatcher = next.is_some();
        self.publish(&state);
        next
    }

    fn publish(&self, state: &State) {
        self.waiting.store(state.queue.len(), Ordering::SeqCst);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is consistent after every statement, so a panic elsewhere spoils nothing.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit {
    /// Returns the permit of a request that is not complete: the rate does not count it.
    pub fn give_back(mut self) {
        self.completes = false;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.completes {
            self.limiter.capacity.complete(self.alone.take());
        }
        self.limiter.capacity.release();
        self.limiter.dispatch_waiting();
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};
    use std::time::Duration;

    use tokio::runtime::{Builder, Runtime};

    use super::*;
    use crate::queue;

    const BOUNDS: Bounds = Bounds { least: 4, initial: 8, most: 16, wait: Duration::from_millis(10) };

    fn limiter() -> Arc<Limiter> {
        Limiter::new(BOUNDS, Arc::default())
    }

    /// The result of a future's first poll.
    fn poll_once<F: Future>(future: F) -> Option<F::Output> {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }

    fn acquire_all(limiter: &Arc<Limiter>) -> Vec<Permit> {
        (0..BOUNDS.initial)
            .map(|_| {
                let permit = poll_once(limiter.acquire(Instant::now()));
                permit.expect("a permit is free").expect("no request waits")
            })
            .collect()
    }

    /// The server runs on either.
    fn runtimes() -> [Runtime; 2] {
        let build = |mut builder: Builder| builder.enable_all().build().expect("a runtime");
        let mut threads = Builder::new_multi_thread();
        threads.worker_threads(4);
        [build(Builder::new_current_thread()), build(threads)]
    }

    async fn within_a_minute<F: Future>(future: F) -> F::Output {
        tokio::time::timeout(Duration::from_secs(60), future).await.expect("it completes within a minute")
    }

    #[test]
    fn on_every_runtime_each_request_is_served_or_shed_and_the_limit_holds() {
        const REQUESTS: usize = 4_000;
        for runtime in runtimes() {
            let (limiter, in_service) = (limiter(), Arc::new(AtomicUsize::new(0)));
            runtime.block_on(async {
                let mut requests = tokio::task::JoinSet::new();
                for number in 0..REQUESTS {
                    let (limiter, in_service) = (Arc::clone(&limiter), Arc::clone(&in_service));
                    requests.spawn(async move {
                        let permit = limiter.acquire(Instant::now()).await?;
                        assert!(in_service.fetch_add(1, Ordering::SeqCst) < BOUNDS.most);
                        for _ in 0..number % 4 {
                            tokio::task::yield_now().await;
                        }
                        in_service.fetch_sub(1, Ordering::SeqCst);
                        drop(permit);
                        Ok::<_, Shed>(())
                    });
                    if number % 97 == 0 {
                        tokio::task::yield_now().await;
                    }
                }
                let results = within_a_minute(requests.join_all()).await;
                let served = results.iter().filter(|result| result.is_ok()).count();
                assert!(served > 0);
                assert!(results.iter().all(|result| matches!(result, Ok(()) | Err(Shed::Delay))));
                assert!(poll_once(limiter.acquire(Instant::now())).is_some(), "every permit was returned");
                assert_eq!(limiter.waiting(), 0);
            });
        }
    }

    #[test]
    fn on_every_runtime_a_returned_permit_wakes_the_waiter() {
        for runtime in runtimes() {
            runtime.block_on(async {
                let limiter = limiter();
                for _ in 0..500 {
                    let mut held = acquire_all(&limiter);
                    let waiter = tokio::spawn({
                        let limiter = Arc::clone(&limiter);
                        async move { limiter.acquire(Instant::now()).await.map(drop) }
                    });
                    // On several threads, the waiter may come before or after this.
                    drop(held.pop());
                    within_a_minute(waiter).await.expect("no panic").expect("it is served");
                }
            });
        }
    }

    #[test]
    fn on_every_runtime_the_dispatcher_sheds_a_standing_queue_and_ends() {
        for runtime in runtimes() {
            runtime.block_on(async {
                let limiter = limiter();
                let held = acquire_all(&limiter);
                let start = Instant::now();
                let shed = within_a_minute(limiter.acquire(start)).await.err();
                assert_eq!(shed, Some(Shed::Delay));
                assert!(start.elapsed() >= queue::INTERVAL, "{:?}", start.elapsed());
                within_a_minute(async {
                    while limiter.lock().dispatcher {
                        tokio::task::yield_now().await;
                    }
                })
                .await;
                drop(held);
                assert!(poll_once(limiter.acquire(Instant::now())).is_some(), "permits are free");
            });
        }
    }

    #[tokio::test]
    async fn a_returned_permit_sheds_without_the_dispatcher() {
        let limiter = limiter();
        let late = Instant::now().checked_sub(queue::INTERVAL * 2).expect("an uptime above that");
        let mut held = acquire_all(&limiter);
        let mut old = limiter.lock().queue.push(late);
        let newest = limiter.lock().queue.push(Instant::now());
        limiter.publish(&limiter.lock());
        drop(held.pop());
        assert_eq!(old.try_recv().expect("a grant").err(), Some(Shed::Delay));
        assert!(newest.await.expect("a grant").is_ok());
    }

    #[tokio::test]
    async fn a_request_that_waits_is_not_overtaken() {
        let limiter = limiter();
        let mut held = acquire_all(&limiter);
        let mut first = Box::pin(limiter.acquire(Instant::now()));
        assert!(poll_once(&mut first).is_none());
        let mut second = Box::pin(limiter.acquire(Instant::now()));
        assert!(poll_once(&mut second).is_none());
        drop(held.pop());
        assert!(poll_once(&mut second).is_none());
        assert!(poll_once(&mut first).is_some_and(|permit| permit.is_ok()));
        assert!(poll_once(&mut second).is_some_and(|permit| permit.is_ok()), "the first has returned it");
    }

    #[tokio::test]
    async fn a_permit_that_its_waiter_did_not_take_goes_to_the_next_waiter() {
        let limiter = limiter();
        let mut held = acquire_all(&limiter);
        let mut first = Box::pin(limiter.acquire(Instant::now()));
        let mut cancelled = Box::pin(limiter.acquire(Instant::now()));
        let mut last = Box::pin(limiter.acquire(Instant::now()));
        for waiter in [&mut first, &mut cancelled, &mut last] {
            assert!(poll_once(waiter).is_none());
        }
        // The second leaves while it waits, the first after it was granted the permit.
        drop(cancelled);
        drop(held.pop());
        drop(first);
        assert!(poll_once(&mut last).is_some_and(|permit| permit.is_ok()));
    }

    #[tokio::test]
    async fn a_new_request_is_served_though_those_before_it_are_to_be_shed() {
        let limiter = limiter();
        let late = Instant::now().checked_sub(queue::INTERVAL * 2).expect("an uptime above that");
        let held = acquire_all(&limiter);
        let old: Vec<_> = (0..100).map(|_| limiter.lock().queue.push(late)).collect();
        limiter.publish(&limiter.lock());
        drop(held);
        assert!(limiter.waiting() > 0, "the pace of rejections leaves some");
        assert!(poll_once(limiter.acquire(Instant::now())).is_some_and(|permit| permit.is_ok()));
        within_a_minute(async {
            for old in old {
                assert!(old.await.is_ok_and(|grant| grant.is_err()), "free permits do not serve them");
            }
        })
        .await;
    }

    #[tokio::test]
    async fn a_request_takes_its_permit_again_up_to_the_maximum() {
        let limiter = limiter();
        let mut held = acquire_all(&limiter);
        held.extend((BOUNDS.initial..BOUNDS.most).map(|_| limiter.reacquire().expect("below the maximum")));
        assert_eq!(limiter.reacquire().err(), Some(Shed::NoPermit));
        held.pop();
        assert!(limiter.reacquire().is_ok());
    }

    #[tokio::test]
    async fn a_full_queue_rejects_at_once() {
        let limiter = limiter();
        let _held = acquire_all(&limiter);
        let _waiting: Vec<_> = (0..MAX_WAITING).map(|_| limiter.lock().queue.push(Instant::now())).collect();
        limiter.publish(&limiter.lock());
        assert_eq!(poll_once(limiter.acquire(Instant::now())).and_then(Result::err), Some(Shed::QueueFull));
    }
}
