//! TLS to the database, by rustls. The server's certificate is always verified, with its host name; there is no mode
//! that encrypts without verification.
//!
//! Channel binding is not offered: the certificate is verified, and channel binding would need a certificate parser.

use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_rustls::TlsConnector;

use super::file_source::FileSource;
use agentrouter_store::StoreError;

/// How long the certificates of the system stay in use until they are read again.
const SYSTEM: Duration = Duration::from_secs(60);

/// How connections are secured: by trust in the authorities of a file, or of the system. Both are read again when a
/// connection is made. If they cannot be used any more, the last ones stay in use.
pub(super) struct Tls {
    /// None for those of the system.
    roots: Option<FileSource>,
    last: Mutex<Option<Made>>,
}

/// A connector, and what it was made of.
struct Made {
    connector: Connector,
    /// The content of the file.
    content: Option<Arc<[u8]>>,
    at: Instant,
}

/// TLS with certain authorities.
#[derive(Clone)]
pub(super) struct Connector(TlsConnector);

impl Tls {
    /// Trusts the certificates in the PEM file `roots`, or those of the system.
    ///
    /// # Errors
    /// When there is no such file.
    pub(super) fn new(roots: Option<&Path>) -> Result<Self, StoreError> {
        if let Some(path) = roots {
            std::fs::metadata(path)
                .map_err(|error| StoreError::open("the file of sslrootcert cannot be read", error))?;
        }
        Ok(Self { roots: roots.map(FileSource::roots), last: Mutex::default() })
    }

    /// A connector that trusts the present authorities. It is the last one if they did not change.
    ///
    /// # Errors
    /// When they cannot be used and never could.
    pub(super) async fn connector(&self) -> Result<Connector, StoreError> {
        let mut last = self.last.lock().await;
        let content = match &self.roots {
            Some(roots) => Some(roots.read().await?),
            None => None,
        };
        if let Some(made) = &*last
            && made.content == content
            && (content.is_some() || made.at.elapsed() < SYSTEM)
        {
            return Ok(made.connector.clone());
        }
        let bytes = content.clone();
        let made = tokio::task::spawn_blocking(move || Connector::new(bytes.as_deref())).await;
        let made = made.map_err(|error| StoreError::open("TLS cannot be set up", error)).flatten();
        let connector = match (made, &*last) {
            (Ok(connector), _) => connector,
            (Err(error), Some(made)) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(
                    error,
                    "the new certificate authorities for the database cannot be used; the old ones stay in use"
                );
                made.connector.clone()
            }
            (Err(error), None) => return Err(error),
        };
        *last = Some(Made { connector: connector.clone(), content, at: Instant::now() });
        Ok(connector)
    }
}

impl Connector {
    /// Trusts the certificates of a PEM file, or those of the system.
    fn new(roots: Option<&[u8]>) -> Result<Self, StoreError> {
        let mut store = RootCertStore::empty();
        match roots {
            Some(pem) => {
                let wrong = "the file of sslrootcert is not as it should be";
                for certificate in CertificateDer::pem_slice_iter(pem) {
                    let certificate = certificate.map_err(|error| StoreError::open(wrong, error))?;
                    store.add(certificate).map_err(|error| StoreError::open(wrong, error))?;
                }
            }
            None => {
                store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        if store.is_empty() {
            return Err(StoreError::Misconfigured {
                reason: "no certificate authority is trusted",
                hint: "name a PEM file with sslrootcert",
            });
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| StoreError::open("TLS cannot be set up", error))?
            .with_root_certificates(store)
            .with_no_client_auth();
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> MakeTlsConnect<S> for Connector {
    type Stream = Secured<S>;
    type TlsConnect = Handshake;
    type Error = io::Error;

    fn make_tls_connect(&mut self, domain: &str) -> io::Result<Handshake> {
        let name = ServerName::try_from(domain.to_owned()).map_err(io::Error::other)?;
        Ok(Handshake { connector: self.0.clone(), name })
    }
}

/// A handshake to come.
pub(super) struct Handshake {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> TlsConnect<S> for Handshake {
    type Stream = Secured<S>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Secured<S>>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(async move { self.connector.connect(self.name, stream).await.map(Secured) })
    }
}

/// A secured stream.
pub(super) struct Secured<S>(tokio_rustls::client::TlsStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for Secured<S> {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Secured<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Secured<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
