//! `scale`: what a call costs in a store of 10,000, of 100,000 and of 1,000,000 secrets, a hundred to an owner.
//!
//! Latencies are those of one caller at a time, so that nothing waits for anything but the call itself. *Hot* reads find
//! their row in memory; *cold* ones are made of a server whose cache holds next to nothing, and go to the database each
//! time (whose pages the system may have in memory). Creations and rotations are few beside what is there.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::call::{About, Api, Caller, Operation};
use crate::fill::{REALM, TAG, fill, name};
use crate::load::{Session, Source, Until, scramble};
use crate::process::size_of;
use crate::report::{Table, count, micros};
use crate::run::{about, lacks_postgres};
use crate::subject::{Data, Postgres, Programs, Server, Setting, settle};

/// Secrets of one owner.
const EACH: u64 = 100;
/// Owners that have a key of their own here, and list and rotate.
const KEYS: u64 = 8;
/// The least that a cache can be set to that is of no use.
const NO_CACHE: &[&str] = &["--cache-size", "1KiB"];

/// What sizes, and of which engines.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Secrets in the store, in ascending order, separated by commas.
    #[arg(long, value_delimiter = ',', default_values_t = [10_000, 100_000, 1_000_000])]
    sizes: Vec<u64>,
    /// Only this engine.
    #[arg(long, value_parser = ["sqlite", "postgres"])]
    engine: Option<String>,
    /// Calls of each kind; ten times as many reads.
    #[arg(long, default_value_t = 1_000)]
    calls: u64,
}

/// What a call costs.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    /// Microseconds for the caller: the median, and p99.
    p50: f64,
    p99: f64,
    /// Microseconds of processor time, the database's included.
    cpu: f64,
}

