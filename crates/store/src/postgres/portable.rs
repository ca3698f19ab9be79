//! The whole of the database, out and in, each on a connection of its own. See [`crate::portable`].

use std::time::Duration;

use agentrouter_model::{ApiKeyRecord, Place, Secret, Timestamp};
use async_trait::async_trait;
use futures_util::future::try_join_all;
use tokio::time::Instant;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, Statement};

use super::failure::failure;
use super::link::{Dialer, Link};
use super::rows;
use crate::portable::{Export, Import, Item, check_versions};
use crate::{StoreError, Stored, json};

const READ: &str = "SET search_path = agentrouter_secrets, pg_temp; \
     BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
/// With a lock that lets one import at a time through: `ARSS` and the word `impo`.
const WRITE: &str = "SET search_path = agentrouter_secrets, pg_temp; SET lock_timeout = '25s'; \
     SELECT set_config('synchronous_commit', 'on', false) \
     WHERE current_setting('synchronous_commit') NOT IN ('on', 'remote_apply'); BEGIN; \
     SELECT pg_advisory_xact_lock(1095914323, 1768779887)";
const FACT: &str = "SELECT value FROM facts WHERE name = $1";
const SET_FACT: &str = "INSERT INTO facts (name, value) VALUES ($1, $2) \
     ON CONFLICT (name) DO UPDATE SET value = excluded.value";
const DELETE_FACT: &str = "DELETE FROM facts WHERE name = $1";
/// Whoever has something of another content in memory forgets it; see `lease`.
const BEGIN_HISTORY: &str = "UPDATE history SET epoch = epoch + 1";
const IS_USED: &str = "SELECT EXISTS (SELECT 1 FROM secrets) OR EXISTS (SELECT 1 FROM api_keys) \
     OR EXISTS (SELECT 1 FROM keks) OR EXISTS (SELECT 1 FROM internal_keys)";
/// The fact that marks a store that is being filled, and the one that a restore makes anew.
pub(super) const IMPORT: &str = "import";
pub(super) const EPOCH: &str = "epoch";
/// Longest time to connect.
const OPEN: Duration = Duration::from_secs(10);

/// The first secrets after (owner, realm, name), and all versions of some.
const SECRETS: &str = concat!(
    "SELECT s.owner, s.realm, s.name, s.id, s.description, s.tags, s.created_at, s.updated_at, s.rotated_at, ",
    "s.version, 'active' AS status, NULL::bigint AS expires_at, s.kek_id FROM secrets s ",
    "WHERE (s.owner, s.realm, s.name) > ($1, $2, $3) ORDER BY s.owner, s.realm, s.name LIMIT $4"
);
const VERSIONS: &str = concat!(
    "SELECT s.owner, s.realm, s.name, s.id, s.description, s.tags, s.created_at, s.updated_at, s.rotated_at, ",
    "v.version, v.status, v.expires_at, v.kek_id, v.wrapped_dek, v.sealed ",
    "FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS w(owner, realm, name, at) ",
    "JOIN secrets s ON s.owner = w.owner AND s.realm = w.realm AND s.name = w.name ",
    "JOIN versions v ON v.owner = s.owner AND v.realm = s.realm AND v.name = s.name AND v.secret_id = s.id ",
    "ORDER BY w.at, v.version"
);
const KEKS: &str = "SELECT kek_id, check_value FROM keks ORDER BY kek_id";
const INTERNAL_KEYS: &str = "SELECT kek_id, wrapped, purpose FROM internal_keys ORDER BY purpose";
const KEYS: &str = "SELECT id, digest, name, user_id, scopes, realm, realms, created_at, expires_at, revoked_at \
     FROM api_keys ORDER BY id";

/// A transaction that reads one state, on a connection of its own.
pub(super) struct PostgresExport {
    link: Link,
    at: Stage,
}

/// What comes next.
enum Stage {
    Facts,
    /// Secrets after this place.
    Secrets(Option<Place>),
    End,
}

