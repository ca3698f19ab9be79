//! Opens the store that the settings name: to serve it, to read it beside a server, to migrate it, to fill it.
//!
//! Without `database.url` the store is SQLite's, in the data directory. With it, the store is in PostgreSQL, and the
//! data directory has this server's own files: the KEK file, the audit log, and its id among the servers on that
//! database (`replica`).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agentrouter_crypto::{InternalKey, SystemRng};
use agentrouter_model::{Clock, Rng, SystemClock};
use agentrouter_postgres::{ConnectOptions, FileSource, Hold, PostgresStore};
use agentrouter_sqlite::SqliteStore;
use agentrouter_store::{Lock, RowTags, Store, StoreError};
use anyhow::{Context, bail, ensure};
use tokio::time::{Instant, sleep_until};

use crate::belonging::{self, Belonging, Engine};
use crate::durable_file;
use crate::generation;
use crate::hint::Advised;
use crate::permissions::warn_if_exposed;
use crate::replica::{self, REPLICA};
use crate::settings::Settings;

/// The audit log's folder in the data directory.
pub const AUDIT: &str = "audit";
/// SQLite's file in the data directory.
pub const DATABASE: &str = "secrets.db";

/// The pause between two attempts to reach the database.
const AGAIN: Duration = Duration::from_millis(500);

/// An open store, and the lock on the data directory.
pub struct Opened {
    /// The store.
    pub store: Arc<dyn Store>,
    /// None for SQLite, whose store has its own.
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

/// Checks that no other store belongs to this data directory: its database is there if an audit log or a replica's id is.
/// An embedded database that is missing would otherwise be made again, empty.
///
/// # Errors
/// When the database is missing, or the directory cannot be read.
pub fn require_own_database(settings: &Settings) -> anyhow::Result<()> {
    let dir = &settings.data_dir;
    if settings.database_url.is_some() {
        return Ok(());
    }
    let is_there_embedded = is_there(&dir.join(DATABASE))?;
    if belonging::is_in_postgres(dir)? || (!is_there_embedded && is_there(&dir.join(REPLICA))?) {
        let what = format!("{} belongs to a server whose store is in PostgreSQL", dir.display());
        let hint = format!("set --database-url ({URL_VARIABLE}) as that server had it");
        bail!(Advised::new(
            what,
            if is_there_embedded {
                format!(
                    "{hint}; to serve the earlier store in {DATABASE} again, remove {} and {REPLICA}",
                    belonging::STORE
                )
            } else {
                hint
            }
        ));
    }
    if is_there_embedded {
        return Ok(());
    }
    ensure!(
        !has_served(dir)?,
        Advised::new(
            format!(
                "{} belongs to a store that is missing: it has an audit log or the file {}, and no {DATABASE}",
                dir.display(),
                belonging::STORE
            ),
            format!(
                "restore {DATABASE}, or, if the store is in PostgreSQL, set --database-url ({URL_VARIABLE}); {NEW_STORE}"
            ),
        )
    );
    Ok(())
}

/// What to do if the store is lost for good.
pub(crate) const NEW_STORE: &str = "to start with an empty store, run 'serve --new-store'";

/// The variable of the setting `database.url`.
pub(crate) const URL_VARIABLE: &str = "AGENTROUTER_SECRETS_DATABASE_URL";

/// Whether a store has served from the data directory: it has the file `store`, or an audit log.
///
/// # Errors
/// When the directory cannot be read.
pub fn has_served(dir: &Path) -> anyhow::Result<bool> {
    Ok(Belonging::read(dir)?.is_some() || has_audit_log(dir)?)
}

/// Whether the data directory has an audit log, which has its first file once the store has its keys.
///
/// # Errors
/// When the directory cannot be read.
pub fn has_audit_log(dir: &Path) -> anyhow::Result<bool> {
    let path = dir.join(AUDIT);
    match std::fs::read_dir(&path) {
        Ok(mut entries) => Ok(entries.next().is_some()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("{} cannot be read", path.display())),
    }
}

/// Whether a URL of a store has a password in it.
pub fn has_password(url: &str) -> bool {
    ConnectOptions::has_password(url)
}

/// Checks that the data directory exists.
///
/// # Errors
/// When it does not exist, or cannot be read.
pub fn require_directory(settings: &Settings) -> anyhow::Result<()> {
    ensure!(
        is_there(&settings.data_dir)?,
        Advised::new(
            format!("there is no data directory {}", settings.data_dir.display()),
            "name it with --data-dir, or make it with 'serve'",
        )
    );
    Ok(())
}

/// Checks that the data directory has the store that the settings name, so that a command does not create an empty one.
///
/// # Errors
/// When it does not have that store.
pub fn require_store(settings: &Settings) -> anyhow::Result<()> {
    let dir = settings.data_dir.display();
    // On a database of many servers, the KEK file shows that this directory was set up.
    let there = match settings.database_url {
        Some(_) => is_there(&settings.kek_file())?,
        None => is_there(&settings.data_dir.join(DATABASE))?,
    };
    require_own_database(settings)?;
    ensure!(
        there,
        Advised::new(
            format!("there is no store in {dir}"),
            "name its directory with --data-dir, or make one with 'serve'"
        )
    );
    Ok(())
}

fn is_there(path: &Path) -> anyhow::Result<bool> {
    path.try_exists().map_err(|error| {
        let what = format!("{} cannot be looked at", path.display());
        Advised::new(what, "run this as the user that the server runs as").because(error).into()
    })
}

/// Waits until PostgreSQL can be reached, for `database.start-time` at most: after a power failure it may still be
/// starting. An outage may follow.
///
/// # Errors
/// When the URL cannot be used.
pub async fn await_there(settings: &Settings) -> anyhow::Result<()> {
    let Some(target) = target(settings)? else { return Ok(()) };
    let warning = "the database cannot be reached yet: waiting for --database-start-time";
    wait_until_reached(settings.database_start_time, warning, async || PostgresStore::absence(&target).await)
        .await;
    Ok(())
}

/// Calls `absence` until it returns no error, for `time` at most. Logs the first error with `warning`.
pub(crate) async fn wait_until_reached<E: std::error::Error + 'static>(
    time: Duration,
    warning: &str,
    mut absence: impl AsyncFnMut() -> Option<E>,
) {
    let deadline = Instant::now() + time;
    let mut is_logged = false;
    while Instant::now() < deadline {
        let Some(error) = absence().await else { return };
        if !is_logged {
            tracing::warn!(error = &error as &dyn std::error::Error, "{warning}");
            is_logged = true;
        }
        sleep_until(deadline.min(Instant::now() + AGAIN)).await;
    }
}

