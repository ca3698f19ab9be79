//! How many calls are worked on at once.
//!
//! Under more load than the server can carry, calls that are let in wait for each other. Beyond the numbers here a call is
//! refused at once, before the store or the log is looked at: that is what there is too much of. So what is let in is
//! answered soon, and when the load is gone nothing is left to work off.
//!
//! A call counts once its body is there: clients that send slowly take no place here (`limit.requests` bounds those).

use std::time::Duration;

use agentrouter_model::{Reason, Refusal, Rpc};
use tokio::sync::{Semaphore, SemaphorePermit};

/// Most reads and lists: 1,024 reads take one processor some 20 ms.
const READS: usize = 1024;
/// Most changes. The store commits as many together, so one that is let in waits for two commits at most.
const CHANGES: usize = 256;

/// The places of those that are worked on.
pub(crate) struct Work {
    reads: Semaphore,
    changes: Semaphore,
}

impl Work {
    pub(crate) fn new() -> Self {
        Self { reads: Semaphore::new(READS), changes: Semaphore::new(CHANGES) }
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
}
