//! The command line: what there is, what it prints. Data goes to standard output, all else to standard error.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use agentrouter_crypto::SystemRng;
use agentrouter_instance::admin::{self, Answer, Key, Request};
use agentrouter_instance::instance::{AUDIT, Instance, SOCKET};
use agentrouter_instance::settings::{self, Settings};
use agentrouter_instance::storage::{DATABASE, REPLICA};
use agentrouter_keyring::Keyring;
use agentrouter_maintenance::{self as maintenance, Contents, Made, doctor};
use agentrouter_postgres::Target;
use agentrouter_store::StoreError;
use agentrouter_store::portable::LeftOut;
use anyhow::Context as _;
use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::tls::Tls;
use crate::{serve, telemetry};

/// All commands.
pub(crate) fn command() -> Command {
    let serve = Command::new("serve").about("Serve the API; sets everything up on the first start");
    let doctor =
        Command::new("doctor").about("Open everything read-only and say what is wrong and what to do");
    let verify = Command::new("verify").about("Check the whole chain of the audit log");
    let audit = Command::new("audit")
        .about("Look after the audit log")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(settings::with_flags(verify, false));
    Command::new("agentrouter-secrets")
        .version(env!("CARGO_PKG_VERSION"))
        .about("The secret store of an LLM gateway: one binary, one port")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(settings::with_flags(serve, true))
        .subcommand(key_command())
        .subcommand(audit)
        .subcommand(settings::with_flags(doctor, false))
        .subcommand(backup_command())
        .subcommand(restore_command())
        .subcommand(migrate_command())
}

fn backup_command() -> Command {
    let file = || Arg::new("file").value_name("FILE");
    let verify = Command::new("verify")
        .about("Check that a backup is whole; with the KEK file also that nobody changed it and that its values open")
        .arg(file().required(true).help("The backup"));
    Command::new("backup")
        .about("Write all that is in the store to a file, beside a running server or without one")
        .long_about(
            "Write all that is in the store to a file, beside a running server or without one.\n\nThe file has everything \
             but the KEK file and the audit log: values sealed, API keys hashed. It is of no use without the KEK file, so \
             keep that elsewhere. An existing file is not overwritten.",
        )
        .arg(file().required(true).help("The new file, 0600; '.partial' is added to its name until it is whole"))
        .subcommand(settings::with_flags(verify, false))
        .subcommand_negates_reqs(true)
        .args(settings::flags(false))
}

fn restore_command() -> Command {
    let restore = Command::new("restore")
        .about("Fill an empty store from a backup")
        .long_about(
            "Fill an empty store from a backup: that of an empty or new data directory.\n\nThe KEK file that the values are \
             wrapped with has to be in place first. A restore that was interrupted goes on when it is run again with the \
             same file; until then the store cannot be served. What was deleted or revoked after the backup is back \
             afterwards, and page tokens of before are no longer taken.",
        )
        .arg(Arg::new("file").value_name("FILE").required(true).help("The backup"));
    settings::with_flags(restore, false)
}

fn migrate_command() -> Command {
    let url = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name("URL").required(true).help(help)
    };
    let migrate = Command::new("migrate")
        .about("Move all that is in a store that nobody serves into another, empty one")
        .long_about(
            "Move all that is in a store that nobody serves into another, empty one; the old one stays as it was.\n\nBoth are \
             compared before the new one can be served. A move that was interrupted goes on when it is run again. The KEK \
             file and the audit log stay in the data directory.",
        )
        .arg(url("from", "The store to move from, such as sqlite:///var/lib/agentrouter-secrets/secrets.db"))
        .arg(url("to", "The store to move to"));
    settings::with_flags(migrate, false)
}

