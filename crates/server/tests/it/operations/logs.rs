//! The log.

use agentrouter_testkit::ServerProcess;

use crate::support::Server;

#[test]
fn every_line_of_a_log_that_no_terminal_reads_is_json_without_content() {
    let server = Server::start_with(&["--log-level", "trace"]);
    let data = server.process.data_dir().to_owned();
    let secret = r#"{"name":"canary-name","realm":"mcp","value":"canary-value"}"#;
    assert_eq!(server.call("POST", "/v1/secrets", secret).status, 200);
    let value = server.call("POST", "/v1/secrets/canary-name/value", r#"{"realm":"mcp"}"#);
    assert_eq!(value.json()["value"], "canary-value");
    assert_eq!(server.call("POST", "/v1/secrets", r#"{"canary-field":"canary"}"#).status, 400);
    assert_eq!(server.call_as("canary-key", "GET", "/v1/secrets/canary-name", "").status, 401);
    assert!(server.raw(b"CANARY canary canary\r\n\r\n").len() > 10);
    let key = server.key.clone();
    assert!(server.process.stop().success());

    let log = std::fs::read_to_string(ServerProcess::log_of(&data)).expect("the log");
    assert!(log.lines().count() >= 2, "{log}");
    for line in log.lines() {
        let entry: serde_json::Value = serde_json::from_str(line).expect(line);
        for field in ["timestamp", "level", "message", "target"] {
            assert!(entry[field].is_string(), "{field}: {line}");
        }
    }
    assert!(log.contains("\"stopped\""), "{log}");
    for private in ["canary", "CANARY", key.split_once('_').expect("two parts").1] {
        assert!(!log.contains(private), "{private} is in {log}");
    }
}

#[test]
fn a_pretty_log_is_text_and_a_level_omits_lower_levels() {
    let server = Server::start_with(&["--log-format", "pretty"]);
    let data = server.process.data_dir().to_owned();
    assert!(server.process.stop().success());
    let log = std::fs::read_to_string(ServerProcess::log_of(&data)).expect("the log");
    assert!(log.contains(" INFO ") && log.ends_with("stopped\n") && !log.contains('\u{1b}'), "{log:?}");

    let server = Server::start_with(&["--log-level", "error"]);
    let data = server.process.data_dir().to_owned();
    assert!(server.process.stop().success());
    assert_eq!(std::fs::read_to_string(ServerProcess::log_of(&data)).expect("the log"), "");
}
