//! The id of a server among those that share a PostgreSQL: the file `replica` in its data directory.
//!
//! The id tells the server's audit log from those of the others. It is made at the first start. It must not be copied to
//! another server.

use std::path::Path;

use agentrouter_model::Rng;
use anyhow::{Context as _, bail};

use crate::{Advised, durable_file};

/// The file's name in the data directory.
pub const REPLICA: &str = "replica";

/// Reads the id, if there is one yet.
///
/// # Errors
/// When its file cannot be read or does not hold an id.
pub fn read(dir: &Path) -> anyhow::Result<Option<String>> {
    let path = dir.join(REPLICA);
    let text = match durable_file::read(dir, REPLICA) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        read => read.with_context(|| format!("{} cannot be read", path.display()))?,
    };
    let id = text.trim();
    if id.len() != 32 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let what = format!("{} does not hold a server's id", path.display());
        bail!(Advised::new(what, "restore it, or remove it and the folder audit"));
    }
    Ok(Some(id.to_owned()))
}

/// Reads the id, or makes one and writes it.
pub(crate) fn read_or_make(dir: &Path, rng: &dyn Rng) -> anyhow::Result<String> {
    if let Some(id) = read(dir)? {
        return Ok(id);
    }
    let mut bytes = [0; 16];
    rng.fill(&mut bytes)?;
    let id = format!("{:032x}", u128::from_be_bytes(bytes));
    durable_file::replace(dir, REPLICA, &format!("{id}\n"))
        .with_context(|| format!("{} cannot be written", dir.join(REPLICA).display()))?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_made_once_and_read_back() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(read(dir.path()).expect("read"), None);
        let id = read_or_make(dir.path(), &agentrouter_crypto::SystemRng).expect("made");
        assert_eq!(read(dir.path()).expect("read"), Some(id.clone()));
        assert_eq!(read_or_make(dir.path(), &agentrouter_crypto::SystemRng).expect("read"), id);
        std::fs::write(dir.path().join(REPLICA), "canary").expect("written");
        let error = read(dir.path()).expect_err("not an id").to_string();
        assert!(!error.contains("canary"), "{error}");
    }
}
