//! Listening on a Unix socket, beside a port.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use agentrouter_testkit::ServerProcess;

use crate::support::{Reply, Server, binary, run};

fn list(socket: &Path, key: &str) -> Reply {
    let request = format!(
        "GET /v1/secrets HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer ak-{key}\r\n\r\n"
    );
    Reply::parse(&talk(socket, request.as_bytes()))
}

fn talk(socket: &Path, request: &[u8]) -> Vec<u8> {
    let mut stream = UnixStream::connect(socket).expect("it listens");
    stream.write_all(request).expect("sent");
    let mut response = Vec::new();
    stream.read_to_end(&mut response).expect("a response");
    response
}

#[test]
fn a_unix_socket_serves_both_http_versions_and_the_audit_log_has_the_user() {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("secrets.sock");
    let listen = format!("unix:{}", socket.display());
    let server = Server::start_with(&["--listen", &listen]);
    let file = socket.symlink_metadata().expect("made");
    assert!(file.file_type().is_socket());
    assert_eq!(file.permissions().mode() & 0o777, 0o660);

    assert_eq!(list(&socket, &server.key).status, 200);
    assert_eq!(list(&socket, "wrong").status, 401);
    assert_eq!(server.call("GET", "/v1/secrets", "").status, 200, "the port beside it");

    // The preface of HTTP/2, an empty SETTINGS frame, and GOAWAY, after which the server closes.
    let mut http2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    http2.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
    http2.extend([0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let response = talk(&socket, &http2);
    assert_eq!(response.get(3), Some(&4), "SETTINGS: {response:?}");

    let log = std::fs::read_to_string(server.data("audit/audit.jsonl")).expect("the audit log");
    let own = rustix::process::geteuid().as_raw();
    assert_eq!(log.matches(&format!("\"unix:uid={own}\"")).count(), 2, "{log}");
    assert_eq!(server.process.stop().code(), Some(0));
    assert!(!socket.exists(), "it is removed at the end");
}

#[test]
fn a_socket_alone_is_enough_and_replaces_that_of_a_killed_server() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let socket = dir.path().join("secrets.sock");
    let listen = format!("unix:{}", socket.display());
    let base_url = || std::fs::read_to_string(data.join("bootstrap.env")).expect("bootstrap.env");
    for _ in 0..2 {
        let process = ServerProcess::start_at(binary(), &data, &listen);
        assert_eq!(list(&socket, &process.bootstrap_key()).status, 200);
        assert!(base_url().contains(&format!("AGENTROUTER_BASE_URL={listen}\n")), "{}", base_url());
        process.kill();
        assert!(socket.exists(), "a killed server leaves it");
    }
    // The address in the file follows the setting.
    let server = Server::on(&data);
    assert!(base_url().contains(&format!("AGENTROUTER_BASE_URL={}\n", server.process.url)), "{}", base_url());
}

#[test]
fn a_path_in_use_and_tls_without_a_port_stop_the_start() {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("secrets.sock");
    let listen = format!("unix:{}", socket.display());
    let server = Server::start_with(&["--listen", &listen]);
    let data = dir.path().join("other");
    let data = data.to_str().expect("UTF-8");
    let second = run(&["serve", "--data-dir", data, "--listen", &listen]);
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot listen on unix:") && said.contains("in use by process"), "{said}");
    assert_eq!(list(&socket, &server.key).status, 200, "the first continues");

    // The socket for commands, by any spelling of its path.
    for path in ["other/admin.sock", "other/../other/./admin.sock"] {
        let listen = format!("unix:{}", dir.path().join(path).display());
        let said = run(&["serve", "--data-dir", data, "--listen", &listen]);
        assert_eq!(said.status.code(), Some(1), "{said:?}");
        let said = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(
            said.contains("the socket for commands") && said.contains("hint: name another path"),
            "{said}"
        );
    }

    let args = ["serve", "--data-dir", data, "--listen", "unix:x", "--tls-cert", "c", "--tls-key", "k"];
    let said = String::from_utf8_lossy(&run(&args).stderr).into_owned();
    assert!(said.contains("no address of 'listen' uses TLS"), "{said}");
}

#[test]
fn callers_of_a_socket_are_limited_and_can_be_trusted_like_those_of_the_loopback() {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("secrets.sock");
    let listen = format!("unix:{}", socket.display());
    let args = ["--listen", &listen, "--limit-failed-auth-rate", "1", "--trusted-proxies", "127.0.0.1"];
    let server = Server::start_with(&args);
    let request = format!(
        "GET /v1/secrets HTTP/1.1\r\nHost: h\r\nConnection: close\r\nX-Forwarded-For: 192.0.2.7\r\nAuthorization: Bearer ak-{}\r\n\r\n",
        server.key
    );
    assert_eq!(Reply::parse(&talk(&socket, request.as_bytes())).status, 200);
    let log = std::fs::read_to_string(server.data("audit/audit.jsonl")).expect("the audit log");
    assert!(log.contains("\"192.0.2.7\""), "{log}");
    // Ten times the rate at once, then one a second.
    let limited = (0..100).any(|_| list(&socket, "wrong").status == 429);
    assert!(limited, "failed authentications are limited");
}
