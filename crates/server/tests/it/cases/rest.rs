//! Raw REST: HTTP/1.1 text, one connection for each request.

use std::sync::Arc;

use agentrouter_api::routes::ROUTES;
use serde_json::{Map, Value, json};

use super::CaseServer;
use super::run::{CaseClient, CaseRequest, Failed, FailureKind, as_it_stands};
use super::scenario::Wanted;
use crate::support::Reply;

/// Codes by their numbers, and the HTTP status of each; RESOURCE_EXHAUSTED and UNIMPLEMENTED have two.
const CODES: [(u64, &str, &[u16]); 8] = [
    (3, "INVALID_ARGUMENT", &[400]),
    (5, "NOT_FOUND", &[404]),
    (7, "PERMISSION_DENIED", &[403]),
    (8, "RESOURCE_EXHAUSTED", &[413, 429]),
    (10, "ABORTED", &[409]),
    (12, "UNIMPLEMENTED", &[404, 405]),
    (14, "UNAVAILABLE", &[503]),
    (16, "UNAUTHENTICATED", &[401]),
];

pub struct Rest {
    server: Arc<CaseServer>,
}

impl Rest {
    pub fn new(server: Arc<CaseServer>) -> Self {
        Self { server }
    }

    /// One request and its response.
    fn once(&self, case: &CaseRequest<'_>, request: &Map<String, Value>) -> Result<Value, Failed> {
        let (line, body) = line_and_body(case.call, request);
        let authorization =
            case.key.map(|key| format!("authorization: Bearer ak-{key}\r\n")).unwrap_or_default();
        let text = format!(
            "{line} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n{authorization}\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let reply = Reply::parse(&self.server.upstream.send(text.as_bytes()).expect("a response"));
        if reply.status == 200 { Ok(reply.json()) } else { Err(failed(&reply)) }
    }
}

impl CaseClient for Rest {
    const IS_SDK: bool = false;

    fn call(&self, case: &CaseRequest<'_>) -> Result<Value, Failed> {
        if !case.all_pages {
            return self.once(case, case.request);
        }
        let (mut request, mut secrets) = (case.request.clone(), Vec::new());
        loop {
            let page = self.once(case, &request)?;
            secrets.extend(page["secrets"].as_array().expect("a page").iter().cloned());
            if page["next_page_token"] == "" {
                return Ok(json!({ "secrets": secrets }));
            }
            request.insert("page_token".to_owned(), page["next_page_token"].clone());
        }
    }

    /// The server checks the key, and without a name there is no path.
    fn wants(&self, case: &CaseRequest<'_>, wanted: &Wanted) -> FailureKind {
        let named =
            ROUTES.iter().any(|route| route.rpc.as_str() == case.call && route.template.contains("{name}"));
        if named && case.text("name").is_empty() {
            return FailureKind::Refused("UNIMPLEMENTED".to_owned(), "UNKNOWN_ROUTE".to_owned(), Vec::new());
        }
        as_it_stands(wanted)
    }
}

/// The method and target of a call, and its body.
fn line_and_body(call: &str, request: &Map<String, Value>) -> (String, String) {
    let route = ROUTES.iter().find(|route| route.rpc.as_str() == call).expect("one of the seven calls");
    let mut request = request.clone();
    let mut path = route.template.to_owned();
    if path.contains("{name}") {
        let name = request.remove("name").unwrap_or_default();
        path = path.replace("{name}", &encoded(name.as_str().unwrap_or_default()));
    }
    if route.method == "POST" {
        return (format!("POST {path}"), Value::Object(request).to_string());
    }
    let mut query = Vec::new();
    for (field, value) in request {
        match value {
            Value::Object(tags) => query.extend(
                tags.iter().map(|(key, value)| format!("tags[{}]={}", encoded(key), encoded(&plain(value)))),
            ),
            value => query.push(format!("{field}={}", encoded(&plain(&value)))),
        }
    }
    let mark = if query.is_empty() { "" } else { "?" };
    (format!("{} {path}{mark}{}", route.method, query.join("&")), String::new())
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Everything but letters, digits, `-`, `.`, `_` and `~` as `%XX`.
fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

fn failed(reply: &Reply) -> Failed {
    let body = reply.json();
    let number = body["code"].as_u64().expect("a code");
    let (_, code, statuses) =
        CODES.iter().find(|(known, ..)| *known == number).unwrap_or_else(|| panic!("code {number}"));
    assert!(statuses.contains(&reply.status), "{code} with {}", reply.status);
    let mut fields = Vec::new();
    for detail in body["details"].as_array().expect("details") {
        for violation in detail["field_violations"].as_array().into_iter().flatten() {
            fields.push(violation["field"].as_str().expect("a field").to_owned());
        }
    }
    fields.sort();
    let shown = format!("{}\n{}", reply.head, reply.body);
    Failed { kind: FailureKind::Refused((*code).to_owned(), reply.reason(), fields), shown }
}