/// Whether a process serves the store that the settings name from this data directory. It holds the lock of the store's
/// kind. Makes no lock file.
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

/// The process that serves from `dir`, as it has written into the lock file, and since when.
pub(crate) fn holder(dir: &Path) -> Option<String> {
    let named = |name: &str| durable_file::read(dir, &format!("{name}-lock")).ok();
    let texts = [DATABASE, REPLICA].into_iter().filter_map(named);
    texts.map(|text| text.trim().to_owned()).find(|text| text.starts_with("process "))
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
    let replica = replica::read(dir)?.unwrap_or_default();
    Ok(Arc::new(PostgresStore::open_read_only(target, &replica).await?))
}

/// The source of a migration, which does not change meanwhile.
pub struct MoveSource {
    /// The store.
    pub store: Arc<dyn Store>,
    /// `None` for an embedded store, which has its own lock.
    hold: Option<Hold>,
    /// The file of an embedded store.
    path: Option<PathBuf>,
}

impl MoveSource {
    /// Checks that it has not changed since it was opened.
    ///
    /// # Errors
    /// When it may have changed.
    pub async fn check(&self) -> Result<(), StoreError> {
        match &self.hold {
            Some(hold) => hold.check().await,
            None => Ok(()),
        }
    }

    /// Authenticates its rows. `audit` is its key of the audit log.
    ///
    /// # Errors
    /// When the data directory cannot be read.
    pub fn row_tags(&self, settings: &Settings, audit: &InternalKey) -> anyhow::Result<Arc<dyn RowTags>> {
        // The embedded store's own data directory has its generation.
        let dir = self.path.as_ref().and_then(|path| path.parent());
        generation::row_tags_read_only(dir.unwrap_or(&settings.data_dir), audit)
    }

