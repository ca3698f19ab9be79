//! An RSA key of Azure Key Vault or Managed HSM.
//!
//! Encrypt is wrapKey and Decrypt is unwrapKey, both with RSA-OAEP-256. The id of the key is its URL with the version that
//! wrapped. RSA takes no additional authenticated data, and a wrap needs the public key only: who can replace a wrapped KEK
//! can make one. The server notices by the check value of the KEK.
//!
//! Credentials are those of the environment, in the order of [`credential`].

use std::sync::Arc;

use anyhow::{Context as _, ensure};
use async_trait::async_trait;
use azure_core::credentials::{Secret, TokenCredential};
use azure_core::error::ErrorKind;
use azure_core::http::{ClientOptions, RetryOptions};
use azure_identity::{
    ClientSecretCredential, ManagedIdentityCredential, ManagedIdentityCredentialOptions, UserAssignedId,
    WorkloadIdentityCredential,
};
use azure_security_keyvault_keys::models::{EncryptionAlgorithm, KeyOperationParameters, KeyType};
use azure_security_keyvault_keys::{KeyClient, KeyClientOptions};
use zeroize::Zeroizing;

use crate::endpoint;
use crate::root::{Encrypted, Kind, Plaintext, Root, RootError};

/// The longest plaintext that RSA-OAEP-256 takes with a key of 2048 bits.
const LONGEST: usize = 190;

/// A key of a vault.
pub(crate) struct KeyVault {
    client: KeyClient,
    name: String,
}

impl KeyVault {
    /// The key with this URL: `https://VAULT.vault.azure.net/keys/NAME`.
    ///
    /// # Errors
    /// When the URL, the address or the credentials of the environment are invalid.
    pub(crate) fn open(key: &str, url: Option<&str>) -> anyhow::Result<Self> {
        let (vault, name) = split(key)?;
        let address = url.unwrap_or(vault);
        endpoint::check(address)?;
        let options = KeyClientOptions {
            // The retries are those of every provider: see `attempts`.
            client_options: ClientOptions { retry: RetryOptions::none(), ..Default::default() },
            // A token is issued for the service that the address names, unless the address is another one on purpose.
            verify_challenge_resource: Some(url.is_none()),
            ..Default::default()
        };
        Ok(Self { client: KeyClient::new(address, credential()?, Some(options))?, name: name.to_owned() })
    }

    fn parameters(value: &[u8]) -> KeyOperationParameters {
        KeyOperationParameters {
            algorithm: Some(EncryptionAlgorithm::RsaOaep256),
            value: Some(value.to_vec()),
            ..Default::default()
        }
    }

    /// The version in the id of a key, if it is a version of this key.
    fn version<'a>(&self, id: &'a str) -> Option<&'a str> {
        let (_, path) = id.split_once("/keys/")?;
        let version = path.strip_prefix(self.name.as_str())?.strip_prefix('/')?;
        (!version.is_empty() && version.bytes().all(|byte| byte.is_ascii_alphanumeric())).then_some(version)
    }
}

#[async_trait]
impl Root for KeyVault {
    async fn status(&self) -> Result<String, RootError> {
        let response = self.client.get_key(&self.name, None).await.map_err(|error| refusal(&error))?;
        let found = response.into_model().map_err(|_| RootError::garbled())?;
        if found.attributes.and_then(|attributes| attributes.enabled) == Some(false) {
            return Err(RootError::unusable("the key is disabled"));
        }
        let key = found.key.ok_or_else(RootError::garbled)?;
        if !matches!(key.kty, Some(KeyType::Rsa | KeyType::RsaHsm)) {
            return Err(RootError::unusable("the key must be an RSA key"));
        }
        key.kid.filter(|id| self.version(id).is_some()).ok_or_else(RootError::garbled)
    }

    async fn encrypt(&self, plaintext: &[u8]) -> Result<Encrypted, RootError> {
        if plaintext.len() > LONGEST {
            return Err(RootError::new(Kind::Garbled, "Azure wraps at most 190 bytes"));
        }
        let body = Self::parameters(plaintext).try_into().map_err(|_| RootError::garbled())?;
        let response = self.client.wrap_key(&self.name, body, None).await.map_err(|error| refusal(&error))?;
        let wrapped = response.into_model().map_err(|_| RootError::garbled())?;
        match (wrapped.result, wrapped.kid) {
            (Some(ciphertext), Some(key_id)) if self.version(&key_id).is_some() => {
                Ok(Encrypted { ciphertext, key_id })
            }
            _ => Err(RootError::garbled()),
        }
    }

