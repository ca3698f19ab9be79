//! Connections: accept, TLS handshake, choice of HTTP version, and shutdown.
//!
//! HTTP/1.1, HTTP/2 by prior knowledge and, with TLS, HTTP/2 by ALPN share the port. Every stage has a bound: the number of
//! connections, the time until the first bytes and for the TLS handshake, the size and time of a head, and the number of
//! streams. The HTTP/2 library bounds resets and continuation frames.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_io_timeout::TimeoutStream;

use super::app::App;
use super::peer::Peer;
use crate::settings::Limits;
use crate::tls::Tls;

/// The open port.
pub(crate) struct Listener {
    socket: TcpListener,
    tls: Option<Arc<Tls>>,
    limits: Limits,
}

/// The preface of HTTP/2 (RFC 9113, §3.4), which is not a request of HTTP/1.1: without TLS, it tells the versions apart.
/// All of it has to arrive within the time for a head, since the HTTP/2 library would wait for the rest without a bound.
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The connections that the kernel keeps until they are accepted, at most `net.core.somaxconn`. Above it, the kernel drops
/// a client's SYN, and the client waits a second before it sends the next.
const BACKLOG: u32 = 4096;

impl Listener {
    /// Binds the port.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub(crate) fn bind(address: SocketAddr, tls: Option<Arc<Tls>>, limits: Limits) -> std::io::Result<Self> {
        Ok(Self { socket: listen(address)?, tls, limits })
    }

    /// The address that was bound, with its real port.
    pub(crate) fn address(&self) -> std::io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Whether TLS is on.
    pub(crate) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Serves until `stop` is true. Then the requests in progress have `grace` to complete.
    pub(crate) async fn serve(self, app: Arc<App>, mut stop: watch::Receiver<bool>, grace: Duration) {
        let permits = Arc::new(Semaphore::new(self.limits.connections));
        let total = u32::try_from(self.limits.connections).unwrap_or(u32::MAX);
        loop {
            let accepted = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                accepted = accept(&self.socket, &permits) => accepted,
            };
            let Some((stream, address, permit)) = accepted else { continue };
            let connection = Connection {
                app: Arc::clone(&app),
                peer: Peer::from(address),
                limits: self.limits.clone(),
                stop: stop.clone(),
                _permit: permit,
            };
            let tls = self.tls.clone();
            tokio::spawn(async move {
                if let Err(error) = connection.run(stream, tls).await {
                    tracing::debug!(
                        error = &*error as &dyn std::error::Error,
                        "a connection ended before its last response"
                    );
                }
            });
        }
        drop(self.socket);
        if tokio::time::timeout(grace, permits.acquire_many(total)).await.is_err() {
            tracing::warn!("some requests did not complete within shutdown-time");
        }
    }
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Waits for a permit, then for a connection.
async fn accept(
    socket: &TcpListener,
    permits: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let permit = Arc::clone(permits).acquire_owned().await.ok()?;
    match socket.accept().await {
        Ok((stream, address)) => Some((stream, address, permit)),
        Err(error) => {
            // As a rule, the process is out of file descriptors: the next accept would fail at once.
            tracing::warn!(error = &error as &dyn std::error::Error, "cannot accept a connection");
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
    _permit: OwnedSemaphorePermit,
}

type Fault = Box<dyn std::error::Error + Send + Sync>;

impl Connection {
    async fn run(self, stream: TcpStream, tls: Option<Arc<Tls>>) -> Result<(), Fault> {
        // Responses are small and written whole. Nagle's algorithm would only delay them.
        stream.set_nodelay(true)?;
        let time = self.limits.header_time;
        // A connection without a request has nothing to complete.
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
        let Self { app, peer, limits, mut stop, _permit } = self;
        let has_request = AtomicBool::new(false);
        let service = service_fn(|request| {
            has_request.store(true, Ordering::Relaxed);
            let (app, inbound) = (Arc::clone(&app), app.receive(request, &peer));
            async move { Ok::<_, std::convert::Infallible>(app.handle(inbound).await) }
        });
        // A client that does not read its responses keeps its connection no longer than one that does not send requests.
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
                () = without_request(&has_request, limits.header_time) => true,
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
                // Head and body are not copied into one buffer: the library keeps that buffer for the next response, and does
                // not wipe it.
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

/// Completes after `time` if no request has arrived, else never. The HTTP/2 library has no such bound: only a ping, much
/// later, finds a silent client.
async fn without_request(has_request: &AtomicBool, time: Duration) {
    tokio::time::sleep(time).await;
    if has_request.load(Ordering::Relaxed) {
        std::future::pending().await
    }
}

/// Whether the connection begins with the preface of HTTP/2. Consumes nothing.
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
        // A part of the preface. Peek would return it again at once.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_burst_of_connections_completes_before_any_is_accepted() {
        let most = std::fs::read_to_string("/proc/sys/net/core/somaxconn").expect("Linux");
        let burst = most.trim().parse::<usize>().expect("a number").min(300);
        let listener = listen("127.0.0.1:0".parse().expect("an address")).expect("bound");
        let address = listener.local_addr().expect("an address");
        let connected: Vec<_> = (0..burst)
            .map(|i| {
                // The kernel would not complete a connection above the backlog at all.
                std::net::TcpStream::connect_timeout(&address, Duration::from_secs(60))
                    .unwrap_or_else(|error| panic!("connection {i}: {error}"))
            })
            .collect();
        assert_eq!(connected.len(), burst);
    }
}
