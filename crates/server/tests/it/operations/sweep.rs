//! The sweep, and the KEK file of a running server.

use std::time::Duration;

use agentrouter_testkit::ServerProcess;
use rusqlite::Connection;
use serde_json::Value;

use crate::support::{Server, binary, within};

/// The limit for each wait, on a busy machine.
const LIMIT: Duration = Duration::from_secs(90);
/// A sweep that begins again each second.
const OFTEN: [&str; 2] = ["--sweep-interval", "1s"];

fn verbose(server: &Server) -> Value {
    server.send("GET", "/readyz?verbose", &[], b"").json()
}

fn metric(server: &Server, name: &str) -> Option<String> {
    let text = server.send("GET", "/metrics", &[], b"").body;
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("agentrouter_secrets_{name} ")))?;
    Some(line.to_owned())
}

fn create(server: &Server, name: &str) {
    let body = format!(r#"{{"name":"{name}","value":"v"}}"#);
    assert_eq!(server.call("POST", "/v1/secrets", &body).status, 200);
}

#[test]
fn a_version_that_does_not_open_is_found_before_it_is_read_and_after_a_restart_it_is_still_known() {
    let server = Server::start_with(&OFTEN);
    for i in 0..5 {
        create(&server, &format!("s{i}"));
    }
    let swept = |server: &Server, versions: u64, undecryptable: u64| {
        let sweep = verbose(server)["sweep"].clone();
        let counts = sweep["versions"].as_object().expect("by KEK").values();
        let count: u64 = counts.filter_map(Value::as_u64).sum();
        sweep["completed_at"].is_string()
            && (count, sweep["undecryptable"].as_u64()) == (versions, Some(undecryptable))
    };
    assert!(within(LIMIT, || swept(&server, 5, 0)), "{}", verbose(&server));
    let conn = Connection::open(server.data("secrets.db")).expect("opened");
    let sql = "UPDATE versions SET sealed = zeroblob(length(sealed)) WHERE name = 's3'";
    assert_eq!(conn.execute(sql, ()).expect("written"), 1);
    drop(conn);
    assert!(within(LIMIT, || swept(&server, 5, 1)), "{}", verbose(&server));
    assert_eq!(metric(&server, "undecryptable_versions").as_deref(), Some("1"));
    assert_eq!(metric(&server, "unreadable_versions_total").as_deref(), Some("0"), "no call has met it");
    assert!(metric(&server, "sweep_age_seconds").is_some());
    let listed = server.call("GET", "/v1/secrets/s1", "").json();
    let kek = listed["secret"]["kek_id"].as_str().expect("an id").to_owned();
    assert_eq!(metric(&server, &format!("kek_versions{{kek=\"{kek}\"}}")).as_deref(), Some("5"));
    assert!(within(LIMIT, || server.written().contains("the sweep: a stored version does not open")));

    let data = server.process.data_dir().to_owned();
    assert!(server.process.stop().success());
    let doctor = std::process::Command::new(binary()).args(["doctor", "--data-dir"]).arg(&data).output();
    let report = String::from_utf8(doctor.expect("it runs").stdout).expect("UTF-8");
    assert!(report.contains("5 version(s), 1 did not open"), "{report}");
    // None is due for an hour, so what is shown is what the store remembers.
    let again = Server::of(ServerProcess::start(binary(), &data, &[]));
    assert!(within(LIMIT, || swept(&again, 5, 1)), "{}", verbose(&again));
}

#[test]
fn a_sweep_that_is_off_shows_nothing_and_a_plain_probe_stays_short() {
    let server = Server::start_with(&["--sweep-rate", "0"]);
    assert_eq!(verbose(&server)["sweep"], Value::Null);
    assert_eq!(metric(&server, "undecryptable_versions"), None);
    for path in ["/readyz", "/readyz?x", "/readyz?verbose=0"] {
        assert_eq!(server.send("GET", path, &[], b"").body, r#"{"status":"ok"}"#, "{path}");
    }
}

#[test]
fn a_kek_file_that_is_lost_or_replaced_beside_a_running_server_is_reported() {
    let server = Server::start();
    create(&server, "a");
    let (file, aside) = (server.data("kek.json"), server.data("aside.json"));
    let fault = || verbose(&server)["kek_file"].as_str().expect("text").to_owned();
    assert_eq!((fault().as_str(), metric(&server, "kek_file_unusable").as_deref()), ("ok", Some("0")));

    std::fs::rename(&file, &aside).expect("moved away");
    assert!(within(LIMIT, || fault().contains("cannot be used")), "{}", fault());
    assert_eq!(metric(&server, "kek_file_unusable").as_deref(), Some("1"));

    // The file of another store lacks the KEK.
    let (clock, rng) = (agentrouter_model::SystemClock, agentrouter_crypto::SystemRng);
    agentrouter_keyring::Keyring::create(&file, &clock, &rng).expect("created");
    let kek = server.call("GET", "/v1/secrets/a", "").json()["secret"]["kek_id"]
        .as_str()
        .expect("an id")
        .to_owned();
    assert!(within(LIMIT, || fault().contains(&format!("lacks KEK {kek}"))), "{}", fault());
    assert_eq!(metric(&server, "kek_file_unusable").as_deref(), Some("1"));
    let doctor = std::process::Command::new(binary());
    let report = { doctor }.args(["doctor", "--data-dir"]).arg(server.process.data_dir()).output();
    let report = String::from_utf8(report.expect("it runs").stdout).expect("UTF-8");
    assert!(report.contains("FAIL  KEK ") && report.contains(&kek), "{report}");

    std::fs::rename(&aside, &file).expect("put back");
    assert!(within(LIMIT, || fault() == "ok"), "{}", fault());
    let value = server.call("POST", "/v1/secrets/a/value", r#"{"user_id":"admin"}"#);
    assert_eq!(value.status, 200, "it served all the time");
}
