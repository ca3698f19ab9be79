use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use agentrouter_crypto::{Argon2Cost, SystemRng};
use agentrouter_model::{Clock, Rng, RngError, SystemClock, Timestamp};
use tempfile::TempDir;
use zeroize::Zeroizing;

use super::*;
use crate::{Keyring, KeyringError, Passphrase};

const PASSPHRASE: &str = "correct horse battery staple";

struct At(i64);

impl Clock for At {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0)
    }
}

/// A generator that fills with 1, then with 2, then with 3.
#[derive(Default)]
struct Counting(AtomicU64);

impl Rng for Counting {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), RngError> {
        bytes.fill(self.0.fetch_add(1, Ordering::Relaxed) as u8 + 1);
        Ok(())
    }
}

/// A plugin that XORs the bits of a key with its own key. The fault says what is wrong with it.
struct Xor {
    key: AtomicU8,
    fault: AtomicU8,
}

const NONE: u8 = 0;
const UNREACHABLE: u8 = 1;
const DENIED: u8 = 2;
const FEWER: u8 = 3;
const FORGETS: u8 = 4;

impl Xor {
    fn new() -> Arc<Self> {
        Arc::new(Self { key: AtomicU8::new(0xff), fault: AtomicU8::new(NONE) })
    }

    fn fail_with(&self, fault: u8) {
        self.fault.store(fault, Ordering::Relaxed);
    }
}

impl Root for Xor {
    fn provider(&self) -> &str {
        "kms-plugin"
    }

    fn wrap(&self, kek: &Kek) -> Result<WrappedKek, RootError> {
        let key = self.key.load(Ordering::Relaxed);
        Ok(WrappedKek {
            provider: self.provider().to_owned(),
            root_id: "root-1".to_owned(),
            wrapped: kek.expose().iter().map(|byte| byte ^ key).collect(),
            annotations: BTreeMap::from([("nonce.example.com".to_owned(), vec![1, 2, 3])]),
        })
    }

    fn unwrap(&self, keks: &[(KekId, &WrappedKek)]) -> Result<Vec<Kek>, RootError> {
        let what = || "the network is down".to_owned();
        match self.fault.load(Ordering::Relaxed) {
            UNREACHABLE => return Err(RootError::Unreachable { what: what() }),
            DENIED => return Err(RootError::Denied { what: what() }),
            FEWER => return Ok(Vec::new()),
            _ => {}
        }
        let forgets = self.fault.load(Ordering::Relaxed) == FORGETS;
        let key = if forgets { 0 } else { self.key.load(Ordering::Relaxed) };
        let unwrap = |(id, kek): &(KekId, &WrappedKek)| {
            assert_eq!(kek.annotations["nonce.example.com"], [1, 2, 3], "annotations come back");
            let bytes: Vec<u8> = kek.wrapped.iter().map(|byte| byte ^ key).collect();
            Kek::from_bytes(id.clone(), Zeroizing::new(bytes.try_into().expect("32 bytes")))
        };
        Ok(keks.iter().map(unwrap).collect())
    }
}

fn passphrase(text: &str) -> Arc<Passphrase> {
    passphrase_by(text, Arc::new(SystemRng))
}

fn passphrase_by(text: &str, rng: Arc<dyn Rng>) -> Arc<Passphrase> {
    let cost = Argon2Cost::new(64, 1, 2).expect("a low cost");
    Arc::new(Passphrase::with_cost(Zeroizing::new(text.as_bytes().to_vec()), cost, rng))
}

fn place() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("kek.json");
    (directory, path)
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).expect("written");
    fs::set_permissions(path, Permissions::from_mode(0o600)).expect("closed");
}

fn keys(keyring: &Keyring) -> Vec<(String, [u8; 32])> {
    let key = |id: &KekId| (id.to_string(), *keyring.kek(id).expect("its own").expose());
    keyring.ids().map(key).collect()
}

#[test]
fn wrapped_keys_are_read_back_and_are_not_in_the_file() {
    let roots: [Arc<dyn Root>; 2] = [passphrase(PASSPHRASE), Xor::new()];
    for root in roots {
        let (_directory, path) = place();
        let file = KekFile::new(&path, Some(root));
        let made = Keyring::create(&file, &SystemClock, &SystemRng).expect("created");
        let rotated = Keyring::rotate(&file, &SystemClock, &SystemRng).expect("rotated");
        let read = Keyring::load(&file).expect("read");
        assert_eq!(keys(&read), keys(&rotated));
        assert_eq!(read.active().id(), rotated.active().id());
        assert_eq!(keys(&read)[0], keys(&made)[0]);
        let text = fs::read_to_string(&path).expect("text");
        for (id, key) in keys(&read) {
            use base64::Engine as _;
            assert!(text.contains(&id));
            assert!(!text.contains(&base64::engine::general_purpose::STANDARD.encode(key)));
        }
        let provider = file.root().expect("a root").provider().to_owned();
        assert_eq!(Keyring::provider(&path).expect("named"), Some(provider));
        let ids = Keyring::ids_in(&path).expect("read without the root key");
        assert_eq!(ids.iter().collect::<Vec<_>>(), read.ids().collect::<Vec<_>>());
    }
}

