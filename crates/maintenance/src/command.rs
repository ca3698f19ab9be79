//! The commands `backup`, `restore`, `migrate` and `doctor`: their flags, and their output.

use std::fs::File;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use agentrouter_instance::Advised;
use agentrouter_instance::kek;
use agentrouter_instance::settings::{KekProvider, KekSettings, Settings};
use agentrouter_instance::storage::{self, has_password};
use agentrouter_instance::terminal::{data, done, error, hint, note, require_output, warning};
use agentrouter_model::Timestamp;
use agentrouter_store::portable::LeftOut;
use anyhow::{Context as _, ensure};
use clap::{Args, Subcommand};

use crate::backup::{self, Made};
use crate::verify::{Contents, examine};
use crate::{doctor, interrupt, kek_move, migrate, restore};

/// Write the contents of the store to a file; the server may be running
///
/// The file contains everything except the KEK file and the audit log. Values are sealed, and API keys are hashed.
/// Without the KEK file it is useless, so store the two apart. An existing file is not overwritten.
#[derive(Args)]
#[command(subcommand_negates_reqs = true)]
pub struct Backup {
    /// The new file, 0600; '.partial' is added to its name until it is complete. '-' is standard output
    #[arg(value_name = "FILE", required = true)]
    file: Option<PathBuf>,
    #[command(subcommand)]
    verify: Option<BackupCommand>,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Subcommand)]
enum BackupCommand {
    /// Check that a backup is complete; with the KEK file also that it is unchanged and that its values open
    Verify {
        /// The backup
        #[arg(value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        settings: Settings,
    },
}

/// Fill an empty store from a backup
///
/// The data directory is new, or its store is empty. Put the KEK file of the backup in place first. To continue an
/// interrupted restore, run it again with the same file. Until it is complete, the store cannot be served. What was
/// deleted or revoked after the backup is restored, too. Page tokens from before the restore are rejected.
#[derive(Args)]
pub struct Restore {
    /// The backup
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[allow(missing_docs, reason = "clap would take the comment for the command's")]
    #[command(flatten)]
    pub settings: Settings,
}

/// Copy a store that no server serves into an empty one
///
/// The old store is not changed. Both are compared before the new one can be served. To continue an interrupted
/// migration, run it again. The KEK file and the audit log stay in the data directory.
#[derive(Args)]
pub struct Migrate {
    /// The store to move from, such as sqlite:///var/lib/agentrouter-secrets/secrets.db
    #[arg(long, value_name = "URL")]
    from: String,
    /// The store to move to
    #[arg(long, value_name = "URL")]
    to: String,
    #[allow(missing_docs, reason = "clap would take the comment for the command's")]
    #[command(flatten)]
    pub settings: Settings,
}

/// Wrap the KEKs by another root key; no row of the store changes
///
/// The settings name the present root key, and the flags the new one. The KEKs and their ids stay, so a running server and
/// backups are not affected. Set kek.provider to the new one before the next start of a server, and copy the KEK file to
/// the other servers on the same database.
#[derive(Args)]
pub struct KekMove {
    /// The new provider; file writes the KEKs in clear
    #[arg(long, value_name = "NAME")]
    to: KekProvider,
    /// As kek.key, for the new provider
    #[arg(long, value_name = "KEY")]
    to_key: Option<String>,
    /// As kek.socket, for the new provider
    #[arg(long, value_name = "PATH")]
    to_socket: Option<PathBuf>,
    /// As kek.endpoint, for the new provider
    #[arg(long, value_name = "URL")]
    to_endpoint: Option<String>,
    /// As kek.passphrase-file, for the new provider
    #[arg(long, value_name = "FILE")]
    to_passphrase_file: Option<PathBuf>,
    /// As kek.passphrase-fd, for the new provider
    #[arg(long, value_name = "NUMBER")]
    to_passphrase_fd: Option<u32>,
    #[allow(missing_docs, reason = "clap would take the comment for the command's")]
    #[command(flatten)]
    pub settings: Settings,
}

/// Check the data directory and the store without changing them; print what is wrong and what to do
#[derive(Args)]
pub struct Doctor {
    #[allow(missing_docs, reason = "clap would take the comment for the command's")]
    #[command(flatten)]
    pub settings: Settings,
}

impl Backup {
    /// The settings of the command that was given.
    pub fn settings_mut(&mut self) -> &mut Settings {
        match &mut self.verify {
            Some(BackupCommand::Verify { settings, .. }) => settings,
            None => &mut self.settings,
        }
    }

    /// Writes a backup, or verifies one.
    ///
    /// # Errors
    /// As `crate::backup` and `crate::verify`.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match (self.verify, self.file) {
            (Some(BackupCommand::Verify { file, settings }), _) => verify_backup(&settings, &file),
            (None, Some(file)) => make_backup(&self.settings, &file),
            (None, None) => anyhow::bail!("name the file to write"),
        }
    }
}

impl Restore {
    /// Restores the backup.
    ///
    /// # Errors
    /// As `crate::restore`.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let Self { file, settings } = self;
        let contents = runtime()?.block_on(restore::restore(&settings, &file))?;
        done(&format!("restored into {}: {}", settings.data_dir.display(), summary(&contents)));
        if let Some(seq) = contents.audit_seq {
            note(&format!("the audit log had at least {seq} records when the backup was made"));
        }
        note("what was deleted or revoked since then is back: look into the audit log, and do so again");
        Ok(unopened(&contents))
    }
}

