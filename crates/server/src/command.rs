//! The command line: its commands, and their output. Data goes to standard output, all else to standard error.

mod keks;
mod key_list;
mod new_key;

use std::ffi::OsString;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use agentrouter_instance::admin::{self, Request, Response};
use agentrouter_instance::hint;
use agentrouter_instance::instance::{EarlierClock, MissingStore};
use agentrouter_instance::settings::{self, Settings};
use agentrouter_instance::terminal::{self, data, done, error, note};
use agentrouter_maintenance::command::{Backup, Doctor, KekMove, Migrate, Restore};
use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};

use crate::meter::ProgressMeter;
use crate::probe::HealthCheck;
use crate::serve;
use crate::telemetry::{self, Log};
use crate::tls::Tls;

/// The secret store of an LLM gateway: one binary, one port
#[derive(Parser)]
#[command(name = "agentrouter-secrets", version, subcommand_required = true, arg_required_else_help = true)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
#[expect(clippy::large_enum_variant, reason = "a process has one")]
enum Command {
    /// Serve the API; sets everything up on the first start
    Serve(Serve),
    /// Issue, list and revoke API keys
    #[command(subcommand)]
    Key(KeyCommand),
    /// Change the KEKs and where they are, and wrap all keys with another one
    #[command(subcommand)]
    Kek(KekCommand),
    /// Verify the audit log, remove its oldest files, sign checkpoints
    #[command(subcommand)]
    Audit(AuditCommand),
    Health(HealthCheck),
    Doctor(Doctor),
    Backup(Backup),
    Restore(Restore),
    Migrate(Migrate),
}

#[derive(Args)]
struct Serve {
    /// Start with an empty store in a data directory whose store is lost; its audit log and bootstrap.env are kept aside
    #[arg(long)]
    new_store: bool,
    /// Start with the machine's clock although it is behind the last audit record, which was written while it was wrong
    #[arg(long)]
    accept_clock: bool,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Subcommand)]
#[command(subcommand_required = true, arg_required_else_help = true)]
enum KeyCommand {
    /// Issue an API key and print it, once
    Create(KeyCreate),
    /// List all keys ever issued, without their secret part
    List {
        /// Print a JSON array for programs
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        settings: Settings,
    },
    /// Revoke a key; it stops working at once
    Revoke {
        /// The key's id, as listed
        #[arg(value_name = "ID")]
        id: String,
        #[command(flatten)]
        settings: Settings,
    },
}

#[derive(Args)]
struct KeyCreate {
    /// The key's user; 'system' for the service itself
    #[arg(long, value_name = "USER")]
    user: String,
    /// Comma-separated: secrets/read, secrets/write, secrets/read/internal, secrets/write/internal
    #[arg(long, value_name = "LIST")]
    scopes: String,
    /// Realm of requests that name none [default: default, or the first of --realms]
    #[arg(long, value_name = "REALM")]
    realm: Option<String>,
    /// Comma-separated realms that the key is limited to [default: all]
    #[arg(long, value_name = "LIST")]
    realms: Option<String>,
    /// Time until the key stops working, such as 90d [default: never]
    #[arg(long, value_name = "DURATION", value_parser = settings::lifetime)]
    expires: Option<Duration>,
    /// A label for people [default: none]
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    name: String,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Subcommand)]
#[command(subcommand_required = true, arg_required_else_help = true)]
enum KekCommand {
    /// List the KEKs, their states and how many keys each wraps
    List {
        #[command(flatten)]
        settings: Settings,
    },
    /// Add a KEK to the KEK file; it wraps nothing until it is activated
    Add {
        #[command(flatten)]
        settings: Settings,
    },
    /// Wrap new keys with another KEK, which every running server must have
    Activate {
        /// The KEK's id, as listed [default: the newest]
        #[arg(value_name = "ID")]
        id: Option<String>,
        #[command(flatten)]
        settings: Settings,
    },
    /// Wrap every stored key with the active KEK; a run that was interrupted is continued
    Rewrap(Rewrap),
    /// Remove a KEK that nothing needs from the KEK file
    Retire {
        /// The KEK's id, as listed
        #[arg(value_name = "ID")]
        id: String,
        /// The age at which you delete backups; the KEK must have wrapped nothing for that time
        #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, default_value = "30d")]
        backup_retention: Duration,
        #[command(flatten)]
        settings: Settings,
    },
    /// Add a KEK, activate it and wrap every stored key with it; a rotation that was interrupted is continued
    Rotate(Rewrap),
    Move(KekMove),
}

