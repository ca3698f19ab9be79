//! Settings, from their four sources.

use std::process::Command;

use agentrouter_secrets::settings::{self, SETTINGS};
use agentrouter_testkit::ServerProcess;

use super::{CommandRun, run};
use crate::support::{Server, binary, tare};

/// The time in seconds for which the server keeps a rotated version readable.
fn grace(server: &Server, name: &str) -> i64 {
    let place = format!(r#"{{"name":"{name}","realm":"mcp","value":"1"}}"#);
    assert_eq!(server.call("POST", "/v1/secrets", &place).status, 200);
    let rotate = r#"{"realm":"mcp","new_value":"2"}"#;
    let rotated = server.call("POST", &format!("/v1/secrets/{name}/rotate"), rotate);
    let begin = rotated.json()["secret"]["rotated_at"].as_str().expect("a time").to_owned();
    let path = format!("/v1/secrets?realm=mcp&status=rotated_pending&name_prefix={name}");
    let pending = server.call("GET", &path, "");
    let end = pending.json()["secrets"][0]["expires_at"].as_str().expect("a time").to_owned();
    seconds(&end) - seconds(&begin)
}

/// Of an RFC 3339 time in 2026 or later, by `date`, whole seconds since the epoch.
fn seconds(time: &str) -> i64 {
    let output = Command::new("date").args(["-u", "+%s", "-d", time]).output().expect("date runs");
    String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number")
}

#[test]
fn flags_come_before_the_environment_before_the_file_before_the_default() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = dir.path().join("config.toml");
    std::fs::write(&config, "grace = \"1h\"\n[audit]\nmax_size = \"1MiB\"\n").expect("written");
    let config = config.to_str().expect("UTF-8").to_owned();
    let data = dir.path().join("data");
    let file = ("AGENTROUTER_SECRETS_CONFIG", config.as_str());
    let variable = ("AGENTROUTER_SECRETS_GRACE", "2h");
    for (name, args, env, hours) in [
        ("default", &[][..], &[][..], 24),
        ("file", &["--config", &config], &[], 1),
        ("variable", &[], &[file, variable], 2),
        ("flag", &["--grace", "3h"], &[file, variable], 3),
    ] {
        let process = ServerProcess::start_with(binary(), &data, args, env);
        let server = Server::of(process);
        assert_eq!(grace(&server, name), hours * 3600, "{name}");
    }
}

#[test]
fn help_lists_every_setting_with_its_flag_variable_and_default() {
    let help = |args: &[&str]| {
        let output = Command::new(binary()).args(args).arg("--help").env("COLUMNS", "400").output();
        CommandRun::of(output.expect("the binary runs")).done()
    };
    let serve = help(&["serve"]);
    for setting in SETTINGS.iter() {
        let flag = format!("--{} <{}>", setting.key.replace('.', "-"), setting.value_name);
        assert!(serve.contains(&flag), "{flag} is not in {serve}");
        assert!(serve.contains(&setting.variable()), "{}", setting.variable());
        assert!(serve.contains(&setting.help), "{}", setting.help);
        let default = format!("[default: {}]", setting.default);
        assert!(setting.default.is_empty() || serve.contains(&default), "{} {default}", setting.key);
    }
    for args in
        [&["key", "create"][..], &["key", "list"], &["key", "revoke"], &["audit", "verify"], &["doctor"]]
    {
        let text = help(args);
        assert!(text.contains("--data-dir <DIR>") && !text.contains("--listen"), "{args:?}: {text}");
    }
}

#[test]
fn a_wrong_setting_stops_the_start_and_is_named_with_its_source() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let config = dir.path().join("config.toml");
    let path = config.to_str().expect("UTF-8");
    for (text, message) in [
        ("[audit]\nsync = \"never\"\n", "'audit.sync' in the config file must be second or fsync"),
        ("[audit]\noff = true\n", "'audit.off' in the config file must be a string or a whole number"),
        ("[audit]\noff = \"yes\"\n", "has an unknown key 'audit.off'"),
        ("grace = 3\n", "'grace' in the config file must be a duration such as 30s"),
        ("grace = \n", "is not well-formed TOML"),
    ] {
        std::fs::write(&config, text).expect("written");
        let err = run(&data, &["serve", "--config", path]).refused(1);
        assert!(err.starts_with("error: ") && err.contains(message), "{text}: {err}");
    }
    let err = run(&data, &["serve", "--config", "/nowhere"]).refused(1);
    assert!(err.contains("the config file /nowhere cannot be read"), "{err}");
    let output = Command::new(binary())
        .args(["serve", "--data-dir"])
        .arg(&data)
        .env("AGENTROUTER_SECRETS_LIMIT_REQUESTS", "0")
        .output();
    let err = CommandRun::of(output.expect("the binary runs")).refused(1);
    assert!(
        err.contains("AGENTROUTER_SECRETS_LIMIT_REQUESTS must be a whole number from 1 to 1000000"),
        "{err}"
    );
    for (variable, value, message) in [
        ("OTLP_ENDPOINT", "https://x", "AGENTROUTER_SECRETS_OTLP_ENDPOINT must be an address such as"),
        ("TLS_CERT", "x.pem", "AGENTROUTER_SECRETS_TLS_CERT needs 'tls.key' beside it"),
    ] {
        let output = Command::new(binary())
            .args(["serve", "--data-dir"])
            .arg(&data)
            .env(format!("AGENTROUTER_SECRETS_{variable}"), value)
            .output();
        let err = CommandRun::of(output.expect("the binary runs")).refused(1);
        assert!(err.contains(message), "{err}");
    }
    assert!(!data.exists(), "nothing was made");
}

#[test]
fn plain_http_beyond_this_host_is_reported() {
    let dir = tempfile::tempdir().expect("a directory");
    // The first address cannot be bound, so that the server listens on none.
    let listen = |address: &str| format!("unix:/nowhere/socket,{address}");
    for (address, is_reported) in [("0.0.0.0:8080", true), ("127.0.0.1:8080", false)] {
        let err = run(dir.path(), &["serve", "--listen", &listen(address)]).refused(1);
        assert!(err.contains("cannot listen on unix:/nowhere/socket"), "{err}");
        assert_eq!(err.contains(&format!("plain HTTP on {address}")), is_reported, "{err}");
    }
}

/// The server's settings, its commands and `tare` read the same texts as durations.
#[test]
fn a_duration_has_one_grammar() {
    let read = |text: &str| {
        let mut tare = Command::new(tare());
        tare.args(["profile", "list", &format!("--timeout={text}")]).env("XDG_CONFIG_HOME", "/nowhere");
        let err = String::from_utf8(tare.output().expect("tare runs").stderr).expect("UTF-8");
        [settings::duration(text).is_ok(), settings::lifetime(text).is_ok(), !err.contains("invalid value")]
    };
    for text in ["90s", "1500ms", "24h", "1h 30m", "1h30m", "7days", "1.5h", "3 weeks", "1y"] {
        assert_eq!(read(text), [true; 3], "{text}");
    }
    for text in ["", "10", "-3s", "5x", "P1D", "12:00", "1,5h", "soon", "h"] {
        assert_eq!(read(text), [false; 3], "{text}");
    }
}
