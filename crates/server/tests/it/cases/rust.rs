//! The Rust SDK.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentrouter_sdk::{Client, Error, SecretClient};
use prost_reflect::{DescriptorPool, Kind, MessageDescriptor};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use tokio::runtime::Runtime;

use super::CaseServer;
use super::run::{CaseClient, CaseRequest, Failed, FailureKind, as_it_stands};
use super::scenario::Wanted;

pub struct Sdk {
    server: Arc<CaseServer>,
    runtime: Runtime,
    pool: DescriptorPool,
    /// Those of the roles, which share connections.
    clients: Mutex<HashMap<String, Client>>,
}

impl Sdk {
    pub fn new(server: Arc<CaseServer>) -> Self {
        assert!(std::env::var_os("AGENTROUTER_API_KEY").is_none(), "the role 'none' would have a key");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        Self {
            server,
            runtime: runtime.expect("a runtime"),
            pool: DescriptorPool::decode(agentrouter_api::DESCRIPTOR_SET).expect("our own definition"),
            clients: Mutex::default(),
        }
    }

    fn client(&self, case: &CaseRequest<'_>) -> Result<Client, Error> {
        let shared = case.proxy.is_none() && case.client.is_none();
        let mut clients = self.clients.lock().unwrap();
        if let Some(client) = clients.get(case.role).filter(|_| shared) {
            return Ok(client.clone());
        }
        let url = case.proxy.unwrap_or(&self.server.url);
        let mut builder = Client::builder().base_url(url);
        if let Some(key) = case.key {
            builder = builder.api_key(key);
        }
        // A proxy speaks http://, for which the SDK refuses a CA file.
        if let Some(path) = self.server.ca_file.as_ref().filter(|_| url.starts_with("https://")) {
            builder = builder.ca_file(path);
        }
        if let Some(ms) = case.client.and_then(|settings| settings.timeout_ms) {
            builder = builder.timeout(Duration::from_millis(ms));
        }
        if let Some(retries) = case.client.and_then(|settings| settings.retries) {
            builder = builder.retries(retries);
        }
        let client = builder.build()?;
        if shared {
            clients.insert(case.role.to_owned(), client.clone());
        }
        Ok(client)
    }

    async fn invoke(&self, secret: &SecretClient, case: &CaseRequest<'_>) -> Result<Value, Error> {
        if case.all_pages {
            let all = secret.list_all(request(case)).collect().await?;
            let all = all.iter().map(|one| self.written("Secret", one)).collect::<Vec<_>>();
            return Ok(json!({ "secrets": all }));
        }
        let name = format!("{}Response", case.call);
        Ok(match case.call {
            "CreateSecret" => self.written(&name, &secret.create_secret(request(case)).await?),
            "GetSecret" => self.written(&name, &secret.get_secret(request(case)).await?),
            "ListSecrets" => self.written(&name, &secret.list_secrets(request(case)).await?),
            "DeleteSecret" => self.written(&name, &secret.delete_secret(request(case)).await?),
            "RotateSecret" => self.written(&name, &secret.rotate_secret(request(case)).await?),
            "ValidateSecret" => self.written(&name, &secret.validate_secret(request(case)).await?),
            "GetSecretValue" => self.written(&name, &secret.get_secret_value(request(case)).await?),
            other => panic!("there is no call {other:?}"),
        })
    }

    /// A message as proto JSON with proto names and default values.
    fn written(&self, name: &str, message: &impl Serialize) -> Value {
        let descriptor = self.pool.get_message_by_name(&format!("agentrouter.secret.v1.{name}"));
        with_defaults(&descriptor.expect("a message"), &serde_json::to_value(message).expect("JSON"))
    }
}

impl CaseClient for Sdk {
    const IS_SDK: bool = true;

    fn call(&self, case: &CaseRequest<'_>) -> Result<Value, Failed> {
        let client = self.client(case).map_err(|error| failed(&error))?;
        self.runtime.block_on(self.invoke(client.secret(), case)).map_err(|error| failed(&error))
    }

    fn wants(&self, _: &CaseRequest<'_>, wanted: &Wanted) -> FailureKind {
        if wanted.before_request { FailureKind::BeforeRequest } else { as_it_stands(wanted) }
    }
}

/// The request as the SDK's own message.
fn request<Q: DeserializeOwned>(case: &CaseRequest<'_>) -> Q {
    serde_json::from_value(Value::Object(case.request.clone())).expect("a request of this call")
}

/// The library writes JSON names and leaves out default values; the definition has the rest.
fn with_defaults(descriptor: &MessageDescriptor, json: &Value) -> Value {
    let mut object = Map::new();
    for field in descriptor.fields() {
        let (found, kind) = (json.get(field.json_name()), field.kind());
        let inner = |json: &Value| match &kind {
            Kind::Message(inner) if inner.package_name() != "google.protobuf" => with_defaults(inner, json),
            _ => json.clone(),
        };
        let value = match (found, &kind) {
            (Some(value), _) if field.is_map() => value.clone(),
            (Some(Value::Array(items)), _) => items.iter().map(inner).collect(),
            (Some(value), _) => inner(value),
            (None, _) if field.is_map() => json!({}),
            (None, _) if field.is_list() => json!([]),
            (None, Kind::Message(_)) => continue,
            (None, Kind::String) => json!(""),
            (None, Kind::Bool) => json!(false),
            (None, _) => json!(0),
        };
        object.insert(field.name().to_owned(), value);
    }
    Value::Object(object)
}

fn failed(error: &Error) -> Failed {
    let mut shown = format!("{error} {error:?} {error:#?}");
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let _ = write!(shown, "\n{cause} {cause:?}");
        source = cause.source();
    }
    let Some(code) = error.code() else { return Failed { kind: FailureKind::BeforeRequest, shown } };
    let mut fields: Vec<String> = error.refusal().map_or_else(Vec::new, |refusal| {
        refusal.violations.iter().map(|violation| violation.field.clone()).collect()
    });
    fields.sort();
    let kind = FailureKind::Refused(
        code.as_str().to_uppercase(),
        error.reason().unwrap_or_default().to_owned(),
        fields,
    );
    Failed { kind, shown }
}
