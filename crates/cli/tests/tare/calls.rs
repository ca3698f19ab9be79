//! The seven calls, their exit statuses and hints.

use crate::fake::{Fake, KEY};
use crate::{file, refused, said, store, tare, text};

#[test]
fn a_secret_passes_through_all_seven_calls() {
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
fn a_refusal_a_usage_error_and_an_outage_have_different_exit_statuses() {
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
fn every_error_has_a_hint() {
    let url = Fake::start();
    let create = |more: &[&str], status| {
        refused(&url, &[&["api", "secret", "create", "n", "--realm", "r"], more].concat(), status)
    };
    assert!(create(&[], 1).contains("hint: '--help'"));
    assert!(create(&["--value-file", "/nowhere"], 2).contains("hint: check the path"));
    assert!(create(&["--value-file", "/"], 2).contains("hint: it must be a file"));
    assert!(create(&["--value-file", "/dev/zero"], 2).contains("hint: a value has at most 65536 bytes"));
    assert!(create(&["--frobnicate"], 2).contains("hint: see '--help'"));
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
fn a_secret_that_does_not_open_is_a_negative_result() {
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
fn all_joins_the_pages_of_a_list() {
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
fn every_shell_has_a_completion_script() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(said("", &["completion", shell], "").contains("tare"), "{shell}");
    }
    assert!(said("", &["--version"], "").starts_with("tare "));
}

#[test]
fn piped_data_that_no_flag_asks_for_is_refused() {
    let url = Fake::start();
    store(&url, "r", "t", "first");
    for command in ["create", "rotate"] {
        let arguments = ["api", "secret", command, "t", "--realm", "r"];
        let output = tare(&url, &arguments, "second");
        let stderr = text(&output.stderr);
        assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(2), ""), "{stderr}");
        assert!(stderr.contains("standard input has data") && !stderr.contains("second"), "{stderr}");
        assert!(stderr.contains("value-file -"), "{stderr}");
    }
    assert_eq!(said(&url, &["api", "secret", "secret-value", "get", "t", "--realm", "r"], ""), "first");
    // Without data it is an update of the metadata.
    let update = ["api", "secret", "create", "t", "--realm", "r", "--description", "d"];
    assert!(said(&url, &update, "").contains("description  d\n"));
}

#[test]
fn a_value_of_several_lines_comes_back_byte_for_byte() {
    let url = Fake::start();
    let key = "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n";
    let (_folder, path) = file("id", key);
    said(&url, &["api", "secret", "create", "k", "--realm", "r", "--value-file", &path], "");
    let get = ["api", "secret", "secret-value", "get", "k", "--realm", "r"];
    assert_eq!(said(&url, &get, ""), key);
    store(&url, "r", "k", "one line\n");
    assert_eq!(said(&url, &get, ""), "one line");
}

#[test]
fn a_value_can_be_generated_and_is_not_shown() {
    let url = Fake::start();
    let created = said(&url, &["api", "secret", "create", "g", "--realm", "r", "--generate"], "");
    let get = ["api", "secret", "secret-value", "get", "g", "--realm", "r"];
    let first = said(&url, &get, "");
    assert_eq!(first.len(), 40);
    assert!(!created.contains(&first));
    said(&url, &["api", "secret", "rotate", "g", "--realm", "r", "--generate=64"], "");
    let second = said(&url, &get, "");
    assert!(second.len() == 64 && second.bytes().all(|b| b.is_ascii_alphanumeric()), "{second}");
}

#[test]
fn a_utf_16_file_gets_an_error_that_names_utf_16() {
    let url = Fake::start();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("utf16.env");
    let bytes: Vec<u8> = "\u{feff}A=1\r\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    std::fs::write(&path, bytes).expect("written");
    let path = path.to_str().expect("UTF-8");
    let stderr = refused(&url, &["secret", "import", path, "--realm", "r"], 2);
    assert!(stderr.contains("is UTF-16 text") && stderr.contains("hint: save it as UTF-8"), "{stderr}");
}

#[test]
fn the_two_trees_of_commands_point_at_each_other() {
    assert!(said("", &["api", "secret", "--help"], "").contains("see 'tare secret --help'"));
    assert!(said("", &["secret", "--help"], "").contains("see 'tare api secret --help'"));
}

#[test]
fn a_key_is_not_sent_to_another_host_without_tls() {
    let stderr = refused("http://secrets.example.com", &["api", "secret", "list"], 2);
    assert!(stderr.contains("clear text") && stderr.contains("--allow-http"), "{stderr}");
    let url = Fake::start();
    let stderr = refused(&url, &["api", "secret", "list", "--ca-file", "/nowhere"], 2);
    assert!(stderr.contains("--ca-file has no effect"), "{stderr}");
    let stderr = refused(&url, &["completion", "bash", "--timeout", "3s"], 2);
    assert!(stderr.contains("--timeout has no effect"), "{stderr}");
}
