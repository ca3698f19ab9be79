//! Tests of cache invalidation between several replicas over one database.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use agentrouter_model::Place;
use tokio::time::{Instant, sleep};

use super::super::{ConnectOptions, PostgresStore};
use super::proxy::Proxy;
use super::standby::{pair, url_of};
use super::{eventually, until};
use crate::testing::{Postgres, Stop};
use agentrouter_lease::{Caches, Gate, Target};
use agentrouter_store::conformance::fixtures::{Shared, at, place, put, rotation, upsert};
use agentrouter_store::prelude::*;
use agentrouter_store::{Store, StoreError, WriteError};

/// Caches that record the calls that they get.
#[derive(Default)]
struct RecordingCaches(Mutex<HashMap<String, i32>>);

impl RecordingCaches {
    /// The number of fences for `what` that stand here.
    fn count(&self, what: &str) -> i32 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(what).copied().unwrap_or(0)
    }

    fn add(&self, target: &Target, by: i32) {
        let name = match target {
            Target::Place(place) => place.name.as_str().to_owned(),
            Target::Key(digest) => format!("key {}", digest[0]),
            Target::Everything => "everything".to_owned(),
        };
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(format!("ever {name}")).or_default() += by.max(0);
        *counts.entry(name).or_default() += by;
    }
}

impl Caches for RecordingCaches {
    fn fence(&self, target: &Target) {
        self.add(target, 1);
    }

    fn lift(&self, target: &Target) {
        self.add(target, -1);
    }

    fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry("forgotten".to_owned()).or_default() +=
            1;
    }
}

/// A store that keeps a lease.
pub(super) struct Replica {
    store: Arc<PostgresStore>,
    caches: Arc<RecordingCaches>,
    gate: Arc<Gate>,
}

impl Replica {
    pub(super) async fn start(url: &str, name: &str) -> Self {
        let target = ConnectOptions::parse(url, None).expect("a URL");
        let store = Arc::new(PostgresStore::open(target, name).await.expect("opened"));
        let caches = Arc::new(RecordingCaches::default());
        let shared: Arc<dyn Caches> = Arc::clone(&caches) as _;
        store.attach(Arc::downgrade(&shared));
        let gate = store.gate();
        eventually("a lease", || gate.admits(gate.generation())).await;
        Self { store, caches, gate }
    }

    pub(super) fn store(&self) -> Shared {
        Arc::clone(&self.store) as _
    }
}

/// Runs rounds, five at most, until one in which no replica was removed: on a machine that is busy for too long, the
/// lease of a running replica expires. A round returns whether it was undisturbed.
async fn undisturbed(mut round: impl AsyncFnMut() -> bool) {
    let mut rounds = 0..5;
    while !round().await {
        rounds.next().expect("no running replica is removed");
    }
}

/// Whether one of the replicas has removed the other.
fn removed(replicas: [&Replica; 2]) -> bool {
    replicas.iter().any(|replica| replica.store.lease().expect("a lease").removed > 0)
}

