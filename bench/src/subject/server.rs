//! The measured server, with any of its settings.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use super::{Certificate, Postgres, Programs, free_address, get, log, ready};
use crate::load::{Endpoint, Wire};
use crate::operation::{Api, Caller, Operation};
use crate::process::{Process, server_core};

/// The data of a server.
#[derive(Clone, Debug)]
pub(crate) struct Data {
    /// Its `--data-dir`.
    pub(crate) dir: PathBuf,
    /// Its `--database-url`, and the database's name; none for SQLite.
    pub(crate) database: Option<(String, String)>,
}

impl Data {
    /// A new, empty store of that name.
    ///
    /// # Errors
    /// When the database cannot be made.
    pub(crate) fn new(scratch: &Path, name: &str, postgres: Option<&Postgres>) -> Result<Self> {
        Self::make(scratch, name, postgres, None)
    }

    /// A copy under another name. The server must not be running on it.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub(crate) fn copy(&self, scratch: &Path, name: &str, postgres: Option<&Postgres>) -> Result<Self> {
        let copy =
            Self::make(scratch, name, postgres, self.database.as_ref().map(|(_, from)| from.as_str()))?;
        copy_folder(&self.dir, &copy.dir)?;
        Ok(copy)
    }

    fn make(scratch: &Path, name: &str, postgres: Option<&Postgres>, from: Option<&str>) -> Result<Self> {
        let database = match postgres {
            None => None,
            Some(postgres) => {
                let database = name.replace(['-', '.'], "_");
                postgres.create(&database, from)?;
                Some((postgres.url(&database), database))
            }
        };
        Ok(Self { dir: scratch.join(name), database })
    }

    /// The first key, with `ak-`.
    ///
    /// # Errors
    /// When there is no key: no server has been started on it.
    pub(crate) fn key(&self) -> Result<String> {
        let text = std::fs::read_to_string(self.dir.join("bootstrap.env"))?;
        let key = text.lines().find_map(|line| line.strip_prefix("AGENTROUTER_API_KEY="));
        Ok(format!("ak-{}", key.context("bootstrap.env has no key")?))
    }
}

/// A copy of a folder of files and folders; sockets are left out.
fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir(to)?;
    std::fs::set_permissions(to, std::fs::metadata(from)?.permissions())?;
    for entry in std::fs::read_dir(from)? {
        let (path, kind) = { entry.map(|entry| (entry.path(), entry.file_type()))? };
        let there = to.join(path.file_name().context("an entry has a name")?);
        let kind = kind?;
        if kind.is_dir() {
            copy_folder(&path, &there)?;
        } else if kind.is_file() {
            std::fs::copy(&path, &there)?;
        }
    }
    Ok(())
}

/// How a server is started.
#[derive(Clone, Debug, Default)]
pub(crate) struct Setting {
    /// Further options of `serve`.
    pub(crate) options: Vec<String>,
    /// Turns TLS on.
    pub(crate) tls: Option<Certificate>,
    /// The cores it may use; none for the server's one.
    pub(crate) cores: Vec<usize>,
}

/// A running server.
pub(crate) struct Server {
    pub(crate) process: Process,
    pub(crate) caller: Caller,
    pub(crate) data: Data,
    tls: Option<Certificate>,
    /// The time from its start to its first `200` of `/readyz`.
    pub(crate) ready_in: Duration,
}

