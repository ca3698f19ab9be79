//! The first start in a new directory, and those after it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::{Serving, bootstrap_key};
use crate::support::{Server, binary};

fn serve() -> Command {
    let mut command = Command::new(binary());
    command.arg("serve");
    command
}

/// Every path below `dir` with its permission bits.
fn modes(dir: &Path) -> Vec<(String, u32)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        let metadata = path.symlink_metadata().expect("its metadata");
        found.push((path.display().to_string(), metadata.permissions().mode() & 0o7777));
        if metadata.is_dir() {
            found.extend(modes(&path));
        }
    }
    found
}

#[test]
fn a_first_start_makes_files_for_its_owner_alone_under_umask_000() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("missing/parents/data");
    std::fs::create_dir(dir.path().join("missing")).expect("for its words");
    std::fs::create_dir(dir.path().join("missing/parents")).expect("for its words");
    let mut shell = Command::new("sh");
    shell.args(["-c", "umask 000; exec \"$0\" \"$@\""]).arg(binary()).arg("serve");
    let serving = Serving::start(&mut shell, &data);
    assert_eq!(serving.list(&bootstrap_key(&data)), 200);
    let mode = data.metadata().expect("it is there").permissions().mode() & 0o7777;
    assert_eq!(mode, 0o700, "the directory itself");
    let found = modes(&data);
    for name in ["kek.json", "secrets.db", "bootstrap.env", "admin.sock", "audit", "audit/audit.jsonl"] {
        let path = data.join(name).display().to_string();
        assert!(found.iter().any(|(found, _)| *found == path), "there is no {name}: {found:?}");
    }
    for (path, mode) in found {
        let expected = if Path::new(&path).is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode, expected, "{path} {mode:04o}");
    }
}

#[test]
fn missing_parents_of_the_data_directory_are_made_for_the_owner_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("a/b/data");
    let output = Command::new(binary())
        .args(["serve", "--listen", "256.0.0.1:0", "--data-dir"])
        .arg(&data)
        .output()
        .expect("the binary runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(!dir.path().join("a").exists(), "settings are read before anything is made");

    // Its output goes beside the directory, which does not exist yet. So `Serving` cannot be used.
    let mut child = serve()
        .args(["--listen", "127.0.0.1:0", "--data-dir"])
        .arg(&data)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("the server starts");
    let mut line = String::new();
    let out = child.stdout.take().expect("piped");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).expect("a line");
    child.kill().expect("it can be killed");
    child.wait().expect("it ends");
    assert!(line.contains("\"http://127.0.0.1:"), "{line}");
    for made in ["a", "a/b", "a/b/data"] {
        let mode = dir.path().join(made).metadata().expect(made).permissions().mode() & 0o7777;
        assert_eq!(mode, 0o700, "{made}");
    }
}

#[test]
fn the_first_start_prints_addresses_and_no_key_and_later_ones_keep_the_keys() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let first = Serving::start(&mut serve(), &data);
    let key = bootstrap_key(&data);
    let said = first.said();
    let (port, url) = (first.url.rsplit(':').next().expect("a port").to_owned(), first.url.clone());
    assert_ne!(port, "0", "{said}");
    let env = data.join("bootstrap.env");
    for text in [
        format!("listens on {url}\n"),
        format!("{url}/\n"),
        format!("{} (", env.display()),
        "curl \"${".to_owned(),
    ] {
        assert!(said.contains(&text), "{text} is not in {said}");
    }
    assert!(!said.contains(&key), "the key is in its file alone");
    let log = std::fs::read_to_string(data.with_extension("err")).expect("its log");
    assert!(!log.contains("authenticated from now on"), "a new store has no rows of an older program: {log}");
    let before = std::fs::read_to_string(&env).expect("bootstrap.env");
    assert_eq!(before, format!("AGENTROUTER_BASE_URL={url}\nAGENTROUTER_API_KEY={key}\n"));
    first.kill();

    let second = Serving::start(&mut serve(), &data);
    assert!(!second.said().contains(&key) && !second.said().contains("first key"), "{}", second.said());
    assert_eq!(bootstrap_key(&data), key, "the key stays");
    assert_eq!(second.list(&key), 200);
    let after = std::fs::read_to_string(&env).expect("bootstrap.env");
    assert_eq!(after, format!("AGENTROUTER_BASE_URL={}\nAGENTROUTER_API_KEY={key}\n", second.url));
    second.kill();

    std::fs::remove_file(&env).expect("removed");
    let third = agentrouter_testkit::ServerProcess::start(binary(), &data, &[]);
    assert!(!env.exists(), "what was removed is not written again while there is a key");
    drop(third);
}

#[test]
fn an_address_that_the_operator_wrote_stays() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    Serving::start(&mut serve(), &data).kill();
    let env = data.join("bootstrap.env");
    let text = format!(
        "AGENTROUTER_BASE_URL=https://secrets.example\nAGENTROUTER_API_KEY={}\n",
        bootstrap_key(&data)
    );
    std::fs::write(&env, &text).expect("written");
    Serving::start(&mut serve(), &data).kill();
    assert_eq!(std::fs::read_to_string(&env).expect("read"), text);
}

#[test]
fn a_bootstrap_file_whose_key_was_not_stored_is_replaced() {
    // The state that a crash between the file and the key leaves: a file whose key is in no store.
    let other = Server::start();
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    std::fs::create_dir(&data).expect("made");
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o700)).expect("set");
    std::fs::copy(other.data("bootstrap.env"), data.join("bootstrap.env")).expect("copied");
    let serving = Serving::start(&mut serve(), &data);
    let key = bootstrap_key(&data);
    assert_ne!(key, other.key);
    assert_eq!((serving.list(&key), serving.list(&other.key)), (200, 401));
}

