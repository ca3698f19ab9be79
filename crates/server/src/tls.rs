//! TLS from two PEM files, and the authorities of client certificates from a third. All are read again when they change.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use agentrouter_instance::Advised;
use agentrouter_model::{Clock as _, SystemClock, Timestamp};
use anyhow::Context;
use arc_swap::ArcSwap;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// How long before its expiry a certificate is reported.
pub(crate) const SOON: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// The server's certificate and key, as they are in the files.
pub(crate) struct Tls {
    cert: PathBuf,
    key: PathBuf,
    /// Has the authorities of client certificates.
    client_ca: Option<PathBuf>,
    loaded: ArcSwap<Loaded>,
    /// `None` if a file is a pipe, which can be read only once.
    seen: Option<std::sync::Mutex<Stamp>>,
}

/// What the files had.
struct Loaded {
    config: Arc<ServerConfig>,
    /// When the first certificate of the chain expires. `None` if that is unknown.
    expires: Option<Timestamp>,
    /// Verifies client certificates, if there are authorities.
    verifier: Option<Arc<dyn ClientCertVerifier>>,
}

/// When the files last changed, and which files they are. `None` for a missing file.
type Stamp = [Option<(SystemTime, u64, i64)>; 3];

/// How long a client certificate counts as verified on a connection.
const VERIFIED: Duration = Duration::from_secs(60);

/// The certificate of a client, verified when the connection began.
pub(crate) struct ClientCertificate {
    tls: Arc<Tls>,
    chain: Vec<CertificateDer<'static>>,
    name: String,
    /// With which files it was verified last, and when.
    verified: std::sync::Mutex<(Arc<Loaded>, Instant)>,
}

impl std::fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientCertificate").field("name", &self.name).finish_non_exhaustive()
    }
}

impl ClientCertificate {
    /// Its name: its URI (of SPIFFE, for example), or the first of its DNS names. `None` if it is not valid any more: it
    /// expired, or its authority is not in the file any more. It is verified again when that file changes, and every
    /// minute.
    pub(crate) fn name(&self) -> Option<&str> {
        let loaded = self.tls.loaded.load_full();
        let mut verified = self.verified.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (with, at) = &*verified;
        if !Arc::ptr_eq(with, &loaded) || at.elapsed() >= VERIFIED {
            let (first, rest) = self.chain.split_first()?;
            let now = u64::try_from(SystemClock.now().as_seconds_and_nanos().0).ok()?;
            let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
            loaded.verifier.as_ref()?.verify_client_cert(first, rest, now).ok()?;
            *verified = (loaded, Instant::now());
        }
        Some(&self.name)
    }
}

/// The name of a certificate. `None` with several URIs, with a URI that is none, or without a name: it does not say who its
/// holder is.
fn name_of(certificate: &CertificateDer<'_>) -> Option<String> {
    let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
    let mut uris = certificate.valid_uri_names();
    match (uris.next(), uris.next()) {
        // Otherwise it could be the DNS name of another.
        (Some(uri), None) => uri.contains("://").then(|| uri.to_owned()),
        (Some(_), Some(_)) => None,
        (None, _) => certificate.valid_dns_names().next().map(str::to_owned),
    }
}

impl Tls {
    /// # Errors
    /// When a file cannot be read, contains no certificate or no key, or the two do not match.
    pub(crate) fn load(cert: &Path, key: &Path, client_ca: Option<&Path>) -> anyhow::Result<Self> {
        let is_file = |path: &Path| std::fs::metadata(path).is_ok_and(|file| file.is_file());
        let are_files = is_file(cert) && is_file(key) && client_ca.is_none_or(is_file);
        let seen = are_files.then(|| stamp(cert, key, client_ca).into());
        let loaded = ArcSwap::from_pointee(read(cert, key, client_ca)?);
        Ok(Self {
            cert: cert.to_owned(),
            key: key.to_owned(),
            client_ca: client_ca.map(Path::to_owned),
            loaded,
            seen,
        })
    }

