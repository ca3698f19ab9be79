//! Gathering: when the caller's thread wakes an idle writer.
//!
//! To wake it for each record makes batches of one where threads share a processor: the writer runs before the next record
//! is queued. So a thread of a runtime that calls [`before_park`] wakes the writer only when it is about to park, and the
//! records of all tasks that were ready make one batch.
//!
//! # What this relies on
//!
//! * Tokio calls `on_thread_park` whenever a worker has run out of ready tasks (documented).
//! * On the current-thread runtime, a task that is spawned in that hook makes the worker poll its sockets, run the tasks that
//!   they make ready, and call the hook again. Tokio does not document this. With several records in the batch, the hook
//!   uses it once, so that requests which have arrived join the batch. If it changed, batches would be smaller, and
//!   nothing else would differ.
//!
//! The tests in `tests/writing.rs` fail when one of the two changes. The benchmark case is `rest.value.one` with the server
//! on one core.
//!
//! No record waits for a timer. A busy thread wakes the writer when the batch has [`ENOUGH`] records, and the first caller of
//! the batch wakes it after a millisecond at the latest (`Ticket::done`). A single record wakes it at the first park.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use tokio::runtime::{Handle, RuntimeFlavor};

use super::Queue;

/// A batch of this many records wakes the writer at once. Larger ones save nothing more.
const ENOUGH: usize = 64;

thread_local! {
    /// This thread calls [`before_park`].
    static PARKS: Cell<bool> = const { Cell::new(false) };
    /// The records of this thread for which the writer has to be woken.
    static GATHERED: RefCell<Option<Gathered>> = const { RefCell::new(None) };
}

/// Records whose writer has not been woken.
struct Gathered {
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
    PARKS.set(true);
    let Some(mut gathered) = GATHERED.take() else { return };
    if gathered.records > 1 && !gathered.polled && poll_sockets() {
        gathered.polled = true;
        GATHERED.set(Some(gathered));
    } else {
        gathered.queue.wake_if_any();
    }
}

/// Makes the current-thread runtime poll its sockets and call [`before_park`] again instead of parking. Returns false on
/// other runtimes, where another worker would take the task.
fn poll_sockets() -> bool {
    let runtime = Handle::try_current().ok();
    let runtime = runtime.filter(|runtime| runtime.runtime_flavor() == RuntimeFlavor::CurrentThread);
    // The task completes after the sockets were polled, behind the tasks that they made ready.
    runtime.map(|runtime| runtime.spawn(tokio::task::yield_now())).is_some()
}

/// Whether this thread will wake the writer of `queue` for its batch, which has `records` now.
pub(super) fn wakes_later(queue: &Arc<Queue>, records: usize) -> bool {
    if !PARKS.get() || records >= ENOUGH {
        return false;
    }
    GATHERED.with_borrow_mut(|gathered| match gathered {
        Some(gathered) if Arc::ptr_eq(&gathered.queue, queue) => {
            gathered.records = records;
            true
        }
        Some(_) => false,
        None => {
            *gathered = Some(Gathered { queue: Arc::clone(queue), records, polled: false });
            true
        }
    })
}
