//! Verification of the server's certificate: rustls with aws-lc-rs as its only cryptographic provider.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use crate::ConfigError;

/// TLS 1.2 and 1.3, trusting the certificates in `ca_file` alone, or the system's if there is no such file.
///
/// The provider is named rather than taken from the process, so that another library's choice cannot change it.
pub(crate) fn client_config(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, ConfigError> {
    let roots = match ca_file {
        Some(path) => from_file(path)?,
        None => from_system()?,
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(ConfigError::Tls)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn from_file(path: &Path) -> Result<RootCertStore, ConfigError> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| ConfigError::CaFile {
        path: path.to_owned(),
        source: source.into(),
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| failed(error.into()))? {
        let certificate = certificate.map_err(|error| failed(error.into()))?;
        roots.add(certificate).map_err(|error| failed(error.into()))?;
    }
    if roots.is_empty() {
        return Err(failed("there is no certificate in it".into()));
    }
    Ok(roots)
}

/// Certificates of the system that rustls cannot use are skipped, as browsers do.
fn from_system() -> Result<RootCertStore, ConfigError> {
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if usable == 0 { Err(ConfigError::NoSystemCertificates) } else { Ok(roots) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_file_without_certificates_is_an_error_that_names_it() {
        let mut file = tempfile::NamedTempFile::new().expect("temporary file");
        for content in ["", "not pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            file.as_file().set_len(0).expect("truncate");
            file.write_all(content.as_bytes()).expect("write");
            let error = client_config(Some(file.path())).expect_err("no certificate");
            assert!(error.to_string().contains(&file.path().display().to_string()));
        }
        assert!(client_config(Some(Path::new("/nonexistent/ca.pem"))).is_err());
    }
}
