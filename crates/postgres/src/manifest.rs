//! The first key manifest, for a database whose keys are not authenticated yet.
//!
//! Servers of the older program issue keys without a manifest. So the first manifest is written when no such server is
//! registered. One transaction locks the keys against changes, writes the manifest and raises the schema's number. From
//! then on the older program refuses the database. Servers of this program need no pause.

use agentrouter_store::row_tags::{KEY_MANIFEST, KeyChange};
use agentrouter_store::{RowTags, StoreError};
use tokio::time::{Instant, timeout};
use tokio_postgres::Client;

use super::failure::{LATE, failure};
use super::link::{Dialer, durable};
use super::migrate::SET_VERSION;
use super::portable::{OPEN, begin_session, fact_on};
use super::schema::{self, SHARED, schema};
use super::{rows, sql};

/// The lock also keeps other servers from writing a first manifest at the same time.
const WRITE: &str = concat!(
    "BEGIN ISOLATION LEVEL READ COMMITTED; ",
    durable!(),
    "; LOCK TABLE api_keys IN SHARE ROW EXCLUSIVE MODE"
);
/// Whether a server is registered whose program does not know this schema.
const OLDER_SERVERS: &str = "SELECT EXISTS (SELECT 1 FROM replicas WHERE program < $1)";
const KEYS: &str = sql::ALL[sql::Sql::Keys as usize];
const SET_FACT: &str = "INSERT INTO facts (name, value) VALUES ($1, $2) \
     ON CONFLICT (name) DO UPDATE SET value = excluded.value";

/// See [`Keys::authenticate_keys`](agentrouter_store::Keys::authenticate_keys).
///
/// # Errors
/// As any write.
pub(super) async fn authenticate(dialer: &Dialer, tags: &dyn RowTags) -> Result<bool, StoreError> {
    let link = dialer.bare(Instant::now() + OPEN).await?;
    schema::check(&link.client).await?;
    begin_session(&link.client, WRITE).await?;
    match timeout(OPEN, write(&link.client, tags)).await.map_err(|_| LATE)?? {
        Some(manifest) => {
            let committed = timeout(OPEN, link.client.batch_execute("COMMIT")).await;
            committed.map_err(|_| StoreError::OutcomeUnknown { source: None })?.map_err(failure)?;
            tags.note(Some(&manifest));
            Ok(true)
        }
        None => Ok(false),
    }
}

/// Writes the manifest, which is returned. None while a server of the older program is registered.
async fn write(client: &Client, tags: &dyn RowTags) -> Result<Option<String>, StoreError> {
    let version = schema::found(client).await?.version;
    if version == SHARED {
        let older = client.query_one(OLDER_SERVERS, &[&schema()]).await.map_err(failure)?;
        if rows::column(&older, 0, "a registration")? {
            return Ok(None);
        }
        client.execute(SET_VERSION, &[&schema()]).await.map_err(failure)?;
    }
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
    Ok(revised)
}
