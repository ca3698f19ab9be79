//! What a body says it is, checked before it is read, and the frame around a gRPC message.
//!
//! `connectrpc` would refuse most of this, but some of it late, and some of it not: it takes streaming types for unary
//! calls, and bits of a frame's flags that mean nothing.

use std::io::Read as _;

use agentrouter_model::limits::BODY_BYTES;
use agentrouter_model::{Reason, Refusal, Rpc};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Response};
use http_body_util::BodyExt as _;

use super::body::Answer;

/// The text form of gRPC-Web, which browsers' clients begin with.
const TEXT: &str = "application/grpc-web-text";
const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");

/// What gRPC puts around a message: one byte of flags and four of length.
pub(crate) const GRPC_ENVELOPE: usize = 5;

/// REST takes JSON, uncompressed. A call without a body needs no content type.
///
/// # Errors
/// [`Reason::UnsupportedMediaType`].
pub(crate) fn check_rest(headers: &HeaderMap, rpc: Rpc) -> Result<(), Refusal> {
    let takes_body = !matches!(rpc, Rpc::GetSecret | Rpc::ListSecrets | Rpc::DeleteSecret);
    let foreign = takes_body
        && headers.contains_key(CONTENT_TYPE)
        && !content_type(headers).eq_ignore_ascii_case("application/json");
    if foreign {
        Err(Reason::UnsupportedMediaType.into())
    } else {
        only(headers, &CONTENT_ENCODING, &["identity"])
    }
}

/// Connect takes JSON and protobuf, as they are or by gzip; gRPC and gRPC-Web the same in frames. The answer tells
/// whether there is a frame to look at.
///
/// # Errors
/// [`Reason::UnsupportedMediaType`].
pub(crate) fn check_connect(headers: &HeaderMap) -> Result<bool, Refusal> {
    let kind = content_type(headers).to_ascii_lowercase();
    let framed = match kind.as_str() {
        "application/json" | "application/proto" => false,
        "application/grpc" | "application/grpc+proto" | "application/grpc+json" => true,
        "application/grpc-web" | "application/grpc-web+proto" | "application/grpc-web+json" => true,
        _ => return Err(Reason::UnsupportedMediaType.into()),
    };
    let encoding = if framed { &GRPC_ENCODING } else { &CONTENT_ENCODING };
    only(headers, encoding, &["identity", "gzip"])?;
    Ok(framed)
}

/// One frame, the whole of it, and nothing behind it.
///
/// # Errors
/// [`Reason::MalformedBody`].
pub(crate) fn check_frame(body: &[u8]) -> Result<(), Refusal> {
    let whole = match body {
        [0 | 1, a, b, c, d, message @ ..] => u32::from_be_bytes([*a, *b, *c, *d]) as usize == message.len(),
        _ => false,
    };
    if whole { Ok(()) } else { Err(Reason::MalformedBody.into()) }
}

/// A message in JSON is an object. The library takes an array for one, too, with the fields in their order.
///
/// # Errors
/// [`Reason::MalformedBody`].
pub(crate) fn check_json(headers: &HeaderMap, body: &[u8], framed: bool) -> Result<(), Refusal> {
    if !content_type(headers).to_ascii_lowercase().ends_with("json") {
        return Ok(());
    }
    let is_gzip = |name| headers.get_all(name).iter().any(|of| of.as_bytes().eq_ignore_ascii_case(b"gzip"));
    let (gzipped, message) = match body {
        [flags, _, _, _, _, message @ ..] if framed => (*flags == 1, message),
        _ => (is_gzip(CONTENT_ENCODING), body),
    };
    let first = if gzipped {
        first_of_gzip(message)
    } else {
        message.iter().copied().find(|b| !b.is_ascii_whitespace())
    };
    if first.is_none_or(|first| first == b'{') { Ok(()) } else { Err(Reason::MalformedBody.into()) }
}

/// The first byte of what was compressed that is no white space, if it comes within what a body may have; what cannot be
/// decompressed is for the library to refuse.
fn first_of_gzip(message: &[u8]) -> Option<u8> {
    let mut plain = flate2::bufread::GzDecoder::new(message).take(BODY_BYTES as u64);
    let mut buffer = [0; 512];
    loop {
        let read = plain.read(&mut buffer).ok().filter(|read| *read > 0)?;
        let first = buffer[..read].iter().copied().find(|b| !b.is_ascii_whitespace());
        if first.is_some() {
            return first;
        }
    }
}

/// A request in the text form of gRPC-Web: its body is in base64, and its answer's has to be.
#[derive(Clone, Copy)]
struct Text;

/// Takes a request in the text form of gRPC-Web for one in its binary form, as which it goes on, and says whether it was
/// one. The library does not speak the text form.
pub(crate) fn take_text(parts: &mut Parts) -> bool {
    let kind = content_type(&parts.headers);
    let binary = match kind.split_at_checked(TEXT.len()) {
        Some((text, _)) if !text.eq_ignore_ascii_case(TEXT) => return false,
        Some((_, "")) => "application/grpc-web",
        Some((_, codec)) if codec.eq_ignore_ascii_case("+proto") => "application/grpc-web+proto",
        _ => return false,
    };
    parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static(binary));
    parts.extensions.insert(Text);
    true
}

/// Whether a request came in the text form of gRPC-Web.
pub(crate) fn is_text(parts: &Parts) -> bool {
    parts.extensions.get::<Text>().is_some()
}

