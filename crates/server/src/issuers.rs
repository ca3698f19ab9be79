//! The issuers of tokens while the server runs: their documents by HTTP, and the config file, read again when it changes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use agentrouter_crypto::SystemRng;
use agentrouter_identity::{Fetch, Fetched, Issuers};
use agentrouter_service::Service;
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt as _, Full, Limited};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use crate::https::{HttpsClient, client};
use crate::settings::{Settings, read_identity};

/// How often the config file is checked for a change, and what is due is read.
const TICK: Duration = Duration::from_secs(1);

/// Gets documents of issuers.
struct Documents {
    /// The client that trusts the certificates of the system.
    client: HttpsClient,
}

impl Fetch for Documents {
    fn fetch<'a>(
        &'a self,
        url: &'a str,
        ca: Option<&'a Path>,
        token: Option<&'a Path>,
        most: usize,
    ) -> Fetched<'a> {
        Box::pin(async move { self.get(url, ca, token, most).await.map_err(std::io::Error::other) })
    }
}

impl Documents {
    async fn get(
        &self,
        url: &str,
        ca: Option<&Path>,
        token: Option<&Path>,
        most: usize,
    ) -> anyhow::Result<Vec<u8>> {
        // Certificates in a file are read for each fetch, so that a change of the file needs no attention.
        let own = ca.map(|ca| client(Some(ca))).transpose()?;
        let client = own.as_ref().unwrap_or(&self.client);
        let mut request = Request::get(url)
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, concat!("agentrouter-secrets/", env!("CARGO_PKG_VERSION")));
        if let Some(path) = token {
            let text = std::fs::read_to_string(path)?;
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", text.trim()));
        }
        let response = client.request(request.body(Full::<Bytes>::default())?).await?;
        anyhow::ensure!(response.status() == 200, "the response has status {}", response.status().as_u16());
        let body = Limited::new(response.into_body(), most)
            .collect()
            .await
            .map_err(|error| anyhow::anyhow!(error))?;
        Ok(body.to_bytes().to_vec())
    }
}

/// The issuers of a server, and the file that they come from.
pub(crate) struct Upkeep {
    issuers: Arc<Issuers>,
    config: PathBuf,
    /// Of the start. The listener uses it.
    client_ca: Option<PathBuf>,
    seen: Option<Stamp>,
}

/// Keeps the issuers up to date for as long as the server runs.
pub(crate) async fn run(upkeep: Option<Upkeep>) {
    let Some(upkeep) = upkeep else { return };
    match signal(SignalKind::hangup()) {
        Ok(hangup) => upkeep.run(hangup).await,
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, "issuers and rules are not read again: the signal cannot be caught");
        }
    }
}

/// When a file was changed last, and its size.
type Stamp = (Option<SystemTime>, u64);

impl Upkeep {
    /// Makes the service accept the tokens of the issuers in the config file, now and after it changes. None without a
    /// config file. The keys of the issuers are read once, as far as they can be reached.
    ///
    /// # Errors
    /// When the random source or the TLS library fails.
    pub(crate) async fn begin(settings: &Settings, service: &Service) -> anyhow::Result<Option<Self>> {
        let Some(config) = settings.config.clone() else { return Ok(None) };
        let documents = Documents { client: client(None)? };
        let clock = Arc::clone(service.clock());
        // The file may have changed since the settings were read, while the start waited for a database or a KMS.
        let before = stamp(&config);
        let (identity, seen) = match before.map(|_| read_identity(&config)) {
            Some(Ok(identity)) if identity.client_ca() == settings.identity.client_ca() => (identity, before),
            // The first look reads it again, and logs the error.
            _ => (settings.identity.clone(), None),
        };
        let issuers = Issuers::new(identity, Arc::new(documents), clock, &SystemRng)?;
        let issuers = Arc::new(issuers);
        issuers.read_due().await;
        service.accept_tokens(Arc::clone(&issuers));
        let client_ca = settings.identity.client_ca().map(Path::to_owned);
        Ok(Some(Self { issuers, config, client_ca, seen }))
    }

    /// Runs until the future is dropped. A hangup reads the file also if it seems unchanged.
    async fn run(mut self, mut hangup: Signal) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let issuers = Arc::clone(&self.issuers);
        let reading = async {
            let mut tick = interval(TICK);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tick.tick().await;
                issuers.read_due().await;
            }
        };
        let watching = async {
            loop {
                let forced = tokio::select! {
                    _ = tick.tick() => false,
                    _ = hangup.recv() => true,
                };
                self.read_if_changed(forced);
            }
        };
        tokio::join!(reading, watching);
    }

    /// Reads issuers and rules again. If the file cannot be used, the present ones stay.
    fn read_if_changed(&mut self, forced: bool) {
        let now = stamp(&self.config);
        // A pipe can be read only once.
        let is_file = now.is_some();
        if !is_file || (now == self.seen && !forced) {
            return;
        }
        self.seen = now;
        match read_identity(&self.config) {
            Ok(identity)
                if identity.client_ca().is_some_and(|path| Some(path) != self.client_ca.as_deref()) =>
            {
                tracing::error!(
                    "the changed config file names another file with client-ca, which needs a restart; the issuers and rules from before stay in use"
                )
            }
            Ok(identity) => {
                tracing::info!(issuers = identity.len(), "the issuers and their rules were read again");
                self.issuers.replace(identity);
            }
            Err(error) => tracing::error!(
                error = &*error as &dyn std::error::Error,
                "the changed config file cannot be used; the issuers and rules from before stay in use"
            ),
        }
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let data = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file)?;
    Some((data.modified().ok(), data.len()))
}
