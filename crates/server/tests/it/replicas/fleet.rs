//! Servers over one database, each behind a TCP proxy that can be cut.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use agentrouter_postgres::testing::Postgres;
use agentrouter_testkit::ServerProcess;

use crate::support::{Connection, binary};

/// The TCP proxy between one server and the database.
pub struct Wire {
    pub port: u16,
    shared: Arc<ProxyState>,
}

#[derive(Default)]
struct ProxyState {
    cut: AtomicBool,
    streams: Mutex<Vec<TcpStream>>,
}

impl Wire {
    fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let own = listener.local_addr().expect("an address").port();
        let shared = Arc::new(ProxyState::default());
        let inner = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let Ok(database) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                let _ = (stream.set_nodelay(true), database.set_nodelay(true));
                let pair = |stream: &TcpStream| stream.try_clone().expect("a handle");
                inner
                    .streams
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .extend([pair(&stream), pair(&database)]);
                carry(pair(&stream), pair(&database), Arc::clone(&inner));
                carry(database, stream, Arc::clone(&inner));
            }
        });
        Self { port: own, shared }
    }

    /// Drops all bytes silently.
    pub fn cut(&self) {
        self.shared.cut.store(true, Ordering::SeqCst);
    }

    /// Forwards new connections. Those that were cut are closed.
    pub fn heal(&self) {
        // Until the lock is released no new connection is forwarded, so that none loses its first bytes.
        let mut streams = self.shared.streams.lock().unwrap_or_else(PoisonError::into_inner);
        for stream in streams.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.shared.cut.store(false, Ordering::SeqCst);
    }
}

/// Forwards bytes in one direction until an end is closed. While the wire is cut they are dropped.
fn carry(mut from: TcpStream, mut to: TcpStream, shared: Arc<ProxyState>) {
    std::thread::spawn(move || {
        let mut buffer = [0; 16 * 1024];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            if shared.cut.load(Ordering::SeqCst) {
                continue;
            }
            if to.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    });
}

/// Servers over one database, with one KEK.
pub struct Replicas {
    pub servers: Vec<ServerProcess>,
    pub wires: Vec<Wire>,
    /// The first key, without `ak-`.
    pub key: String,
    /// The database's name.
    pub database: String,
    _dir: tempfile::TempDir,
}

impl Replicas {
    /// Starts `count` servers over an empty database of `postgres`.
    pub fn start(postgres: &Postgres, count: usize) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let database = postgres.database();
        let (mut servers, mut wires) = (Vec::new(), Vec::new());
        for number in 0..count {
            let wire = Wire::to(postgres.port());
            let data = dir.path().join(format!("r{number}"));
            if number > 0 {
                // The operator copies the KEK.
                std::fs::create_dir(&data).expect("a directory");
                close(&data);
                std::fs::copy(dir.path().join("r0/kek.json"), data.join("kek.json")).expect("the KEK");
            }
            let url = format!("postgres://postgres@127.0.0.1:{}/{database}", wire.port);
            let args = ["--limit-failed-auth-rate", "0"];
            let env = [("AGENTROUTER_SECRETS_DATABASE_URL", url.as_str())];
            servers.push(ServerProcess::start_with(binary(), &data, &args, &env));
            wires.push(wire);
        }
        let key = servers[0].bootstrap_key();
        Self { servers, wires, key, database, _dir: dir }
    }

    pub fn connect(&self, server: usize) -> Connection {
        Connection::open(self.servers[server].authority(), &self.key).expect("it accepts")
    }

    /// Sends a signal to a server's process.
    pub fn signal(&self, server: usize, signal: &str) {
        let id = self.servers[server].id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &id]).status().expect("kill runs").success());
    }

    /// One of a server's metrics.
    pub fn metric(&self, server: usize, name: &str) -> f64 {
        let reply = self.connect(server).call("GET", "/metrics", "").expect("a response");
        let line = reply.body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {}", reply.body)).parse().expect("a number")
    }

    /// Waits until a read at `server` is a cache hit.
    pub fn await_memory(&self, server: usize, name: &str) {
        let start = Instant::now();
        let hits = || self.metric(server, "agentrouter_secrets_cache_hits_total");
        loop {
            let before = hits();
            let remaining = self.metric(server, "agentrouter_secrets_lease_remaining_seconds");
            let status = value(&mut self.connect(server), name).0;
            if status == 200 && remaining > 0.2 && hits() > before {
                return;
            }
            assert!(start.elapsed() < Duration::from_secs(30), "server {server} does not serve from memory");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The status and the value of a server's response.
pub fn value(connection: &mut Connection, name: &str) -> (u16, String) {
    match connection.call("POST", &format!("/v1/secrets/{name}/value"), "{}") {
        Ok(reply) if reply.status == 200 => {
            (200, reply.json()["value"].as_str().expect("a value").to_owned())
        }
        Ok(reply) => (reply.status, String::new()),
        Err(_) => (0, String::new()),
    }
}

fn close(dir: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)).expect("its mode is set");
}
