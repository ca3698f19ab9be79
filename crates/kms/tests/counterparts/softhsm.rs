//! SoftHSM, the software token of the OpenDNSSEC project, through its PKCS#11 library.

use std::ffi::OsStr;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::page::{commands, installed, run};
use crate::plugin::{Running, SECRET, is_denied, is_outage};
use crate::server;

const PIN: &str = "123456";

/// A token in a folder.
struct Hsm {
    folder: TempDir,
    module: PathBuf,
}

impl Hsm {
    /// A token without a key.
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let tokens = folder.path().join("tokens");
        let text = format!("directories.tokendir = {}\nobjectstore.backend = file\n", tokens.display());
        std::fs::write(folder.path().join("softhsm2.conf"), text).expect("written");
        let hsm = Self { folder, module: installed("AGENTROUTER_TEST_SOFTHSM") };
        hsm.init("agentrouter");
        hsm
    }

    /// A token on which the page's commands were run.
    fn set_up() -> Self {
        let hsm = Self::start();
        for command in commands("pkcs11") {
            hsm.run(&command);
        }
        hsm
    }

    fn init(&self, label: &str) {
        std::fs::create_dir_all(self.folder.path().join("tokens")).expect("made");
        self.run(&format!(
            "softhsm2-util --init-token --free --label {label} --so-pin 654321 --pin \"$PIN\""
        ));
    }

    /// Runs commands with the variables of the page.
    fn run(&self, text: &str) -> String {
        let configuration = self.folder.path().join("softhsm2.conf");
        let environment: [(&str, &OsStr); 3] = [
            ("SOFTHSM2_CONF", configuration.as_ref()),
            ("MODULE", self.module.as_ref()),
            ("PIN", PIN.as_ref()),
        ];
        run(text, self.folder.path(), &environment)
    }

    fn plugin(&self, path: &str) -> Running {
        let configuration = self.folder.path().join("softhsm2.conf");
        Running::start("pkcs11", &self.uri(path), &[("SOFTHSM2_CONF", configuration.as_ref())])
    }

    fn uri(&self, path: &str) -> String {
        let (module, folder) = (self.module.display(), self.folder.path().display());
        format!("pkcs11:{path}?module-path={module}&pin-source=file:{folder}/pin")
    }

    fn change_pin_file(&self, pin: &str) {
        std::fs::write(self.folder.path().join("pin"), pin).expect("written");
    }
}

#[tokio::test]
async fn keys_are_wrapped_with_the_key_of_the_page() {
    let hsm = Hsm::set_up();
    let plugin = hsm.plugin("token=agentrouter;object=kek-1");
    let id = plugin.key_id().await;
    assert!(
        id.starts_with("pkcs11:token=agentrouter;serial=") && id.ends_with(";object=kek-1;id=%01"),
        "{id}"
    );
    let wrapped = plugin.encrypt().await;
    plugin.decrypt(&wrapped).await;
    plugin.refuses_changes(&wrapped).await;
    assert_ne!(plugin.encrypt().await.ciphertext, wrapped.ciphertext);

    // Another process with the same key, which is found by its id.
    let other = hsm.plugin("token=agentrouter;id=%01");
    other.decrypt(&wrapped).await;

    hsm.run(&commands("pkcs11")[0].replace("kek-1", "kek-2").replace("01", "02"));
    let next = hsm.plugin("token=agentrouter;object=kek-2");
    assert_ne!(next.key_id().await, id);
    next.decrypt_fails(&wrapped, "the root key did not make this ciphertext").await;

    let log = plugin.end().await;
    assert!(!log.contains(PIN) && !log.contains("extractable"), "{log}");
}

#[tokio::test]
async fn a_wrong_pin_is_a_denial_and_is_not_sent_again() {
    let hsm = Hsm::set_up();
    hsm.change_pin_file("wrong-pin");
    let plugin = hsm.plugin("token=agentrouter;object=kek-1");
    is_denied(plugin.api.status().await, "Login failed with PinIncorrect");
    is_denied(plugin.api.encrypt(SECRET, "uid").await, "it is not tried again");
    hsm.change_pin_file(PIN);
    plugin.decrypt(&plugin.encrypt().await).await;
}

#[tokio::test]
async fn a_token_that_is_gone_is_an_outage_and_a_deleted_key_is_none() {
    let hsm = Hsm::set_up();
    let plugin = hsm.plugin("token=agentrouter;object=kek-1");
    let wrapped = plugin.encrypt().await;

    std::fs::rename(hsm.folder.path().join("tokens"), hsm.folder.path().join("away")).expect("moved");
    is_outage(plugin.api.decrypt(&wrapped, "uid").await);
    std::fs::rename(hsm.folder.path().join("away"), hsm.folder.path().join("tokens")).expect("moved back");
    plugin.recovers().await;
    plugin.decrypt(&wrapped).await;

    hsm.run("pkcs11-tool --module \"$MODULE\" --token-label agentrouter --login --pin env:PIN --delete-object --type secrkey --label kek-1");
    is_denied(plugin.api.decrypt(&wrapped, "uid").await, "no such AES key");
    is_denied(plugin.api.status().await, "no such AES key");
}

#[tokio::test]
async fn a_token_that_was_reset_is_logged_in_to_again() {
    let hsm = Hsm::start();
    hsm.change_pin_file(PIN);
    hsm.run("chmod 600 pin; head -c 32 /dev/urandom > key");
    let import = "pkcs11-tool --module \"$MODULE\" --token-label agentrouter --login --pin env:PIN --write-object key \
                  --type secrkey --key-type AES:32 --label kek-1 --id 01 --sensitive --usage-decrypt";
    hsm.run(import);
    let plugin = hsm.plugin("token=agentrouter;object=kek-1");
    let wrapped = plugin.encrypt().await;

    hsm.run("softhsm2-util --delete-token --token agentrouter");
    hsm.init("agentrouter");
    hsm.run(import);
    plugin.recovers().await;
    plugin.decrypt(&wrapped).await;
}

#[tokio::test]
async fn several_tokens_or_keys_are_not_guessed_between() {
    let hsm = Hsm::set_up();
    hsm.run(&commands("pkcs11")[0].replace("01", "02"));
    let plugin = hsm.plugin("token=agentrouter;object=kek-1");
    let error = plugin.api.status().await.expect_err("two keys").to_string();
    assert!(error.contains("several keys match"), "{error}");
    hsm.init("second");
    let plugin = hsm.plugin("object=kek-1;id=%01");
    let error = plugin.api.status().await.expect_err("two tokens").to_string();
    assert!(error.contains("several tokens match"), "{error}");
}

#[tokio::test]
async fn a_key_of_another_kind_is_refused() {
    let hsm = Hsm::set_up();
    hsm.run(&commands("pkcs11")[0].replace("kek-1", "generic").replace("AES:32", "GENERIC:32"));
    let plugin = hsm.plugin("token=agentrouter;object=generic");
    is_denied(plugin.api.status().await, "no such AES key");
    is_denied(plugin.api.encrypt(SECRET, "uid").await, "no such AES key");
}

#[test]
fn a_server_wraps_its_keks() {
    let hsm = Hsm::set_up();
    let configuration = hsm.folder.path().join("softhsm2.conf");
    let environment: [(&str, &OsStr); 1] = [("SOFTHSM2_CONF", configuration.as_ref())];
    let key = hsm.uri("token=agentrouter;object=kek-1");
    server::keeps_its_keks("pkcs11", &key, None, &environment);
}
