//! Tests of the client against a scripted server: its requests, its retries, its errors.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentrouter_sdk::secret::v1::*;
use agentrouter_sdk::{Cause, Client, Code, Error};
use buffa::Message;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::Instant;

const KEY: &str = "0123456789abcdef_0000000000000000000000000000000000000000000000000";

/// Responds to each request with the next line of its script, and repeats the last one.
struct Scripted {
    url: String,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Scripted {
    async fn start(script: Vec<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let url = format!("http://{}", listener.local_addr().expect("address"));
        let heads = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&heads);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let turn = seen.lock().expect("not poisoned").len().min(script.len() - 1);
                respond(stream, &script[turn], &seen).await;
            }
        });
        Self { url, heads }
    }

    fn client(&self) -> Client {
        Client::builder().base_url(&self.url).api_key(KEY).build().expect("valid settings")
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().expect("not poisoned").clone()
    }
}

/// Reads one request, records its head and writes `response`.
async fn respond(mut stream: impl AsyncRead + AsyncWrite + Unpin, response: &str, seen: &Mutex<Vec<String>>) {
    let mut request = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&request).to_ascii_lowercase();
        if let Some((head, _)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.and_then(|length| length.parse().ok()).unwrap_or(0);
            if request.len() >= head.len() + 4 + length {
                seen.lock().expect("not poisoned").push(head.to_owned());
                break;
            }
        }
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => return,
            Ok(n) => request.extend_from_slice(&chunk[..n]),
        }
    }
    let _ = stream.write_all(response.as_bytes()).await;
    let _ = stream.shutdown().await;
}

fn http(status: &str, content_type: &str, extra: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\nconnection: close\r\n{extra}\r\n{body}",
        body.len()
    )
}

fn refusal(status: &str, code: &str, reason: &str, extra: &str) -> String {
    // A google.rpc.ErrorInfo whose one field is the reason.
    let detail = [&[0x0a, u8::try_from(reason.len()).expect("short")], reason.as_bytes()].concat();
    let detail = base64(&detail);
    let body = format!(
        "{{\"code\":\"{code}\",\"message\":\"No.\",\"details\":[{{\"type\":\"google.rpc.ErrorInfo\",\"value\":\"{detail}\"}}]}}"
    );
    http(status, "application/json", extra, &body)
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD_NO_PAD.encode(bytes)
}

fn ok(message: &impl Message) -> String {
    let body = String::from_utf8(message.encode_to_vec()).expect("these test messages are UTF-8");
    http("200 OK", "application/proto", "", &body)
}

fn found(name: &str) -> String {
    let secret = Secret { name: name.into(), version: 3, ..Default::default() };
    ok(&GetSecretResponse { secret: Some(secret).into() })
}

fn get() -> GetSecretRequest {
    GetSecretRequest { name: "n".into(), ..Default::default() }
}

#[tokio::test]
async fn a_call_sends_the_key_and_returns_the_response() {
    let server = Scripted::start(vec![found("n")]).await;
    let client = server.client();
    // On another task: the calls' futures can be sent there.
    let task = tokio::spawn(async move { client.secret().get_secret(get()).await });
    let response = task.await.expect("no panic").expect("a response");
    assert_eq!((response.secret.name.as_str(), response.secret.version), ("n", 3));
    let head = &server.heads()[0];
    assert!(head.starts_with("post /agentrouter.secret.v1.secretservice/getsecret "), "{head}");
    assert!(head.contains(&format!("authorization: bearer ak-{KEY}")), "{head}");
    assert!(head.contains("user-agent: agentrouter-sdk-rust/"), "{head}");
}

#[tokio::test]
async fn a_read_is_tried_again_while_the_server_is_unavailable() {
    let busy = refusal("503 Service Unavailable", "unavailable", "OVERLOADED", "");
    let server = Scripted::start(vec![busy.clone(), busy, found("n")]).await;
    assert!(server.client().secret().get_secret(get()).await.is_ok());
    assert_eq!(server.heads().len(), 3);
}

