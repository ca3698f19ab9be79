//! The output of `key list`: a table for people, or JSON for programs.

use agentrouter_instance::admin::ListedKey;
use serde_json::{Value, json};

use super::columns;

/// The keys in columns.
pub(super) fn table(keys: &[ListedKey]) -> String {
    let header = ["ID", "STATE", "USER", "SCOPES", "REALM", "REALMS", "CREATED", "EXPIRES", "NAME"];
    let rows: Vec<[&str; 9]> = std::iter::once(header)
        .chain(keys.iter().map(|key| {
            [
                &*key.id,
                &*key.state,
                &*key.user,
                &*key.scopes,
                &*key.realm,
                &*key.realms,
                &*key.created,
                &*key.expires,
                &*key.name,
            ]
        }))
        .collect();
    columns(&rows)
}

/// The keys as an array. `realms` is null for every realm, and `expires` for never. Of a key that is damaged or refused, only
/// `id` and `state` are known, and the others are null.
pub(super) fn json(keys: &[ListedKey]) -> String {
    let known = |text: &str| if text == "?" { Value::Null } else { json!(text) };
    let list = |text: &str, every: &str| match text {
        "?" => Value::Null,
        text if text == every => Value::Null,
        text => text.split(',').map(Value::from).collect(),
    };
    let object = |key: &ListedKey| {
        json!({
            "id": known(&key.id),
            "state": key.state,
            "user": known(&key.user),
            "scopes": list(&key.scopes, "?"),
            "realm": known(&key.realm),
            "realms": list(&key.realms, "all"),
            "created": known(&key.created),
            "expires": if key.expires == "never" { Value::Null } else { known(&key.expires) },
            "name": key.name,
        })
    };
    format!("{:#}\n", Value::from_iter(keys.iter().map(object)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(fields: [&str; 9]) -> ListedKey {
        let [id, state, user, scopes, realm, realms, created, expires, name] = fields.map(str::to_owned);
        ListedKey { id, name, user, scopes, realm, realms, created, expires, state }
    }

    #[test]
    fn json_has_arrays_and_null_for_what_is_not_limited_or_not_known() {
        let keys = [
            key(["A", "live", "u", "secrets/read,secrets/write", "default", "all", "2026", "never", ""]),
            key(["B", "expired", "u", "secrets/read", "r", "r,s", "2026", "2027", "n"]),
            key(["C", "damaged", "?", "?", "?", "?", "?", "?", ""]),
        ];
        let read: Value = serde_json::from_str(&json(&keys)).expect("JSON");
        assert_eq!(read[0]["scopes"], json!(["secrets/read", "secrets/write"]));
        assert_eq!((&read[0]["realms"], &read[0]["expires"]), (&Value::Null, &Value::Null));
        assert_eq!((&read[1]["realms"], &read[1]["expires"]), (&json!(["r", "s"]), &json!("2027")));
        assert_eq!(
            (&read[2]["state"], &read[2]["user"], &read[2]["scopes"]),
            (&json!("damaged"), &Value::Null, &Value::Null)
        );
    }
}
