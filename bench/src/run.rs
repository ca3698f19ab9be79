//! `run`: every case, round by round.
//!
//! All servers run at once, on one core, and only one of them receives requests at a time. A round runs all cases
//! before the next round begins, and every other round runs backwards, so that a change of the machine's speed favours
//! no case.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::case::{Case, Engine, Setup};
use crate::fill::{ADMIN, REALM, VALUE, fill, name};
use crate::load::{Draw, Endpoint, Pace, Request, Session, Source, Until};
use crate::operation::{About, Api, Operation};
use crate::process::Usage;
use crate::result::{Footing, Percentiles, Round, Row, Run, median};
use crate::subject::{Certificate, Data, Nginx, Postgres, Programs, Server, Setting, Toy, settle};

/// Concurrent requests.
const CONCURRENCY: usize = 32;
/// The warm-up before each closed loop.
const WARM_UP: Duration = Duration::from_millis(300);
/// The number of measured starts.
const STARTS: usize = 5;
/// Secrets of other owners, in a store of a million.
const OTHERS: u64 = 990_000;
/// The number of those owners.
const OWNERS: u64 = 9_900;

/// The plan of a run.
pub(crate) struct Plan {
    pub(crate) cases: Vec<Case>,
    pub(crate) seconds: f64,
    pub(crate) rounds: usize,
    /// Secrets of the caller, in every store.
    pub(crate) secrets: u64,
}

/// All running programs.
struct Subjects<'a> {
    scratch: &'a Path,
    programs: &'a Programs,
    secrets: u64,
    certificate: Certificate,
    postgres: Option<Postgres>,
    seeds: BTreeMap<(Engine, bool), Data>,
    nginx: BTreeMap<bool, Nginx>,
    toy: Option<Toy>,
    servers: BTreeMap<Setup, Server>,
}

/// Measures the plan's cases.
///
/// # Errors
/// When a program cannot be started, or does not respond as expected.
pub(crate) fn run(scratch: &Path, programs: &Programs, plan: &Plan, machine: Vec<String>) -> Result<Run> {
    let mut run =
        Run { machine, seconds: plan.seconds, footings: Vec::new(), rows: Vec::new(), missing: Vec::new() };
    let mut cases = plan.cases.clone();
    if let Some(why) = lacks_postgres(programs) {
        let of_postgres =
            |case: &Case| matches!(case, Case::Server { setup, .. } if setup.engine == Engine::Postgres);
        if cases.iter().any(of_postgres) {
            run.missing.push(why);
        }
        cases.retain(|case| !of_postgres(case));
    }
    let mut subjects = Subjects::build(scratch, programs, &cases, plan.secrets)?;
    run.footings = subjects.footings(&cases)?;
    subjects.start(&cases)?;
    for &case in &cases {
        subjects.control(case).with_context(|| format!("{case} does not respond as expected"))?;
    }
    run.rows = cases.iter().map(|case| Row::new(*case)).collect();
    for number in 0..plan.rounds {
        let mut order: Vec<_> = (0..cases.len()).collect();
        if number % 2 == 1 {
            order.reverse();
        }
        for index in order {
            let time = Duration::from_secs_f64(plan.seconds);
            let round =
                subjects.measure(cases[index], number, time).with_context(|| cases[index].to_string())?;
            eprintln!(
                "  {}/{} {:<28} {:>8.0}/s {:>7.1} µs",
                number + 1,
                plan.rounds,
                cases[index].to_string(),
                round.rate,
                round.cpu
            );
            run.rows[index].rounds.push(round);
        }
    }
    Ok(run)
}

/// Runs the cases on the servers, each for `time`, and stops the servers in order, so that an instrumented one writes
/// its profile.
///
/// # Errors
/// When a program cannot be started, or does not respond as expected.
pub(crate) fn train(scratch: &Path, programs: &Programs, cases: &[Case], time: Duration) -> Result<()> {
    /// Enough to give the cache and the B-tree some depth.
    const SECRETS: u64 = 2000;
    let mut subjects = Subjects::build(scratch, programs, cases, SECRETS)?;
    subjects.start(cases)?;
    for &case in cases {
        subjects.control(case).with_context(|| format!("{case} does not respond as expected"))?;
        let round = subjects.measure(case, 0, time).with_context(|| case.to_string())?;
        eprintln!("  {:<28} {:>8.0}/s", case.to_string(), round.rate);
    }
    subjects.servers.into_values().try_for_each(|server| server.process.stop())
}

