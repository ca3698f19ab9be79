//! `replicas`: one, two and four servers over one PostgreSQL, then the latency of one write (`writes`).
//!
//! The servers, the database and the generator share the cores of one machine. So the sum of the rates shows the overhead of
//! replicas rather than their gain. The processor time per request holds for more machines.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::fill::{ADMIN, REALM, fill, name};
use crate::load::{Session, Source, Tally, Until, scramble};
use crate::operation::{About, Api, Operation};
use crate::process::Usage;
use crate::report::{Table, count, micros};
use crate::run::{about, lacks_postgres};
use crate::subject::{Data, Postgres, Programs, Server, Setting};
use crate::writes;

const SECRETS: u64 = 10_000;
/// Concurrent requests over all replicas.
const CONCURRENCY: usize = 32;

/// The options of `replicas`.
#[derive(clap::Args)]
pub(crate) struct ReplicasOptions {
    /// Numbers of servers, separated by commas.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4])]
    replicas: Vec<usize>,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
}

/// Measures, and returns the table.
///
/// # Errors
/// When a server does not start, or refuses a request.
pub(crate) fn run(scratch: &Path, programs: &Programs, options: &ReplicasOptions) -> Result<String> {
    if let Some(why) = lacks_postgres(programs) {
        return Ok(format!("Not measured: {why}.\n"));
    }
    let postgres = Postgres::start(scratch)?;
    let data = Data::new(scratch, "replica", Some(&postgres))?;
    let first = Server::start(scratch, programs, &data, &Setting::default())?;
    fill(&first, 0, SECRETS, |_| ADMIN.to_owned())?;
    let mut servers = vec![first];
    let mut table =
        Table::new(&["servers", "call", "calls/s", "p50, µs", "p99", "CPU µs of a server", "of PostgreSQL"]);
    for &number in &options.replicas {
        while servers.len() < number {
            let name = format!("replica-{}", servers.len());
            servers.push(Server::start_replica(scratch, programs, &data, &name)?);
        }
        for operation in [Operation::Value, Operation::Create, Operation::Rotate] {
            let line = measure(&servers[..number.min(servers.len())], &postgres, operation, options.seconds)
                .with_context(|| format!("{} with {number} servers", operation.name()))?;
            table.line([number.to_string(), operation.name().to_owned()].into_iter().chain(line));
        }
    }
    drop(servers);
    let writes = writes::run(scratch, programs, &postgres, options.seconds)?;
    Ok(format!("{table}\nOne caller that rotates secrets which all servers have in memory:\n\n{writes}"))
}

fn measure(
    servers: &[Server],
    postgres: &Postgres,
    operation: Operation,
    seconds: f64,
) -> Result<Vec<String>> {
    let usage = || -> (Duration, Usage) {
        (servers.iter().map(|server| server.process.usage().cpu).sum(), postgres.process.usage())
    };
    let each = CONCURRENCY / servers.len();
    let load = |server: &Server, number: usize, time: Duration| -> Result<Tally> {
        let mut source = source(server, operation, number, servers.len());
        Session::open_to(&server.target(Api::Rest, operation), each)?.closed(&mut source, Until::Time(time))
    };
    let all = |time: Duration| -> Result<Vec<Tally>> {
        std::thread::scope(|scope| {
            let load = &load;
            let loads: Vec<_> = servers
                .iter()
                .enumerate()
                .map(|(number, server)| scope.spawn(move || load(server, number, time)))
                .collect();
            loads
                .into_iter()
                .map(|load| load.join().map_err(|_| anyhow::anyhow!("a load panicked"))?)
                .collect()
        })
    };
    if operation == Operation::Value {
        // Each server reads all secrets once, so that the measured reads are cache hits.
        for server in servers {
            let caller = server.caller.clone();
            let mut each_once = Source::made(move |call| {
                let name = name(call % SECRETS);
                caller.request(Api::Rest, operation, About { realm: REALM, user: ADMIN, ..about(&name) })
            });
            let mut session = Session::open_to(&server.target(Api::Rest, operation), each)?;
            session.closed(&mut each_once, Until::Count(SECRETS))?;
        }
    }
    all(Duration::from_millis(300))?;
    let (cpu, database) = usage();
    let tallies = all(Duration::from_secs_f64(seconds))?;
    let (cpu_after, database_after) = usage();
    let served: u64 = tallies.iter().map(|tally| tally.served).sum();
    #[expect(clippy::cast_precision_loss, reason = "a count of requests fits a double")]
    let per_call = |time: Duration| micros(time.as_secs_f64() * 1e6 / served.max(1) as f64);
    // The percentile of the slowest replica.
    let worst = |percent| tallies.iter().map(|tally| tally.micros(percent)).fold(0.0, f64::max);
    Ok(vec![
        count(tallies.iter().map(Tally::rate).sum()),
        micros(worst(50.0)),
        micros(worst(99.0)),
        per_call(cpu_after - cpu),
        per_call(database_after.cpu.saturating_sub(database.cpu)),
    ])
}

/// The requests to one replica: reads of all secrets, rotations of its share of them, creations of names of its own.
fn source(server: &Server, operation: Operation, number: usize, of: usize) -> Source {
    let caller = server.caller.clone();
    // Keeps the names of different measurements distinct.
    let turn = server.process.usage().cpu.as_nanos();
    Source::made(move |call| {
        let secret = scramble(call) % SECRETS;
        let own = secret - secret % of as u64 + number as u64;
        let (name, realm, user) = match operation {
            Operation::Create => (format!("new-{of}-{number}-{turn}-{call}"), "new", ""),
            Operation::Rotate => (name(own.min(SECRETS - 1)), REALM, ""),
            _ => (name(secret), REALM, ADMIN),
        };
        caller.request(Api::Rest, operation, About { realm, user, ..about(&name) })
    })
}
