//! The database file: creation, permissions, connection settings, migrations.
//!
//! The file has mode 0600, independent of the umask. SQLite gives `-wal` and `-shm` the same mode. The directory is the
//! caller's. The application id in the header identifies a file of this program, and `user_version` is the number of
//! the last migration that ran.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::rows::{UNREADABLE, failure};
use agentrouter_store::StoreError;
use agentrouter_store::files::{beside, owner_only};

/// The application id in the header of every database of this engine: `ARSS`.
const APPLICATION_ID: i32 = 0x4152_5353;
/// Every version of the schema, each as the step from the previous one. The n-th sets `user_version` to n.
pub(super) const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001_initial.sql"),
    include_str!("migrations/0002_facts.sql"),
    include_str!("migrations/0003_versions.sql"),
    include_str!("migrations/0004_key_manifest.sql"),
    include_str!("migrations/0005_row_tags.sql"),
];
/// Flags of every connection. No file is opened through a symbolic link.
const FLAGS: OpenFlags = OpenFlags::SQLITE_OPEN_NO_MUTEX.union(OpenFlags::SQLITE_OPEN_NOFOLLOW);
/// How long the writer waits for another process that reads the file, such as a backup.
pub(super) const BUSY: Duration = Duration::from_secs(5);
/// More than there are statements, so that each is compiled once per connection.
const STATEMENTS: usize = 64;

/// The page cache of a reader, in KiB. It holds the upper pages of every B-tree. SQLite's default is 2 MiB for each
/// reader. Other pages are in the operating system's page cache.
const READER_CACHE_KIB: i32 = 512;

/// The schema that this program writes.
pub(super) fn schema() -> i32 {
    i32::try_from(MIGRATIONS.len()).unwrap_or(i32::MAX)
}

/// Opens the writer's connection, making the file and its tables where there are none.
///
/// # Errors
/// [`StoreError::SchemaTooNew`], or [`StoreError::Open`] for a file that is not ours or cannot be used.
pub(super) fn open_writer(path: &Path) -> Result<Connection, StoreError> {
    create(path)?;
    for suffix in ["-wal", "-shm"] {
        let path = beside(path, suffix);
        if path.symlink_metadata().is_ok() {
            owner_only(&path)?;
        }
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | FLAGS;
    let conn = Connection::open_with_flags(path, flags).map_err(opening)?;
    conn.busy_timeout(BUSY).map_err(opening)?;
    // Set first, so that a file of another program is not even checkpointed.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(opening)?;
    let found = version(&conn)?;
    if found > schema() {
        return Err(StoreError::SchemaTooNew { found, supported: schema() });
    }
    harden(&conn).map_err(opening)?;
    configure(&conn).map_err(opening)?;
    migrate(&conn, found).map_err(opening)?;
    // Makes the log and its index if they are not there yet.
    conn.query_row("SELECT count(*) FROM sqlite_schema", (), |_| Ok(())).map_err(opening)?;
    Ok(conn)
}

/// Opens a connection that cannot write.
///
/// # Errors
/// As [`open_writer`]. Also when the database has not been migrated to the current schema.
pub(super) fn open_reader(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | FLAGS;
    let conn = Connection::open_with_flags(path, flags).map_err(opening)?;
    conn.busy_timeout(BUSY).map_err(opening)?;
    let found = version(&conn)?;
    if found > schema() {
        return Err(StoreError::SchemaTooNew { found, supported: schema() });
    }
    if found < schema() {
        return Err(StoreError::SchemaTooOld { found, needed: schema() });
    }
    harden(&conn).map_err(opening)?;
    conn.pragma_update(None, "cache_size", -READER_CACHE_KIB).map_err(opening)?;
    Ok(conn)
}

/// Creates the file, empty and accessible only to its owner, and makes its directory entry durable.
fn create(path: &Path) -> Result<(), StoreError> {
    let failed = |error| StoreError::open("its file cannot be created", error);
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return owner_only(path),
        Err(error) => return Err(failed(error)),
    }
    owner_only(path)?;
    let directory = path.parent().unwrap_or(Path::new("/"));
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)
}

/// The schema's number; 0 for an empty file.
fn version(conn: &Connection) -> Result<i32, StoreError> {
    let number = |pragma| conn.pragma_query_value(None, pragma, |row| row.get::<_, i32>(0)).map_err(opening);
    let (application, version) = (number("application_id")?, number("user_version")?);
    let foreign = StoreError::Open { reason: "the file is another program's database", source: None };
    match (application, version) {
        (APPLICATION_ID, 1..) => Ok(version),
        (0, 0) => {
            let tables = "SELECT count(*) FROM sqlite_schema";
            let tables: i64 = conn.query_row(tables, (), |row| row.get(0)).map_err(opening)?;
            if tables == 0 { Ok(0) } else { Err(foreign) }
        }
        _ => Err(foreign),
    }
}

