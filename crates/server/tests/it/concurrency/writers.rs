//! Concurrent writers of the same name.

use std::collections::BTreeSet;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{ok, walk};
use crate::support::{Connection, Reply, Server};

const WRITERS: usize = 8;

/// Sends a request on `WRITERS` connections at once. Returns the responses, by writer.
fn at_once(server: &Server, call: impl Fn(usize, &mut Connection) -> Reply + Sync) -> Vec<Reply> {
    let barrier = Barrier::new(WRITERS);
    std::thread::scope(|scope| {
        let (barrier, call) = (&barrier, &call);
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                scope.spawn(move || {
                    let mut connection =
                        Connection::open(server.process.authority(), &server.key).expect("it accepts");
                    barrier.wait();
                    call(writer, &mut connection)
                })
            })
            .collect();
        writers.into_iter().map(|writer| writer.join().expect("no writer panicked")).collect()
    })
}

fn rotate(connection: &mut Connection, name: &str, body: &str) -> Reply {
    connection.call("POST", &format!("/v1/secrets/{name}/rotate"), body).expect("a response")
}

#[test]
fn every_rotation_gets_a_version_of_its_own() {
    const EACH: usize = 12;
    let server = Server::start();
    let mut admin = Connection::open(server.process.authority(), &server.key).expect("it accepts");
    ok(&mut admin, "POST", "/v1/secrets", "{\"name\":\"a\",\"value\":\"first\"}");
    let rotations = std::sync::Mutex::new(Vec::new());
    at_once(&server, |writer, connection| {
        let mut last = 0;
        let mut reply = None;
        for number in 0..EACH {
            let value = format!("{writer}.{number}");
            let rotated = rotate(connection, "a", &format!("{{\"new_value\":\"{value}\"}}"));
            assert_eq!(rotated.status, 200, "{rotated:?}");
            let version = rotated.json()["secret"]["version"].as_i64().expect("a number");
            assert!(version > last, "a writer's own rotations are in its order");
            last = version;
            rotations.lock().expect("no writer panicked").push((version, value));
            reply = Some(rotated);
        }
        reply.expect("some rotations")
    });

    let mut rotations = rotations.into_inner().expect("no writer panicked");
    rotations.sort();
    let numbers: Vec<i64> = rotations.iter().map(|(version, _)| *version).collect();
    assert_eq!(numbers, (2..=1 + (WRITERS * EACH) as i64).collect::<Vec<_>>());
    // Each version is still readable, and is the one that its response had.
    for (version, value) in &rotations {
        let body = format!("{{\"version\":{version}}}");
        assert_eq!(ok(&mut admin, "POST", "/v1/secrets/a/value", &body)["value"], **value);
    }
    let rows = walk(&mut admin, "status=any&", 1000);
    let active: Vec<i64> = rows
        .iter()
        .filter(|row| row["status"] == "active")
        .filter_map(|row| row["version"].as_i64())
        .collect();
    assert_eq!(active, [1 + (WRITERS * EACH) as i64], "one active version, the newest");
    assert_eq!(rows.len(), 1 + WRITERS * EACH);
}

#[test]
fn one_of_several_writers_that_expect_the_same_version_wins() {
    let server = Server::start();
    let mut admin = Connection::open(server.process.authority(), &server.key).expect("it accepts");
    for round in 0..6 {
        let name = format!("race-{round}");
        let count =
            |replies: &[Reply], status: u16| replies.iter().filter(|reply| reply.status == status).count();
        // The secret does not exist yet.
        let replies = at_once(&server, |writer, connection| {
            let body = format!("{{\"name\":\"{name}\",\"value\":\"{writer}\",\"expected_version\":0}}");
            connection.call("POST", "/v1/secrets", &body).expect("a response")
        });
        assert_eq!((count(&replies, 200), count(&replies, 409)), (1, WRITERS - 1), "{replies:?}");
        let winner = replies.iter().position(|reply| reply.status == 200).expect("one");
        let value = ok(&mut admin, "POST", &format!("/v1/secrets/{name}/value"), "{}");
        assert_eq!(value["value"], winner.to_string(), "the winner's value stands");

        // The next version.
        let replies = at_once(&server, |writer, connection| {
            rotate(connection, &name, &format!("{{\"new_value\":\"r{writer}\",\"expected_version\":1}}"))
        });
        assert_eq!((count(&replies, 200), count(&replies, 409)), (1, WRITERS - 1), "{replies:?}");

        // The deletion.
        let replies = at_once(&server, |_, connection| {
            connection.call("DELETE", &format!("/v1/secrets/{name}"), "").expect("a response")
        });
        assert_eq!((count(&replies, 200), count(&replies, 404)), (1, WRITERS - 1), "{replies:?}");
        let absent = admin.call("GET", &format!("/v1/secrets/{name}"), "").expect("a response");
        assert_eq!(absent.status, 404);
    }
}

#[test]
fn concurrent_creations_and_deletions_leave_one_whole_secret_or_none() {
    let server = Server::start();
    let rounds = AtomicUsize::new(0);
    let ids = std::sync::Mutex::new(BTreeSet::new());
    at_once(&server, |writer, connection| {
        let mut last = None;
        for number in 0..15 {
            let reply = if (writer + number) % 3 == 0 {
                let reply = connection.call("DELETE", "/v1/secrets/a", "").expect("a response");
                assert!(matches!(reply.status, 200 | 404), "{reply:?}");
                reply
            } else {
                let body = format!("{{\"name\":\"a\",\"value\":\"{writer}.{number}\"}}");
                let reply = connection.call("POST", "/v1/secrets", &body).expect("a response");
                assert_eq!(reply.status, 200, "{reply:?}");
                let secret = &reply.json()["secret"];
                let version = (secret["id"].to_string(), secret["version"].as_i64().expect("a number"));
                let new = ids.lock().expect("no writer panicked").insert(version);
                assert!(new, "a version number was used twice under one id");
                reply
            };
            rounds.fetch_add(1, Ordering::Relaxed);
            last = Some(reply);
        }
        last.expect("some writes")
    });
    assert_eq!(rounds.load(Ordering::Relaxed), WRITERS * 15);
    let mut admin = Connection::open(server.process.authority(), &server.key).expect("it accepts");
    let rows = walk(&mut admin, "status=any&", 1000);
    let active = rows.iter().filter(|row| row["status"] == "active").count();
    assert_eq!(active, usize::from(!rows.is_empty()), "{rows:?}");
}
