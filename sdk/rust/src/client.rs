//! The client and its builder.

use std::env;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use agentrouter_api::wire::agentrouter::secret::v1::SecretServiceClient;
use connectrpc::client::{ClientConfig, HttpClient};
use http::HeaderValue;
use http::header::{AUTHORIZATION, USER_AGENT};
use zeroize::Zeroizing;

use crate::retry::{Policy, random};
use crate::secret::SecretClient;
use crate::{ConfigError, Error, settings, tls};

/// The default of [`ClientBuilder::timeout`].
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);
/// The default of [`ClientBuilder::retries`].
pub(crate) const RETRIES: u32 = 2;
/// The largest response that is read, in bytes. It exceeds the largest page of a list.
const RESPONSE_BYTES: usize = 64 * 1024 * 1024;

/// A client of AgentRouter.
///
/// Cheap to clone: all clones share one pool of connections. It connects at the first call.
#[derive(Clone)]
pub struct Client {
    secret: SecretClient,
}

impl Client {
    /// A builder. It reads settings that are not set from the environment.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// The secret service.
    pub fn secret(&self) -> &SecretClient {
        &self.secret
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("secret", &self.secret).finish()
    }
}

/// The settings of a [`Client`].
#[derive(Default)]
pub struct ClientBuilder {
    base_url: Option<String>,
    api_key: Option<Zeroizing<String>>,
    ca_file: Option<PathBuf>,
    timeout: Option<Duration>,
    retries: Option<u32>,
    user_agent: Option<String>,
}

impl ClientBuilder {
    /// The URL of the server: `http://` or `https://`, a host, optionally a port and a path prefix. Default:
    /// `AGENTROUTER_BASE_URL`.
    #[must_use]
    pub fn base_url(mut self, url: impl Into<String>) -> Self {
        self.base_url = Some(url.into());
        self
    }

    /// The API key, with or without `ak-`. Default: `AGENTROUTER_API_KEY`.
    #[must_use]
    pub fn api_key(mut self, key: impl Into<String>) -> Self {
        self.api_key = Some(Zeroizing::new(key.into()));
        self
    }

    /// A PEM file of certificates to trust instead of the system's. Default: `AGENTROUTER_CA_FILE`, or the system's.
    #[must_use]
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca_file = Some(path.into());
        self
    }

    /// The time limit of a call, with its retries and pauses. Default: 10 seconds.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// The number of retries of a read, or of a write with `expected_version`. Default: 2. 0 turns retries off.
    #[must_use]
    pub fn retries(mut self, retries: u32) -> Self {
        self.retries = Some(retries);
        self
    }

    /// The name and version of the program, such as `gateway/1.4`. The client sends it before the SDK's.
    #[must_use]
    pub fn user_agent(mut self, product: impl Into<String>) -> Self {
        self.user_agent = Some(product.into());
        self
    }

    /// Checks the settings. Sends no request.
    ///
    /// # Errors
    /// [`Error::Config`] when the base URL or the key is missing or malformed, the timeout is zero, or certificates
    /// cannot be read.
    pub fn build(self) -> Result<Client, Error> {
        let base_url = self.base_url.or_else(|| from_env("AGENTROUTER_BASE_URL")).unwrap_or_default();
        let uri = settings::base_uri(&base_url)?;
        let key = self.api_key.or_else(|| from_env("AGENTROUTER_API_KEY").map(Zeroizing::new));
        let authorization = settings::authorization(&key.unwrap_or_default())?;
        let timeout = self.timeout.unwrap_or(TIMEOUT);
        if timeout.is_zero() {
            return Err(ConfigError::TimeoutZero.into());
        }

        let connections = HttpClient::builder().establishment_timeout(timeout);
        let transport = if uri.scheme_str() == Some("https") {
            let ca_file = self.ca_file.or_else(|| from_env("AGENTROUTER_CA_FILE").map(PathBuf::from));
            connections.with_tls(tls::client_config(ca_file.as_deref())?)
        } else {
            connections.plaintext()
        };
        let config = ClientConfig::new(uri)
            .with_default_max_message_size(RESPONSE_BYTES)
            .with_default_element_memory_limit(4 * RESPONSE_BYTES)
            .with_default_headers(headers(&authorization, self.user_agent.as_deref())?);
        let rpc = SecretServiceClient::new(transport, config);
        let policy = Policy { timeout, retries: self.retries.unwrap_or(RETRIES), random: Box::new(random) };
        Ok(Client { secret: SecretClient::new(rpc, policy) })
    }
}

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

/// A variable that is set and not empty.
fn from_env(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn headers(authorization: &str, product: Option<&str>) -> Result<http::HeaderMap, ConfigError> {
    let mut bearer = HeaderValue::from_str(authorization)
        .map_err(|_| ConfigError::ApiKeyMalformed("must be letters, digits and '_'"))?;
    bearer.set_sensitive(true);
    let sdk = concat!("agentrouter-sdk-rust/", env!("CARGO_PKG_VERSION"));
    let agent = product.map_or_else(|| sdk.to_owned(), |product| format!("{product} {sdk}"));
    let agent = HeaderValue::from_str(&agent).unwrap_or_else(|_| HeaderValue::from_static(sdk));
    Ok([(AUTHORIZATION, bearer), (USER_AGENT, agent)].into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ak-0123456789abcdef_Canary0000000000000000000000000000000000000000000";

    #[test]
    fn a_client_needs_no_network_to_be_built_and_shows_no_key() {
        for url in ["http://127.0.0.1:1", "http://example.com/prefix/"] {
            let client = Client::builder().base_url(url).api_key(KEY).build().expect("valid");
            assert!(!format!("{client:?}").contains("Canary"));
        }
        let builder = Client::builder().base_url("http://h").api_key(KEY);
        assert!(!format!("{builder:?}").contains("Canary"));
    }

    #[test]
    fn wrong_settings_are_errors_of_build() {
        let config = |result: Result<Client, Error>| match result {
            Err(Error::Config(error)) => error,
            other => panic!("expected a ConfigError, got {other:?}"),
        };
        let error = config(Client::builder().base_url("http://h").api_key("wrong").build());
        assert!(matches!(error, ConfigError::ApiKeyMalformed(_)));
        let error = config(Client::builder().base_url("nothing").api_key(KEY).build());
        assert!(matches!(error, ConfigError::BaseUrlMalformed(_)));
        let error =
            config(Client::builder().base_url("http://h").api_key(KEY).timeout(Duration::ZERO).build());
        assert!(matches!(error, ConfigError::TimeoutZero));
        let error =
            config(Client::builder().base_url("https://h").api_key(KEY).ca_file("/nowhere.pem").build());
        assert!(matches!(error, ConfigError::CaFile { .. }));
    }
}
