//! The text form of gRPC-Web, which clients in browsers use: base64 in both directions.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::support::{Reply, Server};

const RPC: &str = "/agentrouter.secret.v1.SecretService/";

/// A message in a frame.
fn frame(message: &[u8]) -> Vec<u8> {
    [&[0][..], &u32::try_from(message.len()).expect("short").to_be_bytes(), message].concat()
}

/// A string field.
fn text(number: u8, text: &str) -> Vec<u8> {
    [&[number << 3 | 2, u8::try_from(text.len()).expect("short")][..], text.as_bytes()].concat()
}

fn call(server: &Server, rpc: &str, body: &str) -> (Reply, String) {
    let key = format!("Bearer ak-{}", server.key);
    let headers = [("authorization", key.as_str()), ("content-type", "application/grpc-web-text")];
    let reply = server.send("POST", &format!("{RPC}{rpc}"), &headers, body.as_bytes());
    assert_eq!(reply.status, 200, "{reply:?}");
    let kind = reply.header("content-type").unwrap_or_default();
    assert!(kind.starts_with("application/grpc-web-text"), "{reply:?}");
    let plain = STANDARD.decode(&reply.body).unwrap_or_else(|_| panic!("not base64: {reply:?}"));
    let plain = String::from_utf8_lossy(&plain).into_owned();
    (reply, plain)
}

#[test]
fn responses_and_refusals_are_in_base64() {
    let server = Server::start();
    let create = [text(1, "n"), text(2, "mcp"), text(4, "sk-in-base64")].concat();
    let (_, made) = call(&server, "CreateSecret", &STANDARD.encode(frame(&create)));
    assert!(made.contains("grpc-status: 0") || made.contains("grpc-status:0"), "{made}");

    // A body may have several parts, each encoded separately.
    let get = frame(&[text(1, "n"), text(2, "mcp")].concat());
    let (head, rest) = get.split_at(5);
    let (_, got) =
        call(&server, "GetSecretValue", &format!("{}{}", STANDARD.encode(head), STANDARD.encode(rest)));
    assert!(got.contains("sk-in-base64"), "{got}");

    let get = frame(&[text(1, "none"), text(2, "mcp")].concat());
    let (refused, said) = call(&server, "GetSecret", &STANDARD.encode(get));
    assert_eq!(refused.header("x-agentrouter-reason"), Some("SECRET_NOT_FOUND"), "{refused:?}");
    assert!(
        format!("{}{said}", refused.head.to_lowercase()).contains("grpc-status:5")
            || said.contains("grpc-status: 5")
            || refused.header("grpc-status") == Some("5")
    );
    for malformed in ["AAAA*", "AAAAA", "%%%%"] {
        let (refused, _) = call(&server, "GetSecret", malformed);
        assert_eq!(
            refused.header("x-agentrouter-reason"),
            Some("MALFORMED_BODY"),
            "{malformed}: {refused:?}"
        );
    }
}
