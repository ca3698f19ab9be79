//! Verification of a backup: complete, and with the KEK file also authentic.

use std::path::Path;

use agentrouter_crypto::{InternalKey, digests_equal};
use agentrouter_instance::Advised;
use agentrouter_keyring::Keyring;
use agentrouter_model::{KekId, Slot, Timestamp};
use agentrouter_service::AUDIT;
use agentrouter_store::Stored;
use agentrouter_store::portable::{Item, LeftOut};
use anyhow::{Context as _, bail};

use crate::backup_file::{Reader, format};
use crate::import::ItemsDigest;

/// What to do with a KEK file that lacks a KEK of the backup.
const KEK_FILE: &str = "use the KEK file that belongs to this backup; if the KEK was retired, use a copy of the file from before";

/// The contents of a complete backup.
#[derive(Clone, Debug)]
pub(crate) struct Contents {
    /// When it was made.
    pub(crate) created_at: Timestamp,
    /// The version of the program that made it.
    pub(crate) program: String,
    /// The KEKs that its values and keys are wrapped with.
    pub(crate) keks: Vec<KekId>,
    /// The number of API keys.
    pub(crate) api_keys: u64,
    /// The number of secrets.
    pub(crate) secrets: u64,
    /// The number of their versions.
    pub(crate) versions: u64,
    /// The last record of the audit log in the store.
    pub(crate) audit_seq: Option<u64>,
    /// SHA-256 of the file without its last line.
    pub sha256: String,
    /// Versions whose value does not open with the KEK file. `None` without a KEK file.
    pub(crate) unopened: LeftOut,
    /// The key of the audit log, wrapped.
    pub(crate) audit_key: Option<(KekId, Box<[u8]>)>,
    /// SHA-256 of the items.
    pub(crate) digest: [u8; 32],
}

/// Reads a whole backup. Without a keyring it finds damage. With one it also finds deliberate changes, and opens
/// every value.
///
/// # Errors
/// When the file is not a backup, is damaged or truncated. With a keyring also when it is not authentic, or the keyring
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
        unopened: LeftOut::default(),
        audit_key: None,
        digest: [0; 32],
    };
    let mut digest = ItemsDigest::default();
    while let Some(item) = reader.next()? {
        digest.add(&item)?;
        contents.count(&item, keyring)?;
    }
    contents.digest = digest.finish();
    let end = reader.ended().context("the backup has no end")?;
    contents.sha256.clone_from(&end.sha256);
    if let Some(keyring) = keyring {
        contents.require(keyring)?;
        let key = key_of(&reader, keyring)?;
        let tag = format::mac(&key, end.items, &end.digest);
        if end.mac.len() != tag.len() || !end.mac.first_chunk().is_some_and(|mac| digests_equal(mac, &tag)) {
            bail!("{} is not authentic: it was changed after it was made", path.display());
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
                    let what = format!(
                        "the backup needs KEK '{id}', and the KEK file has another key under that name"
                    );
                    bail!(Advised::new(what, KEK_FILE));
                }
                self.keks.push(id.clone());
            }
            Item::InternalKey { purpose, kek, wrapped } if purpose == AUDIT => {
                self.audit_key = Some((kek.clone(), wrapped.clone()));
            }
            Item::InternalKey { .. } => {}
            Item::ApiKey(_) => self.api_keys += 1,
            Item::Secret(_) => self.secrets += 1,
            Item::Version(stored) => {
                self.versions += 1;
                if keyring.is_some_and(|keyring| !opens(stored, keyring)) {
                    let Stored { secret, .. } = &**stored;
                    self.unopened.note(|| format!("version {} of secret {}", secret.version, secret.id));
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
                let what =
                    format!("the backup needs KEK '{id}', and the KEK file holds {}", found.join(", "));
                bail!(Advised::new(what, KEK_FILE));
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
