//! Readers and a writer: reads are linearizable from the writer's acknowledgement on.
//!
//! The writer counts its writes. The value of write n is `n`, and a deletion has none. Before its request, a reader
//! notes the last acknowledged write, and after the response the last write that was sent. The response must be the
//! state after some write between these two.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "how long it takes and how much is done is shown and tested"
)]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use agentrouter_model::{Owner, Place, Realm, SecretName, SystemClock, Version};
use agentrouter_sqlite::SqliteStore;
use agentrouter_store::prelude::*;

use super::ok;
use crate::support::{Connection, Server};

const READERS: usize = 6;
const TIME: Duration = Duration::from_secs(3);
/// On a busy machine the test continues until enough was done, at most this long.
const LONGEST: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
struct Progress {
    sent: AtomicU64,
    acknowledged: AtomicU64,
    ended: AtomicBool,
    reads: AtomicU64,
    absences: AtomicU64,
}

impl Progress {
    fn is_enough(&self) -> bool {
        let [writes, reads, absences] =
            [&self.acknowledged, &self.reads, &self.absences].map(|count| count.load(Ordering::Relaxed));
        writes >= 30 && reads >= 100 && absences >= 1
    }
}

/// The kind of write `number`: every seventh deletes the secret, and the next one creates it again.
fn is_deletion(number: u64) -> bool {
    number % 7 == 6
}

#[test]
fn after_an_acknowledged_write_no_reader_sees_an_earlier_state() {
    let server = Server::start();
    let names = ["one", "two"];
    let progress: Vec<Progress> = names.iter().map(|_| Progress::default()).collect();
    std::thread::scope(|scope| {
        for (name, progress) in names.iter().zip(&progress) {
            let server = &server;
            scope.spawn(move || write(server, name, progress));
        }
        for reader in 0..READERS {
            let (server, at) = (&server, reader % names.len());
            let (name, progress) = (names[at], &progress[at]);
            scope.spawn(move || read(server, name, progress, reader));
        }
    });
    for progress in &progress {
        println!("{progress:?}");
        assert!(progress.is_enough(), "{progress:?}");
    }
}

fn write(server: &Server, name: &str, progress: &Progress) {
    let mut connection = Connection::open(server.process.authority(), &server.key).expect("it accepts");
    let started = Instant::now();
    let mut number = 0;
    while started.elapsed() < TIME || (started.elapsed() < LONGEST && !progress.is_enough()) {
        number += 1;
        progress.sent.store(number, Ordering::SeqCst);
        let path = format!("/v1/secrets/{name}");
        let create = number == 1 || is_deletion(number - 1) || number % 3 == 0;
        if is_deletion(number) {
            ok(&mut connection, "DELETE", &path, "");
        } else if create {
            let body = format!("{{\"name\":\"{name}\",\"value\":\"{number}\",\"description\":\"{number}\"}}");
            ok(&mut connection, "POST", "/v1/secrets", &body);
        } else {
            ok(
                &mut connection,
                "POST",
                &format!("{path}/rotate"),
                &format!("{{\"new_value\":\"{number}\"}}"),
            );
        }
        progress.acknowledged.store(number, Ordering::SeqCst);
    }
    progress.ended.store(true, Ordering::SeqCst);
}

fn read(server: &Server, name: &str, progress: &Progress, reader: usize) {
    let mut connection = Connection::open(server.process.authority(), &server.key).expect("it accepts");
    // The state that this reader has seen, with the secret's id and the versions under it.
    let mut seen = 0;
    let mut version = (String::new(), 0);
    while !progress.ended.load(Ordering::SeqCst) {
        let least = progress.acknowledged.load(Ordering::SeqCst).max(seen);
        // Some readers also read the metadata, which comes from the same cache.
        if reader == 0 {
            let reply = connection.call("GET", &format!("/v1/secrets/{name}"), "").expect("a response");
            if reply.status == 200 {
                let secret = &reply.json()["secret"];
                let next = (secret["id"].to_string(), secret["version"].as_i64().expect("a number"));
                assert!(
                    next.0 != version.0 || next.1 >= version.1,
                    "{name} went from {version:?} to {next:?}"
                );
                version = next;
            }
        }
        let path = format!("/v1/secrets/{name}/value");
        let reply = connection.call("POST", &path, "{}").expect("a response");
        let most = progress.sent.load(Ordering::SeqCst);
        progress.reads.fetch_add(1, Ordering::Relaxed);
        match reply.status {
            200 => {
                let value = reply.json()["value"].as_str().expect("a value").parse().expect("a number");
                assert!(
                    (least..=most).contains(&value),
                    "{name}: write {value} was read after {least} was acknowledged, before {most} was sent"
                );
                seen = value;
            }
            404 => {
                let deleted = (least..=most).any(|number| number == 0 || is_deletion(number));
                assert!(deleted, "{name}: nothing was found between writes {least} and {most}");
                progress.absences.fetch_add(1, Ordering::Relaxed);
            }
            other => panic!("{other}: {reply:?}"),
        }
    }
}

