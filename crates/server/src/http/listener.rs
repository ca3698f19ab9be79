//! Connections: accept, TLS handshake, choice of HTTP version, and shutdown.
//!
//! HTTP/1.1, HTTP/2 by prior knowledge and, with TLS, HTTP/2 by ALPN share the port. A Unix socket has no TLS. Every stage
//! has a bound: the time until the first bytes and for the TLS handshake, the size and time of a head, the number of
//! streams and of control frames. `connections` bounds the number of connections, their age, and what they have not
//! sent. The HTTP/2 library bounds resets and continuation frames.

use std::future::poll_fn;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use agentrouter_instance::Advised;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio_io_timeout::TimeoutStream;
use tokio_util::task::TaskTracker;

use super::app::App;
use super::connections::frames::Metered;
use super::connections::{Connections, Entered};
use super::peer::Peer;
use super::socket::{Socket, Stream};
use crate::settings::{Limits, ListenAddress};
use crate::telemetry::clients;
use crate::tls::Tls;

/// The open sockets.
pub(crate) struct Listener {
    sockets: Vec<Socket>,
    tls: Option<Arc<Tls>>,
    limits: Limits,
}

/// The preface of HTTP/2 (RFC 9113, §3.4), which is not a request of HTTP/1.1: without TLS, it tells the versions apart.
/// All of it has to arrive within the time for a head, since the HTTP/2 library would wait for the rest without a bound.
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Adds the address, and what to do about an address that cannot be had.
fn not_bound(address: &ListenAddress, error: anyhow::Error) -> anyhow::Error {
    let what = format!("cannot listen on {address}");
    let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    let hint = match (address, kind) {
        (ListenAddress::Tcp(_), Some(ErrorKind::AddrInUse)) => {
            "'ss -ltnp' names the process that listens there: stop it, or choose another address with --listen"
        }
        (ListenAddress::Tcp(_), Some(ErrorKind::AddrNotAvailable)) => {
            "this host has no such address; 'ip address' lists those that it has"
        }
        (ListenAddress::Tcp(_), Some(ErrorKind::PermissionDenied)) => {
            "choose a port of 1024 or above, or give the process CAP_NET_BIND_SERVICE"
        }
        _ => return error.context(what),
    };
    Advised::new(what, hint).because(error).into()
}

/// How often idle, old and unread connections are looked for.
const SWEEP: Duration = Duration::from_secs(1);

/// How long a connection that is closed for its client's fault may still send, so that the GOAWAY arrives.
const GOAWAY_TIME: Duration = Duration::from_secs(1);

impl Listener {
    /// Binds the addresses. TLS is for TCP alone.
    ///
    /// # Errors
    /// When one cannot be bound.
    pub(crate) async fn bind(
        addresses: &[ListenAddress],
        tls: Option<Arc<Tls>>,
        limits: Limits,
    ) -> anyhow::Result<Self> {
        let mut sockets = Vec::with_capacity(addresses.len());
        for address in addresses {
            let bound = Socket::bind(address).await;
            sockets.push(bound.map_err(|error| not_bound(address, error))?);
        }
        Ok(Self { sockets, tls, limits })
    }

    /// The addresses that were bound, in the order of the setting, with their real ports.
    pub(crate) fn addresses(&self) -> std::io::Result<Vec<ListenAddress>> {
        self.sockets.iter().map(Socket::address).collect()
    }

    /// Serves until `stop` is true. Then the requests in progress have `grace` to complete.
    pub(crate) async fn serve(self, app: Arc<App>, mut stop: watch::Receiver<bool>, grace: Duration) {
        let connections = Arc::clone(app.connections());
        let sweeper = tokio::spawn(sweep(Arc::clone(&connections)));
        let tasks = TaskTracker::new();
        let mut turn = 0_usize;
        loop {
            turn = turn.wrapping_add(1);
            let accepted = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                accepted = accept(&self.sockets, turn) => accepted,
            };
            let Some((stream, peer)) = accepted else { continue };
            let Some(entered) = connections.enter(app.share_of(&peer)) else { continue };
            let connection = ConnectionTask {
                app: Arc::clone(&app),
                peer,
                limits: self.limits.clone(),
                stop: stop.clone(),
                entered,
            };
            let tls = self.tls.clone();
            let address = connection.peer.address;
            tasks.spawn(clients::of_connection(address, async move {
                if let Err(error) = connection.run(stream, tls).await {
                    tracing::debug!(
                        error = &*error as &dyn std::error::Error,
                        "a connection ended before its last response"
                    );
                }
            }));
        }
        drop(self.sockets);
        tasks.close();
        if tokio::time::timeout(grace, tasks.wait()).await.is_err() {
            tracing::warn!("some requests did not complete within shutdown-time");
        }
        sweeper.abort();
    }
}

async fn sweep(connections: Arc<Connections>) {
    let mut interval = tokio::time::interval(SWEEP);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        connections.sweep();
    }
}

