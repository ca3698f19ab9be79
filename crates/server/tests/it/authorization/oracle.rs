//! The rules of the contract as a table and a few functions: §2 (the RPCs), §3 (callers), §4 (semantics).

use std::collections::BTreeMap;

use serde_json::Value;

pub const READ: &str = "secrets/read";
pub const WRITE: &str = "secrets/write";
pub const READ_INTERNAL: &str = "secrets/read/internal";
pub const WRITE_INTERNAL: &str = "secrets/write/internal";

/// Realms whose secrets always belong to `system`.
pub const LLM: [&str; 5] = ["llm-keys", "llm", "llm-providers", "ai-keys", "byok"];

/// gRPC's numbers for the contract's 401, 403 and 404.
pub const UNAUTHENTICATED: u8 = 16;
pub const PERMISSION_DENIED: u8 = 7;
pub const NOT_FOUND: u8 = 5;
pub const INVALID_ARGUMENT: u8 = 3;

/// The address of a secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub owner: String,
    pub realm: String,
    pub name: String,
}

impl Place {
    pub fn new(owner: &str, realm: &str, name: &str) -> Self {
        Self { owner: owner.to_owned(), realm: realm.to_owned(), name: name.to_owned() }
    }

    /// The address of a `Secret` in a response.
    pub fn of(secret: &Value) -> Self {
        let text = |field: &str| secret[field].as_str().unwrap_or_else(|| panic!("no {field}: {secret}"));
        Self::new(text("user_id"), text("realm"), text("name"))
    }
}

/// A valid key.
#[derive(Clone, Debug)]
pub struct Key {
    pub user: String,
    pub scopes: Vec<&'static str>,
    /// Its current realm.
    pub realm: String,
    /// The realms that it is limited to.
    pub realms: Option<Vec<&'static str>>,
}

impl Key {
    pub fn of(user: &str, scopes: &[&'static str]) -> Self {
        Self { user: user.to_owned(), scopes: scopes.to_vec(), realm: "default".to_owned(), realms: None }
    }

    pub fn limited_to(self, realms: &[&'static str]) -> Self {
        Self { realm: realms[0].to_owned(), realms: Some(realms.to_vec()), ..self }
    }

    /// The owner that this key has in `realm`.
    pub fn owner_in(&self, realm: &str) -> String {
        if LLM.contains(&realm) { "system".to_owned() } else { self.user.clone() }
    }

    pub fn may_use(&self, realm: &str) -> bool {
        self.realms.as_ref().is_none_or(|realms| realms.contains(&realm))
    }
}

/// The effect of a request on its secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Sets the value of the request, whether or not the secret exists.
    Put,
    /// The secret must exist. Sets the value of the request.
    Replace,
    /// The secret must exist. Removes it.
    Remove,
    /// The secret must exist. Returns its metadata.
    Show,
    /// The secret must exist. Returns its value.
    Reveal,
    /// The secret must exist. Checks that its value opens.
    Try,
    /// Reads all secrets.
    Enumerate,
}

/// An RPC of the contract.
#[derive(Debug)]
pub struct Row {
    pub rpc: &'static str,
    pub http: (&'static str, &'static str),
    pub scope: &'static str,
    /// The scope that allows another user in `user_id`. `None` if the request has no such field.
    pub naming: Option<&'static str>,
    pub effect: Effect,
}

const fn row(
    rpc: &'static str,
    http: (&'static str, &'static str),
    scope: &'static str,
    naming: Option<&'static str>,
    effect: Effect,
) -> Row {
    Row { rpc, http, scope, naming, effect }
}

#[rustfmt::skip]
pub const ROWS: [Row; 7] = [
    row("CreateSecret",   ("POST",   "/v1/secrets"),                 WRITE,         Some(WRITE_INTERNAL), Effect::Put),
    row("GetSecret",      ("GET",    "/v1/secrets/{name}"),          READ,          None,                 Effect::Show),
    row("ListSecrets",    ("GET",    "/v1/secrets"),                 READ,          None,                 Effect::Enumerate),
    row("DeleteSecret",   ("DELETE", "/v1/secrets/{name}"),          WRITE,         None,                 Effect::Remove),
    row("RotateSecret",   ("POST",   "/v1/secrets/{name}/rotate"),   WRITE,         None,                 Effect::Replace),
    row("ValidateSecret", ("POST",   "/v1/secrets/{name}/validate"), READ,          None,                 Effect::Try),
    row("GetSecretValue", ("POST",   "/v1/secrets/{name}/value"),    READ_INTERNAL, Some(READ_INTERNAL),  Effect::Reveal),
];

/// A request. It always names its realm, and its `user_id` only if that is not empty.
#[derive(Clone, Copy, Debug)]
pub struct SecretRequest<'a> {
    pub realm: &'a str,
    pub name: &'a str,
    pub user_id: &'a str,
}

impl Row {
    /// The address that the request is about, or the code of its refusal.
    pub fn judge(
        &self,
        key: Option<&Key>,
        request: SecretRequest<'_>,
        rows: &BTreeMap<Place, String>,
    ) -> Result<Place, u8> {
        let key = key.ok_or(UNAUTHENTICATED)?;
        if !key.scopes.contains(&self.scope) || !key.may_use(request.realm) {
            return Err(PERMISSION_DENIED);
        }
        let mut owner = key.owner_in(request.realm);
        if let Some(scope) = self.naming
            && !request.user_id.is_empty()
            && !LLM.contains(&request.realm)
        {
            if request.user_id != key.user && !key.scopes.contains(&scope) {
                return Err(PERMISSION_DENIED);
            }
            request.user_id.clone_into(&mut owner);
        }
        let place = Place { owner, realm: request.realm.to_owned(), name: request.name.to_owned() };
        let needed = !matches!(self.effect, Effect::Put | Effect::Enumerate);
        if needed && !rows.contains_key(&place) { Err(NOT_FOUND) } else { Ok(place) }
    }

    /// Changes `rows` as a successful request does, and checks its response.
    pub fn settle(&self, place: &Place, value: &str, message: &Value, rows: &mut BTreeMap<Place, String>) {
        match self.effect {
            Effect::Put | Effect::Replace => {
                rows.insert(place.clone(), value.to_owned());
                assert_eq!(Place::of(&message["secret"]), *place);
            }
            Effect::Remove => {
                rows.remove(place);
                assert_eq!(message["success"], true);
            }
            Effect::Show => assert_eq!(Place::of(&message["secret"]), *place),
            Effect::Reveal => {
                assert_eq!(Place::of(&message["secret"]), *place);
                assert_eq!(message["value"], **rows.get(place).expect("expected to exist"));
            }
            Effect::Try => assert_eq!(message["valid"], true),
            Effect::Enumerate => {
                let listed = message["secrets"].as_array().into_iter().flatten().map(Place::of);
                let expected =
                    rows.keys().filter(|row| (&row.owner, &row.realm) == (&place.owner, &place.realm));
                assert_eq!(listed.collect::<Vec<_>>(), expected.cloned().collect::<Vec<_>>());
            }
        }
    }
}
