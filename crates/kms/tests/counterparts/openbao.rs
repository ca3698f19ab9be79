//! A real OpenBao with TLS, driven by its own command.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use agentrouter_kms_api::client::Wrapped;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::canned;
use crate::page::{commands, installed, run};
use crate::plugin::{LONG, Running, SECRET, is_denied, is_outage};
use crate::server;

/// The text of a denial.
const DENIED: &str = "Vault refused the token, or its policy does not allow this";

/// A server in memory.
pub(crate) struct OpenBao {
    child: Child,
    pub(crate) unseal_key: String,
    address: String,
    folder: TempDir,
}

impl OpenBao {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
        let tls = folder.path().join("tls");
        std::fs::create_dir(&tls).expect("made");
        let mut child = Command::new(installed("AGENTROUTER_TEST_BAO"))
            .args(["server", "-dev", "-dev-tls", "-dev-no-store-token", "-dev-root-token-id=root"])
            .arg(format!("-dev-tls-cert-dir={}", tls.display()))
            .arg(format!("-dev-listen-address=127.0.0.1:{port}"))
            .env("HOME", folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("OpenBao starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut unseal_key = None;
        while let Some(Ok(line)) = lines.next() {
            unseal_key = line.strip_prefix("Unseal Key: ").map(str::to_owned).or(unseal_key);
            if line.starts_with("Root Token: ") {
                break;
            }
        }
        // Read on, so that the pipe does not fill.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Self {
            child,
            unseal_key: unseal_key.expect("the server printed its unseal key"),
            address: format!("https://127.0.0.1:{port}"),
            folder,
        }
    }

    /// A server on which the page's commands were run.
    pub(crate) fn set_up() -> (Self, String) {
        let bao = Self::start();
        for command in &commands("vault-transit")[..3] {
            bao.run(command);
        }
        let token = std::fs::read_to_string(bao.folder.path().join("vault-token")).expect("a token");
        (bao, token.trim().to_owned())
    }

    /// Runs commands with the root token.
    pub(crate) fn run(&self, text: &str) -> String {
        let bao = installed("AGENTROUTER_TEST_BAO");
        let mut path = OsString::from(bao.parent().expect("a folder"));
        path.push(":");
        path.push(std::env::var_os("PATH").expect("a PATH"));
        let anchors = self.anchors();
        let environment: [(&str, &OsStr); 5] = [
            ("PATH", &path),
            ("HOME", self.folder.path().as_os_str()),
            ("VAULT_ADDR", self.address.as_ref()),
            ("VAULT_CACERT", anchors.as_ref()),
            ("VAULT_TOKEN", "root".as_ref()),
        ];
        run(text, self.folder.path(), &environment)
    }

    fn anchors(&self) -> String {
        self.folder.path().join("tls/vault-ca.pem").display().to_string()
    }

    pub(crate) fn plugin(&self, key: &str, token: &str) -> Running {
        let anchors = self.anchors();
        Running::start(
            "vault-transit",
            key,
            &[
                ("VAULT_ADDR", self.address.as_ref()),
                ("VAULT_CACERT", anchors.as_ref()),
                ("VAULT_TOKEN", token.as_ref()),
            ],
        )
    }
}

impl Drop for OpenBao {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn keys_are_wrapped_with_the_permissions_of_the_page_and_survive_a_rotation() {
    let (bao, token) = OpenBao::set_up();
    let plugin = bao.plugin("agentrouter", &token);
    assert_eq!(plugin.key_id().await, "transit/agentrouter:v1");
    let first = plugin.encrypt().await;
    plugin.decrypt(&first).await;
    plugin.refuses_changes(&first).await;

    let [rotate] = &commands("vault-transit")[3..] else { panic!("the page has one more command") };
    bao.run(rotate);
    let second = plugin.encrypt().await;
    assert_eq!(second.key_id, "transit/agentrouter:v2");
    plugin.decrypt(&second).await;
    plugin.decrypt(&first).await;

    // What the same key has encrypted for another purpose is no KEK.
    let other = bao.run("bao write -field=ciphertext transit/encrypt/agentrouter plaintext=aGk=");
    let other = Wrapped { ciphertext: other.into_bytes(), ..first.clone() };
    plugin.decrypt_fails(&other, "the root key did not make this ciphertext").await;