    /// Loads the files again if they changed since the last check. If a pair does not load, the previous one stays in
    /// use, and the next change is tried again.
    pub(crate) fn reload_if_changed(&self) {
        let Some(seen) = &self.seen else { return };
        let now = stamp(&self.cert, &self.key, self.client_ca.as_deref());
        let mut seen = seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if *seen == now {
            return;
        }
        *seen = now;
        match read(&self.cert, &self.key, self.client_ca.as_deref()) {
            Ok(loaded) => {
                self.loaded.store(Arc::new(loaded));
                tracing::info!("the files of TLS were read again");
                self.warn_if_ending(SystemClock.now());
            }
            Err(error) => {
                tracing::error!(
                    error = &*error as &dyn std::error::Error,
                    "the changed files of TLS cannot be used; what they had before stays in use"
                );
            }
        }
    }

    /// When the certificate in use expires. `None` if that is unknown.
    pub(crate) fn expires(&self) -> Option<Timestamp> {
        self.loaded.load().expires
    }

    /// Logs a warning if the certificate has expired, or expires soon.
    pub(crate) fn warn_if_ending(&self, now: Timestamp) {
        let Some(end) = self.expires() else { return };
        if end <= now {
            tracing::warn!(
                "the TLS certificate expired at {end}, so clients reject it; replace tls.cert and tls.key"
            );
        } else if end.saturating_since(now) < SOON {
            tracing::warn!("the TLS certificate expires at {end}; replace tls.cert and tls.key before");
        }
    }

    /// The stream, and the certificate of the client if it has one.
    pub(crate) async fn accept(
        self: &Arc<Self>,
        stream: TcpStream,
    ) -> std::io::Result<(TlsStream<TcpStream>, Option<Arc<ClientCertificate>>)> {
        let loaded = self.loaded.load_full();
        let stream = TlsAcceptor::from(Arc::clone(&loaded.config)).accept(stream).await?;
        let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| {
            let chain: Vec<_> = chain.iter().map(|one| one.clone().into_owned()).collect();
            let name = name_of(chain.first()?)?;
            let verified = (loaded, Instant::now()).into();
            Some(Arc::new(ClientCertificate { tls: Arc::clone(self), chain, name, verified }))
        });
        Ok((stream, certificate))
    }
}

fn read(cert: &Path, key: &Path, client_ca: Option<&Path>) -> anyhow::Result<Loaded> {
    // Each file is opened once: it may be a pipe.
    let pem = std::fs::read(cert)
        .with_context(|| format!("the certificate file {} cannot be read", cert.display()))?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .with_context(|| format!("the certificate file {} cannot be read", cert.display()))?;
    anyhow::ensure!(!chain.is_empty(), "the certificate file {} has no certificate", cert.display());
    let expires = chain.first().and_then(expiry);
    let path = key.display();
    let pem = std::fs::read(key).with_context(|| format!("the key file {path} cannot be read"))?;
    let private = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| {
        if is_encrypted(&pem) {
            let hint = "decrypt it (openssl pkey -in FILE -out NEW_FILE), and name the new file";
            Advised::new(format!("the key file {path} is encrypted"), hint).because(error).into()
        } else {
            anyhow::Error::from(error).context(format!("the key file {path} cannot be read"))
        }
    })?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = client_ca.map(|path| client_verifier(path, &provider)).transpose()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("the TLS library has no protocol versions")?
        .with_client_cert_verifier(verifier.clone().unwrap_or_else(WebPkiClientVerifier::no_client_auth))
        .with_single_cert(chain, private)
        .with_context(|| format!("{} and {} do not belong together", cert.display(), key.display()))?;
    if verifier.is_some() {
        // A resumed session would bring the certificate of an earlier connection, which is not verified again.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Loaded { config: Arc::new(config), expires, verifier })
}

