//! The measured programs, each started on the server's core.

mod nginx;
mod postgres;
mod server;
mod toy;

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rcgen::CertifiedKey;
use rustls::pki_types::CertificateDer;

pub(crate) use nginx::Nginx;
pub(crate) use postgres::Postgres;
pub(crate) use server::{Data, Server, Setting};
pub(crate) use toy::Toy;

use crate::load::{Draw, Endpoint, Request, Session, Source, Until, Wire};
use crate::process::Process;

/// The time limit of a start.
const START: Duration = Duration::from_secs(120);

/// The programs that are measured.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    /// `agentrouter-secrets`.
    pub(crate) server: PathBuf,
    /// `agentrouter-toy`.
    pub(crate) toy: PathBuf,
}

/// A certificate for 127.0.0.1, as files and as trusted by the generator.
#[derive(Clone, Debug)]
pub(crate) struct Certificate {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) trusted: CertificateDer<'static>,
}

impl Certificate {
    /// Makes a certificate in `folder`.
    ///
    /// # Errors
    /// When it cannot be made or written.
    pub(crate) fn make(folder: &Path) -> Result<Self> {
        let CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
        let (cert_path, key_path) = (folder.join("tls.crt"), folder.join("tls.key"));
        std::fs::write(&cert_path, cert.pem())?;
        std::fs::write(&key_path, signing_key.serialize_pem())?;
        Ok(Self { cert: cert_path, key: key_path, trusted: cert.der().clone() })
    }
}

/// An address on the loopback interface that is free now.
fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// A GET without a body.
fn get(path: &str, address: SocketAddr) -> Request {
    Request { head: format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n\r\n").into_bytes(), body: Vec::new() }
}

/// Waits until the response to `request` is 200, and returns the time since `start`.
fn ready(process: &mut Process, start: Instant, target: &Endpoint, request: Request) -> Result<Duration> {
    let target = Endpoint { wire: Wire::Http1, ..target.clone() };
    let mut source = Source::set(vec![request], Draw::InOrder);
    loop {
        let tally =
            Session::open_to(&target, 1).and_then(|mut session| session.closed(&mut source, Until::Count(1)));
        if tally.is_ok_and(|tally| tally.served == 1) {
            return Ok(start.elapsed());
        }
        ensure!(process.is_alive(), "a server ended while it was starting; its log is in the scratch folder");
        ensure!(start.elapsed() < START, "a server did not start");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Waits until a ready program is idle, before its memory is measured: threads start late, and memory of the start is released
/// late.
pub(crate) fn settle() {
    std::thread::sleep(Duration::from_millis(200));
}

/// A file for the output of a program.
fn log(folder: &Path, name: &str) -> Result<std::fs::File> {
    let path = folder.join(format!("{name}.log"));
    std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(|| format!("{} cannot be written", path.display()))
}
