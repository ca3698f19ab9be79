//! The keyring: the key-encryption keys (KEKs) in a local file, bare or wrapped by a root key.
//!
//! A [`Keyring`] holds every KEK that the service may need: the active one, which wraps new DEKs, and the earlier ones,
//! which only unwrap. It is read from `kek.json` when the service starts and is immutable. A change writes a new file and
//! returns a new keyring.
//!
//! A [`KekFile`] is the path and the [`Root`] that wraps the KEKs in the file. A KEK is unwrapped when the file is read.
//! [`Passphrase`] is a root key of this crate, and `instance` has those of KMSs.
//!
//! `server` creates or loads it and passes it to `service`. Only this crate reads or writes the file. The `format` module
//! documents its text.
//!
//! Invariants: Ids are unique, and the active id is one of them. A file that others may read is not used. A file is
//! replaced atomically, and is on the disk when a function returns. A key that a root key unwraps is the one with the check
//! value in the file. A new key is unwrapped once before it is written.
//!
//! Deliberately absent: whether a key is still needed, which `service` decides before it removes one, and keys from an
//! environment variable or a command line, which other processes can read. Not protected against: root, and a copy of the
//! file in a backup.

mod error;
mod file;
mod format;
#[cfg(fuzzing)]
pub mod fuzzing;
mod passphrase;
mod root;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;

use agentrouter_crypto::{Kek, digests_equal};
use agentrouter_model::{Clock, KekId, Rng, RngError, Timestamp};

pub use error::KeyringError;
pub use file::Stamp;
pub use passphrase::Passphrase;
pub use root::{KekFile, Root, RootError, WrappedKek};

/// One KEK and its creation time.
#[derive(Clone, Debug)]
struct Entry {
    kek: Arc<Kek>,
    created_at: Timestamp,
    /// Its form in the file, if a root key wraps it.
    wrapped: Option<Arc<WrappedKek>>,
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
    /// Creates a keyring with one new key and writes it to `file`, with mode 0600 under any umask. The file is on the disk
    /// when this returns. The directory must exist.
    ///
    /// # Errors
    /// [`KeyringError::Exists`] when the file exists: it is never overwritten. [`KeyringError::Busy`],
    /// [`KeyringError::Write`], [`KeyringError::Crypto`], [`KeyringError::Root`].
    pub fn create(file: impl Into<KekFile>, clock: &dyn Clock, rng: &dyn Rng) -> Result<Self, KeyringError> {
        let file = file.into();
        let first = Entry::generate(&file, clock, rng)?;
        let keyring = Self { active: Arc::clone(&first.kek), entries: vec![first] };
        file::create(file.path(), &format::write(&keyring)?)?;
        Ok(keyring)
    }

    /// Reads the keyring in `file`, and has its root key unwrap it.
    ///
    /// # Errors
    /// [`KeyringError::Missing`]; [`KeyringError::Exposed`] when others may read or write the file or its group may write
    /// it; [`KeyringError::Malformed`] and [`KeyringError::UnknownFormat`]; [`KeyringError::Read`];
    /// [`KeyringError::Bare`] and [`KeyringError::OtherProvider`] when the KEKs are not wrapped as `file` says;
    /// [`KeyringError::Root`]; [`KeyringError::OtherKey`] when the root key unwraps another key.
    pub fn load(file: impl Into<KekFile>) -> Result<Self, KeyringError> {
        let file = file.into();
        format::read(&file::read(file.path())?.text, &file)
    }

    /// Adds a new key to `file`, makes it the active one and keeps the others. The file's owner and mode do not change. The
    /// new file is on the disk when this returns, so a key is never used before it is durable.
    ///
    /// # Errors
    /// Those of [`Keyring::load`] and [`Keyring::create`], except `Exists`. After an error the file is unchanged, or has
    /// one more key that wraps nothing.
    pub fn rotate(file: impl Into<KekFile>, clock: &dyn Clock, rng: &dyn Rng) -> Result<Self, KeyringError> {
        let file = file.into();
        file::replace(file.path(), |text| {
            let mut keyring = format::read(text, &file)?;
            let next = Entry::generate(&file, clock, rng)?;
            keyring.active = Arc::clone(&next.kek);
            keyring.entries.push(next);
            let text = format::write(&keyring)?;
            Ok((keyring, text))
        })
    }

    /// Adds a new key to `file`, for unwrapping only. It is newer than all others, by its time of creation.
    /// Returns the new keyring and the id of the key. The new file is on the disk when this returns.
    ///
    /// # Errors
    /// As [`Keyring::rotate`].
    pub fn add(
        file: impl Into<KekFile>,
        clock: &dyn Clock,
        rng: &dyn Rng,
    ) -> Result<(Self, KekId), KeyringError> {
        let file = file.into();
        file::replace(file.path(), |text| {
            let mut keyring = format::read(text, &file)?;
            let mut added = Entry::generate(&file, clock, rng)?;
            if let Some(newest) = keyring.entries.iter().map(|entry| entry.created_at).max() {
                let next = Timestamp::from_micros(newest.as_micros().saturating_add(1));
                added.created_at = added.created_at.max(next);
            }
            let id = added.kek.id().clone();
            keyring.entries.push(added);
            let text = format::write(&keyring)?;
            Ok(((keyring, id), text))
        })
    }

