//! One connection: socket, TLS if asked for, and the protocol on it.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::http2::Http2;
use super::request::Request;
use super::{Verdict, http1};

/// The time limit of a handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The size of a read.
const CHUNK: usize = 64 * 1024;

/// The protocol of a connection.
#[derive(Clone, Debug)]
pub(crate) enum Wire {
    /// HTTP/1.1, one request at a time.
    Http1,
    /// HTTP/2 with prior knowledge (by ALPN where there is TLS), `streams` requests at a time, all with this head.
    Http2 {
        /// Most requests at once.
        streams: usize,
        /// `:path`
        path: String,
        /// The further fields, names in lower case.
        fields: Vec<(String, String)>,
    },
}

/// The address and protocol of a server under load.
#[derive(Clone)]
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    /// The trusted certificate. `None` without TLS.
    pub(crate) tls: Option<CertificateDer<'static>>,
    pub(crate) wire: Wire,
}

/// A TLS client that trusts one certificate.
///
/// # Errors
/// When the certificate is invalid.
pub(crate) fn trusting(certificate: &CertificateDer<'static>, http2: bool) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone())?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![if http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
    Ok(Arc::new(config))
}

/// A request in flight.
struct Flight {
    stream: u32,
    since: Instant,
}

/// A connection and its requests in flight.
pub(super) struct Connection {
    pub(super) socket: TcpStream,
    tls: Option<Box<ClientConnection>>,
    http2: Option<Http2>,
    capacity: usize,
    flights: Vec<Flight>,
    /// Plain bytes to be sent.
    out: Vec<u8>,
    /// Plain bytes that were received and are not yet parsed.
    input: Vec<u8>,
    ended: Vec<(u32, Verdict)>,
}

impl Connection {
    /// Opens a connection. Blocks until the handshakes are complete.
    ///
    /// # Errors
    /// When the server does not accept it.
    pub(super) fn open(target: &Endpoint, tls: Option<&Arc<ClientConfig>>) -> Result<Self> {
        let mut socket = TcpStream::connect_timeout(&target.address, HANDSHAKE)
            .context("the server takes no connection")?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(HANDSHAKE))?;
        let tls = match tls {
            None => None,
            Some(config) => {
                let name = ServerName::from(target.address.ip());
                let mut tls = Box::new(ClientConnection::new(Arc::clone(config), name)?);
                while tls.is_handshaking() {
                    tls.complete_io(&mut socket).context("no TLS handshake")?;
                }
                Some(tls)
            }
        };
        socket.set_nonblocking(true)?;
        let mut out = Vec::new();
        let (http2, capacity) = match &target.wire {
            Wire::Http1 => (None, 1),
            Wire::Http2 { streams, path, fields } => {
                let authority = target.address.to_string();
                (Some(Http2::new(tls.is_some(), &authority, path, fields, &mut out)), *streams)
            }
        };
        Ok(Self {
            socket,
            tls,
            http2,
            capacity,
            flights: Vec::new(),
            out,
            input: Vec::new(),
            ended: Vec::new(),
        })
    }

    /// Whether another request can be sent at once.
    pub(super) fn has_capacity(&self) -> bool {
        self.flights.len() < self.capacity
    }

    /// Sends a request whose latency counts from `since`. Returns whether all of it was sent. If not, call
    /// [`Connection::flush`] when the socket is writable.
    ///
    /// # Errors
    /// When the connection is lost.
    pub(super) fn send(&mut self, request: &Request, since: Instant) -> Result<bool> {
        let stream = match &mut self.http2 {
            Some(http2) => http2.request(&request.body, &mut self.out),
            None => {
                self.out.extend_from_slice(&request.head);
                self.out.extend_from_slice(&request.body);
                0
            }
        };
        self.flights.push(Flight { stream, since });
        self.flush()
    }

    /// Sends pending bytes. Returns whether none are left.
    ///
    /// # Errors
    /// When the connection is lost.
    pub(super) fn flush(&mut self) -> Result<bool> {
        if let Some(tls) = &mut self.tls {
            if !self.out.is_empty() {
                tls.writer().write_all(&self.out)?;
                self.out.clear();
            }
            while tls.wants_write() {
                match tls.write_tls(&mut self.socket) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                    written => written?,
                };
            }
            return Ok(true);
        }
        while !self.out.is_empty() {
            match self.socket.write(&self.out) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Ok(count) if count == self.out.len() => self.out.clear(),
                count => drop(self.out.drain(..count?)),
            }
        }
        Ok(true)
    }

    /// Reads the available bytes and passes each response to `done`, with the instant from which its latency counts.
    ///
    /// # Errors
    /// When the connection is lost or a response is malformed. [`Connection::abandon`] returns the requests in flight.
    pub(super) fn receive(&mut self, done: &mut impl FnMut(Verdict, Instant)) -> Result<()> {
        self.fill()?;
        let mut at = 0;
        match &mut self.http2 {
            Some(http2) => {
                at = http2.read(&self.input, &mut self.out, &mut self.ended)?;
                for (stream, verdict) in self.ended.drain(..) {
                    let index = self.flights.iter().position(|flight| flight.stream == stream);
                    let index = index.context("a response without a request")?;
                    done(verdict, self.flights.swap_remove(index).since);
                }
            }
            None => {
                while let Some((verdict, length)) = http1::read(&self.input[at..])? {
                    at += length;
                    done(verdict, self.flights.pop().context("a response without a request")?.since);
                }
            }
        }
        self.input.drain(..at);
        self.flush()?;
        Ok(())
    }

    /// Reads all available bytes.
    fn fill(&mut self) -> Result<()> {
        loop {
            let before = self.input.len();
            let count = match &mut self.tls {
                None => {
                    self.input.resize(before + CHUNK, 0);
                    let count = self.socket.read(&mut self.input[before..]);
                    self.input.truncate(before + *count.as_ref().unwrap_or(&0));
                    count
                }
                Some(tls) => {
                    let count = tls.read_tls(&mut self.socket);
                    let clear = tls.process_new_packets()?.plaintext_bytes_to_read();
                    self.input.resize(before + clear, 0);
                    tls.reader().read_exact(&mut self.input[before..])?;
                    count
                }
            };
            match count {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Ok(0) => bail!("the server closed the connection"),
                // A short read: the socket is empty, and another read would only cost time.
                Ok(count) if self.tls.is_none() && count < CHUNK => return Ok(()),
                count => drop(count?),
            }
        }
    }

    /// The requests in flight when the connection was lost.
    pub(super) fn abandon(&mut self) -> impl Iterator<Item = Instant> + '_ {
        self.flights.drain(..).map(|flight| flight.since)
    }
}
