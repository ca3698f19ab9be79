//! The body of a request while it arrives, and the rest of a body that is not read.
//!
//! `head` makes it, and `body` reads it. A request that is refused before its body is read leaves the rest to its
//! connection. Then `App` either reads it, or has the response say that the connection is closed.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use agentrouter_model::limits::BODY_BYTES;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::connections::Connection;

/// How long the rest of a body is awaited whose request was refused before the body was read.
const REST_TIME: Duration = Duration::from_millis(100);

/// The body of a request, as it arrives. On HTTP/1.1, what is left of it when it is dropped belongs to its connection:
/// the next request comes after it.
pub(super) struct Arriving {
    body: Option<Incoming>,
    connection: Option<Arc<Connection>>,
}

impl Arriving {
    pub(super) fn new(body: Incoming, connection: &Arc<Connection>) -> Self {
        let leaves_rest = !connection.is_http2() && !body.is_end_stream();
        Self { body: Some(body), connection: leaves_rest.then(|| Arc::clone(connection)) }
    }
}

impl Body for Arriving {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        let frame = std::task::ready!(Pin::new(body).poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) {
            this.body = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        if let (Some(body), Some(connection)) = (self.body.take(), &self.connection)
            && !body.is_end_stream()
        {
            connection.leave(body);
        }
    }
}

/// Whether the rest of a body comes at once, so that the next request can follow it. If it does not, the connection is
/// to be closed after the response. A client that expects "100 Continue" has sent nothing yet. A read would make it send.
pub(super) async fn is_drained(mut rest: Incoming, expects: bool) -> bool {
    if expects {
        return false;
    }
    let draining = async {
        let mut bytes = 0;
        loop {
            match rest.frame().await {
                Some(Ok(frame)) => bytes += frame.data_ref().map_or(0, Bytes::len),
                Some(Err(_)) => return false,
                None => return true,
            }
            if bytes > BODY_BYTES {
                return false;
            }
        }
    };
    let is_drained = tokio::time::timeout(REST_TIME, draining).await == Ok(true);
    if !is_drained {
        tokio::spawn(discard(rest));
    }
    is_drained
}

/// Reads and drops, within bounds, the bytes that a client still sends while it receives its response. A connection
/// that is closed with unread bytes is reset, and the response may be lost with it (RFC 9112, §9.6).
pub(super) async fn discard<B>(mut body: B)
where
    B: Body<Data = Bytes> + Unpin,
{
    const MOST: usize = 16 * 1024 * 1024;
    const TIME: Duration = Duration::from_secs(2);
    let mut bytes = 0;
    let discarding = async {
        while let Some(Ok(frame)) = body.frame().await {
            bytes += frame.data_ref().map_or(0, Bytes::len);
            if bytes > MOST {
                return;
            }
        }
    };
    // The body is dropped, whether or not it was read completely.
    let _ = tokio::time::timeout(TIME, discarding).await;
}
