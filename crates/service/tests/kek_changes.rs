//! Tests of the change of KEKs, on the embedded store.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use agentrouter_keyring::Keyring;
use agentrouter_model::rpc::{CreateSecret, DeleteSecret, GetSecret, GetSecretValue, RotateSecret};
use agentrouter_model::{KekId, Owner, Place, Realm, SecretName, Version};
use agentrouter_service::{CallContext, KekError, KekFileFault, KekState, Origin, RewrapOptions, Service};
use agentrouter_store::Stored;
use agentrouter_store::prelude::*;
use agentrouter_testkit::TestService;
use tokio::sync::watch;

const MONTH: Duration = Duration::from_secs(30 * 24 * 60 * 60);

struct Test {
    test: TestService,
    ctx: Arc<CallContext>,
    origin: Origin,
}

impl Test {
    async fn start() -> Self {
        let test = TestService::start().await;
        test.service.keep_in_memory();
        let ctx = test.call_by("ann", "secrets/read,secrets/write,secrets/read/internal").await;
        Self { test, ctx, origin: Origin::default() }
    }

    fn service(&self) -> &Arc<Service> {
        &self.test.service
    }

    fn active(&self) -> KekId {
        self.service().keyring().expect("held").active().id().clone()
    }

    async fn create(&self, name: &str, value: &str) {
        let create = CreateSecret { name, value, ..CreateSecret::default() };
        self.service().create(self.ctx.clone(), create).await.expect("created");
    }

    async fn rotate(&self, name: &str, new_value: &str) {
        let rotate = RotateSecret { name, new_value, ..RotateSecret::default() };
        self.service().rotate(self.ctx.clone(), rotate).await.expect("rotated");
    }

    async fn read(&self, name: &str, version: i32) -> String {
        let read = GetSecretValue { name, user_id: "ann", version, ..GetSecretValue::default() };
        let revealed = self.service().value(&self.ctx, read).await.expect("it opens");
        revealed.value.expose().to_owned()
    }

    async fn kek_of(&self, name: &str) -> KekId {
        let secret = self.service().get(&self.ctx, GetSecret { name, ..GetSecret::default() }).await;
        secret.expect("metadata").kek_id.clone()
    }

    async fn stored(&self, name: &str, version: i32) -> Stored {
        let (owner, name) = (Owner::parse("ann"), SecretName::parse(name));
        let place =
            Place { owner: owner.expect("valid"), realm: Realm::default(), name: name.expect("valid") };
        let version = Version::new(version).expect("a version");
        self.test.store.version(&place, version).await.expect("read").expect("there")
    }

    /// How many keys each KEK wraps.
    async fn used(&self) -> BTreeMap<String, u64> {
        let used = self.test.store.kek_use().await.expect("read");
        used.into_iter().map(|(id, keys)| (id.to_string(), keys)).collect()
    }

    async fn rewrap(&self, options: RewrapOptions) -> Result<agentrouter_service::Rewrapped, KekError> {
        let (sender, _progress) = watch::channel(agentrouter_audit::Progress::default());
        self.service().rewrap(&self.origin, options, sender).await
    }

    async fn rotate_kek(&self) -> agentrouter_service::Rotated {
        self.rotate_kek_with(RewrapOptions::default()).await
    }

    async fn rotate_kek_with(&self, options: RewrapOptions) -> agentrouter_service::Rotated {
        let (sender, _progress) = watch::channel(agentrouter_audit::Progress::default());
        self.service().rotate_kek(&self.origin, options, sender).await.expect("rotated")
    }

    async fn states(&self) -> Vec<(String, KekState, u64)> {
        let listed = self.service().list_keks(&self.origin).await.expect("listed");
        listed.into_iter().map(|kek| (kek.id.to_string(), kek.state, kek.keys)).collect()
    }
}

