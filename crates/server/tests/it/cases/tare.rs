//! `tare` as a process: every field of a request is a flag, and a value is read from standard input.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;

use serde_json::Value;

use super::CaseServer;
use super::run::{CaseClient, CaseRequest, Failed, FailureKind, as_it_stands};
use super::scenario::Wanted;
use crate::support;

/// More than this `tare` does not read: 64 KiB, and a line end that may be removed.
const MOST: usize = 65_538;

pub struct Tare {
    server: Arc<CaseServer>,
}

impl Tare {
    pub fn new(server: Arc<CaseServer>) -> Self {
        Self { server }
    }
}

impl CaseClient for Tare {
    const IS_SDK: bool = false;

    fn call(&self, case: &CaseRequest<'_>) -> Result<Value, Failed> {
        let (args, stdin) = arguments(case);
        let mut command = Command::new(support::tare());
        command.args(&args).env("AGENTROUTER_BASE_URL", &self.server.url);
        for name in ["AGENTROUTER_API_KEY", "AGENTROUTER_CA_FILE", "AGENTROUTER_PROFILE"] {
            command.env_remove(name);
        }
        command.env("XDG_CONFIG_HOME", "/nowhere");
        command.envs(case.key.map(|key| ("AGENTROUTER_API_KEY", key)));
        command.envs(self.server.ca_file.as_ref().map(|path| ("AGENTROUTER_CA_FILE", path)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("tare starts");
        // A command that does not read it may have ended.
        let _ = child.stdin.take().expect("piped").write_all(stdin.as_bytes());
        let output = child.wait_with_output().expect("tare ends");
        let (out, err) = (text(output.stdout), text(output.stderr));
        match output.status.code() {
            Some(0) => {
                assert_eq!(err, "", "{args:?}");
                Ok(serde_json::from_str(&out).expect("JSON"))
            }
            code => {
                assert_eq!(out, "", "{args:?}: an error writes nothing to stdout");
                let kind =
                    if code == Some(2) { FailureKind::BeforeRequest } else { reported_error(code, &err) };
                Err(Failed { kind, shown: err })
            }
        }
    }

    /// `tare` itself checks the key's form and these three.
    fn wants(&self, case: &CaseRequest<'_>, wanted: &Wanted) -> FailureKind {
        let value = case.text(if case.call == "RotateSecret" { "new_value" } else { "value" });
        let no_value = case.call == "RotateSecret" && value.is_empty();
        let no_time = case.text("grace_period").starts_with('-');
        if wanted.before_request || no_value || no_time || value.len() > MOST {
            return FailureKind::BeforeRequest;
        }
        as_it_stands(wanted)
    }
}

/// The command line of a call, and its standard input.
fn arguments(case: &CaseRequest<'_>) -> (Vec<String>, String) {
    let command = match case.call {
        "CreateSecret" => &["create"][..],
        "GetSecret" => &["get"],
        "ListSecrets" => &["list"],
        "DeleteSecret" => &["delete", "--yes"],
        "RotateSecret" => &["rotate"],
        "ValidateSecret" => &["validate"],
        "GetSecretValue" => &["secret-value", "get"],
        other => panic!("there is no call {other:?}"),
    };
    let mut args: Vec<String> =
        [&["--output", "json", "api", "secret"], command].concat().into_iter().map(str::to_owned).collect();
    if case.call != "ListSecrets" && !case.request.contains_key("name") {
        args.push("--name=".to_owned());
    }
    if case.all_pages {
        args.push("--all".to_owned());
    }
    let mut stdin = String::new();
    for (field, value) in case.request {
        let flag = field.replace('_', "-");
        match value {
            Value::String(text) if field == "value" || field == "new_value" => {
                args.extend([format!("--{flag}-file=-"), "--keep-newline".to_owned()]);
                stdin.clone_from(text);
            }
            Value::String(text) => args.push(format!("--{flag}={text}")),
            Value::Object(tags) => {
                args.extend(
                    tags.iter()
                        .map(|(key, value)| format!("--tag={key}={}", value.as_str().expect("a text"))),
                );
            }
            Value::Number(number) => args.push(format!("--{flag}={number}")),
            other => panic!("no flag takes {other}"),
        }
    }
    (args, stdin)
}

/// Code, reason and fields of the error that `tare` writes as JSON.
fn reported_error(code: Option<i32>, err: &str) -> FailureKind {
    let written: Value = serde_json::from_str(err).unwrap_or_else(|error| panic!("{error}: {err}"));
    let error = &written["error"];
    let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("no text: {err}")).to_owned();
    let grpc = text(&error["code"]);
    assert_eq!(code, Some(if grpc == "PERMISSION_DENIED" { 4 } else { 1 }), "{err}");
    let fields = error["fields"].as_array().expect("a list");
    let mut fields: Vec<String> = fields.iter().map(|field| text(&field["field"])).collect();
    fields.sort();
    FailureKind::Refused(grpc, text(&error["reason"]), fields)
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("UTF-8")
}