/// The settings of every connection: nothing in the file may run code, and a damaged page is detected.
fn harden(conn: &Connection) -> rusqlite::Result<()> {
    conn.set_prepared_statement_cache_capacity(STATEMENTS);
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false)?;
    // Plans are fixed in `sql`; without this, statements with ranges are compiled again for every value that is bound.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    conn.execute_batch("PRAGMA cell_size_check = ON; PRAGMA temp_store = MEMORY;")
}

/// The settings of the writer: every commit is synced, freed pages are overwritten, and automatic checkpoints are off,
/// because SQLite does not report their errors.
fn configure(conn: &Connection) -> rusqlite::Result<()> {
    let mode: String = conn.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if mode != "wal" {
        return Err(rusqlite::Error::InvalidQuery);
    }
    conn.execute_batch(
        "PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA secure_delete = ON; \
         PRAGMA wal_autocheckpoint = 0;",
    )
}

/// Runs the migrations after the `found` first ones, each in a transaction of its own: one that fails
/// leaves the schema before it. The log, which then holds all that was rewritten, is emptied.
fn migrate(conn: &Connection, found: i32) -> rusqlite::Result<()> {
    let older = (1..schema()).contains(&found);
    if older {
        tracing::info!(from = found, to = schema(), "the database is brought to a newer schema");
    }
    for migration in MIGRATIONS.iter().skip(usize::try_from(found).unwrap_or(0)) {
        conn.execute_batch("BEGIN IMMEDIATE")?;
        if let Err(error) = conn.execute_batch(migration).and_then(|()| conn.execute_batch("COMMIT")) {
            if !conn.is_autocommit() {
                conn.execute_batch("ROLLBACK")?;
            }
            return Err(error);
        }
    }
    if older {
        // As far as readers allow. The writer empties the rest.
        conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(()))?;
    }
    Ok(())
}

/// An error while opening.
fn opening(error: rusqlite::Error) -> StoreError {
    let reason = match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => "the file is not a database",
        Some(ErrorCode::DatabaseCorrupt) => UNREADABLE,
        _ => match failure(error) {
            StoreError::Unavailable { reason, source } => return StoreError::Open { reason, source },
            other => return other,
        },
    };
    StoreError::open(reason, error)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn every_migration_counts_itself() {
        let conn = Connection::open_in_memory().expect("a database");
        for (i, migration) in MIGRATIONS.iter().enumerate() {
            conn.execute_batch(migration).expect("it runs");
            assert_eq!(version(&conn).expect("ours"), i32::try_from(i + 1).expect("few"));
        }
    }

    #[test]
    fn the_writer_syncs_overwrites_and_checks() {
        let dir = tempfile::tempdir().expect("a directory");
        let conn = open_writer(&dir.path().join("s.db")).expect("opened");
        let number =
            |pragma: &str| conn.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0)).expect(pragma);
        assert_eq!(number("synchronous"), 2);
        assert_eq!(number("secure_delete"), 1);
        assert_eq!(number("foreign_keys"), 1);
        assert_eq!(number("wal_autocheckpoint"), 0);
    }

    #[test]
    fn files_are_the_owners_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("s.db");
        for mode in [0o600, 0o644, 0o666] {
            if path.exists() {
                std::fs::set_permissions(&path, Permissions::from_mode(mode)).expect("set");
            }
            let _conn = open_writer(&path).expect("opened");
            for suffix in ["", "-wal", "-shm"] {
                let metadata = std::fs::metadata(beside(&path, suffix)).expect(suffix);
                assert_eq!(metadata.permissions().mode() & 0o777, 0o600, "{suffix}");
            }
        }
    }

    #[test]
    fn a_newer_schema_is_not_changed() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("s.db");
        let conn = open_writer(&path).expect("opened");
        conn.pragma_update(None, "user_version", 99).expect("set");
        drop(conn);
        let before = std::fs::read(&path).expect("read");
        for opened in [open_writer(&path), open_reader(&path)] {
            assert!(
                matches!(opened, Err(StoreError::SchemaTooNew { found: 99, supported: 5 })),
                "{opened:?}"
            );
        }
        assert!(std::fs::read(&path).expect("read") == before, "the file changed");
    }

    #[test]
    fn the_file_of_another_program_is_not_changed() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("s.db");
        Connection::open(&path).expect("made").execute_batch("CREATE TABLE t (x)").expect("made");
        assert!(matches!(open_writer(&path), Err(StoreError::Open { .. })));
        std::fs::write(
            &path,
            "not a database at all, but long enough to have a header, had it been one. ".repeat(9),
        )
        .expect("written");
        assert!(matches!(
            open_writer(&path),
            Err(StoreError::Open { reason: "the file is not a database", .. })
        ));
    }
}