/// What the command line prints of an error.
fn refusal<T>(result: Result<T, KekError>) -> String {
    match result {
        Err(KekError::Keyring(error)) => error.to_string(),
        Err(error) => error.to_string(),
        Ok(_) => panic!("it must be refused"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_moves_every_key_and_changes_no_value_version_or_time() {
    let test = Test::start().await;
    let first = test.active();
    for i in 0..450 {
        test.create(&format!("s{i}"), &format!("value {i}")).await;
    }
    test.rotate("s7", "newer").await;
    let before = (test.stored("s7", 1).await, test.stored("s7", 2).await);
    assert_eq!(test.read("s7", 0).await, "newer", "now it is in the cache");
    assert_eq!(test.kek_of("s7").await, first);

    let rotated = test.rotate_kek().await;
    let second = test.active();
    assert_ne!(first, second);
    assert!(!rotated.continued && rotated.activated.unwritten.is_none());
    assert_eq!((rotated.rewrapped.rewrapped, rotated.rewrapped.failed.count), (453, 0), "and two of its own");
    assert_eq!(test.used().await.into_iter().collect::<Vec<_>>(), [(second.to_string(), 453)]);
    assert_eq!(test.kek_of("s7").await, second, "the cache does not keep the former one");

    for (before, version) in [(before.0, 1), (before.1, 2)] {
        let after = test.stored("s7", version).await;
        let mut expected = before.secret.clone();
        expected.kek_id = second.clone();
        assert_eq!(after.secret, expected, "nothing but the KEK");
        let (before, after) = (before.envelope.expect("sealed"), after.envelope.expect("sealed"));
        assert_eq!(before.sealed, after.sealed);
        assert_ne!(before.wrapped_dek, after.wrapped_dek);
    }
    assert_eq!(test.read("s7", 1).await, "value 7");
    for i in (0..450).filter(|i| *i != 7) {
        assert_eq!(test.read(&format!("s{i}"), 0).await, format!("value {i}"));
    }
    test.create("later", "v").await;
    assert_eq!(test.kek_of("later").await, second);
    let file = Keyring::load(&test.test.dir.path().join("kek.json")).expect("whole");
    assert_eq!(file.active().id(), &second);
    assert_eq!(file.ids().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kek_is_retired_when_no_key_and_no_backup_needs_it() {
    let test = Test::start().await;
    let first = test.active();
    test.create("a", "v").await;
    let service = Arc::clone(test.service());
    let retire = |id: KekId| {
        let service = Arc::clone(&service);
        async move { service.retire_kek(&Origin::default(), &id, MONTH).await }
    };
    assert_eq!(refusal(retire(first.clone()).await), format!("KEK '{first}' is active"));
    let unknown = KekId::parse("kek-of-another").expect("an id");
    assert!(refusal(retire(unknown.clone()).await).contains("has no KEK"));

    // One that was never active is needed by nothing.
    let unused = service.add_kek(&test.origin).await.expect("added");
    assert_eq!(test.states().await.last().expect("listed"), &(unused.to_string(), KekState::Added, 0));
    retire(unused.clone()).await.expect("it wrapped nothing");

    let second = service.add_kek(&test.origin).await.expect("added");
    test.create("b", "v").await;
    assert_eq!(test.kek_of("b").await, first, "it is not active yet");
    let activated = service.activate_kek(&test.origin, None).await.expect("activated");
    assert_eq!(activated.id, second);
    assert!(refusal(service.activate_kek(&test.origin, Some(first.clone())).await).contains("is older than"));
    assert!(refusal(retire(first.clone()).await).contains("key(s) are wrapped"));
    test.rewrap(RewrapOptions::default()).await.expect("rewrapped");

    let refused = refusal(retire(first.clone()).await);
    assert!(
        refused.contains("backups that were made before") && refused.contains(first.as_str()),
        "{refused}"
    );
    test.test.clock.advance(MONTH - Duration::from_secs(1));
    assert!(refusal(retire(first.clone()).await).contains("backups"));
    test.test.clock.advance(Duration::from_secs(1));
    retire(first.clone()).await.expect("no backup needs it");
    retire(first.clone()).await.expect("it is retired already");

    let file = Keyring::load(&test.test.dir.path().join("kek.json")).expect("whole");
    assert_eq!(file.ids().collect::<Vec<_>>(), [&second]);
    assert!(service.keyring().expect("held").kek(&first).is_none());
    let checks = test.test.store.kek_checks().await.expect("read");
    assert_eq!(checks.into_iter().map(|(id, _)| id).collect::<Vec<_>>(), std::slice::from_ref(&second));
    let states = test.states().await;
    assert!(states.contains(&(first.to_string(), KekState::Retired, 0)), "{states:?}");
    assert!(states.contains(&(second.to_string(), KekState::Active, 4)), "{states:?}");
    assert_eq!((test.read("a", 0).await, test.read("b", 0).await), ("v".into(), "v".into()));
    assert_eq!(service.missing_kek(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_that_stopped_anywhere_is_continued_and_not_begun_again() {
    let test = Test::start().await;
    for i in 0..20 {
        test.create(&format!("s{i}"), "v").await;
    }
    // It stopped after the KEK was added.
    let added = test.service().add_kek(&test.origin).await.expect("added");
    let rotated = test.rotate_kek().await;
    assert!(rotated.continued);
    assert_eq!(rotated.rewrapped.active, added);

    // It stopped in the middle: pages of one key, and the client is gone after the first.
    let (sender, mut progress) = watch::channel(agentrouter_audit::Progress::default());
    let options = RewrapOptions { rate: NonZeroU32::new(1), reseal: false };
    let (service, origin) = (Arc::clone(test.service()), test.origin.clone());
    let running = tokio::spawn(async move { service.rotate_kek(&origin, options, sender).await });
    progress.wait_for(|done| done.bytes >= 3).await.expect("it runs");
    let refused = refusal(test.rewrap(RewrapOptions::default()).await);
    assert!(refused.contains("another command is changing the KEKs"), "{refused}");
    drop(progress);
    assert!(refusal(running.await.expect("no panic")).contains("stopped before its end"));
    assert_eq!(test.used().await.len(), 2, "some keys are under each KEK");
    let third = test.active();
    for i in 0..20 {
        assert_eq!(test.read(&format!("s{i}"), 0).await, "v");
    }
    let rotated = test.rotate_kek().await;
    assert!(rotated.continued);
    assert_eq!(rotated.rewrapped.active, third);
    assert_eq!(test.used().await.into_keys().collect::<Vec<_>>(), [third.to_string()]);
    assert!(!test.rotate_kek().await.continued, "the next one is another");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resealing_gives_every_version_a_new_dek_and_is_continued() {
    let test = Test::start().await;
    for i in 0..8 {
        test.create(&format!("s{i}"), &format!("value {i}")).await;
    }
    test.rotate("s3", "newer").await;
    let mut before = Vec::new();
    for i in 0..8 {
        before.push(test.stored(&format!("s{i}"), 1).await.envelope.expect("sealed").sealed);
    }
    let (sender, mut progress) = watch::channel(agentrouter_audit::Progress::default());
    let options = RewrapOptions { rate: NonZeroU32::new(1), reseal: true };
    let (service, origin) = (Arc::clone(test.service()), test.origin.clone());
    let running = tokio::spawn(async move { service.rewrap(&origin, options, sender).await });
    progress.wait_for(|done| done.bytes >= 1).await.expect("it runs");
    drop(progress);
    assert!(refusal(running.await.expect("no panic")).contains("stopped"));
    let some = test.stored("s0", 1).await.envelope.expect("sealed").sealed;
    assert_ne!(some, before[0]);

    let done = test.rewrap(RewrapOptions { rate: None, reseal: true }).await.expect("to its end");
    assert!(done.resealed < 9, "the first ones are not sealed a third time: {}", done.resealed);
    assert_eq!(test.stored("s0", 1).await.envelope.expect("sealed").sealed, some);
    for (i, before) in before.iter().enumerate() {
        let name = format!("s{i}");
        assert_ne!(test.stored(&name, 1).await.envelope.expect("sealed").sealed, *before);
        assert_eq!(test.read(&name, 1).await, format!("value {i}"));
    }
    assert_eq!(test.read("s3", 0).await, "newer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_that_seals_again_does_not_continue_with_a_kek_that_may_have_leaked() {
    let test = Test::start().await;
    for i in 0..8 {
        test.create(&format!("s{i}"), "v").await;
    }
    // The KEK file leaks after this, with both KEKs.
    let added = test.service().add_kek(&test.origin).await.expect("added");
    let (sender, mut progress) = watch::channel(agentrouter_audit::Progress::default());
    let options = RewrapOptions { rate: NonZeroU32::new(1), reseal: true };
    let (service, origin) = (Arc::clone(test.service()), test.origin.clone());
    let running = tokio::spawn(async move { service.rotate_kek(&origin, options, sender).await });
    progress.wait_for(|done| done.bytes >= 1).await.expect("it runs");
    drop(progress);
    assert!(refusal(running.await.expect("no panic")).contains("stopped"));
    let active = test.active();
    assert_ne!(active, added);

    let rotated = test.rotate_kek_with(RewrapOptions { rate: None, reseal: true }).await;
    assert!(rotated.continued, "it is of the same kind");
    assert_eq!(rotated.activated.id, active);
    assert!(!test.rotate_kek_with(RewrapOptions { rate: None, reseal: true }).await.continued);
    assert_eq!(test.read("s7", 0).await, "v");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rewrapping_races_no_change_of_a_secret() {
    let test = Arc::new(Test::start().await);
    for i in 0..60 {
        test.create(&format!("s{i}"), "0").await;
    }
    for round in 1..=3 {
        let changes = {
            let test = Arc::clone(&test);
            tokio::spawn(async move {
                for i in 0..60 {
                    let name = format!("s{i}");
                    match i % 3 {
                        0 => test.rotate(&name, &round.to_string()).await,
                        1 => test.create(&name, &round.to_string()).await,
                        _ => {
                            let delete = DeleteSecret { name: &name, ..DeleteSecret::default() };
                            test.service().delete(test.ctx.clone(), delete).await.expect("deleted");
                            test.create(&name, &round.to_string()).await;
                        }
                    }
                }
            })
        };
        let rotated = test.rotate_kek().await;
        assert_eq!(rotated.rewrapped.failed.count, 0);
        changes.await.expect("no panic");
        for i in 0..60 {
            assert_eq!(test.read(&format!("s{i}"), 0).await, round.to_string());
        }
        // The grace of a version ends while its key is moved.
        test.test.clock.advance(Duration::from_secs(25 * 60 * 60));
        let service = Arc::clone(test.service());
        let (rewrapped, _) = tokio::join!(
            test.rewrap(RewrapOptions { rate: None, reseal: true }),
            test.test.store.retire_expired(service.clock().now(), 100)
        );
        assert_eq!(rewrapped.expect("rewrapped").failed.count, 0);
        assert_eq!(test.used().await.into_keys().collect::<Vec<_>>(), [test.active().to_string()]);
        for i in 0..60 {
            assert_eq!(test.read(&format!("s{i}"), 0).await, round.to_string());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kek_file_that_is_copied_into_place_is_taken_and_a_bad_one_is_not() {
    let test = Test::start().await;
    test.create("a", "v").await;
    let path = test.test.dir.path().join("kek.json");
    let first = test.active();
    let before = std::fs::read(&path).expect("read");

    // Another server added and activated a KEK, and this one has not got its file yet.
    let elsewhere = test.test.dir.path().join("copy");
    std::fs::create_dir(&elsewhere).expect("made");
    let copy = elsewhere.join("kek.json");
    std::fs::copy(&path, &copy).expect("copied");
    let (clock, rng) = (agentrouter_model::SystemClock, agentrouter_crypto::SystemRng);
    let (other, second) = Keyring::add(&copy, &clock, &rng).expect("added");
    let check = other.kek(&second).expect("held").check_value().expect("derived");
    test.test.store.insert_kek_check(&second, &check).await.expect("kept");
    test.service().refresh_keks().await.expect("looked at");
    assert_eq!(test.service().missing_kek(), Some(second.clone()));
    assert!(test.service().stats().lacks_kek);
    assert_eq!(test.read("a", 0).await, "v", "it serves what it can");
    let refused = refusal(test.service().add_kek(&test.origin).await);
    assert!(refused.contains(second.as_str()), "{refused}");

    // A damaged file, and one without a KEK that is used, change nothing, and are reported.
    let alone = elsewhere.join("alone.json");
    Keyring::create(&alone, &clock, &rng).expect("created");
    assert_eq!(test.service().kek_file_fault(), None);
    for (bad, fault) in [
        (b"{".to_vec(), KekFileFault::Unusable),
        (std::fs::read(&alone).expect("read"), KekFileFault::Lacks(first.clone())),
    ] {
        std::fs::write(&path, bad).expect("written");
        test.service().refresh_keks().await.expect("looked at");
        assert_eq!(test.service().kek_file_fault(), Some(fault));
        assert!(test.service().stats().kek_file_unusable);
        assert_eq!(test.active(), first);
        assert_eq!(test.read("a", 0).await, "v");
    }
    std::fs::write(&path, before).expect("written");
    std::fs::copy(&copy, &path).expect("copied");
    test.service().refresh_keks().await.expect("looked at");
    assert_eq!((test.service().missing_kek(), test.active()), (None, second.clone()));
    assert_eq!(test.service().kek_file_fault(), None);
    test.create("b", "v").await;
    assert_eq!(test.kek_of("b").await, second);
    std::fs::rename(&path, elsewhere.join("gone.json")).expect("moved away");
    test.service().refresh_keks().await.expect("looked at");
    assert_eq!(test.service().kek_file_fault(), Some(KekFileFault::Unusable));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_command_drops_a_kek_that_is_in_memory_only() {
    let test = Test::start().await;
    let path = test.test.dir.path().join("kek.json");
    test.create("a", "under the first").await;
    let older = std::fs::read(&path).expect("read");
    let first = test.active();
    test.rotate_kek().await;
    let second = test.active();
    test.create("b", "under the second").await;
    let newest = std::fs::read(&path).expect("read");

    // An older copy, and the file of another store.
    let foreign = test.test.dir.path().join("foreign.json");
    let (clock, rng) = (agentrouter_model::SystemClock, agentrouter_crypto::SystemRng);
    Keyring::create(&foreign, &clock, &rng).expect("created");
    for wrong in [older, std::fs::read(&foreign).expect("read")] {
        std::fs::write(&path, &wrong).expect("written");
        let why = "lacks a KEK that this server has in memory";
        let refused = refusal(test.service().add_kek(&test.origin).await);
        assert!(refused.contains(why), "{refused}");
        let refused = refusal(test.service().activate_kek(&test.origin, Some(second.clone())).await);
        assert!(refused.contains(why), "{refused}");
        let refused = refusal(test.service().retire_kek(&test.origin, &first, Duration::ZERO).await);
        assert!(refused.contains(why), "{refused}");
        assert!(std::fs::read(&path).expect("read") == wrong, "nothing is written");
        assert_eq!(test.active(), second);
        assert_eq!(test.read("a", 0).await, "under the first");
        assert_eq!(test.read("b", 0).await, "under the second");
        test.create(&format!("c{}", wrong.len()), "v").await;
    }
    std::fs::write(&path, newest).expect("written");
    test.service().add_kek(&test.origin).await.expect("added");
    assert_eq!(test.read("b", 0).await, "under the second");
}
