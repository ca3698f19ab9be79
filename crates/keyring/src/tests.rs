use std::error::Error;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use agentrouter_crypto::SystemRng;
use agentrouter_model::SystemClock;
use tempfile::TempDir;

use super::*;

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

/// A generator that fails after the given number of fills.
struct FailingAfter(AtomicU64);

impl Rng for FailingAfter {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), RngError> {
        if self.0.load(Ordering::Relaxed) == 0 {
            return Err(RngError);
        }
        self.0.fetch_sub(1, Ordering::Relaxed);
        SystemRng.fill(bytes)
    }
}

fn new_path() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("kek.json");
    (directory, path)
}

fn created(path: &Path) -> Keyring {
    Keyring::create(path, &SystemClock, &SystemRng).expect("created")
}

fn written(path: &Path, text: &str) {
    fs::write(path, text).expect("written");
    chmod(path, 0o600);
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("mode set");
}

fn names(directory: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(directory.path()).expect("listed");
    entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8")).collect()
}

fn assert_same(a: &Keyring, b: &Keyring) {
    assert_eq!(a.active().id(), b.active().id());
    assert!(a.ids().eq(b.ids()));
    for id in a.ids() {
        let (a_kek, b_kek) = (a.kek(id).expect("in a"), b.kek(id).expect("in b"));
        assert!(a_kek.expose() == b_kek.expose());
        assert_eq!(a.created_at(id), b.created_at(id));
    }
}

/// All texts of an error and of its sources.
fn all_texts(error: &KeyringError) -> String {
    let mut text = format!("{error} {error:?}");
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(" {error} {error:?}");
        source = error.source();
    }
    text
}

#[test]
fn a_created_keyring_loads() {
    let (directory, path) = new_path();
    let keyring = created(&path);
    assert_same(&keyring, &Keyring::load(&path).expect("loaded"));
    assert_eq!(keyring.ids().len(), 1);
    assert!(Arc::ptr_eq(keyring.active(), keyring.kek(keyring.active().id()).expect("active")));
    assert!(keyring.kek(&KekId::parse("kek-other").expect("an id")).is_none());
    assert_eq!(names(&directory), ["kek.json"]);
    assert_eq!(path.metadata().expect("metadata").mode() & 0o7777, 0o600);
}

#[test]
fn the_file_is_the_documented_one() {
    let (_directory, path) = new_path();
    let (clock, rng) = (At(1_700_000_000_000_000), Counting::default());
    Keyring::create(&path, &clock, &rng).expect("created");
    Keyring::rotate(&path, &At(1_700_000_001_500_000), &rng).expect("rotated");
    let text = fs::read_to_string(&path).expect("read");
    let expected = r#"{
  "format": 1,
  "active": "kek-01HF7YAVEW0C1G60R30C1G60R3",
  "keys": [
    {
      "kek_id": "kek-01HF7YAT00040G2081040G2081",
      "key": "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=",
      "created_at": "2023-11-14T22:13:20.000000Z"
    },
    {
      "kek_id": "kek-01HF7YAVEW0C1G60R30C1G60R3",
      "key": "BAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQ=",
      "created_at": "2023-11-14T22:13:21.500000Z"
    }
  ]
}
"#;
    assert_eq!(text, expected);

    let keyring = Keyring::load(&path).expect("loaded");
    let ids: Vec<&KekId> = keyring.ids().collect();
    assert_eq!(keyring.kek(ids[0]).expect("first").expose(), &[2; 32]);
    assert_eq!(keyring.active().expose(), &[4; 32]);
    assert_eq!(keyring.created_at(ids[1]), Some(Timestamp::from_micros(1_700_000_001_500_000)));
}

#[test]
fn create_never_overwrites() {
    let (directory, path) = new_path();
    let before = created(&path);
    let refused = Keyring::create(&path, &SystemClock, &SystemRng).expect_err("exists");
    assert!(matches!(refused, KeyringError::Exists { .. }));
    assert_same(&before, &Keyring::load(&path).expect("loaded"));

    let empty = directory.path().join("empty");
    File::create(&empty).expect("made");
    let folder = directory.path().join("folder");
    fs::create_dir(&folder).expect("made");
    let dangling = directory.path().join("dangling");
    symlink(directory.path().join("nowhere"), &dangling).expect("made");
    for path in [&empty, &folder, &dangling] {
        let refused = Keyring::create(path, &SystemClock, &SystemRng).expect_err("exists");
        assert!(matches!(refused, KeyringError::Exists { .. }), "{refused}");
    }
    assert_eq!(empty.metadata().expect("metadata").len(), 0);
    assert!(!directory.path().join("nowhere").exists());
    assert_eq!(names(&directory).len(), 4);
}

