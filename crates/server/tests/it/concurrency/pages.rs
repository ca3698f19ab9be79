//! Paginated lists while other clients write.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "how long it takes and how much is done is shown and tested"
)]

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use agentrouter_testkit::ServerProcess;
use serde_json::Value;

use super::{ok, walk};
use crate::support::{Connection, Dice, Server, binary};

const STAYING: usize = 60;
const TIME: Duration = Duration::from_secs(3);
/// On a busy machine the test continues until enough was changed, at most this long.
const LONGEST: Duration = Duration::from_secs(60);
const CHANGES: u64 = 50;

fn staying(number: usize) -> String {
    format!("stay-{number:03}")
}

fn row_of(row: &Value) -> (String, String, i64) {
    let text = |field: &str| row[field].as_str().expect("a text").to_owned();
    (text("realm"), text("name"), row["version"].as_i64().expect("a number"))
}

#[test]
fn a_walk_lists_each_unchanged_secret_once() {
    let server = Server::start();
    let mut admin = Connection::open(server.process.authority(), &server.key).expect("it accepts");
    for number in 0..STAYING {
        let body =
            format!("{{\"name\":\"{}\",\"value\":\"v\",\"tags\":{{\"env\":\"prod\"}}}}", staying(number));
        ok(&mut admin, "POST", "/v1/secrets", &body);
    }
    let (ended, changes) = (AtomicBool::new(false), AtomicU64::new(0));
    let walks = std::thread::scope(|scope| {
        for writer in 0..3 {
            let (server, ended, changes) = (&server, &ended, &changes);
            scope.spawn(move || change(server, writer, ended, changes));
        }
        // Also after a failed list, so that the writers end.
        struct End<'a>(&'a AtomicBool);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        let _end = End(&ended);
        let started = Instant::now();
        let mut walks = 0;
        let few = || changes.load(Ordering::Relaxed) < CHANGES;
        while started.elapsed() < TIME || (started.elapsed() < LONGEST && few()) {
            for (filters, page_size) in [
                ("realm=default&", 7),
                ("", 3),
                ("tags[env]=prod&", 11),
                ("name_prefix=stay-&", 1),
                ("status=any&realm=default&", 13),
            ] {
                check(&walk(&mut admin, filters, page_size), filters);
                walks += 1;
            }
        }
        walks
    });
    let changes = changes.load(Ordering::Relaxed);
    println!("{walks} walks beside {changes} changes");
    assert!(walks >= 5 && changes >= CHANGES, "{walks} walks, {changes} changes");
}

/// Rotates secrets that stay, and creates and deletes others before, between and after them.
fn change(server: &Server, writer: u64, ended: &AtomicBool, changes: &AtomicU64) {
    let mut connection = Connection::open(server.process.authority(), &server.key).expect("it accepts");
    let mut dice = Dice(writer);
    while !ended.load(Ordering::SeqCst) {
        let number = dice.below(STAYING as u64) as usize;
        if dice.below(2) == 0 {
            let path = format!("/v1/secrets/{}/rotate", staying(number));
            ok(&mut connection, "POST", &path, "{\"new_value\":\"r\",\"grace_period\":\"0s\"}");
        } else {
            let name = match dice.below(3) {
                0 => format!("aaa-{number:03}-{writer}"),
                1 => format!("{}-{writer}", staying(number)),
                _ => format!("zzz-{number:03}-{writer}"),
            };
            let body = format!("{{\"name\":\"{name}\",\"value\":\"v\",\"tags\":{{\"env\":\"prod\"}}}}");
            ok(&mut connection, "POST", "/v1/secrets", &body);
            if dice.below(4) > 0 {
                ok(&mut connection, "DELETE", &format!("/v1/secrets/{name}"), "");
            }
        }
        changes.fetch_add(1, Ordering::Relaxed);
    }
}

fn check(rows: &[Value], filters: &str) {
    let keys: Vec<_> = rows.iter().map(row_of).collect();
    let mut sorted = keys.clone();
    sorted.sort();
    sorted.dedup();
    assert_eq!(keys, sorted, "{filters}: rows come in order, each once");
    let any = filters.contains("any");
    let mut names = BTreeSet::new();
    for (row, (_, name, version)) in rows.iter().zip(&keys) {
        // A secret that was rotated during a list of active versions must not appear again with its next version.
        assert!(names.insert(name.clone()) || any, "{filters}: {name} came twice");
        assert!(any || row["status"] == "active", "{row}");
        assert!(*version >= 1);
    }
    for number in 0..STAYING {
        let name = staying(number);
        assert!(names.contains(&name), "{filters}: {name} was missed");
        // Version 1 stays in every state of the secret.
        assert!(!any || keys.iter().any(|key| key.1 == name && key.2 == 1), "{filters}: {name} 1 was missed");
    }
}

#[test]
fn a_page_token_survives_a_restart_and_works_for_its_key_only() {
    let server = Server::start();
    let other = server.issue("ann", "secrets/read", &[]);
    let mut admin = Connection::open(server.process.authority(), &server.key).expect("it accepts");
    for number in 0..5 {
        ok(
            &mut admin,
            "POST",
            "/v1/secrets",
            &format!("{{\"name\":\"{}\",\"value\":\"v\"}}", staying(number)),
        );
    }
    let page = ok(&mut admin, "GET", "/v1/secrets?page_size=2", "");
    let token = page["next_page_token"].as_str().expect("a token").to_owned();
    let Server { process, key, .. } = server;
    let data = process.data_dir().to_owned();
    process.kill();

    let process = ServerProcess::start(binary(), &data, &[]);
    let mut admin = Connection::open(process.authority(), &key).expect("it accepts");
    let page = ok(&mut admin, "GET", &format!("/v1/secrets?page_size=3&page_token={token}"), "");
    let names: Vec<String> =
        page["secrets"].as_array().expect("a list").iter().map(|row| row_of(row).1).collect();
    assert_eq!(names, [staying(2), staying(3), staying(4)]);
    assert_eq!(page["next_page_token"], "");

    let mut other = Connection::open(process.authority(), &other).expect("it accepts");
    let foreign = other.call("GET", &format!("/v1/secrets?page_token={token}"), "").expect("a response");
    assert_eq!((foreign.status, foreign.reason().as_str()), (400, "PAGE_TOKEN_INVALID"));
    let refiltered = format!("/v1/secrets?status=any&page_token={token}");
    let refiltered = admin.call("GET", &refiltered, "").expect("a response");
    assert_eq!((refiltered.status, refiltered.reason().as_str()), (400, "PAGE_TOKEN_INVALID"));
}
