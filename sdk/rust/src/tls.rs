//! Verification of the server's certificate: rustls with aws-lc-rs as its only cryptographic provider.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{env, io};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use crate::ConfigError;

/// TLS 1.2 and 1.3, trusting the certificates in `ca_file` alone, or the system's if there is no such file.
///
/// The provider is named rather than taken from the process, so that another library's choice cannot change it.
pub(crate) fn client_config(ca_file: Option<&Path>) -> Result<ClientConfig, ConfigError> {
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
    Ok(config)
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

/// The certificates of the system, or those of `SSL_CERT_FILE` and `SSL_CERT_DIR`. Those that rustls cannot use are skipped, as
/// browsers do.
fn from_system() -> Result<RootCertStore, ConfigError> {
    let (file, directories) = (env::var_os("SSL_CERT_FILE"), env::var_os("SSL_CERT_DIR"));
    let named = directories.iter().flat_map(env::split_paths).chain(file.iter().map(PathBuf::from));
    if let Some(path) = named.into_iter().find(|path| !path.as_os_str().is_empty() && !path.exists()) {
        let source = io::Error::new(io::ErrorKind::NotFound, "SSL_CERT_FILE or SSL_CERT_DIR names it");
        return Err(ConfigError::CaFile { path, source: Arc::new(source) });
    }
    let certs = if file.is_some_and(|file| file.is_empty()) && cfg!(target_os = "linux") {
        // An empty variable counts as unset. The library would read a file without a name.
        let found = openssl_probe::probe();
        let directory = found.cert_dir.first().map(PathBuf::as_path);
        rustls_native_certs::load_certs_from_paths(found.cert_file.as_deref(), directory).certs
    } else {
        rustls_native_certs::load_native_certs().certs
    };
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(certs);
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
