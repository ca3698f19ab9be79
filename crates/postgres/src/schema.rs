//! The schema's number: the one that this program writes, and the one that a database has.
//!
//! Everything lives in a schema of its own, `agentrouter_secrets`, in which `schema_version` holds the number of the
//! last migration that ran. Called on every new connection, since another replica may have migrated the database.

use std::ops::RangeInclusive;

use agentrouter_store::StoreError;
use tokio_postgres::Client;

use super::failure::failure;

/// Every version of the schema, each as the step from the previous one.
pub(super) const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001_initial.sql"),
    include_str!("migrations/0002_freshness.sql"),
    include_str!("migrations/0003_facts.sql"),
    include_str!("migrations/0004_key_manifest.sql"),
    include_str!("migrations/0005_row_tags.sql"),
];
const EXISTS: &str = "SELECT to_regclass('agentrouter_secrets.schema_version') IS NOT NULL, \
     current_setting('server_version_num')::int, current_setting('server_encoding'), \
     EXISTS (SELECT 1 FROM pg_attribute WHERE attrelid = to_regclass('agentrouter_secrets.versions') \
     AND attname = 'tag' AND NOT attisdropped) \
     AND EXISTS (SELECT 1 FROM pg_attribute WHERE attrelid = to_regclass('agentrouter_secrets.replicas') \
     AND attname = 'program' AND NOT attisdropped)";
const VERSION: &str = "SELECT version FROM agentrouter_secrets.schema_version";
/// The oldest version of PostgreSQL that the tests cover.
const OLDEST_SERVER: i32 = 150_000;

/// The schemas of the older programs with which this one shares a database during a rolling upgrade.
pub(super) const SHARED: RangeInclusive<i32> = 3..=4;

/// The schema that this program writes.
pub(super) fn schema() -> i32 {
    i32::try_from(MIGRATIONS.len()).unwrap_or(i32::MAX)
}

/// A schema as it is in the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Its number; 0 for an empty database.
    pub(super) version: i32,
    /// Whether it has the columns of this program's schema. With a number in [`SHARED`], servers of older programs may
    /// use it at the same time.
    pub(super) prepared: bool,
}

impl Found {
    /// Whether this program can serve it.
    pub(super) fn is_current(self) -> bool {
        self.version == schema() || (SHARED.contains(&self.version) && self.prepared)
    }
}

/// Refuses a schema that is not a current one.
pub(super) async fn check(client: &Client) -> Result<(), StoreError> {
    match found(client).await? {
        found if found.is_current() => Ok(()),
        Found { version, .. } if version > schema() => {
            Err(StoreError::SchemaTooNew { found: version, supported: schema() })
        }
        Found { version: 0, .. } => Err(StoreError::Misconfigured {
            reason: "the database has no store",
            hint: "name the right database, or start the server once to create the store",
        }),
        Found { version, .. } => Err(StoreError::SchemaTooOld { found: version, needed: schema() }),
    }
}

/// The schema of a database.
pub(super) async fn found(client: &Client) -> Result<Found, StoreError> {
    let row = client.query_typed_one(EXISTS, &[]).await.map_err(failure)?;
    let wrong = |reason, hint| Err(StoreError::Misconfigured { reason, hint });
    if row.get::<_, i32>(1) < OLDEST_SERVER {
        return wrong("the server is older than PostgreSQL 15", "upgrade the server");
    }
    if row.get::<_, &str>(2) != "UTF8" {
        return wrong("the database's encoding is not UTF8", "create it again with ENCODING 'UTF8'");
    }
    if !row.get::<_, bool>(0) {
        return Ok(Found { version: 0, prepared: false });
    }
    let version = client.query_typed_one(VERSION, &[]).await.map_err(failure)?.get(0);
    Ok(Found { version, prepared: row.get(3) })
}
