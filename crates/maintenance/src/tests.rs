//! Backup files: a written backup is read back unchanged, and any other file is rejected.

use std::path::{Path, PathBuf};

use agentrouter_crypto::{ApiToken, SystemRng, seal};
use agentrouter_keyring::Keyring;
use agentrouter_model::{
    ApiKeyRecord, Clock as _, Description, Owner, Place, Realm, Scope, ScopeSet, SecretId, SecretName,
    SecretValue, SystemClock, Tags, Timestamp,
};
use agentrouter_service::unlock;
use agentrouter_sqlite::SqliteStore;
use agentrouter_store::portable::Item;
use agentrouter_store::prelude::*;
use agentrouter_store::{Rotation, Sealer, Store, Upsert};

use crate::backup_file::format::{FORMAT, Header, Line, hex};
use crate::backup_file::{Reader, Writer};
use crate::verify::examine;
use crate::{backup, restore};

/// Random numbers that a seed repeats.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

struct Bench {
    dir: tempfile::TempDir,
    keyring: Keyring,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let keyring =
            Keyring::create(&dir.path().join("kek.json"), &SystemClock, &SystemRng).expect("a keyring");
        Self { dir, keyring }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn sealer(&self, value: String) -> Sealer {
        let kek = std::sync::Arc::clone(self.keyring.active());
        let value = SecretValue::parse(value).expect("a value");
        Box::new(move |slot| Ok(seal(&SystemRng, &kek, slot, &value).expect("seals")))
    }

    async fn store(&self, name: &str) -> SqliteStore {
        let store = SqliteStore::open(&self.path(name), &SystemClock).expect("a store");
        unlock(&store, &self.keyring, &SystemRng).await.expect("ours");
        store
    }

    /// A backup of `store`.
    async fn backup(&self, store: &dyn Store, name: &str) -> PathBuf {
        let path = self.path(name);
        backup::write(store, &self.keyring, &path).await.expect("written");
        path
    }

    /// Fills `store` from the backup at `path`.
    async fn fill(&self, store: &dyn Store, path: &Path) -> anyhow::Result<()> {
        let contents = examine(path, Some(&self.keyring)).expect("a backup");
        let (_, keep) = restore::new_page_tokens(&self.keyring, &contents.keks).expect("a key");
        let source = format!("backup {}", contents.sha256);
        restore::fill(store, &source, Reader::open(path).expect("a backup"), &contents, &keep).await
    }

    /// A new store, filled from the backup at `path`.
    async fn restored(&self, path: &Path, name: &str) -> SqliteStore {
        let store = SqliteStore::open(&self.path(name), &SystemClock).expect("a store");
        self.fill(&store, path).await.expect("filled");
        unlock(&store, &self.keyring, &SystemRng).await.expect("ours");
        store
    }
}

fn place(owner: &str, realm: &str, name: &str) -> Place {
    Place {
        owner: Owner::parse(owner).expect("an owner"),
        realm: Realm::parse(realm).expect("a realm"),
        name: SecretName::parse(name).expect("a name"),
    }
}

async fn put(bench: &Bench, store: &dyn Store, place: &Place, value: &str, now: Timestamp) {
    let change = Upsert {
        place: place.clone(),
        new_id: SecretId::generate(&SystemClock, &SystemRng).expect("an id"),
        now,
        expected_version: None,
        description: Some(Description::parse("wofür: \"x\"\u{2028}\\").expect("a description")),
        tags: Some(Tags::parse([("env", "prod"), ("a/b", "ü \"")]).expect("tags")),
        seal: Some(bench.sealer(value.to_owned())),
    };
    store.upsert(change).await.expect("written");
}

async fn rotate(bench: &Bench, store: &dyn Store, place: &Place, now: Timestamp, grace: i64) {
    let expires_at = Timestamp::from_micros(now.as_micros() + grace);
    let seal = bench.sealer("rotated".to_owned());
    let change = Rotation { place: place.clone(), now, expires_at, expected_version: None, seal };
    store.rotate(change).await.expect("rotated");
}

