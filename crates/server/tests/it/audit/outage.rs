//! An audit log that cannot be written: nothing is released or changed meanwhile, and the log recovers by itself.

#![allow(clippy::disallowed_methods, reason = "how long the server takes is what is tested")]

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use super::{assert_clean, verify};
use crate::support::{Connection, Reply, Server, within};

const VALUE: &str = "sk-plaintext-that-must-not-get-out";

/// A fault in the log, made without the server's knowledge.
#[derive(Clone, Copy, Debug)]
enum Harm {
    Removed,
    Moved,
    ReplacedByItsCopy,
    ReplacedByNothing,
    CutShort,
    Extended,
    /// A write to a pipe without a reader would never end.
    ReplacedByAPipe,
    ReplacedByADirectory,
}

impl Harm {
    const ALL: [Self; 8] = [
        Self::Removed,
        Self::Moved,
        Self::ReplacedByItsCopy,
        Self::ReplacedByNothing,
        Self::CutShort,
        Self::Extended,
        Self::ReplacedByAPipe,
        Self::ReplacedByADirectory,
    ];

    fn inflict(self, log: &Path) {
        let aside = log.with_file_name("aside");
        match self {
            Self::Removed => fs::remove_file(log).expect("removed"),
            Self::Moved => fs::rename(log, log.with_file_name("elsewhere")).expect("moved"),
            Self::ReplacedByItsCopy => {
                fs::copy(log, &aside).expect("copied");
                fs::rename(&aside, log).expect("replaced");
            }
            Self::ReplacedByNothing => {
                fs::write(&aside, "").expect("written");
                fs::rename(&aside, log).expect("replaced");
            }
            Self::CutShort => {
                let file = OpenOptions::new().write(true).open(log).expect("opened");
                file.set_len(file.metadata().expect("its length").len() / 2).expect("cut");
            }
            Self::Extended => {
                use std::io::Write as _;
                let mut file = OpenOptions::new().append(true).open(log).expect("opened");
                file.write_all(b"{\"seq\":1}\n").expect("written");
            }
            Self::ReplacedByAPipe => {
                fs::remove_file(log).expect("removed");
                assert!(Command::new("mkfifo").arg(log).status().expect("mkfifo runs").success());
            }
            Self::ReplacedByADirectory => {
                fs::remove_file(log).expect("removed");
                fs::create_dir(log).expect("made");
            }
        }
    }

    /// Removes the obstacle to the log's recovery.
    fn lift(self, log: &Path) {
        match self {
            Self::ReplacedByAPipe => fs::remove_file(log).expect("removed"),
            Self::ReplacedByADirectory => fs::remove_dir(log).expect("removed"),
            _ => {}
        }
    }
}

fn ask(server: &Server) -> Reply {
    let started = Instant::now();
    let reply = server.call("POST", "/v1/secrets/held/value", "{}");
    assert!(started.elapsed() < Duration::from_secs(30), "a response took {:?}", started.elapsed());
    reply
}

/// Checks the refusals of a log that cannot be written, for every RPC that could release or change something.
fn assert_closed(server: &Server, create: &str) {
    let created = server.call("POST", "/v1/secrets", &format!("{{\"name\":\"{create}\",\"value\":\"v\"}}"));
    let rotated = server.call("POST", "/v1/secrets/held/rotate", "{\"new_value\":\"v\"}");
    let deleted = server.call("DELETE", "/v1/secrets/held", "");
    let read = server.call("GET", "/v1/secrets/held", "");
    let listed = server.call("GET", "/v1/secrets", "");
    let unknown = server.call_as("unknown", "GET", "/v1/secrets", "");
    for reply in [created, rotated, deleted, read, listed, unknown, ask(server)] {
        assert_eq!((reply.status, reply.reason().as_str()), (503, "AUDIT_UNAVAILABLE"), "{reply:?}");
        assert!(!reply.body.contains(VALUE) && !reply.body.contains("held"), "{reply:?}");
    }
    assert_eq!(server.call("GET", "/livez", "").status, 200, "the process is alive");
}

fn assert_not_ready(server: &Server, detail: &[&str]) {
    let ready = server.call("GET", "/readyz", "");
    assert_eq!(ready.status, 503, "{ready:?}");
    let json = ready.json();
    assert_eq!(json["reason"], "AUDIT_UNAVAILABLE");
    assert!(detail.contains(&json["detail"].as_str().unwrap_or_default()), "{json}");
}

/// Waits until the server reports that it is ready, and checks that the store is unchanged.
fn assert_recovered(server: &Server, absent: &str) {
    let is_ready = || server.call("GET", "/readyz", "").status == 200;
    assert!(within(Duration::from_secs(60), is_ready), "not ready again");
    let reply = ask(server);
    assert_eq!(reply.json()["value"], VALUE, "{reply:?}");
    assert_eq!(reply.json()["secret"]["version"], 1, "nothing was changed meanwhile");
    assert_eq!(server.call("GET", &format!("/v1/secrets/{absent}"), "").status, 404);
}

