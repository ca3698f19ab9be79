//! The errors of `tare`, and its exit status.

use std::process::Stdio;

use super::{Setup, TareRun, command};
use crate::support::closed_port;

/// Checks that it failed: nothing on stdout, an error, a hint that contains `hint`, and that status.
fn refused(ran: &TareRun, code: i32, error: &str, hint: &str) {
    assert_eq!((ran.code, ran.out.as_str()), (Some(code), ""), "{ran:?}");
    let said = ran.err.lines().find_map(|line| line.strip_prefix("error: ")).unwrap_or_default();
    assert!(!said.is_empty() && said.contains(error), "{error}: {}", ran.err);
    let found = ran.err.lines().any(|line| line.starts_with("hint: ") && line.contains(hint));
    assert!(found, "{hint}: {}", ran.err);
}

#[test]
fn a_refusal_of_the_server_is_1_and_a_missing_permission_4() {
    let setup = Setup::new();
    refused(&setup.secret(&["get", "absent"]), 1, "no such secret", "tare api secret list");
    refused(
        &setup.secret(&["create", "a..b", "--value", "x"]),
        1,
        "name must be 1 to 255 characters",
        "NAME",
    );
    refused(&setup.secret(&["create", "new"]), 1, "value must be set", "--value-file FILE");
    refused(&setup.secret(&["list", "--page-size=-1"]), 1, "page_size must not be negative", "--page-size");
    let list = ["list", "--page-token", "nonsense"];
    refused(&setup.secret(&list), 1, "page_token is not valid", "same filters");
    setup.secret(&["create", "n", "--value", "sk-canary"]);
    let stale = ["rotate", "n", "--new-value", "x", "--expected-version", "9"];
    let ran = setup.secret(&stale);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(
        ran.err.contains("error: ") && ran.err.contains("hint: 'tare api secret get NAME'"),
        "{}",
        ran.err
    );

    let server = &setup.server;
    let reader = server.issue("admin", "secrets/read", &[]);
    let as_reader = |args: &[&str]| {
        TareRun::of(
            command(&server.process.url, &reader, args).stdin(Stdio::null()).output().expect("tare runs"),
        )
    };
    let value = ["api", "secret", "secret-value", "get", "n", "--realm", "mcp"];
    refused(&as_reader(&value), 4, "scope", "secrets/read/internal");
    assert_eq!(as_reader(&["api", "secret", "get", "n", "--realm", "mcp"]).code, Some(0));
    let limited = server.issue("admin", "secrets/read,secrets/write", &["--realm", "mcp", "--realms", "mcp"]);
    let as_limited = |args: &[&str]| {
        let mut command = command(&server.process.url, &limited, args);
        TareRun::of(command.stdin(Stdio::null()).output().expect("tare runs"))
    };
    let elsewhere = ["api", "secret", "get", "n", "--realm", "other"];
    refused(&as_limited(&elsewhere), 4, "realm", "'agentrouter-secrets key list'");
    let foreign = ["api", "secret", "create", "x", "--user-id", "bob", "--update-mask", "value"];
    refused(&as_limited(&foreign), 4, "", "secrets/write/internal");
    let revoked = std::process::Command::new(crate::support::binary())
        .args(["key", "revoke", &reader[..16], "--data-dir"])
        .arg(server.process.data_dir())
        .output()
        .expect("the binary runs");
    assert!(revoked.status.success());
    refused(&as_reader(&value), 1, "key", "AGENTROUTER_API_KEY");

    // A key of the right form that does not exist reaches the server.
    let last = if reader.ends_with('0') { '1' } else { '0' };
    let mistyped = format!("{}{last}", &reader[..reader.len() - 1]);
    let get = ["api", "secret", "get", "n", "--realm", "mcp"];
    let output = command(&server.process.url, &mistyped, &get).stdin(Stdio::null()).output();
    refused(&TareRun::of(output.expect("tare runs")), 1, "key", "AGENTROUTER_API_KEY");
}

#[test]
fn several_wrong_fields_are_all_named() {
    let setup = Setup::new();
    let wrong = ["api", "secret", "create", "a..b", "--realm", "NO", "--value", "v", "--tag", "bad key=x"];
    let ran = setup.run(&wrong);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    for field in ["\n  name ", "\n  realm ", "\n  tags"] {
        assert!(ran.err.contains(field), "{field}: {}", ran.err);
    }
    assert!(!ran.err.contains("a..b") && !ran.err.contains("bad key"), "nothing is repeated: {}", ran.err);
}

#[test]
fn a_wrong_command_line_or_setting_is_2() {
    let setup = Setup::new();
    refused(&setup.secret(&["rotate", "n"]), 2, "needs a new value", "--new-value-file");
    refused(&setup.secret(&["delete", "n"]), 2, "no terminal", "--yes");
    refused(&setup.secret(&["create", "n", "--value-file", "/nowhere"]), 2, "/nowhere", "");
    assert_eq!(setup.secret(&["get"]).code, Some(2));
    assert_eq!(setup.secret(&["get", "n", "-o", "xml"]).code, Some(2));
    let run = |url: &str, key: &str| {
        let list = ["api", "secret", "list"];
        TareRun::of(command(url, key, &list).stdin(Stdio::null()).output().expect("tare runs"))
    };
    let (url, key) = (setup.server.process.url.as_str(), setup.server.key.as_str());
    refused(&run("", key), 2, "", "AGENTROUTER_BASE_URL");
    refused(&run(url, ""), 2, "", "AGENTROUTER_API_KEY");
    refused(&run("not a url", key), 2, "", "http://127.0.0.1:8080");
    refused(&run(url, "ak-canary"), 2, "", "whole");
    assert_eq!(run(url, &format!("ak-{key}")).code, Some(0), "with the prefix it is the same key");
}

#[test]
fn a_server_that_cannot_be_reached_is_3() {
    let setup = Setup::new();
    let (_socket, address) = closed_port();
    let list = ["api", "secret", "list", "--timeout", "3s"];
    let output =
        command(&format!("http://{address}"), &setup.server.key, &list).stdin(Stdio::null()).output();
    let ran = TareRun::of(output.expect("tare runs"));
    refused(&ran, 3, "cannot reach the server", "AGENTROUTER_BASE_URL");
}

#[test]
fn the_body_of_another_service_is_not_shown() {
    let setup = Setup::new();
    let prefixed = format!("{}/prefix", setup.server.process.url);
    let output =
        command(&prefixed, &setup.server.key, &["api", "secret", "list"]).stdin(Stdio::null()).output();
    let ran = TareRun::of(output.expect("tare runs"));
    // The service itself reports, in the protocol's terms, that there is no such procedure.
    refused(&ran, 1, "no such path or procedure", "without a path");
    assert!(!ran.err.contains('{'), "{}", ran.err);

    let proxy = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", proxy.local_addr().expect("an address"));
    std::thread::spawn(move || {
        use std::io::{Read as _, Write as _};
        for mut stream in proxy.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(
                b"HTTP/1.1 502 Bad Gateway\r\ncontent-type: text/html\r\ncontent-length: 21\r\nconnection: close\r\n\r\n<html>upstream</html>",
            );
        }
    });
    let list = ["api", "secret", "list", "--timeout", "5s"];
    let output = command(&url, &setup.server.key, &list).stdin(Stdio::null()).output();
    let ran = TareRun::of(output.expect("tare runs"));
    refused(&ran, 3, "something else responded (HTTP error 502)", "perhaps a proxy");
    assert!(!ran.err.contains("upstream"), "{}", ran.err);
}