impl PostgresExport {
    pub(super) async fn begin(dialer: &Dialer) -> Result<Self, StoreError> {
        let link = dialer.bare(Instant::now() + OPEN).await?;
        super::migrate::check(&link.client).await?;
        link.client.batch_execute(READ).await.map_err(failure)?;
        // The first read is what fixes the moment.
        fact_on(&link.client, EPOCH).await?;
        Ok(Self { link, at: Stage::Facts })
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
        for row in client.query(KEYS, &[]).await.map_err(failure)? {
            match rows::api_key(&row) {
                Ok(key) => items.push(Item::ApiKey(Box::new(key))),
                // It is refused wherever it is: one key less, and no reason to have no backup.
                Err(StoreError::Corrupt(what)) => tracing::warn!(what, "an API key is damaged and left out"),
                Err(error) => return Err(error),
            }
        }
        Ok(items)
    }

    async fn secrets(&self, after: Option<&Place>, count: usize) -> Result<Vec<Item>, StoreError> {
        let [owner, realm, name] = match after {
            Some(Place { owner, realm, name }) => [owner.as_str(), realm.as_str(), name.as_str()],
            None => [""; 3],
        };
        let limit = i64::try_from(count.max(1)).unwrap_or(i64::MAX);
        let client = &self.link.client;
        let found = client.query(SECRETS, &[&owner, &realm, &name, &limit]).await.map_err(failure)?;
        let secrets = found.iter().map(rows::secret).collect::<Result<Vec<Secret>, _>>()?;
        let column = |part: fn(&Place) -> &str| secrets.iter().map(|secret| part(&secret.place)).collect();
        let owners: Vec<&str> = column(|place| place.owner.as_str());
        let realms: Vec<&str> = column(|place| place.realm.as_str());
        let names: Vec<&str> = column(|place| place.name.as_str());
        let found = client.query(VERSIONS, &[&owners, &realms, &names]).await.map_err(failure)?;
        let mut versions = found.iter().map(rows::stored).peekable();
        let mut items = Vec::new();
        for secret in secrets {
            let mut own: Vec<Stored> = Vec::new();
            while let Some(next) = versions.next_if(|next| match next {
                Ok(stored) => stored.secret.place == secret.place,
                Err(_) => true,
            }) {
                own.push(next?);
            }
            check_versions(&secret, &own)?;
            items.push(Item::Secret(Box::new(secret)));
            items.extend(own.into_iter().map(|version| Item::Version(Box::new(version))));
        }
        Ok(items)
    }
}

#[async_trait]
impl Export for PostgresExport {
    async fn next(&mut self, count: usize) -> Result<Vec<Item>, StoreError> {
        loop {
            let items = match &self.at {
                Stage::Facts => self.facts().await?,
                Stage::Secrets(after) => self.secrets(after.as_ref(), count).await?,
                Stage::End => return Ok(Vec::new()),
            };
            let last = items.iter().rev().find_map(|item| match item {
                Item::Secret(secret) => Some(secret.place.clone()),
                _ => None,
            });
            self.at = match (&self.at, last) {
                (Stage::Facts, _) => Stage::Secrets(None),
                (_, None) => Stage::End,
                (_, last) => Stage::Secrets(last),
            };
            if !items.is_empty() {
                return Ok(items);
            }
        }
    }
}

/// A fact, read by itself.
pub(super) async fn fact(dialer: &Dialer, name: &str) -> Result<Option<String>, StoreError> {
    let link = dialer.bare(Instant::now() + OPEN).await?;
    link.client.batch_execute(READ).await.map_err(failure)?;
    fact_on(&link.client, name).await
}

pub(super) async fn unfinished(dialer: &Dialer) -> Result<Option<Import>, StoreError> {
    fact(dialer, IMPORT).await?.map(|text| Import::parse(&text)).transpose()
}

async fn fact_on(client: &Client, name: &str) -> Result<Option<String>, StoreError> {
    let row: Option<Row> = client.query_opt(FACT, &[&name]).await.map_err(failure)?;
    row.map(|row| rows::column(&row, 0, "a fact")).transpose()
}

