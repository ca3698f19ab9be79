//! `kek` with several servers on one database.

use std::process::Output;
use std::time::Duration;

use agentrouter_testkit::{Postgres, ServerProcess};

use super::{Fleet, kek_id, out};
use crate::support::{Server, binary, within};

/// The limit for each wait: an event of another process, on a busy machine.
const LIMIT: Duration = Duration::from_secs(90);

impl Fleet {
    fn sql(&self, sql: &str) -> String {
        let database = self.url.rsplit('/').next().expect("a name");
        let database = database.split('?').next().expect("a name");
        Postgres::shared().sql(database, &format!("SET search_path = agentrouter_secrets; {sql}"))
    }

    fn copy_keks(&self, from: &str, to: &str) {
        let (from, to) = (self.data(from).join("kek.json"), self.data(to));
        let new = to.join("new.json");
        std::fs::copy(from, &new).expect("copied");
        std::fs::rename(new, to.join("kek.json")).expect("replaced");
    }

    /// How many values are under a KEK.
    fn values_under(&self, kek: &str) -> u64 {
        let count =
            format!("SELECT count(*) FROM versions WHERE kek_id = '{kek}' AND wrapped_dek IS NOT NULL");
        self.sql(&count).parse().expect("a number")
    }

    /// Runs a command until it succeeds. Returns what it said at first.
    fn until_done(&self, name: &str, args: &[&str]) -> String {
        let mut refused = String::new();
        let mut last: Option<Output> = None;
        let done = within(LIMIT, || {
            let output = self.run(name, args);
            let ok = output.status.success();
            if !ok && refused.is_empty() {
                refused = err(&output);
            }
            last = Some(output);
            ok
        });
        assert!(done, "{last:?}");
        refused
    }
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn value(server: &Server, name: &str) -> (u16, String) {
    let path = format!("/v1/secrets/{name}/value");
    let reply = server.call("POST", &path, r#"{"user_id":"admin"}"#);
    let value = if reply.status == 200 {
        reply.json()["value"].as_str().unwrap_or_default().to_owned()
    } else {
        reply.reason()
    };
    (reply.status, value)
}

fn kek_of(server: &Server, name: &str) -> String {
    let reply = server.call("GET", &format!("/v1/secrets/{name}"), "");
    reply.json()["secret"]["kek_id"].as_str().unwrap_or_default().to_owned()
}

fn create(server: &Server, name: &str) {
    let reply =
        server.call("POST", "/v1/secrets", &format!(r#"{{"name":"{name}","value":"value of {name}"}}"#));
    assert_eq!(reply.status, 200, "{reply:?}");
}

#[test]
fn servers_change_their_kek_together_and_none_is_left_behind() {
    let fleet = Fleet::new();
    let one = Server::of(fleet.start("one"));
    fleet.join("two", "one");
    let process = fleet.start("two");
    let two = Server::of_restored(process, &one.key);
    for i in 0..30 {
        create(&one, &format!("s{i}"));
    }
    let first = kek_id(&fleet.data("one"));
    assert_eq!((kek_of(&two, "s0"), value(&two, "s0").0), (first.clone(), 200), "now it is in its cache");

    // The other server lacks the new KEK, and is named.
    let replica = std::fs::read_to_string(fleet.data("two").join("replica")).expect("an id");
    out(&fleet.run("one", &["kek", "add"]));
    let lacks = within(LIMIT, || err(&fleet.run("one", &["kek", "activate"])).contains("lacks KEK"));
    assert!(lacks, "{}", err(&fleet.run("one", &["kek", "activate"])));
    let refused = err(&fleet.run("one", &["kek", "activate"]));
    assert!(refused.contains(&format!("server {}", replica.trim())), "{refused}");
    let refused = err(&fleet.run("one", &["kek", "rotate"]));
    assert!(refused.contains("lacks KEK"), "{refused}");
    create(&one, "between");
    assert_eq!(kek_of(&one, "between"), first);

    fleet.copy_keks("one", "two");
    fleet.until_done("one", &["kek", "activate"]);
    let second = kek_id(&fleet.data("one"));
    assert_ne!(first, second);
    // The other server was told before the command ended, and takes it within a second.
    let taken = within(LIMIT, || {
        let name = format!("new{}", fleet.values_under(&second));
        create(&two, &name);
        kek_of(&one, &name) == second
    });
    assert!(taken, "the other server wraps with the new KEK");

    // Kills of the process that rewraps, beside the servers.
    fleet.join("three", "one");
    let mut left = fleet.values_under(&first);
    for _ in 0..5 {
        let mut command = fleet.command("three", &["kek", "rewrap", "--rate", "1"]);
        let quiet = command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let mut command = quiet.spawn().expect("the binary runs");
        assert!(within(LIMIT, || fleet.values_under(&first) < left));
        command.kill().expect("it runs still");
        assert!(!command.wait().expect("it ends").success());
        left = fleet.values_under(&first);
        assert!(left > 0);
        for server in [&one, &two] {
            assert_eq!(value(server, "s0"), (200, "value of s0".to_owned()));
        }
    }
    // The database ends the session of the killed command, and with it its lock.
    let refused = fleet.until_done("two", &["kek", "rewrap"]);
    assert!(refused.is_empty() || refused.contains("another command is changing"), "{refused}");
    assert_eq!(fleet.values_under(&first), 0);
    for server in [&one, &two] {
        for i in 0..30 {
            let name = format!("s{i}");
            assert_eq!(kek_of(server, &name), second, "no cache has the former one");
            assert_eq!(value(server, &name), (200, format!("value of {name}")));
        }
    }

    let refused = err(&fleet.run("one", &["kek", "retire", &first]));
    assert!(
        refused.contains("backups that were made before") || refused.contains("may not be done"),
        "{refused}"
    );
    for name in ["one", "two"] {
        fleet.until_done(name, &["kek", "retire", &first, "--backup-retention", "0s"]);
        assert!(!std::fs::read_to_string(fleet.data(name).join("kek.json")).expect("read").contains(&first));
    }
    assert_eq!(value(&one, "s1").0, 200);
    let listed = out(&fleet.run("two", &["kek", "list"]));
    let retired = listed.lines().find(|line| line.starts_with(&first)).expect("it is listed");
    assert!(retired.contains("retired"), "{listed}");
}

#[test]
fn a_server_that_lacks_a_kek_of_the_store_is_not_ready_and_says_so() {
    let fleet = Fleet::new();
    let one = Server::of(fleet.start("one"));
    create(&one, "a");
    let ready = || one.call("GET", "/readyz", "");
    assert_eq!(ready().status, 200);
    // Another server has activated a KEK. The row of a secret is under it, too.
    fleet.sql("INSERT INTO keks VALUES ('kek-of-another', decode(repeat('a7', 32), 'hex'))");
    create(&one, "b");
    fleet.sql(
        "UPDATE versions SET kek_id = 'kek-of-another' WHERE name = 'b'; \
         UPDATE secrets SET kek_id = 'kek-of-another' WHERE name = 'b'",
    );
    assert!(within(LIMIT, || ready().status == 503));
    let body = ready().body;
    assert!(body.contains("KEK_UNAVAILABLE") && body.contains("kek-of-another"), "{body}");
    assert_eq!(value(&one, "b"), (503, "KEK_UNAVAILABLE".to_owned()), "and not 404");
    assert_eq!(value(&one, "a"), (200, "value of a".to_owned()), "it serves what it can");
    let refused = err(&fleet.run("one", &["kek", "add"]));
    assert!(refused.contains("lacks KEK 'kek-of-another'"), "{refused}");
    fleet.sql("DELETE FROM keks WHERE kek_id = 'kek-of-another'");
    assert!(within(LIMIT, || ready().status == 200));
}

#[test]
fn one_server_sweeps_for_all_and_each_shows_what_it_found() {
    let fleet = Fleet::new();
    let start = |name: &str| {
        let env = [("AGENTROUTER_SECRETS_DATABASE_URL", fleet.url.as_str())];
        // Both look often, and would sweep at once if they did not exclude each other.
        let args = ["--sweep-interval", "1s", "--sweep-rate", "1000"];
        ServerProcess::start_with(binary(), &fleet.data(name), &args, &env)
    };
    let one = Server::of(start("one"));
    fleet.join("two", "one");
    let two = Server::of_restored(start("two"), &one.key);
    for i in 0..10 {
        create(&one, &format!("s{i}"));
    }
    let kek = kek_id(&fleet.data("one"));
    let found = |server: &Server| {
        let sweep = server.call("GET", "/readyz?verbose", "").json()["sweep"].clone();
        (sweep["versions"][&kek].as_u64(), sweep["undecryptable"].as_u64())
    };
    for server in [&one, &two] {
        assert!(within(LIMIT, || found(server) == (Some(10), Some(0))), "{:?}", found(server));
    }
    fleet.sql("UPDATE versions SET sealed = decode(repeat('00', 100), 'hex') WHERE name = 's7'");
    for server in [&one, &two] {
        assert!(within(LIMIT, || found(server) == (Some(10), Some(1))), "{:?}", found(server));
    }
    let doctor = fleet.run("two", &["doctor"]);
    let report = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(report.contains("10 version(s), 1 did not open"), "{report}");
}
