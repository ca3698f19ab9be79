//! Debian's PostgreSQL for the server: a cluster in the scratch folder, with durable commits.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::{free_address, log};
use crate::process::Process;

/// The user that runs it if this process is root, because it refuses to run as root.
const USER: &str = "postgres";
/// Debian's folder of the programs, by version.
const HOME: &str = "/usr/lib/postgresql";

/// A running PostgreSQL.
pub(crate) struct Postgres {
    pub(crate) process: Process,
    home: PathBuf,
    socket: PathBuf,
    port: u16,
}

impl Postgres {
    /// Whether it is installed.
    pub(crate) fn is_installed() -> bool {
        home().is_some()
    }

    /// Makes a cluster and starts it.
    ///
    /// # Errors
    /// When it is not installed or does not start.
    pub(crate) fn start(scratch: &Path) -> Result<Self> {
        let home = home().context("PostgreSQL is missing; install Debian's package `postgresql`")?;
        let folder = scratch.join("postgres");
        std::fs::create_dir(&folder)?;
        if is_root() {
            run(Command::new("chown").arg(USER).arg(&folder))?;
        }
        let cluster = folder.join("cluster");
        let initdb = home.join("initdb");
        run(as_user(&initdb)
            .args(["--auth", "trust", "--username", USER, "--encoding", "UTF8", "--locale", "C"])
            .arg("--pgdata")
            .arg(&cluster))?;
        let port = free_address()?.port();
        let mut command = as_user(&home.join("postgres"));
        command.arg("-D").arg(&cluster).arg("-k").arg(&folder).args(["-h", "127.0.0.1"]);
        command.args(["-p", &port.to_string(), "-c", "max_connections=300", "-c", "shared_buffers=256MB"]);
        command.args(["-c", "max_wal_size=4GB"]);
        let process = Process::start(command.stderr(log(scratch, "postgres")?))?;
        let mut postgres = Self { process, home, socket: folder, port };
        let start = Instant::now();
        while postgres.execute("postgres", "SELECT 1").is_err() {
            ensure!(postgres.process.is_alive(), "PostgreSQL ended while it was starting");
            ensure!(start.elapsed() < Duration::from_secs(60), "PostgreSQL did not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(postgres)
    }

    /// Makes a database, a copy of another if one is named.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn create(&self, name: &str, copy_of: Option<&str>) -> Result<()> {
        let template = copy_of.map(|from| format!(" TEMPLATE {from}")).unwrap_or_default();
        self.execute("postgres", &format!("CREATE DATABASE {name}{template}")).map(drop)
    }

    /// The URL of a database.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/{database}", self.port)
    }

    /// The bytes of a database.
    ///
    /// # Errors
    /// When the query fails.
    pub(crate) fn size(&self, database: &str) -> Result<u64> {
        let output = self.execute("postgres", &format!("SELECT pg_database_size('{database}')"))?;
        Ok(output.trim().parse()?)
    }

    /// Updates the statistics and writes all dirty pages, so that no measurement includes the cost of the load before
    /// it.
    ///
    /// # Errors
    /// When a command fails.
    pub(crate) fn settle(&self, database: &str) -> Result<()> {
        self.execute(database, "VACUUM ANALYZE")?;
        self.execute("postgres", "CHECKPOINT").map(drop)
    }

    fn execute(&self, database: &str, statement: &str) -> Result<String> {
        let port = self.port.to_string();
        let mut command = Command::new(self.home.join("psql"));
        command.args(["-qtAX", "-v", "ON_ERROR_STOP=1", "-U", USER, "-p", &port, "-d", database]);
        let output = command.arg("-h").arg(&self.socket).args(["-c", statement]).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(String::from_utf8(output.stdout)?)
    }
}

/// The folder of the newest installed version's programs.
fn home() -> Option<PathBuf> {
    let entries = std::fs::read_dir(HOME).ok()?.flatten().map(|entry| entry.path().join("bin"));
    entries.filter(|bin| bin.join("postgres").is_file()).max()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A command run as [`USER`] if this process is root.
fn as_user(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    // It replaces itself with the program, so that a signal reaches the program. `runuser` would stay in between.
    let mut command = Command::new("setpriv");
    command.arg(format!("--reuid={USER}")).arg(format!("--regid={USER}")).arg("--init-groups").arg(program);
    // That user may have no access to the current folder.
    command.current_dir("/");
    command
}

fn run(command: &mut Command) -> Result<()> {
    let output =
        command.output().with_context(|| format!("{:?} cannot be started", command.get_program()))?;
    if !output.status.success() {
        bail!("{:?}: {}", command.get_program(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
