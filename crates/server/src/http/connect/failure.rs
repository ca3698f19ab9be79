//! Rejections of the Connect library, by the status of the response.
//!
//! The status is that of HTTP for Connect. For gRPC it is in a header or a trailer, for gRPC-Web in a frame. Nothing else of
//! the response is used: its text may repeat the request.

use agentrouter_model::{Reason, Refusal};
use connectrpc::ConnectRpcBody;
use http::{HeaderMap, Response, StatusCode};
use http_body_util::BodyExt as _;

/// Whether the head of a response is that of a failure.
pub(super) fn is_failure(response: &Response<ConnectRpcBody>) -> bool {
    let status = response.status();
    status.is_client_error()
        || status.is_server_error()
        || status_in(response.headers()).is_some_and(|status| status != 0)
}

/// The refusal that a failure stands for, and whether its status is "not found". `unimplemented` is the reason for that
/// status: the library gives it to an unknown procedure and to a body that is not one message.
pub(super) async fn refusal(response: Response<ConnectRpcBody>, unimplemented: Reason) -> (Refusal, bool) {
    let (parts, body) = response.into_parts();
    let Ok(body) = body.collect().await;
    let grpc: Option<u8> = status_in(&parts.headers)
        .or_else(|| body.trailers().and_then(status_in))
        .or_else(|| status_in_frame(&body.to_bytes()));
    let not_found = parts.status == StatusCode::NOT_FOUND || grpc == Some(5);
    let reason = match (parts.status, grpc) {
        (StatusCode::UNSUPPORTED_MEDIA_TYPE, _) => Reason::UnsupportedMediaType,
        (StatusCode::METHOD_NOT_ALLOWED, _) => Reason::MethodNotAllowed,
        (StatusCode::TOO_MANY_REQUESTS | StatusCode::PAYLOAD_TOO_LARGE, _) | (_, Some(8)) => {
            Reason::BodyTooLarge
        }
        (StatusCode::GATEWAY_TIMEOUT, _) | (_, Some(4)) => Reason::DeadlineExceeded,
        (StatusCode::NOT_IMPLEMENTED, _) | (_, Some(12)) => unimplemented,
        _ if not_found => Reason::UnknownRoute,
        _ => Reason::MalformedBody,
    };
    (reason.into(), not_found)
}

fn status_in(headers: &HeaderMap) -> Option<u8> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// The `grpc-status` among the trailers that gRPC-Web puts into the body, in a frame with the highest flag.
fn status_in_frame(body: &[u8]) -> Option<u8> {
    let [0x80, _, _, _, _, trailers @ ..] = body else { return None };
    let trailers = std::str::from_utf8(trailers).ok()?;
    let status = trailers.lines().find_map(|line| line.strip_prefix("grpc-status:"))?;
    status.trim().parse().ok()
}
