//! Inspection of a database for `doctor`: its integrity and its content. Reads all rows. Requests do not call it.

use rusqlite::{Connection, Row};

use super::rows::{self, failure};
use super::tx::first;
use super::{file, sql};
use agentrouter_store::{Inspection, RowTags, StoreError, Stored};

/// Most lines that are reported from SQLite's own check.
const LINES: usize = 20;

const COUNT_SECRETS: &str = "SELECT count(*) FROM secrets";
const COUNT_VERSIONS: &str = "SELECT (SELECT count(*) FROM secrets) + (SELECT count(*) FROM pending) \
     + (SELECT count(*) FROM retired)";
const COUNT_KEYS: &str = "SELECT count(*) FROM api_keys";
const EVERY_VERSION: &str = sql::EVERY_VERSION;
const WITHOUT_ACTIVE: &str = "SELECT count(*) FROM secrets s LEFT JOIN versions v ON v.id = s.version_id \
     AND v.owner = s.owner AND v.realm = s.realm AND v.name = s.name AND v.secret_id = s.id \
     AND v.version = s.version AND v.kek_id = s.kek_id WHERE v.id IS NULL";
/// Of a version that is pending or retired, the number is below the active one's, and it is not both.
const MISNUMBERED: &str = "SELECT count(*) FROM (SELECT owner, realm, name, version FROM pending \
     UNION ALL SELECT owner, realm, name, version FROM retired) p CROSS JOIN secrets s ON s.owner = p.owner \
     AND s.realm = p.realm AND s.name = p.name WHERE p.version >= s.version";
const TWICE: &str = "SELECT count(*) FROM pending p CROSS JOIN retired r ON r.owner = p.owner AND r.realm = p.realm \
     AND r.name = p.name AND r.version = p.version";
const STRAY_VALUES: &str = "SELECT count(*) FROM versions WHERE id NOT IN (SELECT version_id FROM secrets \
     WHERE version_id IS NOT NULL UNION ALL SELECT version_id FROM pending)";
const STRAY_TAGS: &str = "SELECT count(*) FROM secret_tags t LEFT JOIN secrets s ON s.owner = t.owner \
     AND s.realm = t.realm AND s.name = t.name WHERE s.id IS NULL";

/// Checks the whole database.
pub(super) fn inspect(conn: &Connection) -> Result<Inspection, StoreError> {
    let snapshot = conn.unchecked_transaction().map_err(failure)?;
    let mut problems = own_check(&snapshot)?;
    let mut note = |count: u64, what: &str| {
        if count > 0 {
            problems.push(format!("{count} {what}"));
        }
    };
    note(violations(&snapshot)?, "rows refer to a secret that is not there");
    note(count(&snapshot, WITHOUT_ACTIVE)?, "secrets lack their active version");
    note(count(&snapshot, MISNUMBERED)?, "versions have a number that is not below the active one's");
    note(count(&snapshot, TWICE)?, "versions are pending and retired");
    note(count(&snapshot, STRAY_VALUES)?, "sealed values belong to no version");
    note(count(&snapshot, STRAY_TAGS)?, "tags belong to no secret");
    note(
        count_where(&snapshot, EVERY_VERSION, |row| rows::stored(row, None).is_err())?,
        "versions do not parse",
    );
    let damaged_key = |row: &Row<'_>| rows::examined_key(row).map_or(true, |key| key.is_problem());
    note(count_where(&snapshot, sql::KEYS, damaged_key)?, "API keys do not parse");
    Ok(Inspection {
        schema: file::schema(),
        secrets: count(&snapshot, COUNT_SECRETS)?,
        versions: count(&snapshot, COUNT_VERSIONS)?,
        api_keys: count(&snapshot, COUNT_KEYS)?,
        problems,
    })
}

/// Reads the whole file, and checks its structure.
///
/// # Errors
/// When a page cannot be read or is damaged.
pub(super) fn is_whole(conn: &Connection) -> Result<(), StoreError> {
    // A row that breaks a rule is for `doctor` to name.
    conn.execute_batch("PRAGMA ignore_check_constraints = ON").map_err(failure)?;
    let found =
        conn.query_row("PRAGMA quick_check(1)", (), |row| row.get::<_, String>(0)).map_err(failure)?;
    if found == "ok" { Ok(()) } else { Err(StoreError::Corrupt("the database file")) }
}

/// Shows `look` every version and whether it is authentic, one after another. Those that do not parse are counted by
/// [`inspect`].
pub(super) fn each_version(
    conn: &Connection,
    tags: Option<&dyn RowTags>,
    mut look: impl FnMut(&Stored, bool),
) -> Result<(), StoreError> {
    let mut statement = conn.prepare(EVERY_VERSION).map_err(failure)?;
    let mut rows = statement.query(()).map_err(failure)?;
    while let Some(row) = rows.next().map_err(failure)? {
        match rows::stored(row, None) {
            Ok(stored) => match rows::verify(row, &stored.secret, tags) {
                Err(error @ StoreError::Unavailable { .. }) => return Err(error),
                verified => look(&stored, verified.is_ok()),
            },
            Err(StoreError::Corrupt(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn own_check(conn: &Connection) -> Result<Vec<String>, StoreError> {
    let mut lines = Vec::new();
    let mut statement = conn.prepare("PRAGMA quick_check").map_err(failure)?;
    let mut rows = statement.query(()).map_err(failure)?;
    while let Some(row) = rows.next().map_err(failure)?
        && lines.len() < LINES
    {
        let line = rows::text(row, 0, "the database file")?;
        if line != "ok" {
            lines.push(format!("the database file: {line}"));
        }
    }
    Ok(lines)
}

fn violations(conn: &Connection) -> Result<u64, StoreError> {
    let mut statement = conn.prepare("PRAGMA foreign_key_check").map_err(failure)?;
    let mut rows = statement.query(()).map_err(failure)?;
    let mut found = 0;
    while rows.next().map_err(failure)?.is_some() {
        found += 1;
    }
    Ok(found)
}

fn count(conn: &Connection, sql: &str) -> Result<u64, StoreError> {
    let count = first(conn, sql, (), |row| rows::integer(row, 0, "a count"))?;
    Ok(count.and_then(|count| u64::try_from(count).ok()).unwrap_or(0))
}

/// The number of rows that are a problem.
fn count_where(conn: &Connection, sql: &str, is_problem: fn(&Row<'_>) -> bool) -> Result<u64, StoreError> {
    let mut statement = conn.prepare(sql).map_err(failure)?;
    let mut rows = statement.query(()).map_err(failure)?;
    let mut found = 0;
    while let Some(row) = rows.next().map_err(failure)? {
        found += u64::from(is_problem(row));
    }
    Ok(found)
}
