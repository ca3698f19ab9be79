//! A symmetric key of Google Cloud KMS.
//!
//! Encrypt and Decrypt are one request each, with [`PURPOSE`] as additional authenticated data. The id of the key is the
//! resource name of the version that encrypted. Credentials are the Application Default Credentials.

use anyhow::ensure;
use async_trait::async_trait;
use google_cloud_gax::retry_policy::NeverRetry;
use google_cloud_kms_v1::client::KeyManagementService;
use google_cloud_kms_v1::model::crypto_key::CryptoKeyPurpose;
use google_cloud_kms_v1::model::crypto_key_version::CryptoKeyVersionState;
use zeroize::Zeroizing;

use super::gcp::{self, Identity};
use crate::endpoint;
use crate::root::{Encrypted, Kind, PURPOSE, Plaintext, Root, RootError};

/// A key of Cloud KMS.
pub(crate) struct GcpKms {
    client: KeyManagementService,
    identity: Identity,
    key: String,
}

impl GcpKms {
    /// The key with this resource name.
    ///
    /// # Errors
    /// When the name, the address or the file with the credentials is invalid.
    pub(crate) async fn open(key: &str, url: Option<&str>) -> anyhow::Result<Self> {
        ensure!(
            is_key(key),
            "the key must be projects/PROJECT/locations/LOCATION/keyRings/RING/cryptoKeys/KEY"
        );
        // The retries are those of every provider: see `attempts`.
        let identity = Identity::find()?;
        let mut builder =
            KeyManagementService::builder().with_retry_policy(NeverRetry).with_credentials(identity.clone());
        if let Some(url) = url {
            endpoint::check(url)?;
            builder = builder.with_endpoint(url);
        }
        Ok(Self { client: builder.build().await?, identity, key: key.to_owned() })
    }

    /// The failure of a decryption with `version`.
    async fn explain(&self, version: &str, error: RootError) -> RootError {
        if error.kind != Kind::Unusable || !self.has(version) {
            return error;
        }
        let request = self.client.get_crypto_key_version().set_name(version);
        match gcp::call(&self.identity, || request.clone().send()).await {
            Ok(found) if found.state == CryptoKeyVersionState::Enabled => outage(),
            _ => error,
        }
    }

    /// Whether this is a version of the key.
    fn has(&self, version: &str) -> bool {
        version
            .strip_prefix(self.key.as_str())
            .and_then(|rest| rest.strip_prefix("/cryptoKeyVersions/"))
            .is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
    }
}

#[async_trait]
impl Root for GcpKms {
    async fn status(&self) -> Result<String, RootError> {
        let request = self.client.get_crypto_key().set_name(&self.key);
        let key = gcp::call(&self.identity, || request.clone().send()).await;
        let key = key.map_err(|error| gcp::refusal(&error))?;
        if key.purpose != CryptoKeyPurpose::EncryptDecrypt {
            return Err(RootError::unusable("the key must have the purpose encryption"));
        }
        match key.primary {
            Some(primary) if primary.state == CryptoKeyVersionState::Enabled => Ok(primary.name),
            _ => Err(RootError::unusable("the key has no primary version that is enabled")),
        }
    }

    async fn encrypt(&self, plaintext: &[u8]) -> Result<Encrypted, RootError> {
        let request = self
            .client
            .encrypt()
            .set_name(&self.key)
            .set_plaintext(plaintext.to_vec())
            .set_additional_authenticated_data(PURPOSE);
        match gcp::call(&self.identity, || request.clone().send()).await {
            Ok(encrypted) if self.has(&encrypted.name) => {
                Ok(Encrypted { ciphertext: encrypted.ciphertext.to_vec(), key_id: encrypted.name })
            }
            Ok(_) => Err(RootError::garbled()),
            Err(error) => Err(match gcp::refusal(&error) {
                refused if refused.kind == Kind::Unusable && self.status().await.is_ok() => outage(),
                refused => refused,
            }),
        }
    }

    async fn decrypt(&self, key_id: &str, ciphertext: &[u8]) -> Result<Plaintext, RootError> {
        let request = self
            .client
            .decrypt()
            .set_name(&self.key)
            .set_ciphertext(ciphertext.to_vec())
            .set_additional_authenticated_data(PURPOSE);
        match gcp::call(&self.identity, || request.clone().send()).await {
            Ok(decrypted) => Ok(Zeroizing::new(decrypted.plaintext.to_vec())),
            Err(error) => match gcp::refusal(&error) {
                // The request has nothing else that can be wrong.
                refused if refused.kind == Kind::Garbled && error.status().is_some() => {
                    Err(RootError::ciphertext())
                }
                refused => Err(self.explain(key_id, refused).await),
            },
        }
    }
}

/// Cloud KMS has one code for a version that is disabled and for an external key manager that does not respond.
fn outage() -> RootError {
    RootError::unreachable("the key is enabled and cannot be used at present")
}

/// Whether this is the resource name of a key.
fn is_key(name: &str) -> bool {
    let parts: Vec<_> = name.split('/').collect();
    let collections = ["projects", "locations", "keyRings", "cryptoKeys"];
    parts.len() == 8
        && parts.iter().step_by(2).zip(collections).all(|(part, collection)| *part == collection)
        && parts.iter().skip(1).step_by(2).all(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_named_by_its_whole_resource_name() {
        let key = "projects/p/locations/global/keyRings/r/cryptoKeys/k";
        assert!(is_key(key));
        for bad in [
            "k",
            "",
            "projects/p/locations/global/keyRings/r/cryptoKeys/",
            &format!("{key}/cryptoKeyVersions/1"),
        ] {
            assert!(!is_key(bad), "{bad}");
        }
    }
}
