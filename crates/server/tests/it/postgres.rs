//! Servers on one PostgreSQL: the first start, further servers, and the faults that an operator sees.

mod keks;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use agentrouter_testkit::{Postgres, ServerProcess, Stop};
use tokio::time::Instant;

use crate::support::{Server, binary, mostly_in_time, within};

/// A database, and directories for servers on it.
pub struct Fleet {
    url: String,
    dir: tempfile::TempDir,
}

impl Fleet {
    pub fn new() -> Self {
        let server = Postgres::shared();
        Self::at(server.url(&server.database()))
    }

    fn at(url: String) -> Self {
        Self { url, dir: tempfile::tempdir().expect("a directory") }
    }

    fn data(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn start(&self, name: &str) -> ServerProcess {
        let env = [("AGENTROUTER_SECRETS_DATABASE_URL", self.url.as_str())];
        ServerProcess::start_with(binary(), &self.data(name), &[], &env)
    }

    /// A directory that has the KEK file of another server.
    fn join(&self, name: &str, other: &str) {
        self.join_from(name, &self.data(other));
    }

    /// The same, of a server of another database.
    fn join_from(&self, name: &str, other: &Path) {
        use std::os::unix::fs::DirBuilderExt as _;
        std::fs::DirBuilder::new().mode(0o700).create(self.data(name)).expect("a directory");
        std::fs::copy(other.join("kek.json"), self.data(name).join("kek.json")).expect("copied");
    }

    fn command(&self, name: &str, args: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(args).arg("--data-dir").arg(self.data(name));
        command.env("AGENTROUTER_SECRETS_DATABASE_URL", &self.url).stdin(Stdio::null());
        command
    }

    fn run(&self, name: &str, args: &[&str]) -> Output {
        self.command(name, args).output().expect("the binary runs")
    }

    /// The error of a server that does not start, and its hints.
    fn refused(&self, name: &str) -> String {
        let output = self.run(name, &["serve", "--listen", "127.0.0.1:0", "--database-start-time", "1s"]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let text = String::from_utf8(output.stderr).expect("UTF-8");
        text[text.find("error: ").expect("an error")..].to_owned()
    }
}

fn out(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn kek_id(data: &Path) -> String {
    let text = std::fs::read_to_string(data.join("kek.json")).expect("a KEK file");
    let kek: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    kek["active"].as_str().expect("an id").to_owned()
}

#[test]
fn the_first_server_sets_up_and_those_that_join_share_everything() {
    let fleet = Fleet::new();
    let first = Server::of(fleet.start("one"));
    fleet.join("two", "one");
    let second = fleet.start("two");
    assert!(!fleet.data("two").join("bootstrap.env").exists(), "there is a first key already");
    assert!(!fleet.data("one").join("secrets.db").exists(), "nothing embedded");
    let second =
        Server { process: second, key: first.key.clone(), _dir: tempfile::tempdir().expect("a directory") };

    let made = first.call("POST", "/v1/secrets", r#"{"name":"k","realm":"llm-keys","value":"sk-1"}"#);
    assert_eq!(made.status, 200, "{made:?}");
    let read = second.call("POST", "/v1/secrets/k/value", r#"{"realm":"llm-keys","user_id":"system"}"#);
    assert_eq!((read.status, read.json()["value"].as_str()), (200, Some("sk-1")), "{read:?}");

    // Keys, listed and issued beside either server; each has its own audit log.
    let issued = second.issue("alice", "secrets/read", &[]);
    assert_eq!(first.call_as(&issued, "GET", "/v1/secrets", "").status, 200);
    assert!(out(&fleet.run("one", &["key", "list"])).contains("alice"));
    let ids =
        ["one", "two"].map(|name| std::fs::read_to_string(fleet.data(name).join("replica")).expect("an id"));
    assert_ne!(ids[0], ids[1]);
    for name in ["one", "two"] {
        assert!(out(&fleet.run(name, &["audit", "verify"])).contains("the chain is whole"));
        let doctor = fleet.run(name, &["doctor"]);
        let text = String::from_utf8_lossy(&doctor.stdout);
        assert!(doctor.status.success() && text.contains("PostgreSQL at 127.0.0.1:"), "{text}");
        assert!(text.contains(" server(s) at work"), "{text}");
        assert!(text.contains("runs: process"), "{text}");
        // Without the setting, the directory shows where the store is.
        let mut without = fleet.command(name, &["doctor"]);
        let lost = without.env_remove("AGENTROUTER_SECRETS_DATABASE_URL").output().expect("the binary runs");
        let text = String::from_utf8_lossy(&lost.stdout);
        assert!(text.contains("set --database-url") && !text.contains("start 'serve'"), "{text}");
    }
    // A second process on one directory.
    assert!(fleet.refused("two").contains("in use"));

    // Without a server the commands work on the store directly, and both logs continue after a start.
    assert!(first.process.stop().success() && second.process.stop().success());
    assert!(out(&fleet.run("two", &["key", "list"])).contains("alice"));
    let again = fleet.start("one");
    assert!(out(&fleet.run("one", &["audit", "verify"])).contains("the chain is whole"));
    assert!(again.stop().success());
    assert!(out(&fleet.run("two", &["audit", "verify"])).contains("the chain is whole"));
}

#[test]
fn a_copy_of_a_running_servers_directory_is_not_served() {
    let fleet = Fleet::new();
    let first = fleet.start("one");
    fleet.join("copy", "one");
    std::fs::copy(fleet.data("one").join("replica"), fleet.data("copy").join("replica")).expect("copied");
    let error = fleet.refused("copy");
    assert!(error.contains("is running with this server's id"), "{error}");
    // The files that a crashed server leaves behind are not such a copy.
    first.kill();
    let again = fleet.start("one");
    std::fs::remove_file(fleet.data("copy").join("replica")).expect("removed");
    let second = fleet.start("copy");
    assert!(second.stop().success() && again.stop().success());
}

#[test]
fn a_server_without_the_kek_of_the_database_names_it_and_creates_none() {
    let fleet = Fleet::new();
    let first = fleet.start("one");
    let needed = kek_id(&fleet.data("one"));
    let error = fleet.refused("two");
    assert!(error.contains(&needed) && error.contains("copy it from another server"), "{error}");
    assert!(!fleet.data("two").join("kek.json").exists(), "none is made");

    let other = Fleet::new();
    let unrelated = other.start("three");
    assert!(unrelated.stop().success());
    let data = other.data("three").join("kek.json");
    std::fs::copy(data, fleet.data("two").join("kek.json")).expect("copied");
    let error = fleet.refused("two");
    assert!(error.contains(&needed) && error.contains(&kek_id(&fleet.data("two"))), "{error}");
    assert!(first.stop().success());
}

#[test]
fn one_of_several_servers_that_start_on_an_empty_database_sets_it_up() {
    for _ in 0..3 {
        let fleet = Fleet::new();
        let mut children: Vec<_> = (0..4)
            .map(|i| {
                let name = format!("s{i}");
                let mut command = fleet.command(&name, &["serve", "--listen", "127.0.0.1:0"]);
                (name, command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it runs"))
            })
            .collect();
        let start = Instant::now();
        let running = |children: &mut Vec<(String, std::process::Child)>| {
            children
                .iter_mut()
                .map(|(_, child)| child.try_wait().expect("a state"))
                .filter(Option::is_none)
                .count()
        };
        while running(&mut children) > 1 {
            assert!(start.elapsed() < Duration::from_secs(60), "all but one give up");
            std::thread::sleep(Duration::from_millis(20));
        }
        let (mut winners, mut losers) = (Vec::new(), Vec::new());
        for (name, mut child) in children {
            match child.try_wait().expect("a state") {
                None => winners.push((name, child)),
                Some(_) => losers.push((name, child.wait_with_output().expect("its words"))),
            }
        }
        assert_eq!(winners.len(), 1);
        let (name, mut winner) = winners.remove(0);
        let data = fleet.data(&name);
        while !data.join("bootstrap.env").exists() {
            assert!(start.elapsed() < Duration::from_secs(60), "the first key is written");
            std::thread::sleep(Duration::from_millis(20));
        }
        let needed = kek_id(&data);
        for (name, output) in losers {
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(error.contains(&needed), "{name}: {error}");
            assert!(
                !fleet.data(&name).join("kek.json").exists()
                    && !fleet.data(&name).join("bootstrap.env").exists()
            );
        }
        std::thread::sleep(Duration::from_millis(300));
        let keys = out(&fleet.run(&name, &["key", "list"]));
        assert_eq!(keys.lines().filter(|line| line.contains("bootstrap")).count(), 1, "{keys}");
        winner.kill().expect("it can be killed");
        winner.wait().expect("it ends");
    }
}

#[test]
fn no_output_contains_the_password() {
    let server = Postgres::shared();
    let database = server.database();
    server.sql(&database, &format!("ALTER DATABASE {database} OWNER TO keeper"));
    let canary = "canary-horse";
    let wrong = format!("postgres://keeper:{canary}@127.0.0.1:{}/{database}", server.port());
    let fleet = Fleet::at(wrong.clone());
    let error = fleet.refused("one");
    assert!(error.contains("does not admit this user"), "{error}");
    let mut seen = error;
    for args in [&["doctor"][..], &["key", "list"], &["serve", "--help"], &["serve", "--listen", "nonsense"]]
    {
        let output = fleet.run("one", args);
        seen.push_str(&String::from_utf8_lossy(&output.stdout));
        seen.push_str(&String::from_utf8_lossy(&output.stderr));
    }
    let flag = Command::new(binary())
        .args(["serve", "--listen", "127.0.0.1:0", "--database-url", &wrong, "--data-dir"])
        .arg(fleet.data("one"))
        .output()
        .expect("the binary runs");
    let flag = String::from_utf8_lossy(&flag.stderr).into_owned();
    assert!(flag.contains("can read the password in --database-url"), "{flag}");
    seen.push_str(&flag);
    assert!(!seen.contains(canary), "{seen}");

    // The right one, from a file.
    let file = fleet.data("password");
    std::fs::write(&file, format!("{}\n", "correct horse")).expect("written");
    let url = format!("postgres://keeper@127.0.0.1:{}/{database}", server.port());
    let args = ["--database-password-file", file.to_str().expect("UTF-8")];
    let env = [("AGENTROUTER_SECRETS_DATABASE_URL", url.as_str())];
    let process = ServerProcess::start_with(binary(), &fleet.data("two"), &args, &env);
    assert!(process.stop().success());
}

/// A new pipe with a name.
fn pipe(path: &Path) {
    let made = Command::new("mkfifo").args(["-m", "600"]).arg(path).status().expect("mkfifo runs");
    assert!(made.success());
}

#[test]
fn a_password_from_a_pipe_is_read_once_and_a_rotated_file_again() {
    let postgres = Postgres::start("");
    let database = postgres.database();
    postgres.sql(&database, &format!("ALTER DATABASE {database} OWNER TO keeper"));
    let fleet = Fleet::at(format!("postgres://keeper@127.0.0.1:{}/{database}", postgres.port()));
    let env = [("AGENTROUTER_SECRETS_DATABASE_URL", fleet.url.as_str())];
    let file = fleet.data("password");
    pipe(&file);
    let args = ["--database-password-file", file.to_str().expect("UTF-8")];
    let writer = file.clone();
    let written = std::thread::spawn(move || std::fs::write(writer, "correct horse\n"));
    let server = Server::of(ServerProcess::start_with(binary(), &fleet.data("one"), &args, &env));
    written.join().expect("no panic").expect("written");
    let end_sessions = || {
        let end = "SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity WHERE usename = 'keeper'";
        postgres.sql(&database, end)
    };
    end_sessions();
    let serves = |server: &Server| server.call("GET", "/v1/secrets", "").status == 200;
    assert!(within(Duration::from_secs(30), || serves(&server)), "the password is remembered");
    assert!(server.process.stop().success());

    std::fs::remove_file(&file).expect("removed");
    std::fs::write(&file, "correct horse").expect("written");
    let server = Server::of(ServerProcess::start_with(binary(), &fleet.data("one"), &args, &env));
    postgres.sql(&database, "ALTER ROLE keeper PASSWORD 'rotated'");
    std::fs::write(&file, "rotated\n").expect("written");
    end_sessions();
    assert!(within(Duration::from_secs(30), || serves(&server)), "the new password is used");
    assert!(server.written().contains("lets other users read"), "the mode of the file is reported");
    assert!(server.process.stop().success());
}

#[test]
fn a_signal_ends_a_start_that_waits_for_a_pipe() {
    let fleet = Fleet::at("postgres://keeper@127.0.0.1:1/none".to_owned());
    let file = fleet.data("password");
    pipe(&file);
    for signal in ["-TERM", "-INT"] {
        let args =
            ["serve", "--listen", "127.0.0.1:0", "--database-password-file", file.to_str().expect("UTF-8")];
        let mut command = fleet.command("one", &args);
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it runs");
        // It succeeds when the server has opened the pipe to read. Nothing is written to it.
        let mut open = std::fs::OpenOptions::new();
        std::os::unix::fs::OpenOptionsExt::custom_flags(
            open.write(true),
            rustix::fs::OFlags::NONBLOCK.bits().cast_signed(),
        );
        let mut held = None;
        assert!(within(Duration::from_secs(30), || {
            held = open.open(&file).ok();
            held.is_some()
        }));
        let id = child.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().expect("kill runs").success());
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || sender.send(child.wait_with_output().expect("it ends")));
        let output = receiver.recv_timeout(Duration::from_secs(30)).expect("it ends");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{signal}: {text}");
        assert!(text.contains("stopped before the start was complete"), "{signal}: {text}");
    }
}

#[test]
fn a_password_file_that_cannot_be_read_is_reported_at_once() {
    let fleet = Fleet::at("postgres://keeper@127.0.0.1:1/none".to_owned());
    let args = ["serve", "--listen", "127.0.0.1:0", "--database-password-file", "/nowhere/password"];
    let output = fleet.run("one", &args);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("database.password-file cannot be read") && text.contains("/nowhere/password"),
        "{text}"
    );
    assert!(!text.contains("cannot be reached yet"), "{text}");
}

#[test]
fn doctor_finds_and_counts_the_values_that_do_not_open() {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let fleet = Fleet::at(postgres.url(&database));
    let server = Server::of(fleet.start("one"));
    let create = r#"{"name":"canary-name","realm":"mcp","value":"canary-value"}"#;
    assert_eq!(server.call("POST", "/v1/secrets", create).status, 200);
    let rotate = r#"{"realm":"mcp","new_value":"canary-value-2"}"#;
    let rotated = server.call("POST", "/v1/secrets/canary-name/rotate", rotate);
    let id = rotated.json()["secret"]["id"].as_str().expect("an id").to_owned();
    let sql = |text: &str| postgres.sql(&database, &format!("SET search_path = agentrouter_secrets; {text}"));
    sql("CREATE TABLE public.kept AS SELECT secret_id, version, kek_id, wrapped_dek, sealed FROM versions");
    let sound = out(&fleet.run("one", &["doctor"]));
    assert!(sound.contains("all 2 open"), "{sound}");
    let elsewhere = "kek-01ARZ3NDEKTSV4RRFFQ69G5FAV";
    let other = format!(
        "UPDATE versions SET kek_id = '{elsewhere}' WHERE version = 2; UPDATE secrets SET kek_id = '{elsewhere}'"
    );
    for (change, found) in [
        (
            "UPDATE versions SET sealed = set_byte(sealed, 40, get_byte(sealed, 40) # 1) WHERE version = 1",
            &["1: corrupt"][..],
        ),
        (
            "UPDATE versions SET wrapped_dek = set_byte(wrapped_dek, 20, get_byte(wrapped_dek, 20) # 1)",
            &["1: corrupt", "2: corrupt"],
        ),
        (
            "UPDATE versions v SET sealed = k.sealed, wrapped_dek = k.wrapped_dek FROM public.kept k \
             WHERE k.version = 3 - v.version",
            &["1: corrupt", "2: corrupt"],
        ),
        (other.as_str(), &["2: kek_unavailable"]),
    ] {
        sql(change);
        let ran = fleet.run("one", &["doctor"]);
        let text = String::from_utf8_lossy(&ran.stdout);
        assert_eq!(ran.status.code(), Some(1), "{change}: {ran:?}");
        assert!(text.contains(&format!("{} of 2 do not open", found.len())), "{change}: {text}");
        for line in found {
            assert!(text.contains(&format!("secret {id} version {line}")), "{change}: {text}");
        }
        let whole = [&*text, &String::from_utf8_lossy(&ran.stderr)].concat();
        assert!(whole.contains("hint: ") && !whole.contains("canary"), "{whole}");
        sql("UPDATE versions v SET kek_id = k.kek_id, sealed = k.sealed, wrapped_dek = k.wrapped_dek \
             FROM public.kept k WHERE k.secret_id = v.secret_id AND k.version = v.version; \
             UPDATE secrets s SET kek_id = v.kek_id FROM versions v WHERE v.secret_id = s.id");
    }
    assert!(out(&fleet.run("one", &["doctor"])).contains("all 2 open"), "as it was");
    assert!(server.process.stop().success());
}

#[test]
fn an_outage_makes_the_server_unready_late_and_recovery_is_automatic() {
    let postgres = Postgres::start("");
    let fleet = Fleet::at(postgres.url(&postgres.database()));
    let server = Server::of(fleet.start("one"));
    let body = r#"{"name":"k","realm":"llm-keys","value":"sk-1"}"#;
    assert_eq!(server.call("POST", "/v1/secrets", body).status, 200);
    // So that the shutdown has little to write, and is not an outage itself.
    postgres.sql("postgres", "CHECKPOINT");
    let stopped = Instant::now();
    postgres.stop(Stop::Fast);
    let ready = server.call("GET", "/readyz", "");
    let is_blip = stopped.elapsed() < Duration::from_secs(4);
    assert!(ready.status == 200 || !is_blip, "a blip makes no server unready: {ready:?}");
    let asked = Instant::now();
    let refused = server.call("POST", "/v1/secrets", body);
    assert_eq!((refused.status, refused.reason().as_str()), (503, "STORE_UNAVAILABLE"), "{refused:?}");
    let listed = server.call("GET", "/v1/secrets", "");
    assert_eq!((listed.status, listed.reason().as_str()), (503, "STORE_UNAVAILABLE"), "{listed:?}");
    assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());
    let is_unready = || server.call("GET", "/readyz", "").status != 200;
    assert!(within(Duration::from_secs(30), is_unready), "an outage does");
    assert!(stopped.elapsed() > Duration::from_secs(4), "{:?}", stopped.elapsed());
    assert_eq!(server.call("GET", "/livez", "").status, 200);
    assert!(fleet.refused("two").contains("cannot be used"));
    mostly_in_time(|| {
        postgres.restart();
        let started = Instant::now();
        let healed = |path: &str| server.call("GET", path, "").status == 200;
        let serves = || {
            healed("/readyz")
                && healed("/v1/secrets")
                && server.call("POST", "/v1/secrets", body).status == 200
        };
        assert!(within(Duration::from_secs(60), serves), "it heals");
        let took = started.elapsed();
        if took < Duration::from_secs(10) {
            return Ok(());
        }
        // Another outage, to be measured again.
        postgres.stop(Stop::Fast);
        assert!(within(Duration::from_secs(30), is_unready));
        Err(format!("full service after {took:?}"))
    });
    assert!(server.process.stop().success());
}

#[test]
fn a_server_that_starts_before_its_database_waits_for_it() {
    let postgres = Postgres::start("");
    let fleet = Fleet::at(postgres.url(&postgres.database()));
    postgres.stop(Stop::Fast);
    let start = Instant::now();
    let error = fleet.refused("one");
    assert!(error.contains("cannot be used"), "{error}");
    assert!(start.elapsed() > Duration::from_secs(1), "it waits as long as the setting says");

    // A stop signal during the wait ends the server.
    let mut command = fleet.command("one", &["serve", "--listen", "127.0.0.1:0"]);
    let mut waits = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it runs");
    let mut log = BufReader::new(waits.stderr.take().expect("piped")).lines().map_while(Result::ok);
    assert!(log.any(|line| line.contains("cannot be reached yet")), "it says that it waits");
    let stop = Command::new("kill").args(["-TERM", &waits.id().to_string()]).status().expect("kill runs");
    assert!(stop.success());
    let rest: Vec<String> = log.collect();
    assert!(waits.wait().expect("it ends").success(), "{rest:?}");

    let server = std::thread::scope(|scope| {
        let server = scope.spawn(|| Server::of(fleet.start("one")));
        std::thread::sleep(Duration::from_secs(2));
        assert!(!server.is_finished(), "it waits");
        postgres.restart();
        let back = Instant::now();
        let server = server.join().expect("it started");
        assert!(back.elapsed() < Duration::from_secs(30), "{:?}", back.elapsed());
        server
    });
    assert_eq!(server.call("GET", "/readyz", "").status, 200);
    // An error that waiting does not fix is reported at once.
    let start = Instant::now();
    let unknown_user = Fleet::at(format!("postgres://nobody@127.0.0.1:{}/postgres", postgres.port()));
    let refused = unknown_user.run("two", &["serve", "--listen", "127.0.0.1:0"]);
    assert!(refused.status.code() == Some(1) && start.elapsed() < Duration::from_secs(20), "{refused:?}");
    assert!(server.process.stop().success());
}

#[test]
fn a_commit_that_hangs_is_an_unknown_outcome_and_safe_to_repeat() {
    let postgres = Postgres::start("");
    let fleet = Fleet::at(postgres.url(&postgres.database()));
    let server = Server::of(fleet.start("one"));
    let body = r#"{"name":"k","realm":"llm-keys","value":"sk-1"}"#;
    assert_eq!(server.call("POST", "/v1/secrets", body).status, 200);
    // A standby that does not exist: commits are on this disk and wait.
    postgres.reconfigure("synchronous_standby_names = 'nobody'");
    let start = Instant::now();
    // A change of an existing secret waits for its fence. Without the fence it is not attempted.
    let rotate = r#"{"realm":"llm-keys","new_value":"sk-2","expected_version":1}"#;
    let undone = server.call("POST", "/v1/secrets/k/rotate", rotate);
    assert_eq!((undone.status, undone.reason().as_str()), (503, "STORE_UNAVAILABLE"), "{undone:?}");
    // A first creation waits for its own commit only.
    let create = r#"{"name":"new","realm":"llm-keys","value":"sk-new","expected_version":0}"#;
    let unknown = server.call("POST", "/v1/secrets", create);
    assert_eq!((unknown.status, unknown.reason().as_str()), (503, "OUTCOME_UNKNOWN"), "{unknown:?}");
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    postgres.reconfigure("synchronous_standby_names = ''");
    let healed = Instant::now();
    let until_available = |path: &str, body: &str| loop {
        let again = server.call("POST", path, body);
        if again.status != 503 {
            break again;
        }
        assert!(healed.elapsed() < Duration::from_secs(30), "{again:?}");
        std::thread::sleep(Duration::from_millis(100));
    };
    let again = until_available("/v1/secrets", create);
    assert_eq!(again.reason(), "VERSION_MISMATCH", "it had happened: {again:?}");
    let again = until_available("/v1/secrets/k/rotate", rotate);
    assert_eq!(again.json()["secret"]["version"], 2, "it had not happened: {again:?}");
    for (name, value) in [("k", "sk-2"), ("new", "sk-new")] {
        let path = format!("/v1/secrets/{name}/value");
        let read = server.call("POST", &path, r#"{"realm":"llm-keys","user_id":"system"}"#);
        assert_eq!(read.json()["value"].as_str(), Some(value), "{read:?}");
    }
    assert!(server.process.stop().success());
}

#[test]
fn a_newer_database_is_refused_by_an_older_server() {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let fleet = Fleet::at(postgres.url(&database));
    assert!(fleet.start("one").stop().success());
    postgres.sql(&database, "UPDATE agentrouter_secrets.schema_version SET version = 99");
    let error = fleet.refused("one");
    assert!(error.contains("schema 99") && error.contains("newer program"), "{error}");
}

#[test]
fn a_store_migrates_to_postgresql_and_a_backup_restores_into_either_engine() {
    let fleet = Fleet::new();
    let data = fleet.data("one");
    let server = Server::on(&data);
    let key = server.key.clone();
    for name in ["a", "b"] {
        let body = format!(r#"{{"name":"{name}","realm":"mcp","value":"v-{name}","tags":{{"env":"prod"}}}}"#);
        assert_eq!(server.call("POST", "/v1/secrets", &body).status, 200);
    }
    let rotate = r#"{"realm":"mcp","new_value":"w-a","grace_period":"3600s"}"#;
    assert_eq!(server.call("POST", "/v1/secrets/a/rotate", rotate).status, 200);
    assert!(server.process.stop().success());
    let before = std::fs::read(data.join("secrets.db")).expect("read");

    // Migrated, and served from there.
    let from = format!("sqlite://{}", data.join("secrets.db").display());
    let moved = Command::new(binary())
        .args(["migrate", "--from", &from, "--to", &fleet.url, "--data-dir"])
        .arg(&data)
        .output()
        .expect("the binary runs");
    assert!(
        out(&moved).contains("moved and compared: 2 secret(s) in 3 version(s), 1 API key(s)"),
        "{moved:?}"
    );
    assert!(std::fs::read(data.join("secrets.db")).expect("read") == before, "the old store is as it was");
    let values = |server: &Server| {
        [("a", 0), ("a", 1), ("b", 0)].map(|(name, version)| {
            let body = format!(r#"{{"realm":"mcp","version":{version}}}"#);
            let reply = server.call("POST", &format!("/v1/secrets/{name}/value"), &body);
            reply.json()["value"].as_str().unwrap_or_default().to_owned()
        })
    };
    let server = Server::of_restored(fleet.start("one"), &key);
    assert_eq!(values(&server), ["w-a", "v-a", "v-b"]);

    // Backed up beside the server, and restored into a file and into another database.
    let file = fleet.dir.path().join("backup");
    let path = file.to_str().expect("UTF-8");
    let other = Command::new(binary()).args(["backup", path, "--data-dir"]).arg(&data).output();
    let other = other.expect("the binary runs");
    let error = String::from_utf8_lossy(&other.stderr);
    assert!(
        other.status.code() == Some(1)
            && error.contains("set --database-url (AGENTROUTER_SECRETS_DATABASE_URL)"),
        "{error}"
    );
    assert!(out(&fleet.run("one", &["backup", path])).contains("2 secret(s) in 3 version(s)"));
    let full = fleet.run("one", &["restore", path]);
    assert_eq!(full.status.code(), Some(1), "{full:?}");
    assert!(server.process.stop().success());
    assert!(out(&fleet.run("one", &["audit", "verify"])).contains("the chain is whole"));
    fleet.join("file", "one");
    let restored = Command::new(binary())
        .args(["restore", path, "--data-dir"])
        .arg(fleet.data("file"))
        .output()
        .expect("the binary runs");
    assert!(out(&restored).contains("2 secret(s) in 3 version(s)"));
    let server = Server::of_restored(ServerProcess::start(binary(), &fleet.data("file"), &[]), &key);
    assert_eq!(values(&server), ["w-a", "v-a", "v-b"]);
    let other = Fleet { url: Fleet::new().url, dir: fleet.dir };
    other.join("two", "one");
    assert!(out(&other.run("two", &["restore", path])).contains("2 secret(s) in 3 version(s)"));
    let server = Server::of_restored(other.start("two"), &key);
    assert_eq!(values(&server), ["w-a", "v-a", "v-b"]);
}

#[test]
fn a_restore_killed_before_its_first_row_is_not_served_and_can_be_resumed() {
    let fleet = Fleet::new();
    let server = Server::of(fleet.start("one"));
    let body = r#"{"name":"a","realm":"mcp","value":"v-a"}"#;
    assert_eq!(server.call("POST", "/v1/secrets", body).status, 200);
    let file = fleet.dir.path().join("backup");
    let path = file.to_str().expect("UTF-8");
    out(&fleet.run("one", &["backup", path]));
    mostly_in_time(|| {
        let other = Fleet::new();
        other.join_from("two", &fleet.data("one"));
        let database = other.url.rsplit('/').next().expect("a name");
        let count = |what: &str| Postgres::shared().sql(database, &format!("SELECT count(*) FROM {what}"));
        let is_there =
            "information_schema.tables WHERE table_schema = 'agentrouter_secrets' AND table_name = 'keks'";
        let is_marked =
            || count(is_there) == "1" && count("agentrouter_secrets.facts WHERE name = 'import'") == "1";

        let mut restore = other.command("two", &["restore", path]);
        let mut restore = restore.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it runs");
        assert!(within(Duration::from_secs(30), is_marked), "the store is marked");
        restore.kill().expect("killed");
        restore.wait().expect("it ended");
        // While it watches for servers, for two seconds from its start.
        if count("agentrouter_secrets.keks") != "0" {
            return Err("something was put in already".to_owned());
        }
        let refused = other.refused("two");
        assert!(refused.contains("is not finished"), "{refused}");
        assert!(out(&other.run("two", &["restore", path])).contains("1 secret(s) in 1 version(s)"));
        let again = other.run("two", &["restore", path]);
        let error = String::from_utf8_lossy(&again.stderr);
        assert!(again.status.code() == Some(1) && error.contains("name another database"), "{error}");
        Ok(())
    });
}

#[test]
fn a_database_that_is_served_is_not_moved_and_not_restored_into() {
    let fleet = Fleet::new();
    let server = Server::of(fleet.start("one"));
    let body = r#"{"name":"a","realm":"mcp","value":"v-a","tags":{"env":"prod"}}"#;
    assert_eq!(server.call("POST", "/v1/secrets", body).status, 200);
    let key = server.key.clone();
    let id = std::fs::read_to_string(fleet.data("one").join("replica")).expect("an id").trim().to_owned();
    fleet.join("two", "one");
    let target = fleet.data("two").join("secrets.db");
    let to = format!("sqlite://{}", target.display());
    let migrate = || {
        let mut command = Command::new(binary());
        command.args(["migrate", "--from", &fleet.url, "--to", &to, "--data-dir"]).arg(fleet.data("two"));
        command.output().expect("the binary runs")
    };
    let refused = |output: &Output, what: &str| {
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && error.contains(what), "{what}: {error}");
    };
    refused(&migrate(), &format!("in use by server {id}"));
    assert!(!target.exists(), "nothing was made");

    // A store that was emptied under a running server is not filled either.
    let file = fleet.dir.path().join("backup");
    let path = file.to_str().expect("UTF-8");
    let mut elsewhere = Command::new(binary());
    elsewhere.args(["backup", path, "--data-dir"]).arg(fleet.data("one"));
    refused(
        &elsewhere.output().expect("the binary runs"),
        "hint: set --database-url (AGENTROUTER_SECRETS_DATABASE_URL) as that server had it",
    );
    out(&fleet.run("one", &["backup", path]));
    let other = Fleet::new();
    other.join_from("three", &fleet.data("one"));
    let running = other.start("four");
    let database = other.url.rsplit('/').next().expect("a name").to_owned();
    Postgres::shared().sql(&database, "DROP SCHEMA agentrouter_secrets CASCADE");
    refused(&other.run("three", &["restore", path]), "in use by server");
    assert!(running.stop().success());
    assert!(out(&other.run("three", &["restore", path])).contains("1 secret(s) in 1 version(s)"));

    // Stopped, it is migrated out and back, and nothing is lost on the way.
    assert!(server.process.stop().success());
    assert!(out(&migrate()).contains("moved and compared: 1 secret(s) in 1 version(s), 1 API key(s)"));
    let third = Fleet::new();
    let back = Command::new(binary())
        .args(["migrate", "--from", &to, "--to", &third.url, "--data-dir"])
        .arg(fleet.data("two"))
        .output()
        .expect("the binary runs");
    assert!(out(&back).contains("moved and compared: 1 secret(s)"));
    third.join_from("five", &fleet.data("one"));
    let again = third.dir.path().join("again");
    out(&third.run("five", &["backup", again.to_str().expect("UTF-8")]));
    let items = |path: &Path| {
        let text = std::fs::read_to_string(path).expect("text");
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines[1..lines.len() - 2].to_vec()
    };
    assert_eq!(items(&file), items(&again), "to the byte");
    let server = Server::of_restored(third.start("five"), &key);
    let read = server.call("POST", "/v1/secrets/a/value", r#"{"realm":"mcp"}"#);
    assert_eq!(read.json()["value"].as_str(), Some("v-a"), "{read:?}");
    assert!(server.process.stop().success());
}
