//! `key` and `audit verify`, beside a running server and without one.

use std::time::Duration;

use super::run;
use crate::support::Server;

/// The output of `key create`, parsed: the key without its prefix.
fn key_of(out: &str) -> String {
    let key = out.strip_prefix("AGENTROUTER_API_KEY=").and_then(|rest| rest.strip_suffix('\n'));
    let key = key.unwrap_or_else(|| panic!("one line with the key alone: {out}"));
    let (id, secret) = key.split_once('_').expect("an id and a secret");
    assert_eq!((id.len(), secret.len()), (16, 49), "{key}");
    key.to_owned()
}

#[test]
fn keys_are_issued_listed_and_revoked_beside_a_server_and_without_one() {
    let server = Server::start();
    let data = server.process.data_dir().to_owned();
    let create = ["key", "create", "--user", "alice", "--scopes", "secrets/read,secrets/write"];

    let ran = run(
        &data,
        &[&create[..], &["--realms", "mcp,tools", "--name", "beside", "--expires", "90d"]].concat(),
    );
    let id = ran.err.split(' ').nth(1).expect("its id").to_owned();
    assert!(ran.err.starts_with(&format!("key {id} was issued")), "{}", ran.err);
    let key = key_of(&ran.done());
    assert!(key.starts_with(&id));
    assert_eq!(server.call_as(&key, "GET", "/v1/secrets", "").status, 200, "it works at once");

    assert!(run(&data, &["audit", "verify"]).done().ends_with(": the chain is whole\n"));
    let listed = run(&data, &["key", "list"]).done();
    let line = listed.lines().find(|line| line.starts_with(&id)).expect("it is listed");
    assert!(
        line.contains(" live   alice  secrets/read,secrets/write ") && line.ends_with("  beside"),
        "{listed}"
    );
    assert!(
        line.contains(" mcp ") && line.contains(" mcp,tools "),
        "its realm is the first of its realms: {line}"
    );
    assert!(!listed.contains(key.split_once('_').expect("two parts").1), "no secret part");
    let json = run(&data, &["key", "list", "--json"]).done();
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let listed =
        json.as_array().expect("an array").iter().find(|key| key["id"] == *id).expect("it is listed");
    assert_eq!((&listed["realms"][1], &listed["name"]), (&"tools".into(), &"beside".into()), "{listed}");

    assert_eq!(run(&data, &["key", "revoke", &id]).done(), format!("key {id} is revoked\n"));
    assert_eq!(server.call_as(&key, "GET", "/v1/secrets", "").status, 401, "it stops at once");
    assert_eq!(run(&data, &["key", "revoke", &id]).done(), format!("key {id} is revoked\n"), "twice is once");

    assert!(server.process.stop().success());
    let second = key_of(&run(&data, &[&create[..], &["--name", "without"]].concat()).done());
    assert!(run(&data, &["audit", "verify"]).done().ends_with(": the chain is whole\n"));
    let listed = run(&data, &["key", "list"]).done();
    let states: Vec<&str> =
        listed.lines().map(|line| line.split_whitespace().nth(1).expect("a state")).collect();
    assert_eq!(states, ["STATE", "live", "revoked", "live"], "{listed}");
    assert!(!data.join("admin.sock").exists());

    // A key that was revoked without a server is rejected by the next one.
    run(&data, &["key", "revoke", &second]).done();
    let server = Server::on(&data);
    assert_eq!(server.call_as(&second, "GET", "/v1/secrets", "").status, 401);
    assert!(server.issue("bob", "secrets/read", &[]).len() > 60);
    let written = server.written();
    for secret in [&key, &second] {
        let secret = secret.split_once('_').expect("two parts").1;
        assert!(!written.contains(&secret[..8]), "a key was written down");
    }
}

#[test]
fn a_list_may_have_spaces_as_the_help_writes_it() {
    let server = Server::start();
    let key = server.issue("alice", "secrets/read, secrets/write", &["--realms", "mcp, tools"]);
    assert_eq!(server.call_as(&key, "GET", "/v1/secrets?realm=tools", "").status, 200);
}