/// Why PostgreSQL is not measured, if it is not.
pub(crate) fn lacks_postgres(programs: &Programs) -> Option<String> {
    if !Server::has_option(programs, "--database-url") {
        return Some("PostgreSQL: this server has no `--database-url`".to_owned());
    }
    (!Postgres::is_installed()).then(|| "PostgreSQL: Debian's package `postgresql` is missing".to_owned())
}

impl<'a> Subjects<'a> {
    /// Fills one store of each kind that the cases need.
    fn build(scratch: &'a Path, programs: &'a Programs, cases: &[Case], secrets: u64) -> Result<Self> {
        let setups: Vec<_> = setups(cases).collect();
        let postgres = setups.iter().any(|setup| setup.engine == Engine::Postgres);
        let postgres = postgres.then(|| Postgres::start(scratch)).transpose()?;
        let mut subjects = Self {
            scratch,
            programs,
            secrets,
            certificate: Certificate::make(scratch)?,
            postgres,
            seeds: BTreeMap::new(),
            nginx: BTreeMap::new(),
            toy: None,
            servers: BTreeMap::new(),
        };
        // The plain store always exists: nginx serves one of its responses, and the toy gets its key.
        let kinds = setups.iter().map(|setup| (setup.engine, setup.million));
        for kind in kinds.chain([(Engine::Sqlite, false)]) {
            if !subjects.seeds.contains_key(&kind) {
                let seed = subjects.seed(kind)?;
                subjects.seeds.insert(kind, seed);
            }
        }
        Ok(subjects)
    }

    fn database(&self, engine: Engine) -> Option<&Postgres> {
        self.postgres.as_ref().filter(|_| engine == Engine::Postgres)
    }

    fn seed(&self, (engine, million): (Engine, bool)) -> Result<Data> {
        let setup = Setup { engine, million, fsync: false, tls: false };
        let data = Data::new(self.scratch, &format!("seed-{setup}"), self.database(engine))?;
        let server = Server::start(self.scratch, self.programs, &data, &Setting::default())?;
        let mut took = fill(&server, 0, self.secrets, |_| ADMIN.to_owned())?;
        if million {
            took += fill(&server, self.secrets, OTHERS, |number| format!("user-{:04}", number % OWNERS))?;
        }
        eprintln!("  filled {setup} in {:.1} s", took.as_secs_f64());
        server.process.stop()?;
        if let (Some(postgres), Some((_, database))) = (&self.postgres, &data.database) {
            postgres.settle(database)?;
        }
        Ok(data)
    }

    fn plain(&self) -> Result<&Data> {
        self.seeds.get(&(Engine::Sqlite, false)).context("the plain store was filled")
    }

    fn start_nginx(&self, tls: bool, body: &[u8]) -> Result<Nginx> {
        let name = if tls { "nginx-tls" } else { "nginx" };
        Nginx::start(self.scratch, name, body, tls.then_some(&self.certificate))
    }

    fn start_toy(&self) -> Result<Toy> {
        Toy::start(self.scratch, self.programs, &self.plain()?.key()?, about(&name(0)))
    }

    /// Measures the start and the memory of nginx, the toy, and the server over each engine, with 10,000 secrets.
    fn footings(&self, cases: &[Case]) -> Result<Vec<Footing>> {
        let mut footings = Vec::new();
        let body = vec![b'x'; 400];
        footings.push(footing("nginx", || {
            let nginx = self.start_nginx(false, &body)?;
            let source = Source::set(vec![nginx.request("ak-x")], Draw::InOrder);
            Ok((nginx.ready_in, nginx.target.clone(), source, Box::new(move || nginx.process.usage())))
        })?);
        if cases.contains(&Case::Toy) {
            footings.push(footing("toy", || {
                let toy = self.start_toy()?;
                let source = Source::set(vec![toy.request.clone()], Draw::InOrder);
                Ok((toy.ready_in, toy.target.clone(), source, Box::new(move || toy.process.usage())))
            })?);
        }
        for ((engine, million), seed) in &self.seeds {
            let setup = Setup { engine: *engine, million: *million, fsync: false, tls: false };
            let data = seed.copy(self.scratch, &format!("footing-{setup}"), self.database(*engine))?;
            footings.push(footing(&format!("server.{setup}"), || {
                let server = Server::start(self.scratch, self.programs, &data, &Setting::default())?;
                let target = server.target(Api::Rest, Operation::Value);
                let source = values(&server, Api::Rest, self.secrets);
                Ok((server.ready_in, target, source, Box::new(move || server.process.usage())))
            })?);
        }
        Ok(footings)
    }

