//! Deferred wake-up of an idle writer, for batches of more than one record.
//!
//! A thread that calls [`before_park`] does not wake the writer for each record. It wakes the writer when it is about to park,
//! and the records of all tasks that were ready make one batch. To wake the writer for each record makes batches of one or two
//! where the threads share a processor: the writer runs before the next record is queued.
//!
//! No record depends on this. A thread that never parks wakes the writer when the batch has [`ENOUGH`] records. The first
//! caller of a batch wakes the writer after a millisecond at the latest (`Ticket::done`). A thread that does not call the hook
//! wakes the writer at once.
//!
//! # What this relies on
//!
//! From tokio's `on_thread_park`, documented by tokio:
//!
//! 1. A worker calls the hook on its own thread, before it parks.
//! 2. The hook may spawn a task. Then the worker does not park.
//!
//! Not documented by tokio:
//!
//! 3. When a worker calls the hook, the tasks that were ready have run.
//! 4. On the current-thread runtime, a task that yields once completes after the runtime has polled its sockets, and after the
//!    tasks that the sockets made ready. Then the worker calls the hook again.
//!
//! The hook spawns such a task (4) once for a batch of several records, so that requests which have arrived join the batch. It
//! does not on the multi-thread runtime, where another worker takes the task, nor for a single record.
//!
//! The tests below fail if one of the four changes. Then batches become smaller, or a record waits for the millisecond. Nothing
//! else changes.
//!
//! Performance: the case `rest.value.one` of `docs/benchmarks.md`, section "Batches of the audit log".

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use tokio::runtime::{Handle, RuntimeFlavor};

use super::Queue;

/// A batch of this many records wakes the writer at once. Larger ones save nothing more.
const ENOUGH: usize = 64;

thread_local! {
    /// This thread calls [`before_park`].
    static CALLS_HOOK: Cell<bool> = const { Cell::new(false) };
    /// The wake-up that this thread owes.
    static DEFERRED: RefCell<Option<Deferred>> = const { RefCell::new(None) };
}

/// A wake-up that was deferred until the thread parks.
struct Deferred {
    queue: Arc<Queue>,
    /// The length of the batch after this thread's last record.
    records: usize,
    /// The sockets have been polled since.
    polled: bool,
}

/// Wakes the writer for this thread's records. For a tokio runtime's `on_thread_park`: from its first call on, a record of the
/// calling thread wakes the writer when the thread parks.
///
/// Without it, each record wakes the writer at once.
pub fn before_park() {
    CALLS_HOOK.set(true);
    let Some(mut deferred) = DEFERRED.take() else { return };
    if deferred.records > 1 && !deferred.polled && poll_sockets() {
        deferred.polled = true;
        DEFERRED.set(Some(deferred));
    } else {
        deferred.queue.wake_if_any();
    }
}

/// Makes the current-thread runtime poll its sockets and call the hook again instead of parking. Returns false on other
/// runtimes.
fn poll_sockets() -> bool {
    let runtime = Handle::try_current().ok();
    let runtime = runtime.filter(|runtime| runtime.runtime_flavor() == RuntimeFlavor::CurrentThread);
    runtime.map(|runtime| runtime.spawn(tokio::task::yield_now())).is_some()
}

/// Defers the wake-up of the writer of `queue`, whose batch has `records` now. Returns false if the caller has to wake it.
pub(super) fn defer(queue: &Arc<Queue>, records: usize) -> bool {
    if !CALLS_HOOK.get() || records >= ENOUGH {
        return false;
    }
    DEFERRED.with_borrow_mut(|deferred| match deferred {
        Some(deferred) if Arc::ptr_eq(&deferred.queue, queue) => {
            deferred.records = records;
            true
        }
        Some(_) => false,
        None => {
            *deferred = Some(Deferred { queue: Arc::clone(queue), records, polled: false });
            true
        }
    })
}

