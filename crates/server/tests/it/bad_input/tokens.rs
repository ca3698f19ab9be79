//! Page tokens of another caller, of other filters, or truncated.

use agentrouter_model::Rpc;
use serde_json::{Value, json};

use super::wire::{Dialect, Request};
use super::{Case, place};
use crate::support::Server;

fn token(server: &Server, key: &str, query: &str) -> String {
    let reply = server.call_as(key, "GET", &format!("/v1/secrets?page_size=1{query}"), "");
    let token = reply.json()["next_page_token"].as_str().unwrap_or_default().to_owned();
    assert!(!token.is_empty(), "a second page: {reply:?}");
    token
}

pub fn cases(server: &Server, other: &str) -> Vec<Case> {
    let own = token(server, &server.key, "");
    let next = server.call("GET", &format!("/v1/secrets?page_size=1&page_token={own}"), "");
    assert_eq!(next.status, 200, "the token itself is good: {next:?}");

    let mut wrong: Vec<Value> = Vec::new();
    let texts = ["{c}", "AA", "A", "=", "{c}==", "AQAAAAE", "../{c}", "' OR 1=1 --{c}", "\u{feff}{c}", "\0"];
    wrong.extend(texts.map(|text| json!({"page_token": text})));
    wrong.push(json!({"page_token": "A".repeat(4096)}));
    wrong.push(json!({"page_token": token(server, other, "")}));
    wrong.push(json!({"page_token": format!("{own}=")}));
    wrong.push(json!({"page_token": format!("{own}A")}));
    wrong.push(json!({"page_token": format!(" {own}")}));
    wrong.push(json!({"page_token": own[..own.len() - 1]}));
    wrong.push(json!({"page_token": own.to_ascii_uppercase()}));
    wrong.push(json!({"page_token": own, "realm": "default"}));
    wrong.push(json!({"page_token": own, "status": "any"}));
    wrong.push(json!({"page_token": own, "name_prefix": "planted"}));
    wrong.push(json!({"page_token": own, "tags": {"planted": "yes"}}));
    let of_prefix = token(server, &server.key, "&name_prefix=planted");
    wrong.push(json!({"page_token": of_prefix}));
    wrong.push(json!({"page_token": of_prefix, "name_prefix": "plante"}));
    let of_tag = token(server, &server.key, "&tags[planted]=yes");
    wrong.push(json!({"page_token": of_tag, "tags": {"planted": "yes", "p": "y"}}));

    let mut cases = Vec::new();
    for fields in wrong {
        let fields: Value = serde_json::from_str(&place(&fields.to_string())).unwrap();
        for dialect in Dialect::ALL {
            let Some(request) = Request::of(dialect, Rpc::ListSecrets, &fields) else { continue };
            let what = format!("{dialect:?} {fields}");
            cases.push(Case::new(what, request.with_key(&server.key), "PAGE_TOKEN_INVALID"));
        }
    }
    // One dialect after the other: all of them end in the same handler.
    for (token, dialect) in flipped(&own).iter().zip(Dialect::ALL.into_iter().cycle()) {
        let request = Request::of(dialect, Rpc::ListSecrets, &json!({"page_token": token})).unwrap();
        cases.push(Case::new(
            format!("{dialect:?} {token}"),
            request.with_key(&server.key),
            "PAGE_TOKEN_INVALID",
        ));
    }
    // A refusal of this kind identifies the line of the log.
    let request = Request::new("GET", "/v1/secrets?page_size=-1", "").with_key(&server.key);
    cases.push(Case::new("a negative page", request, "INVALID_REQUEST"));
    cases
}

/// The token with each of its bits flipped, one at a time.
fn flipped(token: &str) -> Vec<String> {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let bytes = URL_SAFE_NO_PAD.decode(token).expect("base64url");
    (0..bytes.len() * 8)
        .map(|bit| {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            URL_SAFE_NO_PAD.encode(bytes)
        })
        .collect()
}
