//! `overload`: ten times what the server can carry, while a crowd holds connections for nothing.
//!
//! Three stages for each kind of load: what it can carry (a closed loop); ten times that, by the clock, from callers that
//! do not wait for a connection; and at once the first again. Meanwhile [`Crowd`] has connections that send a head byte
//! by byte, some that ask and never read, and 10,000 that are idle.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::call::{About, Api, Operation};
use crate::fill::{ADMIN, fill, name};
use crate::load::{Pace, Session, Source, Tally, Until};
use crate::report::{Table, count, micros};
use crate::run::about;
use crate::subject::{Data, Programs, Server, Setting};

/// How much more than it can carry.
const TIMES: f64 = 10.0;
/// Connections of the overload.
const CALLERS: usize = 1_024;
/// How long a caller waits for one of them to be free.
const PATIENCE: Duration = Duration::from_millis(1);
/// Requests at a time before and after.
const CONCURRENCY: usize = 32;
const SECRETS: u64 = 10_000;

/// How an overload is made.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How long each overload lasts, below the ten seconds after which the server closes idle connections.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Connections that are idle.
    #[arg(long, default_value_t = 10_000)]
    idle: usize,
    /// Connections that send a head byte by byte, and as many that never read their answers.
    #[arg(long, default_value_t = 200)]
    slow: usize,
}

/// The kinds of load: a cheap call, one that waits for the disk, and one that costs a millisecond.
const LOADS: &[(&str, Operation, u8)] = &[
    ("value", Operation::Value, 0),
    ("create", Operation::Create, 0),
    ("list of 200", Operation::List, 200),
];

/// Makes them, and returns the table.
///
/// # Errors
/// When the server does not start, or does not answer any more.
pub(crate) fn run(scratch: &Path, programs: &Programs, options: &Options) -> Result<String> {
    let data = Data::new(scratch, "overload", None)?;
    let server = Server::start(scratch, programs, &data, &Setting::default())?;
    fill(&server, 0, SECRETS, |_| ADMIN.to_owned())?;
    let mut table = Table::new(&[
        "load",
        "carries/s",
        "due/s",
        "sent/s",
        "served/s",
        "shed/s",
        "failed/s",
        "p50 of the served, µs",
        "p99",
        "memory, MiB",
        "90 % of its rate again after, ms",
    ]);
    for &(what, operation, page_size) in LOADS {
        let line = overload(&server, operation, page_size, options).with_context(|| what.to_owned())?;
        table.line([what.to_owned()].into_iter().chain(line));
    }
    Ok(format!(
        "{table}\n{} idle connections, {} that send byte by byte, {} that never read; {CALLERS} connections that call.\n",
        options.idle, options.slow, options.slow
    ))
}

fn overload(server: &Server, operation: Operation, page_size: u8, options: &Options) -> Result<Vec<String>> {
    let target = server.target(Api::Rest, operation);
    let mut source = source(server, operation, page_size);
    let mut calm = Session::open_to(&target, CONCURRENCY)?;
    calm.closed(&mut source, Until::Time(Duration::from_millis(500)))?;
    let before = calm.closed(&mut source, Until::Time(Duration::from_secs(2)))?;

    let crowd = Crowd::gather(server.caller.address, options.idle, options.slow, many(server))?;
    let mut callers = Session::open_to(&target, CALLERS)?;
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

    let per_second = |number: u64| {
        #[expect(clippy::cast_precision_loss, reason = "a count of requests fits a double")]
        let number = number as f64;
        count(number / options.seconds)
    };
    let sent = over.served + over.shed + over.failed;
    Ok(vec![
        count(before.rate()),
        per_second(sent + over.unsent),
        per_second(sent),
        per_second(over.served),
        per_second(over.shed),
        per_second(over.failed),
        micros(over.micros(50.0)),
        micros(over.micros(99.0)),
        memory.to_string(),
        recovery(&after, before.rate())
            .map_or_else(|| "never".to_owned(), |time| time.as_millis().to_string()),
    ])
}

fn source(server: &Server, operation: Operation, page_size: u8) -> Source {
    let caller = server.caller.clone();
    Source::made(move |number| {
        let name = match operation {
            Operation::Create => format!("over-{number}"),
            _ => name(crate::load::scramble(number) % SECRETS),
        };
        let (realm, user) =
            if operation == Operation::Create { ("new", "") } else { (about("").realm, ADMIN) };
        caller.request(Api::Rest, operation, About { realm, user, page_size, ..about(&name) })
    })
}

/// A request with a long answer, for those that never read.
fn many(server: &Server) -> Vec<u8> {
    let request = server.caller.request(Api::Rest, Operation::List, About { page_size: 200, ..about("") });
    request.head.repeat(20)
}

/// When a load first had 90 % of its rate for two slots together; none if it never had.
fn recovery(tally: &Tally, rate: f64) -> Option<Duration> {
    let wanted = 0.9 * rate * 2.0 * crate::load::SLOT.as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a count of requests fits a double")]
    let enough =
        |pair: &[(u64, Duration)]| pair.iter().map(|(served, _)| *served as f64).sum::<f64>() >= wanted;
    let first = tally.slots.windows(2).position(enough)?;
    Some(crate::load::SLOT * u32::try_from(first).ok()?)
}

/// Connections that nobody is served on.
struct Crowd {
    idle: Vec<TcpStream>,
    stop: Arc<AtomicBool>,
    slow: JoinHandle<()>,
}

impl Crowd {
    /// Opens them all, and has the slow ones begin.
    fn gather(address: SocketAddr, idle: usize, slow: usize, long: Vec<u8>) -> Result<Self> {
        let connect = || TcpStream::connect(address).context("the server takes no more connections");
        let idle = (0..idle).map(|_| connect()).collect::<Result<_>>()?;
        let senders = (0..slow).map(|_| connect()).collect::<Result<Vec<_>>>()?;
        let mut readers = (0..slow).map(|_| connect()).collect::<Result<Vec<_>>>()?;
        for reader in &mut readers {
            reader.set_nonblocking(true)?;
            // What does not fit is not sent: the server has stopped reading, which is what it should do.
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
        // A crowd that ended by itself has nothing more to say.
        let _ = self.slow.join();
        drop(self.idle);
    }
}

/// Sends a head of which the end never comes, a byte a turn on each connection; one that was closed is opened anew.
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
