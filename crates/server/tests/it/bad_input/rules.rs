//! Values that break the rule of their field, in every dialect that can express them.

use agentrouter_model::Rpc;
use serde_json::{Value, json};

use super::wire::{Dialect, Request};
use super::{Case, place};

const INVALID: &str = "INVALID_REQUEST";

/// Invalid names. They are refused, never trimmed, folded or resolved into a valid name.
const NAMES: &[&str] = &[
    "{c}/planted-one",
    "../{c}",
    "..",
    ".",
    "{c}/../planted-one",
    "planted-one/{c}",
    "{c}..x",
    ".{c}",
    "{c}.",
    "-{c}",
    "{c} ",
    " {c}",
    "planted-one ",
    "\tplanted-one",
    "planted-one\n",
    "planted-one\0{c}",
    "planted-one\0",
    "planted%2Done{c}/",
    "%2e%2e{c}",
    "{c}%2F..",
    "{c}%00",
    "{c};x=1",
    "{c}?realm=kek",
    "{c}#x",
    "{c}&realm=kek",
    "*",
    "planted-*{c}",
    "{name}{c}",
    "рlanted-one{c}",
    "planted\u{2010}one",
    "planted-one\u{200b}",
    "\u{feff}planted-one",
    "\u{202e}{c}",
    "．．{c}",
    "ｐlanted-one",
    "{c}é",
    "{c}e\u{301}",
    "{c}\u{a0}x",
    "{c}' OR '1'='1",
    "{c}'; DROP TABLE secrets; --",
    "{c}\" OR 1=1 --",
    "planted-one' --{c}",
    "{c}%",
    "planted_one%{c}\\",
    "${jndi:ldap://{c}}",
    "{{7*7}}{c}",
    "{c}\r\nx-agentrouter-reason: OK",
    "<script>{c}</script>",
];

const REALMS: &[&str] = &[
    "{c} ",
    " default",
    "DEFAULT",
    "LLM-keys",
    "*",
    "default/../kek",
    "{c}_x",
    "kek\0{c}",
    "-{c}",
    "kеk",
    "kek'--{c}",
];

const USERS: &[&str] = &[
    "{c} x",
    "*",
    "by/stander{c}",
    "system\0{c}",
    "sys\u{200b}tem{c}",
    "ѕystem",
    "a' OR ''='{c}",
    " system",
];

/// The required fields of `rpc`.
pub fn base(rpc: Rpc) -> Value {
    match rpc {
        Rpc::ListSecrets => json!({}),
        Rpc::CreateSecret => json!({"name": "planted-one", "value": "replaced"}),
        Rpc::RotateSecret => json!({"name": "planted-one", "new_value": "replaced"}),
        _ => json!({"name": "planted-one"}),
    }
}

