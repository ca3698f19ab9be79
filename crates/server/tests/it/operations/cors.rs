//! CORS: other origins are rejected, except those in the settings.

use crate::support::{Reply, Server};

const APP: &str = "https://app.example.com";
const PROCEDURE: &str = "/agentrouter.secret.v1.SecretService/ListSecrets";

/// The preflight request of a browser.
fn asked(server: &Server, path: &str, origin: &str) -> Reply {
    let headers = [
        ("Origin", origin),
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "authorization,connect-protocol-version,content-type"),
    ];
    server.send("OPTIONS", path, &headers, b"")
}

fn called(server: &Server, path: &str, origin: &str, key: &str) -> Reply {
    let authorization = format!("Bearer ak-{key}");
    let headers =
        [("Origin", origin), ("Authorization", authorization.as_str()), ("Content-Type", "application/json")];
    server.send("POST", path, &headers, b"{}")
}

fn has_cors(reply: &Reply) -> bool {
    reply.head.to_ascii_lowercase().contains("access-control-")
}

#[test]
fn by_default_no_other_origin_is_allowed() {
    let server = Server::start();
    for path in ["/v1/secrets", PROCEDURE, "/", "/openapi.json"] {
        let reply = asked(&server, path, APP);
        assert_eq!((reply.status, has_cors(&reply)), (405, false), "{path}");
    }
    let reply = called(&server, PROCEDURE, APP, &server.key);
    assert_eq!((reply.status, has_cors(&reply)), (200, false));
}

#[test]
fn only_a_named_origin_may_call_the_api() {
    let server = Server::start_with(&["--cors-origins", "http://localhost:5173,https://app.example.com"]);
    for path in ["/v1/secrets", "/v1/secrets/n/value", PROCEDURE] {
        let reply = asked(&server, path, APP);
        assert_eq!((reply.status, reply.body.as_str()), (204, ""), "{path}: {reply:?}");
        assert_eq!(reply.header("access-control-allow-origin"), Some(APP), "{path}");
        let listed = |header: &str, word: &str| {
            reply.header(header).is_some_and(|value| value.split(", ").any(|listed| listed == word))
        };
        for method in ["GET", "POST", "DELETE"] {
            assert!(listed("access-control-allow-methods", method), "{path}: {method}");
        }
        for name in ["authorization", "content-type", "connect-protocol-version", "connect-timeout-ms"] {
            assert!(listed("access-control-allow-headers", name), "{path}: {name}");
        }
        assert_eq!(reply.header("access-control-allow-credentials"), None, "{path}");
        for other in [
            "https://app.example.com.evil.example",
            "https://app.example.co",
            "null",
            "http://app.example.com",
        ] {
            let reply = asked(&server, path, other);
            assert_eq!((reply.status, has_cors(&reply)), (405, false), "{path}: {other}");
            assert_eq!(reply.header("vary"), Some("origin"), "{path}: {other}");
        }
    }
    for path in ["/", "/metrics", "/livez", "/sdk", "/openapi.json"] {
        assert!(!has_cors(&asked(&server, path, APP)), "{path}");
        assert!(!has_cors(&server.send("GET", path, &[("Origin", APP)], b"")), "{path}");
    }
    // A script can read any response, errors too. A key is still needed.
    let unknown = format!("{}_{}", "0".repeat(16), "0".repeat(49));
    for (key, status) in [(server.key.as_str(), 200), (&unknown, 401)] {
        let reply = called(&server, PROCEDURE, APP, key);
        assert_eq!((reply.status, reply.header("access-control-allow-origin")), (status, Some(APP)));
        assert!(
            reply.header("access-control-expose-headers").is_some_and(|names| names.contains("retry-after"))
        );
        assert_eq!(reply.header("vary"), Some("origin"));
    }
    assert!(!has_cors(&called(&server, PROCEDURE, "https://evil.example", &server.key)));
}
