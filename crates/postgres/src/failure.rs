//! Error mapping: from PostgreSQL's errors to [`StoreError`].
//!
//! An error of the server can name rows (`Key (owner, realm, name)=(…) already exists`), so nothing of it is kept but
//! its SQLSTATE; see <https://www.postgresql.org/docs/current/errcodes-appendix.html>. Errors of the connection say
//! what the system or the TLS library said.

use std::sync::Arc;

use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

use agentrouter_store::{Cause, StoreError};

/// The error for a caller whose deadline has passed.
pub(super) const LATE: StoreError = StoreError::unavailable("the database did not respond in time");

/// The part of a server's error that is kept.
#[derive(Debug, thiserror::Error)]
#[error("PostgreSQL reports SQLSTATE {}", .0.code())]
struct Reported(SqlState);

/// The part of an error that may be shown.
pub(super) fn cause(error: Error) -> Cause {
    match error.code() {
        Some(code) => Arc::new(Reported(code.clone())),
        None => Arc::new(error),
    }
}

/// Whether the server reported the error. Then the transaction is rolled back, unless it was being committed.
pub(super) fn is_reported(error: &Error) -> bool {
    error.as_db_error().is_some()
}

/// Whether a retry of the transaction can succeed: it lost against another transaction, or its connection was lost.
pub(super) fn is_passing(error: &Error) -> bool {
    match error.code() {
        None => true,
        Some(code) => is_connection(code) || is_conflict(code),
    }
}

/// Whether a lock was not free within `lock_timeout`.
pub(super) fn is_lock_timeout(error: &StoreError) -> bool {
    let StoreError::Unavailable { source: Some(source), .. } = error else { return false };
    source.downcast_ref().is_some_and(|Reported(code)| *code == SqlState::LOCK_NOT_AVAILABLE)
}

/// Whether a failure to connect can be temporary: no server responds yet, or the server is starting, is stopping, does
/// not accept writes yet, or has no free connection. A wrong password or certificate is not temporary.
pub(super) fn may_pass(error: &StoreError) -> bool {
    let StoreError::Unavailable { source, .. } = error else { return false };
    let Some(source) = source else { return true };
    if let Some(Reported(code)) = source.downcast_ref() {
        return is_connection(code) || *code == SqlState::TOO_MANY_CONNECTIONS;
    }
    let first: &(dyn std::error::Error + 'static) = &**source;
    std::iter::successors(Some(first), |error| error.source())
        .filter_map(|error| error.downcast_ref::<std::io::Error>())
        .any(|error| error.get_ref().is_none_or(|inner| !inner.is::<rustls::Error>()))
}

/// Whether the connection can no longer be used.
pub(super) fn is_lost(error: &Error) -> bool {
    error.code().is_none_or(is_connection)
}

/// Whether an error in response to COMMIT leaves the outcome of the transaction unknown.
pub(super) fn is_ambiguous(error: &Error) -> bool {
    error.code().is_none_or(|code| is_connection(code) || *code == SqlState::T_R_STATEMENT_COMPLETION_UNKNOWN)
}

fn is_connection(code: &SqlState) -> bool {
    // The class of connection exceptions (its codes begin with 08), and of operator intervention (57) what ends a
    // session: a server that stops or starts, and a session that was idle.
    code.code().starts_with("08")
        || matches!(
            *code,
            SqlState::ADMIN_SHUTDOWN
                | SqlState::CRASH_SHUTDOWN
                | SqlState::CANNOT_CONNECT_NOW
                | SqlState::IDLE_SESSION_TIMEOUT
                | SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT
        )
}

fn is_conflict(code: &SqlState) -> bool {
    // Not duplicate keys: the locks prevent them among our writers, and a foreign writer's row does not go away.
    [&SqlState::T_R_SERIALIZATION_FAILURE, &SqlState::T_R_DEADLOCK_DETECTED].contains(&code)
}

/// The error for a caller whose request had no effect.
pub(super) fn failure(error: Error) -> StoreError {
    let reason = match error.code() {
        None if error.is_closed() => "the connection to the database was lost",
        None => "the database cannot be reached",
        Some(code) => match *code {
            _ if is_of_files(code) => "the database is damaged, or its disk failed",
            SqlState::INVALID_AUTHORIZATION_SPECIFICATION | SqlState::INVALID_PASSWORD => {
                "the database does not admit this user with this password"
            }
            SqlState::UNDEFINED_DATABASE => "there is no such database",
            SqlState::INSUFFICIENT_PRIVILEGE => "the database user lacks a privilege",
            SqlState::DISK_FULL => "the database's disk is full",
            SqlState::TOO_MANY_CONNECTIONS => "the database has too many connections",
            SqlState::LOCK_NOT_AVAILABLE => "another transaction holds the rows for too long",
            SqlState::QUERY_CANCELED => "the database took too long",
            SqlState::READ_ONLY_SQL_TRANSACTION => "the database is read-only",
            SqlState::DATABASE_DROPPED => "the database ended the connection",
            _ if is_connection(code) => "the database ended the connection",
            _ => "the database refused",
        },
    };
    StoreError::Unavailable { reason, source: Some(cause(error)) }
}

/// The error for a connection that was not made, with TLS or without.
pub(super) fn connecting(error: Error, tls: bool) -> StoreError {
    // The function of PostgreSQL that reports that pg_hba.conf has no line for a client, or one that rejects it. Other
    // errors of this SQLSTATE, such as an unknown role, have other functions.
    let unlisted = |error: &tokio_postgres::error::DbError| {
        *error.code() == SqlState::INVALID_AUTHORIZATION_SPECIFICATION
            && error.routine() == Some("ClientAuthentication")
    };
    if !error.as_db_error().is_some_and(unlisted) {
        return failure(error);
    }
    let reason = if tls {
        "pg_hba.conf of the database does not admit this user from this host with TLS; add a line for it"
    } else {
        "pg_hba.conf of the database does not admit this user from this host without TLS; if it has hostssl, add sslmode=verify-full to the URL"
    };
    StoreError::Unavailable { reason, source: Some(cause(error)) }
}

/// Whether the database's own files are damaged or cannot be read: a page whose checksum fails, a damaged index, a failed
/// read, a missing file.
fn is_of_files(code: &SqlState) -> bool {
    let files = [
        &SqlState::DATA_CORRUPTED,
        &SqlState::INDEX_CORRUPTED,
        &SqlState::IO_ERROR,
        &SqlState::UNDEFINED_FILE,
    ];
    files.contains(&code)
}

/// Whether the database's own files could not be read.
pub(super) fn is_unreadable(error: &StoreError) -> bool {
    let StoreError::Unavailable { source: Some(source), .. } = error else { return false };
    source.downcast_ref().is_some_and(|Reported(code)| is_of_files(code))
}

/// The same for an error while opening the store.
pub(super) fn opening(error: StoreError) -> StoreError {
    match error {
        StoreError::Unavailable { reason, source } => StoreError::Open { reason, source },
        other => other,
    }
}