#[tokio::test]
async fn retries_end_with_the_last_refusal() {
    let busy = refusal("503 Service Unavailable", "unavailable", "OVERLOADED", "x-request-id: r-9\r\n");
    let server = Scripted::start(vec![busy]).await;
    let error = server.client().secret().get_secret(get()).await.expect_err("refused");
    assert_eq!((error.code(), error.reason()), (Some(Code::Unavailable), Some("OVERLOADED")));
    assert_eq!(error.refusal().and_then(|refusal| refusal.request_id.as_deref()), Some("r-9"));
    assert_eq!(server.heads().len(), 3);
}

#[tokio::test]
async fn a_write_is_tried_again_only_if_it_names_the_version_it_expects() {
    let busy = || refusal("503 Service Unavailable", "unavailable", "OVERLOADED", "");
    let request = CreateSecretRequest { name: "n".into(), value: "v".into(), ..Default::default() };

    let server = Scripted::start(vec![busy()]).await;
    assert!(server.client().secret().create_secret(request.clone()).await.is_err());
    assert_eq!(server.heads().len(), 1);

    let server = Scripted::start(vec![busy(), ok(&CreateSecretResponse::default())]).await;
    let conditional = CreateSecretRequest { expected_version: Some(0), ..request };
    assert!(server.client().secret().create_secret(conditional).await.is_ok());
    assert_eq!(server.heads().len(), 2);

    let server = Scripted::start(vec![busy()]).await;
    let delete = DeleteSecretRequest { name: "n".into(), ..Default::default() };
    assert!(server.client().secret().delete_secret(delete).await.is_err());
    assert_eq!(server.heads().len(), 1);
}

#[tokio::test]
async fn a_retry_waits_for_retry_after_or_fails_at_once_beyond_the_timeout() {
    let limited = |seconds: u32| {
        refusal(
            "429 Too Many Requests",
            "resource_exhausted",
            "RATE_LIMITED",
            &format!("retry-after: {seconds}\r\n"),
        )
    };
    let server = Scripted::start(vec![limited(1), found("n")]).await;
    let start = Instant::now();
    assert!(server.client().secret().get_secret(get()).await.is_ok());
    assert!(start.elapsed() >= Duration::from_secs(1));

    let server = Scripted::start(vec![limited(60)]).await;
    let start = Instant::now();
    let error = server.client().secret().get_secret(get()).await.expect_err("limited");
    assert!(start.elapsed() < Duration::from_secs(9));
    assert_eq!(error.refusal().and_then(|refusal| refusal.retry_after), Some(Duration::from_secs(60)));
    assert_eq!(server.heads().len(), 1);
}

#[tokio::test]
async fn a_server_that_sends_nothing_times_out() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let url = format!("http://{}", listener.local_addr().expect("address"));
    let client = Client::builder().base_url(url).api_key(KEY).timeout(Duration::from_millis(300));
    let client = client.build().expect("valid settings");
    let start = Instant::now();
    let error = client.secret().get_secret(get()).await.expect_err("silence");
    assert!(error.is_transport() && matches!(error, Error::Timeout { .. }), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(9));
}

#[tokio::test]
async fn a_server_that_is_not_running_has_its_own_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let url = format!("http://{}", listener.local_addr().expect("address"));
    drop(listener);
    let client = Client::builder().base_url(url).api_key(KEY).build().expect("valid settings");
    let error = client.secret().get_secret(get()).await.expect_err("no server there");
    assert!(error.is_transport());
    assert!(error.to_string().contains("Connection refused"), "{error}");
    assert!(!format!("{error:?}").contains(KEY));
}

