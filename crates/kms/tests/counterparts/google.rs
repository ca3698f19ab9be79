//! Google Cloud KMS and Secret Manager: a local server that speaks their REST APIs, with real signatures of tokens.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use tokio::time::Instant;

use crate::page::{installed, run};
use crate::plugin::{LONG, Running, SECRET, is_denied, is_outage};
use crate::server;

const KEY: &str = "projects/p/locations/global/keyRings/r/cryptoKeys/kek";
const SECRET_NAME: &str = "projects/p/secrets/kek";
const EMAIL: &str = "kek@p.iam.gserviceaccount.com";

struct Google {
    child: Child,
    address: String,
    folder: TempDir,
}

impl Google {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        run(
            "openssl genpkey -quiet -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out key.pem
             openssl pkey -in key.pem -pubout -out public.pem",
            folder.path(),
            &[],
        );
        let mut child = Command::new(installed("AGENTROUTER_TEST_MOTO").with_file_name("python"))
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/counterparts/google.py"))
            .arg(folder.path().join("public.pem"))
            .arg(EMAIL)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("Python starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        let port = line.trim().strip_prefix("serving ").expect("it serves");
        Self { child, address: format!("http://127.0.0.1:{port}"), folder }
    }

    /// The plugin with the credentials of a service account's file.
    fn with_account(&self, provider: &str, key: &str) -> Running {
        let file = self.write_account(self.folder.path());
        self.plugin(provider, key, &[("GOOGLE_APPLICATION_CREDENTIALS", file.as_os_str())])
    }

    /// Writes the file of a service account whose private key is in `folder`. Returns its path.
    fn write_account(&self, folder: &Path) -> PathBuf {
        let private = std::fs::read_to_string(folder.join("key.pem")).expect("a key");
        let account = serde_json::json!({
            "type": "service_account",
            "project_id": "p",
            "private_key_id": "1",
            "private_key": private,
            "client_email": EMAIL,
            "client_id": "1",
            "token_uri": format!("{}/token", self.address),
            "universe_domain": "googleapis.com",
        });
        let file = self.folder.path().join("account.json");
        std::fs::write(&file, account.to_string()).expect("written");
        file
    }

    /// The plugin with the credentials of the metadata server.
    fn on_a_machine(&self, provider: &str, key: &str) -> Running {
        let host = self.address.strip_prefix("http://").expect("http");
        self.plugin(provider, key, &[("GCE_METADATA_HOST", host.as_ref())])
    }

    fn plugin(&self, provider: &str, key: &str, environment: &[(&str, &OsStr)]) -> Running {
        Running::start_at(provider, key, Some(&self.address), environment)
    }

    /// Changes the server's state. Returns it.
    fn admin(&self, change: &str) -> serde_json::Value {
        let text = run(&format!("curl -sSf {}/admin -d '{change}'", self.address), self.folder.path(), &[]);
        serde_json::from_str(&text).expect("JSON")
    }

    /// The number of tokens that were issued: by the metadata server, or by exchange.
    fn count(&self, name: &str) -> u64 {
        self.admin("{}")[name].as_u64().expect("a number")
    }
}

