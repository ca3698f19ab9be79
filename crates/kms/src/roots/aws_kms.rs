//! A symmetric key of AWS KMS.
//!
//! Encrypt is one request. Decrypt reads the state of the key first, so that a key which was disabled is noticed wherever
//! Decrypt does not check it. The encryption context has one pair: the name `agentrouter-secrets-kms` and the
//! SHA-256 of [`PURPOSE`]. AWS writes contexts to CloudTrail, so a context never has more than hashes.
//!
//! The id of the key is its ARN. AWS rotates the material behind an ARN by itself and keeps the earlier material, so such a
//! rotation changes no id. An alias that is moved to another key changes the id. What the earlier key of an alias has
//! encrypted is decrypted with that key, if it is in the same account and region.

use agentrouter_crypto::Sha256;
use async_trait::async_trait;
use aws_config::retry::RetryConfig;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_kms::Client;
use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::{EncryptionAlgorithmSpec, KeyMetadata, KeyState};
use zeroize::Zeroizing;

use crate::endpoint;
use crate::root::{Encrypted, Kind, PURPOSE, Plaintext, Root, RootError};

/// The name in the encryption context.
const CONTEXT: &str = "agentrouter-secrets-kms";

/// A key of AWS KMS.
pub(crate) struct AwsKms {
    client: Client,
    key: String,
    context: String,
}

impl AwsKms {
    /// The key with this id, ARN, or alias (`alias/NAME`), with the credentials and the region of the AWS tools. The region
    /// of an ARN has precedence.
    ///
    /// # Errors
    /// When the address is invalid.
    pub(crate) async fn open(key: &str, url: Option<&str>) -> anyhow::Result<Self> {
        // The retries are those of every provider: see `attempts`.
        let mut loader =
            aws_config::defaults(BehaviorVersion::v2026_01_12()).retry_config(RetryConfig::disabled());
        if let Some(region) = region(key) {
            loader = loader.region(Region::new(region.to_owned()));
        }
        if let Some(url) = url {
            endpoint::check(url)?;
            loader = loader.endpoint_url(url);
        }
        let mut context = Sha256::new();
        context.update(PURPOSE.as_bytes());
        Ok(Self {
            client: Client::new(&loader.load().await),
            key: key.to_owned(),
            context: hex(&context.finish()),
        })
    }

    /// The key, if it can encrypt and decrypt.
    async fn metadata(&self, key: &str) -> Result<KeyMetadata, RootError> {
        let described =
            self.client.describe_key().key_id(key).send().await.map_err(|error| refusal(&error))?;
        let metadata = described.key_metadata.ok_or_else(RootError::garbled)?;
        match metadata.key_state() {
            Some(KeyState::Enabled) => {}
            Some(KeyState::Disabled) => return Err(RootError::unusable("the key is disabled")),
            Some(KeyState::PendingDeletion | KeyState::PendingReplicaDeletion) => {
                return Err(RootError::unusable("the key is scheduled for deletion"));
            }
            Some(KeyState::PendingImport) => return Err(RootError::unusable("the key has no material")),
            // A custom key store that is disconnected, or a key that is being made.
            _ => return Err(RootError::unreachable("the key is not available at present")),
        }
        if !metadata.encryption_algorithms().contains(&EncryptionAlgorithmSpec::SymmetricDefault) {
            return Err(RootError::unusable("the key must be symmetric, for encryption and decryption"));
        }
        Ok(metadata)
    }

    /// The failure of an operation. AWS has one error for all states of a key in which it cannot be used, some of which are
    /// outages.
    async fn explain(&self, key: &str, error: RootError) -> RootError {
        match error.kind {
            Kind::Unusable => self.metadata(key).await.err().unwrap_or(error),
            _ => error,
        }
    }
}

#[async_trait]
impl Root for AwsKms {
    async fn status(&self) -> Result<String, RootError> {
        self.metadata(&self.key).await?.arn.ok_or_else(RootError::garbled)
    }

    async fn encrypt(&self, plaintext: &[u8]) -> Result<Encrypted, RootError> {
        let request = self
            .client
            .encrypt()
            .key_id(&self.key)
            .plaintext(Blob::new(plaintext))
            .encryption_context(CONTEXT, &self.context);
        let encrypted = match request.send().await {
            Ok(encrypted) => encrypted,
            Err(error) => return Err(self.explain(&self.key, refusal(&error)).await),
        };
        match (encrypted.ciphertext_blob, encrypted.key_id) {
            (Some(ciphertext), Some(key_id)) => Ok(Encrypted { ciphertext: ciphertext.into_inner(), key_id }),
            _ => Err(RootError::garbled()),
        }
    }

    async fn decrypt(&self, key_id: &str, ciphertext: &[u8]) -> Result<Plaintext, RootError> {
        let key = self.key_of(key_id).await?;
        let request = self
            .client
            .decrypt()
            .key_id(key)
            .ciphertext_blob(Blob::new(ciphertext))
            .encryption_context(CONTEXT, &self.context);
        match request.send().await {
            Ok(decrypted) => decrypted
                .plaintext
                .map(|blob| Zeroizing::new(blob.into_inner()))
                .ok_or_else(RootError::garbled),
            Err(error) => Err(self.explain(key, refusal(&error)).await),
        }
    }
}

