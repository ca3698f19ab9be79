use std::sync::mpsc;

use agentrouter_crypto::{InternalKey, SystemRng};
use agentrouter_model::{Owner, Realm, ScopeSet, Timestamp};
use agentrouter_testkit::FixedClock;

use super::*;

/// Keeps what is known, in order.
#[derive(Clone, Default)]
struct KeptInOrder(Arc<Mutex<Vec<Known>>>);

impl KeptInOrder {
    fn last(&self) -> Option<Known> {
        self.0.lock().expect("no panic").last().copied()
    }
}

impl Memory for KeptInOrder {
    fn keep(&self, known: Known) -> std::io::Result<()> {
        self.0.lock().expect("no panic").push(known);
        Ok(())
    }
}

struct Bench {
    key: InternalKey,
    kept: KeptInOrder,
    clock: Arc<FixedClock>,
}

impl Bench {
    fn new() -> Self {
        let key = InternalKey::generate(&SystemRng).expect("random");
        Self { key, kept: KeptInOrder::default(), clock: Arc::new(FixedClock::default()) }
    }

    /// A server that starts with the generation that was kept last.
    fn server(&self) -> KeyManifest {
        self.server_with(self.kept.last())
    }

    fn server_with(&self, remembered: Option<Known>) -> KeyManifest {
        let key = self.key.row_key().expect("derived");
        KeyManifest::new(
            key,
            remembered,
            Box::new(self.kept.clone()),
            Arc::clone(&self.clock) as Arc<dyn Clock>,
        )
    }
}

fn key(id: &str) -> ApiKeyRecord {
    ApiKeyRecord {
        id: ApiKeyId::parse(id).expect("an id"),
        digest: [7; 32],
        name: String::new(),
        user: Owner::parse("ann").expect("a user"),
        scopes: ScopeSet::ALL,
        realm: Realm::default(),
        realms: None,
        created_at: Timestamp::from_micros(0),
        expires_at: None,
        revoked_at: None,
    }
}

fn a() -> ApiKeyRecord {
    key("AAAAAAAAAAAAAAAA")
}

fn b() -> ApiKeyRecord {
    key("BBBBBBBBBBBBBBBB")
}

fn revoked(key: ApiKeyRecord, at: i64) -> ApiKeyRecord {
    ApiKeyRecord { revoked_at: Some(Timestamp::from_micros(at)), ..key }
}

fn revise(server: &KeyManifest, present: Option<&str>, change: KeyChange<'_>) -> String {
    let text = server.revise(present, change).expect("revised").expect("a manifest");
    assert_eq!(server.note(Some(&text)), Admission::Admitted);
    text
}

#[test]
fn a_key_is_admitted_as_it_was_issued_and_no_other() {
    let bench = Bench::new();
    let server = bench.server();
    let first = revise(&server, None, KeyChange::All(&[]));
    let text = revise(&server, Some(&first), KeyChange::Issued(&a()));
    assert_eq!(server.admit(Some(&text), &a()), Admission::Admitted);
    let altered = ApiKeyRecord { user: Owner::System, ..a() };
    assert_eq!(server.admit(Some(&text), &altered), Admission::Refused(DIFFERENT));
    assert_eq!(server.admit(Some(&text), &b()), Admission::Refused(UNLISTED));
    assert_eq!(server.listed(Some(&text)), [a().id]);
}