impl Drop for Google {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What both services have in common. `name` is the one of the state.
async fn rotates_and_is_denied(google: &Google, plugin: &Running, name: &str) {
    let first = plugin.encrypt().await;
    assert!(first.key_id.ends_with("/1"), "{}", first.key_id);
    plugin.decrypt(&first).await;
    plugin.refuses_changes(&first).await;

    google.admin(&format!("{{\"{name}\": \"rotate\"}}"));
    let second = plugin.encrypt().await;
    assert!(second.key_id.ends_with("/2"), "{}", second.key_id);
    plugin.decrypt(&first).await;
    plugin.decrypt(&second).await;

    google.admin(&format!("{{\"{name}\": [1, \"DISABLED\"]}}"));
    is_denied(plugin.api.decrypt(&first, "uid").await, "FAILED_PRECONDITION");
    plugin.decrypt(&second).await;
    google.admin(&format!("{{\"{name}\": [1, \"ENABLED\"]}}"));
    google.admin("{\"deny\": true}");
    is_denied(plugin.api.status().await, "PERMISSION_DENIED");
    is_denied(plugin.api.encrypt(SECRET, "uid").await, "PERMISSION_DENIED");
    is_denied(plugin.api.decrypt(&first, "uid").await, "PERMISSION_DENIED");
    google.admin("{\"deny\": false, \"fail\": [503, \"UNAVAILABLE\"]}");
    is_outage(plugin.api.decrypt(&first, "uid").await);
    google.admin("{\"fail\": [429, \"RESOURCE_EXHAUSTED\"]}");
    is_outage(plugin.api.status().await);
    google.admin("{\"fail\": null}");
    plugin.decrypt(&first).await;
}

#[tokio::test]
async fn keys_are_wrapped_by_cloud_kms_for_a_service_account() {
    let google = Google::start();
    let plugin = google.with_account("gcp-kms", KEY);
    assert_eq!(plugin.key_id().await, format!("{KEY}/cryptoKeyVersions/1"));
    rotates_and_is_denied(&google, &plugin, "kms").await;
    assert_eq!((google.count("tokens"), google.count("exchanges")), (0, 1));
    google.admin("{\"external\": true}");

    // A key that is enabled, whose external key manager does not respond.
    is_outage(plugin.api.encrypt(SECRET, "uid").await);
    google.admin("{\"external\": false, \"kms\": [2, \"DISABLED\"]}");
    is_denied(plugin.api.status().await, "no primary version that is enabled");
    is_denied(plugin.api.encrypt(SECRET, "uid").await, "FAILED_PRECONDITION");
    let log = plugin.end().await;
    assert!(!log.contains("the message of the service") && !log.contains("PRIVATE KEY"), "{log}");
}

#[tokio::test]
async fn keys_are_wrapped_by_a_secret_on_a_machine_of_google() {
    let google = Google::start();
    let plugin = google.on_a_machine("gcp-secret-manager", SECRET_NAME);
    assert_eq!(plugin.key_id().await, "projects/123/secrets/kek/versions/1");
    rotates_and_is_denied(&google, &plugin, "secrets").await;
    assert_eq!((google.count("tokens"), google.count("exchanges")), (1, 0));
    google.admin("{\"secrets\": [2, \"DESTROYED\"]}");
    is_denied(plugin.api.status().await, "FAILED_PRECONDITION");
    let log = plugin.end().await;
    assert!(!log.contains("token-"), "{log}");
}

#[tokio::test]
async fn a_signature_of_another_account_is_a_denial_until_the_file_is_replaced() {
    let (google, other) = (Google::start(), Google::start());
    let file = google.write_account(other.folder.path());
    let plugin = google.plugin("gcp-kms", KEY, &[("GOOGLE_APPLICATION_CREDENTIALS", file.as_os_str())]);
    is_denied(plugin.api.status().await, "no token was issued");
    google.write_account(google.folder.path());
    plugin.decrypt(&plugin.encrypt().await).await;
    assert_eq!(google.count("exchanges"), 1);
}

#[tokio::test]
async fn a_token_is_replaced_before_it_expires_and_when_it_is_revoked() {
    let google = Google::start();
    google.admin("{\"lifetime\": 4}");
    let plugin = google.with_account("gcp-secret-manager", SECRET_NAME);
    let wrapped = plugin.encrypt().await;
    let start = Instant::now();
    while google.count("exchanges") < 3 {
        plugin.decrypt(&wrapped).await;
        assert!(start.elapsed() < LONG, "no token was replaced");
    }
    google.admin("{\"lifetime\": 3600, \"revoke\": true}");
    plugin.decrypt(&wrapped).await;

    google.admin("{\"refuse\": 401, \"revoke\": true}");
    is_denied(plugin.api.decrypt(&wrapped, "uid").await, "no token was issued");
    google.admin("{\"refuse\": 503}");
    is_outage(plugin.api.decrypt(&wrapped, "uid").await);
    google.admin("{\"refuse\": null}");
    plugin.decrypt(&wrapped).await;
    let log = plugin.end().await;
    assert!(!log.contains("token-") && !log.contains("the message of the service"), "{log}");
}

#[tokio::test]
async fn a_machine_of_google_gets_its_identity_while_the_plugin_runs() {
    let google = Google::start();
    google.admin("{\"no_account\": true}");
    let plugin = google.on_a_machine("gcp-kms", KEY);
    is_outage(plugin.api.status().await);
    google.admin("{\"no_account\": false}");
    plugin.recovers().await;
    let wrapped = plugin.encrypt().await;
    google.admin("{\"revoke\": true}");
    plugin.decrypt(&wrapped).await;
    assert_eq!((google.count("tokens"), google.count("exchanges")), (2, 0));
}

#[tokio::test]
async fn a_server_that_is_gone_is_an_outage() {
    let mut google = Google::start();
    let (kms, secret) =
        (google.with_account("gcp-kms", KEY), google.on_a_machine("gcp-secret-manager", SECRET_NAME));
    let wrapped = (kms.encrypt().await, secret.encrypt().await);
    google.child.kill().expect("killed");
    google.child.wait().expect("ended");
    is_outage(kms.api.decrypt(&wrapped.0, "uid").await);
    is_outage(secret.api.decrypt(&wrapped.1, "uid").await);
}

#[tokio::test]
async fn a_server_wraps_its_keks() {
    let google = Google::start();
    let file = google.write_account(google.folder.path());
    let account: [(&str, &OsStr); 1] = [("GOOGLE_APPLICATION_CREDENTIALS", file.as_os_str())];
    let server = server::keeps_its_keks("gcp-kms", KEY, Some(&google.address), &account);
    google.admin("{\"deny\": true}");
    server::until("the server drops its KEKs", || !server.reads());
    google.admin("{\"deny\": false}");
    server::until("the server has its KEKs again", || server.reads() && server.is_ready());
    assert!(!server.log().contains("token-"));
    server::keeps_its_keks("gcp-secret-manager", SECRET_NAME, Some(&google.address), &account);
}