/// See [`Store::begin_import`](crate::Store::begin_import).
pub(super) async fn begin(dialer: &Dialer, source: &str) -> Result<u64, StoreError> {
    let write = Write::begin(dialer).await?;
    if let Some(import) = write.import().await? {
        return if import.source == source { Ok(import.done) } else { Err(StoreError::Unfinished) };
    }
    let used = write.client().query_one(IS_USED, &[]).await.map_err(failure)?;
    if rows::column(&used, 0, "a count")? {
        return Err(StoreError::NotEmpty);
    }
    write.set(IMPORT, &Import { source: source.to_owned(), done: 0 }.to_text()).await?;
    write.commit().await?;
    Ok(0)
}

/// See [`Store::import`](crate::Store::import).
pub(super) async fn import(dialer: &Dialer, from: u64, items: &[Item]) -> Result<(), StoreError> {
    let write = Write::begin(dialer).await?;
    let import = write.import().await?.filter(|import| import.done == from);
    let mut import = import.ok_or(StoreError::Unfinished)?;
    let statements = Statements::prepare(write.client()).await?;
    // All are sent before the first is answered, in this order.
    try_join_all(items.iter().map(|item| statements.insert(write.client(), item))).await?;
    import.done += items.len() as u64;
    write.set(IMPORT, &import.to_text()).await?;
    write.commit().await
}

/// See [`Store::finish_import`](crate::Store::finish_import).
pub(super) async fn finish(dialer: &Dialer, epoch: Option<&str>) -> Result<(), StoreError> {
    let write = Write::begin(dialer).await?;
    write.import().await?.ok_or(StoreError::NotEmpty)?;
    if let Some(epoch) = epoch {
        write.set(EPOCH, epoch).await?;
    }
    write.client().execute(DELETE_FACT, &[&IMPORT]).await.map_err(failure)?;
    write.client().execute(BEGIN_HISTORY, &[]).await.map_err(failure)?;
    write.commit().await
}

/// A transaction that writes; undone unless it is committed.
struct Write(Link);

impl Write {
    async fn begin(dialer: &Dialer) -> Result<Self, StoreError> {
        let link = dialer.bare(Instant::now() + OPEN).await?;
        link.client.batch_execute(WRITE).await.map_err(failure)?;
        Ok(Self(link))
    }

    fn client(&self) -> &Client {
        &self.0.client
    }

    async fn import(&self) -> Result<Option<Import>, StoreError> {
        fact_on(self.client(), IMPORT).await?.map(|text| Import::parse(&text)).transpose()
    }

    async fn set(&self, name: &str, value: &str) -> Result<(), StoreError> {
        self.client().execute(SET_FACT, &[&name, &value]).await.map(|_| ()).map_err(failure)
    }

    /// A commit that was not answered may have happened; the mark of the import tells, the next time.
    async fn commit(self) -> Result<(), StoreError> {
        self.client().batch_execute("COMMIT").await.map_err(|error| match failure(error) {
            StoreError::Unavailable { source, .. } => StoreError::OutcomeUnknown { source },
            other => other,
        })
    }
}

async fn run(
    client: &Client,
    statement: &Statement,
    params: &[&(dyn ToSql + Sync)],
) -> Result<(), StoreError> {
    client.execute(statement, params).await.map(|_| ()).map_err(failure)
}

/// The statements of an import, prepared.
struct Statements {
    kek: Statement,
    internal_key: Statement,
    api_key: Statement,
    secret: Statement,
    tags: Statement,
    version: Statement,
}

