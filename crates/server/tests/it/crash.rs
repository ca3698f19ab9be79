//! `kill -9` at random moments: acknowledged writes are there, others are complete or absent.
//!
//! Several clients create, rotate and delete through the API of one server, which is killed meanwhile and started again
//! on the same directory, repeatedly. Each client writes to its own names, so that the expected state is known exactly,
//! and all of them write to a shared one.

#![allow(clippy::print_stdout, reason = "the seed, which the harness shows when a test fails")]

mod ledger;

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agentrouter_testkit::ServerProcess;
use serde_json::Value;

use crate::support::{Connection, Dice, binary, run};
use ledger::{Held, Ledger, SHARED, SharedSecret, WriteRequest};

const DIRECTORIES: u64 = 4;
const KILLS: u64 = 50;
const CLIENTS: usize = 4;
const NAMES: usize = 4;

/// From the environment to repeat a failure, else a new one. It is printed when a test fails.
fn seed() -> u64 {
    let given = std::env::var("AGENTROUTER_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| RandomState::new().build_hasher().finish());
    println!("AGENTROUTER_TEST_SEED={seed}");
    seed
}

#[test]
fn two_hundred_kills_lose_nothing_that_was_acknowledged() {
    let seed = seed();
    let tally = Tally::default();
    std::thread::scope(|scope| {
        for half in 0..2 {
            let tally = &tally;
            scope.spawn(move || {
                for directory in (half..DIRECTORIES).step_by(2) {
                    live(Dice(seed.wrapping_add(directory)), tally);
                }
            });
        }
    });
    let [kills, acknowledged, cut] =
        [&tally.kills, &tally.acknowledged, &tally.cut].map(|count| count.load(Ordering::Relaxed));
    println!("{kills} kills, {acknowledged} writes acknowledged, {cut} cut off");
    assert!(kills >= 200, "{kills}");
    // Otherwise the kills hit an idle server, and nothing was tested.
    assert!(acknowledged >= 500 && cut >= 200, "{acknowledged} acknowledged, {cut} cut off");
}

#[test]
fn a_first_start_killed_at_any_point_is_completed_by_the_next() {
    let mut dice = Dice(seed());
    for _ in 0..16 {
        let dir = tempfile::tempdir().expect("a directory");
        let data = dir.path().join("data");
        let mut first = Command::new(binary())
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(&data)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary runs");
        let after = Duration::from_micros(dice.below(150_000));
        std::thread::sleep(after);
        first.kill().expect("it can be killed");
        first.wait().expect("it ends");

        let server = ServerProcess::start(binary(), &data, &[]);
        let mut admin = Connection::open(server.authority(), &server.bootstrap_key()).expect("it accepts");
        let reply = admin.call("GET", "/v1/secrets", "").expect("a response");
        assert_eq!(reply.status, 200, "killed after {after:?}: {reply:?}");
        assert_clean(&data);
    }
}

/// The totals of all directories.
#[derive(Default)]
struct Tally {
    kills: AtomicU64,
    acknowledged: AtomicU64,
    cut: AtomicU64,
}

/// One directory from its first start to its last.
fn live(mut dice: Dice, tally: &Tally) {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let mut ledgers: Vec<Vec<Ledger>> = (0..CLIENTS)
        .map(|client| (0..NAMES).map(|name| Ledger::new(format!("client-{client}.{name}"))).collect())
        .collect();
    let shared = Mutex::new(SharedSecret::default());
    let start = || ServerProcess::start(binary(), &data, &["--threads", "2", "--log-level", "warn"]);
    let mut writes = Writes::default();

    let mut server = start();
    let key = server.bootstrap_key();
    let mut kills = 0;
    while kills < KILLS || (kills < 4 * KILLS && !writes.are_enough()) {
        kills += 1;
        let authority = server.authority().to_owned();
        std::thread::scope(|scope| {
            for ledgers in &mut ledgers {
                let (authority, key, shared) = (&authority, &key, &shared);
                let dice = Dice(dice.below(u64::MAX));
                scope.spawn(move || write_until_cut(authority, key, ledgers, shared, dice));
            }
            // On a machine that does little in this time there are more kills, each later than the previous one.
            let later = 1 + kills.saturating_sub(KILLS);
            std::thread::sleep(Duration::from_micros(2_000 + dice.below(80_000 * later)));
            server.kill();
        });
        server = start();
        let seen = observe(server.authority(), &key);
        for ledger in ledgers.iter_mut().flatten() {
            let name = ledger.name.clone();
            writes.count(ledger.reconcile(seen.get(&name)));
        }
        writes.count(shared.lock().expect("no client panicked").reconcile(seen.get(SHARED)));
        assert_eq!(seen.keys().filter(|name| !name.starts_with("client-") && *name != SHARED).count(), 0);
        if kills % 10 == 0 {
            assert_clean(&data);
        }
    }
    assert!(server.stop().success());
    assert_clean(&data);
    check_trail(&data.join("audit"), &writes);
    tally.kills.fetch_add(kills, Ordering::Relaxed);
    tally.acknowledged.fetch_add(writes.acknowledged, Ordering::Relaxed);
    tally.cut.fetch_add(writes.cut, Ordering::Relaxed);
}

/// The numbers of acknowledged writes, and of writes that a kill interrupted.
#[derive(Clone, Copy, Default)]
struct Writes {
    acknowledged: u64,
    cut: u64,
}

impl Writes {
    /// For one directory. Otherwise the kills hit an idle server, and nothing was tested.
    fn are_enough(self) -> bool {
        self.acknowledged >= 500 / DIRECTORIES && self.cut >= 200 / DIRECTORIES
    }

    fn count(&mut self, more: Self) {
        self.acknowledged += more.acknowledged;
        self.cut += more.cut;
    }
}

/// A client: one write after the other, until the server stops.
fn write_until_cut(
    authority: &str,
    key: &str,
    ledgers: &mut [Ledger],
    shared: &Mutex<SharedSecret>,
    mut dice: Dice,
) {
    let Ok(mut connection) = Connection::open(authority, key) else { return };
    loop {
        let value = dice.text(24);
        let write = match dice.below(8) {
            0..=2 => WriteRequest::Create(value),
            3..=6 => WriteRequest::Rotate(value),
            _ => WriteRequest::Delete,
        };
        let responded = if dice.below(4) == 0 {
            SharedSecret::write(shared, &mut connection, write)
        } else {
            let at = dice.below(ledgers.len() as u64) as usize;
            ledgers[at].write(&mut connection, write)
        };
        if !responded {
            return;
        }
    }
}

/// All secrets, by name: every version with its status, and its value if it has one.
fn observe(authority: &str, key: &str) -> BTreeMap<String, Held> {
    let mut connection = Connection::open(authority, key).expect("the server accepts");
    let mut all: BTreeMap<String, Held> = BTreeMap::new();
    let mut token = String::new();
    loop {
        let path = format!("/v1/secrets?realm=default&status=any&page_size=1000&page_token={token}");
        let page = ok(&mut connection, "GET", &path, "");
        for row in page["secrets"].as_array().expect("a list") {
            let text = |field: &str| row[field].as_str().expect("a text").to_owned();
            let held = all.entry(text("name")).or_insert_with(|| Held::new(text("id")));
            assert_eq!(held.id, text("id"), "two ids under one name");
            let version = row["version"].as_i64().expect("a number");
            let value = match row["status"].as_str() {
                Some("retired") => None,
                _ => Some(value(&mut connection, &text("name"), version)),
            };
            assert!(held.see(version, &text("status"), value), "a version is listed twice: {row}");
        }
        token = page["next_page_token"].as_str().expect("a text").to_owned();
        if token.is_empty() {
            break;
        }
    }
    for (name, held) in &all {
        assert_eq!(value(&mut connection, name, 0), held.active_value(), "{name}: {held:?}");
        if let Some(version) = held.retired() {
            let body = format!("{{\"version\":{version}}}");
            let path = format!("/v1/secrets/{name}/value");
            let reply = connection.call("POST", &path, &body).expect("a response");
            assert_eq!(reply.status, 404, "{name} {version}: a retired version is read");
        }
    }
    all
}

fn value(connection: &mut Connection, name: &str, version: i64) -> String {
    let path = format!("/v1/secrets/{name}/value");
    let response = ok(connection, "POST", &path, &format!("{{\"version\":{version}}}"));
    response["value"].as_str().expect("a value").to_owned()
}

fn ok(connection: &mut Connection, method: &str, path: &str, body: &str) -> Value {
    let reply = connection.call(method, path, body).expect("a response");
    assert_eq!(reply.status, 200, "{method} {path}: {reply:?}");
    reply.json()
}

fn assert_clean(data: &Path) {
    let data = data.to_str().expect("a path");
    let output = run(&["audit", "verify", "--data-dir", data]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("the chain is whole"), "{output:?}");
}

/// Every acknowledged write has its two records. An interrupted write may have none, one or both.
fn check_trail(audit: &Path, writes: &Writes) {
    let (mut attempts, mut done) = (0, 0);
    for file in std::fs::read_dir(audit).expect("the audit log") {
        let text = std::fs::read(file.expect("a file").path()).expect("readable");
        for line in text.split(|byte| *byte == b'\n') {
            // The chain, which was verified, accounts for the lines that a kill tore.
            let Ok(record) = serde_json::from_slice::<Value>(line) else { continue };
            let rpc = record["rpc"].as_str().unwrap_or_default();
            if ["CreateSecret", "RotateSecret", "DeleteSecret"].contains(&rpc) {
                attempts += u64::from(record["phase"] == "attempt");
                done += u64::from(record["outcome"] == "OK");
            }
        }
    }
    let Writes { acknowledged, cut } = *writes;
    assert!(attempts >= acknowledged, "{attempts} attempts for {acknowledged} acknowledged writes");
    assert!((acknowledged..=acknowledged + cut).contains(&done), "{done}, not {acknowledged} to {cut} more");
}
