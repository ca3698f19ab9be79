//! Import into an empty store: resumed where an earlier attempt ended, and compared with its source.
//!
//! Called by `restore` and `migrate`. Batches end between secrets, so an interrupted attempt leaves whole secrets. The
//! next attempt compares them with the source before it continues, and everything at the end.

use std::future::Future;

use agentrouter_crypto::{Sha256, SystemRng};
use agentrouter_instance::Advised;
use agentrouter_instance::admin;
use agentrouter_instance::instance::Instance;
use agentrouter_model::{Reason, Refusal};
use agentrouter_service::{AdminAct, PAGE_TOKENS, Phase};
use agentrouter_store::portable::Item;
use agentrouter_store::{Store, StoreError};
use anyhow::{bail, ensure};

use crate::backup_file::format::Line;

/// The hash of items, in their one order.
#[derive(Clone)]
pub(crate) struct ItemsDigest(Sha256);

impl Default for ItemsDigest {
    fn default() -> Self {
        Self(Sha256::new())
    }
}

impl ItemsDigest {
    pub(crate) fn add(&mut self, item: &Item) -> anyhow::Result<()> {
        let mut line = Line::of(item).to_text()?;
        line.push(b'\n');
        self.0.update(&line);
        Ok(())
    }

    pub(crate) fn finish(self) -> [u8; 32] {
        self.0.finish()
    }

    /// The hash of all items in a store, without the key for page tokens if `without` it.
    async fn of(store: &dyn Store, without: bool) -> anyhow::Result<[u8; 32]> {
        let mut export = store.export().await?;
        let mut digest = Self::default();
        loop {
            let items = export.next(500).await?;
            if items.is_empty() {
                return Ok(digest.finish());
            }
            for item in &items {
                if !(without && is_for_page_tokens(item)) {
                    digest.add(item)?;
                }
            }
        }
    }
}

/// Whether it is the key for page tokens, which is in no backup: a restore makes a new one.
pub(crate) fn is_for_page_tokens(item: &Item) -> bool {
    matches!(item, Item::InternalKey { purpose, .. } if purpose == PAGE_TOKENS)
}

/// Refuses a store that cannot be filled from `source`, because it has other contents.
///
/// # Errors
/// [`StoreError::NotEmpty`], [`StoreError::Unfinished`].
pub(crate) async fn refuse_unfit(store: &dyn Store, source: &str) -> anyhow::Result<()> {
    match store.unfinished_import().await? {
        Some(import) if import.source == source => {}
        Some(_) => bail!(StoreError::Unfinished),
        None => {
            let empty = !store.has_keys().await? && store.export().await?.next(1).await?.is_empty();
            ensure!(empty, StoreError::NotEmpty);
        }
    }
    Ok(())
}

/// Refuses a store that a server uses. Called before the store is filled, and before its mark is removed.
pub(crate) async fn refuse_served(store: &dyn Store) -> anyhow::Result<()> {
    let servers = store.servers().await?;
    ensure!(
        servers.is_empty(),
        Advised::new(
            format!("the store to be filled is in use by server {}", servers.join(", server ")),
            "stop it and run this again (the file 'replica' in a server's data directory has its name)",
        )
    );
    Ok(())
}

/// Runs `work` between two audit records of `act`: the attempt, and the outcome, which is `failure` if it failed.
///
/// # Errors
/// When the log cannot be written, in which case nothing was done. Otherwise the error of `work`.
pub(crate) async fn on_record<T>(
    instance: &Instance,
    act: AdminAct,
    failure: Reason,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let (service, origin) = (&instance.service, admin::origin(&SystemRng));
    let refused = |refusal: Refusal| anyhow::anyhow!("{}", refusal.message());
    service.record_admin(&origin, act, Phase::Attempt, None).await.map_err(refused)?;
    let done = work.await;
    let failed = done.is_err().then(|| Refusal::new(failure));
    service.conclude_admin(&origin, act, None, failed.as_ref()).await;
    done.map_err(|error| match error.downcast_ref::<StoreError>() {
        Some(StoreError::OutcomeUnknown { .. }) => Advised::new(
            "the work may not be complete",
            "run the same command again: it continues where it was, or reports that there is a store already if all of it was done",
        )
        .because(error)
        .into(),
        _ => error,
    })
}

