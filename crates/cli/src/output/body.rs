//! Bodies of responses as REST writes them, and their tables.

use std::collections::BTreeMap;

use agentrouter_sdk::secret::v1;
use agentrouter_sdk::types::Timestamp;
use serde::Serialize;

use super::Table;

/// `{"secret": …}`.
#[derive(Serialize)]
pub(crate) struct SecretBody {
    secret: Secret,
}

/// `{"value": …, "secret": …}`.
#[derive(Serialize)]
pub(crate) struct ValueBody<'a> {
    value: &'a str,
    secret: Secret,
}

/// `{"secrets": […], "next_page_token": …}`.
#[derive(Serialize)]
pub(crate) struct ListBody {
    secrets: Vec<Secret>,
    next_page_token: String,
}

/// `{"success": …}`.
#[derive(Serialize)]
pub(crate) struct DeleteBody {
    pub(crate) success: bool,
}

/// `{"valid": …, "error": …}`.
#[derive(Serialize)]
pub(crate) struct ValidateBody {
    pub(crate) valid: bool,
    pub(crate) error: String,
}

/// A secret's metadata as REST writes it.
#[derive(Serialize)]
struct Secret {
    id: String,
    name: String,
    realm: String,
    user_id: String,
    description: String,
    tags: BTreeMap<String, String>,
    status: String,
    version: i32,
    created_at: Option<String>,
    updated_at: Option<String>,
    rotated_at: Option<String>,
    expires_at: Option<String>,
    kek_id: String,
}

impl From<v1::Secret> for Secret {
    fn from(wire: v1::Secret) -> Self {
        Self {
            created_at: time(wire.created_at.as_option()),
            updated_at: time(wire.updated_at.as_option()),
            rotated_at: time(wire.rotated_at.as_option()),
            expires_at: time(wire.expires_at.as_option()),
            id: wire.id,
            name: wire.name,
            realm: wire.realm,
            user_id: wire.user_id,
            description: wire.description,
            tags: wire.tags.into_iter().collect(),
            status: wire.status,
            version: wire.version,
            kek_id: wire.kek_id,
        }
    }
}

impl SecretBody {
    pub(crate) fn new(secret: v1::Secret) -> Self {
        Self { secret: secret.into() }
    }

    /// One field a line, by its name; those that are not set are left out.
    pub(crate) fn table(&self) -> Table {
        let secret = &self.secret;
        let mut rows = vec![
            ("name", secret.name.clone()),
            ("realm", secret.realm.clone()),
            ("user_id", secret.user_id.clone()),
            ("version", secret.version.to_string()),
            ("status", secret.status.clone()),
        ];
        let lines = secret.description.lines().filter(|line| !line.is_empty()).enumerate();
        rows.extend(lines.map(|(i, line)| (if i == 0 { "description" } else { "" }, line.to_owned())));
        rows.extend(
            secret
                .tags
                .iter()
                .enumerate()
                .map(|(i, (key, value))| (if i == 0 { "tags" } else { "" }, format!("{key}={value}"))),
        );
        let times = [
            ("created_at", &secret.created_at),
            ("updated_at", &secret.updated_at),
            ("rotated_at", &secret.rotated_at),
            ("expires_at", &secret.expires_at),
        ];
        rows.extend(times.into_iter().map(|(name, time)| (name, time.clone().unwrap_or_default())));
        rows.extend([("id", secret.id.clone()), ("kek_id", secret.kek_id.clone())]);
        rows.retain(|(_, value)| !value.is_empty());
        Table::fields(rows)
    }
}

impl<'a> ValueBody<'a> {
    pub(crate) fn new(value: &'a str, secret: v1::Secret) -> Self {
        Self { value, secret: secret.into() }
    }
}

impl ListBody {
    pub(crate) fn new(secrets: Vec<v1::Secret>, next_page_token: String) -> Self {
        Self { secrets: secrets.into_iter().map(Secret::from).collect(), next_page_token }
    }

