//! Connect, gRPC and gRPC-Web: one implementation of the generated trait, for all three.

use std::sync::Arc;

use agentrouter_api::{WireResponse, error, wire};
use agentrouter_model::rpc::{Page, Revealed, Validation};
use agentrouter_model::{Reason, Refusal, Secret};
use agentrouter_service::{CallContext, Service};
use connectrpc::{ConnectError, RequestContext, Response, ServiceRequest, ServiceResult};
use wire::agentrouter::secret::v1::{
    CreateSecretRequest, DeleteSecretRequest, GetSecretRequest, GetSecretValueRequest, ListSecretsRequest,
    RotateSecretRequest, SecretService, ValidateSecretRequest,
};

/// The service behind the generated trait.
pub(crate) struct Api {
    service: Arc<Service>,
}

impl Api {
    pub(crate) fn new(service: Arc<Service>) -> Self {
        Self { service }
    }
}

/// The call's context, which the gate has put there. Without one the call did not come by the gate, and is refused.
fn context(ctx: &RequestContext) -> Result<Arc<CallContext>, ConnectError> {
    ctx.extensions().get::<Arc<CallContext>>().cloned().ok_or_else(|| refuse(Reason::Internal.into()))
}

#[allow(clippy::needless_pass_by_value, reason = "it is what map_err hands over")]
fn refuse(refusal: Refusal) -> ConnectError {
    error::connect_error(&refusal)
}

#[allow(refining_impl_trait, reason = "the answers' types are this crate's own business")]
impl SecretService for Api {
    async fn create_secret(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, CreateSecretRequest>,
    ) -> ServiceResult<WireResponse<Secret>> {
        let secret = self.service.create(context(&ctx)?, request.view().into()).await.map_err(refuse)?;
        Response::ok(WireResponse(secret))
    }

    async fn get_secret(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, GetSecretRequest>,
    ) -> ServiceResult<WireResponse<Arc<Secret>>> {
        let ctx = context(&ctx)?;
        let secret = self.service.get(&ctx, request.view().into()).await.map_err(refuse)?;
        Response::ok(WireResponse(secret))
    }

    async fn list_secrets(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, ListSecretsRequest>,
    ) -> ServiceResult<WireResponse<Page>> {
        let ctx = context(&ctx)?;
        let page = self.service.list(&ctx, request.view().into()).await.map_err(refuse)?;
        Response::ok(WireResponse(page))
    }

    async fn delete_secret(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, DeleteSecretRequest>,
    ) -> ServiceResult<WireResponse<()>> {
        self.service.delete(context(&ctx)?, request.view().into()).await.map_err(refuse)?;
        Response::ok(WireResponse(()))
    }

    async fn rotate_secret(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, RotateSecretRequest>,
    ) -> ServiceResult<WireResponse<Secret>> {
        let secret = self.service.rotate(context(&ctx)?, request.view().into()).await.map_err(refuse)?;
        Response::ok(WireResponse(secret))
    }

    async fn validate_secret(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, ValidateSecretRequest>,
    ) -> ServiceResult<WireResponse<Validation>> {
        let ctx = context(&ctx)?;
        let validation = self.service.validate(&ctx, request.view().into()).await.map_err(refuse)?;
        Response::ok(WireResponse(validation))
    }

    async fn get_secret_value(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, GetSecretValueRequest>,
    ) -> ServiceResult<WireResponse<Revealed>> {
        let ctx = context(&ctx)?;
        let revealed = self.service.value(&ctx, request.view().into()).await.map_err(refuse)?;
        Response::ok(WireResponse(revealed))
    }
}
