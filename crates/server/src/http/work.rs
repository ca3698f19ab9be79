//! How much is worked on at once.
//!
//! Under more load than the server can carry, calls that are let in wait for each other. What is too much is refused at
//! once, before the store or the log is looked at. So what is let in is answered soon, and when the load is gone nothing is
//! left to work off. There are two measures of too much:
//!
//! * Calls that wait for the log or the store, once their bodies are there: clients that send slowly take no place
//!   (`limit.requests` bounds those).
//! * The time that a ready task waits for its turn, which is what calls on thousands of connections wait for. A task that
//!   gives its turn away now and then measures it. While it waits too long for the next one, a growing share of the calls
//!   is refused, and while it does not, a shrinking one. (With more than one thread it may have its turn sooner than
//!   others, and refuses less.)

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use agentrouter_model::{Reason, Refusal, Rpc};
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::time::Instant;

/// Most reads and lists: 1,024 reads take one processor some 20 ms.
const READS: usize = 1024;
/// Most changes. The store commits as many together, so one that is let in waits for two commits at most.
const CHANGES: usize = 256;

/// How often the wait for a turn is measured, while there are calls.
const EVERY: Duration = Duration::from_millis(10);
/// The longest wait for a turn at which every call is let in.
const LONGEST: Duration = Duration::from_millis(20);
/// Most calls before one's turn that are let in however long they wait: so few do not wait for each other, but for a
/// processor or a disk that others keep busy.
const FEW: u32 = 512;
/// A share of all calls.
const ALL: u32 = 1000;
/// The share that is let in at worst.
const LEAST: u32 = ALL / 20;

/// The places of those that are worked on, and the share of calls that is let in.
pub(crate) struct Work {
    reads: Semaphore,
    changes: Semaphore,
    share: AtomicU32,
    /// The shares of all calls so far, added up.
    shares: AtomicU32,
    /// Calls since they were last looked at.
    calls: AtomicU32,
    /// Nothing is measured, as there were no calls.
    idle: AtomicBool,
    wake: Notify,
}

impl Work {
    pub(crate) fn new() -> Self {
        Self {
            reads: Semaphore::new(READS),
            changes: Semaphore::new(CHANGES),
            share: AtomicU32::new(ALL),
            shares: AtomicU32::new(0),
            calls: AtomicU32::new(0),
            idle: AtomicBool::new(false),
            wake: Notify::new(),
        }
    }

    /// Counts a call that begins, and lets it in unless it is of the share that is refused.
    ///
    /// # Errors
    /// [`Reason::Overloaded`].
    pub(crate) fn begin(&self) -> Result<(), Refusal> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        if self.idle.load(Ordering::Relaxed) && self.idle.swap(false, Ordering::Relaxed) {
            self.wake.notify_one();
        }
        let share = self.share.load(Ordering::Relaxed);
        if share == ALL {
            return Ok(());
        }
        // Let in is the call whose share makes the sum reach the next whole one.
        let before = self.shares.fetch_add(share, Ordering::Relaxed) % ALL;
        if before + share >= ALL { Ok(()) } else { Err(overloaded()) }
    }

    /// Measures how long a ready task waits for its turn, until the future is dropped.
    pub(crate) async fn watch(&self) {
        loop {
            tokio::time::sleep(EVERY).await;
            let before = self.calls.swap(0, Ordering::Relaxed);
            let begun = Instant::now();
            // Whatever is ready has its turn before this task has it again.
            tokio::task::yield_now().await;
            let meanwhile = self.calls.swap(0, Ordering::Relaxed);
            self.note(begun.elapsed(), meanwhile);
            // Not before all are let in again: the next call may come alone.
            if before + meanwhile == 0 && self.share.load(Ordering::Relaxed) == ALL {
                self.idle.store(true, Ordering::Relaxed);
                self.wake.notified().await;
            }
        }
    }

    /// Adapts the share to a wait for a turn, and to the calls meanwhile.
    fn note(&self, wait: Duration, calls: u32) {
        let share = self.share.load(Ordering::Relaxed);
        let share = if wait > LONGEST && calls > FEW {
            (share * 3 / 4).max(LEAST)
        } else {
            (share + ALL / 10).min(ALL)
        };
        self.share.store(share, Ordering::Relaxed);
    }

    /// Lets a call in, until its place is dropped.
    ///
    /// # Errors
    /// [`Reason::Overloaded`].
    pub(crate) fn admit(&self, rpc: Rpc) -> Result<SemaphorePermit<'_>, Refusal> {
        let places = match rpc {
            Rpc::CreateSecret | Rpc::RotateSecret | Rpc::DeleteSecret => &self.changes,
            Rpc::GetSecret | Rpc::ListSecrets | Rpc::ValidateSecret | Rpc::GetSecretValue => &self.reads,
        };
        places.try_acquire().map_err(|_| overloaded())
    }
}

