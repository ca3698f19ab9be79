//! Tests of the connections: broken paths, reuse, Unix sockets, hooks.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentrouter_sdk::secret::v1::*;
use agentrouter_sdk::{Client, ClientBuilder, Error};
use buffa::Message;
use futures_util::TryStreamExt;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

const KEY: &str = "0123456789abcdef_0000000000000000000000000000000000000000000000000";

/// What a server saw: its connections, and the heads of its requests.
#[derive(Clone, Default)]
struct Seen {
    connections: Arc<AtomicUsize>,
    heads: Arc<Mutex<Vec<http::request::Parts>>>,
}

impl Seen {
    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    fn heads(&self) -> Vec<http::request::Parts> {
        self.heads.lock().expect("not poisoned").clone()
    }

    /// Serves one connection: every request gets a secret with the name `n`.
    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        self.connections.fetch_add(1, Ordering::SeqCst);
        let service = service_fn(move |request: Request<Incoming>| {
            self.heads.lock().expect("not poisoned").push(request.into_parts().0);
            let secret = Secret { name: "n".into(), ..Default::default() };
            let body = GetSecretResponse { secret: Some(secret).into() }.encode_to_vec();
            let response = Response::builder().header("content-type", "application/proto");
            async { response.body(Full::new(Bytes::from(body))) }
        });
        let builder = auto::Builder::new(TokioExecutor::new());
        // Clients that gave up.
        let _ = builder.serve_connection(TokioIo::new(stream), service).await;
    }
}

/// A server of HTTP/2 and HTTP/1.1 over TLS on a port of its own, and the file of its certificate.
async fn start_tls() -> (u16, tempfile::NamedTempFile, Seen) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let file = tempfile::NamedTempFile::new().expect("temporary file");
    std::fs::write(file.path(), made.cert.pem()).expect("write");
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let mut config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("protocol versions")
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.into())
            .expect("a usable certificate");
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let port = listener.local_addr().expect("address").port();
    let seen = Seen::default();
    let server = seen.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, server) = (acceptor.clone(), server.clone());
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    server.serve(stream).await;
                }
            });
        }
    });
    (port, file, seen)
}

/// Forwards connections to a port. Those that exist when `silence` changes forward nothing from then on, and stay open.
async fn relay(target: u16) -> (u16, watch::Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let port = listener.local_addr().expect("address").port();
    let (silence, _) = watch::channel(());
    let sender = silence.clone();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut silenced = sender.subscribe();
            tokio::spawn(async move {
                let mut server = TcpStream::connect(("127.0.0.1", target)).await?;
                let changed = tokio::select! {
                    _ = copy_bidirectional(&mut client, &mut server) => false,
                    _ = silenced.changed() => true,
                };
                if changed {
                    std::future::pending::<()>().await;
                }
                io::Result::Ok(())
            });
        }
    });
    (port, silence)
}

fn client(url: &str, certificates: &Path) -> ClientBuilder {
    Client::builder().base_url(url).api_key(KEY).ca_file(certificates)
}

async fn get(client: &Client) -> Result<String, Error> {
    let request = GetSecretRequest { name: "n".into(), ..Default::default() };
    Ok(client.secret().get_secret(request).await?.secret.name.clone())
}

#[tokio::test]
async fn pings_detect_a_broken_http2_path_before_the_call_times_out() {
    let (port, certificates, seen) = start_tls().await;
    let (relay, silence) = relay(port).await;
    let client = client(&format!("https://localhost:{relay}"), certificates.path());
    let client = client.timeout(Duration::from_secs(20)).build().expect("valid settings");
    for _ in 0..2 {
        assert_eq!(get(&client).await.expect("a response"), "n");
    }
    assert_eq!(seen.connections(), 1);
    assert_eq!(seen.heads()[0].version, http::Version::HTTP_2);
    silence.send_replace(());
    for _ in 0..8 {
        assert_eq!(get(&client).await.expect("a response over another connection"), "n");
    }
    assert_eq!(seen.connections(), 2);
}