fn api_key(user: &str, realms: Option<Vec<Realm>>, revoked: bool) -> ApiKeyRecord {
    let token = ApiToken::generate(&SystemRng).expect("a key");
    let now = SystemClock.now();
    ApiKeyRecord {
        id: token.id(),
        digest: token.digest(),
        name: "ci \"ü\"".to_owned(),
        user: Owner::parse(user).expect("a user"),
        scopes: [Scope::Read, Scope::ReadInternal].into_iter().collect::<ScopeSet>(),
        realm: Realm::default(),
        realms,
        created_at: now,
        expires_at: revoked.then_some(now),
        revoked_at: revoked.then_some(now),
    }
}

/// A random store with every kind of row.
async fn fill(bench: &Bench, store: &dyn Store, seed: u64) {
    let mut dice = Dice(seed);
    for _ in 0..dice.below(4) {
        let realms = (dice.below(2) == 0).then(|| vec![Realm::default()]);
        store.insert_key(&api_key("ann@example.com", realms, dice.below(2) == 0)).await.expect("kept");
    }
    let now = SystemClock.now();
    for _ in 0..dice.below(30) {
        let owner = ["ann", "ben@example.com", "system"][usize::try_from(dice.below(3)).expect("small")];
        let realm = ["mcp", "default", "llm-keys"][usize::try_from(dice.below(3)).expect("small")];
        let place = place(owner, realm, &format!("k{}", dice.below(8)));
        match dice.below(5) {
            0 | 1 => put(bench, store, &place, "v", now).await,
            2 => {
                put(bench, store, &place, "v", now).await;
                rotate(bench, store, &place, now, 3_600_000_000).await;
            }
            3 => {
                put(bench, store, &place, "v", now).await;
                // A version whose grace period is over and that is not retired yet, and one without a grace period.
                rotate(bench, store, &place, Timestamp::from_micros(now.as_micros() - 10_000_000), 1).await;
                rotate(bench, store, &place, now, 0).await;
            }
            _ => drop(store.delete(&place).await.expect("deleted")),
        }
    }
}

/// The lines of a backup that are items.
fn items(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).expect("text");
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines[1..lines.len() - 2].to_vec()
}

#[tokio::test]
async fn a_restored_store_backs_up_to_the_same_bytes() {
    let bench = Bench::new();
    for seed in 0..25 {
        let store = bench.store(&format!("a{seed}.db")).await;
        fill(&bench, &store, seed).await;
        let first = bench.backup(&store, &format!("a{seed}")).await;
        let contents = examine(&first, Some(&bench.keyring)).expect("authentic");
        assert_eq!(contents.unopened.count, 0, "seed {seed}");
        assert!(examine(&first, None).is_ok(), "seed {seed}");
        let again = bench.restored(&first, &format!("b{seed}.db")).await;
        let second = bench.backup(&again, &format!("b{seed}")).await;
        assert_eq!(items(&first), items(&second), "seed {seed}");
        assert_eq!(again.inspect().expect("inspected").problems, [""; 0], "seed {seed}");
        // The restored store returns the same items.
        assert_eq!(store.keys().await.expect("read"), again.keys().await.expect("read"), "seed {seed}");
        for owner in ["ann", "ben@example.com", "system"] {
            for (realm, number) in [("mcp", 0), ("default", 3), ("llm-keys", 7)] {
                let place = place(owner, realm, &format!("k{number}"));
                let (was, is) = (store.active(&place).await, again.active(&place).await);
                assert_eq!(was.expect("read"), is.expect("read"), "seed {seed}");
            }
        }
        assert_eq!(again.epoch().await.expect("read").map(|epoch| epoch.len()), Some(32));
        assert_ne!(
            store.internal_key("page-tokens").await.expect("read"),
            again.internal_key("page-tokens").await.expect("read"),
            "page tokens end with the store that they are of"
        );
    }
}

