//! The schema: found, made, brought up to date.
//!
//! Everything lives in a schema of its own, `agentrouter_secrets`, in which `schema_version` holds the number of the last
//! migration that ran. Migrations run in one transaction under an advisory lock, so that of several replicas that start at
//! once one does it and the others find it done; a replica that is older than the schema refuses.

use tokio::time::{Instant, timeout_at};
use tokio_postgres::Client;

use super::failure::failure;
use super::link::Dialer;
use agentrouter_store::StoreError;

/// Every schema there ever was, as the step from the one before.
const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001_initial.sql"),
    include_str!("migrations/0002_freshness.sql"),
    include_str!("migrations/0003_facts.sql"),
];
/// The advisory lock of migrations: `ARSS` and the word `migr`.
const LOCK: &str = "SET search_path = agentrouter_secrets, pg_temp; SET client_min_messages = error; \
     SET lock_timeout = '25s'; BEGIN; SELECT pg_advisory_xact_lock(1095914323, 1835624306)";
const FIRST: &str = "DO $$ BEGIN IF to_regnamespace('agentrouter_secrets') IS NULL THEN \
     CREATE SCHEMA agentrouter_secrets; END IF; END $$; \
     CREATE TABLE IF NOT EXISTS agentrouter_secrets.schema_version \
     (only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row), version integer NOT NULL); \
     INSERT INTO agentrouter_secrets.schema_version (version) VALUES (0) ON CONFLICT DO NOTHING";
const EXISTS: &str = "SELECT to_regclass('agentrouter_secrets.schema_version') IS NOT NULL, \
     current_setting('server_version_num')::int, current_setting('server_encoding')";
const VERSION: &str = "SELECT version FROM agentrouter_secrets.schema_version";
const SET_VERSION: &str = "UPDATE agentrouter_secrets.schema_version SET version = $1";
/// The oldest server that there are tests for.
const OLDEST_SERVER: i32 = 150_000;

/// The schema that this program writes.
pub(super) fn schema() -> i32 {
    i32::try_from(MIGRATIONS.len()).unwrap_or(i32::MAX)
}

/// Brings the database to the present schema.
///
/// # Errors
/// [`StoreError::SchemaTooNew`], or [`StoreError::Open`] for a server that is too old or not UTF-8.
pub(super) async fn run(dialer: &Dialer, deadline: Instant) -> Result<(), StoreError> {
    let late = |_| StoreError::unavailable("another server migrates the database and has not finished");
    let bare = dialer.bare(deadline).await?;
    timeout_at(deadline, migrate(&bare.client)).await.map_err(late)?
}

/// Refuses a schema that is not the present one.
pub(super) async fn check(client: &Client) -> Result<(), StoreError> {
    match found(client).await? {
        found if found == schema() => Ok(()),
        found if found > schema() => Err(StoreError::SchemaTooNew { found, supported: schema() }),
        _ => {
            let reason = "it was made by an older version of this program; start the server once to bring it up to date";
            Err(StoreError::Open { reason, source: None })
        }
    }
}

/// The schema's number; 0 for an empty database.
async fn found(client: &Client) -> Result<i32, StoreError> {
    let row = client.query_typed_one(EXISTS, &[]).await.map_err(failure)?;
    let wrong = |reason| StoreError::Open { reason, source: None };
    if row.get::<_, i32>(1) < OLDEST_SERVER {
        return Err(wrong("the server is older than PostgreSQL 15"));
    }
    if row.get::<_, &str>(2) != "UTF8" {
        return Err(wrong("the database's encoding is not UTF8; make it anew with ENCODING 'UTF8'"));
    }
    if !row.get::<_, bool>(0) {
        return Ok(0);
    }
    Ok(client.query_typed_one(VERSION, &[]).await.map_err(failure)?.get(0))
}

async fn migrate(client: &Client) -> Result<(), StoreError> {
    let present = found(client).await?;
    if present > schema() {
        return Err(StoreError::SchemaTooNew { found: present, supported: schema() });
    }
    if present == schema() {
        return Ok(());
    }
    client.batch_execute(LOCK).await.map_err(failure)?;
    client.batch_execute(FIRST).await.map_err(failure)?;
    let present = found(client).await?;
    if present > schema() {
        return Err(StoreError::SchemaTooNew { found: present, supported: schema() });
    }
    for migration in MIGRATIONS.iter().skip(usize::try_from(present).unwrap_or(0)) {
        client.batch_execute(migration).await.map_err(failure)?;
    }
    client.execute(SET_VERSION, &[&schema()]).await.map_err(failure)?;
    client.batch_execute("COMMIT").await.map_err(failure)
}
