//! HTTP transport of the calls: connections and their liveness, TLS, proxies, Unix sockets.
//!
//! `client.rs` makes it, and `secret.rs` calls [`Transport::renew`] after a timeout. hyper keeps the connections. Two rules
//! detect a broken path: an HTTP/2 connection with a request in progress gets a ping after a second of silence, and after a call
//! timed out, the existing connections get no more requests.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use connectrpc::ConnectError;
use connectrpc::client::{BoxFuture, ClientBody, ClientTransport};
use http::header::PROXY_AUTHORIZATION;
use http::uri::Scheme;
use http::{HeaderMap, Request, Response, Uri};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream};
use tower::Service;

use crate::error::innermost;
use crate::proxy::Proxy;

/// An error of a connection or of a [custom HTTP client](crate::ClientBuilder::http_client).
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How long an HTTP/2 connection with a request in progress may be silent before a ping, and how long a ping may take.
const PING: Duration = Duration::from_secs(1);

/// Changes the headers of a request.
pub(crate) type Hook = Arc<dyn Fn(&mut HeaderMap) + Send + Sync>;
/// A custom HTTP client.
pub(crate) type Exchange =
    Arc<dyn Fn(Request<Bytes>) -> BoxFuture<'static, Result<Response<Bytes>, BoxError>> + Send + Sync>;

/// Sends the requests of a client. Cheap to clone: clones share the connections.
#[derive(Clone)]
pub(crate) struct Transport {
    before: Option<Hook>,
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    Network(Connector, Arc<Mutex<Pool>>),
    Custom(Exchange),
}

/// The connections since the last timeout.
struct Pool {
    generation: u64,
    client: Client<Connector, ClientBody>,
}

impl Transport {
    /// Over the network. It makes no connection yet.
    pub(crate) fn new(connector: Connector, before: Option<Hook>) -> Self {
        let pool = Pool { generation: 0, client: connections(&connector) };
        Self { before, kind: Kind::Network(connector, Arc::new(Mutex::new(pool))) }
    }

    /// Over a custom HTTP client.
    pub(crate) fn custom(exchange: Exchange, before: Option<Hook>) -> Self {
        Self { before, kind: Kind::Custom(exchange) }
    }

    /// Identifies the current connections.
    pub(crate) fn generation(&self) -> u64 {
        match &self.kind {
            Kind::Network(_, pool) => lock(pool).generation,
            Kind::Custom(_) => 0,
        }
    }

    /// Uses new connections from now on, if the current ones are those of `generation`. Requests in progress continue.
    pub(crate) fn renew(&self, generation: u64) {
        if let Kind::Network(connector, pool) = &self.kind {
            let mut pool = lock(pool);
            if pool.generation == generation {
                *pool = Pool { generation: generation + 1, client: connections(connector) };
            }
        }
    }
}

impl ClientTransport for Transport {
    type ResponseBody = Either<Incoming, Full<Bytes>>;
    type Error = ConnectError;

    fn send(
        &self,
        mut request: Request<ClientBody>,
    ) -> BoxFuture<'static, Result<Response<Self::ResponseBody>, Self::Error>> {
        if let Some(before) = &self.before {
            before(request.headers_mut());
        }
        match &self.kind {
            Kind::Network(connector, pool) => {
                connector.authorize(&mut request);
                let response = lock(pool).client.request(request);
                Box::pin(async move {
                    let response = response.await.map_err(failed)?;
                    Ok(response.map(Either::Left))
                })
            }
            Kind::Custom(exchange) => {
                let exchange = Arc::clone(exchange);
                Box::pin(async move {
                    let (head, body) = request.into_parts();
                    let body = body.collect().await?.to_bytes();
                    let response = exchange(Request::from_parts(head, body)).await;
                    let response = response.map_err(|error| failed(Custom(error)))?;
                    Ok(response.map(|body| Either::Right(Full::new(body))))
                })
            }
        }
    }
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> ConnectError {
    ConnectError::unavailable_from_transport("HTTP request failed", error)
}

/// The error of a custom HTTP client.
#[derive(Debug, thiserror::Error)]
#[error("the HTTP client failed")]
struct Custom(#[source] BoxError);

fn lock(pool: &Mutex<Pool>) -> MutexGuard<'_, Pool> {
    // Nothing panics while it holds the lock.
    pool.lock().unwrap_or_else(PoisonError::into_inner)
}

fn connections(connector: &Connector) -> Client<Connector, ClientBody> {
    Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .http2_keep_alive_interval(PING)
        .http2_keep_alive_timeout(PING)
        .build(connector.clone())
}