#[tokio::test]
async fn a_broken_path_fails_no_call_after_one_that_timed_out() {
    let (port, certificates, seen) = start_tls().await;
    let (relay, silence) = relay(port).await;
    let client = client(&format!("https://localhost:{relay}"), certificates.path());
    // Shorter than a ping.
    let client = client.timeout(Duration::from_millis(1700)).build().expect("valid settings");
    assert_eq!(get(&client).await.expect("a response"), "n");
    silence.send_replace(());
    assert!(matches!(get(&client).await, Err(Error::Timeout { .. })));
    for _ in 0..8 {
        assert_eq!(get(&client).await.expect("a response over another connection"), "n");
    }
    assert_eq!(seen.connections(), 2);
}

#[tokio::test]
async fn calls_go_to_a_unix_socket_over_one_connection() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("s.sock");
    let listener = UnixListener::bind(&path).expect("bind");
    let seen = Seen::default();
    let server = seen.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(server.clone().serve(stream));
        }
    });
    let url = format!("unix:{}", path.display());
    let client = Client::builder().base_url(&url).api_key(KEY).build().expect("valid settings");
    for _ in 0..3 {
        assert_eq!(get(&client).await.expect("a response"), "n");
    }
    assert_eq!((seen.connections(), seen.heads().len()), (1, 3));
    assert_eq!(seen.heads()[0].headers["host"], "localhost");

    let absent = Client::builder().base_url(format!("{url}x")).api_key(KEY).retries(0).build();
    let error = get(&absent.expect("valid settings")).await.expect_err("nothing there");
    assert!(error.to_string().contains("No such file"), "{error}");
}

#[tokio::test]
async fn a_hook_adds_headers_to_each_request() {
    let (port, certificates, seen) = start_tls().await;
    let trace = "00-00000000000000000000000000000007-0000000000000009-01";
    let client = client(&format!("https://localhost:{port}"), certificates.path());
    let client = client.before_request(move |headers| {
        headers.insert("traceparent", http::HeaderValue::from_static(trace));
    });
    get(&client.build().expect("valid settings")).await.expect("a response");
    assert_eq!(seen.heads()[0].headers["traceparent"], trace);
}

#[tokio::test]
async fn a_list_is_a_stream() {
    let service = agentrouter_sdk::testing::FakeService::new();
    for name in ["a", "b", "c"] {
        service.put(name, "mcp", "v");
    }
    let client = service.client().build().expect("valid settings");
    let request = ListSecretsRequest { realm: "mcp".into(), page_size: 2, ..Default::default() };
    let names = client.secret().list_all(request).map_ok(|secret| secret.name);
    assert_eq!(names.try_collect::<Vec<_>>().await.expect("a list"), ["a", "b", "c"]);
    assert_eq!(service.calls(), ["ListSecrets", "ListSecrets"]);
}

#[tokio::test]
async fn each_attempt_is_an_event_without_request_content() {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let writer = Arc::clone(&lines);
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_ansi(false)
        .with_writer(move || Lines(Arc::clone(&writer)))
        .finish();
    let _current = tracing::subscriber::set_default(subscriber);
    let service = agentrouter_sdk::testing::FakeService::new();
    service.fail(agentrouter_sdk::Code::Unavailable, "OVERLOADED");
    let client = service.client().build().expect("valid settings");
    let request = CreateSecretRequest {
        name: "name-canary".into(),
        value: "value-canary".into(),
        expected_version: Some(0),
        ..Default::default()
    };
    client.secret().create_secret(request).await.expect("created");
    let text = String::from_utf8(lines.lock().expect("not poisoned").clone()).expect("UTF-8");
    let own: Vec<_> = text.lines().filter(|line| line.contains("agentrouter_sdk:")).collect();
    assert_eq!(own.len(), 2, "{text}");
    assert!(
        own[0].contains("call=\"CreateSecret\" attempt=1") && own[0].contains("[request fake]"),
        "{text}"
    );
    assert!(own[1].contains("attempt=2") && own[1].contains("call succeeded"), "{text}");
    assert!(!text.contains("canary"), "{text}");
}

/// A shared buffer as a writer.
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("not poisoned").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
