//! Invalid requests, in every dialect.
//!
//! Each case has its own canary, in the invalid field and in two headers. Checked for each: the reason, status and code
//! are the expected ones, and the response does not contain the canary. Checked for all of them at the end: the secrets
//! of three owners are unchanged. Neither the log (at its finest level) nor the audit log nor the metrics contain a
//! canary or a key. The server is alive and never panicked.

mod bodies;
mod canaries;
mod frames;
mod heads;
mod rules;
mod tokens;
mod wire;

use std::fmt::Write as _;

use crate::support::Server;
use wire::{Dialect, RawResponse, Request};

/// The prefix of every canary.
const CANARY: &str = "zq7canary";

/// The most bytes of the response to an invalid request, with its head.
const LARGEST: usize = 60_000;

/// The placeholder of a canary. It has a canary's length, so that byte counts stay correct, and only letters, which no
/// encoding escapes.
const PLACE: &str = "canary-_-place";

/// An invalid input, with [`PLACE`] in it.
struct Case {
    what: String,
    request: Request,
    expect: Expect,
}

enum Expect {
    /// Refused by the service for this reason.
    Refused(&'static str),
    /// Not HTTP, or too large: refused with this status by the HTTP library, without a body of ours.
    NotHttp(u16),
}

impl Case {
    fn new(what: impl Into<String>, request: Request, reason: &'static str) -> Self {
        Self { what: what.into(), request, expect: Expect::Refused(reason) }
    }

    fn not_http(what: impl Into<String>, request: Request, status: u16) -> Self {
        Self { what: what.into(), request, expect: Expect::NotHttp(status) }
    }

    /// Replaces the placeholder with the canary, in the input and in two headers that must not be repeated either.
    fn plant(mut self, canary: &str) -> Self {
        let request = &mut self.request;
        request.path = request.path.replace(PLACE, canary);
        for (_, value) in &mut request.headers {
            *value = replace(value, canary.as_bytes());
        }
        // The large inputs consist of one letter, and a search in them takes long.
        if request.body.len() < 1 << 20 {
            request.body = replace(&request.body, canary.as_bytes());
        }
        let traced = format!("00-{canary}");
        self.request = self.request.with("user-agent", canary).with("traceparent", traced);
        self
    }
}

fn replace(bytes: &[u8], canary: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    while let Some(at) = bytes.windows(PLACE.len()).position(|window| window == PLACE.as_bytes()) {
        bytes[at..at + PLACE.len()].copy_from_slice(canary);
    }
    bytes
}

/// The lists write [`PLACE`] as `{c}`.
fn place(text: &str) -> String {
    text.replace("{c}", PLACE)
}

/// The secrets of three owners, and a server at its finest log level.
struct PopulatedServer {
    server: Server,
    other: String,
    system: String,
    before: String,
}

impl PopulatedServer {
    fn start() -> Self {
        // The tests make many failed authentications. Their limit is tested elsewhere.
        let server = Server::start_with(&["--log-level", "trace", "--limit-failed-auth-rate", "0"]);
        let scopes = "secrets/read,secrets/write,secrets/read/internal,secrets/write/internal";
        let other = server.issue("bystander", scopes, &[]);
        let system = server.issue("system", scopes, &[]);
        let populated = Self { server, other, system, before: String::new() };
        let admin = populated.server.key.clone();
        populated.plant(&admin, "default", "planted-one");
        populated.plant(&admin, "default", "planted-two");
        populated.plant(&admin, "mcp", "planted-three");
        populated.plant(&admin, "llm-keys", "planted-llm");
        populated.plant(&populated.other, "default", "planted-other");
        populated.plant(&populated.system, "kek", "planted-system");
        let rotation = r#"{"new_value":"planted value 2"}"#;
        assert_eq!(populated.server.call("POST", "/v1/secrets/planted-one/rotate", rotation).status, 200);
        let before = populated.everything();
        assert_eq!(before.matches("planted value 1").count(), 7, "{before}");
        Self { before, ..populated }
    }

    fn plant(&self, key: &str, realm: &str, name: &str) {
        let body = format!(
            r#"{{"name":"{name}","realm":"{realm}","value":"planted value 1","tags":{{"planted":"yes"}}}}"#
        );
        let reply = self.server.call_as(key, "POST", "/v1/secrets", &body);
        assert_eq!(reply.status, 200, "{reply:?}");
    }

