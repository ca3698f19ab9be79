//! The keyring: the key-encryption keys (KEKs) in a local file.
//!
//! A [`Keyring`] holds every KEK that the service may need: the active one, which wraps new DEKs, and the earlier ones,
//! which only unwrap. It is read from `kek.json` when the service starts and is immutable. [`Keyring::rotate`] writes a new
//! file and returns a new keyring.
//!
//! `server` creates or loads it and passes it to `service`. Only this crate reads or writes the file. The `format` module
//! documents its text.
//!
//! Invariants: Ids are unique, and the active id is one of them. A file that others may read is not used. A file is
//! replaced atomically, and is on the disk when a function returns.
//!
//! Deliberately absent: removal of a key (data that is wrapped under it would be lost), and keys from an environment
//! variable or a command line, which other processes can read. Not protected against: root, and a copy of the file in a
//! backup.

mod error;
mod file;
mod format;
#[cfg(fuzzing)]
pub mod fuzzing;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;

use agentrouter_crypto::Kek;
use agentrouter_model::{Clock, KekId, Rng, RngError, Timestamp};

pub use error::KeyringError;

/// One KEK and its creation time.
#[derive(Clone, Debug)]
struct Entry {
    kek: Arc<Kek>,
    created_at: Timestamp,
}

/// The KEKs of one service: one active, the others for unwrapping only.
///
/// Cheap to clone. Its `Debug` form has ids and dates only.
#[derive(Clone, Debug)]
pub struct Keyring {
    /// In the order of the file: oldest first.
    entries: Vec<Entry>,
    active: Arc<Kek>,
}

impl Keyring {
    /// Creates a keyring with one new key and writes it to `path`, with mode 0600 under any umask. The file is on the disk
    /// when this returns. The directory must exist.
    ///
    /// # Errors
    /// [`KeyringError::Exists`] when `path` exists: it is never overwritten. [`KeyringError::Busy`],
    /// [`KeyringError::Write`], [`KeyringError::Crypto`].
    pub fn create(path: &Path, clock: &dyn Clock, rng: &dyn Rng) -> Result<Self, KeyringError> {
        let first = Entry::generate(clock, rng)?;
        let keyring = Self { active: Arc::clone(&first.kek), entries: vec![first] };
        file::create(path, &format::write(&keyring))?;
        Ok(keyring)
    }

    /// Reads the keyring at `path`.
    ///
    /// # Errors
    /// [`KeyringError::Missing`]; [`KeyringError::Exposed`] when others may read or write the file or its group may write
    /// it; [`KeyringError::Malformed`] and [`KeyringError::UnknownFormat`]; [`KeyringError::Read`].
    pub fn load(path: &Path) -> Result<Self, KeyringError> {
        format::read(&file::read(path)?.text)
    }

    /// Adds a new key to the file at `path`, makes it the active one and keeps the others. The file's owner and mode do not
    /// change. The new file is on the disk when this returns, so a key is never used before it is durable.
    ///
    /// # Errors
    /// Those of [`Keyring::load`] and [`Keyring::create`], except `Exists`. After an error the file is unchanged, or has
    /// one more key that wraps nothing.
    pub fn rotate(path: &Path, clock: &dyn Clock, rng: &dyn Rng) -> Result<Self, KeyringError> {
        file::replace(path, |text| {
            let mut keyring = format::read(text)?;
            let next = Entry::generate(clock, rng)?;
            keyring.active = Arc::clone(&next.kek);
            keyring.entries.push(next);
            let text = format::write(&keyring);
            Ok((keyring, text))
        })
    }

    /// The active key.
    pub fn active(&self) -> &Arc<Kek> {
        &self.active
    }

    /// The key with this id, active or not.
    pub fn kek(&self, id: &KekId) -> Option<&Arc<Kek>> {
        if self.active.id() == id { Some(&self.active) } else { self.entry(id).map(|entry| &entry.kek) }
    }

    /// When the key with this id was created.
    pub fn created_at(&self, id: &KekId) -> Option<Timestamp> {
        self.entry(id).map(|entry| entry.created_at)
    }

    /// All ids, oldest first.
    pub fn ids(&self) -> impl ExactSizeIterator<Item = &KekId> {
        self.entries.iter().map(|entry| entry.kek.id())
    }

    fn entry(&self, id: &KekId) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.kek.id() == id)
    }
}

impl Entry {
    fn generate(clock: &dyn Clock, rng: &dyn Rng) -> Result<Self, KeyringError> {
        let created_at = clock.now();
        let kek = Kek::generate(new_id(created_at, rng)?, rng)?;
        Ok(Self { kek: Arc::new(kek), created_at })
    }
}

/// `kek-` and a ULID, so that ids sort by age.
fn new_id(now: Timestamp, rng: &dyn Rng) -> Result<KekId, RngError> {
    let mut random = [0; 16];
    rng.fill(&mut random[6..])?;
    let ulid = ulid::Ulid::from_parts(now.as_millis(), u128::from_be_bytes(random));
    let text = format!("kek-{}", ulid.array_to_str(&mut [0; ulid::ULID_LEN]));
    Ok(KekId::parse(&text).expect("30 letters, digits and a dash"))
}