    /// The last audit record in the store, if the audit log in the data directory is that of its server.
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

/// Opens the store at `url` as the source of a migration, and locks it against changes.
///
/// # Errors
/// When the URL names no engine, or the store cannot be opened or is in use.
pub async fn source(settings: &Settings, url: &str) -> anyhow::Result<MoveSource> {
    match StoreUrl::parse("--from", url)? {
        StoreUrl::Sqlite(path) => {
            let store = Arc::new(SqliteStore::open_locked(&path, &SystemClock)?);
            Ok(MoveSource { store, hold: None, path: Some(path) })
        }
        StoreUrl::Postgres => {
            let target = parse_target(settings, url).context("--from cannot be used")?;
            let replica = replica::read(&settings.data_dir)?.unwrap_or_default();
            let store = PostgresStore::open_read_only(target, &replica).await?;
            let hold = Some(store.hold().await?);
            Ok(MoveSource { store: Arc::new(store), hold, path: None })
        }
    }
}

/// Locks the data directory against servers, except for the locks that the stores at `urls` took when they were opened.
///
/// # Errors
/// When a server or another command holds the directory's lock.
pub fn lock_directory(settings: &Settings, urls: &[&str; 2]) -> anyhow::Result<Vec<Lock>> {
    let [from, to] = urls;
    let mut taken = Vec::new();
    for (flag, url) in [("--from", from), ("--to", to)] {
        match StoreUrl::parse(flag, url)? {
            StoreUrl::Sqlite(path) => taken.push(path),
            StoreUrl::Postgres if flag == "--to" => taken.push(settings.data_dir.join(REPLICA)),
            StoreUrl::Postgres => {}
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

/// Whether two paths are the same. Their files may be missing.
pub fn is_same(one: &Path, other: &Path) -> bool {
    let whole = |path: &Path| {
        let folder = std::path::absolute(path).ok()?.parent()?.canonicalize().ok()?;
        Some(folder.join(path.file_name()?))
    };
    whole(one).is_some_and(|one| whole(other) == Some(one))
}

/// Opens the store at `url` as the target of a migration, and creates it if it does not exist.
///
/// # Errors
/// When the URL names no engine, or the store cannot be opened.
pub async fn destination(settings: &Settings, url: &str) -> anyhow::Result<Opened> {
    match StoreUrl::parse("--to", url)? {
        StoreUrl::Sqlite(path) => {
            Ok(Opened { store: Arc::new(SqliteStore::open(&path, &SystemClock)?), lock: None })
        }
        StoreUrl::Postgres => {
            let target = parse_target(settings, url).context("--to cannot be used")?;
            open_postgres(&settings.data_dir, target, &SystemClock, &SystemRng).await
        }
    }
}

/// The engine of the store at `url`, if a server with this data directory can serve it: an embedded store is served from
/// its own directory.
///
/// # Errors
/// When the URL names no engine.
pub fn served_engine(settings: &Settings, url: &str) -> anyhow::Result<Option<Engine>> {
    Ok(match StoreUrl::parse("--to", url)? {
        StoreUrl::Postgres => Some(Engine::Postgres),
        StoreUrl::Sqlite(path) => is_same(&path, &settings.data_dir.join(DATABASE)).then_some(Engine::Sqlite),
    })
}

/// A URL of a store.
enum StoreUrl {
    Sqlite(PathBuf),
    Postgres,
}

impl StoreUrl {
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
    target: ConnectOptions,
    clock: &dyn Clock,
    rng: &dyn Rng,
) -> anyhow::Result<Opened> {
    let path = dir.join(REPLICA);
    let lock = Lock::take(&path, clock)?;
    let replica = replica::read_or_make(dir, rng)?;
    let store = PostgresStore::open(target, &replica).await.context("the database cannot be used")?;
    if store.has_namesake().await.context("the database cannot be used")? {
        let what = format!("a server is running with this server's id, as {} was copied", path.display());
        bail!(Advised::new(what, "remove it and the folder audit from the copy"));
    }
    for weakness in store.weaknesses().await.unwrap_or_default() {
        tracing::warn!("the database is configured to promise less than this service does: {weakness}");
    }
    Ok(Opened { store: Arc::new(store), lock: Some(lock) })
}

/// The PostgreSQL of the settings. `None` for the embedded engine.
///
/// # Errors
/// When the URL cannot be used.
pub fn target(settings: &Settings) -> anyhow::Result<Option<ConnectOptions>> {
    let Some(url) = &settings.database_url else { return Ok(None) };
    if let Some(target) = settings.target.get() {
        return Ok(Some(target.clone()));
    }
    let target = parse_target(settings, url.expose()).context("--database-url cannot be used")?;
    Ok(Some(settings.target.get_or_init(|| target).clone()))
}

/// The target of a URL, with the password that the settings have for it.
fn parse_target(settings: &Settings, url: &str) -> anyhow::Result<ConnectOptions> {
    let Some(path) = &settings.database_password_file else {
        // As in every PostgreSQL client. An empty variable is one that is not set.
        let password = std::env::var("PGPASSWORD").ok().filter(|password| !password.is_empty());
        return Ok(ConnectOptions::parse(url, password.as_deref())?);
    };
    let file = settings.password.get_or_init(|| {
        warn_if_exposed("the file of database.password-file", path);
        FileSource::password(path)
    });
    Ok(ConnectOptions::parse(url, None)?.with_password_file(file.clone()))
}
