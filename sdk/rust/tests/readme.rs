//! The example of the README is the one in `examples`, and works.

#![allow(missing_docs)]

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

use agentrouter_sdk::secret::v1::{GetSecretValueResponse, Secret};
use buffa::Message;

const KEY: &str = "0123456789abcdef_0000000000000000000000000000000000000000000000000";

#[test]
fn the_example_of_the_readme_is_the_one_that_runs_here() {
    let readme = include_str!("../README.md");
    let (_, rest) = readme.split_once("```rust,no_run\n").expect("an example");
    let (example, _) = rest.split_once("```").expect("its end");
    let (_, program) = include_str!("../examples/value.rs").split_once("\n\n").expect("a program");
    assert_eq!(example, program);
}

#[test]
fn the_example_reads_a_value_or_reports_that_it_is_absent() {
    let secret = Secret { version: 3, ..Default::default() };
    let response = GetSecretValueResponse { value: "0123456789".into(), secret: Some(secret).into() };
    let found = run_example("200 OK", "application/proto", &response.encode_to_vec());
    assert_eq!(String::from_utf8_lossy(&found.stdout), "version 3 is 10 bytes long\n", "{found:?}");

    // Its detail is a google.rpc.ErrorInfo with that reason.
    let refusal = br#"{"code":"not_found","message":"No.","details":[{"type":"google.rpc.ErrorInfo","value":"ChBTRUNSRVRfTk9UX0ZPVU5E"}]}"#;
    let absent = run_example("404 Not Found", "application/json", refusal);
    assert_eq!(String::from_utf8_lossy(&absent.stdout), "there is no such secret\n", "{absent:?}");
    assert!(found.status.success() && absent.status.success());
}

/// Runs the example against a server with this response.
fn run_example(status: &str, content_type: &str, body: &[u8]) -> Output {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    let response = [head.as_bytes(), body].concat();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("the example calls");
        // The request is small: one read has all of it.
        let _ = stream.read(&mut [0; 4096]);
        stream.write_all(&response).expect("it listens");
    });
    // `cargo test` builds the examples beside the tests.
    let tests = std::env::current_exe().expect("this test's path");
    let example = tests.parent().and_then(Path::parent).expect("a folder of builds").join("examples/value");
    Command::new(example)
        .env("AGENTROUTER_BASE_URL", url)
        .env("AGENTROUTER_API_KEY", KEY)
        .output()
        .expect("the example was built; run all tests of the package to build it")
}
