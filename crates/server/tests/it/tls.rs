//! TLS: REST and gRPC over TLS, no plain requests on the port, and a certificate that is replaced while the server
//! runs.

#![allow(clippy::disallowed_methods, reason = "how long the server takes is what is tested")]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::support::{Reply, Server, run, within};

/// Longer than a limit of a second or less, and shorter than the default limit of ten seconds.
const LATEST: Duration = Duration::from_secs(9);

/// A certificate for 127.0.0.1 and its key, as PEM, and as a client trusts it.
pub struct Identity {
    cert: String,
    key: String,
    der: CertificateDer<'static>,
}

impl Identity {
    pub fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
        Self { cert: made.cert.pem(), key: made.signing_key.serialize_pem(), der: made.cert.der().clone() }
    }

    /// A client that trusts this certificate and no other.
    pub fn client(&self, protocols: &[&[u8]]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).expect("a certificate");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        config
    }
}

/// Two files in a directory of their own.
pub struct Files {
    dir: tempfile::TempDir,
}

impl Files {
    pub fn of(identity: &Identity) -> Self {
        let files = Self { dir: tempfile::tempdir().expect("a directory") };
        files.replace(&identity.cert, &identity.key);
        files
    }

    pub fn cert(&self) -> PathBuf {
        self.dir.path().join("cert.pem")
    }

    fn key(&self) -> PathBuf {
        self.dir.path().join("key.pem")
    }

    /// Replaces both files by renames, as certificate tools do.
    fn replace(&self, cert: &str, key: &str) {
        for (path, text) in [(self.key(), key), (self.cert(), cert)] {
            let new = path.with_extension("new");
            std::fs::write(&new, text).expect("written");
            std::fs::rename(&new, &path).expect("renamed");
        }
    }

    /// A server on these files, which exist as long as it.
    pub fn start(self) -> (Self, Server) {
        self.start_with(&[])
    }

    fn start_with(self, more: &[&str]) -> (Self, Server) {
        let (cert, key) = (self.cert(), self.key());
        let mut args = vec!["--tls-cert", cert.to_str().unwrap(), "--tls-key", key.to_str().unwrap()];
        args.extend(more);
        let server = Server::start_with(&args);
        (self, server)
    }
}

/// An HTTP/1.1 request over TLS. An error if the certificate is not trusted.
fn call(server: &Server, config: ClientConfig, request: &str) -> std::io::Result<Reply> {
    exchange(server.process.authority(), config, request.as_bytes()).map(|bytes| Reply::parse(&bytes))
}

/// Sends bytes over TLS and reads the whole response.
pub fn exchange(authority: &str, config: ClientConfig, request: &[u8]) -> std::io::Result<Vec<u8>> {
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).map_err(std::io::Error::other)?;
    let socket = TcpStream::connect(authority)?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut stream = StreamOwned::new(connection, socket);
    stream.write_all(request)?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn list(server: &Server) -> String {
    format!(
        "GET /v1/secrets HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer ak-{}\r\nconnection: close\r\n\r\n",
        server.key
    )
}

#[test]
fn rest_works_over_tls_and_the_server_prints_https_addresses() {
    let identity = Identity::new();
    let (_files, server) = &Files::of(&identity).start();
    assert!(server.process.url.starts_with("https://127.0.0.1:"), "{}", server.process.url);
    let environment = std::fs::read_to_string(server.data("bootstrap.env")).unwrap();
    let base = format!("AGENTROUTER_BASE_URL={}\n", server.process.url);
    assert!(environment.contains(&base), "the environment has the same address: {base}");
    for protocols in [&[][..], &[b"http/1.1".as_slice()]] {
        let reply = call(server, identity.client(protocols), &list(server)).expect("TLS");
        assert_eq!(reply.status, 200, "{reply:?}");
        assert_eq!(reply.header("cache-control"), Some("no-store"));
    }
    let untrusting = call(server, Identity::new().client(&[]), &list(server));
    assert!(untrusting.is_err(), "a client that trusts another certificate is not served");
}

#[test]
fn grpc_works_over_tls_by_alpn() {
    let identity = Identity::new();
    let (_files, server) = &Files::of(&identity).start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let socket = tokio::net::TcpStream::connect(server.process.authority()).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(identity.client(&[b"h2", b"http/1.1"])));
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let stream = connector.connect(name, socket).await.expect("TLS");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()), "HTTP/2 is preferred");
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request =
            http::Request::post("https://127.0.0.1/agentrouter.secret.v1.SecretService/ListSecrets")
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .header("authorization", format!("Bearer ak-{}", server.key))
                .body(Full::new(bytes::Bytes::from_static(&[0; 5])))
                .unwrap();
        let response = sender.send_request(request).await.expect("a response");
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "application/grpc+proto");
        let body = response.into_body().collect().await.expect("a complete response");
        let trailers = body.trailers().cloned().unwrap_or_default();
        assert_eq!(trailers.get("grpc-status").map(http::HeaderValue::as_bytes), Some(b"0".as_slice()));
    });
}

