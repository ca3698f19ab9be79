//! A client for `http` and `https`, for the addresses of the settings.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

/// It follows no redirects.
pub(crate) type HttpsClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// A client that trusts the certificates of the system, or those in the PEM file `ca`.
///
/// # Errors
/// When the file cannot be used, or the library fails.
pub(crate) fn client(ca: Option<&Path>) -> anyhow::Result<HttpsClient> {
    let mut roots = RootCertStore::empty();
    match ca {
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        Some(path) => {
            let unusable = || format!("the file {} has no usable certificates", path.display());
            let certificates = CertificateDer::pem_file_iter(path).with_context(unusable)?;
            for certificate in certificates {
                roots.add(certificate.with_context(unusable)?).with_context(unusable)?;
            }
            anyhow::ensure!(!roots.is_empty(), unusable());
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector =
        HttpsConnectorBuilder::new().with_tls_config(config).https_or_http().enable_http1().build();
    Ok(Client::builder(TokioExecutor::new()).build(connector))
}
