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
pub(super) const LATE: StoreError = StoreError::unavailable("the database did not answer in time");

/// The part of a server's error that is kept.
#[derive(Debug, thiserror::Error)]
#[error("PostgreSQL reports SQLSTATE {0}")]
struct Reported(String);

/// The part of an error that may be shown.
pub(super) fn cause(error: Error) -> Cause {
    match error.code() {
        Some(code) => Arc::new(Reported(code.code().to_owned())),
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

/// Whether a failure to connect can be temporary: no server responds yet, or the server is starting, is stopping, does
/// not accept writes yet, or has no free connection. A wrong password or certificate is not temporary.
pub(super) fn may_pass(error: &StoreError) -> bool {
    let StoreError::Unavailable { source, .. } = error else { return false };
    let Some(source) = source else { return true };
    if let Some(Reported(code)) = source.downcast_ref() {
        let code = SqlState::from_code(code);
        return is_connection(&code) || code == SqlState::TOO_MANY_CONNECTIONS;
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
    error.code().is_none_or(|code| {
        is_connection(code) || *code == SqlState::T_R_STATEMENT_COMPLETION_UNKNOWN || code.code() == "08007"
    })
}

fn is_connection(code: &SqlState) -> bool {
    // Connection exceptions, operator intervention (a session ended, a server stopping or starting) other than a
    // cancelled statement, and a session ended for idling.
    let text = code.code();
    text.starts_with("08")
        || (text.starts_with("57P") && *code != SqlState::DATABASE_DROPPED)
        || *code == SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT
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
        Some(code) => match code.code() {
            // What the disk says, not what was stored: a page whose checksum fails, an index that is damaged, a read
            // that fails, a file that is missing.
            "XX001" | "XX002" | "58030" | "58P01" => UNREADABLE,
            "28000" | "28P01" => "the database does not admit this user with this password",
            "3D000" => "there is no such database",
            "42501" => "the database user lacks a privilege",
            "53100" => "the database's disk is full",
            "53300" => "the database has too many connections",
            "55P03" => "another transaction holds the rows for too long",
            "57014" => "the database took too long",
            "25006" => "the database is read-only",
            code if code.starts_with("57P") || code.starts_with("08") || code == "25P03" => {
                "the database ended the connection"
            }
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
        error.code().code() == "28000" && error.routine() == Some("ClientAuthentication")
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

/// Whether the database's own files could not be read.
pub(super) fn is_unreadable(error: &StoreError) -> bool {
    matches!(error, StoreError::Unavailable { reason: UNREADABLE, .. })
}

/// The reason of such an error.
pub(super) const UNREADABLE: &str = "the database is damaged, or its disk failed";

/// The same for an error while opening the store.
pub(super) fn opening(error: StoreError) -> StoreError {
    match error {
        StoreError::Unavailable { reason, source } => StoreError::Open { reason, source },
        other => other,
    }
}