#[test]
fn a_file_that_others_may_read_or_change_is_refused() {
    let (_directory, path) = new_path();
    created(&path);
    for mode in [0o604, 0o602, 0o620, 0o622, 0o644, 0o660, 0o666, 0o777, 0o606] {
        chmod(&path, mode);
        let error = Keyring::load(&path).expect_err("exposed");
        assert!(matches!(error, KeyringError::Exposed { .. }));
        assert!(error.to_string().contains(&format!("{mode:04o}")), "{error}");
        assert_eq!(error.hint().expect("a command"), format!("chmod 600 '{}'", path.display()));
        assert!(Keyring::rotate(&path, &SystemClock, &SystemRng).is_err());
    }
    for mode in [0o600, 0o400, 0o640, 0o440, 0o700] {
        chmod(&path, mode);
        assert!(Keyring::load(&path).is_ok(), "{mode:o}");
    }
}

#[test]
fn a_missing_file_is_missing() {
    let (directory, path) = new_path();
    for result in [Keyring::load(&path), Keyring::rotate(&path, &SystemClock, &SystemRng)] {
        let error = result.expect_err("missing");
        assert!(matches!(error, KeyringError::Missing { .. }));
    }
    assert_eq!(names(&directory).len(), 0);
    let nowhere = directory.path().join("no/folder/kek.json");
    let error = Keyring::create(&nowhere, &SystemClock, &SystemRng).expect_err("no directory");
    assert!(matches!(error, KeyringError::Write { .. }));
}

#[test]
fn a_path_that_is_not_a_regular_file_is_refused_at_once() {
    let (directory, _) = new_path();
    let pipe = directory.path().join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::from_raw_mode(0o600)).expect("made");
    for path in [&pipe, &directory.path().to_owned()] {
        let error = Keyring::load(path).expect_err("no file");
        assert!(matches!(error, KeyringError::Malformed { .. }));
    }
    let large = directory.path().join("large");
    written(&large, &" ".repeat((1 << 20) + 1));
    assert!(matches!(Keyring::load(&large), Err(KeyringError::Malformed { .. })));
}

