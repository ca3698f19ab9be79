//! A secret service in memory, for the tests of programs that use this SDK.
//!
//! ```
//! # async fn test() -> Result<(), agentrouter_sdk::Error> {
//! use agentrouter_sdk::secret::v1::GetSecretValueRequest;
//! use agentrouter_sdk::testing::FakeService;
//!
//! let service = FakeService::new();
//! service.put("openai-api-key", "llm-keys", "sk-test");
//! let client = service.client().build()?;
//! let request = GetSecretValueRequest { name: "openai-api-key".into(), realm: "llm-keys".into(), ..Default::default() };
//! assert_eq!(client.secret().get_secret_value(request).await?.value, "sk-test");
//! # Ok(())
//! # }
//! ```
//!
//! The clients are those of the SDK, with their retries and errors, without a network. The service has the behaviour that
//! programs rely on: versions, owners of LLM realms, pages, `expected_version` and rotation. It does not check the rules of names
//! and values, scopes, and grace periods that end.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use agentrouter_api::wire::google::rpc::ErrorInfo;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use buffa::{DecodeError, Message};
use bytes::Bytes;
use http::{Request, Response, StatusCode};

use crate::error::reason;
use crate::secret::{status, v1};
use crate::transport::BoxError;
use crate::{ClientBuilder, Code};

const KEY: &str = "0000000000000000_0000000000000000000000000000000000000000000000000";
/// The owner of secrets outside the LLM realms.
const USER: &str = "test";
/// The current realm of the key.
const REALM: &str = "default";
const LLM_REALMS: [&str; 5] = ["llm-keys", "llm", "llm-providers", "ai-keys", "byok"];

/// A secret service in memory. Clones share the secrets.
#[derive(Clone, Debug, Default)]
pub struct FakeService {
    state: Arc<Mutex<State>>,
}

/// Realm, owner, name: the order of a list.
type Place = (String, String, String);

#[derive(Default)]
struct State {
    /// The versions and their values, oldest first.
    secrets: BTreeMap<Place, Vec<(v1::Secret, String)>>,
    created: u64,
    calls: Vec<String>,
    failures: VecDeque<Refused>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("secrets", &self.secrets.len()).finish_non_exhaustive()
    }
}

struct Refused {
    code: Code,
    reason: &'static str,
    message: &'static str,
}

impl FakeService {
    /// An empty service.
    pub fn new() -> Self {
        Self::default()
    }

    /// A builder of clients of this service. It reads no variables.
    pub fn client(&self) -> ClientBuilder {
        let service = self.clone();
        let builder = ClientBuilder::default().base_url("http://localhost").api_key(KEY).allow_http(false);
        builder.http_client(move |request| {
            let response = service.respond(&request);
            async { response }
        })
    }

    /// Stores a value as the active version. Not recorded in [`FakeService::calls`].
    pub fn put(&self, name: &str, realm: &str, value: &str) {
        let request = v1::CreateSecretRequest {
            name: name.into(),
            realm: realm.into(),
            value: value.into(),
            ..Default::default()
        };
        // It names neither an expected version nor an empty value to refuse.
        let _ = self.state().create(request);
    }

    /// Refuses the next request. `reason` is one of [`reason`]. Without one, the error is that of a proxy.
    pub fn fail(&self, code: Code, reason: &'static str) {
        self.state().failures.push_back(Refused { code, reason, message: "A test asked for this." });
    }