/// Most certificates that a client may send beside its own. The library's search for a path parses each of them at every
/// step, so many cost a processor seconds.
const INTERMEDIATES: usize = 8;

/// Verifies client certificates, and refuses long chains before.
#[derive(Debug)]
struct ShortChains(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for ShortChains {
    fn offer_client_auth(&self) -> bool {
        self.0.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        if intermediates.len() > INTERMEDIATES {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        self.0.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// Accepts clients without a certificate, and those whose certificate an authority in the file has signed.
fn client_verifier(
    path: &Path,
    provider: &Arc<CryptoProvider>,
) -> anyhow::Result<Arc<dyn ClientCertVerifier>> {
    let unusable = || format!("the file {} of client-ca has no usable certificates", path.display());
    let pem = std::fs::read(path).with_context(unusable)?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        roots.add(certificate.with_context(unusable)?).with_context(unusable)?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    let verifier = builder.allow_unauthenticated().build().with_context(unusable)?;
    Ok(Arc::new(ShortChains(verifier)))
}

/// When a certificate expires. The library has no accessor, but its verifier reports the expiry of a certificate that
/// has expired. At the latest time that it takes, every certificate has expired. It checks that before the issuer.
fn expiry(certificate: &CertificateDer<'_>) -> Option<Timestamp> {
    let parsed = ParsedCertificate::try_from(certificate).ok()?;
    let late = UnixTime::since_unix_epoch(Duration::from_secs(u64::MAX));
    let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.all;
    let verified =
        verify_server_cert_signed_by_trust_anchor(&parsed, &RootCertStore::empty(), &[], late, algorithms);
    match verified {
        Err(rustls::Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => {
            let micros = i64::try_from(not_after.as_secs()).ok()?.checked_mul(1_000_000)?;
            Some(Timestamp::from_micros(micros))
        }
        _ => None,
    }
}

/// Whether a PEM file has an encrypted key: in PKCS #8 its label says so, in older formats a header.
fn is_encrypted(pem: &[u8]) -> bool {
    let text = String::from_utf8_lossy(pem);
    text.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") || text.contains("Proc-Type: 4,ENCRYPTED")
}

fn stamp(cert: &Path, key: &Path, client_ca: Option<&Path>) -> Stamp {
    [Some(cert), Some(key), client_ca].map(|path| {
        let data = std::fs::metadata(path?).ok()?;
        Some((data.modified().ok()?, data.ino(), data.ctime()))
    })
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
            Tls::load(&cert, &key, None).map(drop).map_err(|error| error.to_string())
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

    #[test]
    fn a_private_key_from_a_pipe_is_read_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let issued = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
        let (cert, key) = (dir.path().join("cert"), dir.path().join("key"));
        std::fs::write(&cert, issued.cert.pem()).expect("written");
        let made = std::process::Command::new("mkfifo").arg(&key).status().expect("mkfifo runs");
        assert!(made.success());
        let (writer, text) = (key.clone(), issued.signing_key.serialize_pem());
        let written = std::thread::spawn(move || std::fs::write(writer, text));
        let tls = Tls::load(&cert, &key, None).expect("loaded");
        written.join().expect("no panic").expect("written");
        std::fs::write(&cert, "changed").expect("written");
        // It would wait for another writer.
        tls.reload_if_changed();
    }

    #[test]
    fn the_expiry_of_a_certificate_is_known() {
        let key = rcgen::KeyPair::generate().expect("a key");
        for (year, is_authority) in [(2020, false), (2049, true), (2051, false)] {
            let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
            params.not_before = rcgen::date_time_ymd(2010, 1, 1);
            params.not_after = rcgen::date_time_ymd(year, 2, 3);
            if is_authority {
                params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            }
            let certificate = params.self_signed(&key).expect("a certificate");
            let expires = expiry(certificate.der()).expect("a time").to_string();
            assert!(expires.starts_with(&format!("{year}-02-03T00:00:00")), "{expires}");
        }
    }
}
