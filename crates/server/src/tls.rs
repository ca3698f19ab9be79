//! TLS from two PEM files, read again when they change.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use agentrouter_instance::Advised;
use anyhow::Context;
use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// The server's certificate and key, as they are in the files.
pub(crate) struct Tls {
    cert: PathBuf,
    key: PathBuf,
    config: ArcSwap<ServerConfig>,
    seen: std::sync::Mutex<Stamp>,
}

/// When the two files last changed. `None` for a missing file.
type Stamp = [Option<SystemTime>; 2];

impl Tls {
    /// # Errors
    /// When a file cannot be read, contains no certificate or no key, or the two do not match.
    pub(crate) fn load(cert: &Path, key: &Path) -> anyhow::Result<Self> {
        let seen = stamp(cert, key);
        let config = ArcSwap::from_pointee(read(cert, key)?);
        Ok(Self { cert: cert.to_owned(), key: key.to_owned(), config, seen: seen.into() })
    }

    /// Loads the files again if they changed since the last check. If a pair does not load, the previous one stays in
    /// use, and the next change is tried again.
    pub(crate) fn reload_if_changed(&self) {
        let now = stamp(&self.cert, &self.key);
        let mut seen = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if *seen == now {
            return;
        }
        *seen = now;
        match read(&self.cert, &self.key) {
            Ok(config) => {
                self.config.store(Arc::new(config));
                tracing::info!("the TLS certificate was read again");
            }
            Err(error) => {
                tracing::error!(
                    error = &*error as &dyn std::error::Error,
                    "the new TLS certificate cannot be used; the old one stays in use"
                );
            }
        }
    }

    pub(crate) async fn accept(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        TlsAcceptor::from(self.config.load_full()).accept(stream).await
    }
}

fn read(cert: &Path, key: &Path) -> anyhow::Result<ServerConfig> {
    let chain: Vec<_> = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect)
        .with_context(|| format!("the certificate file {} cannot be read", cert.display()))?;
    anyhow::ensure!(!chain.is_empty(), "the certificate file {} has no certificate", cert.display());
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| {
        let path = key.display();
        if is_encrypted(key) {
            let hint = "decrypt it (openssl pkey -in FILE -out NEW_FILE), and name the new file";
            Advised::new(format!("the key file {path} is encrypted"), hint).because(error).into()
        } else {
            anyhow::Error::from(error).context(format!("the key file {path} cannot be read"))
        }
    })?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("the TLS library has no protocol versions")?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .with_context(|| format!("{} and {} do not belong together", cert.display(), key.display()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Whether a PEM file has an encrypted key: in PKCS #8 its label says so, in older formats a header.
fn is_encrypted(key: &Path) -> bool {
    std::fs::read_to_string(key).is_ok_and(|text| {
        text.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") || text.contains("Proc-Type: 4,ENCRYPTED")
    })
}

fn stamp(cert: &Path, key: &Path) -> Stamp {
    [cert, key].map(|path| std::fs::metadata(path).and_then(|file| file.modified()).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_for_an_encrypted_key_says_that_it_is_encrypted() {
        let dir = tempfile::tempdir().expect("a directory");
        let issued = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
        let (cert, key) = (dir.path().join("cert"), dir.path().join("key"));
        std::fs::write(&cert, issued.cert.pem()).expect("written");
        let load = |text: &str| {
            std::fs::write(&key, text).expect("written");
            Tls::load(&cert, &key).map(drop).map_err(|error| error.to_string())
        };
        for text in [
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIBvTBX\n-----END ENCRYPTED PRIVATE KEY-----\n",
            "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nMIIBvTBX\n-----END RSA PRIVATE KEY-----\n",
        ] {
            let error = load(text).expect_err("encrypted");
            assert!(error.contains("is encrypted"), "{error}");
        }
        assert!(load("nothing").expect_err("no key").contains("cannot be read"));
    }
}
