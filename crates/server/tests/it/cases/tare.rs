//! `tare`, as a process: every field of a request is a flag, a value comes on standard input.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;

use agentrouter_model::{Reason, Refusal};
use serde_json::Value;

use super::Place;
use super::run::{Ask, Caller, Failed, Why, as_it_stands};
use super::scenario::Wanted;
use crate::support;

/// What a case may end with; of any other error the sentence is not known here, and so the case fails.
const REASONS: [Reason; 9] = [
    Reason::BodyTooLarge,
    Reason::Unauthenticated,
    Reason::ScopeMissing,
    Reason::RealmNotAllowed,
    Reason::UserIdNotAllowed,
    Reason::SecretNotFound,
    Reason::VersionMismatch,
    Reason::PageTokenInvalid,
    Reason::UnknownRoute,
];
/// More than this `tare` does not read: 64 KiB, and a line end that may be removed.
const MOST: usize = 65_538;

pub struct Tare {
    place: Arc<Place>,
}

impl Tare {
    pub fn new(place: Arc<Place>) -> Self {
        Self { place }
    }
}

impl Caller for Tare {
    const IS_SDK: bool = false;

    fn call(&self, ask: &Ask<'_>) -> Result<Value, Failed> {
        let (args, stdin) = arguments(ask);
        let mut command = Command::new(support::tare());
        command.args(&args).env("AGENTROUTER_BASE_URL", &self.place.url);
        for name in ["AGENTROUTER_API_KEY", "AGENTROUTER_CA_FILE"] {
            command.env_remove(name);
        }
        command.envs(ask.key.map(|key| ("AGENTROUTER_API_KEY", key)));
        command.envs(self.place.ca_file.as_ref().map(|path| ("AGENTROUTER_CA_FILE", path)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("tare starts");
        // It may not want to read all of it.
        let _ = child.stdin.take().expect("piped").write_all(stdin.as_bytes());
        let output = child.wait_with_output().expect("tare ends");
        let (out, err) = (text(output.stdout), text(output.stderr));
        match output.status.code() {
            Some(0) => {
                assert_eq!(err, "", "{args:?}");
                Ok(serde_json::from_str(&out).expect("JSON"))
            }
            code => {
                assert_eq!(out, "", "{args:?}: what goes wrong is not told on stdout");
                let why = if code == Some(2) { Why::BeforeRequest } else { told(code, &err) };
                Err(Failed { why, shown: err })
            }
        }
    }

    /// The key's shape, and these three, `tare` judges itself.
    fn wants(&self, ask: &Ask<'_>, wanted: &Wanted) -> Why {
        let value = ask.text(if ask.call == "RotateSecret" { "new_value" } else { "value" });
        let no_value = ask.call == "RotateSecret" && value.is_empty();
        let no_time = ask.text("grace_period").starts_with('-');
        if wanted.before_request || no_value || no_time || value.len() > MOST {
            return Why::BeforeRequest;
        }
        as_it_stands(wanted)
    }
}

/// The command line of a call, and what it gets on standard input.
fn arguments(ask: &Ask<'_>) -> (Vec<String>, String) {
    let command = match ask.call {
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
    if ask.call != "ListSecrets" && !ask.request.contains_key("name") {
        args.push("--name=".to_owned());
    }
    if ask.all_pages {
        args.push("--all".to_owned());
    }
    let mut stdin = String::new();
    for (field, value) in ask.request {
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

/// Code, reason and fields of what `tare` says of a refusal.
fn told(code: Option<i32>, err: &str) -> Why {
    assert_eq!(code, Some(1), "{err}");
    let line = err.lines().next().and_then(|line| line.strip_prefix("error: ")).expect("an error");
    if let Some(rules) = line.strip_prefix("Invalid request: ") {
        return invalid(vec![first_word(rules)]);
    }
    if line == "the request has invalid fields" {
        return invalid(err.lines().filter_map(|line| line.strip_prefix("  ")).map(first_word).collect());
    }
    let reason = REASONS.into_iter().find(|reason| Refusal::new(*reason).message() == line);
    let reason = reason.unwrap_or_else(|| panic!("what does this mean: {err}"));
    Why::Answer(reason.code().as_str().to_owned(), reason.as_str().to_owned(), Vec::new())
}

fn invalid(mut fields: Vec<String>) -> Why {
    fields.sort();
    Why::Answer("INVALID_ARGUMENT".to_owned(), "INVALID_REQUEST".to_owned(), fields)
}

fn first_word(text: &str) -> String {
    text.split(' ').next().unwrap_or_default().to_owned()
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("UTF-8")
}
