//! The media type of a request, checked before its body is read.
//!
//! The Connect library rejects most of this itself, but some of it late, and it accepts streaming types for unary RPCs.

use agentrouter_model::{Reason, Refusal, Rpc};
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue};
use http::request::Parts;

/// The text form of gRPC-Web, which browsers' clients begin with.
const TEXT: &str = "application/grpc-web-text";
const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");

/// REST takes JSON, uncompressed. A request without a body needs no content type.
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

/// Connect takes JSON and protobuf, plain or compressed by gzip. gRPC and gRPC-Web take the same in frames. Returns whether
/// the body is a frame.
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

/// A request in the text form of gRPC-Web: its body is in base64, and so is that of its response.
#[derive(Clone, Copy)]
struct GrpcWebText;

/// Turns the head of a request in the text form of gRPC-Web into one in the binary form, which the Connect library reads.
/// Returns whether it was in the text form.
pub(crate) fn take_text(parts: &mut Parts) -> bool {
    let kind = content_type(&parts.headers);
    let binary = match kind.split_at_checked(TEXT.len()) {
        Some((text, _)) if !text.eq_ignore_ascii_case(TEXT) => return false,
        Some((_, "")) => "application/grpc-web",
        Some((_, codec)) if codec.eq_ignore_ascii_case("+proto") => "application/grpc-web+proto",
        _ => return false,
    };
    parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static(binary));
    parts.extensions.insert(GrpcWebText);
    true
}

/// Whether a request came in the text form of gRPC-Web.
pub(crate) fn is_text(parts: &Parts) -> bool {
    parts.extensions.get::<GrpcWebText>().is_some()
}

/// Whether a request is in Connect, gRPC or gRPC-Web, on any path: by its content type, or by the header that Connect's
/// clients send.
pub(crate) fn speaks_rpc(headers: &HeaderMap) -> bool {
    let kind = content_type(headers).to_ascii_lowercase();
    let of_rpc = ["application/grpc", "application/connect+", "application/proto"];
    of_rpc.iter().any(|of| kind.starts_with(of)) || headers.contains_key("connect-protocol-version")
}

/// The headers of the request that its response needs: the content type, and with it the protocol. A copy of all
/// headers would copy the key.
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

    /// The header in the form that `connectrpc` expects.
    pub(crate) fn into_headers(self) -> HeaderMap {
        self.0.map(|kind| (CONTENT_TYPE, kind)).into_iter().collect()
    }
}

pub(in crate::http) fn content_type(headers: &HeaderMap) -> &str {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    value.split(';').next().unwrap_or("").trim()
}

/// Checks that every header of this name has one of the `known` values.
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
    fn every_header_of_a_name_is_checked() {
        let twice = headers(&[("content-encoding", "identity"), ("content-encoding", "gzip")]);
        assert!(check_rest(&twice, Rpc::CreateSecret).is_err());
        assert!(check_rest(&headers(&[("content-encoding", "Identity")]), Rpc::CreateSecret).is_ok());
    }

    #[test]
    fn only_the_unary_types_are_accepted() {
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
}
