//! Which engine a server keeps its secrets in, and which of many servers it is.
//!
//! Without `database.url` the engine is SQLite, in the data directory. With it, it is PostgreSQL, and the data directory
//! has what is this server's own: the KEK file, the audit log, and in the file `replica` an id that tells its audit log
//! from those of the other servers on the same database. The id is made at the first start and must not be copied to
//! another server.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agentrouter_crypto::SystemRng;
use agentrouter_model::{Clock, Rng, SystemClock};
use agentrouter_postgres::{Hold, PostgresStore, Target};
use agentrouter_sqlite::SqliteStore;
use agentrouter_store::{Lock, Store, StoreError};
use anyhow::{Context, bail};
use tokio::time::{Instant, sleep_until};

use crate::settings::Settings;

/// SQLite's file in the data directory.
pub const DATABASE: &str = "secrets.db";
/// This server's id in the data directory.
pub const REPLICA: &str = "replica";

/// The pause before it is looked again whether the database is there.
const AGAIN: Duration = Duration::from_millis(500);

/// An open store, and what keeps others off the data directory.
pub struct Opened {
    /// The store.
    pub store: Arc<dyn Store>,
    /// SQLite's store has its own.
    pub lock: Option<Lock>,
}

/// Opens the store that the settings name.
///
/// # Errors
/// When another process has the data directory, or the database cannot be opened.
pub async fn open(settings: &Settings, clock: &dyn Clock, rng: &dyn Rng) -> anyhow::Result<Opened> {
    let dir = &settings.data_dir;
    let Some(target) = target(settings)? else {
        return Ok(Opened { store: Arc::new(SqliteStore::open(&dir.join(DATABASE), clock)?), lock: None });
    };
    if dir.join(DATABASE).exists() {
        tracing::warn!("the embedded database in the data directory is not used, as --database-url is given");
    }
    open_postgres(dir, target, clock, rng).await
}

/// Waits for a PostgreSQL that cannot be reached, as long as the settings say: it may be starting as well, after a power
/// failure, say. It may be gone again when this returns.
///
/// # Errors
/// When the URL or the password's file cannot be used.
pub async fn await_there(settings: &Settings) -> anyhow::Result<()> {
    let Some(target) = target(settings)? else { return Ok(()) };
    let deadline = Instant::now() + settings.database_start_time;
    let mut told = false;
    while Instant::now() < deadline {
        let Some(error) = PostgresStore::absence(&target).await else { return Ok(()) };
        if !told {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "the database is not there yet: waiting for --database-start-time");
            told = true;
        }
        sleep_until(deadline.min(Instant::now() + AGAIN)).await;
    }
    Ok(())
}