#[derive(Args)]
struct Rewrap {
    /// Most keys in a second [default: no limit]
    #[arg(long, value_name = "N", value_parser = rate)]
    rate: Option<NonZeroU32>,
    /// Also seal every value again under a new DEK, after a KEK has leaked
    #[arg(long)]
    reseal: bool,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Subcommand)]
#[command(subcommand_required = true, arg_required_else_help = true)]
enum AuditCommand {
    /// Check the whole chain of the audit log
    Verify {
        /// File with a checkpoint that was kept elsewhere; the log is compared with it
        #[arg(long, value_name = "FILE")]
        checkpoint: Option<PathBuf>,
        #[command(flatten)]
        settings: Settings,
    },
    /// Remove the oldest files of the audit log, and leave a signed note that says so
    Prune {
        /// Age of the newest record of a file that is removed, such as 90d
        #[arg(long, value_name = "DURATION", value_parser = settings::lifetime)]
        older_than: Duration,
        /// Remove files that have problems, too; the note has their number
        #[arg(long)]
        accept_problems: bool,
        #[command(flatten)]
        settings: Settings,
    },
    /// Print a signed checkpoint of the audit log, to be kept on another host
    Checkpoint {
        #[command(flatten)]
        settings: Settings,
    },
}

impl AsMut<Settings> for CommandLine {
    fn as_mut(&mut self) -> &mut Settings {
        match &mut self.command {
            Command::Serve(Serve { settings, .. })
            | Command::Key(
                KeyCommand::Create(KeyCreate { settings, .. })
                | KeyCommand::List { settings, .. }
                | KeyCommand::Revoke { settings, .. },
            )
            | Command::Kek(
                KekCommand::List { settings }
                | KekCommand::Add { settings }
                | KekCommand::Activate { settings, .. }
                | KekCommand::Rewrap(Rewrap { settings, .. })
                | KekCommand::Retire { settings, .. }
                | KekCommand::Rotate(Rewrap { settings, .. })
                | KekCommand::Move(KekMove { settings, .. }),
            )
            | Command::Audit(
                AuditCommand::Verify { settings, .. }
                | AuditCommand::Prune { settings, .. }
                | AuditCommand::Checkpoint { settings },
            )
            | Command::Health(HealthCheck { settings, .. })
            | Command::Doctor(Doctor { settings })
            | Command::Restore(Restore { settings, .. })
            | Command::Migrate(Migrate { settings, .. }) => settings,
            Command::Backup(backup) => backup.settings_mut(),
        }
    }
}

/// Parses a command line, runs its command and reports its failure.
pub(crate) fn run(line: &[OsString]) -> ExitCode {
    let mut line = match settings::parse::<CommandLine>(line) {
        Ok(line) => line,
        Err(failure) => match failure.downcast::<clap::Error>() {
            // Help and version, too: the error has its stream and its exit code.
            Ok(usage) => usage.exit(),
            Err(failure) => return report(&failure),
        },
    };
    let log = match telemetry::start(line.as_mut()) {
        Ok(log) => log,
        Err(failure) => return report(&anyhow::Error::from(failure).context("cannot start the log")),
    };
    let result = line.command.run(&log);
    // The failure is the last line.
    drop(log);
    result.unwrap_or_else(|failure| report(&failure))
}