#[test]
fn a_new_key_is_described_and_one_that_reaches_the_provider_keys_unasked_is_reported() {
    let server = Server::start();
    let create = ["key", "create", "--user", "alice", "--scopes", "secrets/write"];
    let wide = run(server.process.data_dir(), &create);
    assert!(wide.err.contains("secrets of user alice in every realm"), "{}", wide.err);
    assert!(wide.err.contains("warning: ") && wide.err.contains("llm-keys"), "{}", wide.err);
    key_of(&wide.done());
    let narrow = run(server.process.data_dir(), &[&create[..], &["--realms", "mcp"]].concat());
    assert!(narrow.err.contains("secrets of user alice in realm mcp"), "{}", narrow.err);
    assert!(!narrow.err.contains("warning"), "{}", narrow.err);
}

#[test]
fn a_running_server_without_its_socket_is_reported_as_such() {
    let server = Server::start();
    std::fs::remove_file(server.data("admin.sock")).expect("removed");
    let err = run(server.process.data_dir(), &["key", "list"]).refused(1);
    assert!(err.contains(&format!("process {}", server.process.id())), "{err}");
    assert!(err.contains("admin.sock") && err.contains("socket was removed"), "{err}");
}

#[test]
fn a_key_that_does_not_parse_is_listed_as_damaged_and_can_be_revoked() {
    let server = Server::start();
    let data = server.process.data_dir().to_owned();
    let key = server.issue("zoe", "secrets/read,secrets/write", &[]);
    let id = &key[..16];
    assert_eq!(server.call_as(&key, "GET", "/v1/secrets", "").status, 200);
    let harm = |scopes: &str| {
        let conn = rusqlite::Connection::open(data.join("secrets.db")).expect("opened");
        let changed = conn.execute("UPDATE api_keys SET scopes = ?1 WHERE user = 'zoe'", [scopes]);
        assert_eq!(changed.expect("changed"), 1);
    };
    assert!(server.process.stop().success());
    harm("secrets/read,secrets/new");

    let server = Server::on(&data);
    assert_eq!(server.call("GET", "/v1/secrets", "").status, 200, "the others work");
    let refused = server.call_as(&key, "GET", "/v1/secrets", "");
    assert_eq!((refused.status, refused.reason().as_str()), (401, "UNAUTHENTICATED"));
    let state = || {
        let listed = run(&data, &["key", "list"]).done();
        assert_eq!(listed.lines().count(), 3, "{listed}");
        let line = listed.lines().last().expect("a line").to_owned();
        assert!(line.starts_with(id) && !line.contains("secrets/new"), "{listed}");
        line.split_whitespace().nth(1).expect("a state").to_owned()
    };
    assert_eq!(state(), "damaged");
    let doctor = run(&data, &["doctor"]);
    assert!(
        doctor.code == Some(1) && doctor.out.contains(id) && doctor.out.contains("key revoke"),
        "{doctor:?}"
    );

    assert_eq!(run(&data, &["key", "revoke", id]).done(), format!("key {id} is revoked\n"));
    assert_eq!(state(), "revoked");
    assert!(run(&data, &["doctor"]).done().ends_with("\nall is well\n"));
    assert!(server.process.stop().success());
    harm("secrets/read");
    let server = Server::on(&data);
    assert_eq!(server.call_as(&key, "GET", "/v1/secrets", "").status, 401, "revoked it stays");
}

#[test]
fn a_key_that_was_damaged_under_a_running_server_is_revoked_in_memory_too() {
    let server = Server::start();
    let key = server.issue("zoe", "secrets/read", &[]);
    assert_eq!(server.call_as(&key, "GET", "/v1/secrets", "").status, 200);
    let conn = rusqlite::Connection::open(server.data("secrets.db")).expect("opened");
    conn.execute("UPDATE api_keys SET realm = 'NONE' WHERE user = 'zoe'", ()).expect("changed");
    run(server.process.data_dir(), &["key", "revoke", &key[..16]]).done();
    assert_eq!(server.call_as(&key, "GET", "/v1/secrets", "").status, 401);
}

