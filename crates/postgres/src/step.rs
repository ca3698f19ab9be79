//! A statement with its parameters, and a transaction of several in one round trip.

use std::future::{Future, poll_fn};
use std::task::Poll;
use std::time::Duration;

use futures_util::future::maybe_done;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Error, Row};

use super::failure::{cause, failure, is_ambiguous, is_passing, is_reported};
use super::link::Link;
use super::sql::Sql;
use agentrouter_store::StoreError;

/// Longest wait for the results of a transaction once its commit is sent.
pub(super) const COMMIT: Duration = Duration::from_secs(5);

/// A statement and its parameters.
pub(super) struct Step {
    sql: Sql,
    params: Vec<Box<dyn ToSql + Sync + Send>>,
}

impl Step {
    pub(super) fn new(sql: Sql) -> Self {
        Self { sql, params: Vec::new() }
    }

    /// The same step with one more parameter.
    pub(super) fn with(mut self, param: impl ToSql + Sync + Send + 'static) -> Self {
        self.params.push(Box::new(param));
        self
    }

    pub(super) async fn run(&self, link: &Link) -> Result<Vec<Row>, Error> {
        let params: Vec<&(dyn ToSql + Sync)> =
            self.params.iter().map(|param| &**param as &(dyn ToSql + Sync)).collect();
        link.rows(self.sql, &params).await
    }
}

/// Why a transaction was not committed, or may not have been.
pub(super) enum Undone {
    /// Nothing happened. `again` means that a retry can succeed.
    Nothing { again: bool, error: StoreError },
    /// The connection was lost, or the deadline passed, after the commit was sent.
    Unknown(StoreError),
}

impl Undone {
    pub(super) fn nothing(error: Error) -> Self {
        Self::Nothing { again: is_passing(&error), error: failure(error) }
    }
}

pub(super) const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";

/// Runs the steps and commits, all of it sent at once; before them `BEGIN`, if it was not sent yet. Returns the rows of
/// each step.
pub(super) async fn commit(link: &Link, begin: bool, steps: &[Step]) -> Result<Vec<Vec<Row>>, Undone> {
    if link.is_closed() {
        let error = StoreError::unavailable("the connection to the database was lost");
        return Err(Undone::Nothing { again: true, error });
    }
    let warnings = link.warnings();
    let deadline = Instant::now() + COMMIT;
    let opened = async { if begin { link.client.batch_execute(BEGIN).await } else { Ok(()) } };
    let mut ran = Vec::with_capacity(steps.len());
    for step in steps {
        ran.push(step.run(link));
    }
    let ran = in_order(ran);
    let committed = link.client.batch_execute("COMMIT");
    // The order matters: the future that is polled first is sent first.
    let results = async { tokio::join!(biased; opened, ran, committed) };
    let Ok((opened, ran, committed)) = timeout_at(deadline, results).await else {
        return Err(unknown(None));
    };
    let mut rows = Vec::with_capacity(ran.len());
    for result in std::iter::once(opened.map(|()| Vec::new())).chain(ran) {
        match result {
            Ok(result) => rows.push(result),
            // The server reported the error before it ran the commit, so the commit rolled everything back.
            Err(error) if is_reported(&error) => return Err(Undone::nothing(error)),
            Err(error) => return Err(unknown(Some(error))),
        }
    }
    rows.remove(0);
    match committed {
        // The server reports a commit that stopped waiting for its standby as a success with a warning.
        Ok(()) if link.warnings() == warnings => Ok(rows),
        Ok(()) => Err(unknown(None)),
        Err(error) if is_ambiguous(&error) => Err(unknown(Some(error))),
        Err(error) => Err(Undone::nothing(error)),
    }
}

/// Runs futures concurrently and polls them in order. What they send at their first poll is sent in this order, before
/// the returned future is pending for the first time.
async fn in_order<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    let mut running: Vec<_> = futures.into_iter().map(|future| Box::pin(maybe_done(future))).collect();
    poll_fn(|context| {
        let mut pending = false;
        for future in &mut running {
            pending |= future.as_mut().poll(context).is_pending();
        }
        if pending { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    running.iter_mut().filter_map(|future| future.as_mut().take_output()).collect()
}

fn unknown(error: Option<Error>) -> Undone {
    Undone::Unknown(StoreError::OutcomeUnknown { source: error.map(cause) })
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[tokio::test]
    async fn concurrent_futures_start_in_order() {
        let started = RefCell::new(Vec::new());
        let one = async |i: usize| {
            started.borrow_mut().push(i);
            if !i.is_multiple_of(3) {
                tokio::task::yield_now().await;
            }
            i
        };
        let futures: Vec<_> = (0..200).map(one).collect();
        let after = async { started.borrow_mut().push(200) };
        let (results, ()) = tokio::join!(biased; in_order(futures), after);
        assert_eq!(results, (0..200).collect::<Vec<_>>());
        assert_eq!(started.into_inner(), (0..=200).collect::<Vec<_>>());
    }
}