/// Whether somebody serves the store that the settings name from this data directory, by the lock of one or the other
/// kind. A lock file that is not there is not made.
///
/// # Errors
/// When the lock file cannot be used.
pub fn is_served(settings: &Settings) -> anyhow::Result<bool> {
    let name = if settings.database_url.is_some() { REPLICA } else { DATABASE };
    let path = settings.data_dir.join(name);
    if !settings.data_dir.join(format!("{name}-lock")).exists() {
        return Ok(false);
    }
    match Lock::take(&path, &SystemClock) {
        Ok(_) => Ok(false),
        Err(StoreError::InUse { .. }) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// Opens the store that the settings name, for reading, beside a server that serves it.
///
/// # Errors
/// When it cannot be opened.
pub async fn beside(settings: &Settings) -> anyhow::Result<Arc<dyn Store>> {
    let dir = &settings.data_dir;
    let Some(target) = target(settings)? else {
        return Ok(Arc::new(SqliteStore::open_read_only(&dir.join(DATABASE))?));
    };
    let replica = replica(dir)?.unwrap_or_default();
    Ok(Arc::new(PostgresStore::open_read_only(target, &replica).await?))
}

/// A store that all is taken out of, and that nobody changes meanwhile.
pub struct Source {
    /// The store.
    pub store: Arc<dyn Store>,
    /// An embedded one has its lock.
    hold: Option<Hold>,
    /// Where an embedded one is.
    path: Option<PathBuf>,
}

impl Source {
    /// Whether nobody has changed it until now.
    ///
    /// # Errors
    /// When that is not known.
    pub async fn check(&self) -> Result<(), StoreError> {
        match &self.hold {
            Some(hold) => hold.check().await,
            None => Ok(()),
        }
    }

    /// The last record that it knows of the audit log in the data directory, if that is the log of its server.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn audit_head(&self, settings: &Settings) -> Result<Option<(u64, [u8; 32])>, StoreError> {
        match &self.path {
            Some(path) if !is_same(path, &settings.data_dir.join(DATABASE)) => Ok(None),
            _ => self.store.audit_head().await,
        }
    }
}

/// Opens the store at `url` to take all of it out, and sees to it that nobody changes it meanwhile.
///
/// # Errors
/// When the URL is none of ours, or the store cannot be opened or is in use.
pub async fn source(settings: &Settings, url: &str) -> anyhow::Result<Source> {
    match Url::parse("--from", url)? {
        Url::Sqlite(path) => {
            let store = Arc::new(SqliteStore::open_locked(&path, &SystemClock)?);
            Ok(Source { store, hold: None, path: Some(path) })
        }
        Url::Postgres => {
            let target = parse_target(settings, url).context("--from cannot be used")?;
            let replica = replica(&settings.data_dir)?.unwrap_or_default();
            let store = PostgresStore::open_read_only(target, &replica).await?;
            let hold = Some(store.hold().await?);
            Ok(Source { store: Arc::new(store), hold, path: None })
        }
    }
}

/// Takes the locks that keep servers from the data directory, but for those that the stores at `urls` have taken when they
/// were opened.
///
/// # Errors
/// When a server, or another command, has the directory.
pub fn lock_directory(settings: &Settings, urls: &[&str; 2]) -> anyhow::Result<Vec<Lock>> {
    let [from, to] = urls;
    let mut taken = Vec::new();
    for (flag, url) in [("--from", from), ("--to", to)] {
        match Url::parse(flag, url)? {
            Url::Sqlite(path) => taken.push(path),
            Url::Postgres if flag == "--to" => taken.push(settings.data_dir.join(REPLICA)),
            Url::Postgres => {}
        }
    }
    let mut locks = Vec::new();
    for name in [DATABASE, REPLICA] {
        let path = settings.data_dir.join(name);
        let is_there = settings.data_dir.join(format!("{name}-lock")).exists();
        if is_there && !taken.iter().any(|other| is_same(other, &path)) {
            locks.push(Lock::take(&path, &SystemClock).context("the data directory cannot be used")?);
        }
    }
    Ok(locks)
}

/// Whether two paths, of files that need not be there, are the same.
fn is_same(one: &Path, other: &Path) -> bool {
    let whole = |path: &Path| {
        let folder = std::path::absolute(path).ok()?.parent()?.canonicalize().ok()?;
        Some(folder.join(path.file_name()?))
    };
    whole(one).is_some_and(|one| whole(other) == Some(one))
}

/// Opens the store at `url` to fill it, and makes it where there is none.
///
/// # Errors
/// When the URL is none of ours, or the store cannot be opened.
pub async fn destination(settings: &Settings, url: &str) -> anyhow::Result<Opened> {
    match Url::parse("--to", url)? {
        Url::Sqlite(path) => {
            Ok(Opened { store: Arc::new(SqliteStore::open(&path, &SystemClock)?), lock: None })
        }
        Url::Postgres => {
            let target = parse_target(settings, url).context("--to cannot be used")?;
            open_postgres(&settings.data_dir, target, &SystemClock, &SystemRng).await
        }
    }
}

/// A URL of a store.
enum Url {
    Sqlite(PathBuf),
    Postgres,
}

impl Url {
    fn parse(flag: &str, url: &str) -> anyhow::Result<Self> {
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            return Ok(Self::Postgres);
        }
        let path = url.strip_prefix("sqlite://").filter(|path| !path.is_empty()).with_context(|| {
            format!("{flag} must be a URL such as sqlite:///DIR/{DATABASE} or postgres://USER@HOST/DATABASE")
        })?;
        Ok(Self::Sqlite(PathBuf::from(path)))
    }
}

