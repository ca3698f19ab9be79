//! The first API key of a store, and the file `bootstrap.env` that hands it to the operator.
//!
//! The file is written before the key is stored. A crash in between leaves a file without a key, which the next start
//! replaces, and never a key that exists nowhere else.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use agentrouter_crypto::ApiToken;
use agentrouter_instance::durable_file;
use agentrouter_instance::instance::BOOTSTRAP;
use agentrouter_instance::terminal::shell_word;
use agentrouter_model::{Owner, Realm, ScopeSet};
use agentrouter_service::{IssueError, NewKey, Origin, Service};
use anyhow::Context as _;

/// The start of the line with the server's address.
const BASE_URL: &str = "AGENTROUTER_BASE_URL=";

/// Issues the first key of a store that has none and writes it to `bootstrap.env`. Returns whether it did.
///
/// # Errors
/// When the store cannot be read, or the key cannot be written or issued.
pub(crate) async fn issue_first_key(
    service: &Arc<Service>,
    origin: &Origin,
    dir: &Path,
    url: &str,
) -> anyhow::Result<bool> {
    if service.store().has_keys().await.context("the store cannot be read")? {
        if let Err(error) = follow_address(dir, url) {
            tracing::warn!(error = &error as &dyn std::error::Error, "{BOOTSTRAP} names an earlier address");
        }
        return Ok(false);
    }
    let new = NewKey {
        name: "bootstrap".to_owned(),
        user: Owner::parse("admin").context("the bootstrap user is no user id")?,
        scopes: ScopeSet::ALL,
        realm: Realm::default(),
        realms: None,
        expires_at: None,
    };
    let path = dir.join(BOOTSTRAP);
    let write = |token: &ApiToken| {
        let text = format!("{BASE_URL}{}\nAGENTROUTER_API_KEY={}\n", shell_word(url), token.expose_bare());
        durable_file::replace(dir, BOOTSTRAP, &text)
    };
    let issued = service.issue_first_key_after(origin, new, write).await.map_err(|error| match error {
        IssueError::Refused(refusal) => anyhow::anyhow!("{}", refusal.message()),
        error @ IssueError::KeyManifest(_) => error.into(),
        IssueError::Written(error) => {
            anyhow::Error::new(error).context(format!("{} cannot be written", path.display()))
        }
    })?;
    if issued.is_none() {
        // Another server on the same database was first. The token in this file is not a key.
        std::fs::remove_file(&path).with_context(|| format!("{} cannot be removed", path.display()))?;
    }
    Ok(issued.is_some())
}

/// Replaces the address of an earlier start in `bootstrap.env` with the current one, if the file exists. An address
/// with a host name was written by the operator and stays.
fn follow_address(dir: &Path, url: &str) -> std::io::Result<()> {
    let text = match durable_file::read(dir, BOOTSTRAP) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        read => read?,
    };
    let earlier = text.lines().find_map(|line| line.strip_prefix(BASE_URL)).unwrap_or_default();
    let url = &*shell_word(url);
    let ours = earlier.trim_start_matches('\'').starts_with("unix:")
        || earlier.split_once("://").is_some_and(|(_, host)| host.parse::<SocketAddr>().is_ok());
    if !ours || earlier == url {
        return Ok(());
    }
    let text = text.replacen(&format!("{BASE_URL}{earlier}"), &format!("{BASE_URL}{url}"), 1);
    durable_file::replace(dir, BOOTSTRAP, &text)
}
