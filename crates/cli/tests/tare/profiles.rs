//! Profiles: `tare login`, `logout`, `profile` and `whoami`.

use std::path::Path;
use std::process::{Command, Output};

use crate::fake::{Fake, INTERNAL, KEY, WRITER};
use crate::{command, run, text};

/// `tare` without variables, with a folder of its own for profiles.
fn without_variables(home: &Path, arguments: &[&str]) -> Command {
    let mut command = command("", arguments);
    command.env("AGENTROUTER_API_KEY", "").env("XDG_CONFIG_HOME", home);
    command
}

fn in_home(home: &Path, arguments: &[&str], stdin: &str) -> Output {
    run(&mut without_variables(home, arguments), stdin)
}

fn done(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(!text(&output.stdout).contains("_00000") && !text(&output.stderr).contains("_00000"), "no key");
    text(&output.stdout)
}

fn login(home: &Path, name: &str, url: &str, key: &str) -> String {
    let arguments = ["login", "--profile", name, "--base-url", url, "--api-key-file", "-"];
    done(&in_home(home, &arguments, &format!("{key}\n")))
}

#[test]
fn a_login_replaces_exported_variables() {
    let (url, home) = (Fake::start(), tempfile::tempdir().expect("a folder"));
    let home = home.path();
    let stderr = text(&in_home(home, &["api", "secret", "list"], "").stderr);
    assert!(stderr.contains("tare login"), "{stderr}");
    let logged_in = login(home, "prod", &url, KEY);
    assert!(logged_in.contains("0123456789abcdef (from --api-key-file)"), "{logged_in}");
    assert_eq!(done(&in_home(home, &["api", "secret", "list"], "")), "no secrets\n");
    let whoami = done(&in_home(home, &["whoami"], ""));
    assert!(whoami.contains(&format!("{url} (from profile prod)")), "{whoami}");
    for scope in ["secrets/read,", "secrets/write,", "secrets/read/internal,", "secrets/write/internal"] {
        assert!(whoami.contains(scope), "{whoami}");
    }
    done(&in_home(home, &["logout"], ""));
    assert_eq!(in_home(home, &["api", "secret", "list"], "").status.code(), Some(2));
    assert_eq!(in_home(home, &["logout"], "").status.code(), Some(2), "there is nothing left to remove");
}

#[test]
fn one_of_several_profiles_is_current() {
    let (url, home) = (Fake::start(), tempfile::tempdir().expect("a folder"));
    let home = home.path();
    login(home, "prod", &url, KEY);
    login(home, "ci", &url, WRITER);
    let list = done(&in_home(home, &["profile", "list"], ""));
    assert_eq!(list, format!("NAME  CURRENT  BASE_URL\nci             {url}\nprod  *        {url}\n"));
    let scopes = |arguments: &[&str]| {
        let json = done(&in_home(home, &[arguments, &["whoami", "-o", "json"]].concat(), ""));
        json.split_once("\"scopes\":").expect("scopes").1.trim_end_matches(['}', '\n']).to_owned()
    };
    assert_eq!(scopes(&["--profile", "ci"]), "[\"secrets/write\",\"secrets/write/internal\"]");
    done(&in_home(home, &["profile", "use", "ci"], ""));
    assert_eq!(scopes(&[]), "[\"secrets/write\",\"secrets/write/internal\"]");
    assert!(done(&in_home(home, &["profile", "show"], "")).contains("key_id    0123456789writer\n"));
    assert_eq!(in_home(home, &["profile", "use", "absent"], "").status.code(), Some(2));
    assert_eq!(in_home(home, &["--profile", "absent", "whoami"], "").status.code(), Some(2));
}

