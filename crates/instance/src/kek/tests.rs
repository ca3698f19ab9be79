use std::ffi::OsString;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use agentrouter_crypto::Kek;
use agentrouter_keyring::{KeyringError, WrappedKek};
use agentrouter_kms_api::server::serve;
use agentrouter_kms_api::wire::v2::{
    DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, KeyManagementService, StatusRequest,
    StatusResponse,
};
use agentrouter_model::{KekId, SystemClock};
use clap::Parser;
use connectrpc::{ConnectError, RequestContext, Response, ServiceRequest, ServiceResult};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::sync::oneshot;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::*;
use crate::hint;
use crate::instance::{Instance, MissingStore};

/// The longest wait for an event.
const LONG: Duration = Duration::from_secs(60);

#[derive(Parser)]
#[command(name = "serve")]
struct Serve {
    #[command(flatten)]
    settings: Settings,
}

impl AsMut<Settings> for Serve {
    fn as_mut(&mut self) -> &mut Settings {
        &mut self.settings
    }
}

fn settings(dir: &Path, args: &[&str]) -> Settings {
    let line = ["serve", "--data-dir", dir.to_str().expect("UTF-8")];
    let line: Vec<OsString> = line.iter().chain(args).map(OsString::from).collect();
    crate::settings::parse::<Serve>(&line).expect("settings").settings
}

/// The behaviours of the stand-in.
const WORKS: u8 = 0;
const DENIES: u8 = 1;
const IS_DOWN: u8 = 2;
const IS_SICK: u8 = 3;
const HAS_ANOTHER_KEY: u8 = 4;
const ANSWERS_GARBAGE: u8 = 5;
const IS_SILENT: u8 = 6;

/// A plugin that inverts the bits of a key.
#[derive(Clone, Default)]
struct StandIn(Arc<AtomicU8>, Arc<AtomicU64>);

impl StandIn {
    async fn behave(&self) -> Result<u8, ConnectError> {
        self.1.fetch_add(1, Ordering::Relaxed);
        match self.0.load(Ordering::Relaxed) {
            DENIES => Err(ConnectError::permission_denied("the key is disabled")),
            IS_DOWN => Err(ConnectError::unavailable("no route to the KMS")),
            IS_SILENT => std::future::pending().await,
            behaviour => Ok(behaviour),
        }
    }
}

#[allow(refining_impl_trait, reason = "the response types are internal to this test")]
impl KeyManagementService for StandIn {
    async fn status(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, StatusRequest>,
    ) -> ServiceResult<StatusResponse> {
        let healthz = if self.behave().await? == IS_SICK { "the HSM is locked\n" } else { "ok" };
        Response::ok(StatusResponse { version: "v2".into(), healthz: healthz.into(), key_id: "one".into() })
    }

    async fn encrypt(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, EncryptRequest>,
    ) -> ServiceResult<EncryptResponse> {
        self.behave().await?;
        let key = request.to_owned_message().plaintext;
        Response::ok(EncryptResponse {
            ciphertext: key.iter().map(|byte| !byte).collect(),
            key_id: "one".into(),
            annotations: [("a.example.com".to_owned(), vec![1])].into_iter().collect(),
        })
    }

    async fn decrypt(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, DecryptRequest>,
    ) -> ServiceResult<DecryptResponse> {
        let behaviour = self.behave().await?;
        let request = request.to_owned_message();
        assert_eq!(request.key_id, "one");
        let mut plaintext: Vec<u8> = request.ciphertext.iter().map(|byte| !byte).collect();
        match behaviour {
            HAS_ANOTHER_KEY => plaintext[0] ^= 1,
            ANSWERS_GARBAGE => plaintext.push(0),
            _ => {}
        }
        Response::ok(DecryptResponse { plaintext })
    }
}

