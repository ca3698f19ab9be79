//! What the fuzz targets in `fuzz/` see of this crate beyond its public items. Compiled with `--cfg fuzzing` alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use agentrouter_crypto::Kek;
use agentrouter_model::KekId;
use zeroize::Zeroizing;

use crate::root::{KekFile, Root, RootError, WrappedKek};
use crate::{Keyring, KeyringError, format, passphrase};

/// A root key that wraps a key as itself.
struct Clear;

impl Root for Clear {
    fn provider(&self) -> &str {
        "clear"
    }

    fn wrap(&self, kek: &Kek) -> Result<WrappedKek, RootError> {
        let (provider, root_id) = (self.provider().to_owned(), "1".to_owned());
        Ok(WrappedKek { provider, root_id, wrapped: kek.expose().to_vec(), annotations: BTreeMap::new() })
    }

    fn unwrap(&self, keks: &[(KekId, &WrappedKek)]) -> Result<Vec<Kek>, RootError> {
        let unusable = || RootError::Unusable { what: "no key".to_owned() };
        let unwrap = |(id, kek): &(KekId, &WrappedKek)| {
            let bytes = <[u8; 32]>::try_from(&*kek.wrapped).map_err(|_| unusable())?;
            Ok(Kek::from_bytes(id.clone(), Zeroizing::new(bytes)))
        };
        keks.iter().map(unwrap).collect()
    }
}

/// Reads the text of a KEK file with bare keys, or with keys of the provider `clear`.
///
/// # Errors
/// Those of a file with another provider or a fault.
pub fn read(text: &[u8]) -> Result<Keyring, KeyringError> {
    match format::read(text, &KekFile::new("", None)) {
        Err(KeyringError::OtherProvider { .. }) => {
            format::read(text, &KekFile::new("", Some(Arc::new(Clear))))
        }
        read => read,
    }
}

/// Writes the text of a KEK file.
///
/// # Panics
/// When it cannot be written.
pub fn write(keyring: &Keyring) -> Zeroizing<Vec<u8>> {
    format::write(keyring).expect("all wrapped, or none")
}

/// Whether a text is the id of a root key from a passphrase.
pub fn is_passphrase_root(id: &str) -> bool {
    passphrase::parse(id).is_some()
}
