//! Migration of the contents of one store into another.

use agentrouter_audit::HeadRow;
use agentrouter_crypto::{InternalKey, Sha256, SystemRng};
use agentrouter_instance::Advised;
use agentrouter_instance::instance::Instance;
use agentrouter_instance::kek;
use agentrouter_instance::permissions::{make_directory, require_owner};
use agentrouter_instance::settings::Settings;
use agentrouter_instance::storage::{self, MoveSource};
use agentrouter_model::Reason;
use agentrouter_service::{AUDIT, AdminAct, InternalKeys, check_keks, unwrap_key};
use agentrouter_store::portable::{Export, Item};
use agentrouter_store::{Store, StoreError};
use anyhow::{Context as _, bail, ensure};

use crate::backup_file::format::{Line, hex};
use crate::import::{Import, on_record, refuse_served, refuse_unfit};
use crate::restore::authenticate_rows;

/// The counts of a migration.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moved {
    /// Secrets, migrated by this attempt or an earlier one.
    pub(crate) secrets: u64,
    /// Their versions.
    pub(crate) versions: u64,
    /// API keys.
    pub(crate) api_keys: u64,
    /// The number of items that an earlier attempt had migrated.
    pub(crate) before: u64,
}

/// Fills the empty store `to` with the contents of `from`, or continues where an earlier attempt ended. Compares the
/// two before `to` can be served. `from` is locked and not changed.
///
/// # Errors
/// When one of them cannot be opened or is in use, `from` has damaged rows, `to` is not empty, the KEK file is not that of
/// `from`, or the two differ.
pub(crate) async fn migrate(settings: &Settings, from: &str, to: &str) -> anyhow::Result<Moved> {
    const FROM: &str = "the store to move from cannot be used";
    let keyring = kek::load(settings)?;
    require_owner(&settings.data_dir)?;
    make_directory(&settings.data_dir)?;
    let source = storage::source(settings, from).await.context(FROM)?;
    let store = &*source.store;
    check_keks(store, &keyring).await.context(FROM)?;
    ensure!(store.unfinished_import().await?.is_none(), StoreError::Unfinished);
    let (kek_id, wrapped) = store
        .internal_key(AUDIT)
        .await?
        .context("the store to move from was never served: there is nothing to move")?;
    let audit = unwrap_key(&keyring, &kek_id, &wrapped, AUDIT)?;
    // Keys that are not authentic are left out.
    store.attach_tags(source.row_tags(settings, &audit)?);
    let target = storage::destination(settings, to).await.context("the store to move to cannot be used")?;
    let _locks = storage::lock_directory(settings, &[from, to])?;
    let mut export = store.export().await?;
    let first = export.next(500).await?;
    let name = format!("store {}", identity(&first)?);
    refuse_unfit(&*target.store, &name).await.map_err(not_empty)?;
    // It issues no token.
    let keys = InternalKeys { audit, page_tokens: InternalKey::generate(&SystemRng)? };
    let row = source.audit_head(settings).await?.map_or(HeadRow::NotYet, HeadRow::Kept);
    let instance = Instance::with(settings, target, keyring, keys, row, true).await?;
    let mut moved = Moved::default();
    let work = fill(&source, export, first, &**instance.service.store(), &name, &mut moved);
    let done = on_record(&instance, AdminAct::Migrate, Reason::StoreUnavailable, work).await;
    let done = done.and_then(|()| match storage::served_engine(settings, to)? {
        // From here on, a server without the right setting does not serve the store that was left.
        Some(engine) => instance.keep_belonging_as(settings, engine),
        None => Ok(()),
    });
    instance.close().await;
    source.store.close().await;
    done.map(|()| moved)
}

/// The identity of a store: its KEKs and its own keys.
fn identity(first: &[Item]) -> anyhow::Result<String> {
    let mut hash = Sha256::new();
    for item in first {
        if matches!(item, Item::Kek { .. } | Item::InternalKey { .. }) {
            hash.update(&Line::of(item).to_text()?);
        }
    }
    Ok(hex(&hash.finish()))
}

async fn fill(
    source: &MoveSource,
    mut export: Box<dyn Export>,
    mut items: Vec<Item>,
    target: &dyn Store,
    name: &str,
    moved: &mut Moved,
) -> anyhow::Result<()> {
    let mut import = Import::begin(target, name, false).await?;
    moved.before = import.done();
    while !items.is_empty() {
        for item in items {
            moved.count(&item);
            import.put(item).await?;
        }
        items = export.next(500).await?;
    }
    let left_out = export.left_out();
    if left_out.count > 0 {
        let named = left_out.named.join(", ");
        let what =
            format!("{} row(s) of the old store are damaged and cannot be moved: {named}", left_out.count);
        bail!(Advised::new(what, "delete those secrets, or replace their values, and run this again"));
    }
    import.finish().await?;
    refuse_served(target).await?;
    source.check().await.map_err(|error| {
        Advised::new("the old store may have been changed meanwhile", "run this again").because(error)
    })?;
    authenticate_rows(target).await?;
    let epoch = source.store.epoch().await?;
    Ok(target.finish_import(epoch.as_deref()).await?)
}

fn not_empty(error: anyhow::Error) -> anyhow::Error {
    match error.downcast_ref::<StoreError>() {
        Some(StoreError::NotEmpty) => {
            Advised::new("the store to move to is not empty", "name an empty one").into()
        }
        _ => error,
    }
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