impl Command {
    fn run(self, log: &Log) -> anyhow::Result<ExitCode> {
        match self {
            Self::Serve(Serve { new_store, accept_clock, settings }) => {
                let missing = if new_store { MissingStore::Replace } else { MissingStore::Refuse };
                let earlier = if accept_clock { EarlierClock::Accept } else { EarlierClock::RunOn };
                serve::run(&settings, missing, earlier, log.clone()).map(|()| ExitCode::SUCCESS)
            }
            Self::Key(KeyCommand::Create(KeyCreate {
                user,
                scopes,
                realm,
                realms,
                expires,
                name,
                settings,
            })) => {
                let expires_seconds = expires.map(|expires| expires.as_secs());
                let request = Request::KeyCreate { user, scopes, realm, realms, expires_seconds, name };
                new_key::create(&settings, request)
            }
            Self::Key(KeyCommand::List { json: false, settings }) => administer(&settings, Request::KeyList),
            Self::Key(KeyCommand::List { json: true, settings }) => match ask(&settings, Request::KeyList)? {
                Response::Keys { keys } => {
                    data(&key_list::json(&keys))?;
                    Ok(ExitCode::SUCCESS)
                }
                response => print(response),
            },
            Self::Key(KeyCommand::Revoke { id, settings }) => {
                administer(&settings, Request::KeyRevoke { id })
            }
            Self::Kek(command) => command.run(),
            Self::Health(health) => health.run(),
            Self::Audit(AuditCommand::Verify { checkpoint, settings }) => {
                let checkpoint = checkpoint.map(|path| read_checkpoint(&path)).transpose()?;
                administer(&settings, Request::AuditVerify { checkpoint })
            }
            Self::Audit(AuditCommand::Prune { older_than, accept_problems, settings }) => {
                let older_than_seconds = older_than.as_secs();
                administer(&settings, Request::AuditPrune { older_than_seconds, accept_problems })
            }
            Self::Audit(AuditCommand::Checkpoint { settings }) => {
                administer(&settings, Request::AuditCheckpoint)
            }
            Self::Doctor(doctor) => {
                let tls = doctor.settings.tls();
                let tls = tls.map(|(cert, key)| Tls::load(cert, key, None).map(|tls| tls.expires()));
                doctor.run(tls)
            }
            Self::Backup(backup) => backup.run(),
            Self::Restore(restore) => restore.run(),
            Self::Migrate(migrate) => migrate.run(),
        }
    }
}

impl KekCommand {
    fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::List { settings } => administer(&settings, Request::KekList),
            Self::Add { settings } => administer(&settings, Request::KekAdd),
            Self::Activate { id, settings } => administer(&settings, Request::KekActivate { id }),
            Self::Rewrap(Rewrap { rate, reseal, settings }) => {
                administer(&settings, Request::KekRewrap { rate, reseal })
            }
            Self::Retire { id, backup_retention, settings } => {
                let backup_retention_seconds = backup_retention.as_secs();
                administer(&settings, Request::KekRetire { id, backup_retention_seconds })
            }
            Self::Rotate(Rewrap { rate, reseal, settings }) => {
                administer(&settings, Request::KekRotate { rate, reseal })
            }
            Self::Move(relocation) => relocation.run(),
        }
    }
}

/// Parses a number of keys in a second.
fn rate(text: &str) -> Result<NonZeroU32, &'static str> {
    text.parse().map_err(|_| "must be a whole number from 1 to 4294967295; without it there is no limit")
}

/// The checkpoint in a file.
fn read_checkpoint(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("the checkpoint {} cannot be read", path.display()))
}

/// Has the running server execute a command, or executes it in this process if no server runs. Prints the response.
fn administer(settings: &Settings, request: Request) -> anyhow::Result<ExitCode> {
    print(ask(settings, request)?)
}

