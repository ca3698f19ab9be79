//! The errors of the KEK file, with the action for the operator. No text contains content of the file.

use std::io;
use std::path::PathBuf;

use agentrouter_crypto::CryptoError;
use agentrouter_model::RngError;

/// Why a keyring was not created, read or changed.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// The file exists. It may hold the only copy of keys in use.
    #[error("the KEK file {} exists already and is not overwritten; move it away first if it is really not needed", path.display())]
    Exists {
        /// The path of the file.
        path: PathBuf,
    },
    /// The file does not exist.
    #[error("the KEK file {} is missing; restore it from a backup: without it no stored value can be read", path.display())]
    Missing {
        /// The path of the file.
        path: PathBuf,
    },
    /// Users other than its owner may read or change it.
    #[error("the KEK file {} has mode {mode:04o}, which lets others read or change it; run: chmod 600 '{}'", path.display(), path.display())]
    Exposed {
        /// The path of the file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Its text is not a KEK file.
    #[error("the KEK file is damaged: {what}; restore it from a backup")]
    Malformed {
        /// The fault, a fixed text.
        what: &'static str,
    },
    /// It was written by a later version.
    #[error(
        "the KEK file has a format that this version does not know; use the version that wrote it, or a later one"
    )]
    UnknownFormat,
    /// Another process is changing it.
    #[error("another process is changing the KEK file; try again when it is done")]
    Busy,
    /// It could not be read.
    #[error("the KEK file {} could not be read; check that the service's user may read it", path.display())]
    Read {
        /// The path of the file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// It could not be written.
    #[error("the KEK file {} could not be written; check its directory's permissions and free space", path.display())]
    Write {
        /// The path of the file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// A key could not be generated.
    #[error("a new KEK could not be generated")]
    Crypto(#[from] CryptoError),
}

impl From<RngError> for KeyringError {
    fn from(error: RngError) -> Self {
        Self::Crypto(error.into())
    }
}