#[test]
fn the_files_are_the_documented_ones() {
    let vectors = [
        (include_str!("../../vectors/passphrase-v2.json"), true),
        (include_str!("../../vectors/plugin-v2.json"), false),
    ];
    for (vector, by_passphrase) in vectors {
        let (_directory, path) = place();
        let rng = Arc::new(Counting::default());
        let root: Arc<dyn Root> =
            if by_passphrase { passphrase_by(PASSPHRASE, rng.clone()) } else { Xor::new() };
        let file = KekFile::new(&path, Some(root));
        Keyring::create(&file, &At(1_700_000_000_000_000), &*rng).expect("created");
        let made = Keyring::rotate(&file, &At(1_700_000_001_500_000), &*rng).expect("rotated");
        assert_eq!(fs::read_to_string(&path).expect("text"), vector);

        write(&path, vector);
        // Another process knows the passphrase alone.
        let root: Arc<dyn Root> = if by_passphrase { passphrase(PASSPHRASE) } else { Xor::new() };
        let read = Keyring::load(KekFile::new(&path, Some(root))).expect("read");
        assert_eq!(keys(&read), keys(&made));
    }
}

#[test]
fn another_passphrase_is_refused() {
    let (_directory, path) = place();
    let root = |text| KekFile::new(&path, Some(passphrase(text)));
    Keyring::create(root(PASSPHRASE), &SystemClock, &SystemRng).expect("created");
    let refused = Keyring::load(root("correct horse battery stable")).expect_err("another");
    assert!(matches!(refused, KeyringError::Root(RootError::WrongPassphrase)), "{refused}");
    let shown = format!("{:?}", passphrase(PASSPHRASE));
    assert_eq!(shown, "Passphrase(redacted)");
}

#[test]
fn a_file_of_another_provider_is_refused_with_the_command() {
    let (_directory, path) = place();
    Keyring::create(&path, &SystemClock, &SystemRng).expect("a bare one");
    assert_eq!(Keyring::provider(&path).expect("bare"), None);
    let file = KekFile::new(&path, Some(Xor::new()));
    let refused = Keyring::load(&file).expect_err("bare");
    assert_eq!(refused.to_string(), "the KEK file has its KEKs in clear, and kek.provider is 'kms-plugin'");
    let hint = refused.hint().expect("a command");
    assert_eq!(hint, "to wrap them, run: agentrouter-secrets kek move --to kms-plugin");

    Keyring::relocate(&path, file.root()).expect("moved");
    // Never the command that would write the KEKs in clear.
    let set = "set kek.provider to 'kms-plugin'";
    let moved =
        format!("{set}; or run: agentrouter-secrets kek move --kek-provider kms-plugin --to passphrase");
    for (file, asked, what_to_do) in [
        (KekFile::from(&path), "file", set.to_owned()),
        (KekFile::new(&path, Some(passphrase("x"))), "passphrase", moved),
    ] {
        let refused = Keyring::load(&file).expect_err("wrapped");
        let text =
            format!("the KEKs are wrapped by the provider 'kms-plugin', and kek.provider is '{asked}'");
        assert_eq!(refused.to_string(), text);
        assert_eq!(refused.hint().expect("a hint"), what_to_do);
    }
}

#[test]
fn moved_keys_are_the_same_keys() {
    let (_directory, path) = place();
    Keyring::create(&path, &SystemClock, &SystemRng).expect("created");
    let before = Keyring::rotate(&path, &SystemClock, &SystemRng).expect("rotated");
    let bare = fs::read(&path).expect("text");
    let ways: [Option<Arc<dyn Root>>; 4] =
        [Some(Xor::new()), Some(passphrase(PASSPHRASE)), Some(Xor::new()), None];
    let mut file = KekFile::from(&path);
    for to in ways {
        Keyring::relocate(&file, to.as_deref()).expect("moved");
        file = KekFile::new(&path, to);
        let read = Keyring::load(&file).expect("read");
        assert_eq!(keys(&read), keys(&before));
        assert_eq!(read.active().id(), before.active().id());
        assert!(read.ids().all(|id| read.created_at(id) == before.created_at(id)));
    }
    assert_eq!(fs::read(&path).expect("text"), bare, "back to the first file");
}

