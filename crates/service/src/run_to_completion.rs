//! A future that completes even if its caller drops it.
//!
//! Writes and revocations of this crate use it, and the server's handler of requests. It spawns a task only when it is
//! dropped before completion, because a task for every request costs more than the few that are dropped. In that task,
//! [`while_called`] cancels reads that nobody waits for.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use tokio::runtime::Handle;

tokio::task_local! {
    /// Set in a task whose caller has left.
    static LEFT: ();
}

/// Awaits `read` as long as the caller waits. Returns none, and drops `read`, once the caller has left. For work that changes
/// nothing.
pub(crate) async fn while_called<T>(read: impl Future<Output = T>) -> Option<T> {
    let mut read = pin!(read);
    poll_fn(|cx| match LEFT.try_with(|()| ()) {
        Ok(()) => Poll::Ready(None),
        Err(_) => read.as_mut().poll(cx).map(Some),
    })
    .await
}

/// The work panicked. The panic hook has the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the work panicked")]
pub struct Panicked;

/// Runs `work` to completion. If the returned future is dropped before that, a detached task runs the rest. A panic in
/// `work` is returned as [`Panicked`].
pub fn run_to_completion<F>(work: F) -> RunToCompletion<F>
where
    F: Future<Output: Send> + Send + 'static,
{
    RunToCompletion(Some(Box::pin(work)))
}

/// See [`run_to_completion`].
pub struct RunToCompletion<F>(Option<Pin<Box<F>>>)
where
    F: Future<Output: Send> + Send + 'static;

impl<F> Future for RunToCompletion<F>
where
    F: Future<Output: Send> + Send + 'static,
{
    type Output = Result<F::Output, Panicked>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(work) = &mut self.0 else { return Poll::Ready(Err(Panicked)) };
        // Unwind safe: after a panic the work is dropped below and never polled again.
        let ended = match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(output)) => Ok(output),
            Err(_) => Err(Panicked),
        };
        self.0 = None;
        Poll::Ready(ended)
    }
}

impl<F> Drop for RunToCompletion<F>
where
    F: Future<Output: Send> + Send + 'static,
{
    fn drop(&mut self) {
        // Without a runtime the process is exiting.
        if let (Some(work), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn(LEFT.scope((), work));
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn work_completes_whether_or_not_its_caller_waits() {
        assert_eq!(run_to_completion(async { 7 }).await, Ok(7));

        let (open, gate) = oneshot::channel::<()>();
        let (done, end) = oneshot::channel();
        let mut left = run_to_completion(async move {
            let _ = gate.await;
            let _ = done.send("done");
        });
        tokio::select! {
            biased;
            _ = &mut left => panic!("the gate is closed"),
            () = tokio::task::yield_now() => {}
        }
        drop(left);
        open.send(()).expect("the detached task waits");
        assert_eq!(end.await, Ok("done"));

        // Work that was never polled completes too.
        let (done, end) = oneshot::channel();
        drop(run_to_completion(async move { done.send(()) }));
        assert_eq!(end.await, Ok(()));
    }

    #[tokio::test]
    async fn a_read_whose_caller_leaves_is_dropped() {
        let (open, gate) = oneshot::channel::<()>();
        let (done, end) = oneshot::channel();
        let mut left = run_to_completion(async move {
            let read = while_called(gate).await;
            // A read that begins later does not begin.
            let next = while_called(async { panic!("it began") }).await;
            let _ = done.send((read.is_some(), next));
        });
        tokio::select! {
            biased;
            _ = &mut left => panic!("the gate is closed"),
            () = tokio::task::yield_now() => {}
        }
        assert!(!open.is_closed(), "the read waits");
        drop(left);
        assert_eq!(end.await, Ok((false, None::<()>)));
        assert!(open.is_closed(), "the read is dropped");

        assert_eq!(run_to_completion(while_called(async { 7 })).await, Ok(Some(7)));
    }

    #[tokio::test]
    async fn a_panic_is_returned_as_an_error() {
        assert_eq!(run_to_completion(async { panic!("on purpose") }).await, Err::<(), _>(Panicked));
    }

    #[test]
    fn work_without_a_runtime_is_dropped() {
        drop(run_to_completion(async {}));
    }
}
