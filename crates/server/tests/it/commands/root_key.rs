//! A server whose KEKs a root key wraps, and the command that changes the root key.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use agentrouter_kms_api::server::serve;
use agentrouter_kms_api::wire::v2::{
    DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, KeyManagementService, StatusRequest,
    StatusResponse,
};
use agentrouter_testkit::ServerProcess;
use connectrpc::{ConnectError, RequestContext, Response, ServiceRequest, ServiceResult};
use tokio::net::UnixListener;
use tokio::sync::oneshot;

use super::run;
use crate::support::{Server, binary, within};

/// The longest wait for an event.
const LONG: Duration = Duration::from_secs(60);

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// A plugin that inverts the bits of a key, or denies the use of its key.
#[derive(Clone, Default)]
struct Plugin(Arc<AtomicBool>);

impl Plugin {
    fn allowed(&self) -> Result<(), ConnectError> {
        match self.0.load(Ordering::Relaxed) {
            true => Err(ConnectError::permission_denied("the key is disabled")),
            false => Ok(()),
        }
    }
}

#[allow(refining_impl_trait, reason = "the response types are internal to this test")]
impl KeyManagementService for Plugin {
    async fn status(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, StatusRequest>,
    ) -> ServiceResult<StatusResponse> {
        Response::ok(StatusResponse { version: "v2".into(), healthz: "ok".into(), key_id: "one".into() })
    }

    async fn encrypt(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, EncryptRequest>,
    ) -> ServiceResult<EncryptResponse> {
        self.allowed()?;
        let ciphertext = request.to_owned_message().plaintext.iter().map(|byte| !byte).collect();
        Response::ok(EncryptResponse { ciphertext, key_id: "one".into(), ..EncryptResponse::default() })
    }

    async fn decrypt(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, DecryptRequest>,
    ) -> ServiceResult<DecryptResponse> {
        self.allowed()?;
        let plaintext = request.to_owned_message().ciphertext.iter().map(|byte| !byte).collect();
        Response::ok(DecryptResponse { plaintext })
    }
}

/// A plugin on a thread of its own, until it is dropped.
struct Running {
    denies: Arc<AtomicBool>,
    socket: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Running {
    fn start(dir: &Path) -> Self {
        let (plugin, socket) = (Plugin::default(), dir.join("plugin.sock"));
        let (denies, path) = (Arc::clone(&plugin.0), socket.clone());
        let (stop, stopped) = oneshot::channel();
        let (bound, is_bound) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = UnixListener::bind(&path).expect("bound");
                bound.send(()).expect("awaited");
                serve(listener, plugin, async move { drop(stopped.await) }).await;
            });
        });
        is_bound.recv().expect("it is bound");
        Self { denies, socket, stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        let joined = self.thread.take().expect("once").join();
        assert!(joined.is_ok() || std::thread::panicking());
    }
}

const SECRET: &str = r#"{"name":"openai","realm":"mcp","value":"sk-1"}"#;
const PLACE: &str = r#"{"realm":"mcp"}"#;

fn read(server: &Server) -> String {
    let reply = server.call("POST", "/v1/secrets/openai/value", PLACE);
    if reply.status == 200 {
        reply.json()["value"].as_str().expect("a value").to_owned()
    } else {
        reply.reason()
    }
}

