//! The second part of `replicas`: how long one write takes, and what other servers' leases add to it.
//!
//! One caller rotates secrets that every server has in memory, one after the other, at one of them. First that one is
//! alone, then it has two healthy others, then one of these is killed: the first write after that waits for its lease.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::call::{About, Api, Operation};
use crate::fill::{ADMIN, REALM, fill, name};
use crate::load::{Session, Source, Tally, Until};
use crate::replicas::replica;
use crate::report::{Table, count, micros};
use crate::run::about;
use crate::subject::{Data, Postgres, Programs, Server, Setting};

/// Few, so that each is read again between two rotations of it.
const SECRETS: u64 = 64;
/// How often a server is killed.
const KILLS: usize = 5;

/// Measures, and returns the table.
///
/// # Errors
/// When a server does not start, or refuses something.
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

    let second = replica(scratch, programs, &data, "writes-2")?;
    let mut third = Some(replica(scratch, programs, &data, "writes-3")?);
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
            third = Some(replica(scratch, programs, &data, &format!("writes-3-{kill}"))?);
            // Until it has registered.
            std::thread::sleep(Duration::from_millis(500));
        }
    }
    line("with one that was just killed: the first write", &first);
    line("and those after it", &load(&writer, Operation::Rotate, time)?);
    Ok(table.to_string())
}

/// One call at a time.
fn load(server: &Server, operation: Operation, until: Until) -> Result<Tally> {
    let caller = server.caller.clone();
    let mut source = Source::made(move |call| {
        let user = if operation == Operation::Value { ADMIN } else { "" };
        let name = name(call % SECRETS);
        caller.request(Api::Rest, operation, About { realm: REALM, user, ..about(&name) })
    });
    let target = server.target(Api::Rest, operation);
    let tally = Session::open_to(&target, 1)?.closed(&mut source, until)?;
    ensure!(tally.failed == 0 && tally.shed == 0, "calls were refused");
    Ok(tally)
}
