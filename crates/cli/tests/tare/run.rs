//! `tare secret run`: which secrets become variables, and how the command runs.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Output, Stdio};

use crate::fake::{Fake, INTERNAL};
use crate::{command, file, refused, run, store, tare, text};

/// Runs a shell script with secrets; the environment has nothing but what is needed.
fn script(url: &str, choice: &[&str], script: &str) -> Output {
    tare(url, &[&["secret", "run"], choice, &["--", "sh", "-c", script]].concat(), "")
}

#[test]
fn a_command_runs_with_the_secrets_and_its_exit_status_is_passed_on() {
    let url = Fake::start();
    store(&url, "r", "openai-api.key", "sk-1");
    store(&url, "r", "other", "sk-2");
    let realm = ["--realm", "r"];
    let output = script(&url, &[&realm[..], &["--all"]].concat(), "echo $OPENAI_API_KEY $other; exit 7");
    assert_eq!((text(&output.stdout).as_str(), output.status.code()), ("sk-1 sk-2\n", Some(7)));
    let only = |name: &str, line: &str| script(&url, &["--realm", "r", "--only", name], line);
    assert_eq!(text(&only("other", "echo $OPENAI_API_KEY $other").stdout), "sk-2\n");
    assert_eq!(only("other", "kill -TERM $$").status.signal(), Some(15));
    let absent = only("absent", "echo started");
    assert_eq!(absent.status.code(), Some(1));
    assert!(absent.stdout.is_empty() && text(&absent.stderr).contains("absent: "));

    store(&url, "r", "openai-api-key", "sk-3");
    let stderr = refused(&url, &["secret", "run", "--realm", "r", "--", "true"], 2);
    assert!(stderr.contains("OPENAI_API_KEY"), "{stderr}");
    refused(&url, &["secret", "run", "--realm", "r", "--only", "other", "--", "/nowhere/command"], 127);
    refused(&url, &["secret", "run", "--", "true"], 2);
}

#[test]
fn without_a_choice_only_names_of_credentials_are_taken() {
    let url = Fake::start();
    let hostile = [
        "MAKEFLAGS",
        "HTTPS_PROXY",
        "SSL_CERT_FILE",
        "NODE_TLS_REJECT_UNAUTHORIZED",
        "OPENAI_BASE_URL",
        "OPENSSL_MODULES",
        "LD_PRELOAD",
        "agentrouter-base-url",
        "AGENTROUTER_API_KEY",
    ];
    for name in hostile {
        store(&url, "r", name, "evil");
    }
    store(&url, "r", "OPENAI_API_KEY", "sk-1");
    store(&url, "r", "TF_VAR_db_password", "sk-2");
    let output = script(&url, &["--realm", "r"], "env | grep -e evil -e sk-");
    let mut lines: Vec<String> = text(&output.stdout).lines().map(str::to_owned).collect();
    lines.sort();
    let stderr = text(&output.stderr);
    assert_eq!(lines, ["OPENAI_API_KEY=sk-1", "TF_VAR_db_password=sk-2"], "{stderr}");
    for name in ["MAKEFLAGS", "HTTPS_PROXY", "OPENAI_BASE_URL", "AGENTROUTER_BASE_URL"] {
        assert!(stderr.contains(name), "{name} is reported: {stderr}");
    }
    assert!(stderr.contains("--all takes them"), "{stderr}");

    let stderr = refused(&url, &["secret", "run", "--realm", "r", "--all", "--", "true"], 2);
    assert!(stderr.contains("LD_PRELOAD"), "{stderr}");
    let only = ["secret", "run", "--realm", "r", "--only", "agentrouter-base-url", "--", "true"];
    let stderr = refused(&url, &only, 2);
    assert!(stderr.contains("AGENTROUTER_BASE_URL would change"), "{stderr}");
    let output = script(&url, &["--realm", "r", "--only", "MAKEFLAGS"], "echo $MAKEFLAGS");
    assert_eq!(text(&output.stdout), "evil\n", "a name that the caller chose is taken");
    let output = script(&url, &["--realm", "r", "--prefix", "TF_"], "echo $TF_VAR_db_password$MAKEFLAGS");
    assert_eq!((text(&output.stdout).as_str(), text(&output.stderr).as_str()), ("sk-2\n", ""));
}

#[test]
fn a_realm_without_a_secret_starts_nothing() {
    let url = Fake::start();
    store(&url, "prod", "OPENAI_API_KEY", "sk-1");
    for (choice, message) in [
        (&["--realm", "prd"][..], "the realm prd has no active secret"),
        (&["--realm", "prd", "--all"], "the realm prd has no active secret"),
        (&["--realm", "prod", "--realm", "prd"], "the realm prd has no active secret"),
        (
            &["--realm", "prod", "--prefix", "AWS_"],
            "the realm prod has no active secret that begins with AWS_",
        ),
    ] {
        let output = script(&url, choice, "echo started");
        let stderr = text(&output.stderr);
        assert_eq!(
            (output.status.code(), text(&output.stdout).as_str()),
            (Some(2), ""),
            "{choice:?}: {stderr}"
        );
        assert!(stderr.contains(message) && stderr.contains("hint: check the name of the realm"), "{stderr}");
    }
    store(&url, "prod", "REGION", "eu");
    let output = script(&url, &["--realm", "prod"], "echo started");
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(0), "started\n"));
}

