//! Restore of a backup into an empty store.

use std::path::Path;

use agentrouter_audit::HeadRow;
use agentrouter_crypto::{InternalKey, Kek, SystemRng};
use agentrouter_instance::Advised;
use agentrouter_instance::instance::Instance;
use agentrouter_instance::kek;
use agentrouter_instance::permissions::{make_directory, require_owner};
use agentrouter_instance::settings::Settings;
use agentrouter_instance::storage;
use agentrouter_keyring::Keyring;
use agentrouter_model::{KekId, Reason, Rng as _, SystemClock};
use agentrouter_service::{AUDIT, AdminAct, InternalKeys, PAGE_TOKENS, unwrap_key};
use agentrouter_store::{Store, StoreError};
use anyhow::{Context as _, bail, ensure};

use crate::backup_file::Reader;
use crate::backup_file::format;
use crate::import::{Import, on_record, refuse_served, refuse_unfit};
use crate::verify::{Contents, examine};

/// Fills the empty store that `settings` name from the backup at `path`, or continues where an earlier attempt with the
/// same file ended. The store cannot be served before that is complete.
///
/// # Errors
/// When the backup is not complete and authentic, the KEK file is missing or lacks a key, the store is not empty or is
/// in use, or cannot be written. Also when the store has other contents than the backup at the end.
pub(crate) async fn restore(settings: &Settings, path: &Path) -> anyhow::Result<Contents> {
    require_owner(&settings.data_dir)?;
    let (contents, keyring) = checked(settings, path)?;
    let reader = Reader::open(path)?;
    let (kek_id, wrapped) =
        contents.audit_key.as_ref().context("the backup lacks the key of the audit log")?;
    let audit = unwrap_key(&keyring, kek_id, wrapped, AUDIT)?;
    let (page_tokens, keep) = new_page_tokens(&keyring, &contents.keks)?;
    make_directory(&settings.data_dir)?;
    let opened = storage::open(settings, &SystemClock, &SystemRng).await?;
    let source = format!("backup {}", contents.sha256);
    refuse_unfit(&*opened.store, &source).await.map_err(|error| not_empty(error, settings))?;
    let keys = InternalKeys { audit, page_tokens };
    let instance = Instance::with(settings, opened, keyring, keys, HeadRow::NotYet, false).await?;
    let work = fill(&**instance.service.store(), &source, reader, &contents, &keep);
    let restored = on_record(&instance, AdminAct::Restore, Reason::StoreUnavailable, work).await;
    let restored = restored.and_then(|()| instance.keep_belonging(settings));
    instance.close().await;
    restored.map(|()| contents)
}

/// A key for page tokens, which is in no backup, wrapped for the store.
pub(crate) struct WrappedPageTokenKey {
    kek_id: KekId,
    wrapped: Box<[u8]>,
}

pub(crate) fn new_page_tokens(
    keyring: &Keyring,
    keks: &[KekId],
) -> anyhow::Result<(InternalKey, WrappedPageTokenKey)> {
    let kek = known_kek(keyring, keks);
    let key = InternalKey::generate(&SystemRng)?;
    let wrapped = key.wrap(&SystemRng, kek, PAGE_TOKENS)?;
    Ok((key, WrappedPageTokenKey { kek_id: kek.id().clone(), wrapped }))
}

/// The KEK to wrap with: one that the store has. A new one of the keyring may be missing in the copy of the KEK file
/// that is kept for the backup.
pub(crate) fn known_kek<'k>(keyring: &'k Keyring, known: &[KekId]) -> &'k Kek {
    let active = keyring.active();
    let usual = known.contains(active.id());
    let kek = if usual { None } else { known.last().and_then(|id| keyring.kek(id)) };
    kek.unwrap_or(active)
}

/// Imports the backup, and completes the store under a new epoch.
pub(crate) async fn fill(
    store: &dyn Store,
    source: &str,
    mut reader: Reader,
    contents: &Contents,
    page_tokens: &WrappedPageTokenKey,
) -> anyhow::Result<()> {
    let mut import = Import::begin(store, source, true).await?;
    while let Some(item) = reader.next()? {
        import.put(item).await?;
    }
    // The verified file, and not one that replaced it since.
    ensure!(
        import.finish().await? == contents.digest,
        Advised::new(
            "the backup was changed while it was read",
            "empty the store, which has parts of both, and restore again"
        )
    );
    store.insert_internal_key(PAGE_TOKENS, &page_tokens.kek_id, &page_tokens.wrapped).await?;
    refuse_served(store).await?;
    authenticate_rows(store).await?;
    let mut epoch = [0; 16];
    SystemRng.fill(&mut epoch)?;
    Ok(store.finish_import(Some(&format::hex(&epoch))).await?)
}

/// Authenticates the keys that were imported, from a source that is authentic.
pub(crate) async fn authenticate_rows(store: &dyn Store) -> anyhow::Result<()> {
    ensure!(
        store.authenticate_rows().await?,
        Advised::new(
            "servers of an older version of this program are registered at the database",
            "stop them and run this again"
        )
    );
    Ok(())
}

fn not_empty(error: anyhow::Error, settings: &Settings) -> anyhow::Error {
    match error.downcast_ref::<StoreError>() {
        Some(StoreError::NotEmpty) if settings.database_url.is_some() => Advised::new(
            "there is a store in the database already, and a restore needs an empty one",
            "name another database with --database-url",
        )
        .into(),
        Some(StoreError::NotEmpty) => {
            let dir = settings.data_dir.display();
            let what = format!("there is a store in {dir} already, and a restore needs an empty one");
            let hint = "move that store away, or name another directory with --data-dir";
            Advised::new(what, hint).into()
        }
        _ => error,
    }
}

/// The backup, read completely and found authentic, before the first write.
fn checked(settings: &Settings, path: &Path) -> anyhow::Result<(Contents, Keyring)> {
    ensure!(
        !path.exists() || path.is_file(),
        Advised::new(
            format!("{} is no regular file, and a restore reads it twice", path.display()),
            "write it to a file first"
        )
    );
    if !settings.kek_file().exists() {
        let contents = examine(path, None)?;
        let keks: Vec<String> = contents.keks.iter().map(|id| format!("'{id}'")).collect();
        let (keks, path) = (keks.join(", "), settings.kek_file());
        let what = format!("the backup needs the KEK file with {keks}, and there is no {}", path.display());
        bail!(Advised::new(what, "put it there, or name it with --kek-file"));
    }
    let keyring = kek::load(settings).context("the backup cannot be checked")?;
    Ok((examine(path, Some(&keyring))?, keyring))
}