#[test]
fn a_connection_without_tls_is_closed_without_a_response() {
    let identity = Identity::new();
    let (_files, server) = &Files::of(&identity).start();
    for text in [list(server), "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), "\0".repeat(300)] {
        let start = Instant::now();
        let response = server.raw(text.as_bytes());
        // At most an alert of TLS (RFC 8446, §6): content type 21. The length excludes anything more.
        assert!(response.first().is_none_or(|kind| *kind == 21) && response.len() < 16, "{response:?}");
        assert!(start.elapsed() < LATEST, "it is turned away at once");
    }
    let reply = call(server, identity.client(&[]), &list(server)).expect("TLS");
    assert_eq!(reply.status, 200, "who speaks TLS is served");
}

#[test]
fn a_stalled_handshake_is_closed_and_blocks_no_other_connection() {
    let identity = Identity::new();
    let (_files, server) = &Files::of(&identity).start_with(&["--limit-header-time", "1s"]);
    for opening in [&[][..], &[22, 3, 1]] {
        let mut stream = TcpStream::connect(server.process.authority()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(opening).unwrap();
        assert_eq!(call(server, identity.client(&[]), &list(server)).expect("TLS").status, 200);
        let start = Instant::now();
        // A reset is an end as well. A time-out of ten seconds is not.
        let _ = stream.read_to_end(&mut Vec::new());
        assert!(start.elapsed() < LATEST, "{opening:?} was not cut");
    }
    // The handshake negotiated HTTP/2, and then the client sent nothing.
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let connection = ClientConnection::new(Arc::new(identity.client(&[b"h2"])), name).unwrap();
    let socket = TcpStream::connect(server.process.authority()).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut stream = StreamOwned::new(connection, socket);
    let start = Instant::now();
    let _ = stream.read_to_end(&mut Vec::new());
    assert!(start.elapsed() < LATEST, "a silent HTTP/2 client was not cut");
}

#[test]
fn a_new_certificate_is_used_within_seconds_and_a_broken_one_never() {
    // The server checks the files once a second.
    const SOON: Duration = Duration::from_secs(60);
    let (first, second) = (Identity::new(), Identity::new());
    let (files, server) = &Files::of(&first).start();
    let serves = |identity: &Identity| {
        call(server, identity.client(&[]), &list(server)).is_ok_and(|reply| reply.status == 200)
    };
    assert!(serves(&first) && !serves(&second));

    files.replace(&second.cert, &second.key);
    assert!(within(SOON, || serves(&second)), "the new certificate is used");
    assert!(!serves(&first), "and the old one no more");

    let third = Identity::new();
    let broken = [
        ("not a certificate", third.key.as_str()),
        (third.cert.as_str(), ""),
        (third.cert.as_str(), first.key.as_str()),
    ];
    for (number, (cert, key)) in broken.into_iter().enumerate() {
        files.replace(cert, key);
        let refusals = || server.written().matches("the changed files of TLS cannot be used").count();
        assert!(within(SOON, || refusals() > number), "the log says so");
        assert!(serves(&second), "the one before stays in use");
    }
    assert!(!server.written().contains("PRIVATE KEY"), "and the log has none of it");

    files.replace(&third.cert, &third.key);
    assert!(within(SOON, || serves(&third)), "a good one is used again");
}

#[test]
fn a_certificate_that_has_expired_is_reported_by_log_metrics_and_doctor() {
    let key = rcgen::KeyPair::generate().expect("a key");
    let identity = |year: i32| {
        let mut params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("a name");
        params.not_before = rcgen::date_time_ymd(2010, 1, 1);
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let cert = params.self_signed(&key).expect("a certificate");
        Identity { cert: cert.pem(), key: key.serialize_pem(), der: cert.der().clone() }
    };
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("s");
    let listen = format!("unix:{}", socket.display());
    let (files, server) = &Files::of(&identity(2020)).start_with(&["--listen", &listen]);
    let logs = |text: &str| within(Duration::from_secs(60), || server.written().contains(text));
    assert!(logs("the TLS certificate expired at 2020-01-01"), "{}", server.written());
    let metric = || {
        // No client trusts the certificate, and a Unix socket has none.
        let mut stream = std::os::unix::net::UnixStream::connect(&socket).expect("it listens");
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n").expect("sent");
        let mut response = Vec::new();
        stream.read_to_end(&mut response).expect("a response");
        let reply = Reply::parse(&response);
        let name = "agentrouter_secrets_tls_certificate_expiry_timestamp_seconds ";
        let line = reply.body.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("{}", reply.body)).to_owned()
    };
    assert_eq!(metric(), "1577836800");
    let doctor = || {
        let (cert, key) = (files.cert(), files.key());
        let data = server.process.data_dir().to_str().expect("UTF-8");
        let (cert, key) = (cert.to_str().expect("UTF-8"), key.to_str().expect("UTF-8"));
        let output = run(&["doctor", "--data-dir", data, "--tls-cert", cert, "--tls-key", key]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(doctor().contains("FAIL  TLS"), "{}", doctor());
    let next = identity(2040);
    files.replace(&next.cert, &next.key);
    assert!(within(Duration::from_secs(60), || metric() == "2208988800"), "{}", metric());
    assert!(doctor().contains("ok    TLS") && doctor().contains("expires at 2040-01-01"), "{}", doctor());
    // The key file is readable by all.
    assert!(doctor().contains("warn  TLS key"), "{}", doctor());
    assert!(logs("the file of tls.key"), "{}", server.written());
}

/// An authority that signs client certificates.
struct Authority {
    certificate: rcgen::Certificate,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("a certificate");
        Self { certificate, issuer: rcgen::Issuer::new(params, key) }
    }

    /// A client that trusts `server`, with a certificate for these names until the year `until`.
    fn client(&self, server: &Identity, names: &[rcgen::SanType], until: i32) -> ClientConfig {
        self.client_with(server, names, until, 0)
    }

    /// As [`Authority::client`], with more certificates beside its own.
    fn client_with(
        &self,
        server: &Identity,
        names: &[rcgen::SanType],
        until: i32,
        more: usize,
    ) -> ClientConfig {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::default();
        params.subject_alt_names = names.to_vec();
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let private = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
        let mut roots = RootCertStore::empty();
        roots.add(server.der.clone()).expect("a certificate");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(
                [vec![certificate.der().clone()], vec![self.certificate.der().clone(); more]].concat(),
                private.into(),
            )
            .unwrap()
    }
}

fn uri(text: &str) -> rcgen::SanType {
    rcgen::SanType::URI(text.try_into().expect("ASCII"))
}

const GATEWAY: &str = "spiffe://example.org/gateway";

/// Requests one after another on one connection.
struct Session(StreamOwned<ClientConnection, TcpStream>);

impl Session {
    fn open(server: &Server, config: &ClientConfig) -> Self {
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let connection = ClientConnection::new(Arc::new(config.clone()), name).expect("a connection");
        let socket = TcpStream::connect(server.process.authority()).expect("the server accepts");
        socket.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
        Self(StreamOwned::new(connection, socket))
    }

    /// The status of a list. None if the server ends the connection.
    fn status(&mut self, more: &str) -> Option<u16> {
        let request = format!("GET /v1/secrets HTTP/1.1\r\nhost: 127.0.0.1\r\n{more}\r\n");
        self.0.write_all(request.as_bytes()).ok()?;
        let mut bytes = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            match self.0.read(&mut chunk) {
                Ok(read @ 1..) => bytes.extend_from_slice(&chunk[..read]),
                _ => return None,
            }
            let text = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            if length == Some(body.len()) {
                return head.split(' ').nth(1)?.parse().ok();
            }
        }
    }
}