/// A small backup with every kind of item.
async fn small(bench: &Bench) -> Vec<u8> {
    let store = bench.store("small.db").await;
    store.insert_key(&api_key("ann", Some(vec![Realm::default()]), true)).await.expect("kept");
    let (now, place) = (SystemClock.now(), place("ann", "mcp", "k"));
    put(bench, &store, &place, "v", now).await;
    rotate(bench, &store, &place, now, 0).await;
    rotate(bench, &store, &place, now, 3_600_000_000).await;
    std::fs::read(bench.backup(&store, "small").await).expect("read")
}

#[tokio::test]
async fn every_flipped_bit_and_every_cut_is_found_without_a_kek() {
    let bench = Bench::new();
    let whole = small(&bench).await;
    let path = bench.path("damaged");
    let refused = |bytes: &[u8]| {
        std::fs::write(&path, bytes).expect("written");
        examine(&path, None).is_err()
    };
    assert!(!refused(&whole));
    let mut dice = Dice(1);
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 1 << dice.below(8);
        assert!(refused(&changed), "byte {at}");
        assert!(refused(&whole[..at]), "cut at {at}");
    }
    for more in [&b"\n"[..], b" ", b"{}", &whole] {
        assert!(refused(&[&whole, more].concat()), "something after the end");
    }
    for other in
        [&b""[..], b"\n", b"SQLite format 3\0", b"{\"backup\":{}}\n", b"{\"backup\":{\"format\":1}}\n"]
    {
        assert!(refused(other), "another file");
    }
}

#[tokio::test]
async fn moved_lost_or_doubled_lines_are_found_even_with_a_matching_hash() {
    let bench = Bench::new();
    let whole = String::from_utf8(small(&bench).await).expect("text");
    let lines: Vec<&str> = whole.lines().collect();
    let path = bench.path("changed");
    let mut kinds = std::collections::BTreeSet::new();
    for at in 1..lines.len() - 2 {
        let mut lost = lines.clone();
        lost.remove(at);
        let mut doubled = lines.clone();
        doubled.insert(at, lines[at]);
        let mut moved = lines.clone();
        moved.swap(at, at - 1);
        for changed in [lost, doubled, moved] {
            std::fs::write(&path, resummed(&changed)).expect("written");
            let error = examine(&path, None).expect_err("the number of items, or their order, does not fit");
            kinds.insert(
                error.to_string().replace(path.to_str().expect("UTF-8"), "F").replace(char::is_numeric, "N"),
            );
        }
    }
    assert!(
        kinds
            .iter()
            .all(|kind| kind.starts_with("F is damaged at line N") || kind.starts_with("F is no backup")),
        "{kinds:?}"
    );
}

/// The lines as an attacker would write them, with an updated SHA-256.
fn resummed(lines: &[&str]) -> String {
    let mut text: String = lines[..lines.len() - 1].iter().map(|line| format!("{line}\n")).collect();
    let mut hash = agentrouter_crypto::Sha256::new();
    hash.update(text.as_bytes());
    let last = Line::Sha256(hex(&hash.finish())).to_text().expect("JSON");
    text.push_str(std::str::from_utf8(&last).expect("text"));
    text.push('\n');
    text
}

#[tokio::test]
async fn a_deliberate_change_is_found_with_the_kek_file() {
    let bench = Bench::new();
    let whole = String::from_utf8(small(&bench).await).expect("text");
    let path = bench.path("forged");
    let forged = |from: &str, to: &str| {
        let changed = whole.replacen(from, to, 1);
        assert_ne!(changed, whole, "{from}");
        std::fs::write(&path, resummed(&changed.lines().collect::<Vec<_>>())).expect("written");
        (examine(&path, None), examine(&path, Some(&bench.keyring)))
    };
    // An attacker adds scopes to a key, and reactivates a revoked one.
    for (from, to) in [
        ("secrets/read,secrets/read/internal", "secrets/read,secrets/write,secrets/read/internal"),
        ("\"user\":\"ann\"", "\"user\":\"system\""),
        ("\"env\":\"prod\"", "\"env\":\"test\""),
        ("\"epoch\":null", "\"epoch\":\"0\""),
    ] {
        let (without, with) = forged(from, to);
        assert!(without.is_ok(), "{from}: {without:?}");
        let error = with.expect_err(from).to_string();
        assert!(error.ends_with("is not authentic: it was changed after it was made"), "{error}");
    }
    let other = Bench::new();
    let path = bench.path("small");
    let error = examine(&path, Some(&other.keyring)).expect_err("another installation's").to_string();
    let needed = bench.keyring.active().id().to_string();
    assert!(
        error.starts_with(&format!("the backup needs KEK '{needed}', and the KEK file holds ")),
        "{error}"
    );
}

