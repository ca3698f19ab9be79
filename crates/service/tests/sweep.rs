//! Tests of the sweep, on the embedded store. The test of the database writer and those of the server have both engines.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use agentrouter_model::rpc::{CreateSecret, RotateSecret};
use agentrouter_service::{CallContext, Origin, Service, Settings, Sweep};
use agentrouter_store::RowTags as _;
use agentrouter_store::prelude::*;
use agentrouter_store::wrapped_keys::SWEEP;
use agentrouter_testkit::TestService;
use rusqlite::Connection;
use tokio::time::Instant;

const HOUR: Duration = Duration::from_secs(60 * 60);
/// The time between two looks of a sweep that has nothing to do.
const LOOK: Duration = Duration::from_secs(30);

fn per_second(rate: u32) -> NonZeroU32 {
    NonZeroU32::new(rate).expect("more than none")
}

struct Test {
    test: TestService,
    ctx: Arc<CallContext>,
}

impl Test {
    async fn start() -> Self {
        let test = TestService::start_with(Settings { sweep_interval: HOUR, ..Settings::default() }).await;
        let ctx = test.call_by("ann", "secrets/read,secrets/write").await;
        Self { test, ctx }
    }

    fn service(&self) -> &Arc<Service> {
        &self.test.service
    }

    fn sweep(&self) -> Sweep {
        self.service().sweep().expect("it is on")
    }

    async fn create(&self, name: &str) {
        let create = CreateSecret { name, value: "v", ..CreateSecret::default() };
        self.service().create(self.ctx.clone(), create).await.expect("created");
    }

    fn sql(&self, sql: &str) {
        let conn = Connection::open(self.test.dir.path().join("secrets.db")).expect("opened");
        conn.pragma_update(None, "foreign_keys", false).expect("set");
        assert!(conn.execute(sql, ()).expect(sql) > 0, "{sql}");
    }

    async fn on(&self) -> Duration {
        self.service().sweep_on(per_second(1_000_000)).await.expect("it works")
    }

    /// Makes the next pass due, and works on it. Returns the time of a clock that runs only while all tasks wait.
    async fn at_rate(&self, rate: u32) -> Duration {
        self.test.clock.advance(HOUR);
        tokio::time::pause();
        let begun = Instant::now();
        assert_eq!(self.service().sweep_on(per_second(rate)).await.expect("it works"), Duration::ZERO);
        let took = begun.elapsed();
        tokio::time::resume();
        took
    }

    /// Makes the next pass due, and completes it.
    async fn pass(&self) -> Sweep {
        self.test.clock.advance(HOUR);
        assert_eq!(self.on().await, Duration::ZERO);
        assert_eq!(self.sweep().progress, None, "it is complete");
        assert_eq!(self.service().sweep_age(), Some(Duration::ZERO));
        self.sweep()
    }
}

#[tokio::test]
async fn a_sweep_opens_every_version_and_finds_those_that_do_not_open() {
    let test = Test::start().await;
    assert_eq!(
        test.sweep(),
        Sweep { completed_at: None, versions: vec![], undecryptable: 0, progress: None }
    );
    for i in 0..40 {
        test.create(&format!("s{i}")).await;
    }
    let rotate = RotateSecret { name: "s1", new_value: "w", ..RotateSecret::default() };
    test.service().rotate(test.ctx.clone(), rotate).await.expect("rotated");
    let kek = test.service().keyring().expect("held").active().id().to_string();
    let found = test.pass().await;
    assert_eq!((found.versions, found.undecryptable), (vec![(kek.clone(), 41)], 0));

    // The next one is due an hour after the start of this one.
    test.test.clock.advance(HOUR - Duration::from_secs(7));
    assert_eq!(test.on().await, Duration::from_secs(7));
    assert_eq!(test.service().sweep_age(), Some(HOUR - Duration::from_secs(7)));

    test.sql("UPDATE versions SET sealed = zeroblob(length(sealed)) WHERE name = 's1' AND version = 1");
    test.sql("UPDATE versions SET wrapped_dek = zeroblob(length(wrapped_dek)) WHERE name = 's2'");
    test.sql("UPDATE versions SET kek_id = 'kek-of-another' WHERE name = 's3'");
    test.sql("UPDATE versions SET secret_id = 'x' WHERE name = 's4'");
    let found = test.pass().await;
    // That of the row that does not parse is in no KEK's number.
    assert_eq!(found.versions, [(kek.clone(), 39), ("unknown".to_owned(), 1)]);
    assert_eq!(found.undecryptable, 4);
    assert_eq!(test.service().stats().unreadable, 0, "no read has met them");

    test.sql("DELETE FROM versions WHERE name IN ('s2', 's3', 's4') OR (name = 's1' AND version = 1)");
    let found = test.pass().await;
    assert_eq!((found.versions, found.undecryptable), (vec![(kek, 37)], 0));
}

