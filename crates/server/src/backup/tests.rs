//! The file: what is written comes back, and nothing else is taken for it.

use std::path::{Path, PathBuf};

use agentrouter_crypto::{ApiToken, SystemRng, seal};
use agentrouter_keyring::Keyring;
use agentrouter_model::{
    ApiKeyRecord, Clock as _, Description, Owner, Place, Realm, Scope, ScopeSet, SecretId, SecretName,
    SecretValue, SystemClock, Tags, Timestamp,
};
use agentrouter_service::unlock;
use agentrouter_store::sqlite::SqliteStore;
use agentrouter_store::{Rotation, Sealer, Store, Upsert};

use super::file::Reader;
use super::format::{Line, hex};
use super::{Filling, examine, make, restore};

/// Chance that a seed repeats.
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
        make::write(store, &self.keyring, &path).await.expect("written");
        path
    }

    /// A new store, filled from the backup at `path`.
    async fn restored(&self, path: &Path, name: &str) -> SqliteStore {
        let store = SqliteStore::open(&self.path(name), &SystemClock).expect("a store");
        let done = store.begin_import("it").await.expect("empty");
        let mut reader = Reader::open(path).expect("a backup");
        let mut filling = Filling::new(&store, done);
        while let Some(item) = reader.next().expect("whole") {
            filling.put(item).await.expect("taken");
        }
        filling.flush().await.expect("taken");
        restore::new_page_tokens(&store, &self.keyring).await.expect("kept");
        store.finish_import(Some("e")).await.expect("finished");
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

/// A store of everything that there can be, by chance.
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
                // One whose grace is over and that nobody has retired yet, and one without grace.
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
async fn what_is_backed_up_and_restored_backs_up_to_the_same_bytes() {
    let bench = Bench::new();
    for seed in 0..25 {
        let store = bench.store(&format!("a{seed}.db")).await;
        fill(&bench, &store, seed).await;
        let first = bench.backup(&store, &format!("a{seed}")).await;
        let contents = examine(&first, Some(&bench.keyring)).expect("authentic");
        assert_eq!(contents.unopened, 0, "seed {seed}");
        assert!(examine(&first, None).is_ok(), "seed {seed}");
        let again = bench.restored(&first, &format!("b{seed}.db")).await;
        let second = bench.backup(&again, &format!("b{seed}")).await;
        assert_eq!(items(&first), items(&second), "seed {seed}");
        assert_eq!(again.inspect().expect("inspected").problems, [""; 0], "seed {seed}");
        // And what the store gives is what it gave.
        assert_eq!(store.keys().await.expect("read"), again.keys().await.expect("read"), "seed {seed}");
        for owner in ["ann", "ben@example.com", "system"] {
            for (realm, number) in [("mcp", 0), ("default", 3), ("llm-keys", 7)] {
                let place = place(owner, realm, &format!("k{number}"));
                let (was, is) = (store.active(&place).await, again.active(&place).await);
                assert_eq!(was.expect("read"), is.expect("read"), "seed {seed}");
            }
        }
        assert_eq!(again.epoch().await.expect("read").as_deref(), Some("e"));
        assert_ne!(
            store.internal_key("page-tokens").await.expect("read"),
            again.internal_key("page-tokens").await.expect("read"),
            "page tokens end with the store that they are of"
        );
    }
}

/// A small backup with everything in it.
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
async fn lines_moved_lost_or_doubled_are_found_even_with_a_sum_that_fits() {
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

/// The lines as somebody would write them who can make the sum fit.
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
async fn what_was_changed_on_purpose_is_found_with_the_kek_file() {
    let bench = Bench::new();
    let whole = String::from_utf8(small(&bench).await).expect("text");
    let path = bench.path("forged");
    let forged = |from: &str, to: &str| {
        let changed = whole.replacen(from, to, 1);
        assert_ne!(changed, whole, "{from}");
        std::fs::write(&path, resummed(&changed.lines().collect::<Vec<_>>())).expect("written");
        (examine(&path, None), examine(&path, Some(&bench.keyring)))
    };
    // Somebody gives a key more than it had, and has a revoked one work again.
    for (from, to) in [
        ("secrets/read,secrets/read/internal", "secrets/read,secrets/write,secrets/read/internal"),
        ("\"user\":\"ann\"", "\"user\":\"system\""),
        ("\"env\":\"prod\"", "\"env\":\"test\""),
        ("\"epoch\":null", "\"epoch\":\"0\""),
    ] {
        let (without, with) = forged(from, to);
        assert!(without.is_ok(), "{from}: {without:?}");
        let error = with.expect_err(from).to_string();
        assert!(error.ends_with("is not authentic: somebody changed it"), "{error}");
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
    let error = examine(&path, None).expect_err("newer").to_string();
    assert!(
        error.ends_with("is of format 2, and this program knows format 1; use the newer program"),
        "{error}"
    );
}

#[tokio::test]
async fn a_backup_is_its_owners_alone_and_never_in_the_place_of_another_file() {
    use std::os::unix::fs::PermissionsExt as _;
    let bench = Bench::new();
    let store = bench.store("s.db").await;
    let path = bench.backup(&store, "b").await;
    assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
    let before = std::fs::read(&path).expect("read");
    assert!(make::write(&store, &bench.keyring, &path).await.is_err());
    assert_eq!(std::fs::read(&path).expect("read"), before);
    std::os::unix::fs::symlink("nowhere", bench.path("link")).expect("made");
    assert!(make::write(&store, &bench.keyring, &bench.path("link")).await.is_err());
    // One that an interrupted backup left is in nobody's way.
    std::fs::write(bench.path("c.partial"), "half").expect("written");
    bench.backup(&store, "c").await;
    assert!(!bench.path("c.partial").exists());
}

#[tokio::test]
async fn what_a_terminal_would_obey_is_no_programs_version() {
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