/// An import in progress.
pub(crate) struct Import<'a> {
    store: &'a dyn Store,
    without_page_tokens: bool,
    done: u64,
    /// Items of an earlier attempt that the source has not returned again yet.
    skip: u64,
    /// Whether all items of the earlier attempt were compared.
    compared: bool,
    digest: ItemsDigest,
    batch: Vec<Item>,
    bytes: usize,
}

impl<'a> Import<'a> {
    /// About the most items, and bytes of values, in one transaction.
    const ITEMS: usize = 1_000;
    const BYTES: usize = 4 * 1024 * 1024;

    /// Begins to fill `store` from `source`, or continues where an earlier attempt ended. In a restore the store may have
    /// a key for page tokens, which is in no backup.
    ///
    /// # Errors
    /// When a server uses it. The store is marked first, because that check takes seconds: a store that was interrupted
    /// meanwhile is not mistaken for an empty one.
    pub(crate) async fn begin(store: &'a dyn Store, source: &str, restore: bool) -> anyhow::Result<Self> {
        let done = store.begin_import(source).await?;
        refuse_served(store).await?;
        Ok(Self {
            store,
            without_page_tokens: restore,
            done,
            skip: done,
            compared: done == 0,
            digest: ItemsDigest::default(),
            batch: Vec::new(),
            bytes: 0,
        })
    }

    /// The number of items of the earlier attempt.
    pub(crate) fn done(&self) -> u64 {
        self.done
    }

    pub(crate) async fn put(&mut self, item: Item) -> anyhow::Result<()> {
        let full = self.batch.len() >= Self::ITEMS || self.bytes >= Self::BYTES;
        if full && !matches!(item, Item::Version(_)) {
            self.flush().await?;
        }
        self.digest.add(&item)?;
        if self.skip > 0 {
            self.skip -= 1;
            return if self.skip == 0 { self.compare().await } else { Ok(()) };
        }
        if let Item::Version(stored) = &item {
            self.bytes += stored.envelope.as_ref().map_or(0, |envelope| envelope.sealed.len());
        }
        self.batch.push(item);
        Ok(())
    }

    /// Writes the rest, and compares the store with the source. Returns the hash of the items.
    ///
    /// # Errors
    /// When they differ, or a write fails.
    pub(crate) async fn finish(mut self) -> anyhow::Result<[u8; 32]> {
        ensure!(self.skip == 0, DIFFERS);
        self.flush().await?;
        if !self.compared {
            self.compare().await?;
        }
        Ok(self.digest.finish())
    }

    async fn flush(&mut self) -> anyhow::Result<()> {
        let batch = std::mem::take(&mut self.batch);
        let count = batch.len() as u64;
        if count > 0 {
            self.store.import(self.done, batch).await?;
            self.compared = false;
        }
        self.done += count;
        self.bytes = 0;
        Ok(())
    }

    async fn compare(&mut self) -> anyhow::Result<()> {
        let found = ItemsDigest::of(self.store, self.without_page_tokens).await?;
        ensure!(found == self.digest.clone().finish(), Advised::new(DIFFERS, EMPTY_IT));
        self.compared = true;
        Ok(())
    }
}

/// The error of a store that differs from its source.
const DIFFERS: &str = "what is in the new store differs from what should be: its source was changed between two attempts, \
    or another process wrote into it";
const EMPTY_IT: &str =
    "empty it (remove its file; in PostgreSQL: DROP SCHEMA agentrouter_secrets CASCADE) and run this again";
