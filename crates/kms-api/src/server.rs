//! Serves a plugin on a Unix socket.

use std::future::Future;

use connectrpc::{ConnectRpcService, Limits};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::UnixListener;
use tokio_util::task::TaskTracker;

use crate::wire::v2::{KeyManagementService, KeyManagementServiceServer};

/// The largest request. The API bounds its fields to some 34 KiB.
const MAX_REQUEST: usize = 64 * 1024;

/// Serves `plugin` on `listener` until `stop` completes. Requests in progress then complete.
pub async fn serve<P: KeyManagementService>(
    listener: UnixListener,
    plugin: P,
    stop: impl Future<Output = ()>,
) {
    let limits = Limits::default().with_max_request_body_size(MAX_REQUEST).with_max_message_size(MAX_REQUEST);
    let service = ConnectRpcService::new(KeyManagementServiceServer::new(plugin)).with_limits(limits);
    let graceful = hyper_util::server::graceful::GracefulShutdown::new();
    let connections = TaskTracker::new();
    tokio::pin!(stop);
    loop {
        let stream = tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                // No file descriptor is free, or the peer is gone. The other connections continue.
                Err(_) => {
                    tokio::task::yield_now().await;
                    continue;
                }
            },
        };
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service.clone()));
        let connection = graceful.watch(connection);
        // The caller sees an error of its connection itself.
        connections.spawn(async move { drop(connection.await) });
    }
    connections.close();
    graceful.shutdown().await;
    connections.wait().await;
}