#[test]
fn a_revoked_key_stays_revoked_whatever_is_put_back() {
    let bench = Bench::new();
    let server = bench.server();
    let before = revise(&server, None, KeyChange::All(&[a(), b()]));
    let at = Timestamp::from_micros(5);
    let change = KeyChange::Revoked { id: &a().id, before: Some(&a()), at };
    let after = revise(&server, Some(&before), change);
    assert_eq!(server.admit(Some(&after), &revoked(a(), 5)), Admission::Admitted);
    for _restart in 0..2 {
        let server = bench.server();
        assert_eq!(server.admit(Some(&after), &a()), Admission::Refused(DIFFERENT), "the row is put back");
        assert_eq!(server.admit(Some(&before), &a()), Admission::Older, "row and manifest are put back");
        assert_eq!(server.admit(None, &a()), Admission::Refused(ABSENT), "the manifest is removed");
        assert_eq!(server.admit(Some(&after), &b()), Admission::Admitted, "the others work");
    }

    // A revocation of a row that is not authentic believes nothing that the row says.
    let forged = ApiKeyRecord { name: "forged".to_owned(), ..b() };
    let change = KeyChange::Revoked { id: &b().id, before: Some(&forged), at };
    let last = revise(&server, Some(&after), change);
    assert_eq!(server.admit(Some(&last), &forged), Admission::Refused(DIFFERENT));
    assert_eq!(server.admit(Some(&last), &b()), Admission::Refused(DIFFERENT));
    assert_eq!(server.admit(Some(&last), &revoked(forged, 5)), Admission::Admitted, "no problem is left");
    assert_eq!(server.listed(Some(&last)), [a().id], "its row may be deleted");
}

#[test]
fn a_manifest_is_authentic_as_a_whole() {
    let bench = Bench::new();
    let server = bench.server();
    let text = revise(&server, None, KeyChange::All(&[a(), b()]));
    for at in 0..text.len() {
        let mut altered = text.clone().into_bytes();
        altered[at] ^= 1;
        let altered = String::from_utf8(altered).expect("ASCII");
        assert_eq!(server.note(Some(&altered)), Admission::Refused(ALTERED), "byte {at}");
    }
    for altered in [String::new(), "\n".to_owned(), format!("{text}\n"), text.replacen('\n', "\n\n", 1)] {
        assert_eq!(server.note(Some(&altered)), Admission::Refused(ALTERED), "{altered}");
    }
    let other = Bench::new().server();
    assert_eq!(other.note(Some(&text)), Admission::Refused(ALTERED), "under another key");
    assert!(
        matches!(server.revise(Some("x"), KeyChange::Issued(&a())), Err(StoreError::KeyManifest(ALTERED))),
        "nothing is issued on top of it"
    );
}

#[test]
fn a_revocation_on_top_of_a_damaged_manifest_cannot_be_undone() {
    let change = KeyChange::Revoked { id: &a().id, before: Some(&a()), at: Timestamp::from_micros(5) };
    for damaged in [Some("x"), None] {
        let bench = Bench::new();
        let server = bench.server();
        let saved = revise(&server, None, KeyChange::All(&[a(), b()]));
        let after = revise(&server, damaged, change);
        for server in [&server, &bench.server()] {
            assert_eq!(
                server.admit(Some(&after), &a()),
                Admission::Refused(DIFFERENT),
                "the row is put back"
            );
            assert_eq!(server.admit(Some(&saved), &a()), Admission::Older, "row and manifest are put back");
            assert_eq!(server.admit(Some(&after), &b()), Admission::Admitted, "the others work");
        }

        // A server that has seen no authentic manifest since its start.
        let server = bench.server();
        assert_eq!(server.revise(damaged, change).expect("revoked all the same"), None);
        for server in [&server, &bench.server()] {
            assert_eq!(server.admit(Some(&after), &b()), Admission::Older, "no manifest from before counts");
        }
    }
}

