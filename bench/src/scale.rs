//! `scale`: the cost of a request in stores of 10,000, 100,000 and 1,000,000 secrets, a hundred for each owner.
//!
//! The latencies are those of one caller at a time, so that no request waits for another. *Hot* reads are cache hits.
//! *Cold* reads are sent to a server whose cache holds next to nothing, and go to the database each time (whose pages
//! may be in the page cache). Creations and rotations are few compared with the size of the store.
//!
//! There is a store of each size. Each round measures all of them, every other round backwards, and a figure is the
//! median of the rounds. So a drift of the machine does not look like an effect of the size.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::fill::{REALM, TAG, fill, name};
use crate::load::{Session, Source, Until, scramble};
use crate::operation::{About, Api, Caller, Operation};
use crate::process::size_of;
use crate::report::{Table, count, micros};
use crate::result::median;
use crate::run::{about, lacks_postgres};
use crate::subject::{Data, Postgres, Programs, Server, Setting, settle};

/// Secrets of one owner.
const EACH: u64 = 100;
/// Owners that have a key, and list and rotate.
const KEYS: u64 = 8;
/// The smallest cache that can be set. It holds next to nothing.
const NO_CACHE: &[&str] = &["--cache-size", "1KiB"];

/// The options of `scale`.
#[derive(clap::Args)]
pub(crate) struct ScaleOptions {
    /// Secrets in the stores, in ascending order, separated by commas.
    #[arg(long, value_delimiter = ',', default_values_t = [10_000, 100_000, 1_000_000])]
    sizes: Vec<u64>,
    /// Only this engine.
    #[arg(long, value_parser = ["sqlite", "postgres"])]
    engine: Option<String>,
    /// Calls of each kind and round; ten times as many reads.
    #[arg(long, default_value_t = 1_000)]
    calls: u64,
    /// How often each store is measured.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
}

/// The cost of a request.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    /// Microseconds of latency: the median, and p99.
    p50: f64,
    p99: f64,
    /// Microseconds of processor time, the database's included.
    cpu: f64,
}

