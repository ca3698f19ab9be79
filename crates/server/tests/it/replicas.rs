//! Replicas: several servers over one PostgreSQL are linearizable, under faults too.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "how long things take and how much is done is shown and tested"
)]

mod fleet;
mod histories;
mod history;

use std::time::{Duration, Instant};

use agentrouter_postgres::testing::{Postgres, Stop};
use agentrouter_testkit::ServerProcess;

use self::fleet::{Replicas, value};
use crate::support::{Connection, mostly_in_time, run, within};

/// A request that must succeed.
fn ok(connection: &mut Connection, method: &str, path: &str, body: &str) {
    let reply = connection.call(method, path, body).expect("a response");
    assert_eq!(reply.status, 200, "{method} {path}: {reply:?}");
}

fn create(connection: &mut Connection, name: &str, value: &str) {
    ok(connection, "POST", "/v1/secrets", &format!("{{\"name\":\"{name}\",\"value\":\"{value}\"}}"));
}

fn rotate(connection: &mut Connection, name: &str, value: &str) {
    ok(connection, "POST", &format!("/v1/secrets/{name}/rotate"), &format!("{{\"new_value\":\"{value}\"}}"));
}

#[test]
fn a_write_that_one_server_acknowledged_is_read_at_every_server() {
    mostly_in_time(forty_writes);
}

/// Writes at each server in turn and reads at all of them. Returns an error if a step was slow.
fn forty_writes() -> Result<(), String> {
    let fleet = Replicas::start(Postgres::shared(), 3);
    let mut connections: Vec<Connection> = (0..3).map(|server| fleet.connect(server)).collect();
    create(&mut connections[0], "a", "0");
    for server in 0..3 {
        fleet.await_memory(server, "a");
    }
    let mut slowest = Duration::ZERO;
    for number in 1..=40 {
        let writer = &mut connections[number % 3];
        let start = Instant::now();
        let expected = match number % 4 {
            0 => {
                ok(writer, "DELETE", "/v1/secrets/a", "");
                (404, String::new())
            }
            1 if number > 1 => {
                create(writer, "a", &number.to_string());
                (200, number.to_string())
            }
            2 => {
                let body = format!("{{\"name\":\"a\",\"value\":\"{number}\",\"description\":\"{number}\"}}");
                ok(writer, "POST", "/v1/secrets", &body);
                (200, number.to_string())
            }
            _ => {
                rotate(writer, "a", &number.to_string());
                (200, number.to_string())
            }
        };
        slowest = slowest.max(start.elapsed());
        // The first read after the acknowledgement, and a cache hit.
        for _ in 0..2 {
            for (server, connection) in connections.iter_mut().enumerate() {
                assert_eq!(value(connection, "a"), expected, "write {number}, read at server {server}");
            }
        }
    }
    for server in 0..3 {
        assert!(fleet.metric(server, "agentrouter_secrets_lease_renewals_total") > 0.0);
        let confirmations = "agentrouter_secrets_lease_confirmation_seconds";
        assert!(fleet.metric(server, &format!("{confirmations}_count")) > 5.0);
        // Quantiles need this bucket.
        assert!(fleet.metric(server, &format!("{confirmations}_bucket{{le=\"+Inf\"}}")) > 5.0);
    }
    let all = |name: &str| (0..3).map(|server| fleet.metric(server, name)).collect::<Vec<_>>();
    let removals = all("agentrouter_secrets_lease_removals_total");
    let registrations = all("agentrouter_secrets_lease_registrations_total");
    let healthy = slowest < Duration::from_millis(900) && removals == [0.0; 3] && registrations == [1.0; 3];
    healthy.then_some(()).ok_or_else(|| {
        format!(
            "healthy servers cost a write {slowest:?}, {removals:?} removals, {registrations:?} registrations"
        )
    })
}

#[test]
fn a_key_revoked_at_one_server_is_refused_by_all_from_then_on() {
    let fleet = Replicas::start(Postgres::shared(), 3);
    let data = fleet.servers[0].data_dir().to_str().expect("UTF-8").to_owned();
    for _ in 0..3 {
        let key = fleet.servers[0].issue_key(&["--user", "ann", "--scopes", "secrets/read"]);
        let mut connections: Vec<Connection> = fleet
            .servers
            .iter()
            .map(|server| Connection::open(server.authority(), &key).expect("it accepts"))
            .collect();
        let mut statuses = || -> Vec<u16> {
            let list = |connection: &mut Connection| connection.call("GET", "/v1/secrets", "");
            connections.iter_mut().map(|connection| list(connection).expect("a response").status).collect()
        };
        // The second read is a cache hit.
        assert_eq!([statuses(), statuses()], [[200; 3], [200; 3]]);
        let output = run(&["key", "revoke", &key[..16], "--data-dir", &data]);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(statuses(), [401; 3]);
    }
}