    let log = plugin.end().await;
    for secret in [token.as_str(), std::str::from_utf8(SECRET).expect("text"), "YSBrZXkg"] {
        assert!(!log.contains(secret), "{log}");
    }
}

#[tokio::test]
async fn a_denial_is_told_from_a_key_that_cannot_be_used() {
    let (bao, token) = OpenBao::set_up();
    let plugin = bao.plugin("transit/agentrouter", &token);
    let wrapped = plugin.encrypt().await;

    bao.run("bao write transit/keys/agentrouter/config deletion_allowed=true min_decryption_version=1");
    bao.run("bao write -f transit/keys/agentrouter/rotate");
    bao.run("bao write transit/keys/agentrouter/config min_decryption_version=2");
    is_denied(plugin.api.decrypt(&wrapped, "uid").await, "min_decryption_version");
    bao.run("bao write transit/keys/agentrouter/config min_decryption_version=1");
    plugin.decrypt(&wrapped).await;

    bao.run("bao policy write agentrouter-kek - <<<'path \"transit/keys/agentrouter\" { capabilities = [\"read\"] }'");
    plugin.key_id().await;
    is_denied(plugin.api.encrypt(SECRET, "uid").await, DENIED);
    is_denied(plugin.api.decrypt(&wrapped, "uid").await, DENIED);
    bao.run(&commands("vault-transit")[1]);
    plugin.decrypt(&wrapped).await;

    bao.run("bao delete transit/keys/agentrouter");
    is_denied(plugin.api.status().await, "no such key");
    is_denied(plugin.api.encrypt(SECRET, "uid").await, "no such key");
    is_denied(plugin.api.decrypt(&wrapped, "uid").await, "no such key");

    bao.run("bao write -f transit/keys/agentrouter type=ed25519");
    is_denied(plugin.api.status().await, "aes256-gcm96");

    bao.run("bao token revoke \"$(cat vault-token)\"");
    is_denied(plugin.api.status().await, DENIED);
    is_denied(plugin.api.encrypt(SECRET, "uid").await, DENIED);
}

#[tokio::test]
async fn an_outage_is_no_denial_and_ends() {
    let (mut bao, token) = OpenBao::set_up();
    let plugin = bao.plugin("agentrouter", &token);
    let wrapped = plugin.encrypt().await;

    bao.run("bao operator seal");
    is_outage(plugin.api.status().await);
    is_outage(plugin.api.decrypt(&wrapped, "uid").await);
    bao.run(&format!("bao operator unseal {}", bao.unseal_key));
    assert_eq!(plugin.recovers().await, "transit/agentrouter:v1");
    plugin.decrypt(&wrapped).await;

    bao.child.kill().expect("killed");
    bao.child.wait().expect("ended");
    is_outage(plugin.api.decrypt(&wrapped, "uid").await);
    is_outage(plugin.api.status().await);
}

#[tokio::test]
async fn a_server_that_the_system_does_not_trust_gets_no_token() {
    let (bao, token) = OpenBao::set_up();
    let environment: [(&str, &OsStr); 2] =
        [("VAULT_ADDR", bao.address.as_ref()), ("VAULT_TOKEN", token.as_ref())];
    let plugin = Running::start("vault-transit", "agentrouter", &environment);
    is_outage(plugin.api.status().await);
}

#[tokio::test]
async fn the_token_is_renewed() {
    let (bao, _) = OpenBao::set_up();
    let token = bao.run("bao token create -policy=agentrouter-kek -period=8s -orphan -field=token");
    let plugin = bao.plugin("agentrouter", &token);
    let start = Instant::now();
    while bao.run(&format!("bao token lookup -format=json {token}")).find("\"last_renewal\"").is_none() {
        assert!(start.elapsed() < LONG, "the token was not renewed");
    }
    plugin.key_id().await;
}

#[tokio::test]
async fn a_token_file_may_be_written_later() {
    let (bao, token) = OpenBao::set_up();
    let anchors = bao.anchors();
    let environment: [(&str, &OsStr); 3] = [
        ("VAULT_ADDR", bao.address.as_ref()),
        ("VAULT_CACERT", anchors.as_ref()),
        ("HOME", bao.folder.path().as_os_str()),
    ];
    let plugin = Running::start("vault-transit", "agentrouter", &environment);
    is_outage(plugin.api.status().await);
    std::fs::write(Path::new(bao.folder.path()).join(".vault-token"), token).expect("written");
    assert_eq!(plugin.recovers().await, "transit/agentrouter:v1");
}

#[tokio::test]
async fn a_server_that_hangs_or_talks_nonsense_is_an_outage() {
    // Status gets nonsense, everything else no response.
    let address =
        canned::serve(|request| request.starts_with("GET /v1/transit/keys").then(|| (200, "[]".to_owned())));
    let environment: [(&str, &OsStr); 2] = [("VAULT_ADDR", address.as_ref()), ("VAULT_TOKEN", "t".as_ref())];
    let plugin = Running::start("vault-transit", "agentrouter", &environment);
    is_outage(plugin.api.status().await);
    is_outage(plugin.api.encrypt(SECRET, "uid").await);
}

#[tokio::test]
async fn a_server_runs_the_plugin_with_its_token() {
    let (bao, token) = OpenBao::set_up();
    let anchors = bao.anchors();
    let environment: [(&str, &OsStr); 3] = [
        ("VAULT_ADDR", bao.address.as_ref()),
        ("VAULT_CACERT", anchors.as_ref()),
        ("HOME", bao.folder.path().as_os_str()),
    ];
    let file = bao.folder.path().join(".vault-token");
    std::fs::write(&file, &token).expect("written");
    let server = server::keeps_its_keks("vault-transit", "agentrouter", None, &environment);
    server::runs_its_plugin(&server, &token);

    bao.run("bao token revoke \"$(cat vault-token)\"");
    server::until("the server drops its KEKs", || !server.reads());
    assert!(!server.is_ready());
    bao.run(&commands("vault-transit")[2]);
    std::fs::copy(bao.folder.path().join("vault-token"), &file).expect("copied");
    server::until("the server has its KEKs again", || server.reads() && server.is_ready());
}
