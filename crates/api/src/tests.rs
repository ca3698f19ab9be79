//! Hand-written tables, writers and documents agree with the descriptor for every field.

use std::collections::BTreeSet;
use std::sync::Arc;

use agentrouter_model::rpc::{Page, Revealed, Validation};
use agentrouter_model::{
    Description, KekId, Owner, Place, Realm, Reason, Refusal, Rpc, Secret, SecretId, SecretName, SecretValue,
    Status, Tags, Timestamp, Version, limits,
};
use buffa::Message;
use connectrpc::{CodecFormat, Encodable};
use prost_reflect::{DescriptorPool, MessageDescriptor};
use serde_json::Value;

use crate::routes::ROUTES;
use crate::wire::agentrouter::secret::v1 as wire;
use crate::{DESCRIPTOR_SET, OPENAPI, SERVICE_NAME, WireResponse, rest};

pub(crate) fn pool() -> DescriptorPool {
    DescriptorPool::decode(DESCRIPTOR_SET).expect("the descriptor set is ours")
}

pub(crate) fn message(name: &str) -> MessageDescriptor {
    pool().get_message_by_name(&format!("agentrouter.secret.v1.{name}")).expect(name)
}

fn names(message: &MessageDescriptor) -> BTreeSet<String> {
    message.fields().map(|field| field.name().to_owned()).collect()
}

fn keys(object: &Value) -> BTreeSet<String> {
    object.as_object().expect("an object").keys().cloned().collect()
}

fn sample() -> Secret {
    Secret {
        id: SecretId::parse("01HF7YAT00ZZZZZZZZZZZZZZZZ").expect("a ULID"),
        place: Place {
            owner: Owner::parse("alice@example.com").expect("a user"),
            realm: Realm::parse("mcp").expect("a realm"),
            name: SecretName::parse("openai-api-key").expect("a name"),
        },
        description: Description::parse("say \"hi\"\n\u{1}ü").expect("short"),
        tags: Tags::parse([("env", "prod"), ("a/b", "")]).expect("two tags"),
        status: Status::RotatedPending,
        version: Version::new(3).expect("positive"),
        created_at: Timestamp::from_micros(1_700_000_000_123_456),
        updated_at: Timestamp::from_micros(1_700_000_001_000_000),
        rotated_at: Some(Timestamp::from_micros(1_700_000_002_500_000)),
        expires_at: Some(Timestamp::from_micros(-1)),
        kek_id: KekId::parse("kek-1").expect("a kek id"),
    }
}

fn plain() -> Secret {
    Secret {
        description: Description::default(),
        tags: Tags::default(),
        status: Status::Active,
        rotated_at: None,
        expires_at: None,
        ..sample()
    }
}

fn revealed(value: &str) -> Revealed {
    Revealed { value: SecretValue::parse(value.into()).expect("a value"), secret: Arc::new(sample()) }
}

/// The same response in binary, Connect JSON and REST JSON, each parsed as the proto3 message.
fn three_ways<M>(response: &impl Encodable<M>, rest: &[u8]) -> M
where
    M: Message + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let binary = response.encode(CodecFormat::Proto).expect("encodes");
    let binary = M::decode_from_slice(&binary).expect("decodes");
    let json = response.encode(CodecFormat::Json).expect("encodes");
    assert_eq!(serde_json::from_slice::<M>(&json).expect("proto3 JSON"), binary);
    assert_eq!(serde_json::from_slice::<M>(rest).expect("proto3 JSON"), binary);
    binary
}

#[test]
fn the_documented_fields_have_their_names_and_numbers() {
    for (name, fields) in [
        ("CreateSecretRequest", "name realm description value tags user_id"),
        ("CreateSecretResponse", "secret"),
        ("GetSecretRequest", "name realm"),
        ("GetSecretResponse", "secret"),
        ("ListSecretsRequest", "realm status tags page_size page_token"),
        ("ListSecretsResponse", "secrets next_page_token"),
        ("DeleteSecretRequest", "name realm"),
        ("DeleteSecretResponse", "success"),
        ("RotateSecretRequest", "name realm new_value"),
        ("RotateSecretResponse", "secret"),
        ("ValidateSecretRequest", "name realm"),
        ("ValidateSecretResponse", "valid error"),
        ("GetSecretValueRequest", "name realm user_id"),
        ("GetSecretValueResponse", "value secret"),
    ] {
        let documented: Vec<(u32, String)> =
            fields.split(' ').zip(1..).map(|(field, number)| (number, field.to_owned())).collect();
        let actual: Vec<(u32, String)> = message(name)
            .fields()
            .filter(|field| field.number() < 100)
            .map(|field| (field.number(), field.name().to_owned()))
            .collect();
        assert_eq!(actual, documented, "{name}");
    }
}

