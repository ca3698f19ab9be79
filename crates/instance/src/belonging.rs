//! The store that a data directory belongs to: the file `store` in it.
//!
//! The file names the engine and the id of the store. So a server with a lost setting or a wrong address does not use
//! another store, or a new and empty one. The id is a MAC under the key of the audit log, which the store and every backup
//! contain, wrapped. A restore, a migration and a change of KEKs do not change it. All servers on one PostgreSQL have the
//! same id.
//!
//! A directory of an earlier version has no such file. It gets one when a store is opened from it.

use std::io;
use std::path::Path;
use std::time::SystemTime;

use agentrouter_crypto::InternalKey;
use anyhow::{Context as _, bail};

use crate::durable_file;
use crate::hint::Advised;
use crate::instance::AUDIT;
use crate::replica::REPLICA;
use crate::settings::Settings;
use crate::storage::{DATABASE, URL_VARIABLE};

/// The file's name in the data directory.
pub const STORE: &str = "store";

/// The engine of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// The embedded engine.
    Sqlite,
    /// Servers over one PostgreSQL.
    Postgres,
}

impl Engine {
    /// The engine that the settings name.
    pub fn of(settings: &Settings) -> Self {
        if settings.database_url.is_some() { Self::Postgres } else { Self::Sqlite }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgresql",
        }
    }
}

/// The store that a data directory belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Belonging {
    /// Its engine.
    pub engine: Engine,
    /// Its id.
    pub id: String,
}

impl Belonging {
    /// The store of `engine` whose audit log has this key.
    pub fn new(engine: Engine, audit: &InternalKey) -> Self {
        let mac = audit.mac(&[b"agentrouter-secrets: the id of a store"]);
        let id = mac[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        Self { engine, id }
    }

    /// Reads the file, if there is one.
    ///
    /// # Errors
    /// When it cannot be read, or is not a file of this form.
    pub fn read(dir: &Path) -> anyhow::Result<Option<Self>> {
        let path = dir.join(STORE);
        let text = match durable_file::read(dir, STORE) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.with_context(|| format!("{} cannot be read", path.display()))?,
        };
        let belonging = Self::parse(&text).ok_or_else(|| {
            let what = format!("{} does not name a store", path.display());
            Advised::new(what, "restore it, or remove it if the settings name the right store")
        })?;
        Ok(Some(belonging))
    }

    fn parse(text: &str) -> Option<Self> {
        let (engine, id) = text.strip_suffix('\n')?.split_once(' ')?;
        let engine = [Engine::Sqlite, Engine::Postgres].into_iter().find(|known| known.name() == engine)?;
        let is_id = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_id.then(|| Self { engine, id: id.to_owned() })
    }

    /// Writes the file, if it is not as it should be.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn write(&self, dir: &Path) -> anyhow::Result<()> {
        if Self::read(dir)?.as_ref() == Some(self) {
            return Ok(());
        }
        durable_file::replace(dir, STORE, &format!("{} {}\n", self.engine.name(), self.id))
            .with_context(|| format!("{} cannot be written", dir.join(STORE).display()))
    }

    /// Checks that the data directory belongs to this store or to none.
    ///
    /// # Errors
    /// When it belongs to another store.
    pub fn check(&self, dir: &Path) -> anyhow::Result<()> {
        match Self::read(dir)? {
            Some(other) if other.id != self.id => {
                let what = format!("{} belongs to another store than this one", dir.display());
                let hint = match self.engine {
                    Engine::Sqlite => format!(
                        "put the {DATABASE} of that store back, or move {AUDIT} and {STORE} away to start a new audit log"
                    ),
                    Engine::Postgres => format!(
                        "set --database-url ({URL_VARIABLE}) to the database of that store, or name another data directory"
                    ),
                };
                bail!(Advised::new(what, hint))
            }
            _ => Ok(()),
        }
    }
}

/// Whether the directory belongs to a store in PostgreSQL although it has an embedded database too, which an earlier store
/// or a migration left.
///
/// # Errors
/// When the file `store` cannot be read.
pub(crate) fn is_in_postgres(dir: &Path) -> anyhow::Result<bool> {
    Ok(match Belonging::read(dir)? {
        Some(belonging) => belonging.engine == Engine::Postgres,
        // A directory of an earlier version: the lock file was written when a server started last.
        None => match (changed(dir, REPLICA), changed(dir, DATABASE)) {
            (Some(replica), Some(database)) => dir.join(REPLICA).exists() && replica > database,
            _ => false,
        },
    })
}

/// When the lock file of a store's kind was last changed.
fn changed(dir: &Path, name: &str) -> Option<SystemTime> {
    dir.join(format!("{name}-lock")).symlink_metadata().ok()?.modified().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = dir.path();
        assert_eq!(Belonging::read(dir).expect("read"), None);
        let one = Belonging { engine: Engine::Sqlite, id: "0123456789abcdef".repeat(2) };
        let other = Belonging { engine: Engine::Postgres, id: "f".repeat(32) };
        one.check(dir).expect("a new directory");
        one.write(dir).expect("written");
        one.check(dir).expect("its own");
        assert!(!is_in_postgres(dir).expect("read"));
        assert!(other.check(dir).is_err());
        let moved = Belonging { engine: Engine::Postgres, ..one.clone() };
        moved.check(dir).expect("the same store");
        moved.write(dir).expect("written");
        assert_eq!(Belonging::read(dir).expect("read"), Some(moved));
        assert!(is_in_postgres(dir).expect("read"));
        for text in ["", "sqlite\n", "sqlite 12\n", "mysql ffffffffffffffffffffffffffffffff\n"] {
            std::fs::write(dir.join(STORE), text).expect("written");
            assert!(one.check(dir).is_err(), "{text}");
        }
    }

    #[test]
    fn a_directory_of_an_earlier_version_belongs_to_the_store_that_was_served_last() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = dir.path();
        let served = |name: &str, second: u64| {
            std::fs::write(dir.join(name), "").expect("written");
            let lock = std::fs::File::create(dir.join(format!("{name}-lock"))).expect("made");
            lock.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(second)).expect("set");
        };
        served(DATABASE, 10);
        assert!(!is_in_postgres(dir).expect("read"));
        served(REPLICA, 20);
        assert!(is_in_postgres(dir).expect("read"));
        served(DATABASE, 30);
        assert!(!is_in_postgres(dir).expect("read"));
    }
}
