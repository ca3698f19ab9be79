//! CoDel queue: the requests that wait for a permit.
//!
//! The queue is first in, first out while its oldest waiter has waited for less than [`TARGET`]. From then on it is last
//! in, first out: the requests that are served have waited little, and the others are rejected. When the queue is
//! *standing* (for [`INTERVAL`] it had, without a gap, a waiter that is older than [`TARGET`]), waiters older than
//! [`SHED_AFTER`] are not served any more but rejected, oldest first, at the pace of [`ShedRate`]. A burst, or a disk that
//! stalls, passes before the queue is standing, and all of its requests are served. ("CoDel": RFC 8289.)
//!
//! Called by [`Limiter`](crate::Limiter) under its lock. Knows no permits and starts no timers.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::ShedRate;

/// The wait up to which the oldest waiter is served first. With it, the time in service and the delay of the runtime,
/// requests complete within 50 ms as long as the server can serve all of them.
pub(crate) const TARGET: Duration = Duration::from_millis(25);
/// How long the queue holds a waiter older than [`TARGET`] before it is standing.
pub(crate) const INTERVAL: Duration = Duration::from_millis(150);
/// The wait after which a request is rejected while the queue is standing.
pub(crate) const SHED_AFTER: Duration = Duration::from_millis(30);

/// Why a request gets no permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Shed {
    /// It waited too long in a standing queue.
    #[error("no permit within the time that a request may wait")]
    Delay,
    /// The queue holds as many waiters as it can.
    #[error("the queue for permits is full")]
    QueueFull,
    /// The maximum of permits is taken, and the request is one that does not wait.
    #[error("every permit is taken")]
    NoPermit,
}

/// The result of a wait: a permit `P`.
type Grant<P> = Result<P, Shed>;

/// The requests that wait for a permit `P`, in the order of their arrival.
pub(crate) struct WaitQueue<P> {
    waiters: VecDeque<Waiter<P>>,
    /// Since when the queue has held a waiter older than [`TARGET`]; none if it did not when it was last observed.
    late_since: Option<Instant>,
}

pub(crate) struct Waiter<P> {
    since: Instant,
    grant: oneshot::Sender<Grant<P>>,
}

impl<P> Waiter<P> {
    /// Hands over the permit. Returns it if the request was cancelled.
    pub(crate) fn grant(self, permit: P) -> Option<P> {
        self.grant.send(Ok(permit)).err()?.ok()
    }
}

impl<P> Default for WaitQueue<P> {
    fn default() -> Self {
        Self { waiters: VecDeque::new(), late_since: None }
    }
}

impl<P> WaitQueue<P> {
    /// Adds a request that arrived at `since`.
    pub(crate) fn push(&mut self, since: Instant) -> oneshot::Receiver<Grant<P>> {
        let (grant, granted) = oneshot::channel();
        self.waiters.push_back(Waiter { since, grant });
        granted
    }

    /// Whether a waiter is to be served: there is one, and not all are to be rejected.
    pub(crate) fn is_ready(&mut self, now: Instant) -> bool {
        self.observe(now);
        let standing = self.standing_from().is_some_and(|from| from <= now);
        self.waiters.back().is_some_and(|newest| !standing || now.duration_since(newest.since) < SHED_AFTER)
    }

    /// Removes the waiter that is to be served next; none if none [is ready](Self::is_ready).
    pub(crate) fn pop(&mut self, now: Instant) -> Option<Waiter<P>> {
        if !self.is_ready(now) {
            return None;
        }
        let next = if self.late_since.is_none() { self.waiters.pop_front() } else { self.waiters.pop_back() };
        self.observe(now);
        next
    }

