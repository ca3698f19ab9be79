//! `kek move`: the KEKs under another root key. No row of the store changes.
//!
//! This process moves them, and not the server that runs: the credentials of the new root key are in the environment of the
//! command. The server records it in its audit log. It keeps its KEKs, which are the same, until it ends.

use agentrouter_instance::admin::{self, Request, Response};
use agentrouter_instance::instance::{Instance, MissingStore, SOCKET};
use agentrouter_instance::permissions::{check_kek_owner, require_owner};
use agentrouter_instance::settings::{KekSettings, Settings};
use agentrouter_instance::{Advised, kek, storage};
use agentrouter_keyring::{KekFile, Keyring};
use agentrouter_model::Reason;
use agentrouter_service::AdminAct;
use anyhow::{bail, ensure};

use crate::import::on_record;

/// Wraps the KEKs of the settings as `to` says. A bare KEK file needs no setting of its provider.
///
/// # Errors
/// When the KEK file cannot be read or written, or one of the root keys does not unwrap or wrap. Then the file is unchanged.
pub(crate) async fn relocate(settings: &Settings, to: &KekSettings) -> anyhow::Result<Keyring> {
    let path = settings.kek_file();
    storage::require_directory(settings)?;
    check_kek_owner(&path)?;
    let from = match Keyring::provider(&path)? {
        None => KekFile::from(&path),
        Some(_) => kek::file(settings)?,
    };
    let provider = from.root().map_or("file", |root| root.provider());
    ensure!(
        provider != to.provider.as_str() || to.provider.has_root(),
        Advised::new("the KEKs are in clear already", "name another provider with --to")
    );
    let root = kek::root(to, settings, true)?;
    // Both root keys respond before anything is recorded.
    let keks = Keyring::load(&from)?.ids().map(ToString::to_string).collect();
    if let Some(root) = &root {
        root.check()?;
    }
    let work = || Ok(Keyring::relocate(&from, root.as_deref())?);
    match admin::send(&settings.data_dir, SOCKET, &Request::KekMoveBegin { keks }, &mut |_| ()).await? {
        Some(Response::Recorded) => {
            let moved = work();
            let end = Request::KekMoveEnd { ok: moved.is_ok() };
            if let Err(error) = admin::send(&settings.data_dir, SOCKET, &end, &mut |_| ()).await {
                let error = &*error as &dyn std::error::Error;
                tracing::warn!(error, "the audit log has no record of how the move ended");
            }
            moved
        }
        Some(Response::Refused { message, hint: Some(hint) }) => bail!(Advised::new(message, hint)),
        Some(Response::Refused { message, hint: None }) => bail!(message),
        Some(_) => bail!("the running server sent another response than was asked for"),
        None => {
            storage::require_store(settings)?;
            require_owner(&settings.data_dir)?;
            // The instance reads the KEK file as it is now.
            let instance =
                Instance::open(&settings.with_kek_file(from.clone()), MissingStore::Refuse).await?;
            let moved = on_record(&instance, AdminAct::MoveKeks, Reason::Internal, async { work() }).await;
            instance.close().await;
            moved
        }
    }
}
