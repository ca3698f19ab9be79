//! A request and its response, from the head to the last byte written.
//!
//! The HTTP library owns the pieces of a body until they are written. A piece is counted while it exists, so the counts
//! are exact on HTTP/1.1 and HTTP/2, whatever the library buffers. A stream counts piece by piece: while it has none, it
//! may last.

use std::io::IoSlice;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;

use super::Connection;
use crate::http::respond::ResponseBody;

/// A request of a connection. Dropped, it is complete.
pub(in crate::http) struct Exchange {
    connection: Arc<Connection>,
    reserved: Option<OwnedSemaphorePermit>,
}

impl Exchange {
    pub(super) fn new(connection: &Arc<Connection>) -> Self {
        connection.requests.fetch_add(1, Ordering::Relaxed);
        Self { connection: Arc::clone(connection), reserved: None }
    }

    pub(in crate::http) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Waits until the connection may have so many bytes more unsent, for the response that is now made.
    pub(in crate::http) async fn reserve(&mut self, bytes: u32) {
        let bytes = bytes.min(self.connection.connections.limits.connection_unsent);
        let budget = Arc::clone(&self.connection.budget);
        // The semaphore is never closed.
        self.reserved = budget.acquire_many_owned(bytes).await.ok();
    }

    /// The body of its response.
    pub(in crate::http) fn send(self, body: ResponseBody) -> Sending {
        Sending { body, exchange: self }
    }

    /// A piece of the response, which is counted until it is dropped.
    fn piece(&mut self, bytes: Bytes, is_shared: bool) -> Piece {
        let connection = Arc::clone(&self.connection);
        let connections = &connection.connections;
        let generation = connections.generation.load(Ordering::Relaxed);
        let weight = if is_shared { 0 } else { bytes.len() };
        let mut reserved = self.reserved.take();
        if let Some(reserved) = &mut reserved {
            let spare = reserved.num_permits().saturating_sub(weight);
            drop(reserved.split(spare));
        }
        connection.pieces[generation].fetch_add(1, Ordering::Relaxed);
        connection.unsent.fetch_add(weight, Ordering::Relaxed);
        let unsent = connections.unsent.fetch_add(weight, Ordering::Relaxed) + weight;
        if unsent > connections.limits.unsent {
            connections.close_largest();
        }
        Piece { bytes, connection, generation, weight, _reserved: reserved }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.connection.idle_since.store(self.connection.connections.now(), Ordering::Relaxed);
        self.connection.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The body of a response, as the HTTP library takes it.
pub(in crate::http) struct Sending {
    body: ResponseBody,
    exchange: Exchange,
}

impl Body for Sending {
    type Data = Piece;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, Self::Error>>> {
        let Self { body, exchange } = self.get_mut();
        let is_shared = matches!(body, ResponseBody::Shared(_));
        let frame = std::task::ready!(Pin::new(body).poll_frame(cx));
        Poll::Ready(
            frame.map(|frame| frame.map(|frame| frame.map_data(|bytes| exchange.piece(bytes, is_shared)))),
        )
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A piece of a response that is not yet written.
pub(in crate::http) struct Piece {
    bytes: Bytes,
    connection: Arc<Connection>,
    generation: usize,
    weight: usize,
    _reserved: Option<OwnedSemaphorePermit>,
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        self.bytes.chunks_vectored(slices)
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.connection.pieces[self.generation].fetch_sub(1, Ordering::Relaxed);
        self.connection.unsent.fetch_sub(self.weight, Ordering::Relaxed);
        self.connection.connections.unsent.fetch_sub(self.weight, Ordering::Relaxed);
    }
}
