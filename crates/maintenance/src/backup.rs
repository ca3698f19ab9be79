//! Backup of a store to a file, beside a running server or without one.

use std::path::Path;

use agentrouter_crypto::{InternalKey, SystemRng};
use agentrouter_instance::Advised;
use agentrouter_instance::admin::{self, Request, Response};
use agentrouter_instance::generation::row_tags_read_only;
use agentrouter_instance::instance::{Instance, MissingStore, SOCKET};
use agentrouter_instance::kek;
use agentrouter_instance::permissions::require_owner;
use agentrouter_instance::settings::Settings;
use agentrouter_instance::storage;
use agentrouter_keyring::Keyring;
use agentrouter_model::{Clock as _, KekId, Reason, SystemClock};
use agentrouter_service::{AUDIT, AdminAct, check_keks, unwrap_key};
use agentrouter_store::Store;
use agentrouter_store::portable::LeftOut;
use anyhow::bail;

use crate::backup_file::format::{self, FORMAT, HeadLine, Header};
use crate::backup_file::{Writer, refuse_existing};
use crate::import::{is_for_page_tokens, on_record};
use crate::interrupt;
use crate::restore::known_kek;
use crate::verify::{Contents, examine};

/// A completed backup.
pub(crate) struct Made {
    /// Its contents, as they were read back.
    pub(crate) contents: Contents,
    /// The damaged rows that are not in it.
    pub(crate) left_out: LeftOut,
    /// The store has API keys, and none is in it: none is intact and authentic.
    pub(crate) lacks_keys: bool,
}

/// Writes a backup to `path`, beside a running server or without one, and records it in the audit log.
///
/// # Errors
/// When a file exists at `path`, the store or the KEK file cannot be read, or the file cannot be written. Then there is
/// no file.
pub(crate) async fn make(settings: &Settings, path: &Path) -> anyhow::Result<Made> {
    refuse_existing(path)?;
    let keyring = kek::load(settings)?;
    let mut unshown = |_| ();
    let begin = admin::send(&settings.data_dir, SOCKET, &Request::BackupBegin, &mut unshown);
    match interrupt::unless(begin).await? {
        Some(Response::Recorded) => {
            let made = beside(settings, &keyring, path).await;
            let end = Request::BackupEnd { ok: made.is_ok() };
            if let Err(error) = admin::send(&settings.data_dir, SOCKET, &end, &mut |_| ()).await {
                tracing::warn!(
                    error = &*error as &dyn std::error::Error,
                    "the audit log has no record of how the backup ended"
                );
            }
            made
        }
        Some(Response::Refused { message, hint: Some(hint) }) => bail!(Advised::new(message, hint)),
        Some(Response::Refused { message, hint: None }) => bail!(message),
        Some(_) => bail!("the running server sent another response than was asked for"),
        None => {
            require_owner(&settings.data_dir)?;
            let instance = Instance::open(settings, MissingStore::Refuse).await?;
            let work = write(&**instance.service.store(), &keyring, path);
            let made = on_record(&instance, AdminAct::Backup, Reason::Internal, work).await;
            instance.close().await;
            made
        }
    }
}

/// Writes the backup while a server runs, in a read transaction of this process.
async fn beside(settings: &Settings, keyring: &Keyring, path: &Path) -> anyhow::Result<Made> {
    anyhow::ensure!(
        storage::is_served(settings)?,
        Advised::new(
            "the running server keeps its secrets in another store than the one these settings name",
            "give --database-url as the server has it"
        )
    );
    let store = storage::beside(settings).await?;
    // Keys that are not authentic are left out.
    if let Some((kek_id, wrapped)) = store.internal_key(AUDIT).await? {
        let audit = unwrap_key(keyring, &kek_id, &wrapped, AUDIT)?;
        store.attach_tags(row_tags_read_only(&settings.data_dir, &audit)?);
    }
    write(&*store, keyring, path).await
}

/// Writes all of `store` to a new file, and reads it back before it gets its name.
pub(crate) async fn write(store: &dyn Store, keyring: &Keyring, path: &Path) -> anyhow::Result<Made> {
    // Otherwise a backup that this KEK file cannot open would be noticed only at a restore.
    let known: Vec<KekId> = check_keks(store, keyring).await?.into_iter().map(|(id, _)| id).collect();
    let kek = known_kek(keyring, &known);
    let key = InternalKey::generate(&SystemRng)?;
    let wrapped = key.wrap(&SystemRng, kek, format::PURPOSE)?;
    // Before the export: no key is ever removed, so it reads at least those.
    let has_keys = store.has_keys().await?;
    let mut export = store.export().await?;
    let head = store.audit_head().await?;
    let header = Header {
        format: FORMAT,
        created_at: SystemClock.now().as_micros(),
        program: env!("CARGO_PKG_VERSION").to_owned(),
        kek_id: kek.id().to_string(),
        key: format::base64(&wrapped),
        epoch: store.epoch().await?,
        audit_head: head.map(|(seq, mac)| HeadLine { seq, mac: format::base64(&mac) }),
    };
    let mut writer = Writer::create(path, header)?;
    loop {
        interrupt::check()?;
        let items = export.next(256).await?;
        if items.is_empty() {
            let left_out = export.left_out().clone();
            // Ends the read transaction.
            drop(export);
            let contents = writer.finish(&key, |written| {
                let contents = examine(written, Some(keyring))?;
                interrupt::check()?;
                Ok(contents)
            })?;
            let lacks_keys = has_keys && contents.api_keys == 0;
            return Ok(Made { contents, left_out, lacks_keys });
        }
        for item in &items {
            // A restored store gets a new key, so that the old store's page tokens are rejected.
            if !is_for_page_tokens(item) {
                writer.item(item)?;
            }
        }
    }
}
