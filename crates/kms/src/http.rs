//! HTTP client of the providers that have no SDK of their own.
//!
//! TLS is rustls. Redirects are not followed, because the request has a token. Proxies are taken from `HTTPS_PROXY` and
//! `NO_PROXY`. A response is read up to [`LONGEST`] bytes.

use anyhow::{Context as _, bail};
use reqwest::{Certificate, Client, RequestBuilder, redirect};
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use crate::root::RootError;

/// The longest response.
const LONGEST: usize = 256 * 1024;

/// A client that trusts the certificates of the system, or only those in the file `anchors`.
///
/// # Errors
/// When the file cannot be read, or has no certificates.
pub(crate) fn client(anchors: Option<&str>) -> anyhow::Result<Client> {
    let mut builder = Client::builder().redirect(redirect::Policy::none());
    if let Some(path) = anchors {
        let unreadable = || format!("the certificates in {path} cannot be read");
        let pem = std::fs::read(path).with_context(unreadable)?;
        let certificates = Certificate::from_pem_bundle(&pem).with_context(unreadable)?;
        if certificates.is_empty() {
            bail!(unreadable());
        }
        builder = builder.tls_certs_only(certificates);
    }
    builder.build().context("the HTTP client cannot be made")
}

/// A response. Its body is wiped when it is dropped.
pub(crate) struct Reply {
    pub(crate) status: u16,
    body: Zeroizing<Vec<u8>>,
}

impl Reply {
    /// The body, as JSON.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, RootError> {
        serde_json::from_slice(&self.body).map_err(|_| RootError::garbled())
    }
}

/// Sends a request and reads the response.
pub(crate) async fn send(request: RequestBuilder) -> Result<Reply, RootError> {
    let mut response = request.send().await.map_err(|error| lost(&error))?;
    let status = response.status().as_u16();
    let mut body = Zeroizing::new(Vec::new());
    while let Some(chunk) = response.chunk().await.map_err(|error| lost(&error))? {
        if body.len() + chunk.len() > LONGEST {
            return Err(RootError::garbled());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Reply { status, body })
}

fn lost(error: &reqwest::Error) -> RootError {
    RootError::unreachable(if error.is_connect() {
        "the provider cannot be connected to"
    } else if error.is_timeout() {
        "the provider did not respond in time"
    } else {
        "the connection to the provider was lost"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_refused() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        assert!(client(file.path().to_str()).is_err());
        assert!(client(Some("/no/such/file")).is_err());
        assert!(client(None).is_ok());
    }
}