#[tokio::test]
async fn a_walk_over_a_list_follows_the_tokens_to_the_end() {
    let page = |names: &[&str], token: &str| {
        let secrets = names.iter().map(|name| Secret { name: (*name).into(), ..Default::default() });
        ok(&ListSecretsResponse { secrets: secrets.collect(), next_page_token: token.into() })
    };
    let server = Scripted::start(vec![page(&["a", "b"], "t1"), page(&[], "t2"), page(&["c"], "")]).await;
    let all =
        server.client().secret().list_all(ListSecretsRequest::default()).collect().await.expect("a walk");
    assert_eq!(all.iter().map(|secret| secret.name.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(server.heads().len(), 3);
}

#[tokio::test]
async fn something_else_on_the_port_is_not_taken_for_the_service() {
    for body in [
        http("404 Not Found", "text/html", "", "<html>nginx</html>"),
        http("200 OK", "text/html", "", "<html>hello</html>"),
        "SSH-2.0-OpenSSH_9.6\r\n".to_owned(),
    ] {
        let server = Scripted::start(vec![body]).await;
        let error = server.client().secret().get_secret(get()).await.expect_err("not the service");
        assert!(error.is_transport(), "{error:?}");
    }
}

/// Serves one response after another over TLS, with a self-signed certificate for `localhost`.
async fn start_tls(script: String) -> (String, tempfile::NamedTempFile) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    serve_tls(&made.cert, &made.signing_key, script).await
}

async fn serve_tls(
    certificate: &rcgen::Certificate,
    key: &rcgen::KeyPair,
    script: String,
) -> (String, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().expect("temporary file");
    std::fs::write(file.path(), certificate.pem()).expect("write");
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("protocol versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key.into())
        .expect("a usable certificate");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let url = format!("https://localhost:{}", listener.local_addr().expect("address").port());
    tokio::spawn(async move {
        let seen = Mutex::new(Vec::new());
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(stream) = acceptor.accept(stream).await {
                respond(stream, &script, &seen).await;
            }
        }
    });
    (url, file)
}

#[tokio::test]
async fn tls_trusts_the_named_certificates_and_no_unknown_one() {
    let (url, certificates) = start_tls(found("n")).await;
    let trusting = Client::builder().base_url(&url).api_key(KEY).ca_file(certificates.path());
    let response = trusting.build().expect("valid settings").secret().get_secret(get()).await;
    assert_eq!(response.expect("a response").secret.version, 3);

    let (_, others) = start_tls(found("n")).await;
    let wary = Client::builder().base_url(&url).api_key(KEY).ca_file(others.path()).build();
    let error = wary.expect("valid settings").secret().get_secret(get()).await.expect_err("not trusted");
    assert!(error.is_transport() && error.to_string().contains("certificate"), "{error}");
}

#[tokio::test]
async fn the_error_for_a_missing_response_has_its_cause() {
    let cause = async |url: &str, trusted: Option<&std::path::Path>| {
        let mut builder = Client::builder().base_url(url).api_key(KEY).retries(0);
        if let Some(file) = trusted {
            builder = builder.ca_file(file);
        }
        let client = builder.build().expect("valid settings");
        let error = client.secret().get_secret(get()).await.expect_err("no response");
        error.cause().unwrap_or_else(|| panic!("{error:?} has no cause"))
    };
    let (tls, certificates) = start_tls(found("n")).await;
    let (_, others) = start_tls(found("n")).await;
    assert_eq!(cause(&tls, Some(others.path())).await, Cause::CertificateUntrusted);
    let by_address = tls.replace("localhost", "127.0.0.1");
    assert_eq!(cause(&by_address, Some(certificates.path())).await, Cause::CertificateName);
    assert_eq!(cause(&tls.replace("https", "http"), None).await, Cause::NotHttp);

    let plain = Scripted::start(vec![http("400 Bad Request", "text/plain", "", "")]).await;
    assert_eq!(cause(&plain.url, None).await, Cause::OtherService);
    // A first line that is not a TLS record, as a server of plain HTTP sends it after a handshake.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let url = format!("https://{}", listener.local_addr().expect("address"));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    assert_eq!(cause(&url, Some(certificates.path())).await, Cause::NotTls);
    assert_eq!(cause("http://127.0.0.1:1", None).await, Cause::Connection);
}

#[tokio::test]
async fn a_certificate_authority_differs_from_an_untrusted_certificate() {
    let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).expect("a name");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().expect("a key");
    let (url, file) = serve_tls(&params.self_signed(&key).expect("a certificate"), &key, found("n")).await;
    let client = Client::builder().base_url(&url).api_key(KEY).ca_file(file.path()).build();
    let error = client.expect("valid settings").secret().get_secret(get()).await.expect_err("not taken");
    assert_eq!(error.cause(), Some(Cause::CertificateOfAuthority), "{error:?}");
}
