//! `health`: the check that a container runs.

use std::process::Command;

use agentrouter_testkit::ServerProcess;

use crate::support::{Server, binary, closed_port, run};
use crate::tls::{Files, Identity};

/// The exit status and the output.
fn health(data: &std::path::Path, more: &[&str]) -> (Option<i32>, String) {
    let mut args = vec!["health", "--data-dir", data.to_str().expect("UTF-8")];
    args.extend(more);
    let output = run(&args);
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn a_server_on_any_port_and_with_tls_is_found_by_its_data_directory() {
    let plain = Server::start();
    let (_files, tls) = Files::of(&Identity::new()).start();
    for server in [&plain, &tls] {
        for (more, path) in [(&[][..], "/livez"), (&["--ready"], "/readyz")] {
            let checked = health(server.process.data_dir(), more);
            assert_eq!(checked, (Some(0), format!("{}{path} returns 200\n", server.process.url)));
        }
    }
    let records = std::fs::read_to_string(plain.data("audit/audit.jsonl")).expect("the audit log");
    let before = records.lines().count();
    assert_eq!(health(plain.process.data_dir(), &[]).0, Some(0));
    let records = std::fs::read_to_string(plain.data("audit/audit.jsonl")).expect("the audit log");
    assert_eq!(records.lines().count(), before, "a health check is not recorded");
}

#[test]
fn a_unix_socket_alone_is_checked_too() {
    let dir = tempfile::tempdir().expect("a directory");
    let listen = format!("unix:{}", dir.path().join("s").display());
    let server = ServerProcess::start_at(binary(), &dir.path().join("data"), &listen);
    assert_eq!(health(server.data_dir(), &[]), (Some(0), format!("{listen}/livez returns 200\n")));
}

#[test]
fn without_the_data_directory_the_settings_have_the_address() {
    let (_files, server) = Files::of(&Identity::new()).start();
    let outer = tempfile::tempdir().expect("a directory");
    let missing = outer.path().join("missing");
    let authority = server.process.authority();
    // That there is a certificate turns TLS on.
    let tls = ["--tls-cert", "cert", "--tls-key", "key"];
    let (code, said) = health(&missing, &[&["--listen", authority][..], &tls].concat());
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = health(&missing, &["--listen", authority]);
    assert_eq!(code, Some(1), "plain HTTP to a port of TLS: {said}");
    let (code, said) = health(&missing, &["--listen", "127.0.0.1:0"]);
    assert!(code == Some(1) && said.contains("--data-dir"), "{said}");
}

#[test]
fn a_directory_without_its_server_is_not_healthy_because_of_another_server() {
    let other = Server::start();
    let listen = ["--listen", other.process.authority()];
    // A directory that no server has used, and one whose server was killed.
    let empty = tempfile::tempdir().expect("a directory");
    let killed = Server::start();
    let Server { process, _dir, .. } = killed;
    let data = process.data_dir().to_owned();
    process.kill();
    for dir in [empty.path(), &data] {
        let (code, said) = health(dir, &listen);
        let expected = format!("no server runs on {}", dir.display());
        assert!(code == Some(1) && said.contains(&expected) && said.contains("--data-dir"), "{said}");
    }
}

#[test]
fn a_server_that_does_not_respond_or_is_not_ready_is_not_healthy() {
    let (_kept, closed) = closed_port();
    let outer = tempfile::tempdir().expect("a directory");
    let (code, said) = health(&outer.path().join("missing"), &["--listen", &closed.to_string()]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("does not respond"), "{said}");

    // A suspended process accepts the connection and does not respond.
    let server = Server::start();
    let id = server.process.id().to_string();
    let signal =
        |name: &str| assert!(Command::new("kill").args([name, &id]).status().expect("kill runs").success());
    signal("-STOP");
    let listen = ["--listen", server.process.authority(), "--timeout", "500ms"];
    let (code, said) = health(server.process.data_dir(), &listen);
    signal("-CONT");
    assert_eq!(code, Some(1), "{said}");

    let draining = Server::start_with(&["--drain-time", "600s"]);
    let id = draining.process.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().expect("kill runs").success());
    while draining.send("GET", "/readyz", &[], b"").status == 200 {}
    let data = draining.process.data_dir();
    let (code, said) = health(data, &["--ready"]);
    assert!(code == Some(1) && said.contains("returns 503") && said.contains("SHUTTING_DOWN"), "{said}");
    assert_eq!(health(data, &[]).0, Some(0), "it lives");
}
