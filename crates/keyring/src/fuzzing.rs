//! What the fuzz targets in `fuzz/` see of this crate beyond its public items. Compiled with `--cfg fuzzing` alone.

use zeroize::Zeroizing;

use crate::{Keyring, KeyringError, format};

/// Reads the text of a KEK file.
///
/// # Errors
/// [`KeyringError::Malformed`] and [`KeyringError::UnknownFormat`].
pub fn read(text: &[u8]) -> Result<Keyring, KeyringError> {
    format::read(text)
}

/// Writes the text of a KEK file.
pub fn write(keyring: &Keyring) -> Zeroizing<Vec<u8>> {
    format::write(keyring)
}
