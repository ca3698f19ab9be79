//! `overload`: ten times the server's capacity, while slow and idle connections are open.
//!
//! Three stages for each kind of load: the capacity (a closed loop), then ten times that in an open loop whose callers
//! do not wait for a connection, then at once the first stage again. Meanwhile [`Crowd`] has connections that send a
//! head byte by byte, some that send requests and never read, and 10,000 that are idle.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::case::{Engine, is_named};
use crate::fill::{ADMIN, fill, name};
use crate::load::{Pace, Session, Source, Tally, Until};
use crate::operation::{About, Api, Operation};
use crate::process::first_cores;
use crate::report::{Table, count, micros};
use crate::run::{about, lacks_postgres};
use crate::subject::{Data, Postgres, Programs, Server, Setting};

/// The factor of the overload.
const TIMES: f64 = 10.0;
/// The time for which a caller waits for a free connection.
const PATIENCE: Duration = Duration::from_millis(1);
/// Concurrent requests before and after.
const CONCURRENCY: usize = 32;
const SECRETS: u64 = 10_000;

/// The options of `overload`.
#[derive(clap::Args)]
pub(crate) struct OverloadOptions {
    /// The seconds of each overload, below the ten seconds after which the server closes idle connections.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Connections that send requests. With gRPC an eighth of them, of eight streams each.
    #[arg(long, default_value_t = 1_024)]
    callers: usize,
    /// Connections that are idle.
    #[arg(long, default_value_t = 10_000)]
    idle: usize,
    /// Connections that send a head byte by byte, and as many that never read their responses.
    #[arg(long, default_value_t = 200)]
    slow: usize,
    /// Only these loads, separated by commas. A text that is not a full name selects all loads that contain it.
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    only: Vec<String>,
}

/// One kind of load on one kind of server.
struct Load {
    cores: usize,
    engine: Engine,
    api: Api,
    operation: Operation,
    page_size: u8,
}

impl std::fmt::Display for Load {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.api.name(), self.operation.name())?;
        if self.operation == Operation::List {
            write!(f, ".{}", self.page_size)?;
        }
        if self.engine == Engine::Postgres {
            f.write_str(".postgres")?;
        }
        if self.cores > 1 { write!(f, ".{}-cores", self.cores) } else { Ok(()) }
    }
}

impl Load {
    /// Each operation over REST and over gRPC on one core, over REST on two, and over PostgreSQL: cheap requests,
    /// requests that wait for the disk, and requests that cost a fraction of a millisecond.
    fn all() -> impl Iterator<Item = Self> {
        const OPERATIONS: [(Operation, u8); 5] = [
            (Operation::Value, 0),
            (Operation::Create, 0),
            (Operation::Rotate, 0),
            (Operation::List, 50),
            (Operation::List, 200),
        ];
        let kinds = [
            (1, Engine::Sqlite, Api::Rest),
            (1, Engine::Sqlite, Api::Grpc),
            (2, Engine::Sqlite, Api::Rest),
            (1, Engine::Postgres, Api::Rest),
        ];
        kinds.into_iter().flat_map(|(cores, engine, api)| {
            OPERATIONS.map(|(operation, page_size)| Self { cores, engine, api, operation, page_size })
        })
    }
}

/// Runs the loads, and returns the table.
///
/// # Errors
/// When the server does not start, or no longer responds.
pub(crate) fn run(scratch: &Path, programs: &Programs, options: &OverloadOptions) -> Result<String> {
    let only = &options.only;
    let names: Vec<_> = Load::all().map(|load| load.to_string()).collect();
    let wanted = |load: &Load| only.is_empty() || is_named(only, &names, &load.to_string());
    let mut loads: Vec<_> = Load::all().filter(wanted).collect();
    ensure!(!loads.is_empty(), "no load has such a name");
    let missing =
        lacks_postgres(programs).filter(|_| loads.iter().any(|load| load.engine == Engine::Postgres));
    loads.retain(|load| load.engine == Engine::Sqlite || missing.is_none());
    let postgres = loads.iter().any(|load| load.engine == Engine::Postgres);
    let postgres = postgres.then(|| Postgres::start(scratch)).transpose()?;
    let mut table = Table::new(&[
        "load",
        "carries/s",
        "due/s",
        "sent/s",
        "served/s",
        "% of what it carries",
        "shed/s",
        "failed/s",
        "p50 of the served, µs",
        "p99",
        "p99 of the shed",
        "memory, MiB",
        "90 % of its rate again after, ms",
    ]);
    for kind in loads.chunk_by(|one, other| one.cores == other.cores && one.engine == other.engine) {
        let Some(Load { cores, engine, .. }) = kind.first() else { continue };
        let database = postgres.as_ref().filter(|_| *engine == Engine::Postgres);
        let data = Data::new(scratch, &format!("overload-{}-{cores}", database.is_some()), database)?;
        let setting = Setting { cores: first_cores(*cores), ..Setting::default() };
        let server = Server::start(scratch, programs, &data, &setting)?;
        fill(&server, 0, SECRETS, |_| ADMIN.to_owned())?;
        for load in kind {
            let line = overload(&server, load, options).with_context(|| load.to_string())?;
            eprintln!("  {load}: {}", line.join(" "));
            table.line([load.to_string()].into_iter().chain(line));
        }
    }
    let missing = missing.map(|why| format!("\nNot measured: {why}.\n")).unwrap_or_default();
    Ok(format!(
        "{table}\n{} idle connections, {} that send byte by byte, {} that never read; {} that call (gRPC: an eighth of \
         them, of eight streams each).\n{missing}",
        options.idle, options.slow, options.slow, options.callers
    ))
}