/// What a store of one size costs.
struct Size {
    secrets: u64,
    costs: Vec<(&'static str, Cost)>,
    /// Facts, by what they are called.
    facts: Vec<(&'static str, String)>,
}

/// Measures, and writes a table for each engine.
///
/// # Errors
/// When a server does not start, or refuses something.
pub(crate) fn run(
    scratch: &Path,
    programs: &Programs,
    options: &Options,
    machine: &[String],
) -> Result<String> {
    ensure!(
        options.sizes.is_sorted() && options.sizes.iter().all(|size| size % EACH == 0),
        "sizes ascend, in hundreds"
    );
    ensure!(
        options.sizes.first().is_some_and(|size| size / EACH >= KEYS),
        "a size of {} at least",
        KEYS * EACH
    );
    let mut text = machine.iter().map(|line| format!("* {line}\n")).collect::<String>();
    for engine in ["sqlite", "postgres"] {
        if options.engine.as_ref().is_some_and(|only| only != engine) {
            continue;
        }
        let missing = if engine == "postgres" { lacks_postgres(programs) } else { None };
        if let Some(why) = missing {
            text.push_str(&format!("\nNot measured: {why}.\n"));
            continue;
        }
        let postgres = (engine == "postgres").then(|| Postgres::start(scratch)).transpose()?;
        let sizes = grow(scratch, programs, options, postgres.as_ref())?;
        text.push_str(&format!("\n### {engine}\n\n{}\n{}", costs(&sizes), facts(&sizes)));
    }
    Ok(text)
}

/// One store, measured at each size on its way to the largest.
fn grow(
    scratch: &Path,
    programs: &Programs,
    options: &Options,
    postgres: Option<&Postgres>,
) -> Result<Vec<Size>> {
    let data = Data::new(scratch, if postgres.is_some() { "scale_pg" } else { "scale" }, postgres)?;
    let (mut sizes, mut there, mut keys) = (Vec::new(), 0, Vec::new());
    for &secrets in &options.sizes {
        let server = Server::start(scratch, programs, &data, &Setting::default())?;
        let took = fill(&server, there, secrets - there, |number| owner(number / EACH))?;
        #[expect(clippy::cast_precision_loss, reason = "a count of secrets fits a double")]
        let rate = (secrets - there) as f64 / took.as_secs_f64();
        eprintln!("  {} secrets, {}/s", count_of(secrets), count(rate));
        there = secrets;
        if keys.is_empty() {
            keys = (0..KEYS).map(|user| server.issue_key(programs, &owner(user))).collect::<Result<_>>()?;
        }
        server.process.stop()?;
        if let (Some(postgres), Some((_, database))) = (postgres, &data.database) {
            postgres.settle(database)?;
        }
        let bench =
            Bench { scratch, programs, data: &data, postgres, keys: &keys, calls: options.calls, secrets };
        let mut size = bench.measure().with_context(|| format!("{secrets} secrets"))?;
        size.facts.push(("filled, secrets/s", count(rate)));
        sizes.push(size);
    }
    Ok(sizes)
}

fn owner(number: u64) -> String {
    format!("user-{number:05}")
}

/// A store of one size, about to be measured.
struct Bench<'a> {
    scratch: &'a Path,
    programs: &'a Programs,
    data: &'a Data,
    postgres: Option<&'a Postgres>,
    keys: &'a [String],
    calls: u64,
    secrets: u64,
}

impl Bench<'_> {
    fn measure(&self) -> Result<Size> {
        let mut costs = vec![("value, cold", self.cold()?)];
        let server = self.start(&[])?;
        let ready = server.ready_in;
        let mib = |bytes: u64| format!("{}", bytes >> 20);
        settle();
        let memory_ready = server.process.usage().memory;
        let (calls, secrets) = (self.calls, self.secrets);
        for (what, number, mut source) in [
            ("value, hot", 10 * calls, self.values(&server, 1_000)),
            ("list 50", calls, self.lists(&server, None)),
            ("list by tag", calls, self.lists(&server, Some(TAG))),
            ("create", calls, creations(&server, secrets)),
            ("rotate", calls, self.rotations(&server)),
        ] {
            costs.push((what, self.cost(&server, &mut source, number)?));
        }
        // Everything there is goes through the cache.
        let mut all = self.values(&server, secrets);
        let target = server.target(Api::Rest, Operation::Value);
        Session::open_to(&target, 32)?.closed(&mut all, Until::Time(Duration::from_secs(5)))?;
        let memory_read = server.process.usage().memory;
        server.process.stop()?;
        let database = match (self.postgres, &self.data.database) {
            (Some(postgres), Some((_, name))) => postgres.size(name)?,
            _ => size_of(&self.data.dir) - size_of(&self.data.dir.join("audit")),
        };
        let facts = vec![
            ("start to ready, ms", format!("{:.1}", ready.as_secs_f64() * 1e3)),
            ("memory when ready, MiB", mib(memory_ready)),
            ("memory after reads of all, MiB", mib(memory_read)),
            ("database, MiB", mib(database)),
        ];
        Ok(Size { secrets, costs, facts })
    }

    fn start(&self, options: &[&str]) -> Result<Server> {
        let options = options.iter().map(|&option| option.to_owned()).collect();
        Server::start(self.scratch, self.programs, self.data, &Setting { options, ..Setting::default() })
    }

    fn cold(&self) -> Result<Cost> {
        let server = self.start(NO_CACHE)?;
        let cost = self.cost(&server, &mut self.values(&server, self.secrets), 10 * self.calls)?;
        server.process.stop()?;
        Ok(cost)
    }

    /// So many calls, one after the other, and a tenth of that before them.
    fn cost(&self, server: &Server, source: &mut Source, calls: u64) -> Result<Cost> {
        let mut session = Session::open_to(&server.target(Api::Rest, Operation::Value), 1)?;
        session.closed(source, Until::Count(calls / 10))?;
        let cpu = || {
            let database = self.postgres.map(|postgres| postgres.process.usage().cpu);
            server.process.usage().cpu + database.unwrap_or_default()
        };
        let before = cpu();
        let tally = session.closed(source, Until::Count(calls))?;
        ensure!(tally.served == calls, "{} of {calls} calls were served", tally.served);
        let each = (cpu() - before) / u32::try_from(calls)?;
        Ok(Cost { p50: tally.micros(50.0), p99: tally.micros(99.0), cpu: each.as_secs_f64() * 1e6 })
    }

    /// Reads among the first so many secrets, at random.
    fn values(&self, server: &Server, among: u64) -> Source {
        let (caller, among) = (server.caller.clone(), among.min(self.secrets));
        Source::made(move |number| {
            let number = scramble(number) % among;
            let (name, user) = (name(number), owner(number / EACH));
            caller.request(Api::Rest, Operation::Value, About { user: &user, ..about(&name) })
        })
    }

