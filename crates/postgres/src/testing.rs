//! A private PostgreSQL server for tests. Its directory is under `/tmp`. It listens on a free loopback port and on a
//! Unix socket, and it runs with fsync. It is removed when the test's process ends, even by SIGKILL.
//!
//! The binaries are those of the system's package (`cargo xtask test` installs it). PostgreSQL does not run as root:
//! there it runs as the user `postgres`. Connections over TCP or the socket are trusted, except those of the role
//! `keeper`, which needs the password [`PASSWORD`]. The default collation is not "C", so that what relies on "C" must
//! say so.
//!
//! A guard process (a shell) stops the server and removes the directory when its input ends. Its input ends with this
//! process.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// The password of the role `keeper`.
pub const PASSWORD: &str = "correct horse";

const GUARD: &str = r#"trap "" INT TERM HUP; cat > /dev/null
"$1" stop -s -m immediate -D "$2" > /dev/null 2>&1; rm -rf "$3""#;
const ACCESS: &str = "local all all trust\nhost all keeper 127.0.0.1/32 scram-sha-256\n\
    host replication all 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 trust\n";

/// A running server.
pub struct Postgres {
    dir: PathBuf,
    port: u16,
    guard: Child,
}

/// How a server is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// An orderly stop: sessions end, and transactions in progress are rolled back.
    Fast,
    /// A stop like a crash.
    Immediate,
}

impl Postgres {
    /// The server that the tests of this process share, each in a database of its own.
    ///
    /// # Panics
    /// When PostgreSQL is not installed or does not start.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(""))
    }

    /// A server for one test, with these lines in its configuration.
    ///
    /// # Panics
    /// As [`Postgres::shared`].
    pub fn start(configuration: &str) -> Self {
        let server = Self::prepare();
        let data = server.data();
        let collation = ["--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en"];
        let options = ["-U", "postgres", "-E", "UTF8", "-A", "trust", "--no-sync", "-D"];
        let made = program("initdb").args(options).arg(&data).args(collation).output().expect("initdb runs");
        if !made.status.success() {
            // This PostgreSQL was built without ICU.
            let _ = std::fs::remove_dir_all(&data);
            run(program("initdb").args(options).arg(&data).arg("--locale=C.UTF-8"));
        }
        server.configure(configuration);
        server.restart();
        server.sql("postgres", &["CREATE ROLE keeper LOGIN CREATEDB PASSWORD '", PASSWORD, "'"].concat());
        server
    }

    /// A standby of this server that streams from it, under the name `standby`, with these lines in its configuration.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn standby(&self, configuration: &str) -> Self {
        let standby = Self::prepare();
        let source = format!("host=127.0.0.1 port={} user=postgres application_name=standby", self.port);
        run(program("pg_basebackup").args(["-R", "-c", "fast", "-d", &source, "-D"]).arg(standby.data()));
        standby.configure(configuration);
        standby.restart();
        standby
    }

    /// The URL of a database, for the role `postgres`.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// Its port on the loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Makes an empty database; returns its name.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn database(&self) -> String {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("d{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        self.sql("postgres", &["CREATE DATABASE ", &name, " TEMPLATE template0"].concat());
        name
    }

    /// Runs SQL in a database, as the role `postgres`; returns the rows, a line each.
    ///
    /// # Panics
    /// When it fails.
    pub fn sql(&self, database: &str, sql: &str) -> String {
        let mut psql = program("psql");
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-h"]).arg(&self.dir);
        psql.args(["-p", &self.port.to_string(), "-d", database, "-c", sql]);
        run(&mut psql).trim_end().to_owned()
    }

    /// Stops the server.
    ///
    /// # Panics
    /// When it does not stop.
    pub fn stop(&self, how: Stop) {
        let mode = if how == Stop::Fast { "fast" } else { "immediate" };
        run(program("pg_ctl").args(["stop", "-s", "-w", "-m", mode, "-D"]).arg(self.data()));
    }

    /// Starts a server that is stopped.
    ///
    /// # Panics
    /// When it does not start; the panic shows its log.
    pub fn restart(&self) {
        let log = self.dir.join("log");
        let mut start = program("pg_ctl");
        start.args(["start", "-s", "-w", "-t", "60", "-l"]).arg(&log).arg("-D").arg(self.data());
        let status = start.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        let started = status.expect("pg_ctl runs").success();
        assert!(started, "PostgreSQL did not start: {}", std::fs::read_to_string(log).unwrap_or_default());
    }

    /// Promotes a standby.
    ///
    /// # Panics
    /// When it does not take writes within a minute.
    pub fn promote(&self) {
        run(program("pg_ctl").args(["promote", "-s", "-w", "-t", "60", "-D"]).arg(self.data()));
    }

    /// A dump of a database, as SQL.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn dump(&self, database: &str) -> String {
        let mut dump = program("pg_dump");
        dump.args(["-U", "postgres", "-h"]).arg(&self.dir).args(["-p", &self.port.to_string(), database]);
        run(&mut dump)
    }

    /// Runs a script of any length, such as a dump, in one transaction.
    ///
    /// # Panics
    /// When it fails.
    pub fn load(&self, database: &str, script: &str) {
        let path = self.dir.join("script");
        self.write(&path, script);
        let mut psql = program("psql");
        psql.args(["-X", "-q", "-1", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-h"]).arg(&self.dir);
        run(psql.args(["-p", &self.port.to_string(), "-d", database, "-f"]).arg(path));
    }

    /// Keeps a copy of the files of a server that is stopped.
    ///
    /// # Panics
    /// When they cannot be copied.
    pub fn keep(&self) {
        run(user(Command::new("cp")).arg("-a").arg(self.data()).arg(self.dir.join("kept")));
    }

    /// Puts the copy of [`Postgres::keep`] in place of the files of a server that is stopped.
    ///
    /// # Panics
    /// When there is none.
    pub fn put_back(&self) {
        std::fs::remove_dir_all(self.data()).expect("they can be removed");
        std::fs::rename(self.dir.join("kept"), self.data()).expect("there is a copy");
    }

    /// Sends a signal to the server's first process, such as `STOP` or `CONT`.
    ///
    /// # Panics
    /// When there is none.
    pub fn signal(&self, signal: &str) {
        let text = std::fs::read_to_string(self.data().join("postmaster.pid")).expect("it runs");
        let pid = text.lines().next().expect("a process").to_owned();
        run(Command::new("kill").args(["-s", signal, &pid]));
    }

    /// Adds `lines` to the configuration and reloads it. When this returns, the lines are in force for new sessions and
    /// in the checkpointer, which decides whether commits wait for a standby.
    ///
    /// # Panics
    /// When it does not run, or has not read it within a minute.
    pub fn reconfigure(&self, lines: &str) {
        let path = self.data().join("postgresql.auto.conf");
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        self.write(&path, &[&text, "\n", lines, "\n"].concat());
        let read = || self.sql("postgres", "SELECT pg_conf_load_time()");
        let before = read();
        run(program("pg_ctl").args(["reload", "-s", "-D"]).arg(self.data()));
        let mut tries = 0..1200;
        while read() == before {
            tries.next().expect("the configuration is read");
            std::thread::sleep(Duration::from_millis(50));
        }
        // The checkpointer got the signal before any new session, and it reads the configuration before a checkpoint.
        self.sql("postgres", "CHECKPOINT");
    }

    /// Writes a file into the data directory, readable by the server's user only.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn put(&self, name: &str, text: &str) {
        let path = self.data().join(name);
        self.write(&path, text);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("its mode is set");
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// A directory, a port and a guard.
    fn prepare() -> Self {
        let dir = tempfile::Builder::new().prefix("arss-pg-").tempdir_in("/tmp").expect("a directory").keep();
        give(&dir);
        let port = free_port();
        let mut guard = user(Command::new("sh"));
        guard.args(["-c", GUARD, "guard"]).arg(binary("pg_ctl")).arg(dir.join("data")).arg(&dir);
        let guard = guard.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let guard = guard.spawn().expect("sh runs");
        Self { dir, port, guard }
    }

    fn configure(&self, lines: &str) {
        let data = self.data();
        self.write(&data.join("pg_hba.conf"), ACCESS);
        let own = format!(
            "listen_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = '{}'\nmax_connections = 200\n\
             shared_buffers = 32MB\nfsync = on\nlog_min_messages = warning\n{lines}\n",
            self.port,
            self.dir.display()
        );
        let path = data.join("postgresql.conf");
        let text = std::fs::read_to_string(&path).expect("initdb has made it");
        self.write(&path, &[&text, "\n", &own].concat());
    }

    fn write(&self, path: &Path, text: &str) {
        std::fs::write(path, text).expect("it can be written");
        give(path);
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}

/// A port that stays free until a server takes it, also while that server is stopped. It is below the kernel's
/// ephemeral ports and in a range of this process's own.
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id() % 312 * 64;
    let ports = std::iter::repeat_with(|| 10_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000);
    let mut ports = ports.take(20_000).filter_map(|port| u16::try_from(port).ok());
    ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).expect("a port")
}

