//! Damage of one row affects only that row: all others are served, it is reported, and it can be deleted.

use agentrouter_testkit::ServerProcess;
use rusqlite::Connection;

use crate::support::{Server, binary};

#[test]
fn a_damaged_row_is_left_out_named_and_deleted() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let server = Server::on(&data);
    for name in ["a", "b", "c"] {
        let body = format!(r#"{{"name":"{name}","realm":"mcp","value":"v-{name}"}}"#);
        assert_eq!(server.call("POST", "/v1/secrets", &body).status, 200);
    }
    let rotate = r#"{"realm":"mcp","new_value":"w"}"#;
    assert_eq!(server.call("POST", "/v1/secrets/c/rotate", rotate).status, 200);
    assert!(server.process.stop().success());

    let conn = Connection::open(data.join("secrets.db")).expect("opened");
    conn.execute_batch(
        "PRAGMA ignore_check_constraints = ON; UPDATE secrets SET tags = '[' WHERE name = 'b'; \
         UPDATE versions SET sealed = NULL WHERE name = 'c' AND version = 1;",
    )
    .expect("damaged");
    drop(conn);

    let server = Server::of(ServerProcess::start(binary(), &data, &[]));
    let list = server.call("GET", "/v1/secrets?realm=mcp", "");
    assert_eq!(list.status, 200, "{list:?}");
    let names: Vec<_> =
        list.json()["secrets"].as_array().expect("a list").iter().map(|s| s["name"].clone()).collect();
    assert_eq!(names, ["a", "c"]);
    let metrics = server.send("GET", "/metrics", &[], b"").body;
    let damaged =
        metrics.lines().find(|line| line.starts_with("agentrouter_secrets_unreadable_versions_total"));
    assert!(damaged.is_some_and(|line| !line.ends_with(" 0")), "the loss shows in the metrics: {damaged:?}");

    let get = server.call("GET", "/v1/secrets/b?realm=mcp", "");
    assert_eq!(get.reason(), "SECRET_CORRUPT", "{get:?}");
    let validate = |name: &str| {
        let reply = server.call("POST", &format!("/v1/secrets/{name}/validate"), r#"{"realm":"mcp"}"#);
        assert_eq!(reply.status, 200, "{reply:?}");
        (reply.json()["valid"].as_bool(), reply.json()["error"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(validate("a"), (Some(true), String::new()));
    assert_eq!(validate("b"), (Some(false), "version 1: corrupt".to_owned()));
    assert_eq!(validate("c"), (Some(false), "version 1: corrupt".to_owned()));
    let active = server.call("POST", "/v1/secrets/c/value", r#"{"realm":"mcp"}"#);
    assert_eq!(active.json()["value"], "w", "the active version is none the worse for it");

    assert_eq!(server.call("DELETE", "/v1/secrets/b?realm=mcp", "").status, 200);
    assert_eq!(server.call("DELETE", "/v1/secrets/b?realm=mcp", "").status, 404);
    let again = server.call("POST", "/v1/secrets", r#"{"name":"b","realm":"mcp","value":"new"}"#);
    assert_eq!(again.json()["secret"]["version"], 1, "{again:?}");
    assert_eq!(validate("b"), (Some(true), String::new()));
}
