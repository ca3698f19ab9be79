//! AWS KMS and IAM as moto's server, driven by the AWS command line.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use agentrouter_kms_api::client::Wrapped;
use tempfile::TempDir;

use crate::canned;
use crate::page::{commands, installed, run};
use crate::plugin::{Running, SECRET, is_denied, is_outage};
use crate::server;

const ALIAS: &str = "alias/agentrouter";
/// The length of the id of a key.
const KEY_ID: usize = 36;

struct Moto {
    child: Child,
    address: String,
    folder: TempDir,
}

impl Moto {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut child = Command::new(installed("AGENTROUTER_TEST_MOTO"))
            .args(["-H", "127.0.0.1", "-p", "0"])
            .env("PYTHONUNBUFFERED", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("moto starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines().map_while(Result::ok);
        let address = lines.find_map(|line| Some(line.split_once("Running on ")?.1.trim().to_owned()));
        // Read on, so that the pipe does not fill.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address: address.expect("moto printed its address"), folder }
    }

    /// A server on which the page's commands were run, and the id and the secret of an access key of the page's user.
    fn set_up() -> (Self, String, String) {
        let moto = Self::start();
        let [key, policy] = &commands("aws-kms")[..] else { panic!("the page has two commands") };
        moto.run(key);
        moto.run(policy);
        let text = "aws iam create-access-key --user-name agentrouter \
                    --query 'AccessKey.[AccessKeyId, SecretAccessKey]' --output text";
        let (id, secret) = moto
            .run(text)
            .split_once('\t')
            .map(|(id, secret)| (id.to_owned(), secret.to_owned()))
            .expect("two");
        (moto, id, secret)
    }

    /// Runs commands as the administrator.
    fn run(&self, text: &str) -> String {
        let moto = installed("AGENTROUTER_TEST_MOTO");
        let mut path = OsString::from(moto.parent().expect("a folder"));
        path.push(":");
        path.push(std::env::var_os("PATH").expect("a PATH"));
        let environment: [(&str, &OsStr); 7] = [
            ("PATH", &path),
            ("HOME", self.folder.path().as_os_str()),
            ("AWS_ENDPOINT_URL", self.address.as_ref()),
            ("AWS_REGION", "eu-central-1".as_ref()),
            ("AWS_DEFAULT_REGION", "eu-central-1".as_ref()),
            ("AWS_ACCESS_KEY_ID", "test".as_ref()),
            ("AWS_SECRET_ACCESS_KEY", "test".as_ref()),
        ];
        run(text, self.folder.path(), &environment)
    }

    fn plugin(&self, key: &str, id: &str, secret: &str) -> Running {
        plugin(&self.address, key, id, secret)
    }

    /// From now on, moto compares permissions with the policies of IAM.
    fn enforce(&self) {
        self.run(&format!(
            "curl -sSf {}/moto-api/reset-auth -H 'content-type: text/plain' -d 0",
            self.address
        ));
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn plugin(address: &str, key: &str, id: &str, secret: &str) -> Running {
    Running::start_at("aws-kms", key, Some(address), &environment(id, secret))
}

/// The environment of the plugin, with an access key.
fn environment<'a>(id: &'a str, secret: &'a str) -> [(&'a str, &'a OsStr); 4] {
    [
        ("AWS_REGION", "eu-central-1".as_ref()),
        ("AWS_ACCESS_KEY_ID", id.as_ref()),
        ("AWS_SECRET_ACCESS_KEY", secret.as_ref()),
        ("AWS_EC2_METADATA_DISABLED", "true".as_ref()),
    ]
}

#[tokio::test]
async fn keys_are_wrapped_and_survive_an_alias_that_is_moved() {
    let (moto, id, secret) = Moto::set_up();
    let plugin = moto.plugin(ALIAS, &id, &secret);
    let arn =
        moto.run("aws kms describe-key --key-id alias/agentrouter --query KeyMetadata.Arn --output text");
    assert_eq!(plugin.key_id().await, arn);
    let wrapped = plugin.encrypt().await;
    plugin.decrypt(&wrapped).await;
    // The ciphertext of moto begins with the id of the key, and another id is a denial.
    plugin.refuses_changes_from(&wrapped, KEY_ID).await;

    // What the same key has encrypted for another purpose is no KEK.
    let other = moto.run(
        "aws kms encrypt --key-id alias/agentrouter --plaintext aGk= --encryption-context a=b \
         --query CiphertextBlob --output text | base64 -d | od -An -v -tu1",
    );
    let ciphertext = other.split_whitespace().map(|byte| byte.parse().expect("a byte")).collect();
    plugin.decrypt_fails(&Wrapped { ciphertext, ..wrapped.clone() }, "the root key did not make this").await;

    moto.run(
        "aws kms update-alias --alias-name alias/agentrouter \
         --target-key-id \"$(aws kms create-key --query KeyMetadata.KeyId --output text)\"",
    );
    let next = plugin.encrypt().await;
    assert_ne!(next.key_id, arn);
    plugin.decrypt(&next).await;
    plugin.decrypt(&wrapped).await;
    let by_arn = moto.plugin(&arn, &id, &secret);
    by_arn.decrypt(&wrapped).await;
    by_arn.decrypt_fails(&next, "the root key did not make this").await;

    let log = plugin.end().await;
    assert!(!log.contains(&secret), "{log}");
}

#[tokio::test]
async fn the_actions_of_the_page_are_enough_and_needed() {
    let (moto, id, secret) = Moto::set_up();
    // moto knows no resources of KMS in policies. That the page names the key is not tested.
    let policy = &commands("aws-kms")[1].replace("'\"$KEY_ARN\"'", "*");
    assert!(policy.contains("\"Resource\": \"*\""), "{policy}");
    moto.run(&policy.lines().filter(|line| !line.contains("create-user")).collect::<Vec<_>>().join("\n"));
    let other = moto.run(
        "aws iam create-user --user-name other > /dev/null
         aws iam create-access-key --user-name other \
         --query 'AccessKey.[AccessKeyId, SecretAccessKey]' --output text",
    );
    moto.enforce();
    let allowed = moto.plugin(ALIAS, &id, &secret);
    let wrapped = allowed.encrypt().await;
    allowed.decrypt(&wrapped).await;

    let (id, secret) = other.split_once('\t').expect("two");
    let denied = moto.plugin(ALIAS, id, secret);
    // moto's response to such a caller has no code of KMS.
    is_denied(denied.api.status().await, "status 403");
    is_denied(denied.api.encrypt(SECRET, "uid").await, "status 403");
    is_denied(denied.api.decrypt(&wrapped, "uid").await, "status 403");
}

#[tokio::test]
async fn a_key_that_is_disabled_is_a_denial_and_a_server_that_is_gone_is_none() {
    let (mut moto, id, secret) = Moto::set_up();
    let plugin = moto.plugin(ALIAS, &id, &secret);
    let wrapped = plugin.encrypt().await;
    // moto disables a key by its id only.
    let key = wrapped.key_id.rsplit('/').next().expect("an id");
    moto.run(&format!("aws kms disable-key --key-id {key}"));
    is_denied(plugin.api.status().await, "the key is disabled");
    moto.run(&format!("aws kms enable-key --key-id {key}"));
    plugin.key_id().await;
    moto.run(&format!("aws kms schedule-key-deletion --key-id {key}"));
    is_denied(plugin.api.status().await, "scheduled for deletion");
    moto.child.kill().expect("killed");
    moto.child.wait().expect("ended");
    is_outage(plugin.api.status().await);
    is_outage(plugin.api.decrypt(&wrapped, "uid").await);
}

/// A response of DescribeKey.
fn described(state: &str) -> (u16, String) {
    let arn = "arn:aws:kms:eu-central-1:111122223333:key/1";
    let metadata = format!(
        "{{\"KeyMetadata\": {{\"KeyId\": \"1\", \"Arn\": \"{arn}\", \"KeyState\": \"{state}\", \
         \"EncryptionAlgorithms\": [\"SYMMETRIC_DEFAULT\"]}}}}"
    );
    (200, metadata)
}

#[tokio::test]
async fn the_errors_of_aws_are_told_apart() {
    // The name of the key selects the error and the state of the key.
    let address = canned::serve(|request| {
        let (_, rest) = request.split_once("\"KeyId\":\"")?;
        let (error, state) = rest.split_once('"')?.0.split_once('.')?;
        if request.contains("TrentService.DescribeKey") {
            return Some(described(state));
        }
        match error {
            "Silence" => None,
            "Nonsense" => Some((200, "[".to_owned())),
            _ => Some((400, format!("{{\"__type\": \"{error}\", \"message\": \"a message\"}}"))),
        }
    });
    let wrapped = Wrapped { ciphertext: vec![1], key_id: "1".to_owned(), annotations: [].into() };
    for (key, text) in [
        ("AccessDeniedException.Enabled", "AccessDeniedException"),
        ("UnrecognizedClientException.Enabled", "UnrecognizedClientException"),
        ("DisabledException.Disabled", "the key is disabled"),
        ("KMSInvalidStateException.PendingDeletion", "scheduled for deletion"),
        ("KMSInvalidStateException.PendingImport", "no material"),
        ("NotFoundException.Enabled", "NotFoundException"),
    ] {
        let plugin = plugin(&address, key, "id", "secret");
        is_denied(plugin.api.encrypt(SECRET, "uid").await, text);
        is_denied(plugin.api.decrypt(&wrapped, "uid").await, text);
    }
    for key in [
        "KMSInvalidStateException.Unavailable",
        "ThrottlingException.Enabled",
        "KeyUnavailableException.Enabled",
        "Silence.Enabled",
        "Nonsense.Enabled",
    ] {
        let plugin = plugin(&address, key, "id", "secret");
        is_outage(plugin.api.encrypt(SECRET, "uid").await);
        is_outage(plugin.api.decrypt(&wrapped, "uid").await);
    }
}

#[tokio::test]
async fn a_server_wraps_its_keks_and_drops_them_when_the_key_is_disabled() {
    let (moto, user, secret) = Moto::set_up();
    let server = server::keeps_its_keks("aws-kms", ALIAS, Some(&moto.address), &environment(&user, &secret));
    let id =
        moto.run("aws kms describe-key --key-id alias/agentrouter --query KeyMetadata.KeyId --output text");
    moto.run(&format!("aws kms disable-key --key-id {id}"));
    server::until("the server drops its KEKs", || !server.reads());
    assert!(!server.is_ready());
    moto.run(&format!("aws kms enable-key --key-id {id}"));
    server::until("the server has its KEKs again", || server.reads() && server.is_ready());
    assert!(!server.log().contains(&secret));
}
