//! `kek move`: the KEKs under another root key. No row of the store changes.
//!
//! This process moves them, and not the server that runs: the credentials of the new root key are in the environment of the
//! command. The server records it in its audit log, with the provider. It keeps its KEKs, which are the same, until it ends.

use agentrouter_crypto::SystemRng;
use agentrouter_instance::admin::{self, Request, Response};
use agentrouter_instance::instance::{Instance, MissingStore, SOCKET};
use agentrouter_instance::kek::Given;
use agentrouter_instance::permissions::{check_kek_owner, require_owner};
use agentrouter_instance::settings::{KekSettings, Settings};
use agentrouter_instance::{Advised, kek, storage};
use agentrouter_keyring::{KekFile, Keyring};
use anyhow::{bail, ensure};

/// Wraps the KEKs of the settings as `to` says. A bare KEK file needs no setting of its provider.
///
/// # Errors
/// When the KEK file cannot be read or written, or one of the root keys does not unwrap or wrap. Then the file is unchanged,
/// unless the error says that it was replaced.
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
    let root = kek::root(to, settings, true, Given::Flags)?;
    // Recorded first, so that a move that a root key refuses is in the audit log, too.
    let work = || -> anyhow::Result<Keyring> {
        Keyring::load(&from)?;
        if let Some(root) = &root {
            root.check()?;
        }
        Ok(Keyring::relocate(&from, root.as_deref())?)
    };
    let provider = to.provider.as_str();
    let keks = Keyring::ids_in(&path)?.iter().map(ToString::to_string).collect();
    let begin = Request::KekMoveBegin { to: provider.to_owned(), keks };
    match admin::send(&settings.data_dir, SOCKET, &begin, &mut |_| ()).await? {
        Some(Response::Recorded) => {
            let moved = work();
            let end = Request::KekMoveEnd { to: provider.to_owned(), ok: moved.is_ok() };
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
            let (service, origin) = (&instance.service, admin::origin(&SystemRng));
            let moved = match service.record_move(&origin, provider).await {
                Ok(()) => {
                    let moved = work();
                    service.conclude_move(&origin, provider, moved.is_ok()).await;
                    moved
                }
                Err(refusal) => Err(anyhow::anyhow!("{}", refusal.message())),
            };
            instance.close().await;
            moved
        }
    }
}
