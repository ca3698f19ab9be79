//! Work that is done to its end, whoever goes away.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::Handle;

/// The work panicked; its message went where those of panics go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a panic ended it")]
pub struct Panicked;

/// Does `work` to its end: where the future that is returned is dropped before that, the rest is done in a task of its
/// own. A panic in it ends it alone.
///
/// A task from the beginning would do the same, at the cost of a task; nearly all callers stay.
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
        // What a panic leaves half-done is dropped below and never seen again.
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
        // Without a runtime, the process is ending.
        if let (Some(work), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn(work);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn work_whose_caller_stays_is_done_and_one_whose_caller_leaves_as_well() {
        assert_eq!(run_to_completion(async { 7 }).await, Ok(7));

        let (go, gate) = oneshot::channel::<()>();
        let (done, end) = oneshot::channel();
        let mut left = run_to_completion(async move {
            let _ = gate.await;
            let _ = done.send("done");
        });
        tokio::select! {
            biased;
            _ = &mut left => panic!("the gate is shut"),
            () = tokio::task::yield_now() => {}
        }
        drop(left);
        go.send(()).expect("it waits still");
        assert_eq!(end.await, Ok("done"));

        // One that was never begun is begun.
        let (done, end) = oneshot::channel();
        drop(run_to_completion(async move { done.send(()) }));
        assert_eq!(end.await, Ok(()));
    }

    #[tokio::test]
    async fn a_panic_ends_the_work_and_nothing_else() {
        assert_eq!(run_to_completion(async { panic!("on purpose") }).await, Err::<(), _>(Panicked));
    }

    #[test]
    fn work_without_a_runtime_is_dropped() {
        drop(run_to_completion(async {}));
    }
}