    /// The names of the calls so far, such as `GetSecret`, oldest first.
    pub fn calls(&self) -> Vec<String> {
        self.state().calls.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn respond(&self, request: &Request<Bytes>) -> Result<Response<Bytes>, BoxError> {
        let call = request.uri().path().rsplit('/').next().unwrap_or_default();
        let mut state = self.state();
        state.calls.push(call.to_owned());
        if let Some(refused) = state.failures.pop_front() {
            return refused.response();
        }
        let body = request.body();
        match call {
            "CreateSecret" => respond_to(body, |request| state.create(request)),
            "GetSecret" => respond_to(body, |request| state.get(&request)),
            "ListSecrets" => respond_to(body, |request| state.list(&request)),
            "DeleteSecret" => respond_to(body, |request| state.delete(&request)),
            "RotateSecret" => respond_to(body, |request| state.rotate(request)),
            "ValidateSecret" => respond_to(body, |request| state.validate(&request)),
            "GetSecretValue" => respond_to(body, |request| state.value(&request)),
            _ => Err("there is no such call".into()),
        }
    }
}

/// Decodes a request, and encodes its response or refusal.
fn respond_to<Q: Message, A: Message>(
    body: &[u8],
    call: impl FnOnce(Q) -> Result<A, Refused>,
) -> Result<Response<Bytes>, BoxError> {
    let request = Q::decode_from_slice(body).map_err(|error: DecodeError| error.to_string())?;
    match call(request) {
        Ok(response) => {
            let head = Response::builder().header("content-type", "application/proto");
            Ok(head.body(response.encode_to_vec().into())?)
        }
        Err(refused) => refused.response(),
    }
}

impl Refused {
    fn absent() -> Self {
        let message = "There is no such secret.";
        Self { code: Code::NotFound, reason: reason::SECRET_NOT_FOUND, message }
    }

    fn invalid(message: &'static str) -> Self {
        Self { code: Code::InvalidArgument, reason: reason::INVALID_REQUEST, message }
    }

    /// The Connect protocol's error. Its texts are constants without characters to escape.
    fn response(self) -> Result<Response<Bytes>, BoxError> {
        let details = if self.reason.is_empty() {
            String::new()
        } else {
            let info = ErrorInfo { reason: self.reason.into(), ..Default::default() };
            let value = STANDARD_NO_PAD.encode(info.encode_to_vec());
            format!("{{\"type\":\"google.rpc.ErrorInfo\",\"value\":\"{value}\"}}")
        };
        let (code, message) = (self.code.as_str(), self.message);
        let body = format!("{{\"code\":\"{code}\",\"message\":\"{message}\",\"details\":[{details}]}}");
        let head = Response::builder().status(self.status()).header("content-type", "application/json");
        Ok(head.header("x-request-id", "fake").body(body.into())?)
    }

