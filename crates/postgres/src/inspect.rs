//! Inspection of a database for `doctor`: its integrity, its content, and the durability that its settings provide.
//! Reads all rows, on a connection of its own. Requests do not call it.

use std::pin::pin;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use tokio::time::Instant;
use tokio_postgres::{Client, Row};

use super::failure::failure;
use super::link::Dialer;
use super::{rows, schema, sql};
use agentrouter_store::{Inspection, RowTags, StoreError, Stored};

const SESSION: &str = "SET search_path = agentrouter_secrets, pg_temp; \
     BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
const COUNTS: &str = "SELECT (SELECT count(*) FROM secrets), (SELECT count(*) FROM versions), \
     (SELECT count(*) FROM api_keys)";
const WITHOUT_ACTIVE: &str = "SELECT count(*) FROM secrets s LEFT JOIN versions v ON v.secret_id = s.id \
     AND v.version = s.version AND v.owner = s.owner AND v.realm = s.realm AND v.name = s.name \
     AND v.status = 'active' AND v.kek_id = s.kek_id WHERE v.version IS NULL";
const STRAYS: &str = "SELECT count(*) FROM versions v LEFT JOIN secrets s ON s.owner = v.owner AND s.realm = v.realm \
     AND s.name = v.name AND s.id = v.secret_id WHERE s.id IS NULL";
const STRAY_TAGS: &str = "SELECT count(*) FROM secret_tags t LEFT JOIN secrets s ON s.owner = t.owner \
     AND s.realm = t.realm AND s.name = t.name WHERE s.id IS NULL";
const KEYS: &str = sql::ALL[sql::Sql::Keys as usize];
const SETTINGS: &str = "SELECT current_setting('fsync'), current_setting('full_page_writes')";
const OPEN: Duration = Duration::from_secs(10);

/// Checks the whole database.
pub(super) async fn inspect(dialer: &Dialer) -> Result<Inspection, StoreError> {
    let bare = dialer.bare(Instant::now() + OPEN).await?;
    let client = &bare.client;
    schema::check(client).await?;
    client.batch_execute(SESSION).await.map_err(failure)?;
    let mut problems = Vec::new();
    let mut note = |count: u64, what: &str| {
        if count > 0 {
            problems.push(format!("{count} {what}"));
        }
    };
    note(count(client, WITHOUT_ACTIVE).await?, "secrets lack their active version");
    note(count(client, STRAYS).await?, "versions belong to no secret");
    note(count(client, STRAY_TAGS).await?, "tags belong to no secret");
    note(
        count_where(client, sql::EVERY_VERSION, |row| rows::stored(row, None).is_err()).await?,
        "versions do not parse",
    );
    note(
        count_where(client, KEYS, |row| rows::examined_key(row).is_problem()).await?,
        "API keys do not parse",
    );
    let counts = client.query_typed_one(COUNTS, &[]).await.map_err(failure)?;
    let counted =
        |at| rows::column::<i64>(&counts, at, "a count").map(|count| u64::try_from(count).unwrap_or(0));
    Ok(Inspection {
        schema: schema::found(client).await?.version,
        secrets: counted(0)?,
        versions: counted(1)?,
        api_keys: counted(2)?,
        problems,
    })
}

/// The settings of the database that are weaker than the service's guarantees require.
pub(super) async fn weaknesses(dialer: &Dialer) -> Result<Vec<String>, StoreError> {
    let bare = dialer.bare(Instant::now() + OPEN).await?;
    let row = bare.client.query_typed_one(SETTINGS, &[]).await.map_err(failure)?;
    let text = |at| rows::column::<&str>(&row, at, "a setting");
    let mut weaknesses = Vec::new();
    if text(0)? == "off" {
        weaknesses.push(
            "fsync is off: a crash of its machine loses acknowledged writes and may ruin it".to_owned(),
        );
    }
    if text(1)? == "off" {
        weaknesses.push("full_page_writes is off: a crash of its machine may ruin it".to_owned());
    }
    Ok(weaknesses)
}

/// See [`PostgresStore::each_version`](super::PostgresStore::each_version).
pub(super) async fn each_version(
    dialer: &Dialer,
    tags: Option<&dyn RowTags>,
    mut look: impl FnMut(&Stored, bool),
) -> Result<(), StoreError> {
    let bare = dialer.bare(Instant::now() + OPEN).await?;
    bare.client.batch_execute(SESSION).await.map_err(failure)?;
    let none = std::iter::empty::<(&str, tokio_postgres::types::Type)>();
    let mut rows = pin!(bare.client.query_typed_raw(sql::EVERY_VERSION, none).await.map_err(failure)?);
    while let Some(row) = rows.try_next().await.map_err(failure)? {
        let Ok(stored) = rows::stored(&row, None) else { continue };
        match rows::of_version(&row, tags) {
            Err(error @ StoreError::Unavailable { .. }) => return Err(error),
            verified => look(&stored, verified.is_ok()),
        }
    }
    Ok(())
}

async fn count(client: &Client, sql: &str) -> Result<u64, StoreError> {
    let row = client.query_typed_one(sql, &[]).await.map_err(failure)?;
    rows::column::<i64>(&row, 0, "a count").map(|count| u64::try_from(count).unwrap_or(0))
}

/// The number of rows for which `is_problem` holds.
async fn count_where(client: &Client, sql: &str, is_problem: fn(&Row) -> bool) -> Result<u64, StoreError> {
    let rows = client.query_typed_raw(sql, std::iter::empty::<(&str, tokio_postgres::types::Type)>());
    let mut rows = pin!(rows.await.map_err(failure)?);
    let mut found = 0;
    while let Some(row) = rows.try_next().await.map_err(failure)? {
        found += u64::from(is_problem(&row));
    }
    Ok(found)
}
