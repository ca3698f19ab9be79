//! `keks`: what a root key costs, and the rewrapping of a whole store while it serves reads.
//!
//! A server unwraps its KEKs once, at the start. So calls cost the same with any root key, and a start takes as long as the
//! root key needs to respond. Servers with each provider run at once, on one core, and one of them has work at a time. The
//! rounds go through them forwards and backwards, and a figure is the median of the rounds.
//!
//! The rewrapping runs while reads arrive at half of the saturated rate. What counts is how long it takes, and how many of
//! these reads are served meanwhile.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::fill::{ADMIN, fill, name};
use crate::load::{Draw, Pace, SLOT, Session, Source, Until};
use crate::operation::{About, Api, Operation};
use crate::report::{Table, count};
use crate::result::median;
use crate::run::about;
use crate::subject::{Data, Programs, Server, Setting};

/// Concurrent requests.
const CONCURRENCY: usize = 32;
/// The warm-up before each loop.
const WARM_UP: Duration = Duration::from_millis(300);
/// The number of measured starts.
const STARTS: usize = 5;
/// Keys of the service itself, which are rewrapped with those of the versions.
const OWN_KEYS: u64 = 2;

/// The options of `keks`.
#[derive(clap::Args)]
pub(crate) struct KeksOptions {
    /// Secrets in the stores whose calls are measured.
    #[arg(long, default_value_t = 10_000)]
    secrets: u64,
    /// Versions in the store that is rewrapped.
    #[arg(long, default_value_t = 100_000)]
    versions: u64,
    /// Seconds of each loop.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Measurements of each case.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Also measure a KMS plugin that serves on this socket.
    #[arg(long, value_name = "PATH")]
    plugin: Option<String>,
    /// Most seconds of the reads beside the rewrapping.
    #[arg(long, default_value_t = 30.0)]
    limit: f64,
}

/// A provider of the root key, with the options of a server that uses it.
struct Provider {
    name: &'static str,
    options: Vec<String>,
}

/// Measures, and writes a table of calls and starts, and one of the rewrapping.
///
/// # Errors
/// When a server does not start, or refuses a request.
pub(crate) fn run(scratch: &Path, programs: &Programs, options: &KeksOptions) -> Result<String> {
    let providers = providers(scratch, options.plugin.as_deref())?;
    let calls = calls(scratch, programs, options, &providers)?;
    let rewrapped = rewrapped(scratch, programs, options)?;
    Ok(format!("{calls}\n{rewrapped}"))
}

