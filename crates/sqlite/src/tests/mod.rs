//! Tests of the whole engine: the conformance suite, opening and closing, faults at every step, damage, older schemas.

mod damage;
mod faults;
mod files;
mod lifecycle;
mod lists;
mod upgrade;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use agentrouter_model::SystemClock;
use rusqlite::Connection;
use rusqlite::types::Value;

use super::SqliteStore;
use agentrouter_store::{Store, conformance};

fn open(path: &Path) -> Arc<SqliteStore> {
    Arc::new(SqliteStore::open(path, &SystemClock).expect("opened"))
}

/// Every row of every table except the probe's.
fn dump(path: &Path) -> Vec<Vec<Value>> {
    let conn = Connection::open(path).expect("opened");
    let mut names = conn
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name <> 'probe' ORDER BY name")
        .expect("prepared");
    let names: Vec<String> =
        names.query_map((), |row| row.get(0)).expect("run").collect::<Result<_, _>>().expect("read");
    let mut found = Vec::new();
    for name in names {
        let mut statement = conn.prepare(&["SELECT * FROM ", &name].concat()).expect("prepared");
        let columns = statement.column_count();
        let mut rows = statement.query(()).expect("run");
        while let Some(row) = rows.next().expect("read") {
            let mut values = vec![Value::Text(name.clone())];
            values.extend((0..columns).map(|column| row.get::<_, Value>(column).expect("a value")));
            found.push(values);
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_engine_conforms() {
    let dir = tempfile::tempdir().expect("a directory");
    let number = AtomicU64::new(0);
    let fresh = || {
        let path = dir.path().join(format!("{}.db", number.fetch_add(1, Ordering::Relaxed)));
        async move { open(&path) as Arc<dyn Store> }
    };
    conformance::run(fresh).await;
    conformance::run_portable(fresh).await;
}