#[test]
fn a_revoked_key_is_refused_from_the_revocation_on() {
    // They send requests all the time, at a higher rate than the limit of responses with 401.
    let server = Server::start_with(&["--limit-failed-auth-rate", "0"]);
    let data = super::text(server.process.data_dir()).to_owned();
    for _ in 0..5 {
        let key = server.issue("ann", "secrets/read", &[]);
        let revoked = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                let (server, key, revoked) = (&server, &key, &revoked);
                scope.spawn(move || {
                    let mut connection =
                        Connection::open(server.process.authority(), key).expect("it accepts");
                    loop {
                        let due = revoked.load(Ordering::SeqCst);
                        let status = connection.call("GET", "/v1/secrets", "").expect("a response").status;
                        assert!(status == 401 || (status == 200 && !due), "{status}, revoked: {due}");
                        if due {
                            return;
                        }
                    }
                });
            }
            let output = crate::support::run(&["key", "revoke", &key[..16], "--data-dir", &data]);
            assert!(output.status.success(), "{output:?}");
            revoked.store(true, Ordering::SeqCst);
        });
    }
}

#[test]
fn grace_ends_at_its_instant_and_the_ciphertext_is_destroyed_afterwards() {
    // On a machine so busy that the grace period ends before it was observed, it is longer in the next attempt.
    assert!([1, 8, 32].into_iter().any(|seconds| grace_ends(Duration::from_secs(seconds))), "too busy");
}

/// False if the grace period may have been over before it was observed.
fn grace_ends(grace: Duration) -> bool {
    let server = Server::start();
    let mut admin = Connection::open(server.process.authority(), &server.key).expect("it accepts");
    ok(&mut admin, "POST", "/v1/secrets", "{\"name\":\"a\",\"value\":\"first\"}");
    // The rotation is between these two instants, and its grace period ends that long after it.
    let before = Instant::now();
    let body = format!("{{\"new_value\":\"second\",\"grace_period\":\"{}s\"}}", grace.as_secs());
    let rotated = ok(&mut admin, "POST", "/v1/secrets/a/rotate", &body);
    let started = Instant::now();
    assert_eq!(rotated["secret"]["version"], 2);
    let first = admin.call("POST", "/v1/secrets/a/value", "{\"version\":1}").expect("a response");
    let pending = walk_one(&mut admin, "rotated_pending");
    if before.elapsed() >= grace {
        return false;
    }
    assert_eq!(first.status, 200, "{first:?}");
    let first = first.json();
    assert_eq!(first["value"], "first", "pending versions are readable");
    assert_eq!(first["secret"]["status"], "rotated_pending");
    let pending = pending.expect("one is pending");
    assert_eq!(pending["version"], 1);
    let expires = pending["expires_at"].as_str().expect("an instant").to_owned();
    let rotated_at = rotated["secret"]["rotated_at"].as_str().expect("an instant").to_owned();
    assert_eq!(&expires[20..], &rotated_at[20..], "whole seconds later, to the microsecond");

    let mut readable = true;
    while readable {
        let asked = started.elapsed();
        readable =
            admin.call("POST", "/v1/secrets/a/value", "{\"version\":1}").expect("a response").status == 200;
        assert!(!readable || asked < grace, "readable when asked after {asked:?}");
    }
    assert!(before.elapsed() >= grace, "retired before its time");
    assert!(walk_one(&mut admin, "rotated_pending").is_none());
    let retired = walk_one(&mut admin, "retired").expect("one is retired");
    assert_eq!(retired["version"], 1);
    assert_eq!(ok(&mut admin, "POST", "/v1/secrets/a/value", "{}")["value"], "second");
    assert_eq!(ok(&mut admin, "POST", "/v1/secrets/a/validate", "{}")["valid"], true);

    let Server { process, .. } = server;
    let database = process.data_dir().join("secrets.db");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let place = Place {
        owner: Owner::parse("admin").expect("a user"),
        realm: Realm::default(),
        name: SecretName::parse("a").expect("a name"),
    };
    let sealed = |store: &SqliteStore, number| {
        let stored = runtime.block_on(store.version(&place, Version::new(number).expect("a version")));
        stored.expect("the store responds").expect("the version is known").envelope
    };
    let beside = SqliteStore::open_read_only(&database).expect("the store can be read");
    for _ in 0..3000 {
        if sealed(&beside, 1).is_none() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(beside);
    // The files show it too, as a crash leaves them.
    process.kill();
    let store = SqliteStore::open(&database, &SystemClock).expect("the store opens");
    assert_eq!(sealed(&store, 1), None, "the ciphertext of a retired version is destroyed");
    assert!(sealed(&store, 2).is_some(), "that of the active one is not");
    true
}

fn walk_one(connection: &mut Connection, status: &str) -> Option<serde_json::Value> {
    let mut rows = super::walk(connection, &format!("status={status}&"), 10);
    assert!(rows.len() <= 1, "{rows:?}");
    rows.pop()
}
