//! `tare` as a process: what goes to stdout, what to stderr, and the exit status.

#![allow(missing_docs)]

mod calls;
mod completion;
mod export;
mod fake;
mod import;
mod network;
mod profiles;
mod run;
mod streams;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use fake::KEY;

/// Runs `tare` with `stdin`, in an environment of its own.
fn tare(url: &str, arguments: &[&str], stdin: &str) -> Output {
    run(&mut command(url, arguments), stdin)
}

fn run(command: &mut Command, stdin: &str) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("tare starts");
    // A command that does not read it may have ended.
    let _ = child.stdin.take().expect("piped").write_all(stdin.as_bytes());
    child.wait_with_output().expect("tare ends")
}

fn command(url: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tare"));
    for variable in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"] {
        command.env_remove(variable).env_remove(variable.to_ascii_lowercase());
    }
    command
        .args(arguments)
        .env_remove("AGENTROUTER_CA_FILE")
        .env_remove("SSL_CERT_FILE")
        .env_remove("AGENTROUTER_PROFILE")
        .env_remove("AGENTROUTER_ALLOW_HTTP")
        .env("XDG_CONFIG_HOME", "/nowhere")
        .env("AGENTROUTER_BASE_URL", url)
        .env("AGENTROUTER_API_KEY", KEY);
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// Runs `tare`, which must succeed with nothing on stderr; its stdout.
fn said(url: &str, arguments: &[&str], stdin: &str) -> String {
    let output = tare(url, arguments, stdin);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "", "{arguments:?}");
    text(&output.stdout)
}

/// Runs `tare`, which must fail with `status`, an `error:` and nothing on stdout; its stderr.
fn refused(url: &str, arguments: &[&str], status: i32) -> String {
    let output = tare(url, arguments, "");
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {stderr}");
    assert_eq!(text(&output.stdout), "", "{arguments:?}");
    assert!(stderr.contains("error: "), "{stderr}");
    let hints = stderr.lines().filter(|line| line.starts_with("hint: ")).count();
    assert_eq!(hints, 1, "what to do, once: {stderr}");
    stderr
}

fn store(url: &str, realm: &str, name: &str, value: &str) {
    said(url, &["api", "secret", "create", name, "--realm", realm, "--value-file", "-"], value);
}

/// A file with that text in a folder of its own.
fn file(name: &str, text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(name);
    std::fs::write(&path, text).expect("written");
    let path = Path::to_str(&path).expect("UTF-8").to_owned();
    (folder, path)
}
