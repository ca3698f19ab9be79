//! Export and import of the whole database, each on a connection of its own. See [`agentrouter_store::portable`].

mod import;

use std::sync::Arc;
use std::time::Duration;

use agentrouter_model::SecretId;
use async_trait::async_trait;
use tokio::time::{Instant, timeout};
use tokio_postgres::{Client, Row};

pub(super) use self::import::{begin, finish, import};
use super::failure::{LATE, failure};
use super::link::{Dialer, Link};
use super::rows;
use agentrouter_store::portable::{EPOCH, Export, Import, Item, LeftOut, whole_secret};
use agentrouter_store::row_tags::{self, KEY_MANIFEST, verified};
use agentrouter_store::{RowTags, StoreError};

/// Settings of a session without time limits, even if the database sets some. TCP keepalive detects a dead peer.
const UNHURRIED: &str = "SET search_path = agentrouter_secrets, pg_temp; SET lock_timeout = '25s'; \
     SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0; SET tcp_keepalives_idle = 10; \
     SET tcp_keepalives_interval = 3; SET tcp_keepalives_count = 3; \
     SELECT set_config('transaction_timeout', '0', false) WHERE current_setting('transaction_timeout', true) IS NOT NULL";
const READ: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
const FACT: &str = "SELECT value FROM facts WHERE name = $1";
/// Longest time to connect, and to read a fact.
pub(super) const OPEN: Duration = Duration::from_secs(10);

/// The first secrets after (owner, realm, name), and all versions of some.
const SECRETS: &str = concat!(
    "SELECT s.owner, s.realm, s.name, s.id, s.description, s.tags, s.created_at, s.updated_at, s.rotated_at, ",
    "s.version, 'active' AS status, NULL::bigint AS expires_at, s.kek_id, s.version AS active, s.tag FROM secrets s ",
    "WHERE (s.owner, s.realm, s.name) > ($1, $2, $3) ORDER BY s.owner, s.realm, s.name LIMIT $4"
);
const VERSIONS: &str = concat!(
    "SELECT s.owner, s.realm, s.name, s.id, s.description, s.tags, s.created_at, s.updated_at, s.rotated_at, ",
    "v.version, v.status, v.expires_at, v.kek_id, s.version AS active, s.tag, v.tag, v.wrapped_dek, v.sealed ",
    "FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS w(owner, realm, name, at) ",
    "JOIN secrets s ON s.owner = w.owner AND s.realm = w.realm AND s.name = w.name ",
    "JOIN versions v ON v.owner = s.owner AND v.realm = s.realm AND v.name = s.name AND v.secret_id = s.id ",
    "ORDER BY w.at, v.version"
);
/// The KEKs that wrap keys, and the newest by id, which is the active one.
const KEKS: &str = "SELECT k.kek_id, k.check_value FROM keks k WHERE k.kek_id = (SELECT max(kek_id) FROM keks) \
     OR EXISTS (SELECT 1 FROM versions v WHERE v.kek_id = k.kek_id AND v.wrapped_dek IS NOT NULL) \
     OR EXISTS (SELECT 1 FROM internal_keys i WHERE i.kek_id = k.kek_id) ORDER BY k.kek_id";
const INTERNAL_KEYS: &str = "SELECT kek_id, wrapped, purpose FROM internal_keys ORDER BY purpose";
const KEYS: &str = "SELECT id, digest, name, user_id, scopes, realm, realms, created_at, expires_at, revoked_at \
     FROM api_keys ORDER BY id";

/// A transaction that reads one state, on a connection of its own.
pub(super) struct PostgresExport {
    link: Link,
    at: Stage,
    left_out: LeftOut,
    tags: Option<Arc<dyn RowTags>>,
}

/// Owner, realm and name as stored. They may not parse.
type At = [String; 3];

/// The next part of the export.
enum Stage {
    Facts,
    /// Secrets after this place.
    Secrets(At),
    End,
}

impl PostgresExport {
    pub(super) async fn begin(dialer: &Dialer, tags: Option<Arc<dyn RowTags>>) -> Result<Self, StoreError> {
        let link = dialer.bare(Instant::now() + OPEN).await?;
        super::schema::check(&link.client).await?;
        begin_session(&link.client, READ).await?;
        // The first read takes the snapshot.
        fact_on(&link.client, EPOCH).await?;
        Ok(Self { link, at: Stage::Facts, left_out: LeftOut::default(), tags })
    }