impl Statements {
    async fn prepare(client: &Client) -> Result<Self, StoreError> {
        let prepare = |sql| async move { client.prepare(sql).await.map_err(failure) };
        Ok(Self {
            kek: prepare("INSERT INTO keks (kek_id, check_value) VALUES ($1, $2)").await?,
            internal_key: prepare("INSERT INTO internal_keys (purpose, kek_id, wrapped) VALUES ($1, $2, $3)")
                .await?,
            api_key: prepare(
                "INSERT INTO api_keys (id, digest, name, user_id, scopes, realm, realms, created_at, expires_at, \
                 revoked_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
            )
            .await?,
            secret: prepare(
                "INSERT INTO secrets (owner, realm, name, id, description, tags, created_at, updated_at, rotated_at, \
                 version, kek_id) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
            )
            .await?,
            tags: prepare(
                "INSERT INTO secret_tags (owner, realm, name, key, value) \
                 SELECT $1, $2, $3, t.key, t.value FROM unnest($4::text[], $5::text[]) AS t(key, value)",
            )
            .await?,
            version: prepare(
                "INSERT INTO versions (owner, realm, name, secret_id, version, status, expires_at, kek_id, \
                 wrapped_dek, sealed) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
            )
            .await?,
        })
    }

    async fn insert(&self, client: &Client, item: &Item) -> Result<(), StoreError> {
        match item {
            Item::Kek { id, check } => run(client, &self.kek, &[&id.as_str(), &check.as_slice()]).await,
            Item::InternalKey { purpose, kek, wrapped } => {
                run(client, &self.internal_key, &[purpose, &kek.as_str(), &&**wrapped]).await
            }
            Item::ApiKey(key) => self.insert_key(client, key).await,
            Item::Secret(secret) => self.insert_secret(client, secret).await,
            Item::Version(stored) => self.insert_version(client, stored).await,
        }
    }

    async fn insert_key(&self, client: &Client, key: &ApiKeyRecord) -> Result<(), StoreError> {
        let realms = key.realms.as_deref().map(json::from_realms).transpose()?;
        run(
            client,
            &self.api_key,
            &[
                &key.id.as_str(),
                &key.digest.as_slice(),
                &key.name.as_bytes(),
                &key.user.as_str(),
                &key.scopes.to_string(),
                &key.realm.as_str(),
                &realms,
                &key.created_at.as_micros(),
                &key.expires_at.map(Timestamp::as_micros),
                &key.revoked_at.map(Timestamp::as_micros),
            ],
        )
        .await
    }

    async fn insert_secret(&self, client: &Client, secret: &Secret) -> Result<(), StoreError> {
        let Place { owner, realm, name } = &secret.place;
        let tags = json::from_tags(&secret.tags)?;
        let (keys, values): (Vec<&str>, Vec<&str>) =
            secret.tags.iter().map(|(key, value)| (key.as_str(), value.as_str())).unzip();
        run(
            client,
            &self.secret,
            &[
                &owner.as_str(),
                &realm.as_str(),
                &name.as_str(),
                &secret.id.to_string(),
                &secret.description.as_str().as_bytes(),
                &tags,
                &secret.created_at.as_micros(),
                &secret.updated_at.as_micros(),
                &secret.rotated_at.map(Timestamp::as_micros),
                &secret.version.get(),
                &secret.kek_id.as_str(),
            ],
        )
        .await?;
        let at = (owner.as_str(), realm.as_str(), name.as_str());
        run(client, &self.tags, &[&at.0, &at.1, &at.2, &keys, &values]).await
    }

    async fn insert_version(&self, client: &Client, stored: &Stored) -> Result<(), StoreError> {
        let secret = &stored.secret;
        let Place { owner, realm, name } = &secret.place;
        let envelope = stored.envelope.as_ref();
        run(
            client,
            &self.version,
            &[
                &owner.as_str(),
                &realm.as_str(),
                &name.as_str(),
                &secret.id.to_string(),
                &secret.version.get(),
                &secret.status.as_str(),
                &secret.expires_at.map(Timestamp::as_micros),
                &secret.kek_id.as_str(),
                &envelope.map(|envelope| &*envelope.wrapped_dek),
                &envelope.map(|envelope| &*envelope.sealed),
            ],
        )
        .await
    }
}
