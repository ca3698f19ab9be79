//! Bodies: requests read within their bounds, and answers of either kind.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use agentrouter_model::limits::BODY_BYTES;
use agentrouter_model::{Reason, Refusal};
use bytes::{Bytes, BytesMut};
use connectrpc::ConnectRpcBody;
use http::HeaderMap;
use http::header::EXPECT;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, Full};
use tokio::sync::OwnedSemaphorePermit;

use super::media::GRPC_ENVELOPE;

/// The place of a stream, kept until it ends.
pub(crate) type StreamPlace = Option<OwnedSemaphorePermit>;

/// The body of an answer.
pub(crate) enum Answer {
    /// All of it at once.
    Full(Full<Bytes>),
    /// What `connectrpc` made: a message with its trailers, or a stream. In a box, since it is four times as large as the
    /// other kind, and an answer is passed on from step to step.
    Rpc(Box<ConnectRpcBody>, #[expect(dead_code, reason = "held, and let go of when dropped")] StreamPlace),
}

impl Answer {
    pub(crate) fn new(bytes: impl Into<Bytes>) -> Self {
        Self::Full(Full::new(bytes.into()))
    }
}

/// A whole body says its length, which `ConnectRpcBody` does not pass on.
impl From<ConnectRpcBody> for Answer {
    fn from(body: ConnectRpcBody) -> Self {
        match body {
            ConnectRpcBody::Full(body) => Self::Full(body),
            body => Self::Rpc(Box::new(body), None),
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Self::Full(body) => Pin::new(body).poll_frame(cx),
            Self::Rpc(body, _) => Pin::new(&mut **body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(body) => body.is_end_stream(),
            Self::Rpc(body, _) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(body) => body.size_hint(),
            Self::Rpc(body, _) => body.size_hint(),
        }
    }
}

/// Reads a request's body whole: at most 256 KiB, and in at most `time`. A declared length over the bound is refused
/// before the first byte is read; what is over it is never kept.
///
/// # Errors
/// [`Reason::BodyTooLarge`], [`Reason::DeadlineExceeded`], [`Reason::MalformedBody`] when the connection breaks off.
pub(crate) async fn read<B>(mut body: B, headers: &HeaderMap, time: Duration) -> Result<Bytes, Refusal>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    const MOST: usize = BODY_BYTES + GRPC_ENVELOPE;
    let declared = body.size_hint().lower();
    if declared == 0 && body.is_end_stream() {
        return Ok(Bytes::new());
    }
    let read = if declared > MOST as u64 {
        Err(Reason::BodyTooLarge.into())
    } else {
        let read = tokio::time::timeout(time, collect(&mut body, MOST)).await;
        read.unwrap_or_else(|_| Err(Reason::DeadlineExceeded.into()))
    };
    // A client that asked first has sent nothing, and to read on would be to tell it to.
    let sends = !headers.contains_key(EXPECT);
    if sends && read.as_ref().is_err_and(|refusal| refusal.reason == Reason::BodyTooLarge) {
        tokio::spawn(discard(body));
    }
    read
}

/// Lets a client that is still sending come to the answer: a connection that is closed with bytes unread is reset, and
/// the answer may be lost with it (RFC 9112, §9.6). Beside the answer, and within bounds.
async fn discard<B>(mut body: B)
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
    // Whether it came to its end in time or not, it is over.
    let _ = tokio::time::timeout(TIME, discarding).await;
}

async fn collect<B>(body: &mut B, most: usize) -> Result<Bytes, Refusal>
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut first = Bytes::new();
    let mut rest: Option<BytesMut> = None;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Refusal::new(Reason::MalformedBody))?.into_data() else { continue };
        let so_far = rest.as_ref().map_or(first.len(), BytesMut::len);
        if so_far + data.len() > most {
            return Err(Reason::BodyTooLarge.into());
        }
        // Most bodies come in one piece, which is then passed on as it is.
        match &mut rest {
            Some(rest) => rest.extend_from_slice(&data),
            None if first.is_empty() => first = data,
            None => {
                let mut both = BytesMut::with_capacity(so_far + data.len());
                both.extend_from_slice(&first);
                both.extend_from_slice(&data);
                rest = Some(both);
            }
        }
    }
    Ok(rest.map_or(first, BytesMut::freeze))
}

#[cfg(test)]
mod tests {
    use http_body_util::StreamBody;

    use super::*;

    async fn read_chunks(chunks: Vec<Vec<u8>>) -> Result<Bytes, Refusal> {
        let frames = chunks.into_iter().map(|chunk| Ok::<_, std::io::Error>(Frame::data(Bytes::from(chunk))));
        read(StreamBody::new(Chunks(frames)), &HeaderMap::new(), Duration::from_secs(1)).await
    }

    /// An iterator as the stream that `StreamBody` wants.
    struct Chunks<I>(I);
    impl<I: Iterator + Unpin> futures_core::Stream for Chunks<I> {
        type Item = I::Item;
        fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<I::Item>> {
            Poll::Ready(self.0.next())
        }
    }

    #[tokio::test]
    async fn chunks_are_put_together() {
        let read = read_chunks(vec![b"ab".to_vec(), b"c".to_vec(), b"de".to_vec()]).await;
        assert_eq!(read, Ok(Bytes::from_static(b"abcde")));
        assert_eq!(read_chunks(vec![]).await, Ok(Bytes::new()));
    }

    #[tokio::test]
    async fn a_body_over_the_bound_is_refused() {
        let refused = read_chunks(vec![vec![0; 200_000], vec![0; 200_000]]).await;
        assert_eq!(refused, Err(Reason::BodyTooLarge.into()));
    }
}
