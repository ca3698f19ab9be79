//! `health`: whether a running server responds on its address, for the health check of a container.
//!
//! The address comes from the server itself, through the socket for commands in the data directory. So flags of `serve`, a
//! free port and TLS need not be repeated. Only if there is no data directory, the address comes from the settings: then
//! the server runs elsewhere. The certificate is not verified, since the request contains nothing secret, and the
//! certificate has the name that clients use.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use agentrouter_instance::Advised;
use agentrouter_instance::admin::{self, Request, Response};
use agentrouter_instance::instance::SOCKET;
use agentrouter_instance::terminal::done;
use anyhow::{Context as _, bail, ensure};
use clap::Args;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};

use crate::settings::{self, ListenAddress, Settings};
use crate::urls::base_urls;

/// The most bytes of a response that are read.
const MOST: u64 = 64 * 1024;

/// Check that a running server responds; for the health check of a container
///
/// The exit status is 0 if it does, and 1 otherwise. The address comes from the server on the data directory. If that
/// directory does not exist, the address comes from the settings 'listen' and 'tls.cert'.
#[derive(Args)]
pub(crate) struct HealthCheck {
    /// Also check that the server can serve calls: request /readyz instead of /livez
    #[arg(long)]
    ready: bool,
    /// Longest time to wait for the response
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = settings::deadline)]
    timeout: Duration,
    #[command(flatten)]
    pub(crate) settings: Settings,
}

impl HealthCheck {
    /// # Errors
    /// When no server responds, or it is not healthy.
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        let path = if self.ready { "/readyz" } else { "/livez" };
        let url = self.url()?;
        let response =
            request(&url, path, self.timeout).with_context(|| format!("{url} does not respond"))?;
        let (status, body) = parse(&response).with_context(|| format!("{url} does not speak HTTP"))?;
        ensure!(status == 200, "{url}{path} returns {status}: {}", body.trim());
        done(&format!("{url}{path} returns 200"));
        Ok(ExitCode::SUCCESS)
    }

    fn url(&self) -> anyhow::Result<String> {
        let dir = &self.settings.data_dir;
        let is_there = dir.try_exists();
        let urls = if is_there.with_context(|| format!("the directory {} cannot be read", dir.display()))? {
            self.urls_of_server()?
        } else {
            self.urls_of_settings()?
        };
        urls.into_iter().next().context("the setting listen has no address")
    }

    /// The base URLs of the server on the data directory.
    fn urls_of_server(&self) -> anyhow::Result<Vec<String>> {
        let dir = &self.settings.data_dir;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let response = runtime.block_on(async {
            let mut unshown = |_| ();
            let sending = admin::send(dir, SOCKET, &Request::Addresses, &mut unshown);
            tokio::time::timeout(self.timeout, sending).await
        });
        match response.with_context(|| format!("the server on {} does not respond", dir.display()))?? {
            Some(Response::Addresses { urls }) => Ok(urls),
            Some(_) => bail!("the server on {} did not respond with its addresses", dir.display()),
            None => bail!(Advised::new(
                format!("no server runs on {}", dir.display()),
                "start it, or name the data directory of the server with --data-dir",
            )),
        }
    }

    fn urls_of_settings(&self) -> anyhow::Result<Vec<String>> {
        let listen = &self.settings.listen;
        if listen.iter().any(|address| matches!(address, ListenAddress::Tcp(address) if address.port() == 0))
        {
            bail!(Advised::new(
                format!(
                    "there is no directory {}, and listen has a free port",
                    self.settings.data_dir.display()
                ),
                "name the data directory of the server with --data-dir",
            ));
        }
        Ok(base_urls(listen, self.settings.tls().is_some()))
    }
}

/// The response to a GET request.
fn request(url: &str, path: &str, limit: Duration) -> anyhow::Result<Vec<u8>> {
    if let Some(socket) = url.strip_prefix("unix:") {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        return exchange(stream, path);
    }
    let (scheme, address) = url.split_once("://").context("it is no URL")?;
    let address: SocketAddr = address.parse().context("it is no address")?;
    let stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    if scheme == "http" {
        return exchange(stream, path);
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Arc::new(AnyCertificate(Arc::clone(&provider)));
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    let connection = ClientConnection::new(Arc::new(config), ServerName::from(address.ip()))?;
    exchange(StreamOwned::new(connection, stream), path)
}

fn exchange(mut stream: impl Read + Write, path: &str) -> anyhow::Result<Vec<u8>> {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    stream.flush()?;
    let mut response = Vec::new();
    match stream.take(MOST).read_to_end(&mut response) {
        // The end without the message of TLS that announces it.
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof && !response.is_empty() => {}
        read => {
            read?;
        }
    }
    Ok(response)
}

/// The status and the body of a response of HTTP/1.1.
fn parse(response: &[u8]) -> Option<(u16, String)> {
    let text = String::from_utf8_lossy(response);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    Some((status, body.to_owned()))
}

/// Accepts every certificate, and verifies that the server has its key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_taken_apart() {
        assert_eq!(parse(b"HTTP/1.1 503 X\r\na: b\r\n\r\nbody"), Some((503, "body".to_owned())));
        for wrong in [&b""[..], b"SSH-2.0-x\r\n", b"HTTP/1.1 2\r\n\r\n", b"\x15\x03\x03"] {
            assert_eq!(parse(wrong), None);
        }
    }
}
