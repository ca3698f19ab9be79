//! The gRPC service of the plugin: Kubernetes KMS v2 over a [`Root`].
//!
//! | failure of the root | gRPC code |
//! |---|---|
//! | the identity or the permission is refused | `PERMISSION_DENIED` |
//! | no response, or not at present | `UNAVAILABLE` |
//! | the key is missing, disabled, or of the wrong kind | `FAILED_PRECONDITION` |
//! | the ciphertext is not of this key, or was changed | `INVALID_ARGUMENT` |
//! | the response makes no sense | `INTERNAL` |
//!
//! Each failure is logged with the `uid` of the request.

use agentrouter_kms_api::wire::v2::{
    DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, KeyManagementService, StatusRequest,
    StatusResponse,
};
use agentrouter_kms_api::{HEALTHY, MAX_FIELD, VERSION};
use connectrpc::{ConnectError, ErrorCode, RequestContext, Response, ServiceRequest, ServiceResult};

use crate::root::{Kind, Root, RootError};

/// The service on a root key.
pub(crate) struct Plugin {
    pub(crate) root: Box<dyn Root>,
}

#[expect(refining_impl_trait_internal, reason = "the responses are owned messages")]
impl KeyManagementService for Plugin {
    async fn status(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, StatusRequest>,
    ) -> ServiceResult<StatusResponse> {
        let key_id = self.root.status().await.map_err(|error| refusal(&error, "Status", ""))?;
        Response::ok(StatusResponse { version: VERSION.to_owned(), healthz: HEALTHY.to_owned(), key_id })
    }

    async fn encrypt(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, EncryptRequest>,
    ) -> ServiceResult<EncryptResponse> {
        let encrypted = match self.root.encrypt(request.plaintext).await {
            Ok(encrypted) if fits(encrypted.ciphertext.len()) && fits(encrypted.key_id.len()) => encrypted,
            Ok(_) => return Err(refusal(&RootError::garbled(), "Encrypt", request.uid)),
            Err(error) => return Err(refusal(&error, "Encrypt", request.uid)),
        };
        Response::ok(EncryptResponse {
            ciphertext: encrypted.ciphertext,
            key_id: encrypted.key_id,
            ..Default::default()
        })
    }

    async fn decrypt(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, DecryptRequest>,
    ) -> ServiceResult<DecryptResponse> {
        let plaintext = self.root.decrypt(request.key_id, request.ciphertext).await;
        let plaintext = plaintext.map_err(|error| refusal(&error, "Decrypt", request.uid))?;
        Response::ok(DecryptResponse { plaintext: plaintext.to_vec() })
    }
}

/// Whether a field of this length is allowed in a response.
fn fits(length: usize) -> bool {
    (1..=MAX_FIELD).contains(&length)
}

fn refusal(error: &RootError, call: &str, uid: &str) -> ConnectError {
    tracing::warn!(call, uid, kind = ?error.kind, error = %error, "a call failed");
    let code = match error.kind {
        Kind::Denied => ErrorCode::PermissionDenied,
        Kind::Unreachable => ErrorCode::Unavailable,
        Kind::Unusable => ErrorCode::FailedPrecondition,
        Kind::Ciphertext => ErrorCode::InvalidArgument,
        Kind::Garbled => ErrorCode::Internal,
    };
    ConnectError::new(code, error.to_string())
}
