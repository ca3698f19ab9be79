//! The engine as a whole: the conformance suite, faults, damage, closing and opening.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use agentrouter_model::SystemClock;

use super::SqliteStore;
use crate::{Store, conformance};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_engine_conforms() {
    let dir = tempfile::tempdir().expect("a directory");
    let number = AtomicU64::new(0);
    conformance::run(|| {
        let path = dir.path().join(format!("{}.db", number.fetch_add(1, Ordering::Relaxed)));
        async move { Arc::new(SqliteStore::open(&path, &SystemClock).expect("opened")) as Arc<dyn Store> }
    })
    .await;
}
