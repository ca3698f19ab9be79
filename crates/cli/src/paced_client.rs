//! Paced client: calls for commands that work with many secrets at once.
//!
//! A call that the server refuses because of its rate limit or of overload was not carried out. The first such call takes
//! the gate, waits as long as the server asks and tries again. Calls that have not started, and others that are refused,
//! queue at the gate. So there is one pause for all of them, and they continue in order of arrival. A call gives up when
//! it was refused for the whole of `--timeout`. Used by `import`, `run`, `export` and `inject`.

use std::time::Duration;

use agentrouter_sdk::secret::v1;
use agentrouter_sdk::{Code, Error, SecretClient, reason};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};
use zeroize::Zeroizing;

use crate::failure::Failure;
use crate::reference::ResolvedReference;

/// Values that are read at the same time.
pub(crate) const CONCURRENT_READS: usize = 8;
/// Secrets on a page of a list.
const PAGE: i32 = 1000;
/// The pause after a refusal that asks for none.
const PAUSE: Duration = Duration::from_millis(100);

/// A client whose calls share one pause.
pub(crate) struct PacedClient {
    client: SecretClient,
    patience: Duration,
    gate: Mutex<()>,
}

impl PacedClient {
    /// `patience` is how long one call is repeated after it was refused for the first time.
    pub(crate) fn new(client: SecretClient, patience: Duration) -> Self {
        Self { client, patience, gate: Mutex::new(()) }
    }

    /// The names of the realm's active secrets that begin with `prefix`, in order.
    pub(crate) async fn names(&self, realm: &str, prefix: &str) -> Result<Vec<String>, Error> {
        let mut request = v1::ListSecretsRequest {
            realm: realm.to_owned(),
            name_prefix: prefix.to_owned(),
            page_size: PAGE,
            ..Default::default()
        };
        let mut names = Vec::new();
        loop {
            let page = self.call(|| self.client.list_secrets(request.clone())).await?;
            names.extend(page.secrets.into_iter().map(|secret| secret.name));
            if page.next_page_token.is_empty() {
                return Ok(names);
            }
            request.page_token = page.next_page_token;
        }
    }

    /// The value of each target, in their order. Their owner is `user_id`, or the API key's user if that is empty.
    ///
    /// # Errors
    /// The first one that cannot be read.
    pub(crate) async fn values(
        &self,
        targets: &[ResolvedReference],
        user_id: &str,
    ) -> Result<Vec<Zeroizing<String>>, Failure> {
        let values = stream::iter(targets).map(|target| self.value(target, user_id));
        values.buffered(CONCURRENT_READS).try_collect().await
    }

    async fn value(&self, target: &ResolvedReference, user_id: &str) -> Result<Zeroizing<String>, Failure> {
        let request = v1::GetSecretValueRequest {
            name: target.name.clone(),
            realm: target.realm.clone(),
            user_id: user_id.to_owned(),
            version: target.version.unwrap_or_default(),
        };
        match self.get_secret_value(request).await {
            Ok(response) => Ok(Zeroizing::new(response.value)),
            Err(source) => Err(Failure::Call { about: Some(target.name.clone()), source }),
        }
    }

    pub(crate) async fn get_secret_value(
        &self,
        request: v1::GetSecretValueRequest,
    ) -> Result<v1::GetSecretValueResponse, Error> {
        self.call(|| self.client.get_secret_value(request.clone())).await
    }

    pub(crate) async fn get_secret(
        &self,
        request: v1::GetSecretRequest,
    ) -> Result<v1::GetSecretResponse, Error> {
        self.call(|| self.client.get_secret(request.clone())).await
    }

    pub(crate) async fn create_secret(
        &self,
        request: v1::CreateSecretRequest,
    ) -> Result<v1::CreateSecretResponse, Error> {
        self.call(|| self.client.create_secret(request.clone())).await
    }

    pub(crate) async fn rotate_secret(
        &self,
        request: v1::RotateSecretRequest,
    ) -> Result<v1::RotateSecretResponse, Error> {
        self.call(|| self.client.rotate_secret(request.clone())).await
    }

    async fn call<T, F>(&self, send: impl Fn() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        drop(self.gate.lock().await);
        let mut error = match send().await {
            Ok(response) => return Ok(response),
            Err(error) if was_limited(&error) => error,
            Err(error) => return Err(error),
        };
        let _gate = self.gate.lock().await;
        let deadline = Instant::now() + self.patience;
        loop {
            let pause = error.retry_after().unwrap_or(PAUSE);
            if Instant::now() + pause > deadline {
                return Err(error);
            }
            sleep(pause).await;
            error = match send().await {
                Ok(response) => return Ok(response),
                Err(error) if was_limited(&error) => error,
                Err(error) => return Err(error),
            };
        }
    }
}

/// Whether the call was refused before anything was done, and may succeed later.
fn was_limited(error: &Error) -> bool {
    match error.reason() {
        Some(reason::OVERLOADED) => true,
        // The same code means "too large", which no pause changes.
        Some(reason::BODY_TOO_LARGE) => false,
        _ => error.code() == Some(Code::ResourceExhausted),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use agentrouter_sdk::Client;

    use super::*;

    const KEY: &str = "0123456789abcdef_0000000000000000000000000000000000000000000000000";

    fn client(patience: Duration) -> PacedClient {
        let client = Client::builder().base_url("http://127.0.0.1:1").api_key(KEY).build().expect("valid");
        PacedClient::new(client.secret().clone(), patience)
    }

    fn refused(code: Code, retry_after: Duration) -> Error {
        let retry_after = Some(retry_after);
        Error::Transport { code, message: String::new(), retry_after, source: None }
    }

    #[tokio::test(start_paused = true)]
    async fn a_limited_call_is_repeated_for_as_long_as_the_timeout() {
        let paced = client(Duration::from_secs(10));
        let (start, tries) = (Instant::now(), Cell::new(0));
        let limited = async || {
            tries.set(tries.get() + 1);
            Err::<(), _>(refused(Code::ResourceExhausted, Duration::from_secs(3)))
        };
        assert!(paced.call(limited).await.is_err());
        assert_eq!((tries.get(), start.elapsed()), (4, Duration::from_secs(9)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_was_not_limited_is_made_once() {
        let paced = client(Duration::from_secs(10));
        let tries = Cell::new(0);
        let failing = async || {
            tries.set(tries.get() + 1);
            Err::<(), _>(refused(Code::Unavailable, Duration::from_secs(1)))
        };
        assert!(paced.call(failing).await.is_err());
        assert_eq!(tries.get(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn limited_calls_share_one_pause_and_keep_their_order() {
        let paced = client(Duration::from_secs(5));
        let (start, tokens, done) = (Instant::now(), Cell::new(0), RefCell::new(Vec::new()));
        // One call a second is admitted.
        let call = |i: u64| {
            let (paced, tokens, done) = (&paced, &tokens, &done);
            async move {
                let send = async || {
                    if start.elapsed() < Duration::from_secs(tokens.get() + 1) {
                        return Err(refused(Code::ResourceExhausted, Duration::from_secs(1)));
                    }
                    tokens.set(tokens.get() + 1);
                    Ok(())
                };
                paced.call(send).await.expect("admitted in the end");
                done.borrow_mut().push(i);
            }
        };
        futures_util::future::join_all((0..20).map(call)).await;
        assert_eq!(*done.borrow(), (0..20).collect::<Vec<_>>());
        assert_eq!(start.elapsed(), Duration::from_secs(20), "each waits longer than its own timeout");
    }
}
