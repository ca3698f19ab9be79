//! The second part of `replicas`: the latency of one write, and the part of other servers' leases in it.
//!
//! One caller rotates secrets at one server, one after the other. Every server has the secrets in memory. At first the server
//! is alone, then there are two other healthy servers, then one of these is killed: the next write waits for its lease.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::fill::{ADMIN, REALM, fill, name};
use crate::load::{Session, Source, Tally, Until};
use crate::operation::{About, Api, Operation};
use crate::report::{Table, count, micros};
use crate::run::about;
use crate::subject::{Data, Postgres, Programs, Server, Setting};

/// A small number, so that each secret is read again between two of its rotations.
const SECRETS: u64 = 64;
/// The number of kills.
const KILLS: usize = 5;

/// Measures, and returns the table.
///
/// # Errors
/// When a server does not start, or refuses a request.
pub(crate) fn run(scratch: &Path, programs: &Programs, postgres: &Postgres, seconds: f64) -> Result<String> {
    let data = Data::new(scratch, "writes", Some(postgres))?;
    let writer = Server::start(scratch, programs, &data, &Setting::default())?;
    fill(&writer, 0, SECRETS, |_| ADMIN.to_owned())?;
    let time = Until::Time(Duration::from_secs_f64(seconds));
    let mut table = Table::new(&["servers", "writes", "p50, µs", "p99", "slowest"]);
    let mut line = |servers: &str, tally: &Tally| {
        #[expect(clippy::cast_precision_loss, reason = "a count of requests fits a double")]
        let writes = count(tally.served as f64);
        let [half, most, slowest] = [50.0, 99.0, 100.0].map(|percent| micros(tally.micros(percent)));
        table.line([servers.to_owned(), writes, half, most, slowest]);
    };
    load(&writer, Operation::Rotate, Until::Count(SECRETS))?;
    line("one, alone", &load(&writer, Operation::Rotate, time)?);

    let second = Server::start_replica(scratch, programs, &data, "writes-2")?;
    let mut third = Some(Server::start_replica(scratch, programs, &data, "writes-3")?);
    for server in [Some(&second), third.as_ref()].into_iter().flatten() {
        load(server, Operation::Value, Until::Count(SECRETS))?;
    }
    line("with two healthy ones", &load(&writer, Operation::Rotate, time)?);

    let mut first = Tally::new(std::time::Instant::now());
    for kill in 0..KILLS {
        if let Some(third) = third.take() {
            third.process.kill();
        }
        first.add(&load(&writer, Operation::Rotate, Until::Count(1))?);
        if kill + 1 < KILLS {
            third = Some(Server::start_replica(scratch, programs, &data, &format!("writes-3-{kill}"))?);
            // Time to register its lease.
            std::thread::sleep(Duration::from_millis(500));
        }
    }
    line("with one that was just killed: the first write", &first);
    line("and those after it", &load(&writer, Operation::Rotate, time)?);
    Ok(table.to_string())
}

/// One request at a time.
fn load(server: &Server, operation: Operation, until: Until) -> Result<Tally> {
    let caller = server.caller.clone();
    let mut source = Source::made(move |call| {
        let user = if operation == Operation::Value { ADMIN } else { "" };
        let name = name(call % SECRETS);
        caller.request(Api::Rest, operation, About { realm: REALM, user, ..about(&name) })
    });
    let target = server.target(Api::Rest, operation);
    let tally = Session::open_to(&target, 1)?.closed(&mut source, until)?;
    ensure!(tally.failed == 0 && tally.shed == 0, "requests were refused");
    Ok(tally)
}