#[test]
fn a_removed_profile_leaves_no_key() {
    let (url, home) = (Fake::start(), tempfile::tempdir().expect("a folder"));
    let home = home.path();
    login(home, "prod", &url, KEY);
    login(home, "ci", &url, WRITER);
    let key = home.join("tare/keys/prod");
    assert!(key.exists());
    let output = in_home(home, &["profile", "remove", "prod"], "");
    assert!(done(&output).contains("removed_key_id  0123456789abcdef"), "{}", text(&output.stdout));
    let hints = text(&output.stderr);
    assert!(hints.contains("the key still works elsewhere") && hints.contains("tare profile use"), "{hints}");
    assert!(!key.exists());
    assert_eq!(
        done(&in_home(home, &["profile", "list"], "")),
        format!("NAME  CURRENT  BASE_URL\nci             {url}\n")
    );
    assert_eq!(
        in_home(home, &["api", "secret", "list"], "").status.code(),
        Some(2),
        "it is not used any more"
    );
    assert_eq!(in_home(home, &["profile", "remove", "prod"], "").status.code(), Some(2));
    done(&in_home(home, &["profile", "remove", "ci"], ""));
    assert_eq!(done(&in_home(home, &["profile", "list"], "")), "no profiles\n");
}

#[test]
fn variables_win_over_a_profile_and_a_named_profile_is_not_ignored() {
    let (url, home) = (Fake::start(), tempfile::tempdir().expect("a folder"));
    let home = home.path();
    login(home, "prod", &url, KEY);
    let mut command = without_variables(home, &["whoami"]);
    let output = run(command.env("AGENTROUTER_API_KEY", INTERNAL), "");
    let stdout = text(&output.stdout);
    assert!(stdout.contains("01234567internal (from AGENTROUTER_API_KEY)"), "{stdout}");
    assert!(stdout.contains("(from profile prod)") && stdout.contains("scopes    secrets/read/internal\n"));

    let mut both = without_variables(home, &["--profile", "prod", "whoami"]);
    let output = run(both.env("AGENTROUTER_API_KEY", KEY).env("AGENTROUTER_BASE_URL", &url), "");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("has no effect"), "{}", text(&output.stderr));

    let mut other = without_variables(home, &["whoami"]);
    let output = run(other.env("AGENTROUTER_BASE_URL", "http://127.0.0.1:1"), "");
    assert_eq!(output.status.code(), Some(2), "the key is for the server of its profile");
    assert!(text(&output.stderr).contains("another server"), "{}", text(&output.stderr));
}

#[test]
fn a_login_that_the_server_rejects_stores_nothing() {
    let (url, home) = (Fake::start(), tempfile::tempdir().expect("a folder"));
    let unknown = KEY.replace('0', "1");
    let arguments = ["login", "--base-url", &url, "--api-key-file", "-"];
    assert_eq!(in_home(home.path(), &arguments, &unknown).status.code(), Some(1));
    assert_eq!(done(&in_home(home.path(), &["profile", "list"], "")), "no profiles\n");
    let arguments = ["login", "--base-url", "http://secrets.example.com", "--api-key-file", "-"];
    assert_eq!(in_home(home.path(), &arguments, KEY).status.code(), Some(2), "not without --allow-http");
}

#[test]
fn a_key_command_is_run_each_time() {
    let (url, home) = (Fake::start(), tempfile::tempdir().expect("a folder"));
    let home = home.path();
    let command = format!("echo {KEY}");
    let output = in_home(home, &["login", "--base-url", &url, "--key-command", &command], "");
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(!home.join("tare/keys").exists(), "no key is stored");
    assert_eq!(done(&in_home(home, &["api", "secret", "list"], "")), "no secrets\n");
}

#[test]
fn a_key_file_that_others_may_read_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let (url, home) = (Fake::start(), tempfile::tempdir().expect("a folder"));
    login(home.path(), "prod", &url, KEY);
    let key = home.path().join("tare/keys/prod");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).expect("set");
    let output = in_home(home.path(), &["api", "secret", "list"], "");
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr.contains("readable by others") && stderr.contains("chmod 600"), "{stderr}");
}
