//! Read connections, one for each thread and open store.
//!
//! A read takes microseconds, and handing it to another thread costs more. So each read runs on its caller's thread, on
//! a read-only connection with compiled statements, and nothing awaits while it is in use. Under WAL a reader does not
//! block the writer, and it sees every transaction that was committed before it began.

use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use rusqlite::Connection;

use super::file::open_reader;
use super::rows::is_unreadable;
use super::watch::Watch;
use agentrouter_store::StoreError;

/// An open store, as its readers see it. Each thread's connection belongs to one store. The thread closes the
/// connection some time after the store is dropped.
#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    closed: AtomicBool,
    /// The files that the writer opened. None if the store is opened for reading only.
    watch: Option<Arc<Watch>>,
    /// The number of reads that failed because pages could not be read.
    unreadable: AtomicU64,
}

thread_local! {
    static CONNECTIONS: RefCell<Vec<(Weak<Readers>, Connection)>> = const { RefCell::new(Vec::new()) };
}

impl Readers {
    pub(super) fn new(path: PathBuf, watch: Option<Arc<Watch>>) -> Arc<Self> {
        Arc::new(Self { path, closed: AtomicBool::new(false), watch, unreadable: AtomicU64::new(0) })
    }

    /// Runs `read` with this thread's connection. `read` must not call this function.
    pub(super) fn with<T>(
        self: &Arc<Self>,
        read: impl FnOnce(&Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if self.closed.load(Ordering::SeqCst) {
            return Err(StoreError::unavailable("it is closed"));
        }
        CONNECTIONS.with_borrow_mut(|connections| {
            let own =
                |(readers, _): &(Weak<Self>, Connection)| std::ptr::eq(readers.as_ptr(), Arc::as_ptr(self));
            let at = match connections.iter().position(own) {
                Some(at) => at,
                None => {
                    connections.retain(|(readers, _)| {
                        readers.upgrade().is_some_and(|readers| !readers.closed.load(Ordering::SeqCst))
                    });
                    connections.push((Arc::downgrade(self), self.noted(self.open())?));
                    connections.len() - 1
                }
            };
            let result = self.noted(read(&connections[at].1));
            if matches!(result, Err(StoreError::Unavailable { .. })) {
                // The next read begins with a new connection.
                connections.swap_remove(at);
            }
            result
        })
    }

    /// A connection that only one reader uses.
    pub(super) fn connect(&self) -> Result<Connection, StoreError> {
        if self.closed.load(Ordering::SeqCst) {
            return Err(StoreError::unavailable("it is closed"));
        }
        self.open()
    }

    /// Opens a connection to the files that the writer has open, and to no others that are at their paths now.
    fn open(&self) -> Result<Connection, StoreError> {
        let in_place = || match &self.watch {
            Some(watch) => watch.look(0, 0).map_err(|change| StoreError::unavailable(change.reason())),
            None => Ok(()),
        };
        in_place()?;
        let opened = open_reader(&self.path).map_err(|error| match error {
            StoreError::Open { reason, source } => StoreError::Unavailable { reason, source },
            other => other,
        })?;
        in_place()?;
        Ok(opened)
    }

    /// The result of a read, which is counted if pages could not be read.
    fn noted<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(error) = &result
            && is_unreadable(error)
        {
            self.unreadable.fetch_add(1, Ordering::SeqCst);
        }
        result
    }

    /// The number of reads so far that failed because pages could not be read.
    pub(super) fn unreadable(&self) -> u64 {
        self.unreadable.load(Ordering::SeqCst)
    }

    /// Refuses every read from now on.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }
}