pub fn cases(key: &str) -> Vec<Case> {
    let mut list: Vec<(Rpc, Value, &'static str)> = Vec::new();
    for rpc in Rpc::ALL {
        let mut with = |field: &str, texts: &[&str]| {
            for text in texts {
                let mut fields = base(rpc);
                fields[field] = json!(text);
                list.push((rpc, fields, INVALID));
            }
        };
        with("realm", REALMS);
        with("realm", &[&"r".repeat(65)]);
        if rpc != Rpc::ListSecrets {
            with("name", NAMES);
            with("name", &[&"n".repeat(256), ""]);
        }
        if matches!(rpc, Rpc::CreateSecret | Rpc::GetSecretValue) {
            with("user_id", USERS);
            with("user_id", &[&"u".repeat(256)]);
        }
    }
    list.extend(parts().into_iter().map(|(rpc, change)| {
        let mut fields = base(rpc);
        for (name, value) in change.as_object().unwrap() {
            fields[name] = value.clone();
        }
        (rpc, fields, INVALID)
    }));
    list.extend(absent_names());
    let mut cases = Vec::new();
    for (rpc, fields, reason) in list {
        let fields: Value = serde_json::from_str(&place(&fields.to_string())).unwrap();
        for dialect in Dialect::ALL {
            let Some(request) = Request::of(dialect, rpc, &fields) else { continue };
            let mut what = format!("{dialect:?} {rpc} {fields}");
            what.truncate(what.floor_char_boundary(160));
            cases.push(Case::new(what, request.with_key(key), reason));
        }
    }
    assert!(cases.len() > 1000, "{}", cases.len());
    cases
}

/// The fields of a secret, of a rotation, of a list.
fn parts() -> Vec<(Rpc, Value)> {
    let many: serde_json::Map<String, Value> = (0..65).map(|n| (format!("k{n}"), json!("{c}"))).collect();
    let create = [
        json!({"name": "new-one", "value": ""}),
        json!({"value": format!("{{c}}{}", "v".repeat(64 * 1024))}),
        json!({"description": format!("{{c}}{}", "d".repeat(1024))}),
        json!({"tags": many}),
        json!({"tags": {"{c} x": "y"}}),
        json!({"tags": {"": "{c}"}}),
        json!({"tags": {"k'--{c}": "y"}}),
        json!({"tags": {"k\0": "{c}"}}),
        json!({"tags": {"ключ": "{c}"}}),
        json!({"tags": {"k".repeat(129): "{c}"}}),
        json!({"tags": {"k": format!("{{c}}{}", "v".repeat(256))}}),
        json!({"tags": {"k": "{c}\u{7}"}}),
        json!({"tags": {"k": "{c}\u{85}"}}),
        json!({"tags": {"k": "{c}\n"}}),
        json!({"expected_version": -1, "description": "{c}"}),
        json!({"expected_version": i32::MIN, "value": "{c}"}),
        json!({"update_mask": "{c}"}),
        json!({"update_mask": "value,{c}"}),
        json!({"update_mask": "name", "description": "{c}"}),
        json!({"update_mask": "*", "value": "{c}"}),
        json!({"update_mask": "value", "value": ""}),
        json!({"update_mask": "tags.planted", "value": "{c}"}),
    ];
    let rotate = [
        json!({"new_value": ""}),
        json!({"new_value": format!("{{c}}{}", "v".repeat(64 * 1024))}),
        json!({"expected_version": 0, "new_value": "{c}"}),
        json!({"expected_version": -1, "new_value": "{c}"}),
        json!({"grace_period": "-1s", "new_value": "{c}"}),
        json!({"grace_period": "31622401s", "new_value": "{c}"}),
        json!({"grace_period": "315576000000s", "new_value": "{c}"}),
    ];
    let list = [
        json!({"page_size": -1, "name_prefix": "{c}"}),
        json!({"page_size": i32::MIN, "realm": "{c}"}),
        json!({"status": "{c}"}),
        json!({"status": "ACTIVE"}),
        json!({"status": "active "}),
        json!({"status": "active' OR 1=1 --{c}"}),
        json!({"status": "any\0{c}"}),
        json!({"name_prefix": "{c}/"}),
        json!({"name_prefix": "planted%{c}"}),
        json!({"name_prefix": "{c}*"}),
        json!({"name_prefix": "x' OR 1=1 --{c}"}),
        json!({"name_prefix": "p".repeat(256)}),
        json!({"tags": {"planted'--": "{c}"}}),
        json!({"tags": {"planted": format!("{{c}}{}", "v".repeat(256))}}),
        json!({"tags": {"planted": "{c}\0"}}),
    ];
    let value = [json!({"version": -1, "user_id": "{c}"}), json!({"version": i32::MIN, "realm": "{c}"})];
    let of = |rpc, list: Vec<Value>| list.into_iter().map(move |fields| (rpc, fields));
    of(Rpc::CreateSecret, create.into())
        .chain(of(Rpc::RotateSecret, rotate.into()))
        .chain(of(Rpc::ListSecrets, list.into()))
        .chain(of(Rpc::GetSecretValue, value.into()))
        .collect()
}

/// Well-formed names of secrets that do not exist: another case, another user's, a system secret under every name but
/// its own.
fn absent_names() -> Vec<(Rpc, Value, &'static str)> {
    let mut list = Vec::new();
    let names = [
        "PLANTED-ONE",
        "Planted-one",
        "planted.one",
        "planted_one",
        "planted-on",
        "planted-one2",
        "planted-other",
    ];
    for rpc in
        [Rpc::GetSecret, Rpc::DeleteSecret, Rpc::RotateSecret, Rpc::ValidateSecret, Rpc::GetSecretValue]
    {
        let mut with = |name: &str, realm: &str| {
            let mut fields = base(rpc);
            fields["name"] = json!(name);
            fields["realm"] = json!(realm);
            list.push((rpc, fields, "SECRET_NOT_FOUND"));
        };
        names.iter().for_each(|name| with(name, "default"));
        with("planted-system", "kek");
        with("planted-llm", "llm-key");
        with("planted-one", "mcp");
        with("planted-three", "");
    }
    for user in ["SYSTEM", "System", "root", "system.", "admin@system", "bystander2", "BYSTANDER"] {
        let fields = json!({"name": "planted-system", "realm": "kek", "user_id": user});
        list.push((Rpc::GetSecretValue, fields, "SECRET_NOT_FOUND"));
        let fields = json!({"name": "planted-other", "user_id": user});
        list.push((Rpc::GetSecretValue, fields, "SECRET_NOT_FOUND"));
    }
    for version in [3, 7, i32::MAX] {
        let fields = json!({"name": "planted-one", "version": version});
        list.push((Rpc::GetSecretValue, fields, "SECRET_NOT_FOUND"));
    }
    let fields = json!({"name": "planted-one", "expected_version": 1, "new_value": "{c}"});
    list.push((Rpc::RotateSecret, fields, "VERSION_MISMATCH"));
    for version in [0, 1, i32::MAX] {
        let fields = json!({"name": "planted-one", "expected_version": version, "value": "{c}"});
        list.push((Rpc::CreateSecret, fields, "VERSION_MISMATCH"));
    }
    list
}
