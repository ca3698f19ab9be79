//! `restore FILE`.

use std::path::Path;
use std::sync::Arc;

use agentrouter_crypto::{InternalKey, SystemRng};
use agentrouter_keyring::Keyring;
use agentrouter_model::{Reason, Refusal, Rng as _, SystemClock};
use agentrouter_service::{AdminAct, Phase};
use agentrouter_store::{Store, StoreError};
use anyhow::{Context as _, bail};

use super::file::Reader;
use super::make::{LEFT_OUT, kek_of};
use super::{Contents, Filling, examine};
use crate::admin;
use crate::database;
use crate::house::{House, make_directory};
use crate::settings::Settings;

/// Fills the empty store that `settings` name from the backup at `path`, or goes on where an earlier try with the same
/// file ended. The store cannot be served before it is whole.
///
/// # Errors
/// When the backup is not whole and authentic, the KEK file is not there or lacks a key, the store is not empty or is in
/// use, or cannot be written.
pub(crate) async fn restore(settings: &Settings, path: &Path) -> anyhow::Result<Contents> {
    let (contents, keyring) = checked(settings, path)?;
    make_directory(&settings.data_dir)?;
    let opened = database::open(settings, &SystemClock, &SystemRng).await?;
    let store = Arc::clone(&opened.store);
    let source = format!("backup {}", contents.sha256);
    let done = match store.begin_import(&source).await {
        Err(StoreError::NotEmpty) => bail!(
            "there is a store in {} already, and a restore needs an empty one; move that store away, or name another directory with --data-dir",
            settings.data_dir.display()
        ),
        begun => begun?,
    };
    let mut reader = Reader::open(path)?;
    let mut filling = Filling::new(&*store, done);
    while let Some(item) = reader.next()? {
        filling.put(item).await?;
    }
    let same = reader.ended().is_some_and(|end| end.sha256 == contents.sha256);
    anyhow::ensure!(same, "{} was changed while it was read; restore again", path.display());
    filling.flush().await?;
    new_page_tokens(&*store, &keyring).await?;

    let house = House::over(settings, opened).await?;
    let finished = finish(&house).await;
    house.close().await;
    finished.map(|()| contents)
}

/// Gives the store the key that a backup lacks.
pub(super) async fn new_page_tokens(store: &dyn Store, keyring: &Keyring) -> anyhow::Result<()> {
    let kek = kek_of(store, keyring).await?;
    let wrapped = InternalKey::generate(&SystemRng)?.wrap(&SystemRng, kek, LEFT_OUT)?;
    store.insert_internal_key(LEFT_OUT, kek.id(), &wrapped).await?;
    Ok(())
}

/// Has the restore on the audit log and makes the store whole, under a new epoch.
async fn finish(house: &House) -> anyhow::Result<()> {
    let (service, origin) = (&house.service, admin::origin(&SystemRng));
    let refused = |refusal: Refusal| anyhow::anyhow!("{}", refusal.message());
    service.record_admin(&origin, AdminAct::Restore, Phase::Attempt, None).await.map_err(refused)?;
    let mut epoch = [0; 16];
    SystemRng.fill(&mut epoch)?;
    let finished = service.store().finish_import(Some(&super::format::hex(&epoch))).await;
    let failed = finished.is_err().then(|| Refusal::new(Reason::StoreUnavailable));
    service.conclude_admin(&origin, AdminAct::Restore, None, failed.as_ref()).await;
    Ok(finished?)
}

/// The backup, read whole and found authentic, before anything is written.
fn checked(settings: &Settings, path: &Path) -> anyhow::Result<(Contents, Keyring)> {
    if !settings.kek_file.exists() {
        let contents = examine(path, None)?;
        let keks: Vec<String> = contents.keks.iter().map(|id| format!("'{id}'")).collect();
        bail!(
            "the backup needs the KEK file with {}, and there is no {}; put it there, or name it with --kek-file",
            keks.join(", "),
            settings.kek_file.display()
        );
    }
    let keyring = Keyring::load(&settings.kek_file).context("the backup cannot be checked")?;
    Ok((examine(path, Some(&keyring))?, keyring))
}
