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
//! programs rely on: versions, owners of LLM realms, pages, `expected_version`, `update_mask`, rotation and grace periods. It does
//! not check scopes, the rules of names and values, or rate limits.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use agentrouter_api::wire::google::rpc::bad_request::FieldViolation;
use agentrouter_api::wire::google::rpc::{BadRequest, ErrorInfo, RetryInfo};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use buffa::{DecodeError, Message};
use bytes::Bytes;
use http::{Request, Response, StatusCode};

use crate::error::reason;
use crate::secret::{status, v1};
use crate::transport::BoxError;
use crate::types::Timestamp;
use crate::{ClientBuilder, Code};

const KEY: &str = "0000000000000000_0000000000000000000000000000000000000000000000000";
/// The owner of secrets outside the LLM realms.
const USER: &str = "test";
/// The current realm of the key.
const REALM: &str = "default";
/// How long a rotated version stays readable unless the request has `grace_period`.
const GRACE: Duration = Duration::from_secs(24 * 60 * 60);
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
    /// The field of the request that breaks a rule, and the rule.
    violation: Option<(&'static str, &'static str)>,
    retry_after: Option<Duration>,
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

    /// Refuses the next request, before it does anything. The client tries again where it would with the service. `reason` is
    /// one of [`reason`]. Without one, the error is that of a proxy.
    pub fn fail(&self, code: Code, reason: &'static str) {
        self.state().failures.push_back(Refused::new(code, reason, "A test asked for this."));
    }

    /// As [`FakeService::fail`], with an error that asks the client to wait.
    pub fn fail_with_delay(&self, code: Code, reason: &'static str, retry_after: Duration) {
        let refused = Refused::new(code, reason, "A test asked for this.");
        self.state().failures.push_back(Refused { retry_after: Some(retry_after), ..refused });
    }

    /// The names of the calls so far, such as `GetSecret`, oldest first. Each retry is one.
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
    const fn new(code: Code, reason: &'static str, message: &'static str) -> Self {
        Self { code, reason, message, violation: None, retry_after: None }
    }

    fn absent() -> Self {
        Self::new(Code::NotFound, reason::SECRET_NOT_FOUND, "There is no such secret.")
    }

    fn invalid(field: &'static str, rule: &'static str) -> Self {
        let refused = Self::new(Code::InvalidArgument, reason::INVALID_REQUEST, "The request is invalid.");
        Self { violation: Some((field, rule)), ..refused }
    }

    /// The Connect protocol's error. Its texts are constants without characters to escape.
    fn response(self) -> Result<Response<Bytes>, BoxError> {
        let mut details = Vec::new();
        if !self.reason.is_empty() {
            let info = ErrorInfo { reason: self.reason.into(), ..Default::default() };
            details.push(detail("ErrorInfo", &info));
        }
        if let Some((field, rule)) = self.violation {
            let violation =
                FieldViolation { field: field.into(), description: rule.into(), ..Default::default() };
            let field_violations = vec![violation];
            details.push(detail("BadRequest", &BadRequest { field_violations }));
        }
        if let Some(delay) = self.retry_after {
            let info = RetryInfo { retry_delay: Some(delay.into()).into() };
            details.push(detail("RetryInfo", &info));
        }
        let (code, message, details) = (self.code.as_str(), self.message, details.join(","));
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

/// A detail of the Connect protocol's error.
fn detail(name: &str, message: &impl Message) -> String {
    let value = STANDARD_NO_PAD.encode(message.encode_to_vec());
    format!("{{\"type\":\"google.rpc.{name}\",\"value\":\"{value}\"}}")
}

fn owner<'a>(realm: &str, user_id: &'a str) -> &'a str {
    match user_id {
        _ if LLM_REALMS.contains(&realm) => "system",
        "" => USER,
        user => user,
    }
}

