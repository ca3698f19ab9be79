//! Azure Key Vault: a local server that speaks its REST API and issues tokens.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::page::{installed, run};
use crate::plugin::{Running, SECRET, is_denied, is_outage};
use crate::server;

const KEY: &str = "https://kek.vault.azure.net/keys/kek";

struct Azure {
    child: Child,
    vault: String,
    identities: String,
    folder: TempDir,
}

impl Azure {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        run(
            "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out ca.pem -days 2 -subj /CN=127.0.0.1 \
             -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE 2> /dev/null",
            folder.path(),
            &[],
        );
        let mut child = Command::new(installed("AGENTROUTER_TEST_MOTO").with_file_name("python"))
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/counterparts/azure.py"))
            .args([folder.path().join("ca.pem"), folder.path().join("key.pem")])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("Python starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        let ports = line.trim().strip_prefix("serving ").and_then(|ports| ports.split_once(' '));
        let (vault, identities) = ports.expect("it serves");
        Self {
            child,
            vault: format!("https://127.0.0.1:{vault}"),
            identities: format!("http://127.0.0.1:{identities}"),
            folder,
        }
    }

    /// The plugin with a managed identity.
    fn on_a_machine(&self) -> Running {
        let endpoint = format!("{}/identity", self.identities);
        self.plugin(&[("IDENTITY_ENDPOINT", endpoint.as_ref()), ("IDENTITY_HEADER", "secret".as_ref())])
    }

    /// The plugin with a client secret.
    fn with_secret(&self, secret: &str) -> Running {
        self.plugin(&[
            ("AZURE_AUTHORITY_HOST", self.vault.as_ref()),
            ("AZURE_TENANT_ID", "tenant".as_ref()),
            ("AZURE_CLIENT_ID", "client".as_ref()),
            ("AZURE_CLIENT_SECRET", secret.as_ref()),
        ])
    }

    fn plugin(&self, environment: &[(&str, &OsStr)]) -> Running {
        let anchors = self.anchors();
        let environment = [environment, &[("SSL_CERT_FILE", anchors.as_os_str())]].concat();
        Running::start_at("azure-key-vault", KEY, Some(&self.vault), &environment)
    }

    fn anchors(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Changes the server's state. Returns it.
    fn admin(&self, change: &str) -> String {
        run(&format!("curl -sSf {}/admin -d '{change}'", self.identities), self.folder.path(), &[])
    }
}

impl Drop for Azure {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn keys_are_wrapped_with_a_managed_identity_and_survive_a_rotation() {
    let mut azure = Azure::start();
    let plugin = azure.on_a_machine();
    let first = plugin.encrypt().await;
    assert!(first.key_id.starts_with("https://kek.vault.azure.net/keys/kek/"), "{}", first.key_id);
    plugin.decrypt(&first).await;
    let mut changed = first.clone();
    changed.ciphertext[9] ^= 1;
    is_outage(plugin.api.decrypt(&changed, "uid").await);

    azure.admin("{\"rotate\": true}");
    let second = plugin.encrypt().await;
    assert_ne!(second.key_id, first.key_id);
    plugin.decrypt(&first).await;
    plugin.decrypt(&second).await;
    let state = azure.admin("{}");
    assert!(state.contains("\"secrets\":0") && !state.contains("\"identities\":0"), "{state}");

    let version = first.key_id.rsplit('/').next().expect("a version");
    azure.admin(&format!("{{\"enabled\": [\"{version}\", false]}}"));
    is_denied(plugin.api.decrypt(&first, "uid").await, "status 403");
    plugin.decrypt(&second).await;
    let version = second.key_id.rsplit('/').next().expect("a version");
    azure.admin(&format!("{{\"enabled\": [\"{version}\", false]}}"));
    is_denied(plugin.api.status().await, "the key is disabled");
    azure.admin(&format!("{{\"enabled\": [\"{version}\", true], \"kind\": \"EC\"}}"));
    is_denied(plugin.api.status().await, "must be an RSA key");
    azure.admin("{\"kind\": \"RSA\", \"deny\": true}");
    is_denied(plugin.api.status().await, "status 403");
    is_denied(plugin.api.encrypt(SECRET, "uid").await, "status 403");
    is_denied(plugin.api.decrypt(&second, "uid").await, "status 403");
    azure.admin("{\"deny\": false, \"fail\": 503}");
    is_outage(plugin.api.decrypt(&second, "uid").await);
    azure.admin("{\"fail\": null}");
    plugin.decrypt(&second).await;
    azure.child.kill().expect("killed");
    azure.child.wait().expect("ended");
    is_outage(plugin.api.decrypt(&second, "uid").await);
    let log = plugin.end().await;
    assert!(!log.contains("token-") && !log.contains("the message of the service"), "{log}");
}

#[tokio::test]
async fn keys_are_wrapped_with_a_client_secret() {
    let azure = Azure::start();
    let plugin = azure.with_secret("right");
    plugin.decrypt(&plugin.encrypt().await).await;
    let state = azure.admin("{}");
    assert!(state.contains("\"identities\":0") && !state.contains("\"secrets\":0"), "{state}");
    let plugin = azure.with_secret("wrong-secret");
    is_denied(plugin.api.status().await, "issues no token");
    assert!(!plugin.end().await.contains("wrong-secret"));
}

#[tokio::test]
async fn a_server_wraps_its_keks() {
    let azure = Azure::start();
    let (anchors, endpoint) = (azure.anchors(), format!("{}/identity", azure.identities));
    let identity: [(&str, &OsStr); 3] = [
        ("SSL_CERT_FILE", anchors.as_os_str()),
        ("IDENTITY_ENDPOINT", endpoint.as_ref()),
        ("IDENTITY_HEADER", "secret".as_ref()),
    ];
    let server = server::keeps_its_keks("azure-key-vault", KEY, Some(&azure.vault), &identity);
    azure.admin("{\"deny\": true}");
    server::until("the server drops its KEKs", || !server.reads());
    azure.admin("{\"deny\": false}");
    server::until("the server has its KEKs again", || server.reads() && server.is_ready());
}