/// A stand-in that serves a socket on a thread of its own, until it is dropped.
struct Running {
    plugin: StandIn,
    socket: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Running {
    fn start(dir: &TempDir) -> Self {
        let (plugin, socket) = (StandIn::default(), dir.path().join("plugin.sock"));
        let (stop, stopped) = oneshot::channel();
        let (bound, is_bound) = std::sync::mpsc::channel();
        let (served, path) = (plugin.clone(), socket.clone());
        let thread = std::thread::spawn(move || {
            runtime().block_on(async {
                let listener = UnixListener::bind(&path).expect("bound");
                bound.send(()).expect("awaited");
                // A silent request never completes, so the connections are left open at the end.
                tokio::select! {
                    () = serve(listener, served, std::future::pending()) => {}
                    _ = stopped => {}
                }
            });
        });
        is_bound.recv().expect("it is bound");
        Self { plugin, socket, stop: Some(stop), thread: Some(thread) }
    }

    fn behave(&self, behaviour: u8) {
        self.plugin.0.store(behaviour, Ordering::Relaxed);
    }

    fn settings(&self, dir: &Path) -> Settings {
        let socket = self.socket.to_str().expect("UTF-8");
        settings(dir, &["--kek-provider", "kms-plugin", "--kek-socket", socket])
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        let joined = self.thread.take().expect("once").join();
        assert!(joined.is_ok() || std::thread::panicking());
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn kek() -> Kek {
    Kek::from_bytes(KekId::parse("kek-1").expect("valid"), Zeroizing::new([7; 32]))
}

#[test]
fn a_plugin_wraps_the_keks_of_a_new_store_and_opens_it_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let plugin = Running::start(&dir);
    let data = dir.path().join("data");
    for _ in 0..2 {
        // The root key is used within a runtime, too.
        runtime().block_on(async {
            let settings = plugin.settings(&data);
            await_there(&settings).await.expect("it is there");
            let instance = Instance::open(&settings, MissingStore::Refuse).await.expect("opened");
            assert!(instance.service.has_keks());
            instance.close().await;
        });
    }
    assert_eq!(Keyring::provider(&data.join("kek.json")).expect("read"), Some("kms-plugin".to_owned()));

    let refused = load(&settings(&data, &[])).expect_err("another provider");
    assert_eq!(hint::of(&*refused), ["set kek.provider to 'kms-plugin'"], "{refused:#}");
}

#[test]
fn each_fault_of_a_plugin_has_its_error() {
    let dir = tempfile::tempdir().expect("a directory");
    let plugin = Running::start(&dir);
    let root = KmsRoot::on("kms-plugin", plugin.socket.clone(), Arc::new(SystemRng));
    let wrapped: WrappedKek = root.wrap(&kek()).expect("wrapped");
    let unwrap =
        |root: &KmsRoot| root.unwrap(&[(kek().id().clone(), &wrapped)]).map(|keks| *keks[0].expose());
    assert_eq!(unwrap(&root).expect("unwrapped"), [7; 32]);

    plugin.behave(DENIES);
    let error = unwrap(&root).expect_err("denied");
    assert!(matches!(&error, RootError::Denied { what } if what == "the key is disabled"), "{error}");
    plugin.behave(IS_DOWN);
    let error = unwrap(&root).expect_err("down");
    assert!(matches!(&error, RootError::Unreachable { what } if what == "no route to the KMS"), "{error}");
    plugin.behave(IS_SICK);
    let error = root.wrap(&kek()).expect_err("sick");
    let said = "the plugin says: the HSM is locked";
    assert!(matches!(&error, RootError::Unreachable { what } if what == said), "{error}");
    plugin.behave(ANSWERS_GARBAGE);
    let error = unwrap(&root).expect_err("garbage");
    assert!(matches!(&error, RootError::Unusable { .. }), "{error}");
    plugin.behave(IS_SILENT);
    let hasty = KmsRoot::on("kms-plugin", plugin.socket.clone(), Arc::new(SystemRng));
    let hasty = hasty.with_deadline(Duration::from_millis(50));
    let error = unwrap(&hasty).expect_err("silent");
    assert!(matches!(&error, RootError::Unreachable { .. }), "{error}");

    let nowhere = KmsRoot::on("kms-plugin", dir.path().join("nowhere"), Arc::new(SystemRng));
    let error = nowhere.check().expect_err("no socket");
    assert!(matches!(&error, RootError::Unreachable { .. }), "{error}");
}

#[test]
fn a_plugin_with_another_key_wraps_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let plugin = Running::start(&dir);
    let settings = plugin.settings(&dir.path().join("data"));
    fs::create_dir(&settings.data_dir).expect("made");
    plugin.behave(HAS_ANOTHER_KEY);
    let file = file(&settings).expect("a root key");
    let refused = Keyring::create(&file, &SystemClock, &SystemRng).expect_err("another key");
    assert!(matches!(refused, KeyringError::OtherKey { .. }), "{refused}");
    assert!(!settings.kek_file().exists());

    plugin.behave(WORKS);
    Keyring::create(&file, &SystemClock, &SystemRng).expect("created");
    plugin.behave(HAS_ANOTHER_KEY);
    let refused = load(&settings).expect_err("another key");
    assert!(refused.to_string().contains("its check value differs"), "{refused}");
}

#[test]
fn only_a_denial_takes_the_keks_of_a_running_server_and_it_gets_them_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let plugin = Running::start(&dir);
    let settings = plugin.settings(&dir.path().join("data"));
    runtime().block_on(async {
        let instance = Instance::open(&settings, MissingStore::Refuse).await.expect("opened");
        let recheck = Recheck::of(&settings.kek, file(&settings).expect("a root key")).expect("every hour");
        for (behaviour, has_keks) in [
            (WORKS, true),
            (IS_DOWN, true),
            (ANSWERS_GARBAGE, true),
            (HAS_ANOTHER_KEY, true),
            (DENIES, false),
            (IS_DOWN, false),
            (HAS_ANOTHER_KEY, false),
            (DENIES, false),
            (WORKS, true),
            (WORKS, true),
        ] {
            plugin.behave(behaviour);
            recheck.check(&instance.service).await;
            assert_eq!(instance.service.has_keks(), has_keks, "behaviour {behaviour}");
        }
        instance.close().await;
    });
    let off = self::settings(&settings.data_dir, &["--kek-provider", "kms-plugin", "--kek-recheck", "0s"]);
    assert!(Recheck::of(&off.kek, file(&settings).expect("a root key")).is_none());
}