fn place(realm: &str, name: &str, user_id: &str) -> Place {
    let realm = if realm.is_empty() { REALM } else { realm };
    (realm.to_owned(), owner(realm, user_id).to_owned(), name.to_owned())
}

#[allow(clippy::disallowed_methods, reason = "the service in memory has the clock of the program")]
fn now() -> SystemTime {
    SystemTime::now()
}

/// Retires a version.
fn retire(secret: &mut v1::Secret) {
    secret.status = status::RETIRED.into();
    secret.expires_at = None.into();
}

/// Retires the versions whose grace period is over.
fn expire(versions: &mut [(v1::Secret, String)]) {
    let now = Timestamp::from(now());
    for (secret, _) in versions {
        let end = secret.expires_at.as_option().map(|end| (end.seconds, end.nanos));
        if secret.status == status::ROTATED_PENDING && end.is_some_and(|end| end <= (now.seconds, now.nanos))
        {
            retire(secret);
        }
    }
}

/// Refuses a request without a field.
fn need(field: &'static str, value: &str) -> Result<(), Refused> {
    if value.is_empty() { Err(Refused::invalid(field, "must be set")) } else { Ok(()) }
}

fn expect(expected: Option<i32>, current: i32) -> Result<(), Refused> {
    match expected {
        Some(version) if version != current => {
            Err(Refused::new(Code::Aborted, reason::VERSION_MISMATCH, "The current version is another one."))
        }
        _ => Ok(()),
    }
}

impl State {
    fn stored(&mut self, place: &Place) -> Result<&mut Vec<(v1::Secret, String)>, Refused> {
        need("name", &place.2)?;
        let versions = self.secrets.get_mut(place).ok_or_else(Refused::absent)?;
        expire(versions);
        Ok(versions)
    }

    /// The newest version, which is the active one.
    fn active(&mut self, place: &Place) -> Result<&mut (v1::Secret, String), Refused> {
        self.stored(place)?.last_mut().ok_or_else(Refused::absent)
    }