#[test]
fn generations_rise_with_a_clock_that_stands_and_after_a_restore() {
    let bench = Bench::new();
    let server = bench.server();
    let mut text = revise(&server, None, KeyChange::All(&[]));
    let mut last = bench.kept.last().expect("kept");
    for _ in 0..3 {
        text = revise(&server, Some(&text), KeyChange::Issued(&a()));
        let now = bench.kept.last().expect("kept");
        assert!(now > last);
        last = now;
    }
    let restored = bench.server_with(None).of_import(false);
    let text = revise(&restored, None, KeyChange::All(&[a()]));
    assert_eq!(server.note(Some(&text)), Admission::Older, "on a clock that stands");
    bench.clock.advance(std::time::Duration::from_secs(1));
    let text = revise(&restored, None, KeyChange::All(&[a()]));
    assert_eq!(server.note(Some(&text)), Admission::Admitted);

    // An import into the same directory on a clock that went back.
    bench.clock.set(Timestamp::from_micros(0));
    let import = bench.server().of_import(false);
    assert_eq!(import.admit(None, &b()), Admission::Admitted, "until it is done");
    let text = revise(&import, None, KeyChange::All(&[b()]));
    assert_eq!(server.admit(Some(&text), &b()), Admission::Admitted);

    // A move: the old store and the new one have the same generation, until one of them changes.
    let moved = revise(&bench.server().of_import(true), None, KeyChange::All(&[b()]));
    assert_eq!(moved, text);
    let changed = revise(&server, Some(&moved), KeyChange::Issued(&a()));
    assert_eq!(server.note(Some(&changed)), Admission::Admitted);
    assert_eq!(server.note(Some(&text)), Admission::Older);
}

#[test]
fn every_key_is_admitted_until_the_store_is_authenticated() {
    let bench = Bench::new();
    let server = bench.server();
    assert_eq!(server.admit(None, &a()), Admission::Admitted);
    assert_eq!(server.revise(None, KeyChange::Issued(&a())).expect("issued"), None);
    let text = revise(&bench.server(), None, KeyChange::All(&[b()]));
    assert_eq!(server.admit(Some(&text), &a()), Admission::Refused(UNLISTED));
    assert_eq!(server.admit(None, &b()), Admission::Refused(ABSENT), "from then on");
}

fn secret() -> Secret {
    Secret {
        id: agentrouter_model::SecretId::parse("01ARZ3NDEKTSV4RRFFQ69G5FAV").expect("an id"),
        place: agentrouter_model::Place {
            owner: Owner::parse("ann").expect("a user"),
            realm: Realm::default(),
            name: agentrouter_model::SecretName::parse("a").expect("a name"),
        },
        description: agentrouter_model::Description::default(),
        tags: agentrouter_model::Tags::default(),
        status: Status::Active,
        version: Version::FIRST,
        created_at: Timestamp::from_micros(1),
        updated_at: Timestamp::from_micros(1),
        rotated_at: None,
        expires_at: None,
        kek_id: agentrouter_model::KekId::parse("kek-1").expect("an id"),
    }
}

/// The tags by which `server` verifies the row of a secret, and its findings about two tags.
fn verifies(server: &KeyManifest) -> [bool; 2] {
    let tags = agentrouter_store::row_tags::verified(Some(server));
    let tag = server.secret_tag(&secret(), Version::FIRST);
    [Some(&tag[..]), None].map(|stored| {
        let refused = server.refusals();
        let found = agentrouter_store::row_tags::verify_secret(tags, &secret(), Version::FIRST, stored);
        assert_eq!(server.refusals() - refused, u64::from(found.is_err()), "each is counted");
        found.is_ok()
    })
}

