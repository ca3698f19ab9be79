//! Fault injection: makes the k-th step of the writer from now fail. Compiled into tests and under the feature
//! `faults`.
//!
//! The steps are: the beginning of a transaction, the beginning of a write in it, each statement that changes rows, the
//! end of the write, and the commit. So k covers every point at which a write can be interrupted.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::ffi;

/// How a step fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The disk is full.
    Full,
    /// The disk fails.
    Io,
    /// The code panics.
    Panic,
    /// The process aborts.
    Abort,
}

/// The count of a store's steps, and the step to fail.
#[derive(Debug, Default)]
pub struct Faults {
    steps: AtomicU64,
    planned: Mutex<Option<(u64, Fault)>>,
}

impl Faults {
    /// Makes the `k`-th step from now fail, 1 being the next; once.
    pub fn fail_at(&self, k: u64, fault: Fault) {
        *self.planned() = Some((self.steps() + k, fault));
    }

    /// Cancels a planned fault. Returns whether it was still pending.
    pub fn clear(&self) -> bool {
        self.planned().take().is_some()
    }

    /// The number of steps so far.
    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::SeqCst)
    }

    pub(super) fn step(&self) -> rusqlite::Result<()> {
        let now = self.steps.fetch_add(1, Ordering::SeqCst) + 1;
        let fault = match *self.planned() {
            Some((at, fault)) if at <= now => fault,
            _ => return Ok(()),
        };
        self.clear();
        match fault {
            Fault::Full => Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_FULL), None)),
            Fault::Io => Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_IOERR_FSYNC), None)),
            Fault::Panic => panic!("a planned fault"),
            Fault::Abort => std::process::abort(),
        }
    }

    fn planned(&self) -> std::sync::MutexGuard<'_, Option<(u64, Fault)>> {
        self.planned.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
