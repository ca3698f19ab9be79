//! Migrations: bring the database to the current schema.
//!
//! They run in one transaction under an advisory lock: of several replicas that start at once, one migrates and the
//! others find the schema migrated. A replica that is older than the schema refuses to start. Called once, when the
//! store is opened.
//!
//! Servers of the older program may run meanwhile. A step that waits for a table, for example until a dump has ended,
//! delays every statement of theirs that comes after it. So it waits for a short time only, and is retried after a
//! pause in which they continue. The advisory lock is kept, so that only one replica tries.

use std::time::Duration;

use agentrouter_store::StoreError;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_postgres::Client;

use super::failure::{failure, is_lock_timeout};
use super::link::Dialer;
use super::schema::{Found, MIGRATIONS, SHARED, found, schema};

/// The advisory lock of migrations: `ARSS` and the word `migr`.
const LOCK: &str = "SET search_path = agentrouter_secrets, pg_temp; SET client_min_messages = error; \
     SET lock_timeout = '25s'; BEGIN; SELECT pg_advisory_xact_lock(1095914323, 1835624306); \
     SET LOCAL lock_timeout = '500ms'";
/// How long the other servers continue between two attempts.
const PAUSE: Duration = Duration::from_secs(1);
/// The error when no attempt got its locks.
const HELD: StoreError =
    StoreError::unavailable("another session, such as a dump, locks a table that must be migrated");
const FIRST: &str = "DO $$ BEGIN IF to_regnamespace('agentrouter_secrets') IS NULL THEN \
     CREATE SCHEMA agentrouter_secrets; END IF; END $$; \
     CREATE TABLE IF NOT EXISTS agentrouter_secrets.schema_version \
     (only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row), version integer NOT NULL); \
     INSERT INTO agentrouter_secrets.schema_version (version) VALUES (0) ON CONFLICT DO NOTHING";
pub(super) const SET_VERSION: &str = "UPDATE agentrouter_secrets.schema_version SET version = $1";

/// Brings the database to the current schema.
///
/// # Errors
/// [`StoreError::SchemaTooNew`], or [`StoreError::Open`] for a server that is too old or not UTF-8.
pub(super) async fn run(dialer: &Dialer, deadline: Instant) -> Result<(), StoreError> {
    let late = |_| StoreError::unavailable("another server migrates the database and has not finished");
    let bare = dialer.bare(deadline).await?;
    timeout_at(deadline, migrate(&bare.client, deadline)).await.map_err(late)?
}

async fn migrate(client: &Client, deadline: Instant) -> Result<(), StoreError> {
    if is_done(found(client).await?)? {
        return Ok(());
    }
    client.batch_execute(LOCK).await.map_err(failure)?;
    client.batch_execute("SAVEPOINT attempt").await.map_err(failure)?;
    loop {
        match attempt(client).await {
            Err(error) if is_lock_timeout(&error) => {}
            Err(error) => return Err(error),
            Ok(()) => break,
        }
        client.batch_execute("ROLLBACK TO attempt").await.map_err(failure)?;
        // The time of the next attempt included.
        if Instant::now() + 2 * PAUSE > deadline {
            return Err(HELD);
        }
        sleep(PAUSE).await;
    }
    client.batch_execute("COMMIT").await.map_err(failure)
}

async fn attempt(client: &Client) -> Result<(), StoreError> {
    client.batch_execute(FIRST).await.map_err(failure)?;
    let present = found(client).await?;
    if !is_done(present)? {
        for migration in MIGRATIONS.iter().skip(usize::try_from(present.version).unwrap_or(0)) {
            client.batch_execute(migration).await.map_err(failure)?;
        }
        // Servers of older programs may use this schema. `manifest` raises the number when none is left.
        if !SHARED.contains(&present.version) {
            client.execute(SET_VERSION, &[&schema()]).await.map_err(failure)?;
        }
    }
    Ok(())
}

fn is_done(present: Found) -> Result<bool, StoreError> {
    if present.version > schema() {
        return Err(StoreError::SchemaTooNew { found: present.version, supported: schema() });
    }
    Ok(present.is_current())
}