impl Migrate {
    /// Migrates the store.
    ///
    /// # Errors
    /// As `crate::migrate`.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let Self { from, to, settings } = self;
        for (flag, url) in [("--from", &from), ("--to", &to)] {
            if has_password(url) {
                warning(&format!(
                    "other users of this machine can read the password in {flag}; give it by --database-password-file or PGPASSWORD"
                ));
            }
        }
        let moved = runtime()?.block_on(migrate::migrate(&settings, &from, &to))?;
        done(&format!(
            "moved and compared: {} secret(s) in {} version(s), {} API key(s)",
            moved.secrets, moved.versions, moved.api_keys
        ));
        if moved.before > 0 {
            note(&format!("{} items were there already, from a move that was interrupted", moved.before));
        }
        note(
            "the old store is as it was; serve the new one, and remove the old one when you need it no longer",
        );
        Ok(ExitCode::SUCCESS)
    }
}

impl KekMove {
    /// Moves the KEKs.
    ///
    /// # Errors
    /// As `crate::kek_move`.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let Self { to, to_key, to_socket, to_endpoint, to_passphrase_file, to_passphrase_fd, settings } =
            self;
        let target = KekSettings {
            provider: to,
            key: to_key,
            socket: to_socket,
            endpoint: to_endpoint,
            passphrase_file: to_passphrase_file,
            passphrase_fd: to_passphrase_fd,
            ..settings.kek.clone()
        };
        let keyring = runtime()?.block_on(kek_move::relocate(&settings, &target))?;
        let (count, to) = (keyring.ids().len(), to.as_str());
        done(&match target.provider.has_root() {
            true => format!("{count} KEK(s) are wrapped by the root key of '{to}'"),
            false => format!("{count} KEK(s) are in clear"),
        });
        note(&format!(
            "set kek.provider to '{to}', and restart the server: until then it uses the KEKs that it has, does not notice a denial of either root key, and refuses to change its KEKs"
        ));
        if target.provider.has_root() {
            note("copies of the earlier KEK file still open every value: remove them");
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Doctor {
    /// Examines the instance and prints the findings. `tls` is the result of loading the certificate and key that the
    /// settings name, if they name any, and when the certificate expires: TLS is the server's.
    ///
    /// # Errors
    /// When the runtime cannot start or standard output cannot be written.
    pub fn run(self, tls: Option<anyhow::Result<Option<Timestamp>>>) -> anyhow::Result<ExitCode> {
        doctor::run(&self.settings, tls)
    }
}

fn make_backup(settings: &Settings, path: &Path) -> anyhow::Result<ExitCode> {
    storage::require_directory(settings)?;
    storage::require_store(settings)?;
    let is_output = path == Path::new("-");
    if is_output {
        require_output("the backup")?;
        ensure!(
            !std::io::stdout().is_terminal(),
            Advised::new("a backup is not written to a terminal", "redirect standard output, or name a file")
        );
    }
    let runtime = runtime()?;
    let make = |path: &Path| {
        runtime.block_on(async {
            interrupt::catch()?;
            backup::make(settings, path).await
        })
    };
    let Made { contents, left_out, lacks_keys } = if is_output {
        // Complete and read back before the first byte is written. The directory is removed in any case.
        let folder = tempfile::tempdir().context("a temporary directory cannot be made")?;
        let file = folder.path().join("backup");
        let made = make(&file)?;
        let mut out = std::io::stdout().lock();
        std::io::copy(&mut File::open(&file)?, &mut out)
            .and_then(|_| out.flush())
            .context("the backup cannot be written to standard output")?;
        note(&format!("standard output: {}", summary(&made.contents)));
        made
    } else {
        let made = make(path)?;
        done(&format!("{}: {}", path.display(), summary(&made.contents)));
        made
    };
    note("keep it apart from the KEK file, without which it is of no use");
    let mut code = unopened(&contents);
    if left_out.count > 0 {
        let named = left_out.named.join(", ");
        error(&format!("{} damaged row(s) of the store are not in the backup: {named}", left_out.count));
        hint(
            "the backup contains everything else; run 'doctor' to examine the store, and delete the damaged secret",
        );
        code = ExitCode::FAILURE;
    }
    if lacks_keys {
        error("the store has API keys, and none is in the backup, because none is authentic");
        hint(
            "run 'doctor' to examine the key manifest; docs/operations.md says what to do about an older one",
        );
        code = ExitCode::FAILURE;
    }
    Ok(code)
}

fn verify_backup(settings: &Settings, path: &Path) -> anyhow::Result<ExitCode> {
    let kek_file = settings.kek_file();
    let keyring = if kek_file.exists() { Some(kek::load(settings)?) } else { None };
    let contents = examine(path, keyring.as_ref())?;
    let verdict = if keyring.is_some() { "complete and authentic" } else { "complete" };
    data(&format!("{}: {verdict}; {}\n", path.display(), summary(&contents)))?;
    if keyring.is_none() {
        let keks: Vec<String> = contents.keks.iter().map(|id| format!("'{id}'")).collect();
        note(&format!(
            "a deliberate change is found with the KEK file only, which is missing: give the one with {} with --kek-file",
            keks.join(", ")
        ));
    }
    Ok(unopened(&contents))
}

fn summary(contents: &Contents) -> String {
    format!(
        "{} secret(s) in {} version(s), {} API key(s), made at {} by {}",
        contents.secrets, contents.versions, contents.api_keys, contents.created_at, contents.program
    )
}

/// Reports the values that do not open, if any. That is a fault of the store. The backup has the values as they are.
fn unopened(contents: &Contents) -> ExitCode {
    let LeftOut { count, named } = &contents.unopened;
    if *count == 0 {
        return ExitCode::SUCCESS;
    }
    error(&format!("{count} version(s) do not open with the KEK file: {}", named.join(", ")));
    hint("run 'doctor' to examine the store; rotate each version that does not open to a new value");
    ExitCode::FAILURE
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()
}
