//! Histories of requests at three servers under faults, each checked by [`super::history`].
//!
//! Every seed is a history on secrets of its own: clients at each server create, rotate, delete and read,
//! while servers are stopped and cut off, sessions are ended and the database crashes. A write that was refused as
//! unavailable must not have happened. A write without a response may have happened.
//!
//! `AGENTROUTER_HISTORIES` sets the number of seeds.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use agentrouter_postgres::testing::{Postgres, Stop};

use super::fleet::Replicas;
use super::history::{Op, Outcome, Write, is_linearizable};
use crate::support::{Connection, Dice, Reply};

const SERVERS: usize = 3;
const CLIENTS: usize = 3;
const NAMES: usize = 2;
const TIME: Duration = Duration::from_millis(2200);

fn seeds() -> u64 {
    std::env::var("AGENTROUTER_HISTORIES").ok().and_then(|text| text.parse().ok()).unwrap_or(20)
}

struct Run<'a> {
    fleet: &'a Replicas,
    postgres: &'a Postgres,
    seed: u64,
    start: Instant,
    values: AtomicU64,
    ops: Vec<Mutex<Vec<Op>>>,
}

#[test]
fn histories_of_three_servers_are_linearizable_under_faults() {
    let postgres = Postgres::start("");
    let fleet = Replicas::start(&postgres, SERVERS);
    let (mut histories, mut calls, mut unknown) = (0, 0, 0);
    let hits = || -> f64 {
        (0..SERVERS).map(|server| fleet.metric(server, "agentrouter_secrets_cache_hits_total")).sum()
    };
    let is_enough = |calls: usize| calls as u64 > 100 * seeds() && hits() > 30.0 * seeds() as f64;
    // On a busy machine each history is short, so there are more.
    for seed in 0..3 * seeds() {
        if seed >= seeds() && is_enough(calls) {
            break;
        }
        histories += 1;
        let ops = (0..NAMES).map(|_| Mutex::default()).collect();
        let run = Run {
            fleet: &fleet,
            postgres: &postgres,
            seed,
            start: Instant::now(),
            values: AtomicU64::new(1),
            ops,
        };
        std::thread::scope(|scope| {
            for server in 0..SERVERS {
                for client in 0..CLIENTS {
                    let run = &run;
                    scope.spawn(move || run.client(server, client));
                }
            }
            run.inject_faults();
        });
        for ops in run.ops {
            let ops = ops.into_inner().unwrap_or_else(PoisonError::into_inner);
            calls += ops.len();
            unknown += ops.iter().filter(|op| matches!(op.outcome, Outcome::Unknown(_))).count();
            let verdict = is_linearizable(&ops).expect("it can be judged");
            assert!(verdict, "seed {seed}: {ops:#?}");
        }
    }
    println!(
        "{histories} histories, {calls} calls, {unknown} of unknown outcome, {} reads from memory",
        hits()
    );
    assert!(is_enough(calls), "too few calls or reads from memory");
}

impl Run<'_> {
    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).expect("a short time")
    }

    fn client(&self, server: usize, client: usize) {
        let mut dice = Dice(self.seed * 1000 + (server * CLIENTS + client) as u64);
        let mut connection = None;
        while self.start.elapsed() < TIME {
            std::thread::sleep(Duration::from_millis(dice.below(8)));
            let name = usize::try_from(dice.below(NAMES as u64)).expect("small");
            let open = connection
                .take()
                .or_else(|| Connection::open(self.fleet.servers[server].authority(), &self.fleet.key).ok());
            let Some(mut open) = open else { continue };
            let sent = self.now();
            let kind = dice.below(40);
            let value = self.values.fetch_add(1, Ordering::Relaxed);
            let reply = self.send(&mut open, name, kind, value);
            let ended = self.now();
            if reply.is_ok() {
                connection = Some(open);
            }
            if let Some(outcome) = outcome_of(kind, value, reply) {
                self.ops[name].lock().unwrap_or_else(PoisonError::into_inner).push(Op {
                    outcome,
                    sent,
                    ended,
                });
            }
        }
    }

    fn send(
        &self,
        connection: &mut Connection,
        name: usize,
        kind: u64,
        value: u64,
    ) -> std::io::Result<Reply> {
        let name = format!("h{}-{name}", self.seed);
        let path = format!("/v1/secrets/{name}");
        match kind {
            0..=1 => {
                let body = format!("{{\"name\":\"{name}\",\"value\":\"{value}\"}}");
                connection.call("POST", "/v1/secrets", &body)
            }
            2..=3 => {
                connection.call("POST", &format!("{path}/rotate"), &format!("{{\"new_value\":\"{value}\"}}"))
            }
            4 => connection.call("DELETE", &path, ""),
            _ => connection.call("POST", &format!("{path}/value"), "{}"),
        }
    }

    /// Two or three faults, one after the other. All are healed at the end.
    fn inject_faults(&self) {
        let mut dice = Dice(self.seed ^ 0x5eed);
        let pause = |millis| std::thread::sleep(Duration::from_millis(millis));
        pause(300);
        while self.start.elapsed() < TIME - Duration::from_millis(400) {
            let server = usize::try_from(dice.below(SERVERS as u64)).expect("small");
            match dice.below(8) {
                0..=2 => {
                    self.fleet.signal(server, "STOP");
                    pause(900 + dice.below(700));
                    self.fleet.signal(server, "CONT");
                }
                3..=5 => {
                    self.fleet.wires[server].cut();
                    pause(300 + dice.below(1200));
                    self.fleet.wires[server].heal();
                }
                6 => drop(self.postgres.sql(
                    "postgres",
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                     WHERE application_name = 'agentrouter-secrets'",
                )),
                _ => {
                    self.postgres.stop(Stop::Immediate);
                    self.postgres.restart();
                }
            }
            pause(100 + dice.below(200));
        }
    }
}

/// The operation of a history, if its outcome constrains the history.
fn outcome_of(kind: u64, value: u64, reply: std::io::Result<Reply>) -> Option<Outcome> {
    let write = match kind {
        0..=1 => Some(Write::Create(value)),
        2..=3 => Some(Write::Rotate(value)),
        4 => Some(Write::Delete),
        _ => None,
    };
    let Ok(reply) = reply else { return write.map(Outcome::Unknown) };
    match (reply.status, write) {
        (200, Some(Write::Create(value))) => Some(Outcome::Create(value)),
        (200, Some(Write::Rotate(value))) => Some(Outcome::Rotate(value)),
        (200, Some(Write::Delete)) => Some(Outcome::Delete),
        (200, None) => {
            let value = reply.json()["value"].as_str().expect("a value").parse().expect("a number");
            Some(Outcome::Value(Some(value)))
        }
        (404, None) => Some(Outcome::Value(None)),
        (404, Some(_)) => Some(Outcome::FoundNothing),
        (503, write) => match reply.reason().as_str() {
            // AUDIT_UNAVAILABLE if the server was stopped for longer than the time-out of a record.
            "OUTCOME_UNKNOWN" | "AUDIT_UNAVAILABLE" => write.map(Outcome::Unknown),
            // The write did not happen. If it did, a read detects it.
            "STORE_UNAVAILABLE" => None,
            other => panic!("{other}: {reply:?}"),
        },
        other => panic!("{other:?}: {reply:?}"),
    }
}