#[test]
fn each_command_is_recorded_in_the_audit_log() {
    let server = Server::start();
    let data = server.process.data_dir();
    run(data, &["key", "create", "--user", "alice", "--scopes", "secrets/read"]).done();
    let id = run(data, &["key", "list"]).done().lines().last().expect("a key")[..16].to_owned();
    run(data, &["key", "revoke", &id]).done();
    run(data, &["audit", "verify"]).done();
    let log = std::fs::read_to_string(server.data("audit/audit.jsonl")).expect("the log");
    let records: Vec<serde_json::Value> =
        log.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let beside: Vec<String> = records
        .iter()
        .filter(|record| record["address"] == "command line")
        .map(|record| {
            format!(
                "{} {}",
                record["rpc"].as_str().expect("an act"),
                record["outcome"].as_str().expect("an outcome")
            )
        })
        .collect();
    assert_eq!(
        beside,
        [
            "CreateKey ATTEMPT",
            "CreateKey OK",
            "ListKeys OK",
            "RevokeKey ATTEMPT",
            "RevokeKey OK",
            "VerifyAudit OK"
        ]
    );
    let revoked = records.iter().rfind(|record| record["rpc"] == "RevokeKey").expect("a record");
    assert_eq!((revoked["key_id"].as_str(), revoked["owner"].as_str()), (Some(&*id), Some("alice")));
}