    /// All versions of all three owners' secrets, with every value that is active.
    fn everything(&self) -> String {
        let mut all = String::new();
        for key in [&self.server.key, &self.other, &self.system] {
            let list = self.server.call_as(key, "GET", "/v1/secrets?status=any&page_size=1000", "");
            assert_eq!(list.status, 200, "{list:?}");
            for secret in list.json()["secrets"].as_array().unwrap() {
                let _ = writeln!(all, "{secret}");
                if secret["status"] == "active" {
                    let body = serde_json::json!({"realm": secret["realm"], "user_id": secret["user_id"]});
                    let path = format!("/v1/secrets/{}/value", secret["name"].as_str().unwrap());
                    let value = self.server.call_as(key, "POST", &path, &body.to_string());
                    assert_eq!(value.status, 200, "{value:?}");
                    let _ = writeln!(all, "  {}", value.json()["value"]);
                }
            }
        }
        all
    }

    /// Sends every case and checks its response. Then checks that nothing changed and no canary was written.
    fn withstands(&self, cases: Vec<Case>) {
        let count = cases.len();
        let mut faults = Vec::new();
        for (number, case) in cases.into_iter().enumerate() {
            let canary = format!("{CANARY}{number:05}");
            let case = case.plant(&canary);
            let response = case.request.send(&self.server);
            if let Err(fault) = check(&case, &response) {
                faults.push(format!("{}: {fault}\n    {}", case.what, response.all.replace('\n', "\n    ")));
            }
        }
        assert!(faults.is_empty(), "{} of {count} failed:\n{}", faults.len(), faults.join("\n"));
        self.is_unharmed();
    }