fn ask(settings: &Settings, request: Request) -> anyhow::Result<Response> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let counts_keys = matches!(request, Request::KekRewrap { .. } | Request::KekRotate { .. });
    let mut meter = if counts_keys { ProgressMeter::of_keys() } else { ProgressMeter::default() };
    let response = runtime.block_on(admin::administer(settings, request, &mut |done| meter.show(done)));
    meter.clear();
    response
}

fn print(response: Response) -> anyhow::Result<ExitCode> {
    match response {
        // `new_key` and `health` use these, and `administer` the progress.
        Response::KeyCreated { .. }
        | Response::Recorded
        | Response::Addresses { .. }
        | Response::State { .. }
        | Response::Progress { .. }
        | Response::Working => {}
        Response::Keys { keys } => data(&key_list::table(&keys))?,
        Response::KeyRevoked { id } => done(&format!("key {id} is revoked")),
        Response::AuditVerified { records, files, torn, problems, pruned, pruned_problems, holds } => {
            let mut text: String = problems.iter().map(|problem| format!("{problem}\n")).collect();
            if torn > 0 {
                text.push_str(&format!("{torn} write(s) that a crash cut off are accounted for\n"));
            }
            if pruned > 0 {
                text.push_str(&format!(
                    "records 1 to {pruned} were removed by 'audit prune', as its signed note says\n"
                ));
            }
            if pruned_problems > 0 {
                text.push_str(&format!("the removed files had {pruned_problems} problem(s)\n"));
            }
            if let Some(covered) = holds {
                text.push_str(&format!("the checkpoint holds: it covers {covered} record(s)\n"));
            }
            let verdict = match problems.len() {
                0 => "the chain is whole".to_owned(),
                count => format!("{count} problem(s)"),
            };
            text.push_str(&format!("{records} records in {files} file(s): {verdict}\n"));
            data(&text)?;
            if !problems.is_empty() {
                return Ok(ExitCode::FAILURE);
            }
        }
        Response::AuditPruned { files, last, unshipped } => {
            done(&match files {
                0 => "no full file is old enough".to_owned(),
                _ => format!("{files} file(s) are removed; the audit log begins after record {last}"),
            });
            if unshipped {
                note(
                    "older files stay until their records are shipped; without audit.otlp-endpoint, remove audit/shipped",
                );
            }
        }
        Response::AuditCheckpoint { note: checkpoint, verifier_key } => {
            data(&checkpoint)?;
            note(&format!("verifier key: {verifier_key}"));
        }
        Response::Keks { keks } => {
            data(&keks::table(&keks))?;
            keks::note_lacking(&keks);
        }
        Response::KekAdded { id } => {
            done(&format!("KEK {id} is added; it wraps nothing until 'kek activate'"));
            note(
                "copy the KEK file to every other server on the same database, and keep a copy of it apart from the backups",
            );
        }
        Response::KekActivated { id, warning } => {
            done(&format!("KEK {id} is active; 'kek rewrap' wraps the stored keys with it"));
            if let Some(text) = warning {
                terminal::warning(&text);
            }
        }
        Response::KekRewrapped { rotated, active, rewrapped, resealed, failed, named } => {
            return Ok(keks::rewrapped(rotated.as_ref(), &active, (rewrapped, resealed), failed, &named));
        }
        Response::KekRetired { id } => {
            done(&format!("KEK {id} is retired: the KEK file no longer has it"));
            note("the copies of the KEK file, also those on other servers, still have it");
        }
        Response::Refused { message, hint: what_to_do } => {
            error(&message);
            if let Some(what_to_do) = what_to_do {
                terminal::hint(&what_to_do);
            }
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Rows in columns as wide as their widest cell.
fn columns<const N: usize>(rows: &[[&str; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |row: &[&str; N]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

/// Prints a failure with its causes and hints.
fn report(failure: &anyhow::Error) -> ExitCode {
    error(&hint::text(&**failure));
    hint::of(&**failure).iter().for_each(|what_to_do| terminal::hint(what_to_do));
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        settings::command::<CommandLine>().debug_assert();
    }
}
