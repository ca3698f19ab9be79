//! The seven calls of the secret service.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use connectrpc::client::{BoxFuture, CallOptions, UnaryResponse};
use connectrpc::{ConnectError, ErrorCode};
use futures_core::Stream;

use crate::Error;
use crate::retry::{Policy, Repeat};
use crate::settings::Server;
use crate::transport::Transport;

/// The messages of the service.
pub mod v1 {
    pub use agentrouter_api::wire::agentrouter::secret::v1::{
        CreateSecretRequest, CreateSecretResponse, DeleteSecretRequest, DeleteSecretResponse,
        GetSecretRequest, GetSecretResponse, GetSecretValueRequest, GetSecretValueResponse,
        ListSecretsRequest, ListSecretsResponse, RotateSecretRequest, RotateSecretResponse, Secret,
        ValidateSecretRequest, ValidateSecretResponse,
    };
}

/// The values of `Secret::status` and `ListSecretsRequest::status`.
pub mod status {
    /// The version that reads return.
    pub const ACTIVE: &str = "active";
    /// Replaced by a rotation. Readable by its number until its grace period ends.
    pub const ROTATED_PENDING: &str = "rotated_pending";
    /// No longer readable.
    pub const RETIRED: &str = "retired";
    /// All of them. In requests only.
    pub const ANY: &str = "any";
}

type Rpc = agentrouter_api::wire::agentrouter::secret::v1::SecretServiceClient<Transport>;

/// One generated method as a function of request and options. Boxed and owned, because the compiler cannot otherwise tell
/// that the futures of the public methods are `Send` (rust-lang/rust#110338).
macro_rules! by {
    ($rpc:ident.$method:ident) => {
        |request, options| {
            Box::pin(async move { $rpc.$method(request, options).await.map(UnaryResponse::into_owned) })
        }
    };
}

/// The secret service. Cheap to clone.
///
/// # Errors
/// Every call may fail with [`Error::Refused`], [`Error::Transport`] or [`Error::Timeout`].
#[derive(Clone)]
pub struct SecretClient {
    shared: Arc<ClientState>,
}

struct ClientState {
    rpc: Rpc,
    transport: Transport,
    server: Server,
    policy: Policy,
}

impl SecretClient {
    pub(crate) fn new(rpc: Rpc, transport: Transport, server: Server, policy: Policy) -> Self {
        Self { shared: Arc::new(ClientState { rpc, transport, server, policy }) }
    }

    /// Creates a secret, or updates the one of that owner, realm and name.
    ///
    /// It is retried only if `expected_version` is set. If the first attempt was made and its response was lost, the second
    /// is rejected with `VERSION_MISMATCH`.
    pub async fn create_secret(
        &self,
        request: v1::CreateSecretRequest,
    ) -> Result<v1::CreateSecretResponse, Error> {
        let rpc = &self.shared.rpc;
        let repeat = Repeat::of_write(request.expected_version);
        self.call("CreateSecret", repeat, request, by!(rpc.create_secret_with_options)).await
    }

    /// Reads the metadata of a secret's active version.
    pub async fn get_secret(&self, request: v1::GetSecretRequest) -> Result<v1::GetSecretResponse, Error> {
        let rpc = &self.shared.rpc;
        self.call("GetSecret", Repeat::Safe, request, by!(rpc.get_secret_with_options)).await
    }

    /// Lists one page of metadata. [`SecretClient::list_all`] iterates over all pages.
    pub async fn list_secrets(
        &self,
        request: v1::ListSecretsRequest,
    ) -> Result<v1::ListSecretsResponse, Error> {
        let rpc = &self.shared.rpc;
        self.call("ListSecrets", Repeat::Safe, request, by!(rpc.list_secrets_with_options)).await
    }

    /// Deletes a secret with all its versions. It is never retried.
    pub async fn delete_secret(
        &self,
        request: v1::DeleteSecretRequest,
    ) -> Result<v1::DeleteSecretResponse, Error> {
        let rpc = &self.shared.rpc;
        self.call("DeleteSecret", Repeat::Never, request, by!(rpc.delete_secret_with_options)).await
    }

    /// Gives a secret a new active version. The previous version stays readable for a grace period.
    ///
    /// It is retried only if `expected_version` is set, as [`SecretClient::create_secret`].
    pub async fn rotate_secret(
        &self,
        request: v1::RotateSecretRequest,
    ) -> Result<v1::RotateSecretResponse, Error> {
        let rpc = &self.shared.rpc;
        let repeat = Repeat::of_write(request.expected_version);
        self.call("RotateSecret", repeat, request, by!(rpc.rotate_secret_with_options)).await
    }