    /// A line a secret. When versions stop being readable is a column only if one of them does.
    pub(crate) fn table(&self) -> Table {
        let mut header = vec!["NAME", "REALM", "USER_ID", "VERSION", "STATUS", "UPDATED_AT"];
        let expires = self.secrets.iter().any(|secret| secret.expires_at.is_some());
        if expires {
            header.push("EXPIRES_AT");
        }
        header.push("TAGS");
        let rows = self.secrets.iter().map(|secret| {
            let mut row = vec![
                secret.name.clone(),
                secret.realm.clone(),
                secret.user_id.clone(),
                secret.version.to_string(),
                secret.status.clone(),
                to_the_second(secret.updated_at.as_deref()),
            ];
            if expires {
                row.push(to_the_second(secret.expires_at.as_deref()));
            }
            let tags: Vec<String> = secret.tags.iter().map(|(key, value)| format!("{key}={value}")).collect();
            row.push(tags.join(","));
            row
        });
        Table::new(header, rows.collect(), "no secrets")
    }
}

/// RFC 3339 in UTC with six fractional digits, as REST has it; none if it is not set.
fn time(timestamp: Option<&Timestamp>) -> Option<String> {
    let timestamp = timestamp?;
    jiff::Timestamp::new(timestamp.seconds, timestamp.nanos).ok().map(|time| format!("{time:.6}"))
}

/// A table needs no fractions of a second; what is left of the time still sorts.
fn to_the_second(time: Option<&str>) -> String {
    let time = time.unwrap_or_default();
    match time.split_once('.') {
        Some((seconds, _)) => format!("{seconds}Z"),
        None => time.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::json;

    fn secret() -> v1::Secret {
        v1::Secret {
            id: "01HF7YAT00ZZZZZZZZZZZZZZZZ".into(),
            name: "openai".into(),
            realm: "mcp".into(),
            user_id: "alice".into(),
            tags: [("env".to_owned(), "prod".to_owned()), ("app".to_owned(), "x".to_owned())]
                .into_iter()
                .collect(),
            status: "active".into(),
            version: 2,
            created_at: Some(Timestamp { seconds: 0, nanos: 123_456_000, ..Default::default() }).into(),
            kek_id: "kek-1".into(),
            ..Default::default()
        }
    }

    #[test]
    fn json_is_the_body_of_the_rest_response() {
        let body = SecretBody::new(secret());
        assert_eq!(
            String::from_utf8(json(&body, false).to_vec()).expect("UTF-8"),
            "{\"secret\":{\"id\":\"01HF7YAT00ZZZZZZZZZZZZZZZZ\",\"name\":\"openai\",\"realm\":\"mcp\",\
             \"user_id\":\"alice\",\"description\":\"\",\"tags\":{\"app\":\"x\",\"env\":\"prod\"},\
             \"status\":\"active\",\"version\":2,\"created_at\":\"1970-01-01T00:00:00.123456Z\",\
             \"updated_at\":null,\"rotated_at\":null,\"expires_at\":null,\"kek_id\":\"kek-1\"}}\n"
        );
        let empty = ListBody::new(Vec::new(), String::new());
        assert_eq!(&**json(&empty, false), b"{\"secrets\":[],\"next_page_token\":\"\"}\n");
    }

    #[test]
    fn a_description_has_its_lines() {
        let secret = v1::Secret { description: "one\r\n\ntwo\u{1b}".into(), ..secret() };
        let text = SecretBody::new(secret).table().render(None);
        assert!(text.contains("description  one\n"), "{text}");
        assert!(text.contains("\n             two\u{fffd}\n"), "{text}");
    }

    #[test]
    fn a_secret_is_shown_field_by_field_without_the_empty_ones() {
        let text = SecretBody::new(secret()).table().render(None);
        assert!(text.starts_with("name        openai\nrealm       mcp\n"), "{text}");
        assert!(text.contains("tags        app=x\n            env=prod\n"), "{text}");
        assert!(!text.contains("description") && !text.contains("rotated_at"), "{text}");
    }
}