/// The shared server, and an empty database in it.
fn database() -> (&'static Postgres, String) {
    let server = Postgres::shared();
    (server, server.database())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_replica_drops_a_row_before_it_changes_and_a_creation_fences_nothing() {
    undisturbed(async || {
        let (server, database) = database();
        let url = server.url(&database);
        let (a, b) = (Replica::start(&url, "a").await, Replica::start(&url, "b").await);
        let place = place("ann/default/openai");
        let fenced = || b.caches.count("ever openai");
        put(&a.store(), &place, "first").await;
        assert_eq!((a.caches.count("ever openai"), fenced()), (0, 0), "nothing was fenced");

        a.store.rotate(rotation(&place, at(1), at(9), "second")).await.expect("rotated");
        let rotated = fenced();
        a.store.upsert(upsert(&place, at(2), Some("third"))).await.expect("updated");
        let updated = fenced();
        a.store.delete(&place).await.expect("deleted").expect("it was there");
        let deleted = fenced();
        for replica in [&a, &b] {
            eventually("lifted fence", || replica.caches.count("openai") == 0).await;
        }
        assert_eq!(server.sql(&database, "SELECT count(*) FROM agentrouter_secrets.fences"), "0");
        if removed([&a, &b]) {
            return false;
        }
        assert_eq!([rotated, updated, deleted], [1, 2, 3]);
        let fences = [&a, &b].map(|replica| replica.store.lease().expect("a lease").fences);
        assert_eq!(fences, [3, 0]);
        true
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_damaged_secret_is_purged_behind_a_fence() {
    undisturbed(async || {
        let (server, database) = database();
        let url = server.url(&database);
        let (a, b) = (Replica::start(&url, "a").await, Replica::start(&url, "b").await);
        let place = place("ann/default/openai");
        put(&a.store(), &place, "first").await;
        server.sql(&database, "UPDATE agentrouter_secrets.secrets SET kek_id = ''");
        let refused = a.store.delete(&place).await;
        assert!(matches!(refused, Err(WriteError::Store(StoreError::Corrupt(_)))), "{refused:?}");
        let before = b.caches.count("ever openai");
        assert!(a.store.purge(&place).await.expect("purged"));
        let after = b.caches.count("ever openai");
        assert!(removed([&a, &b]) || after == before + 1, "it dropped the row first");
        assert!(b.store.active(&place).await.expect("read").is_none());
        assert!(!a.store.purge(&place).await.expect("nothing is there any more"));
        for replica in [&a, &b] {
            eventually("lifted fence", || replica.caches.count("openai") == 0).await;
        }
        assert_eq!(server.sql(&database, "SELECT count(*) FROM agentrouter_secrets.fences"), "0");
        !removed([&a, &b])
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_refused_change_leaves_no_fence_behind() {
    let (server, database) = database();
    let a = Replica::start(&server.url(&database), "a").await;
    let place = place("ann/default/openai");
    let absent = a.store.rotate(rotation(&place, at(1), at(9), "second")).await;
    assert!(matches!(absent, Err(WriteError::NotFound)), "{absent:?}");
    put(&a.store(), &place, "first").await;
    let mut wrong = upsert(&place, at(2), Some("third"));
    wrong.expected_version = Some(7);
    assert!(matches!(a.store.upsert(wrong).await, Err(WriteError::VersionMismatch)));
    eventually("lifted fence", || a.caches.count("openai") == 0).await;
    assert_eq!(server.sql(&database, "SELECT count(*) FROM agentrouter_secrets.fences"), "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_silent_replica_delays_one_write_and_is_removed() {
    let (server, database) = database();
    let url = server.url(&database);
    let a = Replica::start(&url, "a").await;
    let place = place("ann/default/openai");
    put(&a.store(), &place, "first").await;
    server
        .sql(&database, "INSERT INTO agentrouter_secrets.replicas (name, lease_ms) VALUES ('silent', 3000)");
    let mut took = Vec::new();
    for second in 1..=3 {
        let start = Instant::now();
        a.store.rotate(rotation(&place, at(second), at(99), "next")).await.expect("rotated");
        took.push(start.elapsed());
    }
    // The lease and its margin. The next writes do not wait for them.
    let lease = Duration::from_millis(3150);
    assert!(took[0] >= lease && took[1].min(took[2]) < lease, "{took:?}");
    assert_eq!(server.sql(&database, "SELECT name FROM agentrouter_secrets.replicas"), "a");
    assert_eq!(a.store.lease().expect("a lease").removed, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_removed_replica_drops_its_rows_and_registers_again() {
    let (server, database) = database();
    let a = Replica::start(&server.url(&database), "a").await;
    let (before, forgotten) = (a.gate.generation(), a.caches.count("forgotten"));
    server.sql(&database, "DELETE FROM agentrouter_secrets.replicas");
    eventually("new generation", || a.gate.generation() > before).await;
    assert!(a.caches.count("forgotten") > forgotten && !a.gate.admits(before));
    eventually("lease", || a.gate.admits(a.gate.generation())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn another_epoch_is_another_generation() {
    let (server, database) = database();
    let a = Replica::start(&server.url(&database), "a").await;
    let before = a.gate.generation();
    server.sql(&database, "UPDATE agentrouter_secrets.history SET epoch = epoch + 1");
    eventually("new generation", || a.gate.generation() > before).await;
    assert!(!a.gate.admits(before));
    let registered = server.sql(&database, "SELECT count(*) FROM agentrouter_secrets.replicas");
    assert_eq!(registered, "1", "the earlier registration is removed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_dump_that_is_loaded_is_another_generation() {
    let (server, database) = database();
    let a = Replica::start(&server.url(&database), "a").await;
    let before = a.gate.generation();
    // The dump contains the registration, and no later fence.
    let dump = server.dump(&database);
    put(&a.store(), &place("ann/default/lost"), "first").await;
    // If the script and the replica deadlock, the replica's transaction must be the victim.
    let script = ["SET deadlock_timeout = '1min'; DROP SCHEMA agentrouter_secrets CASCADE;", &dump];
    server.load(&database, &script.concat());
    eventually("new generation", || a.gate.generation() > before).await;
    assert!(!a.gate.admits(before));
    assert!(a.store.active(&place("ann/default/lost")).await.expect("read").is_none());
    eventually("lease", || a.gate.admits(a.gate.generation())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_snapshot_that_is_put_back_is_another_generation() {
    let server = Postgres::start("");
    let database = server.database();
    let a = Replica::start(&server.url(&database), "a").await;
    server.stop(Stop::Fast);
    server.keep();
    server.restart();
    eventually("lease", || a.gate.admits(a.gate.generation())).await;
    let before = a.gate.generation();
    let lost = place("ann/default/lost");
    until(async || a.store.upsert(upsert(&lost, at(0), Some("first"))).await).await;
    server.stop(Stop::Immediate);
    eventually("end of the lease", || !a.gate.admits(before)).await;
    server.put_back();
    server.restart();
    until(async || a.store.active(&lost).await.map(|found| assert!(found.is_none()))).await;
    eventually("lease", || a.gate.admits(a.gate.generation())).await;
    assert!(!a.gate.admits(before), "the row is of an earlier history");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_sequence_of_fences_that_restarts_is_another_generation() {
    let (server, database) = database();
    let a = Replica::start(&server.url(&database), "a").await;
    let place = place("ann/default/openai");
    put(&a.store(), &place, "first").await;
    a.store.rotate(rotation(&place, at(1), at(9), "second")).await.expect("rotated");
    // Wait until the replica has seen the lifted fence.
    eventually("lifted fence", || a.caches.count("openai") == 0).await;
    let before = a.gate.generation();
    server.sql(&database, "UPDATE agentrouter_secrets.history SET seq = 0");
    eventually("new generation", || a.gate.generation() > before).await;
    assert!(!a.gate.admits(before));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_change_whose_fence_was_removed_fences_again() {
    let (server, database) = database();
    let url = server.url(&database);
    let a = Replica::start(&url, "a").await;
    let place = place("ann/default/openai");
    put(&a.store(), &place, "first").await;
    // The fence is removed while the writer waits for this replica.
    server
        .sql(&database, "INSERT INTO agentrouter_secrets.replicas (name, lease_ms) VALUES ('silent', 3000)");
    let rotated = tokio::spawn({
        let (store, place) = (Arc::clone(&a.store), place.clone());
        async move { store.rotate(rotation(&place, at(1), at(99), "second")).await }
    });
    eventually("fence", || {
        server.sql(&database, "DELETE FROM agentrouter_secrets.fences RETURNING 1") == "1"
    })
    .await;
    assert_eq!(rotated.await.expect("it ends").expect("rotated").version.get(), 2);
    assert_eq!(a.store.lease().expect("a lease").fences, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_lease_ends_with_the_database_and_is_granted_again_after_its_restart() {
    let server = Postgres::start("");
    let database = server.database();
    let a = Replica::start(&server.url(&database), "a").await;
    let generation = a.gate.generation();
    server.stop(Stop::Immediate);
    eventually("end of the lease", || !a.gate.admits(generation)).await;
    let refused = a.store.rotate(rotation(&place("ann/default/openai"), at(1), at(9), "second")).await;
    assert!(matches!(refused, Err(WriteError::Store(StoreError::Unavailable { .. }))), "{refused:?}");
    server.restart();
    eventually("lease", || a.gate.admits(a.gate.generation())).await;
    assert!(!a.gate.admits(generation), "it may have been restored");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_servers_with_one_id_are_two_replicas_and_are_noticed() {
    undisturbed(two_servers_with_one_id).await;
}

/// False if one of them was removed.
async fn two_servers_with_one_id() -> bool {
    let (server, database) = database();
    let url = server.url(&database);
    let (a, twin) = (Replica::start(&url, "a").await, Replica::start(&url, "a").await);
    let place = place("ann/default/openai");
    put(&a.store(), &place, "first").await;
    for round in 1..=3 {
        let writer = if round == 2 { &twin } else { &a };
        writer.store.rotate(rotation(&place, at(round), at(99), "next")).await.expect("rotated");
        let fences = [&a, &twin].map(|replica| replica.caches.count("ever openai"));
        if removed([&a, &twin]) {
            return false;
        }
        assert_eq!(fences, [round as i32; 2]);
    }
    let third =
        PostgresStore::open(ConnectOptions::parse(&url, None).expect("a URL"), "a").await.expect("opened");
    // On a busy machine they may renew too slowly to be noticed the first time.
    let mut tries = 0..5;
    while !third.has_namesake().await.expect("read") {
        tries.next().expect("they are noticed");
    }
    // One leaves, and writers still wait for the other.
    twin.store.close().await;
    let registered = server.sql(&database, "SELECT name FROM agentrouter_secrets.replicas");
    assert_eq!(registered, "a");
    a.store.close().await;
    assert!(!third.has_namesake().await.expect("read"));
    // A server that was killed and no longer renews.
    server.sql(&database, "INSERT INTO agentrouter_secrets.replicas (name, lease_ms) VALUES ('a', 1000)");
    assert!(!third.has_namesake().await.expect("read"));
    true
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_change_does_not_wait_for_a_closed_server() {
    let (server, database) = database();
    let url = server.url(&database);
    let (a, b) = (Replica::start(&url, "a").await, Replica::start(&url, "b").await);
    b.store.close().await;
    assert_eq!(b.gate.generation(), 0);
    assert_eq!(server.sql(&database, "SELECT name FROM agentrouter_secrets.replicas"), "a");
    drop(a);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_change_does_not_wait_for_a_server_that_closed_during_a_database_outage() {
    // It retries for three seconds only, which may be too short on a busy machine.
    let mut tries = 0..5;
    while !leaves_when_the_database_is_back().await {
        tries.next().expect("the registration is removed");
    }
}

async fn leaves_when_the_database_is_back() -> bool {
    let (server, database) = database();
    let proxy = Proxy::start(server.port()).await;
    let b = Replica::start(&format!("postgres://postgres@127.0.0.1:{}/{database}", proxy.port), "b").await;
    proxy.away(true);
    let closing = tokio::spawn({
        let store = Arc::clone(&b.store);
        async move { store.close().await }
    });
    eventually("end of the lease", || b.gate.generation() == 0).await;
    sleep(Duration::from_millis(300)).await;
    proxy.away(false);
    closing.await.expect("it ends");
    server.sql(&database, "SELECT name FROM agentrouter_secrets.replicas").is_empty()
}

/// Two replicas that know both servers of a pair, and the place of a secret there.
async fn two_over(primary: &Postgres, standby: &Postgres, database: &str) -> (Replica, Replica, Place) {
    let url = url_of(primary, standby, database);
    let (a, b) = (Replica::start(&url, "a").await, Replica::start(&url, "b").await);
    let place = place("ann/default/openai");
    put(&a.store(), &place, "first").await;
    (a, b, place)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_primary_without_its_standby_gives_no_leases_and_a_promoted_one_new_ones() {
    let (primary, standby, database) = pair();
    let (a, b, place) = two_over(&primary, &standby, &database).await;
    let before = b.gate.generation();
    standby.stop(Stop::Immediate);
    eventually("end of the lease", || !b.gate.admits(before)).await;
    sleep(Duration::from_secs(1)).await;
    assert!(!b.gate.admits(b.gate.generation()), "its commits get no response");
    let read = b.store.active(&place).await.expect("it responds").expect("it is there");
    assert_eq!(read.secret.version.get(), 1);
    standby.restart();
    eventually("lease", || b.gate.admits(b.gate.generation())).await;

    let before = [&a, &b].map(|replica| replica.gate.generation());
    primary.stop(Stop::Immediate);
    standby.promote();
    let promoted = Instant::now();
    let rotated = until(async || a.store.rotate(rotation(&place, at(1), at(9), "second")).await).await;
    assert_eq!(rotated.0.version.get(), 2);
    assert!(promoted.elapsed() < Duration::from_secs(60), "{:?}", promoted.elapsed());
    for (replica, before) in [&a, &b].iter().zip(before) {
        eventually("new generation", || replica.gate.generation() > before).await;
        eventually("lease", || replica.gate.admits(replica.gate.generation())).await;
        assert!(!replica.gate.admits(before), "another timeline is another era");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn servers_leave_an_old_primary_for_the_promoted_one() {
    let (primary, standby, database) = pair();
    let (a, b, place) = two_over(&primary, &standby, &database).await;
    let before = [&a, &b].map(|replica| replica.gate.generation());
    standby.promote();
    // The old primary still runs with the old state, and both servers are connected to it.
    let target = ConnectOptions::parse(&standby.url(&database), None).expect("a URL");
    let third = PostgresStore::open(target, "third").await.expect("opened");
    let rotated = third.rotate(rotation(&place, at(1), at(9), "second")).await.expect("rotated");
    assert_eq!(rotated.version.get(), 2);
    for (replica, before) in [&a, &b].iter().zip(before) {
        assert!(!replica.gate.admits(before), "their leases are known to the promoted one, and waited for");
    }
    let (rotated, _) = until(async || a.store.rotate(rotation(&place, at(2), at(9), "third")).await).await;
    assert_eq!(rotated.version.get(), 3);
    for replica in [&a, &b] {
        eventually("lease", || replica.gate.admits(replica.gate.generation())).await;
        for _ in 0..20 {
            let read = replica.store.active(&place).await.expect("read").expect("it is there");
            assert_eq!(read.secret.version.get(), 3, "from the promoted one");
        }
    }
    let old = primary.sql(&database, "SELECT version FROM agentrouter_secrets.secrets");
    assert_eq!(old, "1", "and the old one still has it");
}
