//! Connect, gRPC and gRPC-Web: the Connect library, and one implementation of its generated trait for all three.
//!
//! The library only translates. Its own errors may repeat the request, so `failure` replaces them.

mod failure;

use std::sync::Arc;
use std::time::Duration;

use agentrouter_api::{WireResponse, error, wire};
use agentrouter_model::limits::BODY_BYTES;
use agentrouter_model::rpc::{Page, Revealed, Validation};
use agentrouter_model::{Reason, Refusal, Secret};
use agentrouter_service::{CallContext, Service};
use bytes::Bytes;
use connectrpc::compression::{CompressionPolicy, CompressionRegistry, GzipProvider};
use connectrpc::{
    ConnectError, ConnectRpcService, ErrorCode, Limits, RequestContext, Response, Router, ServiceRequest,
    ServiceResult,
};
use http::Request;
use http::request::Parts;
use http_body_util::Full;
use tokio::sync::Semaphore;
use tower::Service as _;
use wire::agentrouter::secret::v1::{
    CreateSecretRequest, DeleteSecretRequest, GetSecretRequest, GetSecretValueRequest, ListSecretsRequest,
    RotateSecretRequest, SecretService, ValidateSecretRequest,
};

use super::arriving::Arriving;
use super::connections::Connection;
use super::head::dialect::Dialect;
use super::head::media::{self, Kind};
use super::health::Health;
use super::respond::{self, HttpResponse, ResponseBody};

/// The procedures of reflection. Their error repeats the request, so it is small.
const REFLECTION: [&str; 2] = [
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];
const REFLECTION_BYTES: usize = 4 * 1024;

/// The most streams of gRPC health and reflection at once. An address has a share of them.
const MAX_STREAMS: usize = 256;

/// The Connect library with all procedures of the server.
pub(super) struct Connect {
    rpc: ConnectRpcService,
    /// For health and reflection, which need no key and may last.
    streams: Arc<Semaphore>,
}

impl Connect {
    /// # Errors
    /// When the built-in descriptors do not parse.
    pub(super) fn new(service: &Arc<Service>) -> anyhow::Result<(Self, Health)> {
        let (router, health) = Health::install(Router::new());
        let reflector =
            connectrpc_reflection::Reflector::from_descriptor_set_bytes(agentrouter_api::DESCRIPTOR_SET)?;
        let procedures = Procedures { service: Arc::clone(service) };
        let mut router = connectrpc_reflection::install(router, reflector).add_service(Arc::new(procedures));
        for procedure in REFLECTION {
            let bounds = Limits::default().with_max_message_size(REFLECTION_BYTES);
            router = router.with_route_limits(procedure, bounds);
        }
        let bounds =
            Limits::default().with_max_request_body_size(BODY_BYTES + 5).with_max_message_size(BODY_BYTES);
        // Requests may be compressed. Responses are not: the compressed size of data beside a secret reveals it
        // (BREACH).
        let rpc = ConnectRpcService::new(router)
            .with_limits(bounds)
            .with_compression(CompressionRegistry::new().register(GzipProvider::default()))
            .with_compression_policy(CompressionPolicy::disabled());
        Ok((Self { rpc, streams: Arc::new(Semaphore::new(MAX_STREAMS)) }, health))
    }

    /// Serves an API request whose body has been read and checked. [`CallContext::refusal`] returns the operation's
    /// refusal.
    ///
    /// # Errors
    /// The library's rejection, before an operation started.
    pub(super) async fn serve(
        &self,
        ctx: &Arc<CallContext>,
        parts: Parts,
        body: Bytes,
    ) -> Result<HttpResponse, Refusal> {
        let mut request = Request::from_parts(parts, Full::new(body));
        // The client enforces its own deadline. Here a request runs to completion, so that it is recorded.
        for header in ["connect-timeout-ms", "grpc-timeout"] {
            request.headers_mut().remove(header);
        }
        request.extensions_mut().insert(Arc::clone(ctx));
        let Ok(response) = self.rpc.clone().call(request).await;
        if ctx.is_recorded() {
            Ok(response.map(ResponseBody::from))
        } else {
            Err(failure::refusal(response, Reason::MalformedBody).await.0)
        }
    }