    /// Rejects the waiters that are due, oldest first, as far as `rate` permits. Returns when to call again; none if the
    /// queue is empty.
    pub(crate) fn shed(&mut self, now: Instant, rate: &ShedRate) -> Option<Instant> {
        loop {
            self.observe(now);
            let due = self.standing_from()?.max(self.waiters.front()?.since + SHED_AFTER);
            if due > now {
                return Some(due);
            }
            // A cancelled request costs nothing to reject.
            if self.waiters.front().is_some_and(|oldest| !oldest.grant.is_closed())
                && let Err(next) = rate.take(now)
            {
                return Some(next);
            }
            if let Some(oldest) = self.waiters.pop_front() {
                let _ = oldest.grant.send(Err(Shed::Delay));
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.waiters.len()
    }

    /// When the queue is standing, if no waiter is served before.
    fn standing_from(&self) -> Option<Instant> {
        Some(self.late_since.unwrap_or(self.waiters.front()?.since + TARGET) + INTERVAL)
    }

    /// Notes whether the oldest waiter is late. Called before and after waiters leave.
    fn observe(&mut self, now: Instant) {
        let late = self.waiters.front().map(|oldest| oldest.since + TARGET).filter(|late| *late <= now);
        self.late_since = late.map(|late| self.late_since.unwrap_or(late));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    type Waiting = oneshot::Receiver<Grant<()>>;

    /// Requests that arrive one a millisecond.
    fn fill(queue: &mut WaitQueue<()>, start: Instant, count: u32) -> Vec<Waiting> {
        (0..count).map(|number| queue.push(start + MS * number)).collect()
    }

    /// A queue that is standing at `start`, with the waiter that made it so.
    fn standing(start: Instant) -> (WaitQueue<()>, Waiting) {
        let mut queue = WaitQueue::default();
        let oldest = queue.push(start - INTERVAL - TARGET);
        (queue, oldest)
    }

    /// Pops so many waiters at most, and returns when they arrived, in milliseconds from `start`.
    fn pop(queue: &mut WaitQueue<()>, start: Instant, now: Instant, most: usize) -> Vec<u128> {
        let popped = std::iter::from_fn(|| queue.pop(now)).take(most);
        popped.map(|waiter| waiter.since.duration_since(start).as_millis()).collect()
    }

    /// The numbers of the requests that were shed.
    fn shed(requests: &mut [Waiting]) -> Vec<usize> {
        let requests = requests.iter_mut().enumerate();
        requests
            .filter_map(|(number, request)| matches!(request.try_recv(), Ok(Err(_))).then_some(number))
            .collect()
    }

    #[test]
    fn the_order_is_that_of_arrival_until_the_oldest_is_late() {
        let (mut queue, start) = (WaitQueue::default(), Instant::now());
        let _requests = fill(&mut queue, start, 10);
        assert_eq!(pop(&mut queue, start, start + TARGET - MS, 3), [0, 1, 2]);
        // The fourth arrived 3 ms after the start.
        assert_eq!(pop(&mut queue, start, start + TARGET + MS * 3, 2), [9, 8]);
        assert_eq!(queue.len(), 5);
    }

    #[test]
    fn in_a_standing_queue_those_that_waited_too_long_are_shed_oldest_first() {
        let start = Instant::now();
        let (mut queue, _oldest) = standing(start);
        let mut requests = fill(&mut queue, start, 10);
        let rate = ShedRate::default();
        assert_eq!(queue.shed(start + TARGET, &rate), Some(start + SHED_AFTER));
        assert_eq!(queue.shed(start + SHED_AFTER + MS * 4, &rate), Some(start + SHED_AFTER + MS * 5));
        assert_eq!(shed(&mut requests), [0, 1, 2, 3, 4]);
        assert_eq!(pop(&mut queue, start, start + SHED_AFTER + MS * 7, 10), [9, 8], "the others are late");
        assert!(!queue.is_ready(start + SHED_AFTER + MS * 7));
    }

    #[test]
    fn a_burst_is_served_and_none_of_it_shed() {
        let (mut queue, start) = (WaitQueue::default(), Instant::now());
        let mut requests = fill(&mut queue, start, 10);
        let (late, rate) = (start + SHED_AFTER * 2, ShedRate::default());
        assert_eq!(queue.shed(late, &rate), Some(start + TARGET + INTERVAL));
        assert_eq!(pop(&mut queue, start, late, 100).len(), 10);
        assert_eq!(queue.shed(late, &rate), None);
        assert_eq!(shed(&mut requests).len(), 0);
        // The time begins again with the next waiters.
        let mut next = fill(&mut queue, start + INTERVAL, 3);
        queue.shed(start + INTERVAL + SHED_AFTER * 2, &rate);
        assert_eq!(shed(&mut next).len(), 0);
        queue.shed(start + TARGET + INTERVAL * 2 + MS * 2, &rate);
        assert_eq!(shed(&mut next), [0, 1, 2]);
    }

    #[test]
    fn a_queue_that_is_never_empty_but_moves_is_not_standing() {
        let (mut queue, start) = (WaitQueue::default(), Instant::now());
        let (mut requests, rate) = (fill(&mut queue, start, 10), ShedRate::default());
        for late in 10..500 {
            requests.push(queue.push(start + MS * late));
            assert!(queue.pop(start + MS * late).is_some());
            queue.shed(start + MS * late, &rate);
        }
        // Then the disk stalls.
        let now = start + MS * 500 + INTERVAL;
        queue.shed(now, &rate);
        assert_eq!(shed(&mut requests).len(), 0);
        assert_eq!(pop(&mut queue, start, now, 100).len(), 10);
    }

    #[test]
    fn a_crowd_is_shed_at_the_pace_of_the_rate() {
        let (mut queue, start, rate) = (WaitQueue::default(), Instant::now(), ShedRate::default());
        let mut requests: Vec<_> = (0..1_000).map(|_| queue.push(start)).collect();
        for late in 0..50 {
            let now = start + TARGET + INTERVAL + MS * late;
            let next = queue.shed(now, &rate).expect("there are more");
            assert!(next > now && next <= now + MS);
        }
        let count = shed(&mut requests).len();
        assert!((500..=540).contains(&count), "{count} in 50 ms");
    }

    #[test]
    fn cancelled_requests_take_no_token() {
        let (mut queue, start, rate) = (WaitQueue::<()>::default(), Instant::now(), ShedRate::default());
        drop((0..10_000).map(|_| queue.push(start)).collect::<Vec<_>>());
        assert_eq!(queue.shed(start + TARGET + INTERVAL, &rate), None);
        assert_eq!(queue.len(), 0);
    }
}
