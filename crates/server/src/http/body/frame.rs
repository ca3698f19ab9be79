//! Checks of the body of a Connect or gRPC request, before the Connect library reads it.
//!
//! The library ignores undefined bits of a frame's flags, and reads a JSON array as a message. The text form of gRPC-Web
//! is unknown to it.

use std::io::Read as _;

use agentrouter_model::limits::BODY_BYTES;
use agentrouter_model::{Reason, Refusal};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_ENCODING;
use http::request::Parts;

use crate::http::head::media::{content_type, is_text};

/// Checks that the body is exactly one frame.
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

/// Checks that a message in JSON is an object.
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

/// The first decompressed byte that is not white space, within the size of a body. The library rejects what cannot be
/// decompressed.
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

/// Decodes the body of a request in the text form of gRPC-Web. It may be in pieces, each with its padding.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(kind: &str) -> HeaderMap {
        [(http::header::CONTENT_TYPE, kind.parse().expect("a header value"))].into_iter().collect()
    }

    #[test]
    fn a_body_is_exactly_one_frame() {
        assert!(check_frame(&[0, 0, 0, 0, 0]).is_ok());
        assert!(check_frame(&[1, 0, 0, 0, 1, 7]).is_ok());
        for wrong in [&[][..], &[0, 0, 0, 0], &[2, 0, 0, 0, 0], &[0, 0, 0, 0, 1], &[0, 0, 0, 0, 0, 0]] {
            assert!(check_frame(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_message_in_json_is_an_object() {
        let json = headers("application/json");
        let proto = headers("application/proto");
        for good in [&b""[..], b"{}", b" \n{\"name\":\"x\"}"] {
            assert!(check_json(&json, good, false).is_ok());
        }
        assert!(check_json(&json, b" [\"x\"]", false).is_err());
        assert!(check_json(&json, b"null", false).is_err());
        assert!(check_json(&proto, b"[", false).is_ok());
        let framed = headers("application/grpc+json");
        assert!(check_json(&framed, b"\0\0\0\0\x02[]", true).is_err());
        assert!(check_json(&framed, b"\0\0\0\0\x02{}", true).is_ok());
    }
}
