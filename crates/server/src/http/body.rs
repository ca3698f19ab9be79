//! The body of a request, read within its bounds.

pub(super) mod frame;

use std::time::Duration;

use agentrouter_model::limits::BODY_BYTES;
use agentrouter_model::{Reason, Refusal};
use bytes::{Bytes, BytesMut};
use http::Version;
use http::header::EXPECT;
use http::request::Parts;
use http_body::Body;
use http_body_util::BodyExt as _;

use super::arriving::discard;

/// The prefix of a gRPC message: one byte of flags and four of length.
const GRPC_ENVELOPE: usize = 5;

/// Reads a request's whole body: at most 256 KiB, within `time`. A declared length above the bound is rejected before the
/// first byte is read. Bytes above it are not kept.
///
/// # Errors
/// [`Reason::BodyTooLarge`], [`Reason::DeadlineExceeded`], [`Reason::MalformedBody`] when the connection breaks off.
pub(super) async fn read<B>(mut body: B, parts: &Parts, time: Duration) -> Result<Bytes, Refusal>
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
    // On HTTP/1.1 the connection discards the rest. On HTTP/2 it would reset the stream, and some clients then do not see
    // the response. A client that expects "100 Continue" has sent nothing yet. A read would make it send.
    let sends = !parts.headers.contains_key(EXPECT);
    if parts.version == Version::HTTP_2
        && sends
        && read.as_ref().is_err_and(|refusal| refusal.reason == Reason::BodyTooLarge)
    {
        tokio::spawn(discard(body));
    }
    read
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
        // Most bodies arrive in one piece, which is passed on without a copy.
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
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use http_body::Frame;
    use http_body_util::StreamBody;

    use super::*;

    async fn read_chunks(chunks: Vec<Vec<u8>>) -> Result<Bytes, Refusal> {
        let frames = chunks.into_iter().map(|chunk| Ok::<_, std::io::Error>(Frame::data(Bytes::from(chunk))));
        let parts = http::Request::new(()).into_parts().0;
        read(StreamBody::new(Chunks(frames)), &parts, Duration::from_secs(1)).await
    }

    /// An iterator as a stream.
    struct Chunks<I>(I);
    impl<I: Iterator + Unpin> futures_core::Stream for Chunks<I> {
        type Item = I::Item;
        fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<I::Item>> {
            Poll::Ready(self.0.next())
        }
    }

    #[tokio::test]
    async fn chunks_are_joined() {
        let read = read_chunks(vec![b"ab".to_vec(), b"c".to_vec(), b"de".to_vec()]).await;
        assert_eq!(read, Ok(Bytes::from_static(b"abcde")));
        assert_eq!(read_chunks(vec![]).await, Ok(Bytes::new()));
    }

    #[tokio::test]
    async fn a_body_above_the_bound_is_rejected() {
        let refused = read_chunks(vec![vec![0; 200_000], vec![0; 200_000]]).await;
        assert_eq!(refused, Err(Reason::BodyTooLarge.into()));
    }
}