    fn create(&mut self, request: v1::CreateSecretRequest) -> Result<v1::CreateSecretResponse, Refused> {
        need("name", &request.name)?;
        let at = place(&request.realm, &request.name, &request.user_id);
        let before = self.active(&at).ok().map(|(secret, value)| (secret.clone(), value.clone()));
        let mask = before.as_ref().and_then(|_| request.update_mask.as_option());
        let writes =
            |field: &str, given: bool| mask.map_or(given, |mask| mask.paths.iter().any(|path| path == field));
        let writes_value = writes("value", !request.value.is_empty());
        expect(request.expected_version, before.as_ref().map_or(0, |(secret, _)| secret.version))?;
        if before.is_none() || writes_value {
            need("value", &request.value)?;
        }
        let now = Timestamp::from(now());
        let (mut secret, value) = match before {
            Some(before) => before,
            None => {
                self.created += 1;
                let (realm, user_id, name) = at.clone();
                let id = format!("{:026}", self.created);
                let (created_at, kek_id) = (Some(now.clone()).into(), "test".into());
                (
                    v1::Secret { id, name, realm, user_id, created_at, kek_id, ..Default::default() },
                    String::new(),
                )
            }
        };
        if writes("description", !request.description.is_empty()) {
            secret.description = request.description;
        }
        if writes("tags", !request.tags.is_empty()) {
            secret.tags = request.tags;
        }
        secret.updated_at = Some(now).into();
        let versions = self.secrets.entry(at).or_default();
        if writes_value {
            secret.version += 1;
            secret.status = status::ACTIVE.into();
            if let Some((replaced, _)) = versions.last_mut() {
                retire(replaced);
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
        self.secrets.values_mut().for_each(|versions| expire(versions));
        let matches = |secret: &v1::Secret| {
            secret.user_id == owner(&secret.realm, "")
                && (request.realm.is_empty() || request.realm == secret.realm)
                && secret.name.starts_with(&request.name_prefix)
                && (wanted == status::ANY || wanted == secret.status)
                && request.tags.iter().all(|(key, value)| secret.tags.get(key) == Some(value))
        };
        let found = self.secrets.values().flatten().map(|(secret, _)| secret);
        let found: Vec<_> = found.filter(|secret| matches(secret)).collect();
        let start: usize = match request.page_token.as_str() {
            "" => Some(0),
            token => token.parse().ok().filter(|start| *start <= found.len()),
        }
        .ok_or_else(|| {
            let message = "The page token is invalid.";
            Refused::new(Code::InvalidArgument, reason::PAGE_TOKEN_INVALID, message)
        })?;
        let size = match request.page_size {
            0 => 50,
            size => usize::try_from(size)
                .map_err(|_| Refused::invalid("page_size", "must not be negative"))?
                .min(1000),
        };
        let mut secrets: Vec<_> = found.into_iter().skip(start).take(size + 1).cloned().collect();
        let next_page_token = if secrets.len() > size { (start + size).to_string() } else { String::new() };
        secrets.truncate(size);
        Ok(v1::ListSecretsResponse { secrets, next_page_token })
    }

    fn delete(&mut self, request: &v1::DeleteSecretRequest) -> Result<v1::DeleteSecretResponse, Refused> {
        need("name", &request.name)?;
        let removed = self.secrets.remove(&place(&request.realm, &request.name, ""));
        removed.map(|_| v1::DeleteSecretResponse { success: true }).ok_or_else(Refused::absent)
    }

    fn rotate(&mut self, request: v1::RotateSecretRequest) -> Result<v1::RotateSecretResponse, Refused> {
        need("name", &request.name)?;
        need("new_value", &request.new_value)?;
        let at = place(&request.realm, &request.name, "");
        let (replaced, _) = self.active(&at)?;
        expect(request.expected_version, replaced.version)?;
        let now = now();
        let grace = match request.grace_period.as_option() {
            Some(grace) => Duration::try_from(grace.clone())
                .map_err(|_| Refused::invalid("grace_period", "must not be negative"))?,
            None => GRACE,
        };
        let rotated_at: Timestamp = now.into();
        let secret = v1::Secret {
            version: replaced.version + 1,
            updated_at: Some(rotated_at.clone()).into(),
            rotated_at: Some(rotated_at).into(),
            ..replaced.clone()
        };
        replaced.status = status::ROTATED_PENDING.into();
        replaced.expires_at = Some(Timestamp::from(now + grace)).into();
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
    use serde::Serialize;
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

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

    /// Makes the call of a step, and returns its response as JSON.
    async fn call(client: &Client, step: &Value) -> Result<Value, Error> {
        fn read<Q: DeserializeOwned>(request: &Value) -> Q {
            serde_json::from_value(request.clone()).expect("a request of this call")
        }
        fn written<A: Serialize>(response: Result<A, Error>) -> Result<Value, Error> {
            response.map(|response| serde_json::to_value(response).expect("JSON"))
        }
        let (secret, request) = (client.secret(), &step["request"]);
        match step["call"].as_str().expect("a call") {
            "CreateSecret" => written(secret.create_secret(read(request)).await),
            "GetSecret" => written(secret.get_secret(read(request)).await),
            "ListSecrets" => written(secret.list_secrets(read(request)).await),
            "DeleteSecret" => written(secret.delete_secret(read(request)).await),
            "RotateSecret" => written(secret.rotate_secret(read(request)).await),
            "ValidateSecret" => written(secret.validate_secret(read(request)).await),
            "GetSecretValue" => written(secret.get_secret_value(read(request)).await),
            other => panic!("there is no call {other}"),
        }
    }

    /// Compares with a pattern: objects by the keys of the pattern, null with a default value. The JSON of messages has other
    /// names, and no default values.
    fn like(pattern: &Value, found: Option<&Value>, path: &str) {
        let is_default = |found: &Value| {
            matches!(found, Value::Null | Value::Bool(false))
                || found == 0
                || found.as_str().is_some_and(str::is_empty)
                || found.as_array().is_some_and(Vec::is_empty)
                || found.as_object().is_some_and(serde_json::Map::is_empty)
        };
        match pattern {
            Value::Object(pattern) if !pattern.is_empty() => {
                for (key, inner) in pattern {
                    let mut words = key.split('_');
                    let first = words.next().unwrap_or_default().to_owned();
                    let name = words.fold(first, |name, word| {
                        let (head, rest) = word.split_at(1);
                        name + &head.to_ascii_uppercase() + rest
                    });
                    like(inner, found.and_then(|found| found.get(&name)), &format!("{path}.{key}"));
                }
            }
            Value::Array(pattern) if !pattern.is_empty() => {
                let found = found.and_then(Value::as_array).expect(path);
                assert_eq!(found.len(), pattern.len(), "{path}");
                for (i, inner) in pattern.iter().enumerate() {
                    like(inner, found.get(i), &format!("{path}[{i}]"));
                }
            }
            Value::Object(_) => {}
            _ if pattern == "$set" => assert!(found.is_some_and(|found| !is_default(found)), "{path}"),
            _ if is_default(pattern) => assert!(found.is_none_or(is_default), "{path}: {found:?}"),
            _ => assert_eq!(found, Some(pattern), "{path}"),
        }
    }

    fn code(failure: &Value) -> Code {
        let name = failure["code"].as_str().expect("a code").to_ascii_lowercase();
        serde_json::from_value(Value::String(name)).expect("a code")
    }

    async fn run(service: &FakeService, client: &Client, step: &Value, title: &str) {
        if let Some(put) = step.get("put") {
            let text = |key: &str| put[key].as_str().expect("a text");
            service.put(text("name"), text("realm"), text("value"));
        }
        let delay = |failure: &Value| failure["retry_after_ms"].as_u64().map(Duration::from_millis);
        if let Some(failure) = step.get("fail") {
            let reason = String::leak(failure["reason"].as_str().expect("a reason").to_owned());
            match delay(failure) {
                Some(delay) => service.fail_with_delay(code(failure), reason, delay),
                None => service.fail(code(failure), reason),
            }
        }
        if step.get("call").is_some() {
            match (call(client, step).await, step.get("error")) {
                (Ok(response), None) => {
                    like(step.get("expect").unwrap_or(&json!({})), Some(&response), title)
                }
                (Err(error), Some(wanted)) => {
                    assert_eq!(error.code(), Some(code(wanted)), "{title}: {error}");
                    assert_eq!(error.reason(), wanted["reason"].as_str(), "{title}: {error}");
                    assert_eq!(error.retry_after(), delay(wanted), "{title}: {error}");
                    let refusal = error.refusal().expect("a response of the service");
                    let fields: Vec<&str> = refusal.violations.iter().map(|each| &*each.field).collect();
                    assert_eq!(
                        json!(fields),
                        *wanted.get("fields").unwrap_or(&json!([])),
                        "{title}: {error}"
                    );
                    assert_eq!(refusal.request_id.as_deref(), Some("fake"), "{title}");
                }
                (outcome, _) => panic!("{title}: {outcome:?}"),
            }
        }
        if let Some(requests) = step.get("requests") {
            assert_eq!(json!(service.calls().len()), *requests, "{title}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_does_the_same_as_in_every_sdk() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../cases/fakes.json");
        let table: Value =
            serde_json::from_str(&std::fs::read_to_string(path).expect("a table")).expect("JSON");
        for case in table["cases"].as_array().expect("an array") {
            let service = FakeService::new();
            let client = service.client().build().expect("valid");
            for (i, step) in case["steps"].as_array().expect("an array").iter().enumerate() {
                run(&service, &client, step, &format!("{}, step {}", case["title"], i + 1)).await;
            }
        }
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
