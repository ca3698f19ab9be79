//! Programs of Kubernetes at the other end: the client of its API server calls the plugin, and the server calls a plugin
//! that is made on its library. Their source is in `xtask/kubernetes`.

use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::openbao::OpenBao;
use crate::page::{commands, installed};
use crate::server::{Server, until};

/// Runs the API server's client on a socket, with this input. Returns whether it succeeded, and its output.
fn call(socket: &Path, command: &str, input: &str) -> (bool, String) {
    let mut client = Command::new(installed("AGENTROUTER_TEST_KUBERNETES").join("client"))
        .arg(socket)
        .arg(command)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the client starts");
    // A client that fails early does not read.
    let _ = client.stdin.take().expect("piped").write_all(input.as_bytes());
    let output = client.wait_with_output().expect("it ends");
    (output.status.success(), String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_calls_the_plugin() {
    let (bao, token) = OpenBao::set_up();
    let plugin = bao.plugin("agentrouter", &token);
    let done = |command: &str, input: &str| {
        let (done, output) = call(&plugin.socket, command, input);
        assert!(done, "{output}");
        output
    };
    let fails = |command: &str, input: &str| {
        let (done, output) = call(&plugin.socket, command, input);
        assert!(!done, "{output}");
        output
    };
    assert_eq!(done("status", ""), "transit/agentrouter:v1");
    let stored = done("encrypt", "a secret of a cluster");
    assert_eq!(done("decrypt", &stored), "fresh a secret of a cluster");

    // The change of the key: what was stored before it is to be stored again.
    bao.run(&commands("vault-transit")[3]);
    assert_eq!(done("status", ""), "transit/agentrouter:v2");
    assert_eq!(done("decrypt", &stored), "stale a secret of a cluster");
    let stored = done("encrypt", "another");
    assert_eq!(done("decrypt", &stored), "fresh another");

    bao.run("bao operator seal");
    assert_eq!(fails("status", ""), "Unavailable");
    bao.run(&format!("bao operator unseal {}", bao.unseal_key));
    until("the plugin is healthy again", || call(&plugin.socket, "status", "").0);
    assert_eq!(done("decrypt", &stored), "fresh another");

    bao.run("bao token revoke \"$(cat vault-token)\"");
    assert_eq!(fails("status", ""), "PermissionDenied");
    assert_eq!(fails("decrypt", &stored), "PermissionDenied");
}

/// A plugin on the library of Kubernetes. Its key and its switch are files beside its socket.
struct OtherPlugin(Child);

impl OtherPlugin {
    fn start(folder: &Path) -> Self {
        let socket = folder.join("kms.sock");
        // One that was killed leaves its socket.
        let _ = std::fs::remove_file(&socket);
        let program = installed("AGENTROUTER_TEST_KUBERNETES").join("plugin");
        let child = Command::new(program).arg(&socket).stdin(Stdio::null()).stderr(Stdio::null()).spawn();
        let plugin = Self(child.expect("the plugin starts"));
        until("the plugin serves", || socket.exists());
        plugin
    }
}

impl Drop for OtherPlugin {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_server_calls_a_plugin_that_shares_no_code_with_it() {
    let folder: TempDir = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("kms.sock");
    let arguments = ["--kek-provider", "kms-plugin", "--kek-socket", socket.to_str().expect("UTF-8")];
    let plugin = OtherPlugin::start(folder.path());
    let mut server = Server::start(&arguments, &[]);
    let file = server.kek_file();
    assert!(file.contains("version.plugin.example.com"), "the annotation of the plugin is missing: {file}");
    assert!(!file.contains("\"key\""), "a KEK is in clear: {file}");
    server.write();
    server.start_again();
    assert!(server.reads() && server.is_ready());

    drop(plugin);
    let failures = || server.metric("kek_check_failures_total");
    let before = failures();
    until("a check fails", || failures() > before);
    assert!(server.reads() && server.is_ready(), "an outage takes no KEKs");

    let _plugin = OtherPlugin::start(folder.path());
    std::fs::write(folder.path().join("denied"), "").expect("written");
    until("the server drops its KEKs", || !server.reads());
    assert!(!server.is_ready() && server.metric("keks_dropped") == 1);
    std::fs::remove_file(folder.path().join("denied")).expect("removed");
    until("the server has its KEKs again", || server.reads());
    assert!(server.is_ready());
}