/// Starts a server that is expected to fail, and returns its log.
fn refused(data: &Path, args: &[&str]) -> String {
    let output = serve().args(args).args(["--listen", "127.0.0.1:0", "--data-dir"]).arg(data).output();
    let output = output.expect("the binary runs");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr).expect("UTF-8")
}

fn remove_database(data: &Path) {
    for name in ["secrets.db", "secrets.db-wal", "secrets.db-shm"] {
        let _ = std::fs::remove_file(data.join(name));
    }
}

#[test]
fn a_directory_whose_database_is_missing_or_empty_gets_no_new_store_unasked() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    Serving::start(&mut serve(), &data).kill();
    let bootstrap = std::fs::read(data.join("bootstrap.env")).expect("bootstrap.env");

    remove_database(&data);
    let log = refused(&data, &[]);
    for part in ["audit log", "secrets.db", "--database-url", "--new-store"] {
        assert!(log.contains(part), "{part}: {log}");
    }
    assert!(!data.join("secrets.db").exists(), "nothing is made");

    std::fs::write(data.join("secrets.db"), "").expect("written");
    assert!(refused(&data, &[]).contains("embedded database is empty"));

    remove_database(&data);
    std::fs::write(data.join("replica"), "0123456789abcdef0123456789abcdef\n").expect("written");
    assert!(refused(&data, &[]).contains("store is in PostgreSQL"));
    std::fs::remove_file(data.join("replica")).expect("removed");

    assert_eq!(std::fs::read(data.join("bootstrap.env")).expect("kept"), bootstrap);
    let doctor = super::run(&data, &["doctor"]);
    assert!(!doctor.out.contains("start 'serve' once"), "{}", doctor.out);
    assert!(doctor.out.contains("--database-url"), "{}", doctor.out);
}

#[test]
fn a_directory_of_a_store_in_postgresql_does_not_serve_the_embedded_store_that_it_left() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    Serving::start(&mut serve(), &data).kill();
    let store = std::fs::read_to_string(data.join("store")).expect("the file that names the store");
    let id = store.strip_prefix("sqlite ").expect("the engine").trim();
    let moved = format!("postgresql {id}\n");
    std::fs::write(data.join("store"), &moved).expect("written");
    let log = refused(&data, &[]);
    for part in ["store is in PostgreSQL", "--database-url", "AGENTROUTER_SECRETS_DATABASE_URL"] {
        assert!(log.contains(part), "{part}: {log}");
    }
    let listed = super::run(&data, &["key", "list"]);
    assert!(listed.refused(1).contains("--database-url"));
    let doctor = super::run(&data, &["doctor"]);
    assert!(doctor.out.contains("--database-url"), "{}", doctor.out);

    // The database of another store, with the same KEK file.
    let other = dir.path().join("other");
    std::fs::create_dir(&other).expect("made");
    std::fs::copy(data.join("kek.json"), other.join("kek.json")).expect("copied");
    Serving::start(&mut serve(), &other).kill();
    std::fs::write(data.join("store"), &store).expect("written");
    remove_database(&data);
    for name in ["secrets.db", "secrets.db-wal"] {
        std::fs::copy(other.join(name), data.join(name)).expect("copied");
    }
    assert!(refused(&data, &[]).contains("belongs to another store"));
}

#[test]
fn a_new_store_is_created_on_request_and_existing_files_are_kept() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    Serving::start(&mut serve(), &data).kill();
    let (bootstrap, kek) = (
        std::fs::read(data.join("bootstrap.env")).expect("read"),
        std::fs::read(data.join("kek.json")).expect("read"),
    );
    remove_database(&data);
    let second = Serving::start(serve().arg("--new-store"), &data);
    assert_eq!(second.list(&bootstrap_key(&data)), 200);
    second.kill();
    let aside = |name: &str| {
        let entries =
            std::fs::read_dir(&data).expect("a directory").map(|entry| entry.expect("an entry").path());
        let prefix = format!("{name}.");
        let found = entries
            .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix)));
        let found: Vec<_> = found.collect();
        assert_eq!(found.len(), 1, "{found:?}");
        found.into_iter().next().expect("one")
    };
    assert_eq!(std::fs::read(aside("bootstrap.env")).expect("read"), bootstrap);
    assert!(aside("audit").join("audit.jsonl").exists());
    assert_eq!(std::fs::read(data.join("kek.json")).expect("read"), kek);
    assert!(refused(&data, &["--new-store"]).contains("start without --new-store"));
    super::run(&data, &["audit", "verify"]).done();
}

#[test]
fn after_a_killed_first_start_the_next_one_issues_a_key_that_works() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut cut_short = 0;
    // Each way once, then repeated while no kill was early enough to interrupt a start.
    for round in 0..60 {
        if round >= 6 && cut_short > 0 {
            break;
        }
        let data = dir.path().join(format!("data{round}"));
        let mut child = serve()
            .args(["--listen", "127.0.0.1:0", "--data-dir"])
            .arg(&data)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("the server starts");
        // Killed as soon as a certain file exists, which is at another step of the start each time.
        let sign = ["secrets.db", "kek.json", "audit", "bootstrap.env.new", "bootstrap.env", "admin.sock"]
            [round % 6];
        let path = data.join(sign);
        for _ in 0..20_000 {
            if path.exists() || data.join("bootstrap.env").exists() {
                break;
            }
            std::thread::sleep(Duration::from_micros(500));
        }
        child.kill().expect("it can be killed");
        child.wait().expect("it ends");
        cut_short += usize::from(!data.join("bootstrap.env").exists());
        let serving = Serving::start(&mut serve(), &data);
        assert_eq!(serving.list(&bootstrap_key(&data)), 200, "killed at {sign}");
    }
    assert!(cut_short > 0, "at least one start was cut short before its end");
}
