//! Concurrency: no write is lost between two writers, and no reader sees the state before an acknowledged write.

mod freshness;
mod pages;
mod startup;
mod writers;

use std::path::Path;

use serde_json::Value;

use crate::support::Connection;

/// A request that must succeed.
fn ok(connection: &mut Connection, method: &str, path: &str, body: &str) -> Value {
    let reply = connection.call(method, path, body).expect("a response");
    assert_eq!(reply.status, 200, "{method} {path}: {reply:?}");
    reply.json()
}

/// All rows of a list, page by page, in order. Each filter ends in `&`.
fn walk(connection: &mut Connection, filters: &str, page_size: usize) -> Vec<Value> {
    let (mut rows, mut token) = (Vec::new(), String::new());
    loop {
        let path = format!("/v1/secrets?{filters}page_size={page_size}&page_token={token}");
        let page = ok(connection, "GET", &path, "");
        rows.extend(page["secrets"].as_array().expect("a list").iter().cloned());
        page["next_page_token"].as_str().expect("a token").clone_into(&mut token);
        if token.is_empty() {
            return rows;
        }
    }
}

/// The error of a command that must fail: an error and hints on standard error, nothing on
/// standard output.
fn one_error(args: &[&str]) -> String {
    let output = crate::support::run(args);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    let text = String::from_utf8(output.stderr).expect("UTF-8");
    let mut lines = text.lines();
    assert!(lines.next().is_some_and(|line| line.starts_with("error: ")), "{text}");
    assert!(lines.all(|line| line.starts_with("hint: ")), "{text}");
    text
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of UTF-8")
}