#[test]
fn a_start_waits_for_the_root_key_and_then_says_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let plugin = Running::start(&dir);
    plugin.behave(IS_DOWN);
    let socket = plugin.socket.to_str().expect("UTF-8");
    let line = ["--kek-provider", "kms-plugin", "--kek-socket", socket, "--kek-start-time", "60s"];
    let patient = settings(&dir.path().join("data"), &line);
    let waiting = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| runtime().block_on(await_there(&patient)));
        eventually(|| plugin.plugin.1.load(Ordering::Relaxed) > 0);
        plugin.behave(WORKS);
        waiting.join().expect("no panic")
    });
    waiting.expect("it is there");

    plugin.behave(IS_DOWN);
    let line = ["--kek-provider", "kms-plugin", "--kek-socket", socket, "--kek-start-time", "0s"];
    let hasty = settings(&dir.path().join("data"), &line);
    runtime().block_on(async {
        await_there(&hasty).await.expect("it does not wait");
        let failed = Instance::open(&hasty, MissingStore::Refuse).await.err().expect("no root key");
        assert_eq!(failed.to_string(), "the root key cannot be reached: no route to the KMS");
    });
    assert!(!hasty.kek_file().exists());
}

#[test]
fn a_setting_that_a_provider_needs_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    for (args, missing) in [
        (&["--kek-provider", "kms-plugin"][..], "kek.socket is not set"),
        (&["--kek-provider", "aws-kms"], "kek.key is not set"),
        (&["--kek-provider", "passphrase", "--kek-passphrase-file", "/nowhere/x"], "cannot be read"),
        (
            &["--kek-provider", "passphrase", "--kek-passphrase-file", "x", "--kek-passphrase-fd", "3"],
            "both set",
        ),
    ] {
        let settings = settings(dir.path(), args);
        let refused = file(&settings).expect_err("a setting is missing");
        assert!(format!("{refused:#}").contains(missing), "{refused:#}");
        // `kek move` names its own flags.
        let refused = root(&settings.kek, &settings, true, Given::Flags).err().expect("a flag is missing");
        let missing = missing.replace("kek.", "--to-");
        let said = format!("{refused:#} {:?}", crate::hint::of(&*refused));
        assert!(said.contains(&missing) && !said.contains("kek."), "{said}");
    }
}