impl AwsKms {
    /// The key to decrypt with, which can be used: the configured one, if it encrypted. If that is an alias, the key that
    /// encrypted, if it is of the same account and region, because the alias may have been moved since.
    async fn key_of<'a>(&'a self, key_id: &'a str) -> Result<&'a str, RootError> {
        let current = self.metadata(&self.key).await?.arn.ok_or_else(RootError::garbled)?;
        let is_alias = self.key.starts_with("alias/") || self.key.contains(":alias/");
        if name(&current) == name(key_id) {
            Ok(&self.key)
        } else if is_alias && same_account(&current, key_id) {
            self.metadata(key_id).await?;
            Ok(key_id)
        } else {
            Err(RootError::ciphertext())
        }
    }
}

/// The id of a key within its ARN. The replicas of a key in several regions have it in common.
fn name(arn: &str) -> &str {
    arn.rsplit_once(":key/").map_or(arn, |(_, name)| name)
}

/// Whether two ARNs of keys have partition, region and account in common.
fn same_account(one: &str, other: &str) -> bool {
    match (one.split_once(":key/"), other.split_once(":key/")) {
        (Some((one, _)), Some((other, key))) => one == other && !key.is_empty(),
        _ => false,
    }
}

/// The region of an ARN.
fn region(key: &str) -> Option<&str> {
    key.strip_prefix("arn:")?.split(':').nth(2).filter(|region| !region.is_empty())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn refusal<E: ProvideErrorMetadata>(error: &SdkError<E>) -> RootError {
    match error {
        SdkError::ServiceError(service) => {
            let (code, status) = (service.err().code().unwrap_or_default(), service.raw().status().as_u16());
            let kind = kind(code, status);
            if kind == Kind::Ciphertext {
                return RootError::ciphertext();
            }
            // Only the name: the rest of a response may have more.
            let code: String = code.chars().filter(char::is_ascii_alphanumeric).take(64).collect();
            let what = if code.is_empty() { format!("status {status}") } else { code };
            RootError::new(kind, format!("AWS KMS responded with {what}"))
        }
        SdkError::ConstructionFailure(_) => {
            RootError::unreachable("the AWS credentials or the region are missing, or cannot be loaded")
        }
        SdkError::ResponseError(_) => RootError::garbled(),
        SdkError::TimeoutError(_) => RootError::unreachable("AWS KMS did not respond in time"),
        SdkError::DispatchFailure(failure) if failure.is_other() || failure.is_user() => {
            RootError::unreachable("the AWS credentials or the region are missing, or cannot be loaded")
        }
        _ => RootError::unreachable("AWS KMS cannot be connected to"),
    }
}

fn kind(code: &str, status: u16) -> Kind {
    match code {
        "AccessDeniedException"
        | "AccessDenied"
        | "ExpiredTokenException"
        | "IncompleteSignature"
        | "InvalidClientTokenId"
        | "InvalidSignatureException"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException"
        | "NotAuthorized"
        | "OptInRequired"
        | "SignatureDoesNotMatch"
        | "UnrecognizedClientException" => Kind::Denied,
        "DisabledException"
        | "InvalidArnException"
        | "InvalidKeyUsageException"
        | "KMSInvalidStateException"
        | "NotFoundException" => Kind::Unusable,
        "IncorrectKeyException" | "InvalidCiphertextException" => Kind::Ciphertext,
        "DependencyTimeoutException"
        | "KMSInternalException"
        | "KeyUnavailableException"
        | "LimitExceededException"
        | "RequestExpired"
        | "ServiceUnavailableException"
        | "ThrottlingException" => Kind::Unreachable,
        _ if status == 401 || status == 403 => Kind::Denied,
        _ if status == 429 || status >= 500 => Kind::Unreachable,
        _ => Kind::Garbled,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_region_of_an_arn_is_used() {
        assert_eq!(region("arn:aws:kms:eu-central-1:111122223333:key/1"), Some("eu-central-1"));
        for none in ["alias/agentrouter", "1234abcd-12ab-34cd-56ef-1234567890ab", "arn:aws:kms"] {
            assert_eq!(region(none), None, "{none}");
        }
    }

    #[test]
    fn the_key_of_a_ciphertext_must_be_of_the_same_account_and_region() {
        let current = "arn:aws:kms:eu-central-1:111122223333:key/2";
        assert!(same_account(current, "arn:aws:kms:eu-central-1:111122223333:key/1"));
        for other in [
            "arn:aws:kms:eu-central-1:999999999999:key/1",
            "arn:aws:kms:us-east-1:111122223333:key/1",
            "arn:aws:kms:eu-central-1:111122223333:key/",
            "1",
            "",
        ] {
            assert!(!same_account(current, other), "{other}");
        }
    }

    #[test]
    fn the_replicas_of_a_key_have_one_name() {
        assert_eq!(name("arn:aws:kms:eu-central-1:111122223333:key/mrk-1"), "mrk-1");
        assert_eq!(name("arn:aws:kms:us-east-1:111122223333:key/mrk-1"), "mrk-1");
        assert_eq!(name("mrk-1"), "mrk-1");
    }

    #[test]
    fn an_error_code_tells_a_denial_from_an_outage() {
        assert_eq!(kind("AccessDeniedException", 400), Kind::Denied);
        assert_eq!(kind("DisabledException", 400), Kind::Unusable);
        assert_eq!(kind("ThrottlingException", 400), Kind::Unreachable);
        assert_eq!(kind("SomethingNew", 503), Kind::Unreachable);
        assert_eq!(kind("SomethingNew", 400), Kind::Garbled);
        assert_eq!(kind("", 403), Kind::Denied);
    }
}
