//! The pages for browsers, and the documents for client generators.

use crate::support::{Server, root};

#[test]
fn pages_have_a_policy_that_allows_no_other_content() {
    let server = Server::start();
    for (path, kind) in [
        ("/", "text/html; charset=utf-8"),
        ("/docs", "text/html; charset=utf-8"),
        ("/assets/console.css", "text/css; charset=utf-8"),
        ("/assets/console.js", "text/javascript; charset=utf-8"),
        ("/assets/metadata.js", "text/javascript; charset=utf-8"),
        ("/assets/docs.js", "text/javascript; charset=utf-8"),
        ("/openapi.json", "application/json"),
        ("/sdk", "text/html; charset=utf-8"),
    ] {
        let reply = server.send("GET", path, &[], b"");
        assert_eq!((reply.status, reply.header("content-type")), (200, Some(kind)), "{path}");
        let policy = reply.header("content-security-policy").expect(path);
        for directive in
            ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"]
        {
            assert!(policy.contains(directive), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{path}: {policy}");
        for (header, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "no-referrer"),
        ] {
            assert_eq!(reply.header(header), Some(value), "{path}");
        }
        assert!(!reply.body.is_empty(), "{path}");
        let head = server.send("HEAD", path, &[], b"");
        assert_eq!((head.status, head.body.as_str()), (200, ""), "{path}");
    }
    // Every file that a page requests exists.
    for page in ["/", "/docs", "/sdk"] {
        let html = server.send("GET", page, &[], b"").body;
        let wanted: Vec<&str> = html
            .split(['"', '\''])
            .filter(|text| text.starts_with("/assets/") || *text == "/openapi.json")
            .collect();
        assert!(!wanted.is_empty(), "{page}");
        for path in wanted {
            assert_eq!(server.send("GET", path, &[], b"").status, 200, "{page} wants {path}");
        }
    }
}

#[test]
fn each_sdk_is_served_as_the_page_describes_it() {
    let server = Server::start();
    let page = server.send("GET", "/sdk", &[], b"").body;
    let folder = root().join("crates/server/assets/sdk");
    let sums = std::fs::read_to_string(folder.join("SHA256SUMS")).expect("the sums");
    let listed: Vec<(&str, &str)> = sums.lines().map(|line| line.split_once("  ").expect("a sum")).collect();
    assert_eq!(listed.len(), 3);
    for (sum, file) in listed {
        let bytes = std::fs::read(folder.join(file)).expect("a tarball");
        let size = format!("{} KiB", bytes.len().div_ceil(1024));
        for text in [file, sum, &size, env!("CARGO_PKG_VERSION")] {
            assert!(page.contains(text), "{file}: {text}");
        }
        let request = format!("GET /sdk/{file} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n");
        let response = server.raw(request.as_bytes());
        let head = String::from_utf8_lossy(&response[..response.len() - bytes.len()]).to_ascii_lowercase();
        assert!(
            head.starts_with("http/1.1 200 ") && head.contains("content-type: application/gzip\r\n"),
            "{head}"
        );
        assert!(head.ends_with("\r\n\r\n") && response.ends_with(&bytes), "{file} comes as it is");
        assert!(bytes.starts_with(&[0x1f, 0x8b]));
    }
    for absent in ["/sdk/", "/sdk/agentrouter-go-0.1.0.tar.gz", "/sdk/SHA256SUMS"] {
        assert_eq!(server.send("GET", absent, &[], b"").status, 404, "{absent}");
    }
}

#[test]
fn the_openapi_document_describes_the_seven_calls() {
    let server = Server::start();
    let document = server.send("GET", "/openapi.json", &[], b"").json();
    let version = document["openapi"].as_str().expect("a version");
    assert!(version.starts_with("3.1."), "{version}");
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("methods") {
            if ["get", "post", "put", "patch", "delete"].contains(&method.as_str()) {
                assert!(operation["responses"]["200"].is_object(), "{method} {path}");
                found.push(format!("{} {path}", method.to_uppercase()));
            }
        }
    }
    found.sort();
    assert_eq!(
        found,
        [
            "DELETE /v1/secrets/{name}",
            "GET /v1/secrets",
            "GET /v1/secrets/{name}",
            "POST /v1/secrets",
            "POST /v1/secrets/{name}/rotate",
            "POST /v1/secrets/{name}/validate",
            "POST /v1/secrets/{name}/value",
        ]
    );
    // Every reference within the document resolves.
    let mut references = Vec::new();
    collect(&document, &mut references);
    assert!(!references.is_empty());
    for reference in references {
        let pointer = reference.strip_prefix('#').expect("within the document");
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}

fn collect(value: &serde_json::Value, references: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(members) => {
            references.extend(members.get("$ref").and_then(|text| text.as_str()).map(str::to_owned));
            members.values().for_each(|member| collect(member, references));
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| collect(item, references)),
        _ => {}
    }
}
