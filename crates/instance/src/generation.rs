//! The last generation of the key manifest that this server has seen: the file `key-manifest` in its data directory.
//!
//! One line: `v1 GENERATION TAG`, authenticated under the row key of the store. It is outside the database on purpose: if
//! the database has an older manifest, or none, every API key is refused (see `agentrouter_service::KeyManifest`). An
//! operator who has put back an older database on purpose removes the file. The next start then accepts the database.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agentrouter_crypto::{InternalKey, RowKey};
use agentrouter_model::SystemClock;
use agentrouter_service::{KeyManifest, Memory};
use agentrouter_store::RowTags;
use anyhow::Context as _;

use crate::durable_file;

/// The file's name in the data directory.
pub const KEY_MANIFEST: &str = "key-manifest";

/// The content of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Remembered {
    /// There is no file.
    Nothing,
    /// This generation.
    Generation(u64),
    /// It is not authentic under the row key: it is damaged, or it is another store's.
    Foreign,
}

pub(crate) fn read(dir: &Path, key: &RowKey) -> anyhow::Result<Remembered> {
    let path = dir.join(KEY_MANIFEST);
    let text = match durable_file::read(dir, KEY_MANIFEST) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Remembered::Nothing),
        read => read.with_context(|| format!("{} cannot be read", path.display()))?,
    };
    let generation =
        text.strip_prefix("v1 ").and_then(|rest| rest.split_once(' ')).and_then(|(it, _)| it.parse().ok());
    Ok(match generation {
        Some(generation) if line(key, generation)? == text => Remembered::Generation(generation),
        _ => Remembered::Foreign,
    })
}

fn line(key: &RowKey, generation: u64) -> anyhow::Result<String> {
    Ok(format!("v1 {generation} {:032x}\n", u128::from_be_bytes(key.generation(generation, false)?)))
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

fn manifest(dir: &Path, audit: &InternalKey, memory: Box<dyn Memory>) -> anyhow::Result<KeyManifest> {
    let generation = match read(dir, &audit.row_key()?)? {
        Remembered::Generation(generation) => Some(generation),
        Remembered::Nothing | Remembered::Foreign => None,
    };
    Ok(KeyManifest::new(audit.row_key()?, generation, memory, Arc::new(SystemClock)))
}

fn directory(dir: &Path, audit: &InternalKey) -> anyhow::Result<Box<dyn Memory>> {
    Ok(Box::new(Directory { dir: dir.to_owned(), key: audit.row_key()? }))
}

struct Directory {
    dir: PathBuf,
    key: RowKey,
}

impl Memory for Directory {
    fn keep(&self, generation: u64) -> io::Result<()> {
        let line = line(&self.key, generation).map_err(io::Error::other)?;
        durable_file::replace(&self.dir, KEY_MANIFEST, &line)
    }
}

struct Nowhere;

impl Memory for Nowhere {
    fn keep(&self, _generation: u64) -> io::Result<()> {
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
        for generation in [7, 8] {
            memory.keep(generation).expect("written");
            assert_eq!(read(dir.path(), &key()).expect("read"), Remembered::Generation(generation));
        }

        let other = InternalKey::generate(&SystemRng).expect("random").row_key().expect("derived");
        assert_eq!(read(dir.path(), &other).expect("read"), Remembered::Foreign);
        let path = dir.path().join(KEY_MANIFEST);
        let text = std::fs::read_to_string(&path).expect("read");
        for altered in [text.replace("v1 8", "v1 7"), text.trim_end().to_owned(), String::new()] {
            std::fs::write(&path, altered).expect("written");
            assert_eq!(read(dir.path(), &key()).expect("read"), Remembered::Foreign);
        }
    }
}