    async fn facts(&self) -> Result<Vec<Item>, StoreError> {
        let client = &self.link.client;
        let mut items = Vec::new();
        for row in client.query(KEKS, &[]).await.map_err(failure)? {
            let (id, check) = rows::kek_check(&row)?;
            items.push(Item::Kek { id, check });
        }
        for row in client.query(INTERNAL_KEYS, &[]).await.map_err(failure)? {
            let (kek, wrapped) = rows::wrapped(&row)?;
            let purpose = rows::column::<String>(&row, 2, "a purpose")?;
            items.push(Item::InternalKey { purpose, kek, wrapped });
        }
        let keys = client.query(KEYS, &[]).await.map_err(failure)?;
        let mut keys: Vec<_> = keys.iter().map(rows::examined_key).collect();
        if let Some(tags) = &self.tags {
            let manifest = fact_on(client, KEY_MANIFEST).await?;
            if !row_tags::examine(&**tags, manifest.as_deref(), &mut keys) {
                return Err(row_tags::refused(&**tags, row_tags::OLDER));
            }
        }
        for key in keys {
            match key.usable() {
                Ok(key) => items.push(Item::ApiKey(Box::new(key))),
                // It is refused everywhere, so the export leaves it out and continues.
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "an API key is left out");
                }
            }
        }
        Ok(items)
    }

    /// The secrets after a place, and the last place among them; none at the end.
    async fn secrets(&mut self, after: &At, count: usize) -> Result<(Vec<Item>, Option<At>), StoreError> {
        let [owner, realm, name] = after;
        let limit = i64::try_from(count.max(1)).unwrap_or(i64::MAX);
        let tags = verified(self.tags.as_deref());
        let client = &self.link.client;
        let found = client.query(SECRETS, &[&owner, &realm, &name, &limit]).await.map_err(failure)?;
        let places = found.iter().map(at).collect::<Result<Vec<At>, _>>()?;
        let column = |part: usize| places.iter().map(|place| place[part].as_str()).collect();
        let (owners, realms, names): (Vec<&str>, Vec<&str>, Vec<&str>) = (column(0), column(1), column(2));
        let versions = client.query(VERSIONS, &[&owners, &realms, &names]).await.map_err(failure)?;
        let mut versions = versions.iter().peekable();
        let mut items = Vec::new();
        for (row, place) in found.iter().zip(&places) {
            let mut own = Vec::new();
            while let Some(version) = versions.next_if(|version| at(version).is_ok_and(|at| at == *place)) {
                own.push(rows::stored(version, tags));
            }
            let id = || rows::parsed(row, 3, "a secret's id", SecretId::parse).ok().map(|id| id.to_string());
            items.extend(whole_secret(rows::secret(row, tags), id, own, &mut self.left_out)?);
        }
        Ok((items, places.into_iter().next_back()))
    }
}

fn at(row: &Row) -> Result<At, StoreError> {
    let text = |column| rows::column::<String>(row, column, "a secret's place");
    Ok([text(0)?, text(1)?, text(2)?])
}

#[async_trait]
impl Export for PostgresExport {
    async fn next(&mut self, count: usize) -> Result<Vec<Item>, StoreError> {
        loop {
            let (items, next) = match &self.at {
                Stage::Facts => (self.facts().await?, Stage::Secrets(At::default())),
                Stage::Secrets(after) => {
                    let after = after.clone();
                    let (items, last) = self.secrets(&after, count).await?;
                    (items, last.map_or(Stage::End, Stage::Secrets))
                }
                Stage::End => return Ok(Vec::new()),
            };
            self.at = next;
            if !items.is_empty() {
                return Ok(items);
            }
        }
    }

    fn left_out(&self) -> &LeftOut {
        &self.left_out
    }
}

/// Sets up a session and begins a transaction, whose kind must be set before its first query.
pub(super) async fn begin_session(client: &Client, begin: &str) -> Result<(), StoreError> {
    client.batch_execute(UNHURRIED).await.map_err(failure)?;
    client.batch_execute(begin).await.map_err(failure)
}

/// Reads one fact.
pub(super) async fn fact(dialer: &Dialer, name: &str) -> Result<Option<String>, StoreError> {
    let link = dialer.bare(Instant::now() + OPEN).await?;
    let read = async {
        begin_session(&link.client, READ).await?;
        fact_on(&link.client, name).await
    };
    timeout(OPEN, read).await.map_err(|_| LATE)?
}

pub(super) async fn unfinished(dialer: &Dialer) -> Result<Option<Import>, StoreError> {
    fact(dialer, Import::FACT).await?.map(|text| Import::parse(&text)).transpose()
}

pub(super) async fn fact_on(client: &Client, name: &str) -> Result<Option<String>, StoreError> {
    let row: Option<Row> = client.query_opt(FACT, &[&name]).await.map_err(failure)?;
    row.map(|row| rows::column(&row, 0, "a fact")).transpose()
}
