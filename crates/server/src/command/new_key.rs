//! `key create`: issues a key and prints it. A key that is not printed is lost, so it is revoked.

use std::process::ExitCode;
use std::time::Duration;

use agentrouter_instance::Advised;
use agentrouter_instance::admin::{self, Request, Response};
use agentrouter_instance::settings::Settings;
use agentrouter_instance::terminal::{self, data, error, note, require_output};

use crate::serve::Signals;

/// How long the server may take to respond after a signal to stop.
const GRACE: Duration = Duration::from_secs(10);

/// Issues the key of `request`.
///
/// # Errors
/// When it cannot be issued, or it could not be printed and is revoked.
pub(super) fn create(settings: &Settings, request: Request) -> anyhow::Result<ExitCode> {
    require_output("the new key")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let code = runtime.block_on(issue(settings, request));
    // A thread that prints to a full pipe may wait for ever.
    runtime.shutdown_background();
    code
}

async fn issue(settings: &Settings, request: Request) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::catch()?;
    let mut is_stopped = false;
    let mut unshown = |_| ();
    let response = tokio::select! {
        biased;
        response = admin::administer(settings, request, &mut unshown) => response?,
        () = async {
            signals.wait().await;
            is_stopped = true;
            tokio::time::sleep(GRACE).await;
        } => {
            let what = "the command was stopped before the server responded; a key may have been issued";
            anyhow::bail!(Advised::new(what, "run 'agentrouter-secrets key list'"));
        }
    };
    let Response::KeyCreated { id, token, abilities, warning } = response else {
        return super::print(response);
    };
    let stopped = || Err(anyhow::anyhow!("the command was stopped by a signal"));
    let printed = if is_stopped {
        stopped()
    } else {
        let printing = tokio::task::spawn_blocking(move || data(&format!("AGENTROUTER_API_KEY={token}\n")));
        tokio::select! {
            biased;
            printed = printing => printed?,
            () = signals.wait() => stopped(),
        }
    };
    if let Err(failure) = printed {
        let request = Request::KeyRevoke { id: id.clone() };
        let is_revoked = tokio::select! {
            biased;
            response = admin::administer(settings, request, &mut unshown) => {
                matches!(response, Ok(Response::KeyRevoked { .. }))
            }
            // Another signal ends the wait.
            () = signals.wait() => false,
        };
        return not_printed(&id, failure, is_revoked);
    }
    note(&format!("key {id} was issued; this is the only time it is shown"));
    abilities.iter().for_each(|ability| note(&format!("  {ability}")));
    warning.iter().for_each(|warning| terminal::warning(warning));
    Ok(ExitCode::SUCCESS)
}

/// Reports a key that was not printed.
fn not_printed(id: &str, failure: anyhow::Error, is_revoked: bool) -> anyhow::Result<ExitCode> {
    if is_revoked {
        return Err(failure.context(format!("key {id} was issued, could not be printed, and is revoked")));
    }
    error(&format!("key {id} was issued and could not be printed: {failure:#}"));
    terminal::hint(&format!("revoke it, because it is valid and lost: agentrouter-secrets key revoke {id}"));
    Ok(ExitCode::FAILURE)
}