    /// Makes the key `id` the active one in `file`.
    ///
    /// # Errors
    /// As [`Keyring::rotate`], and [`KeyringError::UnknownKek`].
    pub fn activate(file: impl Into<KekFile>, id: &KekId) -> Result<Self, KeyringError> {
        let file = file.into();
        file::replace(file.path(), |text| {
            let keyring = format::read(text, &file)?;
            let keyring =
                keyring.with_active(id).ok_or_else(|| KeyringError::UnknownKek { id: id.clone() })?;
            let text = format::write(&keyring)?;
            Ok((keyring, text))
        })
    }

    /// Wraps the KEKs in `file` under the root key `to`, or writes them bare without one. The KEKs and their ids do not
    /// change. Each is unwrapped once before the file is replaced.
    ///
    /// # Errors
    /// Those of [`Keyring::rotate`]. After an error the file is unchanged.
    pub fn relocate(file: impl Into<KekFile>, to: Option<&dyn Root>) -> Result<Self, KeyringError> {
        let file = file.into();
        file::replace(file.path(), |text| {
            let mut keyring = format::read(text, &file)?;
            for entry in &mut keyring.entries {
                entry.wrapped = to.map(|root| wrap(root, &entry.kek)).transpose()?;
            }
            let text = format::write(&keyring)?;
            Ok((keyring, text))
        })
    }

    /// Removes the key `id` from `file`. The caller knows that nothing needs it.
    ///
    /// # Errors
    /// As [`Keyring::activate`], and [`KeyringError::ActiveKek`].
    pub fn remove(file: impl Into<KekFile>, id: &KekId) -> Result<Self, KeyringError> {
        let file = file.into();
        file::replace(file.path(), |text| {
            let mut keyring = format::read(text, &file)?;
            if keyring.active.id() == id {
                return Err(KeyringError::ActiveKek { id: id.clone() });
            }
            if keyring.entry(id).is_none() {
                return Err(KeyringError::UnknownKek { id: id.clone() });
            }
            keyring.entries.retain(|entry| entry.kek.id() != id);
            let text = format::write(&keyring)?;
            Ok((keyring, text))
        })
    }

    /// The same keys with `id` as the active one, in memory. `None` if there is no such key.
    pub fn with_active(&self, id: &KekId) -> Option<Self> {
        let active = Arc::clone(&self.entry(id)?.kek);
        Some(Self { entries: self.entries.clone(), active })
    }

    /// Whether it has every key of `other`, with the same bytes.
    pub fn covers(&self, other: &Self) -> bool {
        let same = |entry: &Entry| {
            self.kek(entry.kek.id()).is_some_and(|kek| digests_equal(kek.expose(), entry.kek.expose()))
        };
        other.entries.iter().all(same)
    }

    /// Whether it has the same keys as `other`, and the same one is active.
    pub fn is_like(&self, other: &Self) -> bool {
        self.active.id() == other.active.id() && self.ids().eq(other.ids())
    }

    /// The provider of the root key that wraps the KEKs in the file at `path`. `None` for bare KEKs. Unwraps nothing.
    ///
    /// # Errors
    /// Those of [`Keyring::load`] that are not about a root key.
    pub fn provider(path: &Path) -> Result<Option<String>, KeyringError> {
        format::provider(&file::read(path)?.text)
    }

    /// The ids of the KEKs in the file at `path`, oldest first. Unwraps nothing.
    ///
    /// # Errors
    /// As [`Keyring::provider`].
    pub fn ids_in(path: &Path) -> Result<Vec<KekId>, KeyringError> {
        format::ids(&file::read(path)?.text)
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

    /// The order of the keys by age: of two keys, the newer one has the greater rank. `None` if there is no such key.
    pub fn rank(&self, id: &KekId) -> Option<(Timestamp, usize)> {
        let at = self.entries.iter().position(|entry| entry.kek.id() == id)?;
        Some((self.entries[at].created_at, at))
    }

    /// The id of the newest key.
    pub fn newest(&self) -> &KekId {
        self.ids().max_by_key(|id| self.rank(id)).unwrap_or_else(|| self.active.id())
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
    /// A new key, wrapped if `file` has a root key.
    fn generate(file: &KekFile, clock: &dyn Clock, rng: &dyn Rng) -> Result<Self, KeyringError> {
        let created_at = clock.now();
        let kek = Kek::generate(new_id(created_at, rng)?, rng)?;
        let wrapped = file.root().map(|root| wrap(root, &kek)).transpose()?;
        Ok(Self { kek: Arc::new(kek), created_at, wrapped })
    }
}

/// Wraps a key, and compares what the root key unwraps with it. A key that does not come back must not wrap anything.
fn wrap(root: &dyn Root, kek: &Kek) -> Result<Arc<WrappedKek>, KeyringError> {
    let wrapped = root.wrap(kek)?;
    let again = root.unwrap(&[(kek.id().clone(), &wrapped)])?;
    match &again[..] {
        [again] if digests_equal(&again.check_value()?, &kek.check_value()?) => Ok(Arc::new(wrapped)),
        _ => Err(KeyringError::OtherKey { id: kek.id().clone() }),
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
