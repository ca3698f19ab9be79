//! The schema's number: the one that this program writes, and the one that a database has.
//!
//! Everything lives in a schema of its own, `agentrouter_secrets`, in which `schema_version` holds the number of the
//! last migration that ran. Called on every new connection, since another replica may have migrated the database.

use agentrouter_store::StoreError;
use tokio_postgres::Client;

use super::failure::failure;

/// Every version of the schema, each as the step from the previous one.
pub(super) const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001_initial.sql"),
    include_str!("migrations/0002_freshness.sql"),
    include_str!("migrations/0003_facts.sql"),
];
const EXISTS: &str = "SELECT to_regclass('agentrouter_secrets.schema_version') IS NOT NULL, \
     current_setting('server_version_num')::int, current_setting('server_encoding')";
const VERSION: &str = "SELECT version FROM agentrouter_secrets.schema_version";
/// The oldest version of PostgreSQL that the tests cover.
const OLDEST_SERVER: i32 = 150_000;

/// The schema that this program writes.
pub(super) fn schema() -> i32 {
    i32::try_from(MIGRATIONS.len()).unwrap_or(i32::MAX)
}

/// Refuses a schema that is not the current one.
pub(super) async fn check(client: &Client) -> Result<(), StoreError> {
    match found(client).await? {
        found if found == schema() => Ok(()),
        found if found > schema() => Err(StoreError::SchemaTooNew { found, supported: schema() }),
        0 => Err(StoreError::Misconfigured {
            reason: "the database has no store",
            hint: "name the right database, or start the server once to create the store",
        }),
        found => Err(StoreError::SchemaTooOld { found, needed: schema() }),
    }
}

/// The schema's number; 0 for an empty database.
pub(super) async fn found(client: &Client) -> Result<i32, StoreError> {
    let row = client.query_typed_one(EXISTS, &[]).await.map_err(failure)?;
    let wrong = |reason, hint| Err(StoreError::Misconfigured { reason, hint });
    if row.get::<_, i32>(1) < OLDEST_SERVER {
        return wrong("the server is older than PostgreSQL 15", "upgrade the server");
    }
    if row.get::<_, &str>(2) != "UTF8" {
        return wrong("the database's encoding is not UTF8", "create it again with ENCODING 'UTF8'");
    }
    if !row.get::<_, bool>(0) {
        return Ok(0);
    }
    Ok(client.query_typed_one(VERSION, &[]).await.map_err(failure)?.get(0))
}