fn key_command() -> Command {
    let option = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    let create = Command::new("create")
        .about("Issue an API key and print it, once")
        .arg(option("user", "USER", "Whose key it is; 'system' for the service itself").required(true))
        .arg(
            option(
                "scopes",
                "LIST",
                "Comma-separated: secrets/read, secrets/write, secrets/read/internal, secrets/write/internal",
            )
            .required(true),
        )
        .arg(option(
            "realm",
            "REALM",
            "Realm of requests that name none [default: default, or the first of --realms]",
        ))
        .arg(option("realms", "LIST", "Comma-separated realms that the key is limited to [default: all]"))
        .arg(option("expires", "DURATION", "When the key stops working, such as 90d [default: never]"))
        .arg(option("name", "NAME", "A label for people [default: none]"));
    let list = Command::new("list").about("List all keys ever issued, without their secret part");
    let revoke = Command::new("revoke").about("Revoke a key; it stops working at once").arg(
        Arg::new("id").value_name("ID").required(true).action(ArgAction::Set).help("The key's id, as listed"),
    );
    Command::new("key")
        .about("Issue, list and revoke API keys")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(settings::with_flags(create, false))
        .subcommand(settings::with_flags(list, false))
        .subcommand(settings::with_flags(revoke, false))
}

/// Runs the command that was given.
///
/// # Errors
/// What it cannot do, for people.
pub(crate) fn dispatch(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    match matches.subcommand() {
        Some(("serve", args)) => {
            let settings = start(args)?;
            serve::run(&settings).map(|()| ExitCode::SUCCESS)
        }
        Some(("doctor", args)) => {
            let settings = start(args)?;
            let tls = settings.tls.as_ref().map(|(cert, key)| Tls::load(cert, key).map(drop));
            doctor::run(&settings, tls)
        }
        Some(("backup", args)) => match args.subcommand() {
            Some((_, args)) => verify_backup(&start(args)?, &path(args)),
            None => make_backup(&start(args)?, &path(args)),
        },
        Some(("restore", args)) => restore(&start(args)?, &path(args)),
        Some(("migrate", args)) => migrate(&start(args)?, args),
        Some(("audit", args)) => match args.subcommand() {
            Some((_, args)) => administer(&start(args)?, Request::AuditVerify),
            None => Ok(ExitCode::from(2)),
        },
        Some(("key", args)) => match args.subcommand() {
            Some(("create", args)) => administer(&start(args)?, key_create(args)?),
            Some(("list", args)) => administer(&start(args)?, Request::KeyList),
            Some(("revoke", args)) => {
                let id = args.get_one::<String>("id").cloned().unwrap_or_default();
                administer(&start(args)?, Request::KeyRevoke { id })
            }
            _ => Ok(ExitCode::from(2)),
        },
        _ => Ok(ExitCode::from(2)),
    }
}

fn start(args: &ArgMatches) -> anyhow::Result<Settings> {
    let settings = settings::read(args)?;
    telemetry::start(&settings);
    Ok(settings)
}

fn key_create(args: &ArgMatches) -> anyhow::Result<Request> {
    let text = |name: &str| args.get_one::<String>(name).cloned();
    let expires_seconds = match text("expires") {
        None => None,
        Some(given) => match humantime::parse_duration(&given) {
            Ok(duration) if !duration.is_zero() => Some(duration.as_secs().max(1)),
            _ => anyhow::bail!("--expires must be a duration such as 12h or 90d"),
        },
    };
    Ok(Request::KeyCreate {
        user: text("user").unwrap_or_default(),
        scopes: text("scopes").unwrap_or_default(),
        realm: text("realm"),
        realms: text("realms"),
        expires_seconds,
        name: text("name").unwrap_or_default(),
    })
}

fn path(args: &ArgMatches) -> PathBuf {
    args.get_one::<String>("file").map(PathBuf::from).unwrap_or_default()
}

fn make_backup(settings: &Settings, path: &Path) -> anyhow::Result<ExitCode> {
    require_directory(settings)?;
    require_store(settings)?;
    let Made { contents, left_out } = runtime()?.block_on(maintenance::make(settings, path))?;
    writeln!(std::io::stdout().lock(), "{}: {}", path.display(), summary(&contents))?;
    note("keep it apart from the KEK file, without which it is of no use");
    let opened = unopened(&contents);
    if left_out.count == 0 {
        return Ok(opened);
    }
    let named = left_out.named.join(", ");
    say("error", &format!("{} damaged row(s) of the store are not in the backup: {named}", left_out.count));
    say(
        "hint",
        "the backup is good for all else; 'doctor' looks into the store, and a damaged secret can be deleted",
    );
    Ok(ExitCode::FAILURE)
}