/// Waits for a connection on any of the sockets. Each is the first to be asked in its turn.
async fn accept(sockets: &[Socket], turn: usize) -> Option<(Stream, Peer)> {
    let accepted = poll_fn(|cx| {
        let next = (0..sockets.len()).map(|i| &sockets[(turn % sockets.len() + i) % sockets.len()]);
        next.map(|socket| socket.poll_accept(cx)).find(Poll::is_ready).unwrap_or(Poll::Pending)
    });
    match accepted.await {
        Ok(accepted) => Some(accepted),
        Err(error) => {
            // As a rule, the process is out of file descriptors: the next accept would fail at once. Clients can cause that,
            // so the line counts as one of theirs.
            let logged = async {
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot accept a connection");
            };
            clients::of_connection(Some(Ipv4Addr::UNSPECIFIED.into()), logged).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

struct ConnectionTask {
    app: Arc<App>,
    peer: Peer,
    limits: Limits,
    stop: watch::Receiver<bool>,
    entered: Entered,
}

type Fault = Box<dyn std::error::Error + Send + Sync>;

impl ConnectionTask {
    async fn run(mut self, stream: Stream, tls: Option<Arc<Tls>>) -> Result<(), Fault> {
        // Responses are small and written whole. Nagle's algorithm would only delay them.
        if let Stream::Tcp(stream) = &stream {
            stream.set_nodelay(true)?;
        }
        let time = self.limits.header_time;
        // A connection without a request has nothing to complete.
        let mut stop = self.stop.clone();
        let stopped = stop.wait_for(|stop| *stop);
        match (stream, tls) {
            (Stream::Tcp(stream), Some(tls)) => {
                let (stream, certificate) = tokio::select! {
                    _ = stopped => return Ok(()),
                    accepted = tokio::time::timeout(time, tls.accept(stream)) => accepted??,
                };
                self.peer.certificate = certificate;
                let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                self.serve(stream, http2).await
            }
            (stream, _) => {
                let http2 = tokio::select! {
                    _ = stopped => return Ok(()),
                    http2 = tokio::time::timeout(time, begins_http2(&stream)) => http2??,
                };
                match stream {
                    Stream::Tcp(stream) => self.serve(stream, http2).await,
                    Stream::Unix(stream) => self.serve(stream, http2).await,
                }
            }
        }
    }

    async fn serve<S>(self, stream: S, http2: bool) -> Result<(), Fault>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self { app, peer, limits, mut stop, entered } = self;
        let has_request = AtomicBool::new(false);
        let service = service_fn(|request| {
            has_request.store(true, Ordering::Relaxed);
            let (app, inbound) = (Arc::clone(&app), app.receive(request, &entered, &peer));
            let exchange = entered.begin();
            async move { Ok::<_, std::convert::Infallible>(app.handle(inbound, exchange).await) }
        });
        // A client that does not read its responses keeps its connection no longer than one that does not send requests.
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(limits.body_time));
        let stream = Box::pin(stream);
        if http2 {
            entered.speaks_http2();
            let io = TokioIo::new(Metered::new(stream, &entered));
            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .max_concurrent_streams(limits.streams)
                .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
                .max_send_buf_size(512 * 1024)
                .keep_alive_interval(Duration::from_secs(60))
                .keep_alive_timeout(Duration::from_secs(20))
                .serve_connection(io, service);
            tokio::pin!(connection);
            let silent = tokio::select! {
                ended = connection.as_mut() => return Ok(ended?),
                _ = stop.wait_for(|stop| *stop) => false,
                () = without_request(&has_request, limits.header_time) => true,
                () = entered.closing() => false,
            };
            connection.as_mut().graceful_shutdown();
            if silent {
                return Ok(tokio::time::timeout(limits.header_time, connection).await??);
            }
            tokio::select! {
                ended = connection.as_mut() => return Ok(ended?),
                () = entered.ending() => {}
            }
            Ok(tokio::time::timeout(GOAWAY_TIME, connection).await??)
        } else {
            let io = TokioIo::new(stream);
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(limits.header_time)
                .max_buf_size(limits.header_bytes.max(64 * 1024))
                // Head and body are not copied into one buffer: the library keeps that buffer for the next response, and does
                // not wipe it.
                .writev(true)
                .serve_connection(io, service);
            tokio::pin!(connection);
            tokio::select! {
                ended = connection.as_mut() => return Ok(ended?),
                () = entered.ending() => return Ok(()),
                _ = stop.wait_for(|stop| *stop) => connection.as_mut().graceful_shutdown(),
            }
            tokio::select! {
                ended = connection.as_mut() => Ok(ended?),
                () = entered.ending() => Ok(()),
            }
        }
    }
}

/// Completes after `time` if no request has arrived, else never. The HTTP/2 library has no such bound: only a ping, much
/// later, finds a silent client.
async fn without_request(has_request: &AtomicBool, time: Duration) {
    tokio::time::sleep(time).await;
    if has_request.load(Ordering::Relaxed) {
        std::future::pending().await
    }
}

/// Whether the connection begins with the preface of HTTP/2. Consumes nothing.
async fn begins_http2(stream: &Stream) -> std::io::Result<bool> {
    let mut first = [0; HTTP2.len()];
    loop {
        let count = stream.peek(&mut first).await?;
        if count == 0 || first[..count] != HTTP2[..count] {
            return Ok(false);
        }
        if count == HTTP2.len() {
            return Ok(true);
        }
        // A part of the preface. Peek would return it again at once.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
