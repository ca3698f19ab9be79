//! The authentication of the rows of a database that an older program has written.
//!
//! Servers of an older program write rows without tags. So it begins when no such server is registered:
//!
//! 1. One transaction raises the schema's number. From then on the older program refuses the database.
//! 2. Every row gets its tag (`retag`), while the servers of this program work.
//! 3. One transaction locks the keys against changes and writes the key manifest, which says that all rows have tags.
//!
//! A server that was started while the number was raised may have registered since. Then the third step is not done, and all
//! of it is repeated later. One server at a time does this.

use agentrouter_store::row_tags::{KEY_MANIFEST, KeyChange};
use agentrouter_store::{RowTags, StoreError};
use tokio::time::{Instant, timeout};
use tokio_postgres::Client;

use super::failure::{LATE, failure};
use super::link::{Dialer, durable};
use super::migrate::SET_VERSION;
use super::portable::{OPEN, begin_session, fact_on};
use super::schema::{self, schema};
use super::{retag, rows, sql};

/// The lock also keeps other servers from writing a first manifest at the same time.
const WRITE: &str = concat!(
    "BEGIN ISOLATION LEVEL READ COMMITTED; ",
    durable!(),
    "; LOCK TABLE api_keys IN SHARE ROW EXCLUSIVE MODE"
);
/// The advisory lock of the server that does this: `ARSS` and the word `tags`. The session holds it until it ends.
const ONE_AT_A_TIME: &str = "SELECT pg_try_advisory_lock(1095914323, 1952540531)";
/// Whether a server is registered whose program does not know this schema.
const OLDER_SERVERS: &str = "SELECT EXISTS (SELECT 1 FROM replicas WHERE program < $1)";
const KEYS: &str = sql::ALL[sql::Sql::Keys as usize];
const SET_FACT: &str = "INSERT INTO facts (name, value) VALUES ($1, $2) \
     ON CONFLICT (name) DO UPDATE SET value = excluded.value";

/// See [`Keys::authenticate_rows`](agentrouter_store::Keys::authenticate_rows).
///
/// # Errors
/// As any write.
pub(super) async fn authenticate(dialer: &Dialer, tags: &dyn RowTags) -> Result<bool, StoreError> {
    let link = dialer.bare(Instant::now() + OPEN).await?;
    schema::check(&link.client).await?;
    if !begin(&link.client).await? {
        return Ok(false);
    }
    retag::retag(dialer, tags).await?;
    timeout(OPEN, link.client.batch_execute(WRITE)).await.map_err(|_| LATE)?.map_err(failure)?;
    if are_there_older_servers(&link.client).await? {
        return Ok(false);
    }
    let manifest = timeout(OPEN, write(&link.client, tags)).await.map_err(|_| LATE)??;
    commit(&link.client).await?;
    tags.note(manifest.as_deref());
    Ok(true)
}

/// Raises the schema's number. False while a server of an older program is registered, or if another server is at it.
async fn begin(client: &Client) -> Result<bool, StoreError> {
    begin_session(client, WRITE).await?;
    let locked = client.query_one(ONE_AT_A_TIME, &[]).await.map_err(failure)?;
    if !rows::column::<bool>(&locked, 0, "a lock")? || are_there_older_servers(client).await? {
        return Ok(false);
    }
    if schema::found(client).await?.version < schema() {
        client.execute(SET_VERSION, &[&schema()]).await.map_err(failure)?;
    }
    commit(client).await?;
    Ok(true)
}

async fn are_there_older_servers(client: &Client) -> Result<bool, StoreError> {
    let older = client.query_one(OLDER_SERVERS, &[&schema()]).await.map_err(failure)?;
    rows::column(&older, 0, "a registration")
}

async fn commit(client: &Client) -> Result<(), StoreError> {
    let committed = timeout(OPEN, client.batch_execute("COMMIT")).await;
    committed.map_err(|_| StoreError::OutcomeUnknown { source: None })?.map_err(failure)
}

/// Writes the manifest. Returns the one that is there afterwards.
async fn write(client: &Client, tags: &dyn RowTags) -> Result<Option<String>, StoreError> {
    let mut keys = Vec::new();
    for row in client.query(KEYS, &[]).await.map_err(failure)? {
        match rows::api_key(&row) {
            Ok(key) => keys.push(key),
            Err(StoreError::Corrupt(_)) => {}
            Err(error) => return Err(error),
        }
    }
    let present = fact_on(client, KEY_MANIFEST).await?;
    let revised = tags.revise(present.as_deref(), KeyChange::All(&keys))?;
    if let Some(text) = &revised {
        client.execute(SET_FACT, &[&KEY_MANIFEST, text]).await.map_err(failure)?;
    }
    Ok(revised.or(present))
}