#[test]
fn damaged_files_are_refused_and_never_quoted() {
    const KEY: &str = "Y2FuYXJ5Y2FuYXJ5Y2FuYXJ5Y2FuYXJ5Y2FuYXJ5MDE="; // "canarycanary…01"
    let entry = |id: &str, key: &str| {
        format!(r#"{{"kek_id":"{id}","key":"{key}","created_at":"2026-11-05T09:00:00Z"}}"#)
    };
    let file = |active: &str, keys: &str| format!(r#"{{"format":1,"active":"{active}","keys":[{keys}]}}"#);
    let good = file("a", &entry("a", KEY));
    let (_directory, path) = new_path();
    written(&path, &good);
    assert_eq!(Keyring::load(&path).expect("the good one").active().expose()[..6], *b"canary");

    let cases = [
        String::new(),
        "canary".into(),
        "null".into(),
        "[]".into(),
        "{}".into(),
        format!("{good}{good}"),
        good[..good.len() - 1].into(),
        good.replace(r#""format":1"#, r#""format":"canary""#),
        good.replace(r#""format":1"#, r#""format":1,"format":1"#),
        good.replace(r#""format":1,"#, ""),
        good.replace(r#""format":1"#, r#""format":1,"canary":1"#),
        good.replace(r#""created_at""#, r#""canary":"canary","created_at""#),
        good.replace(r#""key":"#, r#""key":"canary","key":"#),
        good.replace(r#""active":"a","#, ""),
        file("canary", &entry("a", KEY)),
        file("a", ""),
        file("a", &format!("{},{}", entry("a", KEY), entry("a", KEY))),
        file("a", &entry("a", "")),
        file("a", &entry("a", &KEY[..40])),
        file("a", &entry("a", &KEY[..43])),
        file("a", &entry("a", &KEY.replace('=', "0"))),
        file("a", &entry("a", &KEY.replace("MDE=", "MDF="))),
        file("a", &entry("a", &format!("{KEY}AAAA"))),
        file("a", &entry("a", &KEY.replace('Y', "*"))),
        file("a", &entry("a", &KEY.replace('Y', "-"))),
        file("a", &entry("a", &format!(" {KEY}"))),
        file("canary id", &entry("canary id", KEY)),
        file("", &entry("", KEY)),
        good.replace("2026-11-05T09:00:00Z", "canary"),
        good.replace("2026-11-05T09:00:00Z", "2026-11-05"),
        good.replace(&format!("\"{KEY}\""), "42"),
    ];
    for case in cases {
        written(&path, &case);
        let error = Keyring::load(&path).expect_err(&case);
        assert!(matches!(error, KeyringError::Malformed { .. }), "{case}");
        let text = all_texts(&error);
        assert!(!text.contains("canary") && !text.contains("Y2Fu"), "{text}");
        // A rotation does not change a file that it cannot read.
        assert!(Keyring::rotate(&path, &SystemClock, &SystemRng).is_err());
        assert_eq!(fs::read_to_string(&path).expect("read"), case);
    }
}

#[test]
fn a_later_format_has_its_own_error() {
    let (_directory, path) = new_path();
    written(&path, r#"{"format":3,"something":"else"}"#);
    assert!(matches!(Keyring::load(&path), Err(KeyringError::UnknownFormat)));
}

#[test]
fn a_rotation_adds_an_active_key_and_keeps_the_others() {
    let (directory, path) = new_path();
    let first = created(&path);
    let second = Keyring::rotate(&path, &SystemClock, &SystemRng).expect("rotated");
    let third = Keyring::rotate(&path, &SystemClock, &SystemRng).expect("rotated");
    assert_same(&third, &Keyring::load(&path).expect("loaded"));

    let ids: Vec<&KekId> = third.ids().collect();
    assert_eq!(ids, [first.active().id(), second.active().id(), third.active().id()]);
    for earlier in [&first, &second] {
        let kept = third.kek(earlier.active().id()).expect("kept");
        assert!(kept.expose() == earlier.active().expose());
    }
    assert!(third.active().expose() != second.active().expose());
    assert_eq!(names(&directory), ["kek.json"]);
}

#[test]
fn a_rotation_keeps_the_files_mode_and_a_symbolic_link_to_it() {
    let (directory, path) = new_path();
    created(&path);
    chmod(&path, 0o640);
    let link = directory.path().join("link.json");
    symlink("kek.json", &link).expect("linked");
    let before = path.metadata().expect("metadata");

    Keyring::rotate(&link, &SystemClock, &SystemRng).expect("rotated");
    let after = path.metadata().expect("metadata");
    assert_eq!(after.mode() & 0o7777, 0o640);
    assert_eq!((after.uid(), after.gid()), (before.uid(), before.gid()));
    assert_ne!(after.ino(), before.ino());
    assert!(link.is_symlink());
    assert_eq!(Keyring::load(&path).expect("loaded").ids().len(), 2);
}

#[test]
fn a_rotation_that_fails_changes_nothing() {
    let (directory, path) = new_path();
    created(&path);
    let before = fs::read(&path).expect("read");
    for fills in 0..2 {
        let error = Keyring::rotate(&path, &SystemClock, &FailingAfter(fills.into())).expect_err("no chance");
        assert!(matches!(error, KeyringError::Crypto(_)));
    }
    // A directory in the place of the temporary file.
    fs::create_dir(directory.path().join(".kek.json.new")).expect("made");
    let error = Keyring::rotate(&path, &SystemClock, &SystemRng).expect_err("in the way");
    assert!(matches!(error, KeyringError::Write { .. }));
    assert_eq!(fs::read(&path).expect("read"), before);
}

#[test]
fn the_temporary_file_of_a_crash_is_replaced() {
    let (directory, path) = new_path();
    let left = directory.path().join(".kek.json.new");
    fs::write(&left, "half a key ri").expect("written");
    chmod(&left, 0o666);
    created(&path);
    fs::write(&left, "half a key ri").expect("written");
    Keyring::rotate(&path, &SystemClock, &SystemRng).expect("rotated");
    assert_eq!(names(&directory), ["kek.json"]);
    assert_eq!(path.metadata().expect("metadata").mode() & 0o7777, 0o600);
}

#[test]
fn a_second_writer_is_refused() {
    let (directory, path) = new_path();
    created(&path);
    let held = File::open(directory.path()).expect("opened");
    held.lock().expect("locked");
    let other = directory.path().join("other.json");
    let results =
        [Keyring::rotate(&path, &SystemClock, &SystemRng), Keyring::create(&other, &SystemClock, &SystemRng)];
    for result in results {
        assert!(matches!(result, Err(KeyringError::Busy)));
    }
    drop(held);
    assert!(Keyring::rotate(&path, &SystemClock, &SystemRng).is_ok());
}

#[test]
fn concurrent_rotations_keep_every_key() {
    let (_directory, path) = new_path();
    created(&path);
    let rotate = || loop {
        match Keyring::rotate(&path, &SystemClock, &SystemRng) {
            Ok(keyring) => return keyring.active().id().clone(),
            Err(KeyringError::Busy) => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    };
    let ids: Vec<KekId> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| [(); 4].map(|()| rotate()))).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
    });
    let keyring = Keyring::load(&path).expect("loaded");
    assert_eq!((ids.len(), keyring.ids().len()), (16, 17));
    assert!(ids.iter().all(|id| keyring.kek(id).is_some()));
}

#[test]
fn exactly_one_of_concurrent_creations_succeeds() {
    let (directory, path) = new_path();
    let made: Vec<_> = std::thread::scope(|scope| {
        let create = || Keyring::create(&path, &SystemClock, &SystemRng);
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(create)).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    let mut winners = made.iter().filter_map(|result| result.as_ref().ok());
    assert_same(winners.next().expect("one winner"), &Keyring::load(&path).expect("loaded"));
    assert!(winners.next().is_none());
    let losers = made.iter().filter_map(|result| result.as_ref().err());
    assert!(losers.into_iter().all(|e| matches!(e, KeyringError::Busy | KeyringError::Exists { .. })));
    assert_eq!(names(&directory), ["kek.json"]);
}

#[test]
fn the_debug_form_of_a_keyring_has_no_key() {
    let (_directory, path) = new_path();
    let keyring = Keyring::create(&path, &SystemClock, &Counting::default()).expect("created");
    let shown = format!("{keyring:?} {:?}", keyring.active());
    assert!(shown.contains(keyring.active().id().as_str()));
    assert!(!shown.contains("2, 2, 2") && !shown.contains("AgIC"), "{shown}");
}

#[test]
fn a_hundred_keys_fit() {
    let (_directory, path) = new_path();
    let mut keyring = created(&path);
    for _ in 0..100 {
        keyring = Keyring::rotate(&path, &SystemClock, &SystemRng).expect("rotated");
    }
    assert_same(&keyring, &Keyring::load(&path).expect("loaded"));
}

#[test]
fn a_key_is_added_for_unwrapping_activated_and_removed() {
    let (directory, path) = new_path();
    let first = created(&path).active().id().clone();
    // A clock that steps back makes no key older than the ones before.
    let (added, second) = Keyring::add(&path, &At(1), &SystemRng).expect("added");
    assert_same(&added, &Keyring::load(&path).expect("loaded"));
    assert_eq!((added.active().id(), added.newest()), (&first, &second));
    assert!(added.rank(&second) > added.rank(&first));

    let unknown = KekId::parse("kek-other").expect("an id");
    for result in [Keyring::activate(&path, &unknown), Keyring::remove(&path, &unknown)] {
        assert!(matches!(result, Err(KeyringError::UnknownKek { .. })));
    }
    assert!(matches!(Keyring::remove(&path, &first), Err(KeyringError::ActiveKek { .. })));
    assert_same(&added, &Keyring::load(&path).expect("loaded"));

    let stamp = Stamp::of(&path);
    let active = Keyring::activate(&path, &second).expect("activated");
    assert_ne!(Stamp::of(&path), stamp);
    assert_eq!(active.active().id(), &second);
    let removed = Keyring::remove(&path, &first).expect("removed");
    assert_same(&removed, &Keyring::load(&path).expect("loaded"));
    assert_eq!(removed.ids().collect::<Vec<_>>(), [&second]);
    assert!(!fs::read_to_string(&path).expect("read").contains(first.as_str()));
    assert_eq!(names(&directory), ["kek.json"]);
    assert_eq!(Stamp::of(&directory.path().join("none")), None);
}

#[test]
fn the_hint_of_a_file_on_a_read_only_mount_says_so() {
    let failed =
        |kind: std::io::ErrorKind| KeyringError::Write { path: "kek.json".into(), source: kind.into() };
    let hint = |kind| failed(kind).hint().expect("a hint").into_owned();
    assert!(hint(std::io::ErrorKind::ReadOnlyFilesystem).contains("a mounted Secret of Kubernetes"));
    assert!(hint(std::io::ErrorKind::StorageFull).contains("free space"));
}

#[test]
fn the_ids_in_a_file_are_read_without_its_keys() {
    let (_dir, path) = new_path();
    let keyring = created(&path);
    assert_eq!(
        Keyring::ids_in(&path).expect("read").iter().collect::<Vec<_>>(),
        keyring.ids().collect::<Vec<_>>()
    );
    written(&path, "{}");
    assert!(Keyring::ids_in(&path).is_err());
}