    fn lists(&self, server: &Server, tag: Option<(&'static str, &'static str)>) -> Source {
        let callers = self.callers(server);
        Source::made(move |number| {
            let caller = &callers[usize::try_from(number % KEYS).unwrap_or(0)];
            caller.request(Api::Rest, Operation::List, About { tag, ..about("") })
        })
    }

    fn rotations(&self, server: &Server) -> Source {
        let callers = self.callers(server);
        Source::made(move |number| {
            let number = scramble(number) % (KEYS * EACH);
            let caller = &callers[usize::try_from(number / EACH).unwrap_or(0)];
            caller.request(Api::Rest, Operation::Rotate, about(&name(number)))
        })
    }

    fn callers(&self, server: &Server) -> Vec<Caller> {
        let as_one = |key: &String| Caller { key: key.clone(), ..server.caller.clone() };
        self.keys.iter().map(as_one).collect()
    }
}

fn creations(server: &Server, size: u64) -> Source {
    let caller = server.caller.clone();
    Source::made(move |number| {
        let name = format!("new-{size}-{number}");
        caller.request(Api::Rest, Operation::Create, About { user: "", realm: REALM, ..about(&name) })
    })
}

fn count_of(secrets: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a count of secrets fits a double")]
    count(secrets as f64)
}

/// Each kind of call by size, and what the largest costs beside the smallest.
fn costs(sizes: &[Size]) -> Table {
    let heads: Vec<_> = sizes.iter().map(|size| format!("{}: p50", count_of(size.secrets))).collect();
    let mut all = vec!["µs"];
    for head in &heads {
        all.extend([head.as_str(), "p99", "CPU"]);
    }
    all.extend(["ratio of p50", "of CPU"]);
    let mut table = Table::new(&all);
    let (Some(first), Some(last)) = (sizes.first(), sizes.last()) else { return table };
    for (index, (what, least)) in first.costs.iter().enumerate() {
        let mut line = vec![(*what).to_owned()];
        for size in sizes {
            let cost = size.costs[index].1;
            line.extend([cost.p50, cost.p99, cost.cpu].map(micros));
        }
        let most = last.costs[index].1;
        line.extend([most.p50 / least.p50, most.cpu / least.cpu].map(|ratio| format!("{ratio:.2}")));
        table.line(line);
    }
    table
}

/// What else is known of each size.
fn facts(sizes: &[Size]) -> Table {
    let heads: Vec<_> = sizes.iter().map(|size| count_of(size.secrets)).collect();
    let mut table =
        Table::new(&[&["secrets"][..], &heads.iter().map(String::as_str).collect::<Vec<_>>()].concat());
    let Some(first) = sizes.first() else { return table };
    for (index, (what, _)) in first.facts.iter().enumerate() {
        let figures = sizes.iter().map(|size| size.facts[index].1.clone());
        table.line([(*what).to_owned()].into_iter().chain(figures));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_is_held_against_the_smallest() {
        let size = |secrets, p50, cpu| Size {
            secrets,
            costs: vec![("create", Cost { p50, p99: 9.0, cpu })],
            facts: vec![("database, MiB", "7".to_owned())],
        };
        let sizes = [size(10_000, 100.0, 10.0), size(100_000, 1.0, 1.0), size(1_000_000, 125.0, 30.0)];
        let table = costs(&sizes).to_string();
        let line = table.lines().last().expect("a line");
        let cells: Vec<_> = line.split('|').map(str::trim).filter(|cell| !cell.is_empty()).collect();
        assert_eq!(
            cells,
            ["create", "100", "9.0", "10.0", "1.0", "9.0", "1.0", "125", "9.0", "30.0", "1.25", "3.00"]
        );
        assert!(facts(&sizes).to_string().contains("| database, MiB |"));
        assert!(costs(&[]).to_string().contains("ratio"));
    }

    #[test]
    fn an_owner_has_a_hundred_secrets_at_every_size() {
        assert_eq!((owner(0), owner(99 / EACH), owner(100 / EACH)), (owner(0), owner(0), owner(1)));
    }
}
