//! `tare` as a process: what goes to stdout, what to stderr, and the exit status.

#![allow(missing_docs)]

mod fake;

use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Output, Stdio};

use fake::{Fake, KEY};

/// Runs `tare` with `stdin`, in an environment of its own.
fn tare(url: &str, arguments: &[&str], stdin: &str) -> Output {
    let mut child = command(url, arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("tare starts");
    // A command that does not read it may be gone by now.
    let _ = child.stdin.take().expect("piped").write_all(stdin.as_bytes());
    child.wait_with_output().expect("tare ends")
}

fn command(url: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tare"));
    command
        .args(arguments)
        .env_remove("AGENTROUTER_CA_FILE")
        .env("AGENTROUTER_BASE_URL", url)
        .env("AGENTROUTER_API_KEY", KEY);
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// Runs `tare`, which must succeed without a word on stderr; its stdout.
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

#[test]
fn a_secret_lives_through_all_seven_calls() {
    let url = Fake::start();
    let call = |rest: &[&str], stdin: &str| {
        let arguments = [&["api", "secret"], rest, &["--realm", "mcp"]].concat();
        said(&url, &arguments, stdin)
    };
    let created = call(&["create", "openai", "--value-file", "-", "--tag", "env=prod"], "sk-1\n");
    assert!(created.contains("name     openai\n") && created.contains("version  1\n"), "{created}");
    assert!(created.contains("tags     env=prod\n") && !created.contains("sk-1"), "{created}");
    assert_eq!(call(&["secret-value", "get", "openai"], ""), "sk-1");
    assert!(
        call(&["rotate", "--name", "openai", "--new-value-file", "-", "--grace-period", "24h"], "sk-2")
            .contains("version  2\n")
    );
    assert_eq!(call(&["secret-value", "get", "openai"], ""), "sk-2");
    assert_eq!(call(&["validate", "openai"], ""), "valid  true\n");
    let listed = call(&["list"], "");
    assert!(listed.starts_with("NAME    REALM  USER_ID  VERSION  STATUS  UPDATED_AT  TAGS\n"), "{listed}");
    assert!(
        call(&["get", "openai", "-o", "yaml"], "").starts_with("secret:\n  id: 01HF7YAT00ZZZZZZZZZZZZZZZZ\n")
    );
    let json = call(&["secret-value", "get", "openai", "-o", "json"], "");
    assert!(json.starts_with("{\"value\":\"sk-2\",\"secret\":{\"id\":") && json.ends_with("}}\n"), "{json}");
    assert_eq!(call(&["delete", "openai", "--yes", "-o", "json"], ""), "{\"success\":true}\n");
    assert_eq!(call(&["list"], ""), "no secrets\n");
}

#[test]
fn the_exit_status_tells_a_no_from_a_mistake_from_silence() {
    let url = Fake::start();
    let stderr = refused(&url, &["api", "secret", "get", "nothing"], 1);
    assert!(stderr.contains("\nhint: "), "{stderr}");
    assert!(refused(&url, &["api", "secret", "rotate", "n"], 2).contains("--new-value-file"));
    assert!(refused(&url, &["api", "secret", "delete", "n"], 2).contains("--yes"));
    refused(&url, &["api", "secret", "frobnicate"], 2);
    refused(&url, &["api", "secret", "create", "n", "--tag", "a=1", "--tag", "a=2"], 2);
    assert!(refused("", &["api", "secret", "list"], 2).contains("AGENTROUTER_BASE_URL"));
    refused("localhost:8080", &["api", "secret", "list"], 2);
    refused("http://127.0.0.1:1", &["api", "secret", "list"], 3);
    let mistyped = ["--api-key", "ak-canary", "api", "secret", "list"];
    assert!(!refused(&url, &mistyped, 2).contains("canary"));
    let wrong = KEY.replace('0', "1");
    refused(&url, &["--api-key", &wrong, "api", "secret", "list"], 1);
}

#[test]
fn whatever_is_wrong_has_a_hint() {
    let url = Fake::start();
    let create = |more: &[&str], status| {
        refused(&url, &[&["api", "secret", "create", "n", "--realm", "r"], more].concat(), status)
    };
    assert!(create(&[], 1).contains("hint: '--help'"));
    assert!(create(&["--value-file", "/nowhere"], 2).contains("hint: check the path"));
    assert!(create(&["--value-file", "/"], 2).contains("hint: it must be a file"));
    assert!(create(&["--value-file", "/dev/zero"], 2).contains("hint: a value has at most 65536 bytes"));
    assert!(create(&["--frobnicate"], 2).contains("hint: see '--help'."));
    let list = |flags: &[&str], status| refused(&url, &[flags, &["api", "secret", "list"]].concat(), status);
    assert!(list(&["--timeout", "0s"], 2).contains("hint: give --timeout"));
    assert!(list(&["--base-url", "https://h", "--ca-file", "/nowhere"], 2).contains("hint: --ca-file"));
}

#[test]
fn a_value_may_begin_with_a_dash() {
    let url = Fake::start();
    for (flag, value) in [("--value", "-x"), ("--value", "-----BEGIN PRIVATE KEY-----")] {
        let output = tare(&url, &["api", "secret", "create", "n", flag, value, "--description", "- d"], "");
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert_eq!(said(&url, &["api", "secret", "secret-value", "get", "n"], ""), value);
    }
    assert!(tare(&url, &["api", "secret", "rotate", "n", "--new-value", "-y"], "").status.success());
    assert_eq!(said(&url, &["api", "secret", "secret-value", "get", "n"], ""), "-y");
}

#[test]
fn a_secret_that_does_not_open_is_a_no() {
    let url = Fake::start();
    store(&url, "r", "bad", "corrupt");
    let output = tare(&url, &["api", "secret", "validate", "bad", "--realm", "r"], "");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stdout), "valid  false\nerror  version 1: corrupt\n");
    assert!(text(&output.stderr).starts_with("hint: 'tare api secret rotate NAME'"));
}