/// The body as the library takes it: out of base64, if it came in that. It may be in pieces, each with its padding.
///
/// # Errors
/// [`Reason::MalformedBody`].
pub(crate) fn plain(parts: &Parts, body: Bytes) -> Result<Bytes, Refusal> {
    if !is_text(parts) {
        return Ok(body);
    }
    let malformed = |_| Refusal::new(Reason::MalformedBody);
    let mut plain = Vec::with_capacity(body.len() / 4 * 3);
    let mut rest = &body[..];
    while !rest.is_empty() {
        let padding = rest.chunks(4).position(|group| group.ends_with(b"="));
        let (piece, after) = rest.split_at(padding.map_or(rest.len(), |at| rest.len().min((at + 1) * 4)));
        STANDARD.decode_vec(piece, &mut plain).map_err(malformed)?;
        rest = after;
    }
    Ok(plain.into())
}

/// An answer in the text form of gRPC-Web, from one in its binary form. Those of calls are whole, never streams.
pub(crate) async fn as_text(response: Response<Answer>) -> Response<Answer> {
    let (mut parts, body) = response.into_parts();
    let Ok(body) = body.collect().await;
    let kind = parts.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("");
    if !kind.starts_with("application/grpc-web") {
        return Response::from_parts(parts, Answer::new(body.to_bytes()));
    }
    parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc-web-text+proto"));
    parts.headers.remove(CONTENT_LENGTH);
    let text = STANDARD.encode(body.to_bytes());
    Response::from_parts(parts, Answer::new(text))
}

/// Whether a request is in Connect, gRPC or gRPC-Web, wherever it goes: by its content type, or by the header that
/// Connect's clients send.
pub(crate) fn speaks_rpc(headers: &HeaderMap) -> bool {
    let kind = content_type(headers).to_ascii_lowercase();
    let of_rpc = ["application/grpc", "application/connect+", "application/proto"];
    of_rpc.iter().any(|of| kind.starts_with(of)) || headers.contains_key("connect-protocol-version")
}

/// What an answer has to know of its request: the content type, and with it the protocol. A copy of all headers would be
/// one of the key, too.
#[derive(Clone, Default)]
pub(crate) struct Kind(Option<HeaderValue>);

impl Kind {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        Self(headers.get(CONTENT_TYPE).cloned())
    }

    /// Whether the content type begins so.
    pub(crate) fn begins(&self, with: &str) -> bool {
        self.0.as_ref().is_some_and(|kind| kind.as_bytes().starts_with(with.as_bytes()))
    }

    /// The header, as `connectrpc` wants to see it.
    pub(crate) fn into_headers(self) -> HeaderMap {
        self.0.map(|kind| (CONTENT_TYPE, kind)).into_iter().collect()
    }
}

fn content_type(headers: &HeaderMap) -> &str {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    value.split(';').next().unwrap_or("").trim()
}

/// Every header of this name says one of `known`.
fn only(headers: &HeaderMap, name: &HeaderName, known: &[&str]) -> Result<(), Refusal> {
    let is_known = |value: &[u8]| known.iter().any(|known| value.eq_ignore_ascii_case(known.as_bytes()));
    if headers.get_all(name).iter().all(|value| is_known(value.as_bytes())) {
        Ok(())
    } else {
        Err(Reason::UnsupportedMediaType.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in values {
            headers.append(*name, value.parse().expect("a header value"));
        }
        headers
    }

    #[test]
    fn a_second_header_is_looked_at_too() {
        let twice = headers(&[("content-encoding", "identity"), ("content-encoding", "gzip")]);
        assert!(check_rest(&twice, Rpc::CreateSecret).is_err());
        assert!(check_rest(&headers(&[("content-encoding", "Identity")]), Rpc::CreateSecret).is_ok());
    }

    #[test]
    fn the_unary_types_are_taken_and_no_others() {
        for (kind, framed) in [
            ("application/json", Some(false)),
            ("application/json; charset=utf-8", Some(false)),
            ("application/proto", Some(false)),
            ("application/grpc", Some(true)),
            ("application/grpc+proto", Some(true)),
            ("application/grpc+json", Some(true)),
            ("application/grpc-web", Some(true)),
            ("application/grpc-web+proto", Some(true)),
            ("application/grpc-web-text+proto", None),
            ("application/grpc-web-texts", None),
            ("application/connect+json", None),
            ("application/json+proto", None),
            ("application/grpcx", None),
            ("text/plain", None),
        ] {
            assert_eq!(check_connect(&headers(&[("content-type", kind)])).ok(), framed, "{kind}");
        }
        assert!(check_connect(&headers(&[])).is_err());
    }

    #[test]
    fn a_frame_is_whole_and_alone() {
        assert!(check_frame(&[0, 0, 0, 0, 0]).is_ok());
        assert!(check_frame(&[1, 0, 0, 0, 1, 7]).is_ok());
        for wrong in [&[][..], &[0, 0, 0, 0], &[2, 0, 0, 0, 0], &[0, 0, 0, 0, 1], &[0, 0, 0, 0, 0, 0]] {
            assert!(check_frame(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_message_in_json_is_an_object() {
        let json = headers(&[("content-type", "application/json")]);
        let proto = headers(&[("content-type", "application/proto")]);
        for good in [&b""[..], b"{}", b" \n{\"name\":\"x\"}"] {
            assert!(check_json(&json, good, false).is_ok());
        }
        assert!(check_json(&json, b" [\"x\"]", false).is_err());
        assert!(check_json(&json, b"null", false).is_err());
        assert!(check_json(&proto, b"[", false).is_ok());
        let framed = headers(&[("content-type", "application/grpc+json")]);
        assert!(check_json(&framed, b"\0\0\0\0\x02[]", true).is_err());
        assert!(check_json(&framed, b"\0\0\0\0\x02{}", true).is_ok());
    }
}