fn verify_backup(settings: &Settings, path: &Path) -> anyhow::Result<ExitCode> {
    let keyring = if settings.kek_file.exists() { Some(Keyring::load(&settings.kek_file)?) } else { None };
    let contents = maintenance::examine(path, keyring.as_ref())?;
    let verdict = match keyring {
        Some(_) => "whole and authentic",
        None => "whole",
    };
    writeln!(std::io::stdout().lock(), "{}: {verdict}; {}", path.display(), summary(&contents))?;
    if keyring.is_none() {
        let keks: Vec<String> = contents.keks.iter().map(|id| format!("'{id}'")).collect();
        note(&format!(
            "whether somebody changed it on purpose shows with the KEK file, which is not there: name the one with {} with --kek-file",
            keks.join(", ")
        ));
    }
    Ok(unopened(&contents))
}

fn restore(settings: &Settings, path: &Path) -> anyhow::Result<ExitCode> {
    let contents = runtime()?.block_on(maintenance::restore(settings, path))?;
    writeln!(
        std::io::stdout().lock(),
        "restored into {}: {}",
        settings.data_dir.display(),
        summary(&contents)
    )?;
    if let Some(seq) = contents.audit_seq {
        note(&format!("the audit log had at least {seq} records when the backup was made"));
    }
    note("what was deleted or revoked since then is back: look into the audit log, and do so again");
    Ok(unopened(&contents))
}

fn migrate(settings: &Settings, args: &ArgMatches) -> anyhow::Result<ExitCode> {
    let url = |name: &str| args.get_one::<String>(name).cloned().unwrap_or_default();
    for flag in ["from", "to"] {
        if Target::has_password(&url(flag)) {
            say(
                "warning",
                &format!(
                    "other users of this machine can read the password in --{flag}; give it by --database-password-file or PGPASSWORD"
                ),
            );
        }
    }
    let moved = runtime()?.block_on(maintenance::migrate(settings, &url("from"), &url("to")))?;
    writeln!(
        std::io::stdout().lock(),
        "moved and compared: {} secret(s) in {} version(s), {} API key(s)",
        moved.secrets,
        moved.versions,
        moved.api_keys
    )?;
    if moved.before > 0 {
        note(&format!("{} items were there already, from a move that was interrupted", moved.before));
    }
    note("the old store is as it was; serve the new one, and remove the old one when you need it no longer");
    Ok(ExitCode::SUCCESS)
}

fn summary(contents: &Contents) -> String {
    format!(
        "{} secret(s) in {} version(s), {} API key(s), made at {} by {}",
        contents.secrets, contents.versions, contents.api_keys, contents.created_at, contents.program
    )
}

/// Says which values do not open, if any; that is a failure of what is in the store, and the backup has it as it is.
fn unopened(contents: &Contents) -> ExitCode {
    let LeftOut { count, named } = &contents.unopened;
    if *count == 0 {
        return ExitCode::SUCCESS;
    }
    say("error", &format!("{count} version(s) do not open with the KEK file: {}", named.join(", ")));
    say(
        "hint",
        "'doctor' looks into the store; a version that does not open has to be replaced by a new value",
    );
    ExitCode::FAILURE
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()
}

fn require_directory(settings: &Settings) -> anyhow::Result<()> {
    anyhow::ensure!(
        is_there(&settings.data_dir)?,
        "there is no data directory {}; name it with --data-dir, or make it with 'serve'",
        settings.data_dir.display()
    );
    Ok(())
}

fn require_store(settings: &Settings) -> anyhow::Result<()> {
    // On a database of many servers, the KEK file shows that this directory was set up.
    let there = match settings.database_url {
        Some(_) => is_there(&settings.kek_file)?,
        None => is_there(&settings.data_dir.join(DATABASE))?,
    };
    anyhow::ensure!(
        there || settings.database_url.is_some() || !is_there(&settings.data_dir.join(REPLICA))?,
        "{} is of a server whose store is in PostgreSQL; give --database-url as that server has it",
        settings.data_dir.display()
    );
    anyhow::ensure!(
        there,
        "there is no store in {}; name its directory with --data-dir, or make one with 'serve'",
        settings.data_dir.display()
    );
    Ok(())
}