#[test]
fn the_routes_are_those_of_the_definition() {
    let service = pool().get_service_by_name(SERVICE_NAME).expect("the service");
    let http = pool().get_extension_by_name("google.api.http").expect("the annotation");
    let mut annotated = Vec::new();
    for method in service.methods() {
        let options = method.options();
        let rule = options.get_extension(&http);
        let rule = rule.as_message().expect("a rule");
        let (verb, path) = ["get", "put", "post", "delete", "patch"]
            .iter()
            .find_map(|verb| {
                rule.has_field_by_name(verb).then(|| (*verb, rule.get_field_by_name(verb).expect("set")))
            })
            .expect("a verb");
        annotated.push((
            method.name().to_owned(),
            verb.to_uppercase(),
            path.as_str().expect("a path").to_owned(),
        ));
    }
    let ours: Vec<_> = ROUTES
        .iter()
        .map(|r| (r.rpc.as_str().to_owned(), r.method.to_owned(), r.template.to_owned()))
        .collect();
    assert_eq!(ours, annotated);
    assert_eq!(ROUTES.map(|route| route.rpc), Rpc::ALL);
}

#[test]
fn no_rpc_can_be_called_by_connect_get() {
    let service = pool().get_service_by_name(SERVICE_NAME).expect("the service");
    for method in service.methods() {
        let level =
            method.options().get_field_by_name("idempotency_level").and_then(|level| level.as_enum_number());
        assert_ne!(level, Some(1), "{}", method.name());
    }
}

#[test]
fn every_transport_returns_the_same_secret() {
    for secret in [sample(), plain()] {
        let rest = rest::response::secret(&secret);
        let message: wire::GetSecretResponse = three_ways(&WireResponse(secret.clone()), &rest);
        assert_eq!(message.secret.as_option().expect("set").rotated_at.is_set(), secret.rotated_at.is_some());
        let rest: Value = serde_json::from_slice(&rest).expect("JSON");
        assert_eq!(keys(&rest["secret"]), names(&self::message("Secret")));
    }
    let page = Page { secrets: vec![sample(), plain()], next_page_token: "t\"".into() };
    let message: wire::ListSecretsResponse =
        three_ways(&WireResponse(page.clone()), &rest::response::page(&page));
    assert_eq!(message.secrets.len(), 2);
}

#[test]
fn every_transport_returns_the_same_value() {
    let controls: String = (0..0x30).map(char::from).collect();
    for value in ["sk-1", "a\"b\\c/\u{7f}\u{2028}ü😀", controls.as_str(), &"\u{1}".repeat(65536)] {
        let revealed = revealed(value);
        let rest = rest::response::value(&revealed);
        let message: wire::GetSecretValueResponse = three_ways(&WireResponse(revealed), &rest);
        assert_eq!(message.value, value);
    }
}

#[test]
fn every_transport_returns_the_same_deletion_and_validation() {
    let _: wire::DeleteSecretResponse = three_ways(&WireResponse(()), &rest::response::deleted());
    for (valid, error) in [(true, ""), (false, "version 3: corrupt")] {
        let validation = Validation { valid, error: error.into() };
        let rest = rest::response::validation(&validation);
        let message: wire::ValidateSecretResponse = three_ways(&WireResponse(validation), &rest);
        assert_eq!((message.valid, message.error.as_str()), (valid, error));
    }
}

