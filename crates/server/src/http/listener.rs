//! Connections: accepted, given their time to say what they want, and let go.
//!
//! HTTP/1.1, HTTP/2 by prior knowledge and, with TLS, HTTP/2 by ALPN share the port. Every stage has a bound: the
//! number of connections, the time until the first bytes and the TLS handshake, the size and time of a head, the number
//! of streams, and what the HTTP/2 library allows of resets and continuation frames.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_io_timeout::TimeoutStream;

use super::app::App;
use crate::settings::Limits;
use crate::tls::Tls;

/// The other end of a connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Peer {
    /// For rate limits.
    pub(crate) address: Option<IpAddr>,
    /// For audit records.
    pub(crate) label: Option<Arc<str>>,
}

/// The open port.
pub(crate) struct Listener {
    socket: TcpListener,
    tls: Option<Arc<Tls>>,
    limits: Limits,
}

/// How the two versions of HTTP are told apart without TLS: HTTP/2's preface (RFC 9113, §3.4), which is no request of
/// HTTP/1.1. The whole of it is waited for, since the HTTP/2 library would wait for the rest without a bound.
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

impl Listener {
    /// Binds the port.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub(crate) async fn bind(
        address: SocketAddr,
        tls: Option<Arc<Tls>>,
        limits: Limits,
    ) -> std::io::Result<Self> {
        Ok(Self { socket: TcpListener::bind(address).await?, tls, limits })
    }

    /// The address that was bound, with its real port.
    pub(crate) fn address(&self) -> std::io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Whether TLS is on.
    pub(crate) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Serves until `stop` says so, then gives the requests in progress `grace` to finish.
    pub(crate) async fn serve(self, app: Arc<App>, mut stop: watch::Receiver<bool>, grace: Duration) {
        let places = Arc::new(Semaphore::new(self.limits.connections));
        let total = u32::try_from(self.limits.connections).unwrap_or(u32::MAX);
        loop {
            let accepted = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                accepted = accept(&self.socket, &places) => accepted,
            };
            let Some((stream, address, place)) = accepted else { continue };
            let connection = Connection {
                app: Arc::clone(&app),
                peer: Peer { address: Some(address.ip()), label: Some(address.to_string().into()) },
                limits: self.limits.clone(),
                stop: stop.clone(),
                _place: place,
            };
            let tls = self.tls.clone();
            tokio::spawn(async move {
                if let Err(error) = connection.run(stream, tls).await {
                    tracing::debug!(error = &*error as &dyn std::error::Error, "a connection ended early");
                }
            });
        }
        drop(self.socket);
        if tokio::time::timeout(grace, places.acquire_many(total)).await.is_err() {
            tracing::warn!("some requests did not finish in the time given at shutdown");
        }
    }
}

/// Waits for a free place, then for a connection.
async fn accept(
    socket: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    match socket.accept().await {
        Ok((stream, address)) => Some((stream, address, place)),
        Err(error) => {
            // Out of file descriptors, as a rule: the next try would fail at once, too.
            tracing::warn!(error = &error as &dyn std::error::Error, "a connection could not be accepted");
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

struct Connection {
    app: Arc<App>,
    peer: Peer,
    limits: Limits,
    stop: watch::Receiver<bool>,
    _place: OwnedSemaphorePermit,
}

type Fault = Box<dyn std::error::Error + Send + Sync>;

impl Connection {
    async fn run(self, stream: TcpStream, tls: Option<Arc<Tls>>) -> Result<(), Fault> {
        // Answers are small and written whole; waiting to fill a packet only delays them.
        stream.set_nodelay(true)?;
        let time = self.limits.header_time;
        // A connection that has not said anything yet has nothing to finish.
        let mut stop = self.stop.clone();
        let stopped = stop.wait_for(|stop| *stop);
        match tls {
            Some(tls) => {
                let stream = tokio::select! {
                    _ = stopped => return Ok(()),
                    stream = tokio::time::timeout(time, tls.accept(stream)) => stream??,
                };
                let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                self.serve(stream, http2).await
            }
            None => {
                let http2 = tokio::select! {
                    _ = stopped => return Ok(()),
                    http2 = tokio::time::timeout(time, begins_http2(&stream)) => http2??,
                };
                self.serve(stream, http2).await
            }
        }
    }

    async fn serve<S>(self, stream: S, http2: bool) -> Result<(), Fault>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self { app, peer, limits, mut stop, _place } = self;
        let asked = AtomicBool::new(false);
        let service = service_fn(|request| {
            asked.store(true, Ordering::Relaxed);
            let (app, asked) = (Arc::clone(&app), app.ask(request, &peer));
            async move { Ok::<_, std::convert::Infallible>(app.handle(asked).await) }
        });
        // A client that does not read its answers holds its place no longer than one that does not send its requests.
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(limits.body_time));
        let io = TokioIo::new(Box::pin(stream));
        if http2 {
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
                () = nothing_asked(&asked, limits.header_time) => true,
            };
            connection.as_mut().graceful_shutdown();
            if silent {
                return Ok(tokio::time::timeout(limits.header_time, connection).await??);
            }
            Ok(connection.await?)
        } else {
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(limits.header_time)
                .max_buf_size(limits.header_bytes.max(64 * 1024))
                // Head and body stay apart until the kernel has them: the buffer that both would be copied into is kept
                // for the next answer, and never wiped.
                .writev(true)
                .serve_connection(io, service);
            tokio::pin!(connection);
            tokio::select! {
                ended = connection.as_mut() => return Ok(ended?),
                _ = stop.wait_for(|stop| *stop) => connection.as_mut().graceful_shutdown(),
            }
            Ok(connection.await?)
        }
    }
}

/// Ends when `time` is over and no request has come; else never. HTTP/2 has no such bound of its own: a silent client is
/// only found out by a ping, much later.
async fn nothing_asked(asked: &AtomicBool, time: Duration) {
    tokio::time::sleep(time).await;
    if asked.load(Ordering::Relaxed) {
        std::future::pending().await
    }
}

/// Looks at the first bytes without taking them.
async fn begins_http2(stream: &TcpStream) -> std::io::Result<bool> {
    let mut first = [0; HTTP2.len()];
    loop {
        let count = stream.peek(&mut first).await?;
        if count == 0 || first[..count] != HTTP2[..count] {
            return Ok(false);
        }
        if count == HTTP2.len() {
            return Ok(true);
        }
        // A beginning of the preface: peek would give it again at once, so the rest is waited for.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
