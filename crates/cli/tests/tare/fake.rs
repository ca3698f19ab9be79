//! A secret service in memory with few rules, for tests of what `tare` does with responses. The tests of the real one are
//! the server's.
//!
//! In the realm `limited` it refuses every second call because of a rate limit.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use agentrouter_api::wire::agentrouter::secret::v1::*;
use agentrouter_api::wire::google::rpc::{ErrorInfo, RetryInfo};
use agentrouter_sdk::types::Duration;
use connectrpc::{
    ConnectError, Encodable, ErrorCode, ErrorDetail, RequestContext, Response, Router, Server,
    ServiceRequest, ServiceResult,
};

/// A key with all scopes.
pub(crate) const KEY: &str = "ak-0123456789abcdef_0000000000000000000000000000000000000000000000000";
/// A key with the scope secrets/write alone.
pub(crate) const WRITER: &str = "ak-0123456789writer_0000000000000000000000000000000000000000000000000";
/// A key with the scope secrets/read/internal alone.
pub(crate) const INTERNAL: &str = "ak-01234567internal_0000000000000000000000000000000000000000000000000";

type Address = (String, String);

/// Secrets and their values, by realm and name.
#[derive(Default)]
pub(crate) struct Fake {
    secrets: Mutex<BTreeMap<Address, (Secret, String)>>,
    limited: AtomicUsize,
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

    fn limit(&self, realm: &str) -> Result<(), ConnectError> {
        if realm == "limited" && self.limited.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
            let refused = refusal(ErrorCode::ResourceExhausted, "RATE_LIMITED", "Too many requests.");
            let delay = Duration { nanos: 1_000_000, ..Default::default() };
            let retry = RetryInfo { retry_delay: Some(delay).into() };
            return Err(refused.with_detail(ErrorDetail::from_message("google.rpc.RetryInfo", &retry)));
        }
        Ok(())
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

fn permitted(ctx: &RequestContext, scope: &str) -> Result<(), ConnectError> {
    let has = |key: &str| {
        let expected = format!("Bearer {key}");
        ctx.header("authorization").is_some_and(|value| value.as_bytes() == expected.as_bytes())
    };
    let scopes = [(WRITER, "secrets/write"), (INTERNAL, "secrets/read/internal")];
    match scopes.into_iter().find(|(key, _)| has(key)) {
        _ if has(KEY) => Ok(()),
        Some((_, own)) if own == scope => Ok(()),
        Some(_) => Err(refusal(ErrorCode::PermissionDenied, "SCOPE_MISSING", "The key lacks a scope.")),
        None => Err(refusal(ErrorCode::Unauthenticated, "UNAUTHENTICATED", "A valid API key is needed.")),
    }
}

fn named(name: &str) -> Result<(), ConnectError> {
    if name.is_empty() || name.starts_with('.') {
        return Err(refusal(
            ErrorCode::InvalidArgument,
            "INVALID_REQUEST",
            "Invalid request: name is wrong.",
        ));
    }
    Ok(())
}

fn expected(stored: i32, expected: Option<i32>) -> Result<(), ConnectError> {
    match expected {
        Some(version) if version != stored => {
            Err(refusal(ErrorCode::Aborted, "VERSION_MISMATCH", "The version is another one."))
        }
        _ => Ok(()),
    }
}

impl SecretService for Fake {
    async fn create_secret<'a>(
        &'a self,
        ctx: RequestContext,
        request: ServiceRequest<'_, CreateSecretRequest>,
    ) -> ServiceResult<impl Encodable<CreateSecretResponse> + Send + use<'a>> {
        permitted(&ctx, "secrets/write")?;
        let request = request.to_owned_message();
        named(&request.name)?;
        self.limit(&request.realm)?;
        let mut secrets = self.secrets.lock().expect("not poisoned");
        let place = (request.realm.clone(), request.name.clone());
        expected(secrets.get(&place).map_or(0, |stored| stored.0.version), request.expected_version)?;
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
        permitted(&ctx, "secrets/read")?;
        let secret = self.with(request.realm, request.name, |stored| stored.0.clone())?;
        Response::ok(GetSecretResponse { secret: Some(secret).into() })
    }

    async fn list_secrets<'a>(
        &'a self,
        ctx: RequestContext,
        request: ServiceRequest<'_, ListSecretsRequest>,
    ) -> ServiceResult<impl Encodable<ListSecretsResponse> + Send + use<'a>> {
        permitted(&ctx, "secrets/read")?;
        let size = if request.page_size == 0 { 50 } else { usize::try_from(request.page_size).unwrap_or(0) };
        let skip: usize = request.page_token.parse().unwrap_or(0);
        let secrets = self.secrets.lock().expect("not poisoned");
        let mine: Vec<_> = secrets
            .iter()
            .filter(|(place, _)| {
                (request.realm.is_empty() || place.0 == request.realm)
                    && place.1.starts_with(request.name_prefix)
            })
            .collect();
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
        permitted(&ctx, "secrets/write")?;
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
        permitted(&ctx, "secrets/write")?;
        named(request.name)?;
        let secret = self.with(request.realm, request.name, |stored| {
            expected(stored.0.version, request.expected_version)?;
            stored.0.version += 1;
            stored.1 = request.new_value.to_owned();
            Ok::<_, ConnectError>(stored.0.clone())
        })??;
        Response::ok(RotateSecretResponse { secret: Some(secret).into() })
    }

    async fn validate_secret<'a>(
        &'a self,
        ctx: RequestContext,
        request: ServiceRequest<'_, ValidateSecretRequest>,
    ) -> ServiceResult<impl Encodable<ValidateSecretResponse> + Send + use<'a>> {
        permitted(&ctx, "secrets/read")?;
        named(request.name)?;
        let corrupt = self.with(request.realm, request.name, |stored| stored.1 == "corrupt")?;
        let error = if corrupt { "version 1: corrupt".to_owned() } else { String::new() };
        Response::ok(ValidateSecretResponse { valid: !corrupt, error })
    }

    async fn get_secret_value<'a>(
        &'a self,
        ctx: RequestContext,
        request: ServiceRequest<'_, GetSecretValueRequest>,
    ) -> ServiceResult<impl Encodable<GetSecretValueResponse> + Send + use<'a>> {
        permitted(&ctx, "secrets/read/internal")?;
        named(request.name)?;
        self.limit(request.realm)?;
        let (secret, value) = self.with(request.realm, request.name, |stored| stored.clone())?;
        Response::ok(GetSecretValueResponse { value, secret: Some(secret).into() })
    }
}