async fn open_postgres(
    dir: &Path,
    target: Target,
    clock: &dyn Clock,
    rng: &dyn Rng,
) -> anyhow::Result<Opened> {
    let path = dir.join(REPLICA);
    let lock = Lock::take(&path, clock)?;
    let replica = match replica(dir)? {
        Some(replica) => replica,
        None => make_replica(dir, rng)?,
    };
    let store = PostgresStore::open(target, &replica).await.context("the database cannot be used")?;
    if store.has_namesake().await.context("the database cannot be used")? {
        bail!(
            "a server is running with this server's id, as {} was copied; remove it and the folder audit from the copy",
            path.display()
        );
    }
    for weakness in store.weaknesses().await.unwrap_or_default() {
        tracing::warn!("the database promises less than this service does: {weakness}");
    }
    Ok(Opened { store: Arc::new(store), lock: Some(lock) })
}

/// Where PostgreSQL is; none for the embedded engine.
///
/// # Errors
/// When the URL or the password's file cannot be used.
pub fn target(settings: &Settings) -> anyhow::Result<Option<Target>> {
    let Some(url) = &settings.database_url else { return Ok(None) };
    parse_target(settings, url.expose()).context("--database-url cannot be used").map(Some)
}

/// The target of a URL, with the password that the settings have for it.
fn parse_target(settings: &Settings, url: &str) -> anyhow::Result<Target> {
    let password = match &settings.database_password_file {
        Some(path) => {
            let text = std::fs::read_to_string(path).with_context(|| {
                format!("the file {} of --database-password-file cannot be read", path.display())
            })?;
            Some(text.trim_end_matches(['\r', '\n']).to_owned())
        }
        // As every PostgreSQL client has it.
        None => std::env::var("PGPASSWORD").ok(),
    };
    Ok(Target::parse(url, password.as_deref())?)
}

/// This server's id, if it has one yet.
///
/// # Errors
/// When its file cannot be read or is not as it was written.
pub fn replica(dir: &Path) -> anyhow::Result<Option<String>> {
    let path = dir.join(REPLICA);
    let text = match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        read => read.with_context(|| format!("{} cannot be read", path.display()))?,
    };
    let id = text.trim();
    if id.len() != 32 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        bail!(
            "{} does not hold a server's id; restore it, or remove it and the folder audit",
            path.display()
        );
    }
    Ok(Some(id.to_owned()))
}

/// Makes an id and keeps it, whole or not at all.
fn make_replica(dir: &Path, rng: &dyn Rng) -> anyhow::Result<String> {
    let mut bytes = [0; 16];
    rng.fill(&mut bytes)?;
    let id = format!("{:032x}", u128::from_be_bytes(bytes));
    let write = || {
        let temporary = dir.join(format!("{REPLICA}.new"));
        if let Err(error) = std::fs::remove_file(&temporary)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(error);
        }
        let mut file =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        writeln!(file, "{id}")?;
        file.sync_all()?;
        std::fs::rename(&temporary, dir.join(REPLICA))?;
        std::fs::File::open(dir)?.sync_all()
    };
    write().with_context(|| format!("{} cannot be written", dir.join(REPLICA).display()))?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_made_once_and_read_back() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(replica(dir.path()).expect("read"), None);
        let id = make_replica(dir.path(), &agentrouter_crypto::SystemRng).expect("made");
        assert_eq!(replica(dir.path()).expect("read"), Some(id));
        std::fs::write(dir.path().join(REPLICA), "canary").expect("written");
        let error = replica(dir.path()).expect_err("not an id").to_string();
        assert!(!error.contains("canary"), "{error}");
    }
}
