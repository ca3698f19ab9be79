//! The same request over every transport.

use agentrouter_api::wire::agentrouter::secret::v1::{
    CreateSecretRequest, DeleteSecretRequest, GetSecretRequest, GetSecretValueRequest, ListSecretsRequest,
    RotateSecretRequest, SecretServiceClient, ValidateSecretRequest,
};
use agentrouter_model::Rpc;
use connectrpc::Protocol;
use connectrpc::client::{ClientConfig, HttpClient};

use crate::support::Server;

pub(super) const TRANSPORTS: [Transport; 4] = [
    Transport::Rest,
    Transport::Rpc(Protocol::Connect),
    Transport::Rpc(Protocol::Grpc),
    Transport::Rpc(Protocol::GrpcWeb),
];

#[derive(Clone, Copy, Debug)]
pub(super) enum Transport {
    Rest,
    Rpc(Protocol),
}

/// The fields of a request. Fields that its message does not have are left out.
#[derive(Clone, Copy, Default)]
pub(super) struct Say<'a> {
    pub(super) name: &'a str,
    pub(super) realm: &'a str,
    pub(super) value: &'a str,
    pub(super) expected_version: Option<i32>,
    pub(super) page_size: i32,
}

/// Sends a request. Returns the code of the error, such as `NOT_FOUND`, or `OK`.
pub(super) async fn call(server: &Server, transport: Transport, key: &str, rpc: Rpc, say: Say<'_>) -> String {
    match transport {
        Transport::Rest => over_rest(server, key, rpc, say),
        Transport::Rpc(protocol) => over_rpc(server, protocol, key, rpc, say).await,
    }
}

fn over_rest(server: &Server, key: &str, rpc: Rpc, say: Say<'_>) -> String {
    let Say { name, realm, value, page_size, .. } = say;
    let expected = say.expected_version.map_or(String::new(), |v| format!(",\"expected_version\":{v}"));
    let (method, path, body) = match rpc {
        Rpc::CreateSecret => {
            let body =
                format!("{{\"name\":\"{name}\",\"realm\":\"{realm}\",\"value\":\"{value}\"{expected}}}");
            ("POST", "/v1/secrets".to_owned(), body)
        }
        Rpc::GetSecret => ("GET", format!("/v1/secrets/{name}?realm={realm}"), String::new()),
        Rpc::ListSecrets => {
            ("GET", format!("/v1/secrets?realm={realm}&page_size={page_size}"), String::new())
        }
        Rpc::DeleteSecret => ("DELETE", format!("/v1/secrets/{name}?realm={realm}"), String::new()),
        Rpc::RotateSecret => {
            let body = format!("{{\"realm\":\"{realm}\",\"new_value\":\"{value}\"{expected}}}");
            ("POST", format!("/v1/secrets/{name}/rotate"), body)
        }
        Rpc::ValidateSecret => {
            ("POST", format!("/v1/secrets/{name}/validate"), format!("{{\"realm\":\"{realm}\"}}"))
        }
        Rpc::GetSecretValue => {
            ("POST", format!("/v1/secrets/{name}/value"), format!("{{\"realm\":\"{realm}\"}}"))
        }
    };
    let reply = server.call_as(key, method, &path, &body);
    match reply.status {
        200 => "OK".to_owned(),
        _ => match reply.json()["code"].as_u64() {
            Some(3) => "INVALID_ARGUMENT",
            Some(5) => "NOT_FOUND",
            Some(7) => "PERMISSION_DENIED",
            Some(10) => "ABORTED",
            Some(14) => "UNAVAILABLE",
            Some(16) => "UNAUTHENTICATED",
            _ => panic!("{reply:?}"),
        }
        .to_owned(),
    }
}

async fn over_rpc(server: &Server, protocol: Protocol, key: &str, rpc: Rpc, say: Say<'_>) -> String {
    // gRPC needs HTTP/2. The other transports also work over HTTP/1.1.
    let transport = match protocol {
        Protocol::Grpc => HttpClient::plaintext_http2_only(),
        _ => HttpClient::plaintext(),
    };
    let config = ClientConfig::new(server.process.url.parse().expect("a URL"))
        .with_protocol(protocol)
        .with_default_header("authorization", format!("Bearer ak-{key}"));
    let client = SecretServiceClient::new(transport, config);
    let (name, realm, value) = (say.name.to_owned(), say.realm.to_owned(), say.value.to_owned());
    let expected_version = say.expected_version;
    let refused = match rpc {
        Rpc::CreateSecret => {
            let request = CreateSecretRequest { name, realm, value, expected_version, ..Default::default() };
            client.create_secret(request).await.err()
        }
        Rpc::GetSecret => client.get_secret(GetSecretRequest { name, realm }).await.err(),
        Rpc::ListSecrets => {
            let page_size = say.page_size;
            client.list_secrets(ListSecretsRequest { realm, page_size, ..Default::default() }).await.err()
        }
        Rpc::DeleteSecret => client.delete_secret(DeleteSecretRequest { name, realm }).await.err(),
        Rpc::RotateSecret => {
            let new_value = value;
            let request =
                RotateSecretRequest { name, realm, new_value, expected_version, ..Default::default() };
            client.rotate_secret(request).await.err()
        }
        Rpc::ValidateSecret => client.validate_secret(ValidateSecretRequest { name, realm }).await.err(),
        Rpc::GetSecretValue => {
            client.get_secret_value(GetSecretValueRequest { name, realm, ..Default::default() }).await.err()
        }
    };
    refused.map_or_else(|| "OK".to_owned(), |error| error.code.as_str().to_uppercase())
}
