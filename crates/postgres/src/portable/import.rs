//! Import into an empty database. See [`agentrouter_store::portable`].

use std::time::Duration;

use agentrouter_model::{ApiKeyRecord, Place, Secret, Timestamp};
use futures_util::future::try_join_all;
use tokio::time::{Instant, timeout};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Statement};

use super::{LATE, OPEN, begin_session, fact_on};
use crate::failure::failure;
use crate::link::{Dialer, Link, durable};
use crate::{rows, schema};
use agentrouter_store::portable::{EPOCH, Import, Item};
use agentrouter_store::row_tags::{secret_tag, version_tag};
use agentrouter_store::{RowTags, StoreError, Stored, json};

/// Takes an advisory lock, so that one import runs at a time: `ARSS` and the word `impo`.
const WRITE: &str = concat!(
    "BEGIN ISOLATION LEVEL READ COMMITTED; ",
    durable!(),
    "; SELECT pg_advisory_xact_lock(1095914323, 1768779887)"
);
/// Longest time to insert a batch, and longest time to commit it.
const BATCH: Duration = Duration::from_secs(120);
const COMMIT: Duration = Duration::from_secs(60);
const SET_FACT: &str = "INSERT INTO facts (name, value) VALUES ($1, $2) \
     ON CONFLICT (name) DO UPDATE SET value = excluded.value";
const DELETE_FACT: &str = "DELETE FROM facts WHERE name = $1";
/// Raises the epoch, so that replicas drop the rows of the former content; see `agentrouter_lease`.
const BEGIN_HISTORY: &str = "UPDATE history SET epoch = epoch + 1";
const IS_USED: &str = "SELECT EXISTS (SELECT 1 FROM secrets) OR EXISTS (SELECT 1 FROM api_keys) \
     OR EXISTS (SELECT 1 FROM keks) OR EXISTS (SELECT 1 FROM internal_keys)";

/// See [`Portable::begin_import`](agentrouter_store::Portable::begin_import).
pub(crate) async fn begin(dialer: &Dialer, source: &str) -> Result<u64, StoreError> {
    let write = Write::begin(dialer).await?;
    if let Some(import) = write.import().await? {
        return import.resume(source);
    }
    let used = write.client().query_one(IS_USED, &[]).await.map_err(failure)?;
    if rows::column(&used, 0, "a count")? {
        return Err(StoreError::NotEmpty);
    }
    write.set(Import::FACT, &Import::begin(source.to_owned()).to_text()).await?;
    write.commit().await?;
    Ok(0)
}

/// See [`Portable::import`](agentrouter_store::Portable::import).
pub(crate) async fn import(
    dialer: &Dialer,
    tags: Option<&dyn RowTags>,
    from: u64,
    items: &[Item],
) -> Result<(), StoreError> {
    let write = Write::begin(dialer).await?;
    let import = Import::advance(write.import().await?, from, items.len())?;
    let insert = async {
        let statements = Statements::prepare(write.client()).await?;
        // All are sent in this order, before the first response arrives.
        try_join_all(items.iter().map(|item| statements.insert(write.client(), tags, item))).await?;
        write.set(Import::FACT, &import.to_text()).await
    };
    timeout(BATCH, insert).await.map_err(|_| LATE)??;
    write.commit().await
}

/// See [`Portable::finish_import`](agentrouter_store::Portable::finish_import).
pub(crate) async fn finish(dialer: &Dialer, epoch: Option<&str>) -> Result<(), StoreError> {
    let write = Write::begin(dialer).await?;
    write.import().await?.ok_or(StoreError::NotEmpty)?;
    if let Some(epoch) = epoch {
        write.set(EPOCH, epoch).await?;
    }
    write.client().execute(DELETE_FACT, &[&Import::FACT]).await.map_err(failure)?;
    write.client().execute(BEGIN_HISTORY, &[]).await.map_err(failure)?;
    write.commit().await
}

/// A transaction that writes. It is rolled back unless it is committed.
struct Write(Link);

