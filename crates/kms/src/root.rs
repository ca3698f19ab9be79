//! The root key: the trait that each provider implements, and its errors.
//!
//! A provider makes one attempt per call and says what kind of failure it was. [`Patient`](crate::attempts::Patient) adds
//! the deadline and the retries, and [`service`](crate::service) turns the kind into a gRPC code. No text of an error has a
//! secret, a ciphertext or a text of the provider: only fixed sentences, status numbers and names of error codes.

use std::borrow::Cow;

use async_trait::async_trait;
use zeroize::Zeroizing;

/// What every ciphertext of this plugin is bound to, where the root key supports additional authenticated data.
///
/// It keeps other data that the same root key has encrypted from being taken for a KEK.
pub(crate) const PURPOSE: &str = "agentrouter-secrets-kms/v1";

/// A root key at a provider.
#[async_trait]
pub(crate) trait Root: Send + Sync {
    /// The id of the key, with its version, that encrypts now. Fails when the key cannot be used.
    async fn status(&self) -> Result<String, RootError>;

    /// Encrypts with the newest version of the key.
    async fn encrypt(&self, plaintext: &[u8]) -> Result<Encrypted, RootError>;

    /// Decrypts what [`Self::encrypt`] returned. `key_id` is the id that came with it.
    async fn decrypt(&self, key_id: &str, ciphertext: &[u8]) -> Result<Plaintext, RootError>;
}

/// A decrypted value. It is wiped when dropped.
pub(crate) type Plaintext = Zeroizing<Vec<u8>>;

/// The result of [`Root::encrypt`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Encrypted {
    pub(crate) ciphertext: Vec<u8>,
    /// The key and the version that encrypted it.
    pub(crate) key_id: String,
}

/// Kinds of failures, by what the caller can do about them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The provider refused the identity or the permission. Retrying does not help.
    Denied,
    /// The provider did not respond, or said that it cannot at present. Retried.
    Unreachable,
    /// The key does not exist, is disabled, or cannot encrypt and decrypt.
    Unusable,
    /// The ciphertext was not made by this key, or was changed.
    Ciphertext,
    /// The response could not be understood.
    Garbled,
}

/// A failure of a root key.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(crate) struct RootError {
    pub(crate) kind: Kind,
    text: Cow<'static, str>,
}

impl RootError {
    pub(crate) fn new(kind: Kind, text: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, text: text.into() }
    }

    pub(crate) fn denied(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Denied, text)
    }

    pub(crate) fn unreachable(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Unreachable, text)
    }

    pub(crate) fn unusable(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Unusable, text)
    }

    pub(crate) fn ciphertext() -> Self {
        Self::new(Kind::Ciphertext, "the root key did not make this ciphertext, or it was changed")
    }

    pub(crate) fn garbled() -> Self {
        Self::new(Kind::Garbled, "the provider's response could not be understood")
    }
}