#[test]
fn rest_writes_default_values_too() {
    let page = Page { secrets: vec![plain()], next_page_token: String::new() };
    let text = String::from_utf8(rest::response::page(&page).to_vec()).expect("UTF-8");
    assert_eq!(
        text,
        r#"{"secrets":[{"id":"01HF7YAT00ZZZZZZZZZZZZZZZZ","name":"openai-api-key","realm":"mcp","user_id":"alice@example.com","description":"","tags":{},"status":"active","version":3,"created_at":"2023-11-14T22:13:20.123456Z","updated_at":"2023-11-14T22:13:21.000000Z","rotated_at":null,"expires_at":null,"kek_id":"kek-1"}],"next_page_token":""}"#
    );
    let invalid = Validation { valid: false, error: String::new() };
    assert_eq!(&rest::response::validation(&invalid)[..], br#"{"valid":false,"error":""}"#);
}

#[test]
fn a_refusal_on_rest_has_its_code_reason_and_fields() {
    let mut refusal = Refusal::field("page_size", "must not be \"negative\"");
    refusal.retry_after = Some(std::time::Duration::from_millis(1500));
    let error: Value = serde_json::from_slice(&rest::response::error(&refusal)).expect("JSON");
    assert_eq!(
        error,
        serde_json::json!({
            "code": 3,
            "message": "Invalid request: page_size must not be \"negative\".",
            "details": [
                {
                    "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                    "reason": "INVALID_REQUEST",
                    "domain": "agentrouter.secret.v1",
                    "metadata": {},
                },
                {
                    "@type": "type.googleapis.com/google.rpc.BadRequest",
                    "field_violations": [{ "field": "page_size", "description": "must not be \"negative\"" }],
                },
                { "@type": "type.googleapis.com/google.rpc.RetryInfo", "retry_delay": "1.500000000s" },
            ],
        })
    );
    let error: Value =
        serde_json::from_slice(&rest::response::error(&Refusal::new(Reason::Internal))).expect("JSON");
    assert_eq!(error["details"].as_array().map(Vec::len), Some(1));
}

#[test]
fn the_debug_form_of_a_message_is_redacted() {
    let create = wire::CreateSecretRequest { value: "canary".into(), ..Default::default() };
    let rotate = wire::RotateSecretRequest { new_value: "canary".into(), ..Default::default() };
    let value = wire::GetSecretValueResponse { value: "canary".into(), ..Default::default() };
    let response = WireResponse(revealed("canary"));
    let bytes = create.encode_to_vec();
    let view =
        <wire::CreateSecretRequestView<'_> as buffa::MessageView<'_>>::decode_view(&bytes).expect("decodes");
    for text in [format!("{create:?}{rotate:?}"), format!("{value:?}{response:?}"), format!("{view:?}")] {
        assert!(!text.contains("canary"), "{text}");
    }
}

#[test]
fn openapi_has_the_seven_operations_and_every_field() {
    let document: Value = serde_json::from_str(OPENAPI).expect("JSON");
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    let mut operations = BTreeSet::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("an item") {
            operations.insert((
                operation["operationId"].clone().to_string(),
                method.to_uppercase(),
                path.clone(),
            ));
            for status in ["200", "400", "401", "403", "404", "409", "413", "429", "503"] {
                assert!(operation["responses"][status].is_object(), "{method} {path} {status}");
            }
        }
    }
    let routes: BTreeSet<_> = ROUTES
        .iter()
        .map(|r| (format!("{:?}", r.rpc.as_str()), r.method.to_owned(), r.template.to_owned()))
        .collect();
    assert_eq!(operations, routes);

    for descriptor in pool().get_service_by_name(SERVICE_NAME).expect("the service").methods() {
        let route = ROUTES.iter().find(|route| route.rpc.as_str() == descriptor.name()).expect("a route");
        let operation = &document["paths"][route.template][route.method.to_lowercase()];
        let mut inputs: BTreeSet<String> = BTreeSet::new();
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            inputs.insert(parameter["name"].as_str().expect("a name").to_owned());
        }
        if operation["requestBody"].is_object() {
            let schema = &document["components"]["schemas"][descriptor.input().name()];
            inputs.extend(keys(&schema["properties"]));
        }
        assert_eq!(inputs, names(&descriptor.input()), "{}", descriptor.name());
        let schema = &document["components"]["schemas"][descriptor.output().name()];
        assert_eq!(keys(&schema["properties"]), names(&descriptor.output()));
    }
    assert_eq!(keys(&document["components"]["schemas"]["Secret"]["properties"]), names(&message("Secret")));
}

#[test]
fn openapi_has_the_limits_of_the_model() {
    let document: Value = serde_json::from_str(OPENAPI).expect("JSON");
    let create = &document["components"]["schemas"]["CreateSecretRequest"]["properties"];
    for (limit, bytes) in [
        (&create["name"]["maxLength"], limits::NAME_BYTES),
        (&create["realm"]["maxLength"], limits::REALM_BYTES),
        (&create["user_id"]["maxLength"], limits::USER_ID_BYTES),
        (&create["description"]["maxLength"], limits::DESCRIPTION_BYTES),
        (&create["value"]["maxLength"], limits::VALUE_BYTES),
        (&create["tags"]["maxProperties"], limits::TAGS),
        (&create["tags"]["additionalProperties"]["maxLength"], limits::TAG_VALUE_BYTES),
    ] {
        assert_eq!(limit.as_u64(), Some(bytes as u64));
    }
}

#[test]
fn every_part_of_the_openapi_document_is_described() {
    fn check(at: &str, value: &Value) {
        if let Some(properties) = value["properties"].as_object()
            && !at.ends_with("items")
        {
            for (name, property) in properties {
                assert!(property["description"].as_str().is_some_and(|text| !text.is_empty()), "{at}/{name}");
            }
        }
        for (key, inner) in value.as_object().into_iter().flatten() {
            check(&format!("{at}/{key}"), inner);
        }
    }
    let document: Value = serde_json::from_str(OPENAPI).expect("JSON");
    assert!(document["info"]["description"].as_str().is_some_and(|text| text.len() > 100));
    check("", &document);
}

#[test]
fn openapi_has_the_bounds_of_a_rotation() {
    let document: Value = serde_json::from_str(crate::OPENAPI).expect("JSON");
    let of =
        |message: &str, field: &str| document["components"]["schemas"][message]["properties"][field].clone();
    assert_eq!(of("RotateSecretRequest", "expected_version")["minimum"], 1);
    assert_eq!(of("CreateSecretRequest", "expected_version")["minimum"], 0);
    let grace = of("RotateSecretRequest", "grace_period")["description"].to_string();
    assert!(grace.contains("31622400s"), "{grace}");
}