/// Has a command executed by the running server, or by this process if there is none.
fn administer(settings: &Settings, request: Request) -> anyhow::Result<ExitCode> {
    require_directory(settings)?;
    let answer = runtime()?.block_on(async {
        if let Some(answer) = admin::send(&settings.data_dir, SOCKET, &request).await? {
            return anyhow::Ok(answer);
        }
        require_store(settings)?;
        let instance = Instance::open(settings).await.map_err(|error| out_of_reach(error, settings))?;
        let origin = admin::origin(&SystemRng);
        let answer =
            admin::execute(&instance.service, &settings.data_dir.join(AUDIT), &origin, request).await;
        instance.close().await;
        Ok(answer)
    })?;
    print(&answer)
}

/// Whether there is something at `path`.
///
/// # Errors
/// When that cannot be told, as with the directory of another user.
fn is_there(path: &Path) -> anyhow::Result<bool> {
    path.try_exists().with_context(|| {
        format!("{} cannot be looked at; run this as the user that the server runs as", path.display())
    })
}

/// Of a store that somebody serves whom no command reaches, what is to be done.
fn out_of_reach(error: anyhow::Error, settings: &Settings) -> anyhow::Error {
    match error.downcast_ref::<StoreError>() {
        Some(StoreError::InUse { holder }) => anyhow::anyhow!(
            "the store is in use by {holder}, and there is no socket {} to reach it by; if it is another command, \
             try again when that is done; if it is a server, its socket was removed, and a restart makes it anew",
            settings.data_dir.join(SOCKET).display()
        ),
        _ => error,
    }
}

fn print(answer: &Answer) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    match answer {
        Answer::KeyCreated { id, token } => {
            writeln!(out, "AGENTROUTER_API_KEY={token}")?;
            note(&format!("key {id} was issued; this is the only time it is shown"));
        }
        Answer::Keys { keys } => {
            out.write_all(table(keys).as_bytes())?;
        }
        Answer::KeyRevoked { id } => writeln!(out, "key {id} is revoked")?,
        Answer::AuditVerified { records, files, torn, problems } => {
            for problem in problems {
                writeln!(out, "{problem}")?;
            }
            if *torn > 0 {
                writeln!(out, "{torn} write(s) that a crash cut off are accounted for")?;
            }
            let verdict = if problems.is_empty() {
                "the chain is whole".to_owned()
            } else {
                format!("{} problem(s)", problems.len())
            };
            writeln!(out, "{records} records in {files} file(s): {verdict}")?;
            if !problems.is_empty() {
                return Ok(ExitCode::FAILURE);
            }
        }
        Answer::Recorded => {}
        Answer::Refused { message, hint } => {
            say("error", message);
            if let Some(hint) = hint {
                say("hint", hint);
            }
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The keys in columns as wide as their widest cell.
fn table(keys: &[Key]) -> String {
    let header =
        ["ID", "STATE", "USER", "SCOPES", "REALM", "REALMS", "CREATED", "EXPIRES", "NAME"].map(str::to_owned);
    let rows: Vec<[String; 9]> = std::iter::once(header)
        .chain(keys.iter().map(|key| {
            [
                &key.id,
                &key.state,
                &key.user,
                &key.scopes,
                &key.realm,
                &key.realms,
                &key.created,
                &key.expires,
                &key.name,
            ]
            .map(Clone::clone)
        }))
        .collect();
    let mut widths = [0; 9];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |row: &[String; 9]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

/// Says on standard error what went wrong, with its causes and what to do.
pub(crate) fn report(error: &anyhow::Error) {
    let causes: Vec<String> = error.chain().map(ToString::to_string).collect();
    say("error", &causes.join(": "));
}

/// Says something on standard error.
pub(crate) fn note(text: &str) {
    // Nobody may be listening; that is no reason to fail.
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn say(kind: &str, text: &str) {
    note(&format!("{kind}: {text}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }
}