    /// Starts all programs that the cases need, each on a copy of its store.
    fn start(&mut self, cases: &[Case]) -> Result<()> {
        for setup in setups(cases) {
            if self.servers.contains_key(&setup) {
                continue;
            }
            let seed = &self.seeds[&(setup.engine, setup.million)];
            let data = seed.copy(self.scratch, &format!("data-{setup}"), self.database(setup.engine))?;
            let mut setting =
                Setting { tls: setup.tls.then(|| self.certificate.clone()), ..Setting::default() };
            if setup.fsync {
                setting.options.extend(["--audit-sync".to_owned(), "fsync".to_owned()]);
            }
            let server = Server::start(self.scratch, self.programs, &data, &setting)?;
            self.servers.insert(setup, server);
        }
        let body = self.response_body()?;
        for case in cases {
            match case {
                Case::Nginx { tls } => drop(self.nginx.insert(*tls, self.start_nginx(*tls, &body)?)),
                Case::Toy => self.toy = Some(self.start_toy()?),
                Case::Server { .. } => {}
            }
        }
        Ok(())
    }

    /// The body of a plain response, for nginx to serve.
    fn response_body(&self) -> Result<Vec<u8>> {
        let data = self.plain()?;
        // The seed has no server. All servers would send the same response.
        let server = Server::start(self.scratch, self.programs, data, &Setting::default())?;
        let request = server.caller.request(Api::Rest, Operation::Value, about(&name(0)));
        let body = crate::load::body(&server.target(Api::Rest, Operation::Value), &request)?;
        server.process.stop()?;
        Ok(body)
    }

    fn server(&self, setup: Setup) -> Result<&Server> {
        self.servers.get(&setup).context("its server was started")
    }

    /// The target and the requests of a case. `round` keeps the names of new secrets distinct.
    fn load(&self, case: Case, round: usize) -> Result<(Endpoint, Source, usize)> {
        Ok(match case {
            Case::Nginx { tls } => {
                let nginx = self.nginx.get(&tls).context("nginx was started")?;
                (nginx.target.clone(), one(nginx.request(&self.plain()?.key()?)), CONCURRENCY)
            }
            Case::Toy => {
                let toy = self.toy.as_ref().context("the toy was started")?;
                (toy.target.clone(), one(toy.request.clone()), CONCURRENCY)
            }
            Case::Server { api, operation, random, setup } => {
                let server = self.server(setup)?;
                let source = self.source(server, api, operation, random, round);
                (server.target(api, operation), source, CONCURRENCY / api.streams())
            }
        })
    }

    fn source(&self, server: &Server, api: Api, operation: Operation, random: bool, round: usize) -> Source {
        match operation {
            Operation::Value => values(server, api, if random { self.secrets } else { 1 }),
            Operation::List => one(server.caller.request(api, operation, about(""))),
            Operation::Rotate => each_of(server, api, operation, self.secrets),
            Operation::Create => creations(server, api, round),
        }
    }

    /// A first request must be served, and one for an absent secret must be refused. This detects a generator that
    /// counts every response as served.
    fn control(&self, case: Case) -> Result<()> {
        let (target, mut source, _) = self.load(case, 0)?;
        let mut session = Session::open_to(&target, 1)?;
        let tally = session.closed(&mut source, Until::Count(3))?;
        ensure!(tally.served == 3, "{} of 3 requests were served", tally.served);
        if let Case::Server {
            api,
            operation: operation @ (Operation::Value | Operation::Rotate),
            setup,
            ..
        } = case
        {
            let absent = self.server(setup)?.caller.request(api, operation, about("absent"));
            let tally = session.closed(&mut one(absent), Until::Count(3))?;
            ensure!(tally.failed == 3, "an absent secret was found");
        }
        Ok(())
    }