#[test]
fn a_secret_does_not_get_onto_the_command_line_of_the_plugin() {
    for key in
        ["pkcs11:token=a?pin-value=1234", "pkcs11:token=a?module-path=/m&pin-value=1", "pkcs11:pin-value=1"]
    {
        let error = require_no_secret(Given::Flags, key, None).expect_err(key).to_string();
        assert!(error.starts_with("--to-key has a PIN") && !error.contains("1234"), "{error}");
    }
    for url in ["https://user:5678@vault.example.com/v1", "https://token@vault.example.com", "http://a@b?c"] {
        let error = require_no_secret(Given::Settings, "a", Some(url)).expect_err(url).to_string();
        assert!(error.contains("kek.endpoint has a user") && !error.contains("5678"), "{error}");
    }
    let key = "pkcs11:token=a;object=pin-value?pin-source=file:/p";
    require_no_secret(Given::Settings, key, Some("https://vault.example.com/a@b?c=d@e")).expect("no secret");
}

#[test]
fn a_passphrase_comes_from_a_file_without_its_line_end() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("passphrase");
    let place = path.to_str().expect("UTF-8");
    let settings = || settings(dir.path(), &["--kek-provider", "passphrase", "--kek-passphrase-file", place]);
    let write = |text: &str| fs::write(&path, text).expect("written");
    for (text, fault) in [("", "is empty"), ("\n", "is empty"), ("too short\n", "too short")] {
        write(text);
        let refused = file(&settings()).expect_err(fault);
        assert!(refused.to_string().contains(fault), "{refused}");
    }
    write(&"x".repeat(5000));
    assert!(format!("{:#}", file(&settings()).expect_err("too long")).contains("longer than"));

    write("correct horse battery staple\n");
    Keyring::create(file(&settings()).expect("a root key"), &SystemClock, &SystemRng).expect("created");
    for same in ["correct horse battery staple", "correct horse battery staple\r\n"] {
        write(same);
        load(&settings()).expect("the same passphrase");
    }
    write("correct horse battery stable\n");
    let refused = load(&settings()).expect_err("another passphrase");
    assert_eq!(refused.to_string(), "the passphrase does not unwrap the KEKs");
}

/// Set in a process that is to be a plugin: the socket.
const AS_PLUGIN: &str = "AGENTROUTER_TEST_PLUGIN_SOCKET";

/// A plugin as a process of its own: this program, run with this test alone and [`AS_PLUGIN`]. It ends when its standard
/// input is closed. Without the variable, the test is that the stand-in serves.
#[test]
fn a_stand_in_serves_until_its_input_is_closed() {
    let Some(socket) = std::env::var_os(AS_PLUGIN) else {
        let dir = tempfile::tempdir().expect("a directory");
        let plugin = Running::start(&dir);
        let root = KmsRoot::on("kms-plugin", plugin.socket.clone(), Arc::new(SystemRng));
        return root.check().expect("it serves");
    };
    let marker = Path::new(&socket).ancestors().nth(3).expect("a directory").join("hang-once");
    let plugin = StandIn::default();
    if fs::remove_file(marker).is_ok() {
        plugin.0.store(IS_SILENT, Ordering::Relaxed);
    }
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    runtime().block_on(async {
        let listener = UnixListener::bind(socket).expect("bound");
        serve(listener, plugin, std::future::pending()).await;
    });
}