/// The command for one of PostgreSQL's programs, run as the server's user.
fn program(name: &str) -> Command {
    let mut command = user(Command::new(binary(name)));
    // The developer's own settings would replace the test's.
    for variable in ["PGHOST", "PGPORT", "PGUSER", "PGPASSWORD", "PGDATABASE", "PGSERVICE", "PGOPTIONS"] {
        command.env_remove(variable);
    }
    command.current_dir("/tmp");
    command
}

/// Debian installs the programs outside of `PATH`, in a folder for each version.
fn binary(name: &str) -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<(u32, PathBuf)> = folders
        .filter_map(|folder| {
            let version = folder.file_name().to_str()?.parse().ok()?;
            let path = folder.path().join("bin").join(name);
            path.exists().then_some((version, path))
        })
        .collect();
    found.sort();
    found.pop().map_or_else(|| PathBuf::from(name), |(_, path)| path)
}

fn user(mut command: Command) -> Command {
    if let Some((user, group)) = server_user() {
        command.uid(user).gid(group);
    }
    command
}

/// The user and group that the server runs as, if not those of this process.
fn server_user() -> Option<(u32, u32)> {
    static USER: OnceLock<Option<(u32, u32)>> = OnceLock::new();
    *USER.get_or_init(|| {
        let id = |args: &[&str]| run(Command::new("id").args(args)).trim().parse::<u32>().expect("a number");
        (id(&["-u"]) == 0).then(|| (id(&["-u", "postgres"]), id(&["-g", "postgres"])))
    })
}

fn give(path: &Path) {
    if let Some((user, group)) = server_user() {
        std::os::unix::fs::chown(path, Some(user), Some(group)).expect("root may");
    }
}

fn run(command: &mut Command) -> String {
    let name = command.get_program().to_owned();
    let hint = "is PostgreSQL installed? `cargo xtask test` installs it";
    let output =
        command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{name:?}: {error}; {hint}"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name:?} failed: {err}");
    out.into_owned()
}