fn hold_a_value(server: &Server) {
    let body = format!("{{\"name\":\"held\",\"value\":\"{VALUE}\"}}");
    assert_eq!(server.call("POST", "/v1/secrets", &body).status, 200);
}

/// Whether the request of `reply` is recorded in the log's own file.
fn is_recorded(log: &Path, reply: &Reply) -> bool {
    let id = reply.header("x-request-id").expect("a request id");
    fs::read_to_string(log).is_ok_and(|text| text.contains(id))
}

#[test]
fn a_log_that_was_tampered_with_stops_releases_and_recovers() {
    for harm in Harm::ALL {
        let server = Server::start();
        hold_a_value(&server);
        let log = server.data("audit").join("audit.jsonl");
        let mut refusals = 0;
        // The server may notice the fault by itself before the request. Then the value is released, and recorded.
        for _ in 0..20 {
            harm.inflict(&log);
            let reply = ask(&server);
            if reply.status == 200 {
                assert!(is_recorded(&log, &reply), "{harm:?}: a value was released without a record");
                continue;
            }
            assert_eq!(
                (reply.status, reply.reason().as_str()),
                (503, "AUDIT_UNAVAILABLE"),
                "{harm:?} {reply:?}"
            );
            assert!(!reply.body.contains(VALUE), "{harm:?}");
            refusals += 1;
            break;
        }
        assert!(refusals > 0, "{harm:?}: no request was refused");
        if matches!(harm, Harm::ReplacedByAPipe | Harm::ReplacedByADirectory) {
            // The log cannot recover while the obstacle is there.
            std::thread::sleep(Duration::from_millis(700));
            assert_not_ready(&server, &["file removed or replaced", "write failed"]);
            assert_closed(&server, "refused");
        }
        harm.lift(&log);
        assert_recovered(&server, "refused");
        assert!(is_recorded(&log, &ask(&server)), "{harm:?}");
        // Removed records and lines of another writer are found. A complete copy is as good as the log.
        let (clean, text) = verify(server.process.data_dir());
        assert_eq!(clean, matches!(harm, Harm::ReplacedByItsCopy), "{harm:?}: {text}");
    }
}

#[test]
fn readiness_names_a_log_that_was_removed() {
    let server = Server::start();
    hold_a_value(&server);
    let log = server.data("audit").join("audit.jsonl");
    fs::remove_file(&log).expect("removed");
    fs::create_dir(&log).expect("made");
    // Without any request, the server detects the fault by itself.
    let is_unready = || server.call("GET", "/readyz", "").status != 200;
    assert!(within(Duration::from_secs(60), is_unready), "the fault was not detected");
    assert_not_ready(&server, &["file removed or replaced", "write failed"]);
    let metrics = server.call("GET", "/metrics", "");
    assert_eq!(metrics.status, 200, "metrics are exported during a fault");
    assert_closed(&server, "refused");
    fs::remove_dir(&log).expect("removed");
    assert_recovered(&server, "refused");
}

#[test]
fn a_full_disk_stops_releases_and_changes_until_there_is_space() {
    let server = Server::start();
    hold_a_value(&server);
    let log = server.data("audit").join("audit.jsonl");
    // The limit of a file's size stands for a full disk. It needs no mount, and cuts a write in two in the same way.
    // The log is made the largest file, so that the limit applies to it and not to the database.
    let length = |path: &Path| fs::metadata(path).map_or(0, |metadata| metadata.len());
    let mut connection = Connection::open(server.process.authority(), &server.key).expect("it accepts");
    while length(&log) < 2 * (length(&server.data("secrets.db")) + length(&server.data("secrets.db-wal"))) {
        assert_eq!(connection.call("GET", "/v1/secrets", "").expect("a response").status, 200);
    }
    let pid = Pid::from_raw(i32::try_from(server.process.id()).expect("a process id"));
    let limit = |current| prlimit(pid, Resource::Fsize, Rlimit { current, maximum: None });
    limit(Some(length(&log) + 100)).expect("the limit is set");

    let mut quickest = Duration::MAX;
    for round in 0..3 {
        let started = Instant::now();
        let reply = ask(&server);
        assert_eq!(
            (reply.status, reply.reason().as_str()),
            (503, "AUDIT_UNAVAILABLE"),
            "round {round}: {reply:?}"
        );
        quickest = quickest.min(started.elapsed());
        assert_not_ready(&server, &["write failed", "no space left"]);
        assert_closed(&server, "refused");
        std::thread::sleep(Duration::from_millis(300));
    }
    assert!(quickest < Duration::from_millis(2500), "{quickest:?}");
    limit(None).expect("the limit is removed");
    assert_recovered(&server, "refused");
    let text = fs::read_to_string(&log).expect("readable");
    assert!(text.contains("\"outcome\":\"RESUMED\""), "the log records that it could not be written");
    assert_clean(server.process.data_dir());
    assert!(server.process.stop().success());
}
