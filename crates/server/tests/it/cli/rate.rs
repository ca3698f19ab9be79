//! Commands with many requests against a server that limits the rate.

use super::{command, file};
use crate::support::Server;

#[test]
fn an_import_and_a_run_stay_within_the_rate_limit() {
    let server = Server::start_with(&["--limit-key-rate", "100", "--limit-key-burst", "20"]);
    let text: String = (0..100).map(|i| format!("N{i}_KEY=v{i}\n")).collect();
    let (_dir, path) = file("many.env", &text);
    let run = |args: &[&str]| {
        let output = command(&server.process.url, &server.key, args).output().expect("tare runs");
        super::TareRun::of(output).done()
    };
    let report = run(&["secret", "import", &path, "--realm", "r"]);
    assert!(report.ends_with("realm r: 100 created\n"), "{report}");
    let count = ["secret", "run", "--realm", "r", "--", "sh", "-c", "env | grep -c _KEY=v"];
    assert_eq!(run(&count), "100\n");
}

#[test]
fn whoami_shows_the_scopes_that_the_server_grants() {
    let server = Server::start();
    let scopes = |key: &str| {
        let output =
            command(&server.process.url, key, &["whoami", "-o", "json"]).output().expect("tare runs");
        let out = super::TareRun::of(output).done();
        let value: serde_json::Value = serde_json::from_str(&out).expect("JSON");
        let scopes = value["scopes"].as_array().expect("a list").clone();
        scopes.iter().map(|scope| scope.as_str().expect("a text").to_owned()).collect::<Vec<_>>().join(",")
    };
    for granted in [
        "secrets/read",
        "secrets/write",
        "secrets/read/internal",
        "secrets/read,secrets/write",
        "secrets/write,secrets/write/internal",
        "secrets/read,secrets/write,secrets/read/internal,secrets/write/internal",
    ] {
        assert_eq!(scopes(&server.issue("admin", granted, &[])), granted);
    }
}