#[tokio::test]
async fn a_newer_format_is_named() {
    let bench = Bench::new();
    let path = bench.path("newer");
    std::fs::write(&path, "{\"backup\":{\"format\":2,\"something\":\"else\"}}\n{\"x\":1}\n")
        .expect("written");
    let error = examine(&path, None).expect_err("newer");
    assert!(error.to_string().ends_with("is of format 2, and this program knows format 1"), "{error}");
    assert_eq!(agentrouter_instance::hint::of(&*error), ["use the newer program"]);
    // Format 0, which is older than the first one.
    let whole = String::from_utf8(small(&bench).await).expect("text");
    let older = whole.replacen("{\"format\":1,", "{\"format\":0,", 1);
    assert_ne!(older, whole);
    std::fs::write(&path, resummed(&older.lines().collect::<Vec<_>>())).expect("written");
    let error = examine(&path, None).expect_err("older").to_string();
    assert!(error.contains("is no backup of this program"), "{error}");
}

#[tokio::test]
async fn a_store_without_a_secret_is_backed_up_and_restored_too() {
    let bench = Bench::new();
    let store = bench.store("a.db").await;
    let path = bench.backup(&store, "a").await;
    let contents = examine(&path, Some(&bench.keyring)).expect("authentic");
    assert_eq!((contents.secrets, contents.versions, contents.api_keys), (0, 0, 0));
    let again = bench.restored(&path, "b.db").await;
    let second = bench.backup(&again, "b").await;
    assert_eq!(items(&path), items(&second));
}

#[tokio::test]
async fn a_backup_is_for_its_owner_alone_and_never_replaces_a_file() {
    use std::os::unix::fs::PermissionsExt as _;
    let bench = Bench::new();
    let store = bench.store("s.db").await;
    let path = bench.backup(&store, "b").await;
    assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
    let before = std::fs::read(&path).expect("read");
    assert!(backup::write(&store, &bench.keyring, &path).await.is_err());
    assert_eq!(std::fs::read(&path).expect("read"), before);
    std::os::unix::fs::symlink("nowhere", bench.path("link")).expect("made");
    assert!(backup::write(&store, &bench.keyring, &bench.path("link")).await.is_err());
    // The partial file of an interrupted backup does not block the next one.
    std::fs::write(bench.path("c.partial"), "half").expect("written");
    bench.backup(&store, "c").await;
    assert!(!bench.path("c.partial").exists());
}

/// The items of a backup.
fn read(path: &Path) -> Vec<Item> {
    let mut reader = Reader::open(path).expect("a backup");
    std::iter::from_fn(|| reader.next().expect("whole")).collect()
}