fn overload(server: &Server, load: &Load, options: &OverloadOptions) -> Result<Vec<String>> {
    let target = server.target(load.api, load.operation);
    let mut source = source(server, load);
    let mut calm = Session::open_to(&target, CONCURRENCY / load.api.streams())?;
    calm.closed(&mut source, Until::Time(Duration::from_millis(500)))?;
    let before = calm.closed(&mut source, Until::Time(Duration::from_secs(2)))?;

    let crowd = Crowd::gather(server.caller.address, options.idle, options.slow, many(server))?;
    let mut callers = Session::open_to(&target, options.callers / load.api.streams())?;
    let pace = Pace {
        rate: before.rate() * TIMES,
        time: Duration::from_secs_f64(options.seconds),
        patience: Some(PATIENCE),
    };
    let over = callers.open(&mut source, pace)?;
    let memory = server.process.usage().memory >> 20;
    drop(callers);
    let after = calm.closed(&mut source, Until::Time(Duration::from_secs(3)))?;
    crowd.disperse();

    #[expect(clippy::cast_precision_loss, reason = "a count of requests fits a double")]
    let per_second = |number: u64| number as f64 / options.seconds;
    let sent = over.served + over.shed + over.failed;
    Ok(vec![
        count(before.rate()),
        count(per_second(sent + over.unsent)),
        count(per_second(sent)),
        count(per_second(over.served)),
        format!("{:.0}", 100.0 * per_second(over.served) / before.rate()),
        count(per_second(over.shed)),
        count(per_second(over.failed)),
        micros(over.micros(50.0)),
        micros(over.micros(99.0)),
        micros(over.refusal_micros(99.0)),
        memory.to_string(),
        recovery(&after, before.rate())
            .map_or_else(|| "never".to_owned(), |time| time.as_millis().to_string()),
    ])
}

fn source(server: &Server, load: &Load) -> Source {
    let caller = server.caller.clone();
    let Load { api, operation, page_size, .. } = *load;
    Source::made(move |number| {
        let name = match operation {
            Operation::Create => format!("over-{}-{number}", api.name()),
            _ => name(crate::load::scramble(number) % SECRETS),
        };
        let (realm, user) =
            if operation == Operation::Create { ("new", "") } else { (about("").realm, ADMIN) };
        caller.request(api, operation, About { realm, user, page_size, ..about(&name) })
    })
}

/// A request with a long response, for the connections that never read.
fn many(server: &Server) -> Vec<u8> {
    let request = server.caller.request(Api::Rest, Operation::List, About { page_size: 200, ..about("") });
    request.head.repeat(20)
}

/// When a load first had 90 % of its rate in two slots in a row. `None` if it never had.
fn recovery(tally: &Tally, rate: f64) -> Option<Duration> {
    let wanted = 0.9 * rate * 2.0 * crate::load::SLOT.as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a count of requests fits a double")]
    let enough =
        |pair: &[(u64, Duration)]| pair.iter().map(|(served, _)| *served as f64).sum::<f64>() >= wanted;
    let first = tally.slots.windows(2).position(enough)?;
    Some(crate::load::SLOT * u32::try_from(first).ok()?)
}

/// Connections that are not served.
struct Crowd {
    idle: Vec<TcpStream>,
    stop: Arc<AtomicBool>,
    slow: JoinHandle<()>,
}

impl Crowd {
    /// Opens them all, and starts the slow ones.
    fn gather(address: SocketAddr, idle: usize, slow: usize, long: Vec<u8>) -> Result<Self> {
        let connect = || TcpStream::connect(address).context("the server takes no more connections");
        let idle = (0..idle).map(|_| connect()).collect::<Result<_>>()?;
        let senders = (0..slow).map(|_| connect()).collect::<Result<Vec<_>>>()?;
        let mut readers = (0..slow).map(|_| connect()).collect::<Result<Vec<_>>>()?;
        for reader in &mut readers {
            reader.set_nonblocking(true)?;
            // The rest is not sent: the server has stopped reading, as it should.
            let _ = reader.write(&long);
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let slow = std::thread::spawn(move || {
            let _readers = readers;
            trickle(senders, address, &stopped);
        });
        Ok(Self { idle, stop, slow })
    }

    fn disperse(self) {
        self.stop.store(true, Ordering::Relaxed);
        // A crowd that ended by itself has no error to report.
        let _ = self.slow.join();
        drop(self.idle);
    }
}

/// Sends an endless head, one byte a turn on each connection. A closed connection is opened again.
fn trickle(mut senders: Vec<TcpStream>, address: SocketAddr, stop: &AtomicBool) {
    let head =
        b"POST /v1/secrets HTTP/1.1\r\nhost: x\r\nx-long: ".iter().copied().chain(std::iter::repeat(b'a'));
    for byte in head {
        for sender in &mut senders {
            if sender.write_all(&[byte]).is_err()
                && let Ok(again) = TcpStream::connect_timeout(&address, Duration::from_millis(100))
            {
                *sender = again;
            }
        }
        if stop.load(Ordering::Relaxed) {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_rate_is_back_when_two_slots_together_have_nearly_all_of_it() {
        let mut tally = Tally::new(Instant::now());
        // 1000 a second are 50 a slot.
        tally.slots = [0, 10, 20, 50, 48, 50].map(|served| (served, Duration::ZERO)).to_vec();
        assert_eq!(recovery(&tally, 1000.0), Some(Duration::from_millis(150)));
        assert_eq!(recovery(&tally, 2000.0), None);
    }
}