/// The cost of a store of one size.
struct Size {
    secrets: u64,
    costs: Vec<(&'static str, Cost)>,
    /// Further figures, by name.
    facts: Vec<(&'static str, f64)>,
}

impl Size {
    /// The median of the rounds with one store, figure by figure.
    fn middle(rounds: &[Self]) -> Self {
        let middle = |figure: &dyn Fn(&Self) -> f64| median(rounds.iter().map(figure).collect());
        let cost = |index: usize| Cost {
            p50: middle(&|size| size.costs[index].1.p50),
            p99: middle(&|size| size.costs[index].1.p99),
            cpu: middle(&|size| size.costs[index].1.cpu),
        };
        let first = &rounds[0];
        let costs = first.costs.iter().enumerate().map(|(index, (what, _))| (*what, cost(index)));
        let fact = |index: usize| middle(&|size| size.facts[index].1);
        let facts = first.facts.iter().enumerate().map(|(index, (what, _))| (*what, fact(index)));
        Self { secrets: first.secrets, costs: costs.collect(), facts: facts.collect() }
    }
}

/// A store of one size.
struct Store {
    data: Data,
    /// Keys of its first owners.
    keys: Vec<String>,
    secrets: u64,
    /// Secrets created per second.
    filled: f64,
}

/// Measures, and writes a table for each engine.
///
/// # Errors
/// When a server does not start, or refuses a request.
pub(crate) fn run(
    scratch: &Path,
    programs: &Programs,
    options: &ScaleOptions,
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
        let sizes = measure(scratch, programs, options, postgres.as_ref())?;
        text.push_str(&format!("\n### {engine}\n\n{}\n{}", costs(&sizes), facts(&sizes)));
    }
    Ok(text)
}

/// A store of each size, measured in turn.
fn measure(
    scratch: &Path,
    programs: &Programs,
    options: &ScaleOptions,
    postgres: Option<&Postgres>,
) -> Result<Vec<Size>> {
    let stores = options.sizes.iter().map(|&secrets| filled(scratch, programs, secrets, postgres));
    let stores = stores.collect::<Result<Vec<Store>>>()?;
    let mut found: Vec<Vec<Size>> = stores.iter().map(|_| Vec::new()).collect();
    for round in 0..options.rounds {
        let mut turn: Vec<usize> = (0..stores.len()).collect();
        if round % 2 == 1 {
            turn.reverse();
        }
        for index in turn {
            let store = &stores[index];
            let bench = Bench { scratch, programs, store, postgres, calls: options.calls, round };
            let size = bench.measure().with_context(|| format!("{} secrets", store.secrets))?;
            found[index].push(size);
        }
        eprintln!("  round {} of {}", round + 1, options.rounds);
    }
    Ok(found.iter().map(|rounds| Size::middle(rounds)).collect())
}

fn filled(scratch: &Path, programs: &Programs, secrets: u64, postgres: Option<&Postgres>) -> Result<Store> {
    let engine = if postgres.is_some() { "scale_pg" } else { "scale" };
    let data = Data::new(scratch, &format!("{engine}_{secrets}"), postgres)?;
    let server = Server::start(scratch, programs, &data, &Setting::default())?;
    let took = fill(&server, 0, secrets, |number| owner(number / EACH))?;
    #[expect(clippy::cast_precision_loss, reason = "a count of secrets fits a double")]
    let filled = secrets as f64 / took.as_secs_f64();
    eprintln!("  {} secrets, {}/s", count_of(secrets), count(filled));
    let keys = (0..KEYS).map(|user| server.issue_key(programs, &owner(user))).collect::<Result<_>>()?;
    server.process.stop()?;
    if let (Some(postgres), Some((_, database))) = (postgres, &data.database) {
        postgres.settle(database)?;
    }
    Ok(Store { data, keys, secrets, filled })
}

fn owner(number: u64) -> String {
    format!("user-{number:05}")
}

/// A store of one size, ready to be measured.
struct Bench<'a> {
    scratch: &'a Path,
    programs: &'a Programs,
    store: &'a Store,
    postgres: Option<&'a Postgres>,
    calls: u64,
    round: u64,
}

impl Bench<'_> {
    fn measure(&self) -> Result<Size> {
        let mut costs = vec![("value, cold", self.cold()?)];
        let server = self.start(&[])?;
        let ready = server.ready_in;
        #[expect(clippy::cast_precision_loss, reason = "a count of MiB fits a double")]
        let mib = |bytes: u64| (bytes >> 20) as f64;
        settle();
        let memory_ready = server.process.usage().memory;
        let (calls, secrets) = (self.calls, self.store.secrets);
        for (what, number, mut source) in [
            ("value, hot", 10 * calls, self.values(&server, 1_000)),
            ("list 50", calls, self.lists(&server, None)),
            ("list by tag", calls, self.lists(&server, Some(TAG))),
            ("create", calls, creations(&server, self.round)),
            ("rotate", calls, self.rotations(&server)),
        ] {
            costs.push((what, self.cost(&server, &mut source, number)?));
        }
        // All secrets pass through the cache.
        let mut all = self.values(&server, secrets);
        let target = server.target(Api::Rest, Operation::Value);
        Session::open_to(&target, 32)?.closed(&mut all, Until::Time(Duration::from_secs(5)))?;
        let memory_read = server.process.usage().memory;
        server.process.stop()?;
        let data = &self.store.data;
        let database = match (self.postgres, &data.database) {
            (Some(postgres), Some((_, name))) => postgres.size(name)?,
            _ => size_of(&data.dir) - size_of(&data.dir.join("audit")),
        };
        let facts = vec![
            ("start to ready, ms", ready.as_secs_f64() * 1e3),
            ("memory when ready, MiB", mib(memory_ready)),
            ("memory after reads of all, MiB", mib(memory_read)),
            ("database, MiB", mib(database)),
            ("filled, secrets/s", self.store.filled),
        ];
        Ok(Size { secrets, costs, facts })
    }

    fn start(&self, options: &[&str]) -> Result<Server> {
        let options = options.iter().map(|&option| option.to_owned()).collect();
        Server::start(
            self.scratch,
            self.programs,
            &self.store.data,
            &Setting { options, ..Setting::default() },
        )
    }

    fn cold(&self) -> Result<Cost> {
        let server = self.start(NO_CACHE)?;
        let cost = self.cost(&server, &mut self.values(&server, self.store.secrets), 10 * self.calls)?;
        server.process.stop()?;
        Ok(cost)
    }

    /// Sends that many requests, one after the other, after a tenth of that as a warm-up.
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

    /// Random reads of the first so many secrets.
    fn values(&self, server: &Server, among: u64) -> Source {
        let (caller, among) = (server.caller.clone(), among.min(self.store.secrets));
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
        self.store.keys.iter().map(as_one).collect()
    }
}