#[test]
fn a_value_on_the_command_line_is_taken_with_a_warning() {
    let url = Fake::start();
    let output = tare(&url, &["api", "secret", "create", "n", "--value", "sk-3"], "");
    assert!(output.status.success());
    let stderr = text(&output.stderr);
    assert!(stderr.starts_with("warning: ") && !stderr.contains("sk-3"), "{stderr}");
}

#[test]
fn a_list_of_several_pages_is_one_with_all() {
    let url = Fake::start();
    for name in ["a", "b", "c"] {
        store(&url, "r", name, "v");
    }
    let first = tare(&url, &["api", "secret", "list", "--realm", "r", "--page-size", "2"], "");
    assert_eq!(text(&first.stdout).lines().count(), 3);
    assert!(text(&first.stderr).contains("--page-token 2"), "{}", text(&first.stderr));
    let all = said(&url, &["api", "secret", "list", "--realm", "r", "--page-size", "2", "--all"], "");
    assert_eq!(all.lines().count(), 4);
    let json = said(&url, &["api", "secret", "list", "--realm", "r", "--page-size", "2", "-o", "json"], "");
    assert!(json.ends_with(",\"next_page_token\":\"2\"}\n"), "{json}");
}

#[test]
fn an_import_stores_what_it_can_and_shows_no_value() {
    let url = Fake::start();
    let file = "# keys\nOPENAI_API_KEY=sk-canary-1\nexport B='sk-canary $2'\nEMPTY=\n_BAD=sk-canary-3\nB=sk-canary-4\n";
    let import = |extra: &[&str]| {
        let output = tare(&url, &[&["secret", "import", "-", "--realm", "mcp"], extra].concat(), file);
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert!(!stdout.contains("canary") && !stderr.contains("canary"), "{stdout}{stderr}");
        (output.status.code(), stdout)
    };
    let (_, dry) = import(&["--dry-run"]);
    assert!(dry.contains("nothing was stored"), "{dry}");
    assert_eq!(said(&url, &["api", "secret", "list", "--realm", "mcp"], ""), "no secrets\n");

    let (status, report) = import(&[]);
    assert_eq!(status, Some(1), "one of them failed");
    assert!(report.ends_with("realm mcp: 2 created, 0 updated, 2 skipped, 1 failed\n"), "{report}");
    let (_, again) = import(&["-o", "json"]);
    assert!(again.contains("\"created\":0,\"updated\":2,\"skipped\":2,\"failed\":1,"), "{again}");
    let value = said(&url, &["api", "secret", "secret-value", "get", "B", "--realm", "mcp"], "");
    assert_eq!(value, "sk-canary-4");
}

