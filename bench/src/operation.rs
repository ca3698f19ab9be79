//! The measured operations, and their requests in each of the APIs.

use std::net::SocketAddr;

use serde_json::json;

use crate::load::{Request, Wire};

/// The API of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Api {
    /// REST, over HTTP/1.1.
    Rest,
    /// Connect with JSON, over HTTP/1.1.
    ConnectJson,
    /// Connect with Protobuf, over HTTP/1.1.
    Connect,
    /// gRPC, over HTTP/2: eight requests at a time on a connection.
    Grpc,
}

impl Api {
    pub(crate) const ALL: [Self; 4] = [Self::Rest, Self::ConnectJson, Self::Connect, Self::Grpc];

    /// As in a case's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rest => "rest",
            Self::ConnectJson => "connect-json",
            Self::Connect => "connect",
            Self::Grpc => "grpc",
        }
    }

    /// Requests at a time on one connection.
    pub(crate) fn streams(self) -> usize {
        if self == Self::Grpc { 8 } else { 1 }
    }
}

/// The operation of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// GetSecretValue.
    Value,
    /// CreateSecret, of names that do not exist.
    Create,
    /// RotateSecret.
    Rotate,
    /// ListSecrets: the first 50.
    List,
}

impl Operation {
    pub(crate) const ALL: [Self; 4] = [Self::Value, Self::Create, Self::Rotate, Self::List];

    /// As in a case's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Value => "value",
            Self::Create => "create",
            Self::Rotate => "rotate",
            Self::List => "list",
        }
    }

    fn rpc(self) -> &'static str {
        match self {
            Self::Value => "GetSecretValue",
            Self::Create => "CreateSecret",
            Self::Rotate => "RotateSecret",
            Self::List => "ListSecrets",
        }
    }
}

/// The parameters of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct About<'a> {
    pub(crate) name: &'a str,
    pub(crate) realm: &'a str,
    /// The owner of the secret. For Value, and for Create if it is not the caller.
    pub(crate) user: &'a str,
    /// The value. For Create and Rotate.
    pub(crate) value: &'a str,
    /// A tag, as (key, value): the filter of List, or the tag of the secret of Create.
    pub(crate) tag: Option<(&'a str, &'a str)>,
    /// The page size. For List.
    pub(crate) page_size: u8,
}

/// The server and the caller of the requests.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) address: SocketAddr,
    /// With `ak-`.
    pub(crate) key: String,
}

impl Caller {
    /// The request for one operation.
    pub(crate) fn request(&self, api: Api, operation: Operation, about: About<'_>) -> Request {
        match api {
            Api::Rest => {
                let (line, body) = rest(operation, about);
                self.http1(&line, "application/json", &body)
            }
            Api::ConnectJson => {
                let body = json_body(operation, about, true).to_string();
                self.http1(&format!("POST {}", path(operation)), "application/json", body.as_bytes())
            }
            Api::Connect => {
                let body = message(operation, about);
                self.http1(&format!("POST {}", path(operation)), "application/proto", &body)
            }
            Api::Grpc => {
                let message = message(operation, about);
                let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes();
                Request { head: Vec::new(), body: [&[0], &length[..], &message].concat() }
            }
        }
    }

    /// The protocol of an API's connections. With gRPC a connection serves one operation.
    pub(crate) fn wire(&self, api: Api, operation: Operation) -> Wire {
        if api != Api::Grpc {
            return Wire::Http1;
        }
        let fields = [
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            ("authorization", &format!("Bearer {}", self.key)),
        ];
        Wire::Http2 {
            streams: api.streams(),
            path: path(operation),
            fields: fields.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        }
    }