#[test]
fn the_systems_own_secrets_are_managed_by_a_key_of_the_system() {
    let server = Server::start();
    let all = "secrets/read,secrets/write,secrets/read/internal,secrets/write/internal";
    let system = server.issue("system", all, &["--realm", "kek"]);
    let created = server.call_as(&system, "POST", "/v1/secrets", r#"{"name":"root","value":"v"}"#);
    assert_eq!(
        (created.status, created.json()["secret"]["user_id"].as_str()),
        (200, Some("system")),
        "{created:?}"
    );
    assert_eq!(created.json()["secret"]["realm"], "kek", "the key's own realm");
    assert_eq!(
        server.call("GET", "/v1/secrets/root?realm=kek", "").status,
        404,
        "not the first key's user's"
    );
    assert_eq!(server.call_as(&system, "DELETE", "/v1/secrets/root", "").status, 200);
}

#[test]
fn an_expired_key_is_listed_as_expired_and_rejected() {
    let server = Server::start();
    let key = server.issue("alice", "secrets/read", &["--expires", "1s"]);
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(server.call_as(&key, "GET", "/v1/secrets", "").status, 401);
    let listed = run(server.process.data_dir(), &["key", "list"]).done();
    let line = listed.lines().find(|line| line.starts_with(&key[..16])).expect("it is listed");
    assert!(line.contains(" expired "), "{line}");
}

#[test]
fn a_wrong_command_names_its_fault_and_issues_no_key() {
    let server = Server::start();
    let data = server.process.data_dir().to_owned();
    let create = ["key", "create"];
    for (args, message) in [
        (&["--user", "a", "--scopes", "secrets/admin"][..], "--scopes: each must be one of secrets/read, "),
        (&["--user", "a", "--scopes", ""], "--scopes: each must be one of secrets/read, "),
        (&["--user", "a b", "--scopes", "secrets/read"], "--user must be 1 to 255 characters of "),
        (
            &["--user", "a", "--scopes", "secrets/read", "--realm", "No"],
            "--realm must be 1 to 64 characters of ",
        ),
        (&["--user", "a", "--scopes", "secrets/read", "--realms", "a,,b"], "--realms: each must be 1 to 64 "),
        (
            &["--user", "a", "--scopes", "secrets/read", "--realms", "a,b", "--realm", "c"],
            "--realm must be one of --realms\n",
        ),
        (
            &["--user", "a", "--scopes", "secrets/read", "--expires", "soon"],
            "--expires must be a duration such as ",
        ),
        (
            &["--user", "a", "--scopes", "secrets/read", "--expires", "0s"],
            "--expires must be a duration such as 12h or 90d, more than 0",
        ),
        (&["--user", "a", "--scopes", "secrets/read", "--name", "a\tb"], "--name must be at most 255 bytes "),
    ] {
        let err = run(&data, &[&create[..], args].concat()).refused(1);
        assert!(err.starts_with(&format!("error: {message}")), "{args:?}: {err}");
    }
    for args in
        [&["--scopes", "secrets/read"][..], &["--user", "a"], &["--user", "a", "--scopes", "x", "--frob"]]
    {
        let err = run(&data, &[&create[..], args].concat()).refused(2);
        assert!(err.starts_with("error: ") && err.contains("Usage: "), "{args:?}: {err}");
    }
    let err = run(&data, &["key", "revoke", "nothing"]).refused(1);
    assert!(err.contains("must be 16 letters and digits") && err.contains("\nhint: 'key list'"), "{err}");
    let err = run(&data, &["key", "revoke", "AAAAAAAAAAAAAAAA"]).refused(1);
    assert!(err.starts_with("error: there is no key with that id\nhint: "), "{err}");
    assert_eq!(run(&data, &["key", "list"]).done().lines().count(), 2, "a header and the first key");

    let err = run(&data.join("elsewhere"), &["key", "list"]).refused(1);
    assert!(err.starts_with("error: there is no data directory ") && err.contains("--data-dir"), "{err}");
    assert!(!data.join("elsewhere").exists(), "a look makes nothing");
    let empty = tempfile::tempdir().expect("a directory");
    for args in [&["key", "list"][..], &["audit", "verify"]] {
        let err = run(empty.path(), args).refused(1);
        assert!(err.starts_with("error: there is no store in ") && err.contains("--data-dir"), "{err}");
    }
    assert_eq!(std::fs::read_dir(empty.path()).expect("read").count(), 0, "a look makes nothing");
}

#[test]
fn a_second_server_on_a_directory_names_the_process_that_serves_it() {
    let server = Server::start();
    let err = run(server.process.data_dir(), &["serve", "--listen", "127.0.0.1:0"]).refused(1);
    assert!(err.contains(&format!("process {}", server.process.id())), "{err}");
    assert_eq!(server.call("GET", "/v1/secrets", "").status, 200, "the first one continues");
    assert!(
        run(server.process.data_dir(), &["key", "list"]).done().contains("admin"),
        "its socket is still there"
    );
}

#[test]
fn an_address_that_cannot_be_had_is_reported_with_what_to_do() {
    let server = Server::start();
    let dir = tempfile::tempdir().expect("a directory");
    for (address, hint) in [
        (server.process.authority(), "'ss -ltnp' names the process"),
        ("192.0.2.1:0", "'ip address' lists those"),
    ] {
        let err = run(&dir.path().join("data"), &["serve", "--listen", address]).refused(1);
        assert!(err.contains(&format!("cannot listen on {address}")), "{err}");
        assert!(err.lines().any(|line| line.starts_with("hint: ") && line.contains(hint)), "{err}");
    }
}

#[test]
fn an_edited_audit_log_is_reported_with_the_line() {
    let server = Server::start();
    let data = server.process.data_dir().to_owned();
    assert!(server.process.stop().success());
    let path = data.join("audit/audit.jsonl");
    let text = std::fs::read_to_string(&path).expect("the log");
    std::fs::write(&path, text.replacen("\"CreateKey\"", "\"ListKeys\"", 1)).expect("edited");
    let ran = run(&data, &["audit", "verify"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(
        ran.out.starts_with("audit.jsonl:1: record 1: edited, or made with another key\n"),
        "{}",
        ran.out
    );
    assert!(ran.out.ends_with(" problem(s)\n"), "{}", ran.out);
}