#[tokio::test]
async fn an_interrupted_restore_continues_where_it_ended() {
    let bench = Bench::new();
    let store = bench.store("a.db").await;
    fill(&bench, &store, 3).await;
    let path = bench.backup(&store, "a").await;
    let (items, sha256) = (read(&path), examine(&path, None).expect("whole").sha256);
    let mut ends: Vec<usize> =
        (0..items.len()).filter(|at| !matches!(items[*at], Item::Version(_))).collect();
    ends.push(items.len());
    assert!(ends.len() > 10, "{}", ends.len());
    for end in ends {
        let again = SqliteStore::open(&bench.path(&format!("b{end}.db")), &SystemClock).expect("a store");
        again.begin_import(&format!("backup {sha256}")).await.expect("empty");
        again.import(0, items[..end].to_vec()).await.expect("taken");
        if end == items.len() {
            // The state after an attempt that was interrupted just before its end.
            again.insert_internal_key("page-tokens", bench.keyring.active().id(), b"x").await.expect("kept");
        }
        bench.fill(&again, &path).await.expect("it continues");
        let second = bench.backup(&again, &format!("b{end}")).await;
        assert!(read(&second) == items, "behind {end} items");
    }
}

#[tokio::test]
async fn a_restore_never_ends_with_parts_of_two_backups() {
    let bench = Bench::new();
    let store = bench.store("a.db").await;
    let now = SystemClock.now();
    put(&bench, &store, &place("ann", "mcp", "k1"), "v", now).await;
    put(&bench, &store, &place("ann", "mcp", "k2"), "v", now).await;
    let first = bench.backup(&store, "first").await;
    rotate(&bench, &store, &place("ann", "mcp", "k1"), now, 0).await;
    put(&bench, &store, &place("ann", "mcp", "k0"), "v", now).await;
    let second = bench.backup(&store, "second").await;
    let sha256 = examine(&first, None).expect("whole").sha256;

    // Items of an earlier attempt from a file that was replaced meanwhile.
    let items = read(&second);
    for count in 1..=items.len() {
        let target = SqliteStore::open(&bench.path(&format!("t{count}.db")), &SystemClock).expect("a store");
        target.begin_import(&format!("backup {sha256}")).await.expect("empty");
        target.import(0, items[..count].to_vec()).await.expect("taken");
        let restored = bench.fill(&target, &first).await;
        if items[..count] == read(&first)[..count.min(read(&first).len())] {
            restored.expect("the part that both have");
            continue;
        }
        let error = restored.expect_err("another one's").to_string();
        assert!(error.contains("differs from what should be"), "{error}");
        assert!(target.unfinished_import().await.expect("read").is_some(), "it is not served");
    }

    // A file that is replaced between the check and the restore.
    let target = SqliteStore::open(&bench.path("u.db"), &SystemClock).expect("a store");
    let contents = examine(&first, Some(&bench.keyring)).expect("authentic");
    let (_, keep) = restore::new_page_tokens(&bench.keyring, &contents.keks).expect("a key");
    let reader = Reader::open(&second).expect("a backup");
    let error = restore::fill(&target, "backup it", reader, &contents, &keep).await.expect_err("changed");
    assert!(error.to_string().contains("was changed while it was read"), "{error}");
    assert!(target.unfinished_import().await.expect("read").is_some(), "it is not served");
}

#[tokio::test]
async fn parts_of_two_backups_are_no_backup() {
    let bench = Bench::new();
    let store = bench.store("a.db").await;
    let (now, at) = (SystemClock.now(), place("ann", "mcp", "k"));
    put(&bench, &store, &at, "v", now).await;
    let first = std::fs::read_to_string(bench.backup(&store, "first").await).expect("text");
    // The same number of items, in the same order.
    put(&bench, &store, &at, "w", now).await;
    store.delete(&at).await.expect("deleted");
    put(&bench, &store, &at, "w", now).await;
    let second = std::fs::read_to_string(bench.backup(&store, "second").await).expect("text");
    let (first, second): (Vec<&str>, Vec<&str>) = (first.lines().collect(), second.lines().collect());
    assert_eq!(first.len(), second.len());
    let path = bench.path("spliced");
    for at in 1..first.len() - 1 {
        for (head, tail) in [(&first, &second), (&second, &first)] {
            let spliced = [&head[..at], &tail[at..]].concat();
            if spliced[..spliced.len() - 1] == head[..head.len() - 1] {
                continue;
            }
            std::fs::write(&path, resummed(&spliced)).expect("written");
            assert!(examine(&path, Some(&bench.keyring)).is_err(), "spliced at {at}");
        }
    }
}