#[test]
fn a_root_key_that_fails_writes_nothing() {
    for (fault, expected) in [
        (UNREACHABLE, "the root key cannot be reached: the network is down"),
        (DENIED, "the use of the root key is denied: the network is down"),
        (FEWER, "the root key unwraps another key"),
        (FORGETS, "the root key unwraps another key"),
    ] {
        let (_directory, path) = place();
        let root = Xor::new();
        let file = KekFile::new(&path, Some(Arc::clone(&root) as Arc<dyn Root>));
        root.fail_with(fault);
        let refused = Keyring::create(&file, &SystemClock, &SystemRng).expect_err("it fails");
        assert!(refused.to_string().starts_with(expected), "{refused}");
        assert!(!path.exists());

        root.fail_with(NONE);
        Keyring::create(&file, &SystemClock, &SystemRng).expect("created");
        let before = fs::read(&path).expect("text");
        root.fail_with(fault);
        for result in [
            Keyring::load(&file),
            Keyring::rotate(&file, &SystemClock, &SystemRng),
            Keyring::relocate(&file, Some(&*passphrase("x"))),
        ] {
            result.expect_err("it fails");
        }
        assert_eq!(fs::read(&path).expect("text"), before);

        let (_directory, path) = place();
        Keyring::create(&path, &SystemClock, &SystemRng).expect("a bare one");
        let before = fs::read(&path).expect("text");
        Keyring::relocate(&path, Some(&*root)).expect_err("it fails");
        assert_eq!(fs::read(&path).expect("text"), before);
    }
}

#[test]
fn a_root_that_answers_with_another_key_is_refused() {
    let (_directory, path) = place();
    let root = Xor::new();
    let file = KekFile::new(&path, Some(Arc::clone(&root) as Arc<dyn Root>));
    let made = Keyring::create(&file, &SystemClock, &SystemRng).expect("created");
    root.key.store(0xfe, Ordering::Relaxed);
    match Keyring::load(&file) {
        Err(KeyringError::OtherKey { id }) => assert_eq!(id, *made.active().id()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn damaged_wrapped_files_are_refused() {
    let plugin = include_str!("../../vectors/plugin-v2.json");
    let by_passphrase = include_str!("../../vectors/passphrase-v2.json");
    let (_directory, path) = place();
    let plugin_cases = [
        (r#""format": 2"#, r#""format": 3"#),
        (r#""format": 2"#, r#""format": 1"#),
        (r#""provider": "kms-plugin""#, r#""provider": """#),
        (r#""provider": "kms-plugin""#, r#""provider": "kms-plugin", "provider": "kms-plugin""#),
        (r#""root_id": "root-1""#, r#""root_id": "a\u0007""#),
        (r#""annotations": {"#, r#""annotations": {"nonce.example.com": "AQID","#),
        (r#""annotations": {"#, r#""more": {"#),
        (r#": "AQID""#, r#": "*""#),
        (r#""check": ""#, r#""check": "AAAA"#),
        (r#""wrapped": ""#, r#""key": ""#),
    ];
    for (from, to) in plugin_cases {
        let text = plugin.replacen(from, to, 1);
        assert_ne!(text, plugin, "{from}");
        write(&path, &text);
        let refused = Keyring::load(KekFile::new(&path, Some(Xor::new()))).expect_err(to);
        assert!(!matches!(refused, KeyringError::Root(_)), "{refused}");
    }
    // Of two keys, one is another provider's.
    write(&path, &plugin.replacen("kms-plugin", "aws-kms", 1));
    let refused = Keyring::load(KekFile::new(&path, Some(Xor::new()))).expect_err("two providers");
    assert_eq!(refused.to_string(), "the KEK file is damaged: its keys have several providers");

    // A cost out of bounds takes neither memory nor time.
    for (from, to) in [
        ("m=64", "m=4294967295"),
        ("m=64", "m=2097152"),
        ("t=1", "t=4000000000"),
        ("m=64", "m=064"),
        ("argon2id", "argon2i"),
        ("v=19", "v=16"),
    ] {
        let text = by_passphrase.replace(from, to);
        assert_ne!(text, by_passphrase, "{from}");
        write(&path, &text);
        let refused = Keyring::load(KekFile::new(&path, Some(passphrase(PASSPHRASE)))).expect_err(to);
        assert!(matches!(refused, KeyringError::Root(RootError::Unusable { .. })), "{refused}");
    }
    write(&path, &by_passphrase.replacen("m=64", "m=128", 1));
    let refused = Keyring::load(KekFile::new(&path, Some(passphrase(PASSPHRASE)))).expect_err("two costs");
    assert!(refused.to_string().contains("several salts"), "{refused}");
}