/// The destination of connections.
#[derive(Clone, Debug)]
pub(crate) enum Route {
    /// To the host of the URL.
    Direct,
    /// Through a proxy.
    Proxy(Proxy),
    /// To a Unix socket.
    Socket(PathBuf),
}

/// Makes connections.
#[derive(Clone)]
pub(crate) struct Connector {
    route: Arc<Route>,
    tcp: HttpConnector,
    tls: Option<Arc<rustls::ClientConfig>>,
    timeout: Duration,
}

impl Connector {
    /// With TLS if `tls` has its settings. A connection that is not made within `timeout` fails.
    pub(crate) fn new(route: Route, tls: Option<rustls::ClientConfig>, timeout: Duration) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(timeout));
        let tls = tls.map(|mut tls| {
            tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
            Arc::new(tls)
        });
        Self { route: Arc::new(route), tcp, tls, timeout }
    }

    /// Adds the authorization of a proxy to a request that the proxy reads itself.
    fn authorize(&self, request: &mut Request<ClientBody>) {
        if let Route::Proxy(Proxy { authorization: Some(authorization), .. }) = &*self.route
            && request.uri().scheme() == Some(&Scheme::HTTP)
        {
            request.headers_mut().insert(PROXY_AUTHORIZATION, authorization.clone());
        }
    }

    async fn connect(mut self, server: Uri) -> Result<Link, BoxError> {
        let tcp = match &*self.route {
            Route::Socket(path) => {
                let stream = UnixStream::connect(path).await?;
                return Ok(Link { io: Box::new(TokioIo::new(stream)), kind: LinkKind::Direct });
            }
            Route::Proxy(proxy) if self.tls.is_some() => {
                let mut tunnel = Tunnel::new(proxy.uri.clone(), self.tcp.clone());
                if let Some(authorization) = &proxy.authorization {
                    tunnel = tunnel.with_auth(authorization.clone());
                }
                tunnel.call(server.clone()).await.map_err(|error| refused(&error))?
            }
            Route::Proxy(proxy) => {
                let stream = self.tcp.call(proxy.uri.clone()).await.map_err(|error| refused(&error))?;
                return Ok(Link { io: Box::new(stream), kind: LinkKind::ToProxy });
            }
            Route::Direct => self.tcp.call(server.clone()).await?,
        };
        match self.tls {
            None => Ok(Link { io: Box::new(tcp), kind: LinkKind::Direct }),
            Some(tls) => secured(tls, tcp.into_inner(), &server).await,
        }
    }
}

async fn secured(tls: Arc<rustls::ClientConfig>, tcp: TcpStream, server: &Uri) -> Result<Link, BoxError> {
    let host = server.host().unwrap_or_default();
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())?;
    let stream = tokio_rustls::TlsConnector::from(tls).connect(name, tcp).await?;
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let kind = if http2 { LinkKind::Http2 } else { LinkKind::Direct };
    Ok(Link { io: Box::new(TokioIo::new(stream)), kind })
}

/// There is no connection through the proxy.
#[derive(Debug, thiserror::Error)]
#[error("the proxy of the environment did not connect: {0}")]
pub(crate) struct ProxyFailed(String);

fn refused(error: &(dyn std::error::Error + 'static)) -> BoxError {
    ProxyFailed(innermost(error)).into()
}

impl Service<Uri> for Connector {
    type Response = Link;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Link, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, server: Uri) -> Self::Future {
        let (connector, timeout) = (self.clone(), self.timeout);
        Box::pin(async move {
            match tokio::time::timeout(timeout, connector.connect(server)).await {
                Ok(link) => link,
                Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no connection in time").into()),
            }
        })
    }
}

/// A connection of any kind.
pub(crate) struct Link {
    io: Box<dyn Io>,
    kind: LinkKind,
}

/// The properties of a connection that hyper uses.
#[derive(Clone, Copy)]
enum LinkKind {
    /// HTTP/1.1 with the server.
    Direct,
    /// HTTP/1.1 with a proxy, which reads the requests.
    ToProxy,
    /// HTTP/2 with the server, by ALPN.
    Http2,
}

trait Io: Read + Write + Send + Unpin {}

impl<T: Read + Write + Send + Unpin> Io for T {}

impl Connection for Link {
    fn connected(&self) -> Connected {
        match self.kind {
            LinkKind::Direct => Connected::new(),
            LinkKind::ToProxy => Connected::new().proxy(true),
            LinkKind::Http2 => Connected::new().negotiated_h2(),
        }
    }
}

impl Read for Link {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.io).poll_read(cx, buf)
    }
}

impl Write for Link {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.io).poll_write_vectored(cx, bufs)
    }
}
