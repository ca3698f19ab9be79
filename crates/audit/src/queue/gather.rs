//! When the writer is told that there is work.
//!
//! Telling it at once makes batches of one where threads share a processor: the writer runs before the next record is
//! there, at the price of two switches and three system calls a record. So a runtime's thread that has called
//! [`before_park`] once is trusted to call it whenever it runs out of work, and the writer is told then. Measured with 32
//! callers on one processor: batches of 20 to 30 records, and two to three times the reads per second.
//!
//! A runtime runs out of work before it asks the sockets for more, and nearly always they have some: so before several
//! records are told of they are asked once. (Measured as above: batches of 31 records and not of 16, and 9 % less of a
//! read.) One record alone is told of at once: its caller has nobody to share with.
//!
//! Nobody waits for a timer: a thread without other work tells at once. One that has too much of it tells when the batch
//! is of a good size, and the first caller of the batch sees to it that this is soon.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use tokio::runtime::{Handle, RuntimeFlavor};

use super::Queue;

/// A batch of this many records is told of, whatever else there is to do: more of them would save nothing.
const ENOUGH: usize = 64;

thread_local! {
    /// This thread calls [`before_park`].
    static PARKS: Cell<bool> = const { Cell::new(false) };
    /// What is to be told of records of this thread.
    static UNTOLD: RefCell<Option<Untold>> = const { RefCell::new(None) };
}

/// Records that their writer has not been told of.
struct Untold {
    queue: Arc<Queue>,
    /// How many there were when the last of this thread's came.
    records: usize,
    /// The sockets have been asked since.
    asked: bool,
}

/// Tells the log of this thread's records. For a tokio runtime's `on_thread_park`: from its first call on, records of the
/// thread that calls it are written when it has nothing else to do.
///
/// Without it, records are written as soon as the log's thread gets to it, each by itself if that is at once.
pub fn before_park() {
    PARKS.set(true);
    let Some(mut untold) = UNTOLD.take() else { return };
    if untold.records > 1 && !untold.asked && ask_sockets() {
        untold.asked = true;
        UNTOLD.set(Some(untold));
    } else {
        untold.queue.tell();
    }
}

/// Has the runtime ask its sockets and run what that makes ready, and then call [`before_park`] again, instead of going
/// to sleep; false where it will not. (One of several threads would have another do so.)
fn ask_sockets() -> bool {
    let runtime = Handle::try_current().ok();
    let runtime = runtime.filter(|runtime| runtime.runtime_flavor() == RuntimeFlavor::CurrentThread);
    // The task is put off until the sockets have been asked, and then is behind those that have something to do.
    runtime.map(|runtime| runtime.spawn(tokio::task::yield_now())).is_some()
}

/// Whether this thread will tell `queue` of its batch, which has `records` now.
pub(super) fn will_tell(queue: &Arc<Queue>, records: usize) -> bool {
    if !PARKS.get() || records >= ENOUGH {
        return false;
    }
    UNTOLD.with_borrow_mut(|untold| match untold {
        Some(untold) if Arc::ptr_eq(&untold.queue, queue) => {
            untold.records = records;
            true
        }
        Some(_) => false,
        None => {
            *untold = Some(Untold { queue: Arc::clone(queue), records, asked: false });
            true
        }
    })
}
