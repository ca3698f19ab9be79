//! The secret service's seven calls.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use connectrpc::ConnectError;
use connectrpc::client::{BoxFuture, CallOptions, HttpClient, UnaryResponse};
use tokio::time::{Instant, sleep};

use crate::Error;
use crate::error::from_rpc;
use crate::retry::{self, Repeat};

/// The messages of the service, as they go over the wire.
pub mod v1 {
    pub use agentrouter_api::wire::agentrouter::secret::v1::{
        CreateSecretRequest, CreateSecretResponse, DeleteSecretRequest, DeleteSecretResponse,
        GetSecretRequest, GetSecretResponse, GetSecretValueRequest, GetSecretValueResponse,
        ListSecretsRequest, ListSecretsResponse, RotateSecretRequest, RotateSecretResponse, Secret,
        ValidateSecretRequest, ValidateSecretResponse,
    };
}

/// What `Secret::status` may say, and `ListSecretsRequest::status` may ask for.
pub mod status {
    /// The version that a read gets.
    pub const ACTIVE: &str = "active";
    /// Replaced by a rotation, readable by its number until its grace is over.
    pub const ROTATED_PENDING: &str = "rotated_pending";
    /// Readable no more.
    pub const RETIRED: &str = "retired";
    /// All of them; in requests only.
    pub const ANY: &str = "any";
}

type Rpc = agentrouter_api::wire::agentrouter::secret::v1::SecretServiceClient<HttpClient>;

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
    shared: Arc<Shared>,
}

struct Shared {
    rpc: Rpc,
    timeout: Duration,
    retries: u32,
}

impl SecretClient {
    pub(crate) fn new(rpc: Rpc, timeout: Duration, retries: u32) -> Self {
        Self { shared: Arc::new(Shared { rpc, timeout, retries }) }
    }

    /// Creates a secret, or updates the one of that owner, realm and name.
    ///
    /// Made again after a failure only if `expected_version` is set. If the first try was done although its answer got
    /// lost, the second is refused with `VERSION_MISMATCH`.
    pub async fn create_secret(
        &self,
        request: v1::CreateSecretRequest,
    ) -> Result<v1::CreateSecretResponse, Error> {
        let rpc = &self.shared.rpc;
        let repeat = Repeat::of_write(request.expected_version);
        self.call(repeat, request, by!(rpc.create_secret_with_options)).await
    }

    /// Reads the metadata of a secret's active version.
    pub async fn get_secret(&self, request: v1::GetSecretRequest) -> Result<v1::GetSecretResponse, Error> {
        let rpc = &self.shared.rpc;
        self.call(Repeat::Safe, request, by!(rpc.get_secret_with_options)).await
    }

    /// Lists one page of metadata; [`SecretClient::list_all`] walks over all of them.
    pub async fn list_secrets(
        &self,
        request: v1::ListSecretsRequest,
    ) -> Result<v1::ListSecretsResponse, Error> {
        let rpc = &self.shared.rpc;
        self.call(Repeat::Safe, request, by!(rpc.list_secrets_with_options)).await
    }

    /// Deletes a secret with all its versions. Never made again after a failure.
    pub async fn delete_secret(
        &self,
        request: v1::DeleteSecretRequest,
    ) -> Result<v1::DeleteSecretResponse, Error> {
        let rpc = &self.shared.rpc;
        self.call(Repeat::Never, request, by!(rpc.delete_secret_with_options)).await
    }

    /// Gives a secret a new active version and leaves the one before it readable for a grace period.
    ///
    /// Made again after a failure only if `expected_version` is set, as for [`SecretClient::create_secret`].
    pub async fn rotate_secret(
        &self,
        request: v1::RotateSecretRequest,
    ) -> Result<v1::RotateSecretResponse, Error> {
        let rpc = &self.shared.rpc;
        let repeat = Repeat::of_write(request.expected_version);
        self.call(repeat, request, by!(rpc.rotate_secret_with_options)).await
    }

    /// Tries whether the stored bytes of a secret still open. That one does not is an answer with `valid` false.
    pub async fn validate_secret(
        &self,
        request: v1::ValidateSecretRequest,
    ) -> Result<v1::ValidateSecretResponse, Error> {
        let rpc = &self.shared.rpc;
        self.call(Repeat::Safe, request, by!(rpc.validate_secret_with_options)).await
    }

    /// Reads the plaintext of a secret. For internal services; needs the scope `secrets/read/internal`.
    pub async fn get_secret_value(
        &self,
        request: v1::GetSecretValueRequest,
    ) -> Result<v1::GetSecretValueResponse, Error> {
        let rpc = &self.shared.rpc;
        self.call(Repeat::Safe, request, by!(rpc.get_secret_value_with_options)).await
    }

    /// Walks over all pages of a list, from `request.page_token` on, `request.page_size` at a time.
    pub fn list_all(&self, request: v1::ListSecretsRequest) -> ListAll {
        ListAll { client: self.clone(), request, page: VecDeque::new(), ended: false }
    }

    /// Makes a call, again if that is safe and may help, within the timeout as a whole.
    async fn call<'a, Q: Clone, A>(
        &'a self,
        repeat: Repeat,
        request: Q,
        send: impl Fn(Q, CallOptions) -> BoxFuture<'a, Result<A, ConnectError>>,
    ) -> Result<A, Error> {
        let timeout = self.shared.timeout;
        let deadline = Instant::now() + timeout;
        let mut retry = 0;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let options = CallOptions::default().with_timeout(left);
            let error = match send(request.clone(), options).await {
                Ok(answer) => return Ok(answer),
                Err(error) => from_rpc(error, timeout),
            };
            let pause = retry::pause(&error, repeat, retry).filter(|_| retry < self.shared.retries);
            match pause {
                // What cannot be waited for within the timeout is told at once.
                Some(pause) if Instant::now() + pause < deadline => sleep(pause).await,
                _ => return Err(error),
            }
            retry += 1;
        }
    }
}

impl fmt::Debug for SecretClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretClient")
            .field("base_url", self.shared.rpc.config().base_uri())
            .field("timeout", &self.shared.timeout)
            .field("retries", &self.shared.retries)
            .finish()
    }
}

/// A walk over all pages of a list. One request per page, made when its first secret is asked for.
#[derive(Debug)]
#[must_use = "a walk does nothing until `next` is called"]
pub struct ListAll {
    client: SecretClient,
    request: v1::ListSecretsRequest,
    page: VecDeque<v1::Secret>,
    ended: bool,
}

impl ListAll {
    /// The next secret; none after the last.
    ///
    /// # Errors
    /// As [`SecretClient::list_secrets`]. The walk can go on from where it stood by calling this again.
    pub async fn next(&mut self) -> Result<Option<v1::Secret>, Error> {
        while self.page.is_empty() && !self.ended {
            let page = self.client.list_secrets(self.request.clone()).await?;
            self.ended = page.next_page_token.is_empty();
            self.request.page_token = page.next_page_token;
            self.page = page.secrets.into();
        }
        Ok(self.page.pop_front())
    }

    /// All that is left, in memory.
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
}
