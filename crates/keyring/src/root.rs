//! Root keys: what wraps the KEKs in the KEK file.

use std::collections::BTreeMap;
use std::fmt::{self, Debug, Formatter};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agentrouter_crypto::{CryptoError, Kek};
use agentrouter_model::KekId;

/// A root key, which wraps KEKs. It is outside of this process, or derived from a passphrase.
///
/// Its methods may take as long as the deadline of a KMS, and block.
pub trait Root: Send + Sync {
    /// The value of `kek.provider` that selects it. The KEK file names it.
    fn provider(&self) -> &str;

    /// Whether it can be reached.
    ///
    /// # Errors
    /// [`RootError`].
    fn check(&self) -> Result<(), RootError> {
        Ok(())
    }

    /// Wraps a KEK under the current root key.
    ///
    /// # Errors
    /// [`RootError`].
    fn wrap(&self, kek: &Kek) -> Result<WrappedKek, RootError>;

    /// Unwraps KEKs, in their order. Whether they are the right ones is compared afterwards.
    ///
    /// # Errors
    /// [`RootError`].
    fn unwrap(&self, keks: &[(KekId, &WrappedKek)]) -> Result<Vec<Kek>, RootError>;
}

/// A KEK as the KEK file holds it under a root key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrappedKek {
    /// [`Root::provider`] of the root key.
    pub provider: String,
    /// The id of the root key.
    pub root_id: String,
    /// The wrapped key.
    pub wrapped: Vec<u8>,
    /// What else the provider needs to unwrap it.
    pub annotations: BTreeMap<String, Vec<u8>>,
}

/// Why a root key did not wrap or unwrap.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RootError {
    /// The provider cannot be reached, or cannot respond at the moment.
    #[error("the root key cannot be reached: {what}")]
    Unreachable {
        /// What the provider or the system reports.
        what: String,
    },
    /// The provider refuses: the root key is disabled or destroyed, or this server may not use it.
    #[error("the use of the root key is denied: {what}")]
    Denied {
        /// What the provider reports.
        what: String,
    },
    /// The provider is another one than was asked for, or its response is not one.
    #[error("the provider of the root key cannot be used: {what}")]
    Unusable {
        /// What is wrong.
        what: String,
    },
    /// The passphrase is another one, or the KEK file is damaged.
    #[error("the passphrase does not unwrap the KEKs")]
    WrongPassphrase,
    /// The library or the random source failed.
    #[error("the KEK could not be wrapped")]
    Crypto(#[from] CryptoError),
}

/// The KEK file, and the root key that wraps its KEKs. Without a root key the KEKs in it are bare.
#[derive(Clone)]
pub struct KekFile {
    path: PathBuf,
    root: Option<Arc<dyn Root>>,
}

impl KekFile {
    /// The file at `path`.
    pub fn new(path: impl Into<PathBuf>, root: Option<Arc<dyn Root>>) -> Self {
        Self { path: path.into(), root }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The root key.
    pub fn root(&self) -> Option<&dyn Root> {
        self.root.as_deref()
    }
}

impl From<&Path> for KekFile {
    fn from(path: &Path) -> Self {
        Self::new(path, None)
    }
}

impl From<&PathBuf> for KekFile {
    fn from(path: &PathBuf) -> Self {
        Self::new(path.as_path(), None)
    }
}

impl From<&Self> for KekFile {
    fn from(file: &Self) -> Self {
        file.clone()
    }
}

impl Debug for KekFile {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let provider = self.root().map(Root::provider);
        f.debug_struct("KekFile").field("path", &self.path).field("provider", &provider).finish()
    }
}

#[cfg(test)]
mod tests;
