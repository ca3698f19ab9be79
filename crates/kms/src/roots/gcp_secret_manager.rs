//! A key that is the content of a secret in Google Secret Manager.
//!
//! ```text
//! offset  bytes  field
//!      0      1  format, 1
//!      1     12  nonce, random
//!     13  n + 16 ciphertext and tag: AES-256-GCM under the version of the secret, with PURPOSE as AAD
//! ```
//!
//! Each call reads the version of the secret and encrypts or decrypts in this process. Unlike the other root keys, this one
//! leaves its provider: who can read the secret can decrypt. The id of the key is the resource name of the version.
//! Credentials are the Application Default Credentials.

use anyhow::ensure;
use async_trait::async_trait;
use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use google_cloud_gax::retry_policy::NeverRetry;
use google_cloud_secretmanager_v1::client::SecretManagerService;
use zeroize::Zeroizing;

use super::gcp::{self, Identity};
use crate::endpoint;
use crate::root::{Encrypted, PURPOSE, Plaintext, Root, RootError};

/// The only format of a ciphertext.
const FORMAT: u8 = 1;

/// A secret of Secret Manager.
pub(crate) struct SecretManager {
    client: SecretManagerService,
    identity: Identity,
    secret: String,
}

/// A version of the secret.
struct Version {
    name: String,
    key: RandomizedNonceKey,
}

impl SecretManager {
    /// The secret with this resource name.
    ///
    /// # Errors
    /// When the name, the address or the file with the credentials is invalid.
    pub(crate) async fn open(secret: &str, url: Option<&str>) -> anyhow::Result<Self> {
        ensure!(is_secret(secret), "the key must be projects/PROJECT/secrets/SECRET");
        // The retries are those of every provider: see `attempts`.
        let identity = Identity::find()?;
        let mut builder =
            SecretManagerService::builder().with_retry_policy(NeverRetry).with_credentials(identity.clone());
        if let Some(url) = url {
            endpoint::check(url)?;
            builder = builder.with_endpoint(url);
        }
        Ok(Self { client: builder.build().await?, identity, secret: secret.to_owned() })
    }

    /// Reads a version: its number, or `latest`.
    async fn version(&self, version: &str) -> Result<Version, RootError> {
        let name = format!("{}/versions/{version}", self.secret);
        let request = self.client.access_secret_version().set_name(name);
        let found = gcp::call(&self.identity, || request.clone().send()).await;
        let found = found.map_err(|error| gcp::refusal(&error))?;
        let payload = found.payload.ok_or_else(RootError::garbled)?;
        let wrong = |_| RootError::unusable("the secret must have 32 random bytes");
        let key = RandomizedNonceKey::new(&AES_256_GCM, &payload.data).map_err(wrong)?;
        // Named by the number even if it was asked for as `latest`.
        number(&found.name).ok_or_else(RootError::garbled)?;
        Ok(Version { name: found.name, key })
    }
}

#[async_trait]
impl Root for SecretManager {
    async fn status(&self) -> Result<String, RootError> {
        Ok(self.version("latest").await?.name)
    }

    async fn encrypt(&self, plaintext: &[u8]) -> Result<Encrypted, RootError> {
        let version = self.version("latest").await?;
        let failed = |_| RootError::unreachable("the operating system has no randomness");
        let mut sealed = plaintext.to_vec();
        let nonce = version.key.seal_in_place_append_tag(Aad::from(PURPOSE), &mut sealed).map_err(failed)?;
        let ciphertext = [&[FORMAT], nonce.as_ref().as_slice(), &sealed].concat();
        Ok(Encrypted { ciphertext, key_id: version.name })
    }

    async fn decrypt(&self, key_id: &str, ciphertext: &[u8]) -> Result<Plaintext, RootError> {
        let Some((&FORMAT, rest)) = ciphertext.split_first() else { return Err(RootError::ciphertext()) };
        let Some((nonce, sealed)) = rest.split_first_chunk::<NONCE_LEN>() else {
            return Err(RootError::ciphertext());
        };
        let version = self.version(number(key_id).ok_or_else(RootError::ciphertext)?).await?;
        let mut plaintext = Zeroizing::new(sealed.to_vec());
        let opened = version.key.open_in_place(Nonce::from(nonce), Aad::from(PURPOSE), &mut plaintext);
        let length = opened.map_err(|_| RootError::ciphertext())?.len();
        plaintext.truncate(length);
        Ok(plaintext)
    }
}

/// Whether this is the resource name of a secret.
fn is_secret(name: &str) -> bool {
    matches!(
        name.split('/').collect::<Vec<_>>()[..],
        ["projects", project, "secrets", secret] if !project.is_empty() && !secret.is_empty()
    )
}

/// The number in the resource name of a version.
fn number(name: &str) -> Option<&str> {
    let (_, number) = name.rsplit_once("/versions/")?;
    (!number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_named_by_its_whole_resource_name() {
        assert!(is_secret("projects/p/secrets/s"));
        for bad in ["s", "", "projects/p/secrets/", "projects/p/secrets/s/versions/1"] {
            assert!(!is_secret(bad), "{bad}");
        }
    }

    #[test]
    fn a_version_has_a_number() {
        assert_eq!(number("projects/1/secrets/s/versions/12"), Some("12"));
        for bad in ["projects/1/secrets/s/versions/latest", "projects/1/secrets/s/versions/", "", "1/../2"] {
            assert_eq!(number(bad), None, "{bad}");
        }
    }
}