#[test]
fn a_key_whose_stored_digest_was_altered_is_refused_by_all_once_it_is_revoked() {
    let postgres = Postgres::shared();
    let fleet = Replicas::start(postgres, 2);
    let data = fleet.servers[0].data_dir().to_str().expect("UTF-8").to_owned();
    let key = fleet.servers[0].issue_key(&["--user", "ann", "--scopes", "secrets/read"]);
    let statuses = || -> Vec<u16> {
        let list = |server: &ServerProcess| {
            let mut connection = Connection::open(server.authority(), &key).expect("it accepts");
            connection.call("GET", "/v1/secrets", "").expect("a response").status
        };
        fleet.servers.iter().map(list).collect()
    };
    assert_eq!([statuses(), statuses()], [[200; 2], [200; 2]], "in memory");
    let alter = format!(
        "UPDATE agentrouter_secrets.api_keys SET digest = sha256(digest) WHERE id = '{}'",
        &key[..16]
    );
    postgres.sql(&fleet.database, &alter);
    let output = run(&["key", "revoke", &key[..16], "--data-dir", &data]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(statuses(), [401; 2]);
}

#[test]
fn a_resumed_server_serves_nothing_from_its_cache() {
    let fleet = Replicas::start(Postgres::shared(), 2);
    let mut writer = fleet.connect(0);
    create(&mut writer, "a", "0");
    // A busy machine may renew the lease late or be slow in the second write, but not in each attempt.
    let (mut waited, mut was_quick, mut was_short) = (false, false, false);
    for number in 1..=10 {
        fleet.await_memory(1, "a");
        let mut reader = fleet.connect(1);
        assert_eq!(value(&mut reader, "a"), (200, (number - 1).to_string()));
        let start = Instant::now();
        fleet.signal(1, "STOP");
        rotate(&mut writer, "a", &number.to_string());
        let (first, start) = (start.elapsed(), Instant::now());
        create(&mut writer, "b", &number.to_string());
        rotate(&mut writer, "b", "again");
        let second = start.elapsed();
        println!("the first write took {first:?}, two more {second:?}");
        was_short |= first < Duration::from_secs(4);
        waited |= first > Duration::from_millis(500);
        was_quick |= second < Duration::from_millis(900);
        // The request is sent before the server resumes, so that it is the first one served.
        let response = std::thread::spawn(move || value(&mut reader, "a"));
        std::thread::sleep(Duration::from_millis(50));
        fleet.signal(1, "CONT");
        assert_eq!(response.join().expect("a response"), (200, number.to_string()));
        for _ in 0..20 {
            assert_eq!(value(&mut fleet.connect(1), "a"), (200, number.to_string()));
        }
        if number >= 3 && waited && was_quick && was_short {
            break;
        }
    }
    assert!(waited, "a write waits for the lease");
    assert!(was_quick, "one write waits, and not the next ones");
    assert!(was_short, "it waits for the lease and not longer");
}

#[test]
fn a_server_cut_from_the_database_serves_nothing_stale_and_recovers() {
    let fleet = Replicas::start(Postgres::shared(), 2);
    let mut writer = fleet.connect(0);
    mostly_in_time(|| {
        create(&mut writer, "a", "old");
        let mut reader = cut_while_it_serves_from_memory(&fleet);
        rotate(&mut writer, "a", "new");
        let cut = value(&mut reader, "a");
        assert_eq!(cut, (503, String::new()), "from memory it must not, from the database it cannot");

        fleet.wires[1].heal();
        let healed = Instant::now();
        let serves = || {
            let mut connection = fleet.connect(1);
            let read = value(&mut connection, "a");
            assert!(read == (200, "new".to_owned()) || read.0 == 503, "{read:?}");
            let body = "{\"name\":\"b\",\"value\":\"written\"}";
            read.0 == 200
                && connection.call("POST", "/v1/secrets", body).is_ok_and(|reply| reply.status == 200)
        };
        assert!(within(Duration::from_secs(60), serves), "it serves again");
        fleet.await_memory(1, "a");
        let took = healed.elapsed();
        let in_time = took < Duration::from_secs(10);
        in_time.then_some(()).ok_or_else(|| format!("full service, from memory as well, after {took:?}"))
    });
}

/// Cuts server 1 off while its lease is valid, and reads "old" from it. Returns a connection to it. On a busy machine the lease
/// may expire before the read. Then it tries again.
fn cut_while_it_serves_from_memory(fleet: &Replicas) -> Connection {
    for _ in 0..20 {
        fleet.await_memory(1, "a");
        let mut reader = fleet.connect(1);
        fleet.wires[1].cut();
        let read = value(&mut reader, "a");
        if read == (200, "old".to_owned()) {
            return reader;
        }
        assert_ne!(read.0, 200, "what it cannot read it does not make up: {read:?}");
        fleet.wires[1].heal();
    }
    panic!("its lease is good for a while");
}

#[test]
fn servers_reconnect_to_a_restarted_database() {
    let postgres = Postgres::start("");
    let fleet = Replicas::start(&postgres, 2);
    create(&mut fleet.connect(0), "a", "old");
    for server in 0..2 {
        fleet.await_memory(server, "a");
    }
    for how in [Stop::Fast, Stop::Immediate] {
        postgres.stop(how);
        std::thread::sleep(Duration::from_millis(1500));
        for server in 0..2 {
            let read = value(&mut fleet.connect(server), "a");
            assert_eq!(read.0, 503, "no lease and no database: {read:?}");
        }
        postgres.restart();
        for server in 0..2 {
            let reads = || value(&mut fleet.connect(server), "a").0 == 200;
            assert!(within(Duration::from_secs(30), reads), "server {server} does not find it");
        }
        let writes = || {
            let reply = fleet.connect(0).call("POST", "/v1/secrets/a/rotate", "{\"new_value\":\"new\"}");
            reply.is_ok_and(|reply| reply.status == 200)
        };
        assert!(within(Duration::from_secs(30), writes), "no write");
        assert_eq!(value(&mut fleet.connect(1), "a"), (200, "new".to_owned()));
        fleet.await_memory(1, "a");
    }
}
