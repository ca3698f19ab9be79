//! REST: from path, query and body to the operation, and from its result to JSON. Only translates.

use std::sync::Arc;

use agentrouter_api::rest::{self, Request as _, response as write};
use agentrouter_model::{Refusal, Rpc};
use agentrouter_service::{CallContext, Service};
use http::StatusCode;

use super::respond::{HttpResponse, json};

/// A request as it was sent.
pub(super) struct Input<'a> {
    pub(super) rpc: Rpc,
    /// The name in the path; empty without one.
    pub(super) name: &'a str,
    /// The part after the `?`.
    pub(super) query: &'a str,
    pub(super) body: &'a [u8],
}

/// Parses the request, runs the operation, and writes its result.
///
/// # Errors
/// The error of the parser or of the service.
pub(super) async fn serve(
    service: &Arc<Service>,
    ctx: &Arc<CallContext>,
    input: Input<'_>,
) -> Result<HttpResponse, Refusal> {
    let Input { rpc, name, query, body } = input;
    let owned = || Arc::clone(ctx);
    let body = match rpc {
        Rpc::CreateSecret => {
            let request = rest::CreateSecret::parse(name, query, body)?;
            write::secret(&Box::pin(service.create(owned(), request.call())).await?)
        }
        Rpc::GetSecret => {
            let request = rest::GetSecret::parse(name, query, body)?;
            write::secret(&*service.get(ctx, request.call()).await?)
        }
        Rpc::ListSecrets => {
            let request = rest::ListSecrets::parse(name, query, body)?;
            Box::pin(service.list_as(ctx, request.call(), |page| write::page(&page))).await?
        }
        Rpc::DeleteSecret => {
            let request = rest::DeleteSecret::parse(name, query, body)?;
            Box::pin(service.delete(owned(), request.call())).await?;
            write::deleted()
        }
        Rpc::RotateSecret => {
            let request = rest::RotateSecret::parse(name, query, body)?;
            write::secret(&Box::pin(service.rotate(owned(), request.call())).await?)
        }
        Rpc::ValidateSecret => {
            let request = rest::ValidateSecret::parse(name, query, body)?;
            write::validation(&Box::pin(service.validate(ctx, request.call())).await?)
        }
        Rpc::GetSecretValue => {
            let request = rest::GetSecretValue::parse(name, query, body)?;
            write::value(&service.value(ctx, request.call()).await?)
        }
    };
    Ok(json(StatusCode::OK, body))
}