#[test]
fn rows_without_tags_are_refused_once_the_store_is_authenticated() {
    let bench = Bench::new();
    let old = bench.server();
    // A manifest of the older program, with a key of that time.
    let tags = BTreeMap::from([(a().id, Some(old.key.api_key(&a())))]);
    let v1 = old.write(7, false, &tags);
    assert_eq!(old.note(Some(&v1)), Admission::Admitted);
    assert_eq!(bench.kept.last(), Some(Known { generation: 7, tagged: false }));
    assert_eq!(verifies(&old), [true, true]);
    // Other servers may run the older program, so a key is issued in its format.
    let server = bench.server();
    let issued = revise(&server, Some(&v1), KeyChange::Issued(&b()));
    assert!(issued.starts_with("v1 "), "{issued}");

    // The upgrade keeps the keys as the manifest lists them, whatever is in the rows.
    let forged = key("CCCCCCCCCCCCCCCC");
    let v2 = revise(&server, Some(&issued), KeyChange::All(&[a(), forged.clone()]));
    assert!(v2.starts_with("v2 "), "{v2}");
    assert_eq!(server.admit(Some(&v2), &forged), Admission::Refused(UNLISTED));
    assert_eq!(server.admit(Some(&v2), &b()), Admission::Admitted);
    assert_eq!(server.revise(Some(&v2), KeyChange::All(&[])).expect("done"), None, "once");
    assert!(bench.kept.last().is_some_and(|known| known.tagged));

    // A store that claims less, to this server and after a restart.
    let less = server.write(u64::MAX, false, &tags);
    for server in [&server, &bench.server()] {
        assert_eq!(verifies(server), [true, false]);
        assert_eq!(server.note(Some(&issued)), Admission::Older);
        assert_eq!(server.note(Some(&less)), Admission::Refused(UNTAGGED));
        assert_eq!(server.note(None), Admission::Refused(ABSENT));
        for present in [Some(&*issued), Some(&*less), None] {
            let again = server.revise(present, KeyChange::All(std::slice::from_ref(&forged)));
            assert!(matches!(again, Err(StoreError::KeyManifest(_))), "{present:?}");
        }
        assert_eq!(verifies(server), [true, false], "nothing that was read changes that");
    }

    // Another server learns of it from the manifest.
    let other = bench.server_with(Some(Known { generation: 7, tagged: false }));
    assert_eq!(verifies(&other), [true, true]);
    assert_eq!(other.note(Some(&v2)), Admission::Admitted);
    assert_eq!(verifies(&other), [true, false]);
}

#[test]
fn a_manifest_of_a_transaction_in_progress_is_not_remembered() {
    let bench = Bench::new();
    let server = bench.server();
    let before = revise(&server, None, KeyChange::All(&[a()]));
    let kept = bench.kept.last();
    let issue = |present: &str, key: &ApiKeyRecord| {
        server.revise(Some(present), KeyChange::Issued(key)).expect("revised").expect("a manifest")
    };
    // Two changes in one transaction: the second reads what the first has written.
    let first = issue(&before, &b());
    let second = issue(&first, &key("CCCCCCCCCCCCCCCC"));
    assert!(server.listed(Some(&second)).contains(&b().id));
    // The transaction is not committed, and a reader still sees the manifest from before.
    assert_eq!(server.admit(Some(&before), &a()), Admission::Admitted);
    assert_eq!(bench.kept.last(), kept);
    assert_eq!(server.note(Some(&second)), Admission::Admitted);
    assert_eq!(server.admit(Some(&before), &a()), Admission::Older);
    assert!(bench.kept.last() > kept);
}

/// Says that a write has begun, and waits until it may end.
struct SlowDisk(mpsc::Sender<()>, Mutex<mpsc::Receiver<()>>);

impl Memory for SlowDisk {
    fn keep(&self, _known: Known) -> std::io::Result<()> {
        self.0.send(()).map_err(std::io::Error::other)?;
        self.1.lock().expect("no panic").recv().map_err(std::io::Error::other)
    }
}

#[test]
fn a_read_does_not_wait_for_the_disk() {
    let bench = Bench::new();
    let ((began, begins), (end, ends)) = (mpsc::channel(), mpsc::channel());
    let memory = Box::new(SlowDisk(began, Mutex::new(ends)));
    let key = bench.key.row_key().expect("derived");
    let server = KeyManifest::new(key, None, memory, Arc::clone(&bench.clock) as Arc<dyn Clock>);
    let text = server.revise(None, KeyChange::All(&[a()])).expect("revised").expect("a manifest");
    std::thread::scope(|scope| {
        scope.spawn(|| server.note(Some(&text)));
        begins.recv().expect("a write");
        let (admitted, found) = mpsc::channel();
        scope.spawn(|| {
            let admitted = admitted;
            admitted.send(server.admit(Some(&text), &a()))
        });
        let found = found.recv_timeout(Duration::from_secs(60));
        end.send(()).expect("it waits");
        assert_eq!(found, Ok(Admission::Admitted));
    });
}