/// A root key of a child: a script that runs this program as the plugin.
fn with_child(dir: &TempDir) -> KmsRoot {
    let program = dir.path().join("plugin");
    let own = std::env::current_exe().expect("this program");
    let test = "kek::tests::a_stand_in_serves_until_its_input_is_closed";
    let script = format!(
        "#!/bin/sh\n[ \"$1 $2 $3 $5 $6 $7 $8\" = 'aws-kms --child --socket --key alias/x --endpoint http://localhost' ] || exit 9\n{AS_PLUGIN}=\"$4\" exec '{}' --exact {test} --nocapture\n",
        own.display()
    );
    fs::write(&program, script).expect("written");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("executable");
    let (key, endpoint) = ("alias/x".to_owned(), Some("http://localhost".to_owned()));
    // The data directory of a new server does not exist yet.
    let child = Child::with_program(program, "aws-kms", key, endpoint, &dir.path().join("data"));
    KmsRoot::of_child("aws-kms", child, Arc::new(SystemRng))
}

/// Repeats a check until it succeeds.
fn eventually(mut check: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !check() {
        assert!(Instant::now() < end, "it did not happen in time");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn is_alive(process: u32) -> bool {
    Path::new(&format!("/proc/{process}")).exists()
}

#[test]
fn a_plugin_of_this_process_is_started_again_and_ends_with_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let root = with_child(&dir);
    let wrapped = root.wrap(&kek()).expect("wrapped");
    let directory = dir.path().join(format!("data/kms-{}", std::process::id()));
    assert_eq!(directory.metadata().expect("its directory").permissions().mode() & 0o7777, 0o700);

    let first = root.process_id().expect("it runs");
    let raw = rustix::process::Pid::from_raw(first.cast_signed()).expect("a process");
    rustix::process::kill_process(raw, rustix::process::Signal::KILL).expect("killed");
    eventually(|| root.process_id().is_some_and(|process| process != first) && root.check().is_ok());
    let keks = root.unwrap(&[(kek().id().clone(), &wrapped)]).expect("unwrapped");
    assert_eq!(keks[0].expose(), &[7; 32]);

    let second = root.process_id().expect("it runs");
    drop(root);
    assert!(!is_alive(first) && !is_alive(second));
    assert!(!directory.exists());
}

#[test]
fn the_directory_of_a_process_that_was_killed_is_removed() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    // No process has the first id, which is above the greatest one.
    let gone = data.join("kms-4194305");
    let stays = [data.join(format!("kms-{}", std::os::unix::process::parent_id())), data.join("kms-x")];
    for path in stays.iter().chain([&gone]) {
        fs::create_dir_all(path.join("inner")).expect("made");
    }
    let root = with_child(&dir);
    root.check().expect("it runs");
    assert!(!gone.exists());
    assert!(stays.iter().all(|path| path.exists()));
}

#[test]
fn a_plugin_of_this_process_that_hangs_is_started_again() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("hang-once"), "").expect("written");
    let hasty = with_child(&dir).with_deadline(Duration::from_secs(1));
    eventually(|| hasty.check().is_ok());
    assert!(!dir.path().join("hang-once").exists(), "the first one hung");
}

#[test]
fn a_plugin_that_cannot_be_started_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let child = Child::with_program("/nowhere/plugin".into(), "aws-kms", "x".into(), None, dir.path());
    let root = KmsRoot::of_child("aws-kms", child, Arc::new(SystemRng));
    let error = root.check().expect_err("no program");
    assert!(matches!(&error, RootError::Unreachable { what } if what.contains("/nowhere/plugin")), "{error}");
}