impl Write {
    async fn begin(dialer: &Dialer) -> Result<Self, StoreError> {
        let link = dialer.bare(Instant::now() + OPEN).await?;
        // A newer program may have migrated the database since the store was opened.
        schema::check(&link.client).await?;
        begin_session(&link.client, WRITE).await?;
        Ok(Self(link))
    }

    fn client(&self) -> &Client {
        &self.0.client
    }

    async fn import(&self) -> Result<Option<Import>, StoreError> {
        fact_on(self.client(), Import::FACT).await?.map(|text| Import::parse(&text)).transpose()
    }

    async fn set(&self, name: &str, value: &str) -> Result<(), StoreError> {
        self.client().execute(SET_FACT, &[&name, &value]).await.map(|_| ()).map_err(failure)
    }

    /// A commit without a response may have happened, and so may a commit that stopped waiting for its standby (the
    /// server reports that as a warning). The mark of the import shows the outcome at the next attempt.
    async fn commit(self) -> Result<(), StoreError> {
        let warnings = self.0.warnings();
        match timeout(COMMIT, self.client().batch_execute("COMMIT")).await {
            Ok(Ok(())) if self.0.warnings() == warnings => Ok(()),
            Ok(Ok(())) | Err(_) => Err(StoreError::OutcomeUnknown { source: None }),
            Ok(Err(error)) => Err(match failure(error) {
                StoreError::Unavailable { source, .. } => StoreError::OutcomeUnknown { source },
                other => other,
            }),
        }
    }
}

async fn run(
    client: &Client,
    statement: &Statement,
    params: &[&(dyn ToSql + Sync)],
) -> Result<(), StoreError> {
    client.execute(statement, params).await.map(|_| ()).map_err(failure)
}

/// The prepared statements of an import.
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
                 version, kek_id, tag) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
            )
            .await?,
            tags: prepare(
                "INSERT INTO secret_tags (owner, realm, name, key, value) \
                 SELECT $1, $2, $3, t.key, t.value FROM unnest($4::text[], $5::text[]) AS t(key, value)",
            )
            .await?,
            version: prepare(
                "INSERT INTO versions (owner, realm, name, secret_id, version, status, expires_at, kek_id, \
                 wrapped_dek, sealed, tag) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
            )
            .await?,
        })
    }

    async fn insert(
        &self,
        client: &Client,
        tags: Option<&dyn RowTags>,
        item: &Item,
    ) -> Result<(), StoreError> {
        match item {
            Item::Kek { id, check } => run(client, &self.kek, &[&id.as_str(), &check.as_slice()]).await,
            Item::InternalKey { purpose, kek, wrapped } => {
                run(client, &self.internal_key, &[purpose, &kek.as_str(), &&**wrapped]).await
            }
            Item::ApiKey(key) => self.insert_key(client, key).await,
            Item::Secret(secret) => self.insert_secret(client, tags, secret).await,
            Item::Version(stored) => self.insert_version(client, tags, stored).await,
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

    async fn insert_secret(
        &self,
        client: &Client,
        tags: Option<&dyn RowTags>,
        secret: &Secret,
    ) -> Result<(), StoreError> {
        let Place { owner, realm, name } = &secret.place;
        let row_tag = secret_tag(tags, secret);
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
                &row_tag.as_ref().map(<[u8; 16]>::as_slice),
            ],
        )
        .await?;
        let at = (owner.as_str(), realm.as_str(), name.as_str());
        run(client, &self.tags, &[&at.0, &at.1, &at.2, &keys, &values]).await
    }

    async fn insert_version(
        &self,
        client: &Client,
        tags: Option<&dyn RowTags>,
        stored: &Stored,
    ) -> Result<(), StoreError> {
        stored.state()?;
        let secret = &stored.secret;
        let row_tag = version_tag(tags, secret, secret.status, secret.expires_at);
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
                &row_tag.as_ref().map(<[u8; 16]>::as_slice),
            ],
        )
        .await
    }
}
