//! `migrate --from URL --to URL`.

use agentrouter_crypto::{Sha256, SystemRng};
use agentrouter_keyring::Keyring;
use agentrouter_model::{Reason, Refusal};
use agentrouter_service::{AdminAct, Phase, check_keks};
use agentrouter_store::portable::Item;
use agentrouter_store::{Store, StoreError};
use anyhow::{Context as _, bail};

use super::Filling;
use super::format::{Line, hex};
use crate::admin;
use crate::database;
use crate::house::House;
use crate::settings::Settings;

/// What was moved.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moved {
    pub(crate) secrets: u64,
    pub(crate) versions: u64,
    pub(crate) api_keys: u64,
    /// How many items an earlier try had moved already.
    pub(crate) before: u64,
}

/// Fills the empty store `to` with all that is in `from`, or goes on where an earlier try ended; compares the two item by
/// item, and only then makes `to` one that can be served. `from` is read and not changed; an embedded one is locked, so
/// that nobody serves it meanwhile.
///
/// # Errors
/// When one of them cannot be opened, `to` is not empty, the KEK file is not that of `from`, or the two differ.
pub(crate) async fn migrate(settings: &Settings, from: &str, to: &str) -> anyhow::Result<Moved> {
    let keyring = Keyring::load(&settings.kek_file)?;
    let source = database::source(settings, from).await.context("the store to move from cannot be used")?;
    check_keks(&*source, &keyring).await.context("the store to move from cannot be used")?;
    if source.unfinished_import().await?.is_some() {
        bail!(StoreError::Unfinished);
    }
    let target = database::destination(settings, to).await.context("the store to move to cannot be used")?;
    let (hash, moved) = fill(&*source, &*target.store).await?;
    let (found, _) = digest(&*target.store).await?;
    anyhow::ensure!(
        hash == found,
        "the two stores differ, so the new one is not used: the old one was changed between two tries, or the new one by somebody else; empty the new one and begin anew"
    );
    let epoch = source.epoch().await?;
    source.close().await;

    let house = House::over(settings, target).await?;
    let finished = finish(&house, epoch.as_deref()).await;
    house.close().await;
    finished.map(|()| moved)
}

async fn fill(source: &dyn Store, target: &dyn Store) -> anyhow::Result<([u8; 32], Moved)> {
    let mut export = source.export().await?;
    let mut items = export.next(500).await?;
    let mut identity = Sha256::new();
    for item in &items {
        if matches!(item, Item::Kek { .. } | Item::InternalKey { .. }) {
            identity.update(&Line::of(item).to_text()?);
        }
    }
    let done = match target.begin_import(&format!("store {}", hex(&identity.finish()))).await {
        Err(StoreError::NotEmpty) => bail!("the store to move to is not empty; name an empty one"),
        begun => begun?,
    };
    let mut moved = Moved { before: done, ..Moved::default() };
    let mut hash = Sha256::new();
    let mut filling = Filling::new(target, done);
    while !items.is_empty() {
        for item in items {
            hash.update(&Line::of(&item).to_text()?);
            moved.count(&item);
            filling.put(item).await?;
        }
        items = export.next(500).await?;
    }
    filling.flush().await?;
    Ok((hash.finish(), moved))
}

/// The hash of all that is in a store.
async fn digest(store: &dyn Store) -> anyhow::Result<([u8; 32], Moved)> {
    let mut export = store.export().await?;
    let (mut hash, mut moved) = (Sha256::new(), Moved::default());
    loop {
        let items = export.next(500).await?;
        if items.is_empty() {
            return Ok((hash.finish(), moved));
        }
        for item in &items {
            hash.update(&Line::of(item).to_text()?);
            moved.count(item);
        }
    }
}

/// Has the move on the audit log of the data directory and makes the new store whole.
async fn finish(house: &House, epoch: Option<&str>) -> anyhow::Result<()> {
    let (service, origin) = (&house.service, admin::origin(&SystemRng));
    let refused = |refusal: Refusal| anyhow::anyhow!("{}", refusal.message());
    service.record_admin(&origin, AdminAct::Migrate, Phase::Attempt, None).await.map_err(refused)?;
    let finished = service.store().finish_import(epoch).await;
    let failed = finished.is_err().then(|| Refusal::new(Reason::StoreUnavailable));
    service.conclude_admin(&origin, AdminAct::Migrate, None, failed.as_ref()).await;
    Ok(finished?)
}

impl Moved {
    fn count(&mut self, item: &Item) {
        match item {
            Item::Kek { .. } | Item::InternalKey { .. } => {}
            Item::ApiKey(_) => self.api_keys += 1,
            Item::Secret(_) => self.secrets += 1,
            Item::Version(_) => self.versions += 1,
        }
    }
}
