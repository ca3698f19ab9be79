//! Routes to the server: a proxy, certificates of the environment, a Unix socket, and clear text.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixListener};

use crate::fake::Fake;
use crate::{command, refused, run, text};

/// The network before the [`Fake`]: a Unix socket, TLS for `secrets.corp.example`, and an HTTP proxy that forwards there.
struct Front {
    folder: tempfile::TempDir,
    proxy: String,
    /// The heads of the requests to the proxy.
    heads: Arc<Mutex<Vec<String>>>,
}

impl Front {
    /// Serves until the process ends.
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let fake = Fake::start().trim_start_matches("http://").to_owned();
        let (socket, tls) = (folder.path().join("s.sock"), tls(folder.path()));
        let heads = Arc::new(Mutex::new(Vec::new()));
        let (send, receive) = std::sync::mpsc::channel();
        let seen = Arc::clone(&heads);
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
            runtime.block_on(async {
                let unix = UnixListener::bind(socket).expect("bind");
                let proxy = TcpListener::bind("127.0.0.1:0").await.expect("bind");
                send.send(proxy.local_addr().expect("address").to_string()).expect("a receiver");
                loop {
                    tokio::select! {
                        Ok((stream, _)) = unix.accept() => drop(tokio::spawn(forward(stream, fake.clone()))),
                        Ok((stream, _)) = proxy.accept() => {
                            drop(tokio::spawn(tunnel(stream, tls.clone(), fake.clone(), Arc::clone(&seen))));
                        }
                    }
                }
            });
        });
        Self { folder, proxy: receive.recv().expect("an address"), heads }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn heads(&self) -> usize {
        self.heads.lock().expect("not poisoned").len()
    }
}

/// TLS of `secrets.corp.example`; its certificate is `cert.pem` in the folder.
fn tls(folder: &Path) -> tokio_rustls::TlsAcceptor {
    let made = rcgen::generate_simple_self_signed(["secrets.corp.example".to_owned()]).expect("made");
    std::fs::write(folder.join("cert.pem"), made.cert.pem()).expect("written");
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("protocol versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .expect("a usable certificate");
    Arc::new(config).into()
}

async fn forward(mut client: impl AsyncRead + AsyncWrite + Unpin, fake: String) {
    let mut server = TcpStream::connect(fake).await.expect("the fake");
    // Either side may close first.
    let _ = copy_bidirectional(&mut client, &mut server).await;
}

async fn tunnel(
    mut client: TcpStream,
    tls: tokio_rustls::TlsAcceptor,
    fake: String,
    heads: Arc<Mutex<Vec<String>>>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.expect("a head"));
    }
    heads.lock().expect("not poisoned").push(text(&head));
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.expect("written");
    if let Ok(stream) = tls.accept(client).await {
        forward(stream, fake).await;
    }
}

const URL: &str = "https://secrets.corp.example";
const LIST: [&str; 3] = ["api", "secret", "list"];

#[test]
fn calls_go_through_the_proxy_and_trust_the_certificates_of_the_environment() {
    let front = Front::start();
    let mut through = command(URL, &LIST);
    through.env("HTTPS_PROXY", format!("http://user:pass@{}", front.proxy));
    let untrusted = run(&mut through, "");
    assert_eq!(untrusted.status.code(), Some(3), "{}", text(&untrusted.stderr));
    assert!(text(&untrusted.stderr).contains("certificate"), "{}", text(&untrusted.stderr));

    for name in ["SSL_CERT_FILE", "AGENTROUTER_CA_FILE"] {
        let mut through = command(URL, &LIST);
        through.env("HTTPS_PROXY", format!("http://user:pass@{}", front.proxy));
        let output = run(through.env(name, front.path("cert.pem")), "");
        assert_eq!(text(&output.stdout), "no secrets\n", "{name}: {}", text(&output.stderr));
    }
    let head = front.heads.lock().expect("not poisoned")[0].clone();
    assert!(head.starts_with("CONNECT secrets.corp.example:443 HTTP/1.1\r\n"), "{head}");
    assert!(head.to_ascii_lowercase().contains("proxy-authorization: basic dxnlcjpwyxnz\r\n"), "{head}");

    let before = front.heads();
    let mut direct = command(URL, &[&LIST[..], &["--timeout", "2s"]].concat());
    direct.env("HTTPS_PROXY", format!("http://{}", front.proxy)).env("NO_PROXY", "corp.example");
    assert_eq!(run(&mut direct, "").status.code(), Some(3));
    assert_eq!(front.heads(), before, "NO_PROXY names the server");
}

#[test]
fn the_error_for_a_proxy_that_is_down_or_malformed_names_it() {
    let mut down = command(URL, &LIST);
    let output = run(down.env("HTTPS_PROXY", "http://127.0.0.1:1"), "");
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(stderr.contains("the proxy of the environment") && stderr.contains("NO_PROXY"), "{stderr}");
    let mut wrong = command(URL, &LIST);
    let output = run(wrong.env("HTTPS_PROXY", "socks5://127.0.0.1:1"), "");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("HTTPS_PROXY must be"), "{}", text(&output.stderr));
}

#[test]
fn a_path_of_certificates_that_does_not_exist_is_an_error_and_an_empty_one_is_unset() {
    let mut wrong = command(URL, &LIST);
    let output = run(wrong.env("SSL_CERT_FILE", "/nowhere/ca.pem"), "");
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("/nowhere/ca.pem"), "{}", text(&output.stderr));
    // The system's certificates are read, and the connection fails.
    let mut empty = command("https://127.0.0.1:1", &LIST);
    let output = run(empty.env("SSL_CERT_FILE", "").env("HTTPS_PROXY", ""), "");
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
}

#[test]
fn calls_go_to_a_unix_socket() {
    let front = Front::start();
    let url = format!("unix:{}", front.path("s.sock").display());
    let output = run(&mut command(&url, &LIST), "");
    assert_eq!(text(&output.stdout), "no secrets\n", "{}", text(&output.stderr));
    assert!(refused(&format!("{url}x"), &LIST, 3).contains("No such file"));
    refused(&url, &[&LIST[..], &["--ca-file", "ca.pem"]].concat(), 2);
}

#[test]
fn a_variable_allows_clear_text_to_another_host() {
    let url = "http://192.0.2.1";
    let stderr = refused(url, &LIST, 2);
    assert!(stderr.contains("AGENTROUTER_ALLOW_HTTP=1"), "{stderr}");
    let mut wrong = command(url, &LIST);
    assert_eq!(run(wrong.env("AGENTROUTER_ALLOW_HTTP", "perhaps"), "").status.code(), Some(2));
    // A proxy that is down, so that nothing leaves this computer.
    let mut allowed = command(url, &LIST);
    allowed.env("AGENTROUTER_ALLOW_HTTP", "1").env("HTTP_PROXY", "http://127.0.0.1:1");
    assert_eq!(run(&mut allowed, "").status.code(), Some(3));
}