#[test]
fn a_variable_that_is_set_already_is_not_overridden() {
    let url = Fake::start();
    store(&url, "r", "OPENAI_API_KEY", "stored");
    let with = |flags: &[&str]| {
        let line = ["--", "sh", "-c", "echo $OPENAI_API_KEY"];
        let arguments = [&["secret", "run", "--realm", "r"], flags, &line].concat();
        run(command(&url, &arguments).env("OPENAI_API_KEY", "set"), "")
    };
    let output = with(&[]);
    assert_eq!(text(&output.stdout), "set\n");
    assert!(text(&output.stderr).contains("set already") && text(&output.stderr).contains("OPENAI_API_KEY"));
    assert_eq!(text(&with(&["--only", "OPENAI_API_KEY"]).stdout), "set\n");
    let output = with(&["--override", "OPENAI_API_KEY"]);
    assert_eq!((text(&output.stdout).as_str(), text(&output.stderr).as_str()), ("stored\n", ""));
    let output = with(&["--override", "OTHER"]);
    assert_eq!(output.status.code(), Some(2), "an override without effect is an error");
    let output = run(
        &mut command(
            &url,
            &["secret", "run", "--realm", "r", "--override", "AGENTROUTER_API_KEY", "--", "true"],
        ),
        "",
    );
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_mapping_file_names_realms_and_variables() {
    let url = Fake::start();
    store(&url, "one", "a", "v-a");
    store(&url, "two", "b", "v-b");
    let (_folder, path) = file("map.env", "FIRST=sm://one/a\nspring.datasource.password=sm://two/b#1\n");
    let output = tare(&url, &["secret", "run", "--mapping", &path, "--", "env"], "");
    assert_eq!(text(&output.stderr), "");
    for line in ["FIRST=v-a", "spring.datasource.password=v-b"] {
        assert!(text(&output.stdout).lines().any(|seen| seen == line), "{line}");
    }
    let output = script(&url, &["--realm", "one", "--realm", "two", "--all"], "echo $a $b");
    assert_eq!(text(&output.stdout), "v-a v-b\n");
    let output = script(&url, &["--only", "sm://one/a,sm://two/b"], "echo $a $b");
    assert_eq!(text(&output.stdout), "v-a v-b\n");
    let unused = ["secret", "run", "--realm", "one", "--mapping", &path, "--", "true"];
    assert!(refused(&url, &unused, 2).contains("--realm has no effect"));
    let unclear = ["secret", "run", "--realm", "one", "--realm", "two", "--only", "a", "--", "true"];
    assert!(refused(&url, &unclear, 2).contains("sm://REALM/NAME"));
}

#[test]
fn a_key_that_may_only_read_values_suffices_for_named_secrets() {
    let url = Fake::start();
    store(&url, "r", "OPENAI_API_KEY", "sk-1");
    let with = |flags: &[&str]| {
        let line = ["--", "sh", "-c", "echo $OPENAI_API_KEY"];
        let arguments = [&["secret", "run", "--realm", "r"], flags, &line].concat();
        run(command(&url, &arguments).env("AGENTROUTER_API_KEY", INTERNAL), "")
    };
    assert_eq!(text(&with(&["--only", "OPENAI_API_KEY"]).stdout), "sk-1\n");
    let output = with(&[]);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{stderr}");
    for word in ["secrets/read to list", "--only", "--mapping", "secrets/read/internal alone"] {
        assert!(stderr.contains(word), "{word}: {stderr}");
    }
}

#[test]
fn an_environment_that_is_too_large_has_its_own_hint() {
    let url = Fake::start();
    for i in 0..140 {
        store(&url, "big", &format!("K{i}_KEY"), &"x".repeat(65_000));
    }
    let stderr = refused(&url, &["secret", "run", "--realm", "big", "--", "true"], 126);
    assert!(stderr.contains("more than an environment can hold") && !stderr.contains("chmod"), "{stderr}");
}

#[test]
fn all_takes_ordinary_names_too() {
    let url = Fake::start();
    for (name, value) in [("NODE_ENV", "x"), ("GIT_TOKEN", "y"), ("PYTHON_VERSION", "z"), ("ENV", "prod")] {
        store(&url, "ordinary", name, value);
    }
    let line = "echo $NODE_ENV $GIT_TOKEN $PYTHON_VERSION $ENV";
    let output = script(&url, &["--realm", "ordinary", "--all"], line);
    assert_eq!(text(&output.stdout), "x y z prod\n", "{}", text(&output.stderr));
    store(&url, "ordinary", "ENV", "/tmp/evil");
    let output = script(&url, &["--realm", "ordinary", "--all"], "echo started");
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(2), ""));
}

#[test]
fn the_command_can_dump_core_and_tare_cannot() {
    let url = Fake::start();
    store(&url, "r", "a", "v");
    let output = script(&url, &["--realm", "r", "--only", "a"], "ulimit -c");
    let inherited = Command::new("sh").args(["-c", "ulimit -c"]).output().expect("sh runs");
    assert_eq!(text(&output.stdout), text(&inherited.stdout));

    let mut child = command(&url, &["api", "secret", "create", "n", "--value-file", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("tare starts");
    let limits = || std::fs::read_to_string(format!("/proc/{}/limits", child.id())).unwrap_or_default();
    let is_off = |line: &str| line.starts_with("Max core file size") && line.contains(" 0 ");
    while !limits().lines().any(is_off) {
        std::thread::yield_now();
    }
    child.kill().expect("killed");
    child.wait().expect("ends");
}

#[test]
fn a_signal_reaches_the_command() {
    let url = Fake::start();
    store(&url, "r", "A", "v");
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
