//! Backups, restores, and the move from one store into another.
//!
//! A backup is a file (its layout is in [`mod@format`]) with all of a store in it, as it was at one moment: values sealed, keys
//! hashed or wrapped, and no KEK, so that it is of no use without the KEK file. It is made beside a running server by this
//! process's own read transaction; the server is told so that its audit log has it. A restore fills an empty store, which
//! is marked until it is whole, and gives it a new epoch and a new key for page tokens. A move does the same from a store
//! that nobody serves, compares the two, and leaves the old one as it was.

mod file;
pub(crate) mod format;
mod make;
mod migrate;
mod restore;
#[cfg(test)]
mod tests;

use std::path::Path;

use agentrouter_crypto::{InternalKey, digests_equal};
use agentrouter_keyring::Keyring;
use agentrouter_model::{KekId, Slot, Timestamp};
use agentrouter_store::portable::Item;
use agentrouter_store::{Store, Stored};
use anyhow::{Context as _, bail};

pub(crate) use make::make;
pub(crate) use migrate::migrate;
pub(crate) use restore::restore;

use file::Reader;

/// Most versions that do not open which are named one by one.
const NAMED: usize = 10;

/// What is in a whole backup.
#[derive(Clone, Debug)]
pub(crate) struct Contents {
    pub(crate) created_at: Timestamp,
    pub(crate) program: String,
    /// The KEKs that its values and keys are wrapped with.
    pub(crate) keks: Vec<KekId>,
    pub(crate) api_keys: u64,
    pub(crate) secrets: u64,
    pub(crate) versions: u64,
    /// The last record of the audit log that the store knew of.
    pub(crate) audit_seq: Option<u64>,
    /// SHA-256 of the file without its last line.
    pub(crate) sha256: String,
    /// Versions whose value does not open with the KEK file, and the first of them by secret's id and number. Zero if no
    /// KEK file was there to try.
    pub(crate) unopened: u64,
    pub(crate) named: Vec<String>,
}

/// Reads a backup to its end. Without a keyring damage is found; with one also what was changed on purpose, and every
/// value is opened.
///
/// # Errors
/// When the file is no backup, is damaged or cut short; with a keyring also when it is not authentic, or the keyring
/// lacks a KEK.
pub(crate) fn examine(path: &Path, keyring: Option<&Keyring>) -> anyhow::Result<Contents> {
    let mut reader = Reader::open(path)?;
    let created_at = Timestamp::from_micros(reader.header.created_at);
    let mut contents = Contents {
        created_at,
        program: reader.header.program.clone(),
        keks: Vec::new(),
        api_keys: 0,
        secrets: 0,
        versions: 0,
        audit_seq: reader.header.audit_head.as_ref().map(|head| head.seq),
        sha256: String::new(),
        unopened: 0,
        named: Vec::new(),
    };
    while let Some(item) = reader.next()? {
        contents.count(&item, keyring)?;
    }
    let end = reader.ended().context("the backup has no end")?;
    contents.sha256.clone_from(&end.sha256);
    if let Some(keyring) = keyring {
        contents.require(keyring)?;
        let key = key_of(&reader, keyring)?;
        let tag = format::mac(&key, end.items, &end.digest);
        if end.mac.len() != tag.len() || !end.mac.first_chunk().is_some_and(|mac| digests_equal(mac, &tag)) {
            bail!("{} is not authentic: somebody changed it", path.display());
        }
    }
    Ok(contents)
}

/// The key that a backup is authenticated with.
fn key_of(reader: &Reader, keyring: &Keyring) -> anyhow::Result<InternalKey> {
    let id = KekId::parse(&reader.header.kek_id).ok().context("the backup's first line names no KEK")?;
    let kek =
        keyring.kek(&id).with_context(|| format!("the backup needs KEK '{id}', which the KEK file lacks"))?;
    let wrapped = format::bytes(&reader.header.key).ok().context("the backup's first line has no key")?;
    InternalKey::unwrap(kek, format::PURPOSE, &wrapped)
        .context("the backup is not authentic: its key was not wrapped by the KEK that it names")
}

impl Contents {
    fn count(&mut self, item: &Item, keyring: Option<&Keyring>) -> anyhow::Result<()> {
        match item {
            Item::Kek { id, check } => {
                if let Some(kek) = keyring.and_then(|keyring| keyring.kek(id))
                    && !digests_equal(&kek.check_value()?, check)
                {
                    bail!(
                        "the backup needs KEK '{id}', and the KEK file has another key under that name; use the KEK file that belongs to this backup"
                    );
                }
                self.keks.push(id.clone());
            }
            Item::InternalKey { .. } => {}
            Item::ApiKey(_) => self.api_keys += 1,
            Item::Secret(_) => self.secrets += 1,
            Item::Version(stored) => {
                self.versions += 1;
                if keyring.is_some_and(|keyring| !opens(stored, keyring)) {
                    self.unopened += 1;
                    if self.named.len() < NAMED {
                        self.named.push(format!(
                            "version {} of secret {}",
                            stored.secret.version, stored.secret.id
                        ));
                    }
                }
            }
        }
        Ok(())
    }

    /// Refuses a keyring that lacks a KEK.
    fn require(&self, keyring: &Keyring) -> anyhow::Result<()> {
        match self.keks.iter().find(|id| keyring.kek(id).is_none()) {
            None => Ok(()),
            Some(id) => {
                let found: Vec<String> = keyring.ids().map(|id| format!("'{id}'")).collect();
                bail!(
                    "the backup needs KEK '{id}', and the KEK file holds {}; use the KEK file that belongs to this backup",
                    found.join(", ")
                )
            }
        }
    }
}

fn opens(stored: &Stored, keyring: &Keyring) -> bool {
    let Some(envelope) = &stored.envelope else { return true };
    let secret = &stored.secret;
    let slot = Slot { place: &secret.place, id: secret.id, version: secret.version };
    keyring.kek(&envelope.kek_id).is_some_and(|kek| agentrouter_crypto::open(kek, slot, envelope).is_ok())
}

/// A store being filled, in batches, from wherever an earlier try ended.
struct Filling<'a> {
    store: &'a dyn Store,
    done: u64,
    skip: u64,
    batch: Vec<Item>,
    bytes: usize,
}

impl<'a> Filling<'a> {
    /// Most items, and about the most bytes of values, in one transaction.
    const ITEMS: usize = 1_000;
    const BYTES: usize = 4 * 1024 * 1024;

    /// Goes on behind the first `done` items, which are there already.
    fn new(store: &'a dyn Store, done: u64) -> Self {
        Self { store, done, skip: done, batch: Vec::new(), bytes: 0 }
    }

    async fn put(&mut self, item: Item) -> anyhow::Result<()> {
        if self.skip > 0 {
            self.skip -= 1;
            return Ok(());
        }
        if let Item::Version(stored) = &item {
            self.bytes += stored.envelope.as_ref().map_or(0, |envelope| envelope.sealed.len());
        }
        self.batch.push(item);
        if self.batch.len() >= Self::ITEMS || self.bytes >= Self::BYTES { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.skip == 0,
            "the source has fewer items than were already taken from it; empty the target and begin anew"
        );
        let batch = std::mem::take(&mut self.batch);
        let count = batch.len() as u64;
        if count > 0 {
            self.store.import(self.done, batch).await?;
        }
        self.done += count;
        self.bytes = 0;
        Ok(())
    }
}