fn providers(scratch: &Path, plugin: Option<&str>) -> Result<Vec<Provider>> {
    let passphrase = scratch.join("passphrase");
    std::fs::write(&passphrase, "the passphrase of a benchmark\n")?;
    std::fs::set_permissions(&passphrase, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let option = |name: &str, value: &str| [format!("--kek-{name}"), value.to_owned()];
    let passphrase = option("passphrase-file", &passphrase.to_string_lossy());
    let mut providers = vec![
        Provider { name: "file", options: Vec::new() },
        Provider { name: "passphrase", options: [option("provider", "passphrase"), passphrase].concat() },
    ];
    if let Some(socket) = plugin {
        let options = [option("provider", "kms-plugin"), option("socket", socket)].concat();
        providers.push(Provider { name: "kms-plugin", options });
    }
    Ok(providers)
}

/// Rates of the calls, and times of the starts.
fn calls(
    scratch: &Path,
    programs: &Programs,
    options: &KeksOptions,
    providers: &[Provider],
) -> Result<Table> {
    let (mut servers, mut starts) = (Vec::new(), Vec::new());
    for provider in providers {
        let data = Data::new(scratch, &format!("kek-{}", provider.name), None)?;
        let setting = Setting { options: provider.options.clone(), ..Setting::default() };
        let server = Server::start(scratch, programs, &data, &setting)?;
        fill(&server, 0, options.secrets, |_| ADMIN.to_owned())?;
        server.process.stop()?;
        let mut times = Vec::new();
        for _ in 1..STARTS {
            let server = Server::start(scratch, programs, &data, &setting)?;
            times.push(server.ready_in.as_secs_f64() * 1e3);
            server.process.stop()?;
        }
        let server = Server::start(scratch, programs, &data, &setting)?;
        times.push(server.ready_in.as_secs_f64() * 1e3);
        servers.push(server);
        starts.push(median(times));
    }
    let operations = [Operation::Value, Operation::Create, Operation::Rotate];
    let mut rates = vec![vec![Vec::new(); providers.len()]; operations.len()];
    for round in 0..options.rounds {
        let mut turn: Vec<usize> = (0..providers.len()).collect();
        if round % 2 == 1 {
            turn.reverse();
        }
        for (row, &operation) in operations.iter().enumerate() {
            for &index in &turn {
                let server = &servers[index];
                let mut source = source(server, operation, options.secrets, round);
                let mut session = Session::open_to(&server.target(Api::Rest, operation), CONCURRENCY)?;
                session.closed(&mut source, Until::Time(WARM_UP))?;
                let tally =
                    session.closed(&mut source, Until::Time(Duration::from_secs_f64(options.seconds)))?;
                ensure!(tally.failed == 0, "{} requests failed", tally.failed);
                rates[row][index].push(tally.rate());
            }
        }
        eprintln!("  round {} of {}", round + 1, options.rounds);
    }
    let names: Vec<&str> = providers.iter().map(|provider| provider.name).collect();
    let ratios: Vec<String> = names[1..].iter().map(|name| format!("{name} ÷ file")).collect();
    let heads =
        [&["requests/s"][..], &names, &ratios.iter().map(String::as_str).collect::<Vec<_>>()].concat();
    let mut table = Table::new(&heads);
    for (operation, rates) in operations.iter().zip(rates) {
        table.line(line(operation.name(), rates, count));
    }
    let starts = starts.into_iter().map(|start| vec![start]).collect();
    table.line(line("start to ready, ms", starts, |ms| format!("{ms:.1}")));
    let derived = derive()?.as_secs_f64() * 1e3;
    let of_passphrase =
        |name: &&str| if *name == "passphrase" { format!("{derived:.1}") } else { "–".to_owned() };
    let cells = names.iter().map(of_passphrase).chain(ratios.iter().map(|_| String::new()));
    table.line(["the root's response, ms".to_owned()].into_iter().chain(cells));
    Ok(table)
}

/// A line of the medians, and the ratios of the rounds to those of the first provider.
fn line(what: &str, rounds: Vec<Vec<f64>>, shown: impl Fn(f64) -> String) -> Vec<String> {
    let first = rounds[0].clone();
    let ratio = |rounds: &Vec<f64>| {
        let ratios = rounds.iter().zip(&first).map(|(rate, first)| rate / first);
        format!("{:.2}", median(ratios.collect()))
    };
    let ratios: Vec<String> = rounds[1..].iter().map(ratio).collect();
    let medians = rounds.into_iter().map(|rounds| shown(median(rounds)));
    [what.to_owned()].into_iter().chain(medians).chain(ratios).collect()
}

fn source(server: &Server, operation: Operation, secrets: u64, round: usize) -> Source {
    let caller = server.caller.clone();
    match operation {
        Operation::Create => Source::made(move |number| {
            let name = format!("new-{round}-{number}");
            caller.request(Api::Rest, operation, About { realm: "new", user: "", ..about(&name) })
        }),
        _ => {
            let request = |number| caller.request(Api::Rest, operation, about(&name(number)));
            Source::set((0..secrets).map(request).collect(), Draw::AtRandom)
        }
    }
}

/// How long Argon2id takes with the cost that the server uses for new files, on the server's kind of core.
fn derive() -> Result<Duration> {
    let params =
        argon2::Params::new(64 * 1024, 3, 4, Some(32)).map_err(|error| anyhow::anyhow!("{error}"))?;
    let argon2 = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    let mut times = Vec::new();
    for _ in 0..STARTS {
        let (start, mut key) = (Instant::now(), [0; 32]);
        let derived = argon2.hash_password_into(b"the passphrase of a benchmark", &[7; 16], &mut key);
        derived.map_err(|error| anyhow::anyhow!("{error}"))?;
        times.push(start.elapsed().as_secs_f64());
    }
    Ok(Duration::from_secs_f64(median(times)))
}

/// `kek rotate` of a whole store, while reads arrive at half of the saturated rate.
fn rewrapped(scratch: &Path, programs: &Programs, options: &KeksOptions) -> Result<Table> {
    let data = Data::new(scratch, "rewrap", None)?;
    let server = Server::start(scratch, programs, &data, &Setting::default())?;
    fill(&server, 0, options.versions, |_| ADMIN.to_owned())?;
    let mut source = source(&server, Operation::Value, options.versions, 0);
    let mut session = Session::open_to(&server.target(Api::Rest, Operation::Value), CONCURRENCY)?;
    session.closed(&mut source, Until::Time(WARM_UP))?;
    let full = session.closed(&mut source, Until::Time(Duration::from_secs_f64(options.seconds)))?.rate();
    let pace = Pace { rate: full / 2.0, time: Duration::from_secs_f64(options.limit), patience: None };
    let start = Instant::now();
    let mut command = Command::new(&programs.server);
    command.args(["kek", "rotate", "--data-dir"]).arg(&data.dir);
    let rotating = std::thread::spawn(move || command.output().map(|output| (output, start.elapsed())));
    let tally = session.open(&mut source, pace)?;
    let (output, took) = rotating.join().ok().context("the thread ended")??;
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "kek rotate: {}", said.trim());
    let keys = options.versions + OWN_KEYS;
    ensure!(said.contains(&format!("{keys} key(s) were wrapped")), "kek rotate: {}", said.trim());
    ensure!(tally.failed == 0, "{} reads failed", tally.failed);
    server.process.stop()?;

    let slots = usize::try_from(took.as_nanos() / SLOT.as_nanos())?.clamp(1, tally.slots.len());
    let served: u64 = tally.slots[..slots].iter().map(|(served, _)| served).sum();
    #[expect(clippy::cast_precision_loss, reason = "a count of reads fits a double")]
    let rate = served as f64 / (SLOT.as_secs_f64() * slots as f64);
    let mut table = Table::new(&["rewrapping", ""]);
    #[expect(clippy::cast_precision_loss, reason = "a count of keys fits a double")]
    let each_second = keys as f64 / took.as_secs_f64();
    for (what, figure) in [
        ("keys", keys.to_string()),
        ("time, s", format!("{:.1}", took.as_secs_f64())),
        ("keys/s", count(each_second)),
        ("reads/s when saturated", count(full)),
        ("reads/s offered", count(pace.rate)),
        ("reads/s served meanwhile", count(rate)),
        ("share of the offered reads", format!("{:.0} %", 100.0 * rate / pace.rate)),
        ("reads shed", tally.shed.to_string()),
    ] {
        table.line([what.to_owned(), figure]);
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_the_median_of_those_of_the_rounds() {
        let cells =
            line("value", vec![vec![100.0, 50.0, 200.0], vec![99.0, 51.0, 100.0]], |rate| format!("{rate}"));
        assert_eq!(cells, ["value", "100", "99", "0.99"]);
    }
}