#[test]
fn a_client_certificate_is_the_identity_of_requests_without_a_key() {
    let (identity, authority, stranger) = (Identity::new(), Authority::new(), Authority::new());
    let files = Files::of(&identity);
    let (ca, config) = (files.dir.path().join("ca.pem"), files.dir.path().join("config.toml"));
    std::fs::write(&ca, authority.certificate.pem()).expect("written");
    let text = format!(
        "[[issuer]]\nname = \"mesh\"\nclient-ca = \"{}\"\n[[issuer.rule]]\nmatch = {{ sub = \"{GATEWAY}\" }}\nuser = \"ann\"\nscopes = [\"secrets/read\"]\n[[issuer.rule]]\nmatch = {{ sub = \"jobs.example.org\" }}\nuser = \"bob\"\nscopes = [\"secrets/read\"]\n",
        ca.display()
    );
    std::fs::write(&config, text).expect("written");
    let (files, server) = files.start_with(&[
        "--trusted-proxies",
        "127.0.0.1",
        "--config",
        config.to_str().unwrap(),
        "--limit-failed-auth-rate",
        "0",
    ]);
    let client = |authority: &Authority, names: &[rcgen::SanType]| authority.client(&identity, names, 2049);
    let status = |client: &ClientConfig, more: &str| Session::open(&server, client).status(more);

    let gateway = client(&authority, &[uri(GATEWAY)]);
    for _ in 0..2 {
        let mut session = Session::open(&server, &gateway);
        assert_eq!(session.status(""), Some(200));
        let kind = session.0.conn.handshake_kind();
        assert_eq!(kind, Some(rustls::HandshakeKind::Full), "a resumed one would not verify the certificate");
    }
    for (more, expected) in [(8, Some(200)), (9, None)] {
        let client = authority.client_with(&identity, &[uri(GATEWAY)], 2049, more);
        assert_eq!(status(&client, ""), expected, "{more} certificates beside its own");
    }
    // From a browser, and through a proxy that has a certificate.
    for header in ["origin: https://a.example", "x-forwarded-for: 127.0.0.1", "x-forwarded-for: nonsense"] {
        assert_eq!(status(&gateway, &format!("{header}\r\n")), Some(401), "{header}");
    }
    let dns = rcgen::SanType::DnsName("jobs.example.org".try_into().expect("ASCII"));
    assert_eq!(status(&client(&authority, std::slice::from_ref(&dns)), ""), Some(200));
    assert_eq!(
        status(&client(&authority, &[dns, uri(GATEWAY)]), ""),
        Some(200),
        "a URI comes before a DNS name"
    );
    let log = std::fs::read_to_string(server.data("audit").join("audit.jsonl")).expect("a log");
    for (subject, rule, user) in [(GATEWAY, "1", "ann"), ("jobs.example.org", "2", "bob")] {
        let holder = format!(r#""issuer":"mesh","subject":"{subject}","rule":"{rule}","user":"{user}""#);
        assert!(log.contains(&holder), "{holder}: {log}");
    }

    let bearer = |key: &str| format!("authorization: Bearer ak-{key}\r\n");
    assert_eq!(status(&identity.client(&[]), ""), Some(401), "no certificate");
    assert_eq!(status(&identity.client(&[]), &bearer(&server.key)), Some(200), "a key works as before");
    assert_eq!(status(&gateway, &bearer("x")), Some(401), "a wrong key is not replaced by the certificate");
    for names in [
        vec![uri("spiffe://example.org/other")],
        vec![],
        vec![uri(GATEWAY), uri("spiffe://example.org/b")],
        vec![uri("jobs.example.org")],
    ] {
        assert_eq!(status(&client(&authority, &names), ""), Some(401), "{names:?}");
    }
    assert_eq!(status(&client(&stranger, &[uri(GATEWAY)]), ""), None, "another authority");
    assert_eq!(status(&authority.client(&identity, &[uri(GATEWAY)], 2021), ""), None, "it expired");

    // The file of authorities changes while a connection is open.
    let mut open = Session::open(&server, &gateway);
    assert_eq!(open.status(""), Some(200));
    let next = ca.with_extension("next");
    std::fs::write(&next, stranger.certificate.pem()).expect("written");
    std::fs::rename(&next, &ca).expect("renamed");
    assert!(within(Duration::from_secs(60), || open.status("") == Some(401)), "its authority is gone");
    assert_eq!(status(&client(&stranger, &[uri(GATEWAY)]), ""), Some(200));
    std::fs::write(&ca, "no certificate").expect("written");
    let kept = || server.written().contains("the changed files of TLS cannot be used");
    assert!(within(Duration::from_secs(60), kept));
    assert_eq!(status(&client(&stranger, &[uri(GATEWAY)]), ""), Some(200));
    drop(files);
}

#[test]
fn client_certificates_need_tls() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = dir.path().join("config.toml");
    let text = "[[issuer]]\nname = \"mesh\"\nclient-ca = \"ca.pem\"\n[[issuer.rule]]\nmatch = { sub = \"a\" }\nuser = \"ann\"\nscopes = [\"secrets/read\"]\n";
    std::fs::write(&config, text).expect("written");
    let data = dir.path().join("data");
    let output = run(&["serve", "--config", config.to_str().unwrap(), "--data-dir", data.to_str().unwrap()]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && text.contains("an issuer has client-ca, but the server has no TLS"),
        "{text}"
    );
}