/// The contract with tokio, by the numbers of the module's documentation.
#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::thread::{self, ThreadId};
    use std::time::Duration;

    use tokio::io::AsyncWriteExt;
    use tokio::net::UnixStream;
    use tokio::runtime::{Builder, Runtime};
    use tokio::sync::Notify;

    use super::*;

    const TASK: &str = "task";
    const HOOK: &str = "hook";
    const SOCKET: &str = "socket";

    /// The events, in order.
    #[derive(Default)]
    struct Trace {
        events: Mutex<Vec<(&'static str, ThreadId)>>,
        /// Notified when a thread has called the hook as often as the test waits for.
        done: Notify,
    }

    impl Trace {
        fn note(&self, event: &'static str) {
            self.events.lock().expect("no panic").push((event, thread::current().id()));
        }

        /// Notes a call of the hook by a thread that has run a task. Returns how many calls there were.
        fn note_hook(&self) -> usize {
            let this = thread::current().id();
            let mut events = self.events.lock().expect("no panic");
            if events.contains(&(TASK, this)) {
                events.push((HOOK, this));
            }
            events.iter().filter(|event| **event == (HOOK, this)).count()
        }

        async fn done(&self) {
            let done = tokio::time::timeout(Duration::from_secs(60), self.done.notified()).await;
            done.unwrap_or_else(|_| panic!("the hook is not called: {:?}", self.names()));
        }

        fn names(&self) -> Vec<&'static str> {
            self.events.lock().expect("no panic").iter().map(|(event, _)| *event).collect()
        }
    }

    fn multi_thread(workers: usize) -> Builder {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(workers);
        builder
    }

    /// A runtime whose hook is noted and then calls `hook` with the number of calls. The trace is done after `calls` of them.
    fn runtime(mut builder: Builder, trace: &Arc<Trace>, calls: usize, hook: fn(usize)) -> Runtime {
        let trace = Arc::clone(trace);
        let park = move || {
            let count = trace.note_hook();
            hook(count);
            if count == calls {
                trace.done.notify_one();
            }
        };
        builder.enable_all().on_thread_park(park).build().expect("a runtime")
    }

    /// Runs a task that makes three others ready, until its thread calls the hook.
    fn run_tasks(builder: Builder) -> Arc<Trace> {
        let trace = Arc::<Trace>::default();
        let runtime = runtime(builder, &trace, 1, |_| ());
        runtime.block_on(async {
            let shared = Arc::clone(&trace);
            tokio::spawn(async move {
                for _ in 0..3 {
                    let shared = Arc::clone(&shared);
                    tokio::spawn(async move { shared.note(TASK) });
                }
                shared.note(TASK);
            });
            trace.done().await;
        });
        trace
    }

    #[test]
    fn tokio_calls_the_hook_on_each_thread_that_ran_a_task() {
        for builder in [Builder::new_current_thread(), multi_thread(1), multi_thread(2)] {
            // The hook of another thread is not noted, and the trace would not be done.
            assert!(run_tasks(builder).names().contains(&HOOK));
        }
    }

    #[test]
    fn tokio_runs_all_ready_tasks_before_the_hook() {
        for builder in [Builder::new_current_thread(), multi_thread(1)] {
            assert_eq!(run_tasks(builder).names()[..5], [TASK, TASK, TASK, TASK, HOOK]);
        }
    }

    #[test]
    fn tokio_polls_its_sockets_before_it_calls_the_hook_again() {
        for readable in [false, true] {
            let trace = Arc::<Trace>::default();
            let hook = |calls| assert!(calls != 1 || poll_sockets());
            runtime(Builder::new_current_thread(), &trace, 2, hook).block_on(async {
                let (socket, mut peer) = UnixStream::pair().expect("sockets");
                let reader = Arc::clone(&trace);
                tokio::spawn(async move {
                    socket.readable().await.expect("no error");
                    reader.note(SOCKET);
                });
                // The reader waits after this.
                tokio::task::yield_now().await;
                if readable {
                    peer.write_all(b"!").await.expect("the buffer is empty");
                }
                let task = Arc::clone(&trace);
                tokio::spawn(async move { task.note(TASK) });
                trace.done().await;
                let polled = if readable { &[TASK, HOOK, SOCKET, HOOK][..] } else { &[TASK, HOOK, HOOK] };
                assert_eq!(trace.names(), polled);
            });
        }
    }

    #[test]
    fn the_sockets_are_not_polled_on_the_multi_thread_runtime() {
        multi_thread(1).build().expect("a runtime").block_on(async { assert!(!poll_sockets()) });
    }
}