    fn status(&self) -> StatusCode {
        match self.code {
            Code::InvalidArgument | Code::FailedPrecondition => StatusCode::BAD_REQUEST,
            Code::Unauthenticated => StatusCode::UNAUTHORIZED,
            Code::PermissionDenied => StatusCode::FORBIDDEN,
            Code::NotFound => StatusCode::NOT_FOUND,
            Code::Aborted => StatusCode::CONFLICT,
            Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
            Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

fn place(realm: &str, name: &str, user_id: &str) -> Place {
    let realm = if realm.is_empty() { REALM } else { realm };
    let owner = match user_id {
        _ if LLM_REALMS.contains(&realm) => "system",
        "" => USER,
        user => user,
    };
    (realm.to_owned(), owner.to_owned(), name.to_owned())
}

fn expect(expected: Option<i32>, current: i32) -> Result<(), Refused> {
    match expected {
        Some(version) if version != current => Err(Refused {
            code: Code::Aborted,
            reason: reason::VERSION_MISMATCH,
            message: "The current version is another one.",
        }),
        _ => Ok(()),
    }
}

impl State {
    fn stored(&mut self, place: &Place) -> Result<&mut Vec<(v1::Secret, String)>, Refused> {
        self.secrets.get_mut(place).ok_or_else(Refused::absent)
    }

    /// The newest version, which is the active one.
    fn active(&mut self, place: &Place) -> Result<&mut (v1::Secret, String), Refused> {
        self.stored(place)?.last_mut().ok_or_else(Refused::absent)
    }

    fn create(&mut self, request: v1::CreateSecretRequest) -> Result<v1::CreateSecretResponse, Refused> {
        let at = place(&request.realm, &request.name, &request.user_id);
        let before = self.active(&at).ok().map(|(secret, value)| (secret.clone(), value.clone()));
        let mask = before.as_ref().and_then(|_| request.update_mask.as_option());
        let writes =
            |field: &str, given: bool| mask.map_or(given, |mask| mask.paths.iter().any(|path| path == field));
        let writes_value = writes("value", !request.value.is_empty());
        expect(request.expected_version, before.as_ref().map_or(0, |(secret, _)| secret.version))?;
        if request.value.is_empty() && (before.is_none() || writes_value) {
            return Err(Refused::invalid("Invalid request: value must be set."));
        }
        let (mut secret, value) = match before {
            Some(before) => before,
            None => {
                self.created += 1;
                let (realm, user_id, name) = at.clone();
                let id = format!("{:026}", self.created);
                (v1::Secret { id, name, realm, user_id, ..Default::default() }, String::new())
            }
        };
        if writes("description", !request.description.is_empty()) {
            secret.description = request.description;
        }
        if writes("tags", !request.tags.is_empty()) {
            secret.tags = request.tags;
        }
        let versions = self.secrets.entry(at).or_default();
        if writes_value {
            secret.version += 1;
            secret.status = status::ACTIVE.into();
            if let Some((replaced, _)) = versions.last_mut() {
                replaced.status = status::RETIRED.into();
            }
            versions.push((secret.clone(), request.value));
        } else {
            versions.pop();
            versions.push((secret.clone(), value));
        }
        Ok(v1::CreateSecretResponse { secret: Some(secret).into() })
    }

    fn get(&mut self, request: &v1::GetSecretRequest) -> Result<v1::GetSecretResponse, Refused> {
        let (secret, _) = self.active(&place(&request.realm, &request.name, ""))?;
        Ok(v1::GetSecretResponse { secret: Some(secret.clone()).into() })
    }

    fn list(&mut self, request: &v1::ListSecretsRequest) -> Result<v1::ListSecretsResponse, Refused> {
        let wanted = if request.status.is_empty() { status::ACTIVE } else { &request.status };
        let matches = |secret: &v1::Secret| {
            [USER, "system"].contains(&secret.user_id.as_str())
                && (request.realm.is_empty() || request.realm == secret.realm)
                && secret.name.starts_with(&request.name_prefix)
                && (wanted == status::ANY || wanted == secret.status)
                && request.tags.iter().all(|(key, value)| secret.tags.get(key) == Some(value))
        };
        let found =
            self.secrets.values().flatten().map(|(secret, _)| secret).filter(|secret| matches(secret));
        let start: usize = match request.page_token.as_str() {
            "" => 0,
            token => token.parse().map_err(|_| Refused {
                code: Code::InvalidArgument,
                reason: reason::PAGE_TOKEN_INVALID,
                message: "The page token is invalid.",
            })?,
        };
        let size = match request.page_size {
            0 => 50,
            size => usize::try_from(size)
                .map_err(|_| Refused::invalid("Invalid request: page_size must not be negative."))?
                .min(1000),
        };
        let mut secrets: Vec<_> = found.skip(start).take(size + 1).cloned().collect();
        let next_page_token = if secrets.len() > size { (start + size).to_string() } else { String::new() };
        secrets.truncate(size);
        Ok(v1::ListSecretsResponse { secrets, next_page_token })
    }

    fn delete(&mut self, request: &v1::DeleteSecretRequest) -> Result<v1::DeleteSecretResponse, Refused> {
        let removed = self.secrets.remove(&place(&request.realm, &request.name, ""));
        removed.map(|_| v1::DeleteSecretResponse { success: true }).ok_or_else(Refused::absent)
    }

    fn rotate(&mut self, request: v1::RotateSecretRequest) -> Result<v1::RotateSecretResponse, Refused> {
        let at = place(&request.realm, &request.name, "");
        let (replaced, _) = self.active(&at)?;
        expect(request.expected_version, replaced.version)?;
        if request.new_value.is_empty() {
            return Err(Refused::invalid("Invalid request: new_value must be set."));
        }
        let secret = v1::Secret { version: replaced.version + 1, ..replaced.clone() };
        replaced.status = status::ROTATED_PENDING.into();
        self.stored(&at)?.push((secret.clone(), request.new_value));
        Ok(v1::RotateSecretResponse { secret: Some(secret).into() })
    }

    fn validate(
        &mut self,
        request: &v1::ValidateSecretRequest,
    ) -> Result<v1::ValidateSecretResponse, Refused> {
        self.active(&place(&request.realm, &request.name, ""))?;
        Ok(v1::ValidateSecretResponse { valid: true, ..Default::default() })
    }

    fn value(&mut self, request: &v1::GetSecretValueRequest) -> Result<v1::GetSecretValueResponse, Refused> {
        let versions = self.stored(&place(&request.realm, &request.name, &request.user_id))?;
        let readable = |secret: &v1::Secret| {
            (request.version == 0 || request.version == secret.version) && secret.status != status::RETIRED
        };
        let found = versions.iter().rev().find(|(secret, _)| readable(secret));
        let (secret, value) = found.cloned().ok_or_else(Refused::absent)?;
        Ok(v1::GetSecretValueResponse { value, secret: Some(secret).into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::FieldMask;
    use crate::{Client, Error};

    fn value(name: &str, version: i32) -> v1::GetSecretValueRequest {
        v1::GetSecretValueRequest { name: name.into(), version, ..Default::default() }
    }

    async fn read(client: &Client, name: &str, version: i32) -> Result<String, Error> {
        Ok(client.secret().get_secret_value(value(name, version)).await?.value)
    }

    #[tokio::test]
    async fn it_follows_the_rules_of_the_service() -> Result<(), Error> {
        let service = FakeService::new();
        let client = service.client().build()?;
        let create = |value: &str, expected_version| v1::CreateSecretRequest {
            name: "n".into(),
            value: value.into(),
            expected_version,
            ..Default::default()
        };
        let made = client.secret().create_secret(create("v1", Some(0))).await?.secret;
        assert_eq!(
            (made.version, &*made.user_id, &*made.realm, &*made.status),
            (1, "test", "default", "active")
        );
        let again = client.secret().create_secret(create("v", Some(0))).await.expect_err("it exists");
        assert_eq!(again.reason(), Some(reason::VERSION_MISMATCH));
        let rotate =
            v1::RotateSecretRequest { name: "n".into(), new_value: "v2".into(), ..Default::default() };
        assert_eq!(client.secret().rotate_secret(rotate).await?.secret.version, 2);
        assert_eq!((read(&client, "n", 0).await?, read(&client, "n", 1).await?), ("v2".into(), "v1".into()));
        client.secret().create_secret(create("v3", None)).await?;
        assert!(read(&client, "n", 2).await.expect_err("retired").is_not_found());

        let mask = FieldMask { paths: vec!["description".into()], ..Default::default() };
        let masked = v1::CreateSecretRequest {
            description: "d".into(),
            update_mask: Some(mask).into(),
            ..create("v4", None)
        };
        let masked = client.secret().create_secret(masked).await?.secret;
        assert_eq!((masked.version, &*masked.description), (3, "d"));
        assert_eq!(read(&client, "n", 0).await?, "v3");

        service.put("k", "llm", "x");
        let any = v1::ListSecretsRequest { status: status::ANY.into(), page_size: 1, ..Default::default() };
        let listed: Vec<_> = client.secret().list_all(any).collect().await?;
        let listed: Vec<_> = listed.iter().map(|secret| (&*secret.user_id, &*secret.status)).collect();
        assert_eq!(
            listed,
            [("test", "rotated_pending"), ("test", "retired"), ("test", "active"), ("system", "active")]
        );
        let delete = v1::DeleteSecretRequest { name: "n".into(), ..Default::default() };
        assert!(client.secret().delete_secret(delete).await?.success);
        let deleted = v1::GetSecretRequest { name: "n".into(), ..Default::default() };
        assert!(client.secret().get_secret(deleted).await.expect_err("deleted").is_not_found());
        Ok(())
    }

    #[tokio::test]
    async fn it_fails_on_request() {
        let service = FakeService::new();
        service.put("n", "", "v");
        let client = service.client().build().expect("valid");
        service.fail(Code::Unavailable, reason::OVERLOADED);
        assert_eq!(read(&client, "n", 0).await.expect("the client tried again"), "v");
        assert_eq!(service.calls(), ["GetSecretValue", "GetSecretValue"]);
        service.fail(Code::PermissionDenied, reason::SCOPE_MISSING);
        let error = read(&client, "n", 0).await.expect_err("refused");
        assert_eq!(
            (error.code(), error.reason()),
            (Some(Code::PermissionDenied), Some(reason::SCOPE_MISSING))
        );
        service.fail(Code::PermissionDenied, "");
        assert!(read(&client, "n", 0).await.expect_err("a proxy").is_transport());
    }
}
