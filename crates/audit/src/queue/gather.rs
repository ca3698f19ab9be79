//! When the writer is told that there is work.
//!
//! Telling it at once makes batches of one where threads share a processor: the writer runs before the next record is
//! there, at the price of two switches and three system calls a record. So a runtime's thread that has called
//! [`before_park`] once is trusted to call it whenever it runs out of work, and the writer is told then. Measured with 32
//! callers on one processor: batches of 20 to 30 records, and two to three times the reads per second.
//!
//! Nobody waits for a timer: a thread without other work tells at once. One that has too much of it tells when the batch
//! is of a good size, and the first caller of the batch sees to it that this is soon.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use super::Queue;

/// A batch of this many records is told of, whatever else there is to do: more of them would save nothing.
const ENOUGH: usize = 64;

thread_local! {
    /// This thread calls [`before_park`].
    static PARKS: Cell<bool> = const { Cell::new(false) };
    /// The log that is to be told of records of this thread.
    static UNTOLD: RefCell<Option<Arc<Queue>>> = const { RefCell::new(None) };
}

/// Tells the log of this thread's records. For a tokio runtime's `on_thread_park`: from its first call on, records of the
/// thread that calls it are written when it has nothing else to do.
///
/// Without it, records are written as soon as the log's thread gets to it, each by itself if that is at once.
pub fn before_park() {
    PARKS.set(true);
    if let Some(queue) = UNTOLD.take() {
        queue.tell();
    }
}

/// Whether this thread will tell `queue` of its batch, which has `records` now.
pub(super) fn will_tell(queue: &Arc<Queue>, records: usize) -> bool {
    if !PARKS.get() || records >= ENOUGH {
        return false;
    }
    UNTOLD.with_borrow_mut(|untold| match untold {
        Some(other) => Arc::ptr_eq(other, queue),
        None => {
            *untold = Some(Arc::clone(queue));
            true
        }
    })
}