    /// The resources of a case's processes: all of them, and the database's.
    fn usage(&self, case: Case) -> Result<(Usage, Usage)> {
        let none = Usage::default();
        Ok(match case {
            Case::Nginx { tls } => (self.nginx.get(&tls).context("nginx was started")?.process.usage(), none),
            Case::Toy => (self.toy.as_ref().context("the toy was started")?.process.usage(), none),
            Case::Server { setup, .. } => {
                let database = self.database(setup.engine).map(|postgres| postgres.process.usage());
                (self.server(setup)?.process.usage(), database.unwrap_or(none))
            }
        })
    }

    /// The closed loop, then the open one at half of its rate.
    fn measure(&self, case: Case, round: usize, time: Duration) -> Result<Round> {
        let (target, mut source, connections) = self.load(case, round)?;
        let mut session = Session::open_to(&target, connections)?;
        session.closed(&mut source, Until::Time(WARM_UP))?;
        let (before, database_before) = self.usage(case)?;
        let closed = session.closed(&mut source, Until::Time(time))?;
        let (after, database_after) = self.usage(case)?;
        let each = |time: Duration| time.as_secs_f64() * 1e6 / (closed.rate() * closed.time.as_secs_f64());
        let database_cpu = each(database_after.cpu.saturating_sub(database_before.cpu));
        let pace = Pace { rate: closed.rate() / 2.0, time, patience: None };
        let half = session.open(&mut source, pace)?;
        Ok(Round {
            rate: closed.rate(),
            cpu: each(after.cpu.saturating_sub(before.cpu)) + database_cpu,
            database_cpu,
            closed: Percentiles::from(&closed),
            half: Percentiles::from(&half),
            unserved: closed.shed + closed.failed + half.shed + half.failed,
        })
    }
}

type Started = (Duration, Endpoint, Source, Box<dyn Fn() -> Usage>);

/// Starts a program several times, and measures the last one's memory before and after a second of requests.
fn footing(name: &str, start: impl Fn() -> Result<Started>) -> Result<Footing> {
    let mut times = Vec::new();
    for _ in 1..STARTS {
        times.push(start()?.0.as_secs_f64() * 1e3);
    }
    let (ready_in, target, mut source, usage) = start()?;
    times.push(ready_in.as_secs_f64() * 1e3);
    settle();
    #[expect(clippy::cast_precision_loss, reason = "a size in memory fits a double")]
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let memory_ready = mib(usage().memory);
    Session::open_to(&target, CONCURRENCY)?.closed(&mut source, Until::Time(Duration::from_secs(1)))?;
    let memory_read = mib(usage().memory);
    Ok(Footing { name: name.to_owned(), ready: median(times), memory_ready, memory_read })
}

fn setups(cases: &[Case]) -> impl Iterator<Item = Setup> + '_ {
    cases.iter().filter_map(|case| match case {
        Case::Server { setup, .. } => Some(*setup),
        _ => None,
    })
}

fn one(request: Request) -> Source {
    Source::set(vec![request], Draw::InOrder)
}

pub(crate) fn about(name: &str) -> About<'_> {
    About { name, realm: REALM, user: ADMIN, value: VALUE, tag: None, page_size: 50 }
}

/// Random reads of that many secrets.
fn values(server: &Server, api: Api, among: u64) -> Source {
    each_of(server, api, Operation::Value, among)
}

fn each_of(server: &Server, api: Api, operation: Operation, among: u64) -> Source {
    let request = |number| server.caller.request(api, operation, about(&name(number)));
    Source::set((0..among).map(request).collect(), Draw::AtRandom)
}

/// Creations of names that are in no other load. They use another realm, so that the list keeps its length.
fn creations(server: &Server, api: Api, round: usize) -> Source {
    let caller = server.caller.clone();
    Source::made(move |number| {
        let name = format!("new-{}-{round}-{number}", api.name());
        caller.request(api, Operation::Create, About { realm: "new", user: "", ..about(&name) })
    })
}