fn creations(server: &Server, round: u64) -> Source {
    let caller = server.caller.clone();
    Source::made(move |number| {
        let name = format!("new-{round}-{number}");
        caller.request(Api::Rest, Operation::Create, About { user: "", realm: REALM, ..about(&name) })
    })
}

fn count_of(secrets: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a count of secrets fits a double")]
    count(secrets as f64)
}

/// Each kind of request by size, and the ratio of the largest store's cost to the smallest's.
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

/// The other figures of each size.
fn facts(sizes: &[Size]) -> Table {
    let heads: Vec<_> = sizes.iter().map(|size| count_of(size.secrets)).collect();
    let mut table =
        Table::new(&[&["secrets"][..], &heads.iter().map(String::as_str).collect::<Vec<_>>()].concat());
    let Some(first) = sizes.first() else { return table };
    for (index, (what, _)) in first.facts.iter().enumerate() {
        let figure = |figure: f64| if what.ends_with(" ms") { micros(figure) } else { count(figure) };
        let figures = sizes.iter().map(|size| figure(size.facts[index].1));
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
            facts: vec![("database, MiB", 7.0), ("start to ready, ms", 6.5)],
        };
        let sizes = [size(10_000, 100.0, 10.0), size(100_000, 1.0, 1.0), size(1_000_000, 125.0, 30.0)];
        let table = costs(&sizes).to_string();
        let line = table.lines().last().expect("a line");
        let cells: Vec<_> = line.split('|').map(str::trim).filter(|cell| !cell.is_empty()).collect();
        assert_eq!(
            cells,
            ["create", "100", "9.0", "10.0", "1.0", "9.0", "1.0", "125", "9.0", "30.0", "1.25", "3.00"]
        );
        let table = facts(&sizes).to_string();
        assert!(table.contains("| database, MiB      |      7 |") && table.contains("|    6.5 |"), "{table}");
        assert!(costs(&[]).to_string().contains("ratio"));
    }

    #[test]
    fn a_figure_is_the_median_of_its_rounds() {
        let round = |p50, cpu, ready| Size {
            secrets: 10_000,
            costs: vec![("list 50", Cost { p50, p99: 2.0 * p50, cpu })],
            facts: vec![("start to ready, ms", ready)],
        };
        let middle = Size::middle(&[round(100.0, 7.0, 9.0), round(90.0, 8.0, 6.0), round(300.0, 6.0, 7.0)]);
        let (what, Cost { p50, p99, cpu }) = middle.costs[0];
        assert_eq!((what, p50, p99, cpu), ("list 50", 100.0, 200.0, 7.0));
        assert_eq!((middle.secrets, middle.facts), (10_000, vec![("start to ready, ms", 7.0)]));
    }

    #[test]
    fn an_owner_has_a_hundred_secrets_at_every_size() {
        assert_eq!((owner(0), owner(99 / EACH), owner(100 / EACH)), (owner(0), owner(0), owner(1)));
    }
}
