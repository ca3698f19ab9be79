//! The client and its builder.

use std::env;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use agentrouter_api::wire::agentrouter::secret::v1::SecretServiceClient;
use bytes::Bytes;
use connectrpc::client::ClientConfig;
use http::header::{AUTHORIZATION, USER_AGENT};
use http::uri::Scheme;
use http::{HeaderMap, HeaderValue, Request, Response};
use zeroize::Zeroizing;

use crate::retry::{Policy, random};
use crate::secret::SecretClient;
use crate::settings::Server;
use crate::transport::{BoxError, Connector, Exchange, Hook, Route, Transport};
use crate::{ConfigError, Error, proxy, settings, tls};

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
    allow_http: Option<bool>,
    before: Option<Hook>,
    exchange: Option<Exchange>,
}

impl ClientBuilder {
    /// The URL of the server: `http://` or `https://`, a host, optionally a port and a path prefix. Or `unix:` and the path
    /// of a Unix socket. Default: `AGENTROUTER_BASE_URL`.
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

    /// Whether the key and values may be sent to another host without TLS. Default: `AGENTROUTER_ALLOW_HTTP`, or no.
    #[must_use]
    pub fn allow_http(mut self, allow: bool) -> Self {
        self.allow_http = Some(allow);
        self
    }

    /// A function that adds headers to each request. For traces: with OpenTelemetry, it injects the context of the current
    /// span (`traceparent`) by the global propagator.
    #[must_use]
    pub fn before_request(mut self, hook: impl Fn(&mut HeaderMap) + Send + Sync + 'static) -> Self {
        self.before = Some(Arc::new(hook));
        self
    }

    /// An HTTP client in the place of the SDK's: a function from request to response. It decides about TLS and proxies. It
    /// must not follow redirects, which would send values to another server.
    #[must_use]
    pub fn http_client<F>(mut self, send: impl Fn(Request<Bytes>) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Response<Bytes>, BoxError>> + Send + 'static,
    {
        self.exchange = Some(Arc::new(move |request| Box::pin(send(request))));
        self
    }

    /// Checks the settings. Sends no request.
    ///
    /// # Errors
    /// [`Error::Config`] when the base URL or the key is missing or malformed, the key would be sent in clear text, the timeout
    /// is zero, a setting has no effect, or certificates or a proxy cannot be used.
    pub fn build(mut self) -> Result<Client, Error> {
        let base_url = self.base_url.take().or_else(|| from_env("AGENTROUTER_BASE_URL")).unwrap_or_default();
        let server = settings::server(&base_url)?;
        let key = self.api_key.take().or_else(|| from_env("AGENTROUTER_API_KEY").map(Zeroizing::new));
        let authorization = settings::authorization(&key.unwrap_or_default())?;
        let timeout = self.timeout.unwrap_or(TIMEOUT);
        if timeout.is_zero() {
            return Err(ConfigError::TimeoutZero.into());
        }
        let retries = self.retries.unwrap_or(RETRIES);
        let config = ClientConfig::new(server.uri.clone())
            .with_default_max_message_size(RESPONSE_BYTES)
            .with_default_element_memory_limit(4 * RESPONSE_BYTES)
            .with_default_headers(headers(&authorization, self.user_agent.as_deref())?);
        let transport = self.transport(&server, timeout)?;
        let rpc = SecretServiceClient::new(transport.clone(), config);
        let policy = Policy { timeout, retries, random: Box::new(random) };
        Ok(Client { secret: SecretClient::new(rpc, transport, server, policy) })
    }

    fn transport(self, server: &Server, timeout: Duration) -> Result<Transport, ConfigError> {
        let https = server.uri.scheme() == Some(&Scheme::HTTPS);
        let allow_http = match self.allow_http {
            Some(allow) => allow,
            None => switch("AGENTROUTER_ALLOW_HTTP")?,
        };
        if !https && !allow_http && !proxy::is_loopback(server.uri.host().unwrap_or_default()) {
            return Err(ConfigError::ClearText);
        }
        if self.ca_file.is_some() && !https {
            return Err(ConfigError::Unused("ca_file", "without https://"));
        }
        if let Some(exchange) = self.exchange {
            if self.ca_file.is_some() {
                return Err(ConfigError::Unused("ca_file", "on http_client"));
            }
            if server.socket.is_some() {
                return Err(ConfigError::Unused("the socket of the base URL", "on http_client"));
            }
            return Ok(Transport::custom(exchange, self.before));
        }
        let ca_file = || self.ca_file.or_else(|| from_env("AGENTROUTER_CA_FILE").map(PathBuf::from));
        let tls = if https { Some(tls::client_config(ca_file().as_deref())?) } else { None };
        let route = match &server.socket {
            Some(path) => Route::Socket(path.clone()),
            None => match proxy::of_environment(&server.uri, |name| env::var(name).ok())? {
                Some(proxy) => Route::Proxy(proxy),
                None => Route::Direct,
            },
        };
        Ok(Transport::new(Connector::new(route, tls, timeout), self.before))
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

/// A variable that is `1` or `true`, or `0` or `false`.
fn switch(name: &'static str) -> Result<bool, ConfigError> {
    match from_env(name).map(|value| value.to_ascii_lowercase()).as_deref() {
        None | Some("0" | "false") => Ok(false),
        Some("1" | "true") => Ok(true),
        Some(_) => Err(ConfigError::Switch(name)),
    }
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
        for url in ["http://127.0.0.1:1", "https://example.com/prefix/", "unix:/run/s"] {
            let client = Client::builder().base_url(url).api_key(KEY).build().expect("valid");
            assert!(!format!("{client:?}").contains("Canary"));
        }
        let builder = Client::builder().base_url("https://h").api_key(KEY);
        assert!(!format!("{builder:?}").contains("Canary"));
    }

    #[test]
    fn wrong_settings_are_errors_of_build() {
        let config = |result: Result<Client, Error>| match result {
            Err(Error::Config(error)) => error,
            other => panic!("expected a ConfigError, got {other:?}"),
        };
        let error = config(Client::builder().base_url("https://h").api_key("wrong").build());
        assert!(matches!(error, ConfigError::ApiKeyMalformed(_)));
        let error = config(Client::builder().base_url("nothing").api_key(KEY).build());
        assert!(matches!(error, ConfigError::BaseUrlMalformed(_)));
        let error =
            config(Client::builder().base_url("https://h").api_key(KEY).timeout(Duration::ZERO).build());
        assert!(matches!(error, ConfigError::TimeoutZero));
        let error =
            config(Client::builder().base_url("https://h").api_key(KEY).ca_file("/nowhere.pem").build());
        assert!(matches!(error, ConfigError::CaFile { .. }));
        let error = config(Client::builder().base_url("http://localhost").api_key(KEY).ca_file("f").build());
        assert!(matches!(error, ConfigError::Unused(..)));
    }

    #[test]
    fn a_key_is_not_sent_in_clear_text_to_another_host() {
        let build = |url: &str| Client::builder().base_url(url).api_key(KEY);
        for url in
            ["http://10.0.0.1:8080", "http://secrets", "http://localhost.example.com", "http://[2001:db8::1]"]
        {
            let refused = build(url).build();
            assert!(matches!(refused, Err(Error::Config(ConfigError::ClearText))), "{url}: {refused:?}");
            assert!(build(url).allow_http(true).build().is_ok(), "{url}");
        }
        for url in ["http://127.0.0.1", "http://LOCALHOST:1", "http://[::1]:8080", "http://app.localhost"] {
            assert!(build(url).build().is_ok(), "{url}");
        }
    }
}