#[test]
fn a_file_that_cannot_be_read_stores_nothing() {
    let url = Fake::start();
    let output = tare(&url, &["secret", "import", "-", "--realm", "mcp"], "A=1\nB=\"canary\n");
    assert_eq!(output.status.code(), Some(2));
    let stderr = text(&output.stderr);
    assert!(stderr.contains("line 2: ") && !stderr.contains("canary"), "{stderr}");
    assert_eq!(said(&url, &["api", "secret", "list", "--realm", "mcp"], ""), "no secrets\n");
}

#[test]
fn a_command_runs_with_the_secrets_and_its_exit_status_is_passed_on() {
    let url = Fake::start();
    store(&url, "r", "openai-api.key", "sk-1");
    store(&url, "r", "other", "sk-2");
    let run = |only: &str, script: &str| {
        let arguments = ["secret", "run", "--realm", "r", "--only", only, "--", "sh", "-c", script];
        tare(&url, &arguments, "")
    };
    let output = tare(
        &url,
        &["secret", "run", "--realm", "r", "--", "sh", "-c", "echo $OPENAI_API_KEY $OTHER; exit 7"],
        "",
    );
    assert_eq!((text(&output.stdout).as_str(), output.status.code()), ("sk-1 sk-2\n", Some(7)));
    assert_eq!(text(&run("other", "echo $OPENAI_API_KEY $OTHER").stdout), "sk-2\n");
    assert_eq!(run("other", "kill -TERM $$").status.signal(), Some(15));
    let absent = run("absent", "echo started");
    assert_eq!(absent.status.code(), Some(1));
    assert!(absent.stdout.is_empty() && text(&absent.stderr).contains("absent: "));

    for (name, value) in [("NODE_ENV", "x"), ("GIT_TOKEN", "y"), ("PYTHON_VERSION", "z"), ("ENV", "prod")] {
        store(&url, "ordinary", name, value);
    }
    let ordinary =
        |script| tare(&url, &["secret", "run", "--realm", "ordinary", "--", "sh", "-c", script], "");
    let output = ordinary("echo $NODE_ENV $GIT_TOKEN $PYTHON_VERSION $ENV");
    assert_eq!(text(&output.stdout), "x y z prod\n", "{}", text(&output.stderr));
    store(&url, "ordinary", "ENV", "/tmp/evil");
    let output = ordinary("echo started");
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(2), ""));
    store(&url, "steered", "LD_PRELOAD", "/tmp/evil.so");
    refused(&url, &["secret", "run", "--realm", "steered", "--", "true"], 2);

    store(&url, "r", "openai-api-key", "sk-3");
    let stderr = refused(&url, &["secret", "run", "--realm", "r", "--", "true"], 2);
    assert!(stderr.contains("OPENAI_API_KEY"), "{stderr}");
    refused(&url, &["secret", "run", "--realm", "r", "--only", "other", "--", "/nowhere/command"], 127);
}

#[test]
fn a_signal_reaches_the_command() {
    let url = Fake::start();
    let script = "trap 'echo caught; exit 9' TERM; echo ready; while :; do sleep 0.05; done";
    let mut child = command(&url, &["secret", "run", "--realm", "r", "--", "sh", "-c", script])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("tare starts");
    let mut stdout = std::io::BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    std::io::BufRead::read_line(&mut stdout, &mut line).expect("ready");
    let kill = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("kill");
    assert!(kill.success());
    assert_eq!(child.wait().expect("ends").code(), Some(9));
}

#[test]
fn a_reader_who_has_enough_is_no_error() {
    let mut child = command("http://h", &["completion", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("tare starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("ends");
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""));
}

#[test]
fn completion_scripts_come_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(said("", &["completion", shell], "").contains("tare"), "{shell}");
    }
    assert!(said("", &["--version"], "").starts_with("tare "));
}
