//! A secret service of twenty rules in memory, for tests of what `tare` does with its answers. The real one's tests are
//! the server's.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use agentrouter_api::wire::agentrouter::secret::v1::*;
use agentrouter_api::wire::google::rpc::ErrorInfo;
use connectrpc::{
    ConnectError, Encodable, ErrorCode, ErrorDetail, RequestContext, Response, Router, Server,
    ServiceRequest, ServiceResult,
};

pub(crate) const KEY: &str = "ak-0123456789abcdef_0000000000000000000000000000000000000000000000000";

type Place = (String, String);

/// Secrets and their values, by realm and name.
#[derive(Default)]
pub(crate) struct Fake {
    secrets: Mutex<BTreeMap<Place, (Secret, String)>>,
}

impl Fake {
    /// Serves on a port of its own until the process ends.
    pub(crate) fn start() -> String {
        let (send, receive) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
                send.send(format!("http://{}", listener.local_addr().expect("address"))).expect("a receiver");
                let router = Arc::new(Self::default()).register(Router::new());
                Server::from_listener(listener).serve(router).await.expect("serves");
            });
        });
        receive.recv().expect("an address")
    }

    fn with<T>(
        &self,
        realm: &str,
        name: &str,
        act: impl FnOnce(&mut (Secret, String)) -> T,
    ) -> Result<T, ConnectError> {
        let mut secrets = self.secrets.lock().expect("not poisoned");
        secrets
            .get_mut(&(realm.to_owned(), name.to_owned()))
            .map(act)
            .ok_or_else(|| refusal(ErrorCode::NotFound, "SECRET_NOT_FOUND", "There is no such secret."))
    }
}

fn refusal(code: ErrorCode, reason: &str, message: &str) -> ConnectError {
    let info = ErrorInfo { reason: reason.into(), ..Default::default() };
    ConnectError::new(code, message).with_detail(ErrorDetail::from_message("google.rpc.ErrorInfo", &info))
}

fn authenticated(ctx: &RequestContext) -> Result<(), ConnectError> {
    let expected = format!("Bearer {KEY}");
    if ctx.header("authorization").is_some_and(|value| value.as_bytes() == expected.as_bytes()) {
        return Ok(());
    }
    Err(refusal(ErrorCode::Unauthenticated, "UNAUTHENTICATED", "A valid API key is needed."))
}

impl SecretService for Fake {
    async fn create_secret<'a>(
        &'a self,
        ctx: RequestContext,
        request: ServiceRequest<'_, CreateSecretRequest>,
    ) -> ServiceResult<impl Encodable<CreateSecretResponse> + Send + use<'a>> {
        authenticated(&ctx)?;
        let request = request.to_owned_message();
        if request.name.starts_with('_') {
            return Err(refusal(
                ErrorCode::InvalidArgument,
                "INVALID_REQUEST",
                "Invalid request: name is wrong.",
            ));
        }
        let mut secrets = self.secrets.lock().expect("not poisoned");
        let place = (request.realm.clone(), request.name.clone());
        if request.value.is_empty() && !secrets.contains_key(&place) {
            return Err(refusal(
                ErrorCode::InvalidArgument,
                "INVALID_REQUEST",
                "Invalid request: value must be set.",
            ));
        }
        let stored = secrets.entry(place).or_insert_with(|| {
            let secret = Secret {
                id: "01HF7YAT00ZZZZZZZZZZZZZZZZ".into(),
                name: request.name,
                realm: request.realm,
                user_id: "admin".into(),
                status: "active".into(),
                ..Default::default()
            };
            (secret, String::new())
        });
        if !request.value.is_empty() {
            stored.0.version += 1;
            stored.1 = request.value;
        }
        if !request.description.is_empty() {
            stored.0.description = request.description;
        }
        stored.0.tags.extend(request.tags);
        Response::ok(CreateSecretResponse { secret: Some(stored.0.clone()).into() })
    }

    async fn get_secret<'a>(
        &'a self,
        ctx: RequestContext,
        request: ServiceRequest<'_, GetSecretRequest>,
    ) -> ServiceResult<impl Encodable<GetSecretResponse> + Send + use<'a>> {
        authenticated(&ctx)?;
        let secret = self.with(request.realm, request.name, |stored| stored.0.clone())?;
        Response::ok(GetSecretResponse { secret: Some(secret).into() })
    }

    async fn list_secrets<'a>(
        &'a self,
        ctx: RequestContext,
        request: ServiceRequest<'_, ListSecretsRequest>,
    ) -> ServiceResult<impl Encodable<ListSecretsResponse> + Send + use<'a>> {
        authenticated(&ctx)?;
        let size = if request.page_size == 0 { 50 } else { usize::try_from(request.page_size).unwrap_or(0) };
        let skip: usize = request.page_token.parse().unwrap_or(0);
        let secrets = self.secrets.lock().expect("not poisoned");
        let mine: Vec<_> = secrets.iter().filter(|(place, _)| place.0 == request.realm).collect();
        let page = mine.iter().skip(skip).take(size).map(|(_, stored)| stored.0.clone()).collect();
        let next_page_token =
            if skip + size < mine.len() { (skip + size).to_string() } else { String::new() };
        Response::ok(ListSecretsResponse { secrets: page, next_page_token })
    }

    async fn delete_secret<'a>(
        &'a self,
        ctx: RequestContext,
        request: ServiceRequest<'_, DeleteSecretRequest>,
    ) -> ServiceResult<impl Encodable<DeleteSecretResponse> + Send + use<'a>> {
        authenticated(&ctx)?;
        self.with(request.realm, request.name, |_| ())?;
        let place = (request.realm.to_owned(), request.name.to_owned());
        self.secrets.lock().expect("not poisoned").remove(&place);
        Response::ok(DeleteSecretResponse { success: true })
    }

    async fn rotate_secret<'a>(
        &'a self,
        ctx: RequestContext,
        request: ServiceRequest<'_, RotateSecretRequest>,
    ) -> ServiceResult<impl Encodable<RotateSecretResponse> + Send + use<'a>> {
        authenticated(&ctx)?;
        let secret = self.with(request.realm, request.name, |stored| {
            stored.0.version += 1;
            stored.1 = request.new_value.to_owned();
            stored.0.clone()
        })?;
        Response::ok(RotateSecretResponse { secret: Some(secret).into() })
    }

    async fn validate_secret<'a>(
        &'a self,
        ctx: RequestContext,
        request: ServiceRequest<'_, ValidateSecretRequest>,
    ) -> ServiceResult<impl Encodable<ValidateSecretResponse> + Send + use<'a>> {
        authenticated(&ctx)?;
        let corrupt = self.with(request.realm, request.name, |stored| stored.1 == "corrupt")?;
        let error = if corrupt { "version 1: corrupt".to_owned() } else { String::new() };
        Response::ok(ValidateSecretResponse { valid: !corrupt, error })
    }

    async fn get_secret_value<'a>(
        &'a self,
        ctx: RequestContext,
        request: ServiceRequest<'_, GetSecretValueRequest>,
    ) -> ServiceResult<impl Encodable<GetSecretValueResponse> + Send + use<'a>> {
        authenticated(&ctx)?;
        let (secret, value) = self.with(request.realm, request.name, |stored| stored.clone())?;
        Response::ok(GetSecretValueResponse { value, secret: Some(secret).into() })
    }
}
