//! `tare secret import`: what is stored, what is kept, and what is reported.

use std::process::Command;

use crate::fake::{Fake, WRITER};
use crate::{command, run, said, store, tare, text};

const GET: [&str; 4] = ["api", "secret", "secret-value", "get"];

fn value(url: &str, realm: &str, name: &str) -> String {
    said(url, &[&GET[..], &[name, "--realm", realm]].concat(), "")
}

/// Imports a file into the realm `r`: the exit status, the last line of the report and stderr.
fn import(url: &str, file: &str, flags: &[&str]) -> (Option<i32>, String, String) {
    import_by(&mut command(url, &[&["secret", "import", "-", "--realm", "r"], flags].concat()), file)
}

fn import_by(command: &mut Command, file: &str) -> (Option<i32>, String, String) {
    let output = run(command, file);
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(!stdout.contains("canary") && !stderr.contains("canary"), "{stdout}{stderr}");
    (output.status.code(), stdout.lines().last().unwrap_or_default().to_owned(), stderr)
}

#[test]
fn an_import_stores_what_it_can_and_shows_no_value() {
    let url = Fake::start();
    let file = "# keys\nOPENAI_API_KEY=sk-canary-1\nexport B='sk-canary $2'\nEMPTY=\n.BAD=sk-canary-3\nB=sk-canary-4\n";
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
    assert!(report.ends_with("realm mcp: 2 created, 2 skipped, 1 failed\n"), "{report}");
    let (_, again) = import(&["-o", "json"]);
    assert!(
        again.contains(
            "\"created\":0,\"updated\":0,\"rotated\":0,\"unchanged\":2,\"kept\":0,\"skipped\":2,\"failed\":1,"
        ),
        "{again}"
    );
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
fn an_unchanged_file_makes_no_new_version() {
    let url = Fake::start();
    let file = "A=canary-1\nB=canary-2\n";
    assert_eq!(import(&url, file, &[]).1, "realm r: 2 created");
    let (status, report, stderr) = import(&url, file, &["--replace"]);
    assert_eq!((status, report.as_str(), stderr.as_str()), (Some(0), "realm r: 2 unchanged", ""));
    assert_eq!(import(&url, "A=canary-1\nB=canary-3\n", &["--replace"]).1, "realm r: 1 updated, 1 unchanged");
    let json = said(&url, &[&GET[..], &["A", "--realm", "r", "-o", "json"]].concat(), "");
    assert!(json.contains("\"version\":1,"), "{json}");
    // The tags of an unchanged secret are still brought up to date.
    assert_eq!(import(&url, "A=canary-1\n", &["--tag", "env=prod"]).1, "realm r: 1 updated");
    assert_eq!(import(&url, "A=canary-1\n", &["--tag", "env=prod"]).1, "realm r: 1 unchanged");
}

#[test]
fn another_value_is_kept_unless_the_caller_asks() {
    let url = Fake::start();
    store(&url, "r", "A", "canary-old");
    let (status, report, stderr) = import(&url, "A=canary-new\nB=canary-2\n", &[]);
    assert_eq!((status, report.as_str()), (Some(1), "realm r: 1 created, 1 kept"), "{stderr}");
    assert!(stderr.contains("--rotate or --replace"), "{stderr}");
    assert_eq!(value(&url, "r", "A"), "canary-old");
    let (_, report, _) = import(&url, "A=canary-new\n", &["--dry-run", "--rotate"]);
    assert_eq!(report, "realm r: 1 to rotate; nothing was stored");
    assert_eq!(value(&url, "r", "A"), "canary-old");
    let (status, report, _) = import(&url, "A=canary-new\n", &["--rotate", "--grace-period", "1h"]);
    assert_eq!((status, report.as_str()), (Some(0), "realm r: 1 rotated"));
    assert_eq!(value(&url, "r", "A"), "canary-new");
}

#[test]
fn a_key_that_may_not_read_imports_and_does_not_overwrite() {
    let url = Fake::start();
    let by_writer = |file: &str, flags: &[&str]| {
        let arguments = [&["secret", "import", "-", "--realm", "r"], flags].concat();
        import_by(command(&url, &arguments).env("AGENTROUTER_API_KEY", WRITER), file)
    };
    let (status, report, stderr) = by_writer("A=canary-1\n", &[]);
    assert_eq!((status, report.as_str()), (Some(0), "realm r: 1 created"), "{stderr}");
    assert!(stderr.contains("secrets/read/internal"), "{stderr}");
    let (status, report, _) = by_writer("A=canary-2\n", &[]);
    assert_eq!((status, report.as_str()), (Some(1), "realm r: 1 kept"));
    let (status, report, _) = by_writer("A=canary-2\nB=canary-3\n", &["--replace"]);
    assert_eq!((status, report.as_str()), (Some(0), "realm r: 1 created, 1 updated"));
    let (_, report, _) = by_writer("A=canary-4\nC=canary-5\n", &["--rotate"]);
    assert_eq!(report, "realm r: 1 created, 1 rotated");
    assert_eq!(value(&url, "r", "A"), "canary-4");
}

#[test]
fn calls_that_the_rate_limit_refuses_are_repeated() {
    let url = Fake::start();
    let file: String = (0..30).map(|i| format!("N{i}_KEY=canary-{i}\n")).collect();
    let output = tare(&url, &["secret", "import", "-", "--realm", "limited"], &file);
    assert!(text(&output.stdout).ends_with("realm limited: 30 created\n"), "{}", text(&output.stderr));
    let count = ["secret", "run", "--realm", "limited", "--", "sh", "-c", "env | grep -c =canary-"];
    assert_eq!(said(&url, &count, ""), "30\n");
}