    fn is_unharmed(&self) {
        assert_eq!(self.everything(), self.before, "the secrets are as they were");
        let written = self.server.written();
        let metrics = self.server.call("GET", "/metrics", "").body;
        assert!(written.contains("INVALID_REQUEST") && metrics.contains("INVALID_REQUEST"));
        // The end of a key is its secret. Its start is its id, which is public.
        let secrets =
            [&self.server.key, &self.other, &self.system].map(|key| key[key.len() - 40..].to_owned());
        for text in [&written, &metrics] {
            let line = |needle: &str| text.lines().find(|line| line.contains(needle)).unwrap_or("");
            assert_eq!(line(CANARY), "", "a canary got out");
            assert_eq!(line("planted value"), "", "a value leaked");
            for secret in &secrets {
                assert_eq!(line(secret), "", "a key leaked");
            }
            assert_eq!(line("panicked"), "", "the server panicked");
        }
        assert_eq!(self.server.call("GET", "/readyz", "").status, 200);
    }
}

fn check(case: &Case, response: &RawResponse) -> Result<(), String> {
    if response.contains(CANARY) {
        return Err("the canary came back".to_owned());
    }
    if response.all.len() > LARGEST {
        return Err(format!("{} bytes", response.all.len()));
    }
    let reason = match case.expect {
        Expect::NotHttp(status) if response.status == status && response.reason.is_empty() => return Ok(()),
        Expect::NotHttp(status) => {
            return Err(format!("{} {}, not a bare {status}", response.status, response.reason));
        }
        Expect::Refused(reason) => reason,
    };
    if response.reason != reason {
        return Err(format!("{} {}, not {reason}", response.status, response.reason));
    }
    let (rest, connect, code) = statuses(reason);
    let framed = case.request.headers.iter().any(|(name, kind)| name == "content-type" && is_grpc(kind));
    let status = match case.request.path.starts_with("/agentrouter.") {
        true if framed => 200,
        true => connect,
        false => rest,
    };
    // A response to HEAD has no body, so it has no code.
    let code_fits = response.code == Some(code) || case.request.method == "HEAD";
    if response.status != status || !code_fits {
        return Err(format!("{} with code {:?}, not {status} with {code}", response.status, response.code));
    }
    if !response.all.contains("cache-control: no-store") || !response.all.contains("x-request-id: ") {
        return Err("without what every response carries".to_owned());
    }
    Ok(())
}

/// Whether a response is in gRPC or gRPC-Web, whose status is always 200.
fn is_grpc(kind: &[u8]) -> bool {
    let kind = std::str::from_utf8(kind).unwrap_or_default();
    let known = ["", "+proto", "+json"]
        .map(|codec| ["application/grpc", "application/grpc-web"].map(|of| format!("{of}{codec}")));
    known.as_flattened().iter().any(|known| known == kind) || kind == "application/grpc-web-text"
}

/// The status over REST, the status over Connect (<https://connectrpc.com/docs/protocol/#error-codes>) and the code of
/// a reason. This copy detects a change of the product's table.
fn statuses(reason: &str) -> (u16, u16, u8) {
    match reason {
        "INVALID_REQUEST" | "MALFORMED_BODY" | "PAGE_TOKEN_INVALID" => (400, 400, 3),
        "UNSUPPORTED_MEDIA_TYPE" => (415, 415, 12),
        "METHOD_NOT_ALLOWED" => (405, 405, 12),
        "UNKNOWN_ROUTE" => (404, 501, 12),
        "UNAUTHENTICATED" => (401, 401, 16),
        "USER_ID_NOT_ALLOWED" => (403, 403, 7),
        "SECRET_NOT_FOUND" => (404, 404, 5),
        "VERSION_MISMATCH" => (409, 409, 10),
        "BODY_TOO_LARGE" => (413, 429, 8),
        other => panic!("no status for {other}"),
    }
}

#[test]
fn an_invalid_field_is_rejected_in_every_dialect() {
    let populated = PopulatedServer::start();
    populated.withstands(rules::cases(&populated.server.key));
}

#[test]
fn an_invalid_head_or_path_is_rejected() {
    let populated = PopulatedServer::start();
    populated.withstands(heads::cases(&populated.server.key));
}

#[test]
fn a_body_that_does_not_parse_is_rejected() {
    let populated = PopulatedServer::start();
    let mut cases = bodies::cases(&populated.server.key);
    cases.extend(frames::cases(&populated.server.key));
    populated.withstands(cases);
}

#[test]
fn a_canary_in_a_malformed_request_is_in_no_response_log_or_record() {
    let populated = PopulatedServer::start();
    populated.withstands(canaries::cases(&populated.server.key));
}

#[test]
fn only_the_callers_own_page_token_for_the_same_filters_continues() {
    let populated = PopulatedServer::start();
    populated.withstands(tokens::cases(&populated.server, &populated.other));
}

#[test]
fn all_invalid_keys_are_rejected_alike() {
    let populated = PopulatedServer::start();
    let strays = heads::stray_keys(&populated.server.key);
    let mut bodies = std::collections::BTreeSet::new();
    for (number, (what, headers)) in strays.into_iter().enumerate() {
        for dialect in Dialect::ALL {
            let fields = serde_json::json!({"name": "planted-one"});
            let mut request = Request::of(dialect, agentrouter_model::Rpc::GetSecretValue, &fields).unwrap();
            request.headers.extend(headers.iter().cloned());
            let case = Case::new(what.clone(), request, "UNAUTHENTICATED");
            let case = case.plant(&format!("{CANARY}{number:05}"));
            let response = case.request.send(&populated.server);
            check(&case, &response).unwrap_or_else(|fault| panic!("{what} {dialect:?}: {fault}"));
            let (_, body) = response.all.split_once("\r\n\r\n").unwrap();
            bodies.insert(format!("{dialect:?} {body}"));
        }
    }
    assert_eq!(bodies.len(), Dialect::ALL.len(), "one body a dialect: {bodies:?}");
    // The cases before this one name no field, so one that does identifies the line of the log.
    populated.server.call("GET", "/v1/secrets/..", "");
    populated.is_unharmed();
}

#[test]
fn a_canary_is_found_in_every_part_of_a_response() {
    let response =
        |all: &str| RawResponse { status: 400, reason: String::new(), code: None, all: all.to_owned() };
    // "a zq7canary00001 b" in base64, after one more letter.
    assert!(response(r#""value":"YSB6cTdjYW5hcnkwMDAwMSBi""#).contains(CANARY));
    assert!(response("grpc-status-details-bin: xYSB6cTdjYW5hcnkwMDAwMSBi").contains(CANARY));
    assert!(response("grpc-message: no ZQ7canary00001").contains(CANARY));
    assert!(!response("grpc-message: nothing here").contains(CANARY));
}