    fn http1(&self, line: &str, media: &str, body: &[u8]) -> Request {
        let (address, key) = (self.address, &self.key);
        let mut head = format!("{line} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {key}\r\n");
        if media == "application/proto" || line.contains("SecretService") {
            head.push_str("connect-protocol-version: 1\r\n");
        }
        if line.starts_with("POST") {
            head.push_str(&format!("content-type: {media}\r\ncontent-length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        Request { head: head.into_bytes(), body: body.to_vec() }
    }
}

/// The path of the RPC.
fn path(operation: Operation) -> String {
    format!("/agentrouter.secret.v1.SecretService/{}", operation.rpc())
}

/// Method and target by REST, and the body.
fn rest(operation: Operation, about: About<'_>) -> (String, Vec<u8>) {
    let About { name, realm, tag, page_size, .. } = about;
    let line = match operation {
        Operation::Value => format!("POST /v1/secrets/{name}/value"),
        Operation::Create => "POST /v1/secrets".to_owned(),
        Operation::Rotate => format!("POST /v1/secrets/{name}/rotate"),
        Operation::List => {
            let tag = tag.map(|(key, value)| format!("&tags[{key}]={value}")).unwrap_or_default();
            format!("GET /v1/secrets?realm={realm}&page_size={page_size}{tag}")
        }
    };
    let body = match operation {
        Operation::List => Vec::new(),
        _ => json_body(operation, about, false).to_string().into_bytes(),
    };
    (line, body)
}

/// The fields in JSON: `all` of them, or those that the path does not have.
fn json_body(operation: Operation, about: About<'_>, all: bool) -> serde_json::Value {
    let About { name, realm, user, value, tag, page_size } = about;
    match (operation, all) {
        (Operation::Value, true) => json!({"name": name, "realm": realm, "user_id": user}),
        (Operation::Value, false) => json!({"realm": realm, "user_id": user}),
        (Operation::Create, _) => {
            let tags: serde_json::Map<_, _> =
                tag.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
            json!({"name": name, "realm": realm, "user_id": user, "value": value, "tags": tags})
        }
        (Operation::Rotate, true) => json!({"name": name, "realm": realm, "new_value": value}),
        (Operation::Rotate, false) => json!({"realm": realm, "new_value": value}),
        (Operation::List, _) => {
            let tags: serde_json::Map<_, _> =
                tag.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
            json!({"realm": realm, "page_size": page_size, "tags": tags})
        }
    }
}

/// The request message in Protobuf, with the field numbers of `proto/tars/secret/v1/secret.proto`. It is encoded by
/// hand: it has only a few strings, and the generator must not depend on the code that it measures.
fn message(operation: Operation, about: About<'_>) -> Vec<u8> {
    let About { name, realm, user, value, tag, page_size } = about;
    let mut out = Vec::new();
    match operation {
        Operation::Value => strings(&[(1, name), (2, realm), (3, user)], &mut out),
        Operation::Create => {
            strings(&[(1, name), (2, realm), (4, value)], &mut out);
            tagged(5, tag, &mut out);
            strings(&[(6, user)], &mut out);
        }
        Operation::Rotate => strings(&[(1, name), (2, realm), (3, value)], &mut out),
        Operation::List => {
            strings(&[(1, realm)], &mut out);
            tagged(3, tag, &mut out);
            // A page size of one byte below 128, or of two.
            out.push(4 << 3);
            match page_size {
                0..128 => out.push(page_size),
                _ => out.extend([page_size, 1]),
            }
        }
    }
    out
}

/// One entry of a map of strings.
fn tagged(number: u8, tag: Option<(&str, &str)>, out: &mut Vec<u8>) {
    if let Some((key, value)) = tag {
        let mut entry = Vec::new();
        strings(&[(1, key), (2, value)], &mut entry);
        field(number, &entry, out);
    }
}

fn strings(fields: &[(u8, &str)], out: &mut Vec<u8>) {
    for (number, text) in fields {
        field(*number, text.as_bytes(), out);
    }
}

/// A field of bytes: its tag, its length in groups of seven bits, the bytes.
fn field(number: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(number << 3 | 2);
    let mut length = bytes.len();
    while length > 127 {
        out.push(u8::try_from(length % 128 + 128).unwrap_or(u8::MAX));
        length /= 128;
    }
    out.push(u8::try_from(length).unwrap_or(0));
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABOUT: About<'_> =
        About { name: "n", realm: "r", user: "u", value: "v", tag: Some(("env", "prod")), page_size: 200 };

    fn caller() -> Caller {
        Caller { address: ([127, 0, 0, 1], 8080).into(), key: "ak-x".to_owned() }
    }

    #[test]
    fn rest_has_the_name_in_the_path_and_connect_in_the_body() {
        let rest = caller().request(Api::Rest, Operation::Value, ABOUT);
        let head = String::from_utf8(rest.head).expect("text");
        assert!(head.starts_with("POST /v1/secrets/n/value HTTP/1.1\r\nhost: 127.0.0.1:8080\r\n"), "{head}");
        assert!(head.contains("content-length: 27\r\n") && head.ends_with("\r\n\r\n"), "{head}");
        assert_eq!(rest.body, br#"{"realm":"r","user_id":"u"}"#.to_vec().as_slice());
        let connect = caller().request(Api::ConnectJson, Operation::Value, ABOUT);
        assert!(String::from_utf8_lossy(&connect.head).contains("/GetSecretValue HTTP/1.1"));
        assert!(String::from_utf8_lossy(&connect.body).contains(r#""name":"n""#));
    }

    #[test]
    fn a_message_has_its_fields_by_number_and_grpc_five_bytes_before_it() {
        let connect = caller().request(Api::Connect, Operation::Value, ABOUT).body;
        assert_eq!(connect, b"\x0a\x01n\x12\x01r\x1a\x01u");
        let grpc = caller().request(Api::Grpc, Operation::Value, ABOUT).body;
        assert_eq!(grpc, [&b"\0\0\0\0\x09"[..], &connect].concat());
        let list = message(Operation::List, ABOUT);
        assert_eq!(list, b"\x0a\x01r\x1a\x0b\x0a\x03env\x12\x04prod\x20\xc8\x01");
        let mut long = Vec::new();
        field(4, &[b'x'; 300], &mut long);
        assert_eq!(long[..3], [0x22, 0xac, 0x02]);
    }

    #[test]
    fn a_list_by_rest_is_a_get_without_a_body() {
        let list = caller().request(Api::Rest, Operation::List, ABOUT);
        let head = String::from_utf8(list.head).expect("text");
        assert!(
            head.starts_with("GET /v1/secrets?realm=r&page_size=200&tags[env]=prod HTTP/1.1\r\n"),
            "{head}"
        );
        assert!(list.body.is_empty() && !head.contains("content-length"));
    }
}
