//! The Application Default Credentials of Google, with tokens that can be dropped.
//!
//! The key of a service account is used by [`Account`]. Every other kind is left to Google's library: a user, a workload
//! identity, and the metadata server. That library stops at an error that it takes for permanent, such as an instance
//! without a service account. So after an error its credentials are made again, and with them its token.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use google_cloud_auth::credentials::{
    Builder, CacheableResource, Credentials, CredentialsProvider, EntityTag,
};
use google_cloud_gax::error::CredentialsError;
use http::header::AUTHORIZATION;
use http::{Extensions, HeaderMap, HeaderValue};
use serde::Deserialize;

use super::account::Account;
use crate::root::{Kind, RootError};

/// The scope of the tokens. The permissions of the identity restrict it further.
pub(super) const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
/// The domain of Google's own cloud. The services of other domains take no token of an exchange.
const DOMAIN: &str = "googleapis.com";

/// Who calls Google.
#[derive(Clone, Debug)]
pub(crate) struct Identity(Arc<Source>);

#[derive(Debug)]
enum Source {
    Account(Account),
    Library(Mutex<Option<Credentials>>),
}

/// Why no token was obtained, in the source of an error of the library.
#[derive(Debug, thiserror::Error)]
#[error("no token was issued")]
pub(super) struct NoToken(pub(super) Kind);

impl Identity {
    /// The identity of the environment: the file that `GOOGLE_APPLICATION_CREDENTIALS` names, else the one that `gcloud`
    /// writes, else the metadata server.
    ///
    /// # Errors
    /// When the file cannot be read or has no credentials.
    pub(crate) fn find() -> anyhow::Result<Self> {
        if let Some(path) = path()
            && let Ok(text) = std::fs::read(&path)
            && let Ok(kind) = serde_json::from_slice::<Head>(&text)
            && kind.kind == "service_account"
            && kind.universe_domain.is_none_or(|domain| domain == DOMAIN)
        {
            return Ok(Self(Arc::new(Source::Account(Account::open(path)?))));
        }
        Ok(Self(Arc::new(Source::Library(Mutex::new(Some(library()?))))))
    }

    /// Drops the token. The next call obtains another one.
    pub(super) fn renew(&self) {
        match &*self.0 {
            Source::Account(account) => account.renew(),
            Source::Library(credentials) => {
                *credentials.lock().unwrap_or_else(PoisonError::into_inner) = None;
            }
        }
    }

    /// The credentials of the library.
    fn credentials(slot: &Mutex<Option<Credentials>>) -> Result<Credentials, CredentialsError> {
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(credentials) = &*slot {
            return Ok(credentials.clone());
        }
        let made = library().map_err(|_| CredentialsError::from_source(true, NoToken(Kind::Unreachable)))?;
        Ok(slot.insert(made).clone())
    }
}

impl CredentialsProvider for Identity {
    async fn headers(
        &self,
        extensions: Extensions,
    ) -> Result<CacheableResource<HeaderMap>, CredentialsError> {
        match &*self.0 {
            Source::Account(account) => {
                let failed = |error: RootError| CredentialsError::from_source(true, NoToken(error.kind));
                let token = account.token().await.map_err(failed)?;
                let mut value = HeaderValue::from_str(&format!("Bearer {}", *token))
                    .map_err(|_| failed(RootError::garbled()))?;
                value.set_sensitive(true);
                let data = HeaderMap::from_iter([(AUTHORIZATION, value)]);
                Ok(CacheableResource::New { entity_tag: EntityTag::new(), data })
            }
            Source::Library(slot) => {
                let result = Self::credentials(slot)?.headers(extensions).await;
                if result.is_err() {
                    self.renew();
                }
                result
            }
        }
    }

    async fn universe_domain(&self) -> Option<String> {
        match &*self.0 {
            Source::Account(_) => Some(DOMAIN.to_owned()),
            Source::Library(slot) => Self::credentials(slot).ok()?.universe_domain().await,
        }
    }
}

#[derive(Deserialize)]
struct Head {
    #[serde(rename = "type")]
    kind: String,
    universe_domain: Option<String>,
}

fn library() -> anyhow::Result<Credentials> {
    Ok(Builder::default().with_scopes([SCOPE]).build()?)
}

/// The file with the credentials, if there may be one.
fn path() -> Option<PathBuf> {
    match std::env::var_os("GOOGLE_APPLICATION_CREDENTIALS") {
        Some(path) => Some(path.into()),
        None => Some(std::env::home_dir()?.join(".config/gcloud/application_default_credentials.json")),
    }
}
