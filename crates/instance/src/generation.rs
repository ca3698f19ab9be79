//! The last generation of the key manifest that this server has seen: the file `key-manifest` in its data directory.
//!
//! One line: `v2 GENERATION TAG`, authenticated under the row key of the store. `v1` in place of `v2` says that not all rows
//! of secrets have been authenticated yet. The file is outside the database on purpose: if the database has an older manifest,
//! or none, every API key is refused, and rows without a tag are refused whatever the database says (see
//! `agentrouter_service::KeyManifest`). An operator who has put back an older database on purpose removes the file. The next
//! start then accepts the database.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agentrouter_crypto::{InternalKey, RowKey};
use agentrouter_model::SystemClock;
use agentrouter_service::{KeyManifest, Known, Memory};
use agentrouter_store::row_tags::Admission;
use agentrouter_store::{RowTags, Store};
use anyhow::Context as _;

use crate::durable_file;

/// The file's name in the data directory.
pub const KEY_MANIFEST: &str = "key-manifest";

/// The content of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Remembered {
    /// There is no file.
    Nothing,
    /// This.
    Known(Known),
    /// It is not authentic under the row key: it is damaged, or it is another store's.
    Foreign,
}

pub(crate) fn read(dir: &Path, key: &RowKey) -> anyhow::Result<Remembered> {
    let path = dir.join(KEY_MANIFEST);
    let text = match durable_file::read(dir, KEY_MANIFEST) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Remembered::Nothing),
        read => read.with_context(|| format!("{} cannot be read", path.display()))?,
    };
    let mut words = text.split(' ');
    let tagged = match words.next() {
        Some("v1") => Some(false),
        Some("v2") => Some(true),
        _ => None,
    };
    let generation = words.next().and_then(|generation| generation.parse().ok());
    Ok(match tagged.zip(generation).map(|(tagged, generation)| Known { generation, tagged }) {
        Some(known) if line(key, known) == text => Remembered::Known(known),
        _ => Remembered::Foreign,
    })
}

fn line(key: &RowKey, Known { generation, tagged }: Known) -> String {
    let format = if tagged { "v2" } else { "v1" };
    let tag = u128::from_be_bytes(key.generation(generation, tagged));
    format!("{format} {generation} {tag:032x}\n")
}

/// Authenticates the rows of a store that is served from `dir`, and keeps the generation there.
///
/// # Errors
/// When the file cannot be read, or no key can be derived.
pub(crate) fn row_tags(dir: &Path, audit: &InternalKey) -> anyhow::Result<Arc<dyn RowTags>> {
    Ok(Arc::new(manifest(dir, audit, directory(dir, audit)?)?))
}

/// As `row_tags`, for a store that is being filled; with `same`, from the store of this directory.
///
/// # Errors
/// When the file cannot be read, or no key can be derived.
pub(crate) fn row_tags_of_import(
    dir: &Path,
    audit: &InternalKey,
    same: bool,
) -> anyhow::Result<Arc<dyn RowTags>> {
    Ok(Arc::new(manifest(dir, audit, directory(dir, audit)?)?.of_import(same)))
}

/// Authenticates the rows of a store that is read only, beside a server or without one. Writes no file.
///
/// # Errors
/// When the file cannot be read, or no key can be derived.
pub fn row_tags_read_only(dir: &Path, audit: &InternalKey) -> anyhow::Result<Arc<dyn RowTags>> {
    Ok(Arc::new(manifest(dir, audit, Box::new(Nowhere))?))
}

/// Whether the key manifest of the store is authentic and says that all rows have tags.
pub(crate) async fn is_authenticated(
    dir: &Path,
    audit: &InternalKey,
    store: &dyn Store,
) -> anyhow::Result<bool> {
    let tags = row_tags_read_only(dir, audit)?;
    let noted = tags.note(store.key_manifest().await?.as_deref());
    Ok(noted == Admission::Admitted && tags.requires_tags())
}

fn manifest(dir: &Path, audit: &InternalKey, memory: Box<dyn Memory>) -> anyhow::Result<KeyManifest> {
    let known = match read(dir, &audit.row_key()?)? {
        Remembered::Known(known) => Some(known),
        Remembered::Nothing | Remembered::Foreign => None,
    };
    Ok(KeyManifest::new(audit.row_key()?, known, memory, Arc::new(SystemClock)))
}

fn directory(dir: &Path, audit: &InternalKey) -> anyhow::Result<Box<dyn Memory>> {
    Ok(Box::new(Directory { dir: dir.to_owned(), key: audit.row_key()? }))
}

struct Directory {
    dir: PathBuf,
    key: RowKey,
}

impl Memory for Directory {
    fn keep(&self, known: Known) -> io::Result<()> {
        let line = line(&self.key, known);
        durable_file::replace(&self.dir, KEY_MANIFEST, &line)
    }
}

struct Nowhere;

impl Memory for Nowhere {
    fn keep(&self, _known: Known) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use agentrouter_crypto::SystemRng;

    use super::*;

    #[test]
    fn a_generation_is_kept_under_the_key_of_its_store() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = InternalKey::generate(&SystemRng).expect("random");
        let key = || store.row_key().expect("derived");
        assert_eq!(read(dir.path(), &key()).expect("read"), Remembered::Nothing);
        let memory = Directory { dir: dir.path().to_owned(), key: key() };
        for (generation, tagged) in [(7, false), (8, false), (8, true)] {
            let known = Known { generation, tagged };
            memory.keep(known).expect("written");
            assert_eq!(read(dir.path(), &key()).expect("read"), Remembered::Known(known));
        }

        let other = InternalKey::generate(&SystemRng).expect("random").row_key().expect("derived");
        assert_eq!(read(dir.path(), &other).expect("read"), Remembered::Foreign);
        let path = dir.path().join(KEY_MANIFEST);
        let text = std::fs::read_to_string(&path).expect("read");
        for altered in [
            text.replace("v2 8", "v2 7"),
            text.replace("v2", "v1"),
            text.trim_end().to_owned(),
            String::new(),
        ] {
            std::fs::write(&path, altered).expect("written");
            assert_eq!(read(dir.path(), &key()).expect("read"), Remembered::Foreign);
        }
    }
}