#[tokio::test]
async fn a_restart_continues_a_pass_and_knows_the_last_one() {
    let test = Test::start().await;
    for i in 0..5 {
        test.create(&format!("s{i}")).await;
    }
    let complete = test.pass().await;
    let fact = test.test.store.kek_fact(SWEEP).await.expect("read").expect("kept");

    // What a server stores that stops in the middle of a pass, after the third version.
    let row = Connection::open(test.test.dir.path().join("secrets.db")).expect("opened");
    let third: i64 = row
        .query_row("SELECT id FROM versions ORDER BY id LIMIT 1 OFFSET 2", (), |row| row.get(0))
        .expect("a row");
    let tags = &test.test.row_tags;
    let (text, _) = fact.rsplit_once('\n').expect("a tag");
    let kek = &complete.versions[0].0;
    let text = format!("{text}current 1 1 {third} \nkek {kek} 3\n");
    let tag = u128::from_be_bytes(tags.fact_tag(SWEEP, &text).expect("a tag"));
    test.test.store.set_kek_fact(SWEEP, Some(&format!("{text}\n{tag:032x}"))).await.expect("kept");
    assert_eq!(test.on().await, Duration::ZERO);
    let found = test.sweep();
    assert_eq!(found.versions, [(kek.clone(), 5)], "the first three are not opened again");
    assert_eq!(found.undecryptable, 1, "what was found before counts");
}

#[tokio::test]
async fn a_forged_record_of_the_sweep_is_not_believed() {
    let test = Test::start().await;
    test.create("a").await;
    test.pass().await;
    let refused = test.test.store.stats().refused;
    test.sql("UPDATE facts SET value = replace(value, ' 0', ' 9') WHERE name = 'sweep'");
    assert_eq!(test.on().await, Duration::ZERO, "it begins again, although none is due");
    assert_eq!(test.sweep().undecryptable, 0);
    assert!(test.test.store.stats().refused > refused, "it is counted");
}

#[tokio::test]
async fn a_sweep_keeps_to_its_rate() {
    let test = Test::start().await;
    for i in 0..21 {
        test.create(&format!("s{i}")).await;
    }
    let took = test.at_rate(10).await;
    assert!((Duration::from_millis(1900)..Duration::from_millis(2500)).contains(&took), "{took:?}");
    assert_eq!((test.sweep().progress, test.sweep().versions[0].1), (None, 21));

    // A long one stores its position, and lets another server continue.
    for i in 21..50 {
        test.create(&format!("s{i}")).await;
    }
    assert!(test.at_rate(1).await >= Duration::from_secs(29));
    let progress = test.sweep().progress.expect("it is in progress");
    assert!((29..=31).contains(&progress), "{progress}");
    test.at_rate(1).await;
    assert_eq!((test.sweep().progress, test.sweep().versions[0].1), (None, 50));
}

#[tokio::test]
async fn a_sweep_pauses_without_keks_and_one_that_is_off_shows_nothing() {
    let test = Test::start().await;
    test.create("a").await;
    let keyring = test.service().keyring().expect("held");
    test.service().drop_keks();
    test.test.clock.advance(HOUR);
    assert_eq!(test.on().await, LOOK);
    assert_eq!(test.sweep().completed_at, None);
    test.service().use_keyring((*keyring).clone());
    test.pass().await;

    // A KEK that another server has activated, and this one lacks.
    let copy = test.test.dir.path().join("copy.json");
    std::fs::copy(test.test.dir.path().join("kek.json"), &copy).expect("copied");
    let (clock, rng) = (agentrouter_model::SystemClock, agentrouter_crypto::SystemRng);
    let (other, second) = agentrouter_keyring::Keyring::add(&copy, &clock, &rng).expect("added");
    let check = other.kek(&second).expect("held").check_value().expect("derived");
    test.test.store.insert_kek_check(&second, &check).await.expect("kept");
    test.sql(&format!("UPDATE versions SET kek_id = '{second}'"));
    test.test.clock.advance(HOUR);
    test.on().await;
    assert_eq!(test.sweep().undecryptable, 0, "the server that has it can open the version");
    assert_eq!(test.service().missing_kek(), Some(second));
    assert_eq!(test.on().await, LOOK);

    let off = TestService::start_with(Settings { sweep_rate: 0, ..Settings::default() }).await;
    assert_eq!((off.service.sweep(), off.service.sweep_age()), (None, None));
    off.service.run_sweep().await;
    off.service.list_keks(&Origin::default()).await.expect("it serves");
}