/// What a call is told that there is no place for.
pub(crate) fn overloaded() -> Refusal {
    Refusal::new(Reason::Overloaded).retry_after(Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_more_than_there_are_places_is_refused_and_the_other_kind_is_not() {
        let work = Work::new();
        for (rpc, places, other) in [
            (Rpc::CreateSecret, CHANGES, Rpc::GetSecretValue),
            (Rpc::GetSecretValue, READS, Rpc::RotateSecret),
        ] {
            let mut held: Vec<_> = (0..places).map(|_| work.admit(rpc).expect("a place")).collect();
            let refused = work.admit(rpc).expect_err("no place is left");
            assert_eq!(
                (refused.reason, refused.retry_after),
                (Reason::Overloaded, Some(Duration::from_secs(1)))
            );
            assert!(work.admit(other).is_ok());
            held.pop();
            assert!(work.admit(rpc).is_ok(), "a place that is given back is there at once");
        }
    }

    #[tokio::test]
    async fn when_the_load_ends_at_once_all_are_let_in_again_soon() {
        let work = std::sync::Arc::new(Work::new());
        for _ in 0..50 {
            work.note(LONGEST * 3, 4000);
        }
        let watched = std::sync::Arc::clone(&work);
        let watch = tokio::spawn(async move { watched.watch().await });
        let idle = async {
            while !work.idle.load(Ordering::Relaxed) {
                tokio::time::sleep(EVERY).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), idle).await.expect("nobody calls");
        assert_eq!(let_in(&work), 1000);
        watch.abort();
    }

    /// How many of a thousand calls are let in.
    fn let_in(work: &Work) -> usize {
        (0..1000).filter(|_| work.begin().is_ok()).count()
    }

    #[test]
    fn while_turns_are_long_in_coming_a_share_is_let_in_and_soon_after_all() {
        let work = Work::new();
        let (long, short) = (LONGEST * 3, LONGEST / 2);
        work.note(long, FEW);
        assert_eq!(let_in(&work), 1000, "few calls wait for something else");
        work.note(long, FEW + 1);
        assert_eq!(let_in(&work), 750);
        for _ in 0..50 {
            work.note(long, 4000);
        }
        assert_eq!(let_in(&work), 50, "some are let in at worst");
        for _ in 0..10 {
            work.note(short, 4000);
        }
        assert_eq!(let_in(&work), 1000, "a tenth of a second later");
    }

    #[tokio::test]
    async fn without_calls_nothing_is_measured_and_the_next_call_begins_it_anew() {
        let work = std::sync::Arc::new(Work::new());
        let until = async |met: &dyn Fn() -> bool| {
            for _ in 0..500 {
                if met() {
                    return;
                }
                tokio::time::sleep(EVERY).await;
            }
            panic!("not within five seconds");
        };
        let watching = tokio::spawn({
            let work = std::sync::Arc::clone(&work);
            async move { work.watch().await }
        });
        for _ in 0..2 {
            until(&|| work.idle.load(Ordering::Relaxed)).await;
            work.begin().expect("let in");
            until(&|| work.calls.load(Ordering::Relaxed) == 0).await;
        }
        watching.abort();
    }
}
