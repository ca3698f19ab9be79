//! What a shell offers: names from the server and from the profiles, and never a value.

use std::path::Path;
use std::process::{Command, Output};

use crate::fake::{Fake, KEY};
use crate::{command, run, said, store, text};

/// The completions of the last word of a line, as the script of fish asks for them.
fn ask(mut tare: Command) -> Output {
    run(tare.env("TARE_COMPLETE", "fish"), "")
}

fn line(words: &str) -> Vec<&str> {
    ["--"].into_iter().chain(words.split(' ')).collect()
}

fn offered(url: &str, words: &str) -> Vec<String> {
    let output = ask(command(url, &line(words)));
    assert!(output.status.success(), "{words}");
    assert_eq!(text(&output.stderr), "", "{words}");
    text(&output.stdout).lines().map(|line| line.split('\t').next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn names_of_secrets_and_realms_are_offered_and_no_value() {
    let url = Fake::start();
    for (realm, name) in
        [("app", "openai-key"), ("app", "openrouter-key"), ("app", "other"), ("llm", "openai")]
    {
        store(&url, realm, name, "canary-value");
    }
    for (words, names) in [
        ("tare api secret get --realm app open", &["openai-key", "openrouter-key"][..]),
        ("tare api secret get --realm=app opena", &["openai-key"]),
        ("tare api secret secret-value get --realm llm o", &["openai"]),
        ("tare api secret rotate opena", &["openai", "openai-key"]),
        ("tare secret run --realm app --only other,opena", &["other,openai-key"]),
        ("tare secret export --realm app --prefix ot", &["other"]),
        ("tare api secret delete --realm a", &["app"]),
        ("tare secret import f --realm l", &["llm"]),
        ("tare api secret get --realm app missing", &[]),
    ] {
        assert_eq!(offered(&url, words), names, "{words}");
    }
    let everything = offered(&url, "tare api secret get --realm app ");
    assert!(!everything.iter().any(|name| name.contains("canary")), "{everything:?}");
}

#[test]
fn without_a_server_or_a_key_nothing_is_offered_and_nothing_is_said() {
    assert_eq!(offered("http://127.0.0.1:1", "tare api secret get o"), [""; 0]);
    assert_eq!(
        offered("http://secrets.example.com", "tare api secret get o"),
        [""; 0],
        "no key in clear text"
    );
    assert_eq!(offered("", "tare api secret get o"), [""; 0]);
    assert_eq!(offered("", "tare api secret val"), ["validate"], "commands need no server");
}

#[test]
fn a_profile_is_offered_and_used_and_its_key_command_is_not_run() {
    let (url, home) = (Fake::start(), tempfile::tempdir().expect("a folder"));
    store(&url, "app", "openai", "v");
    let in_home = |arguments: &[&str]| {
        let mut command = command("", arguments);
        command.env("AGENTROUTER_API_KEY", "").env("XDG_CONFIG_HOME", home.path());
        command
    };
    let login = |more: &[&str]| {
        let output = run(&mut in_home(&[&["login", "--base-url", &url][..], more].concat()), KEY);
        assert!(output.status.success(), "{}", text(&output.stderr));
    };
    login(&["--profile", "prod", "--api-key-file", "-"]);
    let trace = home.path().join("asked");
    let key_command = format!("touch '{}'; echo {KEY}", trace.display());
    login(&["--profile", "staging", "--key-command", &key_command]);
    std::fs::remove_file(&trace).expect("the login has run it");

    let stdout = |words: &str| text(&ask(in_home(&line(words))).stdout);
    assert_eq!(stdout("tare profile use p"), "prod\n");
    assert_eq!(stdout("tare --profile s"), "staging\n");
    assert_eq!(stdout("tare api secret get --realm app o"), "openai\n");
    assert_eq!(stdout("tare --profile staging api secret get --realm app o"), "");
    assert!(!trace.exists(), "a key command may ask for a passphrase");
}

#[test]
fn bash_completes_with_the_script_that_tare_prints() {
    let url = Fake::start();
    store(&url, "app", "openai", "v");
    let script = said(&url, &["completion", "bash"], "");
    assert!(script.contains(&Path::new(env!("CARGO_BIN_EXE_tare")).display().to_string()), "{script}");
    let mut bash = Command::new("bash");
    let line = "COMP_WORDS=(tare api secret get --realm app o) COMP_CWORD=6; \
                _clap_complete_tare tare o app; printf '%s\\n' \"${COMPREPLY[@]}\"";
    bash.args(["--norc", "-c", &format!("{script}\n{line}")]);
    bash.env("AGENTROUTER_BASE_URL", &url).env("AGENTROUTER_API_KEY", KEY).env("XDG_CONFIG_HOME", "/nowhere");
    let output = run(&mut bash, "");
    assert_eq!(text(&output.stdout).trim_end(), "openai", "{}", text(&output.stderr));
}