impl Server {
    /// Starts another server on the database of `first`, with the same KEK and first key.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) fn start_replica(
        scratch: &Path,
        programs: &Programs,
        first: &Data,
        name: &str,
    ) -> Result<Self> {
        let dir = scratch.join(name);
        std::fs::create_dir(&dir)?;
        std::fs::set_permissions(&dir, std::fs::metadata(&first.dir)?.permissions())?;
        for file in ["kek.json", "bootstrap.env"] {
            std::fs::copy(first.dir.join(file), dir.join(file)).with_context(|| file.to_owned())?;
        }
        Self::start(scratch, programs, &Data { dir, ..first.clone() }, &Setting::default())
    }

    /// Starts a server.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) fn start(scratch: &Path, programs: &Programs, data: &Data, setting: &Setting) -> Result<Self> {
        let address = free_address()?;
        let mut command = Command::new(&programs.server);
        command.args(["serve", "--log-level", "warn", "--listen", &address.to_string(), "--data-dir"]);
        command.arg(&data.dir).args(&setting.options);
        if let Some((url, _)) = &data.database {
            command.args(["--database-url", url]);
        }
        if let Some(Certificate { cert, key, .. }) = &setting.tls {
            command.arg("--tls-cert").arg(cert).arg("--tls-key").arg(key);
        }
        let name = data.dir.file_name().context("a data directory has a name")?.to_string_lossy();
        let said = log(scratch, &name)?;
        command.stdout(said.try_clone()?).stderr(said);
        let one = [server_core()];
        let cores = if setting.cores.is_empty() { &one[..] } else { &setting.cores };
        let start = Instant::now();
        // It is stopped in order: after a kill, the next server on the store waits to see whether the killed one still runs.
        let mut process = Process::start_on(cores, &mut command)?.ended_by(Signal::TERM);
        let trusted = setting.tls.as_ref().map(|certificate| certificate.trusted.clone());
        let target = Endpoint { address, tls: trusted, wire: Wire::Http1 };
        let ready_in = ready(&mut process, start, &target, get("/readyz", address))?;
        let caller = Caller { address, key: data.key()? };
        Ok(Self { process, caller, data: data.clone(), tls: setting.tls.clone(), ready_in })
    }

    /// Whether `serve` has this option. An older server may not.
    pub(crate) fn has_option(programs: &Programs, option: &str) -> bool {
        let help = Command::new(&programs.server).args(["serve", "--help"]).output();
        help.is_ok_and(|help| String::from_utf8_lossy(&help.stdout).contains(option))
    }

    /// The address and protocol of a server under load of this operation over this API.
    pub(crate) fn target(&self, api: Api, operation: Operation) -> Endpoint {
        Endpoint {
            address: self.caller.address,
            tls: self.tls.as_ref().map(|certificate| certificate.trusted.clone()),
            wire: self.caller.wire(api, operation),
        }
    }

    /// Issues a key of another user, with all scopes; with `ak-`.
    ///
    /// # Errors
    /// When the command fails.
    pub(crate) fn issue_key(&self, programs: &Programs, user: &str) -> Result<String> {
        let scopes = "secrets/read,secrets/write,secrets/read/internal";
        let mut command = Command::new(&programs.server);
        command.args(["key", "create", "--user", user, "--scopes", scopes, "--data-dir"]).arg(&self.data.dir);
        let output = command.output()?;
        ensure!(output.status.success(), "no key: {}", String::from_utf8_lossy(&output.stderr).trim());
        let text = String::from_utf8(output.stdout)?;
        let key = text.trim().strip_prefix("AGENTROUTER_API_KEY=").context("the command prints a key")?;
        Ok(format!("ak-{key}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_of_data_has_its_files_and_folders_and_no_sockets() {
        let scratch = tempfile::tempdir().expect("a folder");
        let data = Data::new(scratch.path(), "one", None).expect("a place");
        std::fs::create_dir_all(data.dir.join("audit")).expect("a folder");
        std::fs::write(data.dir.join("audit/audit.jsonl"), "x").expect("a file");
        std::fs::write(data.dir.join("bootstrap.env"), "A=1\nAGENTROUTER_API_KEY=secret\n").expect("a file");
        let _socket = std::os::unix::net::UnixListener::bind(data.dir.join("admin.sock")).expect("a socket");
        let copy = data.copy(scratch.path(), "two", None).expect("a copy");
        assert_eq!(copy.key().expect("a key"), "ak-secret");
        assert!(copy.dir.join("audit/audit.jsonl").is_file() && !copy.dir.join("admin.sock").exists());
    }
}
