//! A clock that was set back: what has expired stays expired.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use agentrouter_audit::{Audit, HeadRow, Phase, Record, Settings};
use agentrouter_crypto::SystemRng;
use agentrouter_keyring::Keyring;
use agentrouter_model::{Clock, SystemClock, Timestamp};
use agentrouter_service::unlock;
use agentrouter_sqlite::SqliteStore;
use agentrouter_store::{Facts as _, Store as _};
use agentrouter_testkit::{FixedClock, ServerProcess};

use crate::support::{Server, binary, run, within};

const HOUR: Duration = Duration::from_secs(3600);

/// Appends a record of that time to the audit log in `data`, as a server does whose clock is ahead.
fn record_at(data: &Path, time: Timestamp) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let keyring = Keyring::load(&data.join("kek.json")).expect("a keyring");
        let store = SqliteStore::open(&data.join("secrets.db"), &SystemClock).expect("opened");
        let keys = unlock(&store, &keyring, &SystemRng).await.expect("unlocked");
        let clock = FixedClock::default();
        clock.set(time);
        let clock: Arc<dyn Clock> = Arc::new(clock);
        let row = HeadRow::from(store.audit_head().await.expect("read"));
        let audit = Audit::open(Settings::new(data.join("audit"), clock), keys.audit, row).expect("opened");
        let record = Record {
            time,
            request_id: "r",
            trace_id: None,
            key_id: None,
            identity: None,
            user: None,
            rpc: "GetSecret",
            owner: None,
            realm: None,
            name: None,
            version: None,
            kek_id: None,
            provider: None,
            phase: Phase::Outcome,
            outcome: "OK",
            reason: None,
            address: None,
        };
        audit.append(record).await.expect("written");
        audit.close().await.expect("closed");
        store.close().await;
    });
}

#[test]
fn what_expired_before_the_clock_was_set_back_stays_expired_after_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let server = Server::on(&data);
    let ending = server.issue("ann", "secrets/read", &["--expires", "1h"]);
    let lasting = server.issue("ann", "secrets/read", &["--expires", "30d"]);
    let create = r#"{"name":"a","value":"first"}"#;
    assert_eq!(server.call("POST", "/v1/secrets", create).status, 200);
    let rotate = r#"{"new_value":"second","grace_period":"3600s"}"#;
    assert_eq!(server.call("POST", "/v1/secrets/a/rotate", rotate).status, 200);
    let first = |server: &Server| server.call("POST", "/v1/secrets/a/value", r#"{"version":1}"#).status;
    let status = |server: &Server, key: &str| server.call_as(key, "GET", "/v1/secrets", "").status;
    let doctor = || {
        let output = run(&["doctor", "--data-dir", data.to_str().expect("UTF-8")]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_eq!((status(&server, &ending), first(&server)), (200, 200));
    assert!(
        server.call("GET", "/metrics", "").body.contains("agentrouter_secrets_clock_behind_seconds 0.0\n")
    );
    assert!(server.process.stop().success());
    assert!(doctor().contains("ok    clock"), "{}", doctor());

    // The server ran for two more hours, and then the clock was set back.
    record_at(&data, SystemClock.now().saturating_add(2 * HOUR));
    assert!(doctor().contains("is before the last audit record, "), "{}", doctor());
    let server = Server::on(&data);
    assert_eq!((status(&server, &ending), status(&server, &lasting)), (401, 200));
    assert_eq!(first(&server), 404, "its grace has ended");
    let metrics = server.call("GET", "/metrics", "").body;
    let name = "agentrouter_secrets_clock_behind_seconds ";
    let behind = metrics.lines().find_map(|line| line.strip_prefix(name)).expect("a metric");
    let behind: f64 = behind.parse().expect("a number");
    assert!((7000.0..=7200.0).contains(&behind), "{behind}");
    assert!(within(Duration::from_secs(60), || server
        .written()
        .contains("the machine's clock was set back")));
    // A key that is issued now lasts as long as it says.
    let new = server.issue("ann", "secrets/read", &["--expires", "1h"]);
    assert_eq!(status(&server, &new), 200);
    assert!(server.process.stop().success());

    // An operator says that the earlier time was wrong.
    let server = Server::of(ServerProcess::start(binary(), &data, &["--accept-clock"]));
    assert_eq!((status(&server, &ending), status(&server, &lasting)), (200, 200));
    assert!(server.process.stop().success());
    let server = Server::on(&data);
    assert_eq!(status(&server, &ending), 200, "its records have the right time since");
    let verified = run(&["audit", "verify", "--data-dir", data.to_str().expect("UTF-8")]);
    assert!(verified.status.success(), "{verified:?}");
}
