//! Standard output and standard error: broken pipes, and errors as JSON.

use std::process::Stdio;

use crate::fake::{Fake, INTERNAL, KEY};
use crate::{command, run, said, tare, text};

/// Runs `tare` with a standard output that nothing reads; the exit status and stderr.
fn into_a_closed_pipe(url: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let mut child = command(url, arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("tare starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("ends");
    (output.status.code(), text(&output.stderr))
}

#[test]
fn lost_output_is_an_error_that_names_the_change() {
    let url = Fake::start();
    let (status, stderr) = into_a_closed_pipe(&url, &["completion", "bash"]);
    assert_eq!(status, Some(141), "as a process that SIGPIPE ends");
    assert!(stderr.contains("error: cannot write to standard output\n"), "{stderr}");
    let (status, stderr) = into_a_closed_pipe(&url, &["api", "secret", "create", "n", "--generate"]);
    assert_eq!(status, Some(141));
    assert!(stderr.contains("n is stored as version 1"), "{stderr}");
    let (_, stderr) = into_a_closed_pipe(&url, &["api", "secret", "delete", "n", "--yes"]);
    assert!(stderr.contains("n is deleted"), "{stderr}");
    let (_folder, path) = crate::file("a.env", "A=1\nB=2\n");
    let (_, stderr) = into_a_closed_pipe(&url, &["secret", "import", &path, "--realm", "r"]);
    assert!(stderr.contains("realm r: 2 created"), "{stderr}");
    let (status, _) = into_a_closed_pipe(&url, &["--help"]);
    assert_eq!(status, Some(141));
}

#[test]
fn errors_are_json_when_the_output_is() {
    let url = Fake::start();
    let output = tare(&url, &["-o", "json", "api", "secret", "get", "absent"], "");
    assert_eq!(output.status.code(), Some(1));
    let stderr = text(&output.stderr);
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    for part in [
        "{\"error\":{\"message\":\"There is no such secret.\"",
        "\"code\":\"NOT_FOUND\"",
        "\"reason\":\"SECRET_NOT_FOUND\"",
        "\"exit_status\":1",
        "\"request_id\":",
    ] {
        assert!(stderr.contains(part), "{part}: {stderr}");
    }
    for arguments in
        [&["api", "secret", "frobnicate", "-o", "json"][..], &["--output=json", "secret"], &["-ojson", "x"]]
    {
        let output = tare(&url, arguments, "");
        assert_eq!(output.status.code(), Some(2));
        let stderr = text(&output.stderr);
        assert!(stderr.starts_with("{\"error\":{\"message\":\"") && stderr.lines().count() == 1, "{stderr}");
    }
    let output = tare(&url, &["-o", "json", "api", "secret", "create", "n", "--value", "v"], "");
    assert!(text(&output.stderr).starts_with("{\"warning\":\"--value stays"), "{}", text(&output.stderr));
}

#[test]
fn a_missing_permission_has_a_status_of_its_own() {
    let url = Fake::start();
    let list = ["api", "secret", "list", "-o", "json"];
    let output = run(command(&url, &list).env("AGENTROUTER_API_KEY", INTERNAL), "");
    assert_eq!(output.status.code(), Some(4));
    assert!(text(&output.stderr).contains("\"reason\":\"SCOPE_MISSING\""), "{}", text(&output.stderr));
    assert_eq!(said(&url, &["api", "secret", "list"], ""), "no secrets\n", "{KEY} may");
}