    /// Serves gRPC health and reflection. They need no key, take no permit and are not recorded.
    pub(super) async fn serve_infrastructure(
        &self,
        parts: Parts,
        body: Arriving,
        connection: &Connection,
        health: &Health,
        time: Duration,
    ) -> HttpResponse {
        let kind = Kind::of(&parts.headers);
        let refuse = |reason: Reason| respond::refusal(&reason.into(), Dialect::Connect, &kind);
        if media::is_text(&parts) {
            // No client of these uses base64, and it would have to be decoded in a stream.
            return refuse(Reason::UnsupportedMediaType);
        }
        // A probe completes at once. A stream may last, so it needs a permit of its own.
        let permit = if parts.uri.path().ends_with("/Check") {
            None
        } else {
            match (Arc::clone(&self.streams).try_acquire_owned(), connection.try_stream()) {
                (Ok(of_all), Ok(of_address)) => Some((of_all, of_address)),
                _ => return refuse(Reason::Overloaded),
            }
        };
        let request = Request::from_parts(parts, health.until_stopped(body));
        let Ok(response) = tokio::time::timeout(time, self.rpc.clone().call(request)).await else {
            return refuse(Reason::DeadlineExceeded);
        };
        let Ok(response) = response;
        if !failure::is_failure(&response) {
            return response.map(|body| ResponseBody::Rpc(Box::new(body), permit));
        }
        let (refusal, not_found) = failure::refusal(response, Reason::UnknownRoute).await;
        let mut error = error::connect_error(&refusal);
        if not_found {
            // The gRPC health protocol requires this code for an unknown service.
            error.code = ErrorCode::NotFound;
        }
        respond::connect_error(error, refusal.reason, &kind)
    }
}

/// The operations behind the generated trait.
struct Procedures {
    service: Arc<Service>,
}

/// The context that `App` has added. Without one the request did not pass the gate.
fn context(ctx: &RequestContext) -> Result<Arc<CallContext>, ConnectError> {
    let ctx = ctx.extensions().get::<Arc<CallContext>>().cloned();
    ctx.ok_or_else(|| error::connect_error(&Reason::Internal.into()))
}

/// Notes the refusal in the context, and turns it into the library's error.
fn refuse(ctx: &CallContext) -> impl FnOnce(Refusal) -> ConnectError {
    move |refusal: Refusal| {
        ctx.set_refusal(refusal.reason);
        error::connect_error(&refusal)
    }
}

#[allow(refining_impl_trait, reason = "the response types are internal to this crate")]
impl SecretService for Procedures {
    async fn create_secret(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, CreateSecretRequest>,
    ) -> ServiceResult<WireResponse<Secret>> {
        let ctx = context(&ctx)?;
        let secret = self.service.create(Arc::clone(&ctx), request.view().into()).await;
        Response::ok(WireResponse(secret.map_err(refuse(&ctx))?))
    }

    async fn get_secret(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, GetSecretRequest>,
    ) -> ServiceResult<WireResponse<Arc<Secret>>> {
        let ctx = context(&ctx)?;
        let secret = self.service.get(&ctx, request.view().into()).await.map_err(refuse(&ctx))?;
        Response::ok(WireResponse(secret))
    }

    async fn list_secrets(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, ListSecretsRequest>,
    ) -> ServiceResult<WireResponse<Page>> {
        let ctx = context(&ctx)?;
        let page = self.service.list(&ctx, request.view().into()).await.map_err(refuse(&ctx))?;
        Response::ok(WireResponse(page))
    }

    async fn delete_secret(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, DeleteSecretRequest>,
    ) -> ServiceResult<WireResponse<()>> {
        let ctx = context(&ctx)?;
        self.service.delete(Arc::clone(&ctx), request.view().into()).await.map_err(refuse(&ctx))?;
        Response::ok(WireResponse(()))
    }

    async fn rotate_secret(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, RotateSecretRequest>,
    ) -> ServiceResult<WireResponse<Secret>> {
        let ctx = context(&ctx)?;
        let secret = self.service.rotate(Arc::clone(&ctx), request.view().into()).await;
        Response::ok(WireResponse(secret.map_err(refuse(&ctx))?))
    }

    async fn validate_secret(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, ValidateSecretRequest>,
    ) -> ServiceResult<WireResponse<Validation>> {
        let ctx = context(&ctx)?;
        let validation = self.service.validate(&ctx, request.view().into()).await.map_err(refuse(&ctx))?;
        Response::ok(WireResponse(validation))
    }

    async fn get_secret_value(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, GetSecretValueRequest>,
    ) -> ServiceResult<WireResponse<Revealed>> {
        let ctx = context(&ctx)?;
        let revealed = self.service.value(&ctx, request.view().into()).await.map_err(refuse(&ctx))?;
        Response::ok(WireResponse(revealed))
    }
}
