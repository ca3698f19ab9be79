//! Test vectors of format 1, in `vectors/v1.json`, that every later version must open.
//!
//! `generated` produces the file from fixed bytes. It never changes: a new format gets a new file and a new test.

use agentrouter_model::{Envelope, KekId, SecretId};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{open, seal};
use crate::tests::{Counting, Row, kek, value};
use crate::{InternalKey, Kek};

const V1: &str = include_str!("../../vectors/v1.json");

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &Value) -> Box<[u8]> {
    let text = text.as_str().expect("a hex string");
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex")).collect()
}

fn read_kek(case: &Value) -> Kek {
    let id = KekId::parse(case["kek_id"].as_str().expect("an id")).expect("an id");
    Kek::from_bytes(id, Zeroizing::new(unhex(&case["kek"])[..].try_into().expect("32 bytes")))
}

fn generated() -> Value {
    let rng = Counting::default();
    let rows = [
        (Row::new("alice@example.com", "mcp", "github-token", 1, 1), "ghp_example".to_owned()),
        (Row::new("system", "llm-keys", "openai-api-key", u64::MAX, 2), "sk-example".to_owned()),
        (Row::new("a", "0", "Z", 0, i32::MAX), "x".to_owned()),
        (Row::new(&"u".repeat(255), &"r".repeat(64), &"n".repeat(255), 7, 300), "пароль\0\n".repeat(100)),
    ];
    let envelopes = rows.iter().enumerate().map(|(i, (row, text))| {
        let kek = kek(&format!("kek-{i}"), u8::try_from(i * 17).expect("small"));
        let envelope = seal(&rng, &kek, row.slot(), &value(text)).expect("seals");
        json!({
            "kek_id": kek.id().as_str(), "kek": hex(kek.expose()),
            "kek_check_value": hex(&kek.check_value().expect("derives")),
            "owner": row.place.owner.as_str(), "realm": row.place.realm.as_str(),
            "name": row.place.name.as_str(), "id": row.id.to_string(), "version": row.version.get(),
            "wrapped_dek": hex(&envelope.wrapped_dek), "sealed": hex(&envelope.sealed), "value": text,
        })
    });
    let envelopes: Vec<Value> = envelopes.collect();
    let internal = ["audit", "page-tokens"].map(|purpose| {
        let kek = kek("kek-internal", 0xa5);
        let key = InternalKey::generate(&rng).expect("random");
        let wrapped = key.wrap(&rng, &kek, purpose).expect("wraps");
        json!({
            "kek_id": kek.id().as_str(), "kek": hex(kek.expose()), "purpose": purpose,
            "wrapped": hex(&wrapped), "message": "message", "mac": hex(&key.mac(&[b"message"])),
        })
    });
    json!({ "format": 1, "envelopes": envelopes, "internal_keys": internal })
}

#[test]
fn envelopes_of_format_1_open() {
    let file: Value = serde_json::from_str(V1).expect("JSON");
    let cases = file["envelopes"].as_array().expect("an array");
    assert_eq!(cases.len(), 4);
    for case in cases {
        let text = |field: &str| case[field].as_str().expect("a string");
        let kek = read_kek(case);
        let version = i32::try_from(case["version"].as_i64().expect("a number")).expect("32 bits");
        let mut row = Row::new(text("owner"), text("realm"), text("name"), 0, version);
        row.id = SecretId::parse(text("id")).expect("a ULID");
        let envelope = Envelope {
            kek_id: kek.id().clone(),
            wrapped_dek: unhex(&case["wrapped_dek"]),
            sealed: unhex(&case["sealed"]),
        };
        assert_eq!(open(&kek, row.slot(), &envelope), Ok(value(text("value"))));
        assert_eq!(hex(&kek.check_value().expect("derives")), text("kek_check_value"));
    }
}

#[test]
fn internal_keys_of_format_1_unwrap() {
    let file: Value = serde_json::from_str(V1).expect("JSON");
    let cases = file["internal_keys"].as_array().expect("an array");
    for (case, purpose) in cases.iter().zip(["audit", "page-tokens"]) {
        assert_eq!(case["purpose"], purpose);
        let key = InternalKey::unwrap(&read_kek(case), purpose, &unhex(&case["wrapped"])).expect("unwraps");
        let message = case["message"].as_str().expect("a string");
        assert!(key.verify(&[message.as_bytes()], &unhex(&case["mac"])));
    }
    assert_eq!(cases.len(), 2);
}

#[test]
fn format_1_is_written_unchanged() {
    let file: Value = serde_json::from_str(V1).expect("JSON");
    // The whole file, not the first difference: this is how it is made when there is none.
    assert!(file == generated(), "the format has changed; it would now be\n{:#}", generated());
}