    /// Checks that the stored bytes of a secret can be opened. If not, the response has `valid` false.
    pub async fn validate_secret(
        &self,
        request: v1::ValidateSecretRequest,
    ) -> Result<v1::ValidateSecretResponse, Error> {
        let rpc = &self.shared.rpc;
        self.call("ValidateSecret", Repeat::Safe, request, by!(rpc.validate_secret_with_options)).await
    }

    /// Reads the value of a secret. For internal services. It needs the scope `secrets/read/internal`.
    pub async fn get_secret_value(
        &self,
        request: v1::GetSecretValueRequest,
    ) -> Result<v1::GetSecretValueResponse, Error> {
        let rpc = &self.shared.rpc;
        self.call("GetSecretValue", Repeat::Safe, request, by!(rpc.get_secret_value_with_options)).await
    }

    /// Iterates over all secrets of a list, starting at `request.page_token`, `request.page_size` in each request.
    pub fn list_all(&self, request: v1::ListSecretsRequest) -> ListAll {
        ListAll { client: self.clone(), request, page: VecDeque::new(), ended: false, pending: None }
    }

    /// Makes a call and its retries within the timeout.
    async fn call<'a, Q: Clone, A>(
        &'a self,
        name: &'static str,
        repeat: Repeat,
        request: Q,
        send: impl Fn(Q, CallOptions) -> BoxFuture<'a, Result<A, ConnectError>>,
    ) -> Result<A, Error> {
        let transport = &self.shared.transport;
        let send = |left| {
            let generation = transport.generation();
            let call = send(request.clone(), CallOptions::default().with_timeout(left));
            async move {
                let outcome = call.await;
                let timed_out = |error: &ConnectError| {
                    error.code == ErrorCode::DeadlineExceeded && error.response_headers().is_empty()
                };
                if outcome.as_ref().is_err_and(timed_out) {
                    transport.renew(generation);
                }
                outcome
            }
        };
        self.shared.policy.call(name, repeat, send).await
    }
}

impl fmt::Debug for SecretClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Server { uri, socket } = &self.shared.server;
        f.debug_struct("SecretClient")
            .field("base_url", uri)
            .field("socket", socket)
            .field("timeout", &self.shared.policy.timeout)
            .field("retries", &self.shared.policy.retries)
            .finish()
    }
}

/// An iteration over all secrets of a list. It requests a page when it reaches it.
///
/// It is also a [`Stream`], for the combinators of `futures`. Its own `next` and `collect` have the names of two of them.
#[must_use = "an iteration does nothing until `next` is called"]
pub struct ListAll {
    client: SecretClient,
    request: v1::ListSecretsRequest,
    page: VecDeque<v1::Secret>,
    ended: bool,
    /// The request of the next page, if one is in progress.
    pending: Option<BoxFuture<'static, Result<v1::ListSecretsResponse, Error>>>,
}

impl ListAll {
    /// The next secret. `None` after the last. Dropping the future loses no secret.
    ///
    /// # Errors
    /// As [`SecretClient::list_secrets`]. After an error, the next call continues at the same page.
    pub async fn next(&mut self) -> Result<Option<v1::Secret>, Error> {
        poll_fn(|cx| self.poll(cx)).await.transpose()
    }

    /// The remaining secrets.
    ///
    /// # Errors
    /// As [`ListAll::next`].
    pub async fn collect(mut self) -> Result<Vec<v1::Secret>, Error> {
        let mut all = Vec::new();
        while let Some(secret) = self.next().await? {
            all.push(secret);
        }
        Ok(all)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<v1::Secret, Error>>> {
        loop {
            if let Some(secret) = self.page.pop_front() {
                return Poll::Ready(Some(Ok(secret)));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            let pending = self.pending.get_or_insert_with(|| {
                let (client, request) = (self.client.clone(), self.request.clone());
                Box::pin(async move { client.list_secrets(request).await })
            });
            let page = ready!(pending.as_mut().poll(cx));
            self.pending = None;
            let page = page?;
            self.ended = page.next_page_token.is_empty();
            self.request.page_token = page.next_page_token;
            self.page = page.secrets.into();
        }
    }
}

impl Stream for ListAll {
    type Item = Result<v1::Secret, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll(cx)
    }
}

impl fmt::Debug for ListAll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListAll").field("request", &self.request).finish_non_exhaustive()
    }
}