    async fn decrypt(&self, key_id: &str, ciphertext: &[u8]) -> Result<Plaintext, RootError> {
        let version = self.version(key_id).ok_or_else(RootError::ciphertext)?;
        let body = Self::parameters(ciphertext).try_into().map_err(|_| RootError::garbled())?;
        let response = match self.client.unwrap_key(&self.name, version, body, None).await {
            Ok(response) => response,
            Err(error) => {
                return Err(match refusal(&error) {
                    // The request has nothing else that can be wrong.
                    refused if status(&error) == Some(400) => {
                        RootError::new(Kind::Ciphertext, refused.to_string())
                    }
                    refused => refused,
                });
            }
        };
        let unwrapped = response.into_model().map_err(|_| RootError::garbled())?;
        unwrapped.result.map(Zeroizing::new).ok_or_else(RootError::garbled)
    }
}

/// The identity of the environment: a workload identity of Kubernetes, a client secret, else the managed identity of the
/// machine.
fn credential() -> anyhow::Result<Arc<dyn TokenCredential>> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    if variable("AZURE_FEDERATED_TOKEN_FILE").is_some() {
        return Ok(WorkloadIdentityCredential::new(None)?);
    }
    let client = variable("AZURE_CLIENT_ID");
    if let Some(secret) = variable("AZURE_CLIENT_SECRET") {
        let tenant = variable("AZURE_TENANT_ID").context("AZURE_TENANT_ID is not set")?;
        let client = client.context("AZURE_CLIENT_ID is not set")?;
        return Ok(ClientSecretCredential::new(&tenant, client, Secret::new(secret), None)?);
    }
    let options = ManagedIdentityCredentialOptions {
        user_assigned_id: client.map(UserAssignedId::ClientId),
        ..Default::default()
    };
    Ok(ManagedIdentityCredential::new(Some(options))?)
}

/// The address of the vault and the name of the key.
fn split(key: &str) -> anyhow::Result<(&str, &str)> {
    let (vault, name) = key.split_once("/keys/").context("the key must be https://VAULT/keys/NAME")?;
    let valid = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    ensure!(
        valid && vault.starts_with("https://"),
        "the key must be https://VAULT/keys/NAME, without a version"
    );
    Ok((vault, name))
}

fn status(error: &azure_core::Error) -> Option<u16> {
    match error.kind() {
        ErrorKind::HttpResponse { status, .. } => Some((*status).into()),
        _ => None,
    }
}

fn refusal(error: &azure_core::Error) -> RootError {
    match error.kind() {
        ErrorKind::HttpResponse { status, .. } => {
            let status: u16 = (*status).into();
            RootError::new(kind(status), format!("Azure Key Vault responded with status {status}"))
        }
        ErrorKind::Credential => no_token(error),
        ErrorKind::Connection | ErrorKind::Io => {
            RootError::unreachable("Azure Key Vault cannot be connected to")
        }
        _ => RootError::garbled(),
    }
}

/// Without a token nothing was refused about the key, and the issuer may be down. An issuer that refuses the identity is a
/// denial.
fn no_token(error: &azure_core::Error) -> RootError {
    let mut source = std::error::Error::source(error);
    while let Some(found) = source {
        if let Some(400 | 401 | 403) = found.downcast_ref().and_then(status) {
            return RootError::denied("Azure issues no token for the identity");
        }
        source = found.source();
    }
    RootError::unreachable("no Azure credentials were found, or no token was issued for them")
}

fn kind(status: u16) -> Kind {
    match status {
        401 | 403 => Kind::Denied,
        404 | 409 => Kind::Unusable,
        408 | 429 | 500.. => Kind::Unreachable,
        _ => Kind::Garbled,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_named_by_its_url_without_a_version() {
        let key = "https://kek.vault.azure.net/keys/agentrouter-1";
        assert_eq!(split(key).expect("a key"), ("https://kek.vault.azure.net", "agentrouter-1"));
        for bad in
            ["agentrouter", "http://v/keys/a", "https://v/keys/", "https://v/keys/a/1", "https://v/secrets/a"]
        {
            assert!(split(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_status_tells_a_denial_from_an_outage() {
        use Kind::{Denied, Garbled, Unreachable, Unusable};
        let kinds = [401, 403, 404, 429, 503, 400].map(kind);
        assert_eq!(kinds, [Denied, Denied, Unusable, Unreachable, Unreachable, Garbled]);
    }
}
