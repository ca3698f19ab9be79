//! Transactions: the writer's, as each write sees it, and the readers'.

use std::cell::Cell;

use rusqlite::{Connection, ErrorCode, Params, Row, ffi};

#[cfg(any(test, feature = "faults"))]
use super::fault::Faults;
use super::rows::{failure, is_unreadable};
use agentrouter_store::StoreError;

/// The writer's connection inside a transaction.
pub(super) struct Tx<'a> {
    conn: &'a Connection,
    /// Whether the disk failed in a way after which the file must not be written again.
    disk_failed: Cell<bool>,
    /// Whether pages could not be read.
    unreadable: Cell<bool>,
    /// Whether ciphertext was destroyed, so that the log should be emptied soon.
    destroyed: Cell<bool>,
    #[cfg(any(test, feature = "faults"))]
    faults: &'a Faults,
}

impl<'a> Tx<'a> {
    #[cfg(not(any(test, feature = "faults")))]
    pub(super) fn new(conn: &'a Connection) -> Self {
        Self {
            conn,
            disk_failed: Cell::new(false),
            unreadable: Cell::new(false),
            destroyed: Cell::new(false),
        }
    }

    #[cfg(any(test, feature = "faults"))]
    pub(super) fn new(conn: &'a Connection, faults: &'a Faults) -> Self {
        let (disk_failed, unreadable) = (Cell::new(false), Cell::new(false));
        Self { conn, disk_failed, unreadable, destroyed: Cell::new(false), faults }
    }

    /// Runs a statement that changes rows, and returns how many.
    pub(super) fn execute(&self, sql: &str, params: impl Params) -> Result<usize, StoreError> {
        self.step().and_then(|()| self.conn.prepare_cached(sql)?.execute(params)).map_err(|e| self.failed(e))
    }

    /// Runs a statement that puts one row into a table with numbered rows, and returns the number.
    pub(super) fn insert(&self, sql: &str, params: impl Params) -> Result<i64, StoreError> {
        self.execute(sql, params).map(|_| self.conn.last_insert_rowid())
    }

    /// The first row of a query, read by `read`; none if there is none.
    pub(super) fn first<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnOnce(&Row<'_>) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        self.noted(first(self.conn, sql, params, read))
    }

    /// Every row of a query, each read by `read`.
    pub(super) fn all<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnMut(&Row<'_>) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        self.noted(all(self.conn, sql, params, read))
    }

    /// Runs one of the transaction's own statements, `BEGIN` to `COMMIT`.
    pub(super) fn control(&self, sql: &'static str) -> Result<(), StoreError> {
        // A rollback follows a failure, so no fault is injected into it.
        if !sql.starts_with("ROLLBACK") {
            self.step().map_err(|e| self.failed(e))?;
        }
        let done = self.conn.prepare_cached(sql).and_then(|mut statement| statement.execute(()));
        done.map(|_| ()).map_err(|e| self.failed(e))
    }

    /// Whether the transaction is still open; SQLite closes it by itself after some errors.
    pub(super) fn is_open(&self) -> bool {
        !self.conn.is_autocommit()
    }

    pub(super) fn disk_failed(&self) -> bool {
        self.disk_failed.get()
    }

    pub(super) fn is_unreadable(&self) -> bool {
        self.unreadable.get()
    }

    /// Notes that ciphertext was destroyed.
    pub(super) fn note_destroyed(&self) {
        self.destroyed.set(true);
    }

    pub(super) fn has_destroyed(&self) -> bool {
        self.destroyed.get()
    }

    fn failed(&self, error: rusqlite::Error) -> StoreError {
        if is_disk_failure(&error) {
            self.disk_failed.set(true);
        }
        let error = failure(error);
        self.unreadable.set(self.unreadable.get() || is_unreadable(&error));
        error
    }

    /// The result of a read, noted if pages could not be read.
    fn noted<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(error) = &result {
            self.unreadable.set(self.unreadable.get() || is_unreadable(error));
        }
        result
    }

    #[cfg(any(test, feature = "faults"))]
    fn step(&self) -> rusqlite::Result<()> {
        self.faults.step()
    }

    #[cfg(not(any(test, feature = "faults")))]
    #[allow(
        clippy::unused_self,
        clippy::unnecessary_wraps,
        reason = "the seam for faults, closed in a release"
    )]
    fn step(&self) -> rusqlite::Result<()> {
        Ok(())
    }
}

/// Whether bytes that were to be written or synced may be lost. Then the file cannot be trusted until it is opened
/// again, since a second fsync may report success. A failure to grow the shared index (full disk) or to allocate memory
/// loses nothing.
pub(super) fn is_disk_failure(error: &rusqlite::Error) -> bool {
    let harmless = [
        ffi::SQLITE_IOERR_SHMOPEN,
        ffi::SQLITE_IOERR_SHMSIZE,
        ffi::SQLITE_IOERR_SHMMAP,
        ffi::SQLITE_IOERR_NOMEM,
    ];
    error.sqlite_error().is_some_and(|error| {
        error.code == ErrorCode::SystemIoFailure && !harmless.contains(&error.extended_code)
    })
}

/// A read transaction: all queries see one snapshot. Its two statements are compiled once per connection. `rusqlite`
/// would compile them for each transaction.
pub(super) struct Snapshot<'c>(&'c Connection);

impl<'c> Snapshot<'c> {
    pub(super) fn begin(conn: &'c Connection) -> Result<Self, StoreError> {
        conn.prepare_cached("BEGIN").and_then(|mut begin| begin.execute(())).map_err(failure)?;
        Ok(Self(conn))
    }

    pub(super) fn conn(&self) -> &'c Connection {
        self.0
    }
}

impl Drop for Snapshot<'_> {
    fn drop(&mut self) {
        // After an error SQLite may have ended the transaction by itself. A connection on which the rollback fails is
        // not used again, because the next `BEGIN` fails.
        if !self.0.is_autocommit() {
            let _ = self.0.prepare_cached("ROLLBACK").and_then(|mut end| end.execute(()));
        }
    }
}

/// The first row of a query on any connection; none if there is none.
pub(super) fn first<T>(
    conn: &Connection,
    sql: &str,
    params: impl Params,
    read: impl FnOnce(&Row<'_>) -> Result<T, StoreError>,
) -> Result<Option<T>, StoreError> {
    let mut statement = conn.prepare_cached(sql).map_err(failure)?;
    let mut rows = statement.query(params).map_err(failure)?;
    rows.next().map_err(failure)?.map(read).transpose()
}

/// Every row of a query on any connection.
pub(super) fn all<T>(
    conn: &Connection,
    sql: &str,
    params: impl Params,
    mut read: impl FnMut(&Row<'_>) -> Result<T, StoreError>,
) -> Result<Vec<T>, StoreError> {
    let mut statement = conn.prepare_cached(sql).map_err(failure)?;
    let mut rows = statement.query(params).map_err(failure)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next().map_err(failure)? {
        found.push(read(row)?);
    }
    Ok(found)
}
