//! The errors of the KEK file, with the action for the operator. No text contains content of the file.

use std::borrow::Cow;
use std::io;
use std::path::PathBuf;

use agentrouter_crypto::CryptoError;
use agentrouter_model::{KekId, RngError};

use crate::root::RootError;

/// Why a keyring was not created, read or changed.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// The file exists. It may hold the only copy of keys in use.
    #[error("the KEK file {} exists already and is not overwritten", path.display())]
    Exists {
        /// The path of the file.
        path: PathBuf,
    },
    /// The file does not exist.
    #[error("the KEK file {} is missing: without it no stored value can be read", path.display())]
    Missing {
        /// The path of the file.
        path: PathBuf,
    },
    /// Users other than its owner may read or change it.
    #[error("the KEK file {} has mode {mode:04o}, which lets others read or change it", path.display())]
    Exposed {
        /// The path of the file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Its text is not a KEK file.
    #[error("the KEK file is damaged: {what}")]
    Malformed {
        /// The fault, a fixed text.
        what: &'static str,
    },
    /// It was written by a later version.
    #[error("the KEK file has a format that this version does not know")]
    UnknownFormat,
    /// Another process is changing it.
    #[error("another process is changing the KEK file")]
    Busy,
    /// It could not be read.
    #[error("the KEK file {} could not be read", path.display())]
    Read {
        /// The path of the file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// It could not be written.
    #[error("the KEK file {} could not be written", path.display())]
    Write {
        /// The path of the file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// It was replaced, and the system did not confirm that the new file is on the disk.
    #[error("the KEK file {} was replaced, and the system does not confirm that the new one is on the disk", path.display())]
    Unsynced {
        /// The path of the file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// It has no such key.
    #[error("the KEK file has no KEK '{id}'")]
    UnknownKek {
        /// The id.
        id: KekId,
    },
    /// The active key cannot be removed.
    #[error("KEK '{id}' is active")]
    ActiveKek {
        /// Its id.
        id: KekId,
    },
    /// Its KEKs are bare, and a root key is asked for.
    #[error("the KEK file has its KEKs in clear, and kek.provider is '{provider}'")]
    Bare {
        /// The provider of the root key.
        provider: String,
    },
    /// Its KEKs are wrapped by another root key.
    #[error("the KEKs are wrapped by the provider '{found}', and kek.provider is '{asked}'")]
    OtherProvider {
        /// The provider in the file.
        found: String,
        /// The provider that is asked for.
        asked: String,
    },
    /// The root key unwrapped another key than the one that it wrapped.
    #[error("the root key unwraps another key for KEK '{id}': its check value differs")]
    OtherKey {
        /// The KEK.
        id: KekId,
    },
    /// The root key did not wrap or unwrap.
    #[error(transparent)]
    Root(#[from] RootError),
    /// A key could not be generated.
    #[error("a new KEK could not be generated")]
    Crypto(#[from] CryptoError),
}

impl KeyringError {
    /// Whether the same file may be read later.
    pub const fn is_temporary(&self) -> bool {
        matches!(self, Self::Busy | Self::Read { .. } | Self::Root(RootError::Unreachable { .. }))
    }

    /// What to do.
    pub fn hint(&self) -> Option<Cow<'static, str>> {
        Some(Cow::Borrowed(match self {
            Self::Exists { .. } => "move it away first if it is really not needed",
            Self::Missing { .. } | Self::Malformed { .. } => {
                "put your copy of the KEK file back; a backup does not contain it"
            }
            Self::Exposed { path, .. } => return Some(format!("chmod 600 '{}'", path.display()).into()),
            Self::UnknownFormat => "use the version that wrote it, or a later one",
            Self::Busy => "try again when it is done",
            Self::Read { .. } => "check that the service's user may read it",
            Self::Write { source, .. } if source.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                "it is on a read-only file system, as a mounted Secret of Kubernetes is: change the KEKs where the file can be written, or name a copy on a volume with kek-file"
            }
            Self::Write { .. } => "check its directory's permissions and free space",
            Self::Unsynced { .. } => {
                "check the disk, and that the file is as it should be; 'kek list' shows its KEKs"
            }
            Self::UnknownKek { .. } => "'kek list' shows the ids",
            Self::ActiveKek { .. } => "activate another KEK first",
            Self::Bare { provider } => {
                return Some(
                    format!("to wrap them, run: agentrouter-secrets kek move --to {provider}").into(),
                );
            }
            // The other choice would write the KEKs in clear.
            Self::OtherProvider { found, asked } if asked == "file" => {
                return Some(format!("set kek.provider to '{found}'").into());
            }
            Self::OtherProvider { found, asked } => {
                return Some(
                    format!(
                        "set kek.provider to '{found}'; or run: agentrouter-secrets kek move --kek-provider {found} --to {asked}"
                    )
                    .into(),
                );
            }
            Self::OtherKey { .. } => {
                "set kek.key, or the socket of the provider, to the root key that wrapped it"
            }
            Self::Root(RootError::Unreachable { .. }) => "check that the provider runs and can be reached",
            Self::Root(RootError::Denied { .. }) => "allow this server to use the root key",
            Self::Root(RootError::WrongPassphrase) => {
                "give the passphrase that wrapped them; if it is the right one, put your copy of the KEK file back"
            }
            Self::Root(_) | Self::Crypto(_) => return None,
        }))
    }
}

impl From<RngError> for KeyringError {
    fn from(error: RngError) -> Self {
        Self::Crypto(error.into())
    }
}