#[test]
fn keks_move_from_a_passphrase_to_a_plugin_and_into_the_clear_and_no_value_changes() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let passphrase = dir.path().join("passphrase");
    std::fs::write(&passphrase, "correct horse battery staple\n").expect("written");
    let plugin = Running::start(dir.path());
    let by_passphrase = ["--kek-provider", "passphrase", "--kek-passphrase-file", text(&passphrase)];
    let by_plugin = ["--kek-provider", "kms-plugin", "--kek-socket", text(&plugin.socket)];

    let server = Server::of(ServerProcess::start(binary(), &data, &by_passphrase));
    assert_eq!(server.call("POST", "/v1/secrets", SECRET).status, 200);

    // Beside the running server, which is not affected.
    let mut line = vec!["kek", "move", "--to", "kms-plugin", "--to-socket", text(&plugin.socket)];
    let refused = run(&data, &line).refused(1);
    assert!(refused.contains("wrapped by the provider 'passphrase'"), "{refused}");
    line.extend(by_passphrase);
    let ran = run(&data, &line);
    assert!(ran.err.contains("restart the server"), "{}", ran.err);
    assert_eq!(ran.done(), "1 KEK(s) are wrapped by the root key of 'kms-plugin'\n");
    assert_eq!(read(&server), "sk-1");
    assert!(server.process.stop().success());

    let refused =
        run(&data, &[&["serve", "--listen", "127.0.0.1:0"][..], &by_passphrase].concat()).refused(1);
    assert!(refused.contains("kek move --kek-provider kms-plugin --to passphrase"), "{refused}");
    // At once, although the plugin of the settings cannot be reached.
    let absent = dir.path().join("absent.sock");
    let line = ["serve", "--listen", "127.0.0.1:0", "--kek-start-time", "1h", "--kek-provider", "kms-plugin"];
    let bare = dir.path().join("bare.json");
    let (clock, rng) = (agentrouter_model::SystemClock, agentrouter_crypto::SystemRng);
    agentrouter_keyring::Keyring::create(&bare, &clock, &rng).expect("created");
    let more = ["--kek-socket", text(&absent), "--kek-file", text(&bare)];
    let refused = run(&data, &[&line[..], &more].concat()).refused(1);
    assert!(refused.contains("kek move --to kms-plugin"), "{refused}");

    let server = Server::of(ServerProcess::start(binary(), &data, &by_plugin));
    assert_eq!(read(&server), "sk-1");
    assert!(server.process.stop().success());

    // Without a server. The audit log has both moves.
    let line = [&["kek", "move", "--to", "file"][..], &by_plugin].concat();
    assert_eq!(run(&data, &line).done(), "1 KEK(s) are in clear\n");
    let again = run(&data, &["kek", "move", "--to", "file"]).refused(1);
    assert!(again.contains("in clear already"), "{again}");
    let server = Server::on(&data);
    assert_eq!(read(&server), "sk-1");
    run(&data, &["audit", "verify"]).done();
    let log = std::fs::read_to_string(data.join("audit/audit.jsonl")).expect("the audit log");
    let records: Vec<&str> = log.lines().filter(|line| line.contains(r#""rpc":"MoveKeks""#)).collect();
    let ended = |end: &str| records.iter().filter(|line| line.contains(end)).count();
    let (refused, done) = (r#""outcome":"FAILED_PRECONDITION""#, r#""outcome":"OK""#);
    assert_eq!((records.len(), ended(refused), ended(done)), (6, 1, 2), "each has an attempt and an outcome");
    assert_eq!(ended(r#""provider":"kms-plugin""#), 4, "the refused one and the first");
    assert_eq!(ended(r#""provider":"file""#), 2);
}

#[test]
fn a_denied_root_key_takes_the_values_until_it_is_allowed_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let plugin = Running::start(dir.path());
    let args =
        ["--kek-provider", "kms-plugin", "--kek-socket", text(&plugin.socket), "--kek-recheck", "100ms"];
    let server = Server::of(ServerProcess::start(binary(), &data, &args));
    assert_eq!(server.call("POST", "/v1/secrets", SECRET).status, 200);
    assert_eq!(read(&server), "sk-1");
    let ready = || server.send("GET", "/readyz", &[], b"");
    assert_eq!(ready().status, 200);

    plugin.denies.store(true, Ordering::Relaxed);
    assert!(within(LONG, || read(&server) == "KEK_UNAVAILABLE"));
    assert_eq!(server.call("POST", "/v1/secrets/openai/value", PLACE).status, 503);
    let response = ready();
    assert_eq!(response.status, 503);
    assert!(response.body.contains(r#""reason":"KEK_UNAVAILABLE""#), "{response:?}");
    assert_eq!(server.call("GET", "/v1/secrets/openai?realm=mcp", "").status, 200, "metadata needs no KEK");
    let metrics = server.send("GET", "/metrics", &[], b"").body;
    assert!(metrics.contains("\nagentrouter_secrets_keks_dropped 1\n"), "{metrics}");

    plugin.denies.store(false, Ordering::Relaxed);
    assert!(within(LONG, || read(&server) == "sk-1"));
    assert_eq!(ready().status, 200);
}
