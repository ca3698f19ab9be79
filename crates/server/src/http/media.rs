//! What a body says it is, checked before it is read, and the frame around a gRPC message.
//!
//! `connectrpc` would refuse most of this, but some of it late, and some of it not: it takes streaming types for unary
//! calls, and bits of a frame's flags that mean nothing.

use agentrouter_model::{Reason, Refusal, Rpc};
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue};

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
/// whether there is a frame to look at; that of gRPC-Web's text form is in base64, and the library's alone.
///
/// # Errors
/// [`Reason::UnsupportedMediaType`].
pub(crate) fn check_connect(headers: &HeaderMap) -> Result<bool, Refusal> {
    let kind = content_type(headers).to_ascii_lowercase();
    let framed = match kind.as_str() {
        "application/json" | "application/proto" => false,
        "application/grpc-web-text" | "application/grpc-web-text+proto" => {
            only(headers, &GRPC_ENCODING, &["identity", "gzip"])?;
            return Ok(false);
        }
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
    let message = match body {
        [0, _, _, _, _, message @ ..] if framed => message,
        _ if framed || headers.contains_key(CONTENT_ENCODING) => return Ok(()),
        message => message,
    };
    let json = content_type(headers).to_ascii_lowercase().ends_with("json");
    match message.trim_ascii_start() {
        [] | [b'{', ..] => Ok(()),
        _ if json => Err(Reason::MalformedBody.into()),
        _ => Ok(()),
    }
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
            ("application/grpc-web-text+proto", Some(false)),
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