#[tokio::test]
async fn control_characters_are_no_program_version() {
    let bench = Bench::new();
    let whole = String::from_utf8(small(&bench).await).expect("text");
    let path = bench.path("forged");
    let version = concat!("\"program\":\"", env!("CARGO_PKG_VERSION"), "\"");
    for forged in ["\\u001b[2J", "", "a b", "ü", &"1".repeat(65)] {
        let changed = whole.replacen(version, &format!("\"program\":\"{forged}\""), 1);
        assert_ne!(changed, whole);
        std::fs::write(&path, resummed(&changed.lines().collect::<Vec<_>>())).expect("written");
        let error = examine(&path, None).expect_err(forged).to_string();
        assert!(error.contains("is no backup of this program"), "{error}");
        assert!(!error.contains('\u{1b}'), "{error:?}");
    }
}

fn header(bench: &Bench) -> Header {
    Header {
        format: FORMAT,
        created_at: 0,
        program: "1".to_owned(),
        kek_id: bench.keyring.active().id().to_string(),
        key: String::new(),
        epoch: None,
        audit_head: None,
    }
}

#[test]
fn a_backup_whose_name_cannot_be_flushed_is_removed() {
    let bench = Bench::new();
    let path = bench.path("b");
    let writer = Writer::create(&path, header(&bench)).expect("started");
    let failed = writer.settle(|_| Err(std::io::Error::other("the disk failed")));
    assert!(failed.is_err() && !path.exists());
    let left = std::fs::read_dir(bench.dir.path()).expect("listed").flatten();
    assert_eq!(left.map(|entry| entry.file_name()).collect::<Vec<_>>(), ["kek.json"]);
}

#[tokio::test]
async fn a_backup_that_does_not_read_back_is_removed() {
    let bench = Bench::new();
    let path = bench.path("b");
    let key = agentrouter_crypto::InternalKey::generate(&SystemRng).expect("a key");
    let writer = Writer::create(&path, header(&bench)).expect("started");
    // Its first line is no key.
    let read = writer.finish(&key, |written| examine(written, Some(&bench.keyring)));
    assert!(read.is_err() && !path.exists() && !bench.path("b.partial").exists(), "{read:?}");
}

#[test]
fn the_partial_files_of_killed_processes_are_removed_and_no_others() {
    let bench = Bench::new();
    let killed = std::fs::read({
        let path = bench.path("killed");
        let writer = Writer::create(&path, header(&bench)).expect("started");
        let copy = bench.path("copy");
        std::fs::copy(bench.path("killed.partial"), &copy).expect("copied");
        drop(writer);
        copy
    });
    let killed = killed.expect("read");
    std::fs::write(bench.path("monday.partial"), &killed).expect("written");
    std::fs::write(bench.path("another.partial"), "another program's").expect("written");
    std::os::unix::fs::symlink(bench.path("copy"), bench.path("link.partial")).expect("linked");
    let running = Writer::create(&bench.path("running"), header(&bench)).expect("started");
    let _next = Writer::create(&bench.path("next"), header(&bench)).expect("started");
    let is_there = |name: &str| bench.path(name).symlink_metadata().is_ok();
    assert!(!is_there("monday.partial"));
    for name in ["another.partial", "link.partial", "running.partial", "next.partial", "copy"] {
        assert!(is_there(name), "{name}");
    }
    drop(running);
}

#[test]
fn two_processes_do_not_write_one_backup() {
    let bench = Bench::new();
    let path = bench.path("b");
    let first = Writer::create(&path, header(&bench)).expect("started");
    let Err(second) = Writer::create(&path, header(&bench)) else { panic!("both started") };
    assert!(second.to_string().contains("is being written by another process"), "{second}");
    assert!(bench.path("b.partial").exists(), "it is the first one's");
    drop(first);
    assert!(Writer::create(&path, header(&bench)).is_ok());
}
