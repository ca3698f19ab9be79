//! Two servers on one directory, and a server with another store's KEK file.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use agentrouter_testkit::ServerProcess;

use super::{one_error, text};
use crate::support::{Server, binary};

/// The id of the key in a KEK file.
fn kek_id(file: &str) -> String {
    let kek: serde_json::Value = serde_json::from_str(file).expect("JSON");
    kek["active"].as_str().expect("an id").to_owned()
}

/// Writes a KEK file with the required mode: readable by its owner only.
fn write(path: &Path, text: &str) {
    let _ = fs::remove_file(path);
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(path).expect("a file");
    file.write_all(text.as_bytes()).expect("written");
}

#[test]
fn a_second_server_on_the_same_data_names_the_first_and_exits() {
    let server = Server::start();
    let data = text(server.process.data_dir());
    let serve = ["serve", "--listen", "127.0.0.1:0", "--data-dir", data];
    let error = one_error(&serve);
    assert!(error.contains(&format!("process {}", server.process.id())), "{error}");
    assert!(error.contains("in use"), "{error}");
    // With another spelling of the directory as well.
    let spelled = format!("{data}/../data/.");
    assert!(one_error(&["serve", "--listen", "127.0.0.1:0", "--data-dir", &spelled]).contains("in use"));
    assert_eq!(server.call("GET", "/v1/secrets", "").status, 200, "the first continues");

    // A crash releases the lock.
    let Server { process, .. } = server;
    let data = process.data_dir().to_owned();
    process.kill();
    let again = ServerProcess::start(binary(), &data, &[]);
    assert!(again.stop().success());
}

#[test]
fn a_wrong_or_missing_kek_file_stops_the_start_with_one_sentence() {
    let server = Server::start();
    let create = "{\"name\":\"a\",\"value\":\"value\"}";
    assert_eq!(server.call("POST", "/v1/secrets", create).status, 200);
    let other = Server::start();
    let foreign = fs::read_to_string(other.data("kek.json")).expect("a KEK file");
    let Server { process, key, .. } = server;
    let data = process.data_dir().to_owned();
    assert!(process.stop().success());
    let path = data.join("kek.json");
    let own = fs::read_to_string(&path).expect("a KEK file");
    let (expected, found) = (kek_id(&own), kek_id(&foreign));
    let serve = ["serve", "--listen", "127.0.0.1:0", "--data-dir", text(&data)];

    // The KEK file of another store.
    write(&path, &foreign);
    let error = one_error(&serve);
    assert!(error.contains(&expected) && error.contains(&found), "{error}");

    // Another key under the right id.
    write(&path, &foreign.replace(&found, &expected));
    let error = one_error(&serve);
    assert!(error.contains(&expected) && error.contains("another key"), "{error}");

    // No KEK file. The server does not create one, which would hide the loss.
    fs::remove_file(&path).expect("removed");
    let error = one_error(&serve);
    assert!(error.contains(&expected) && error.contains("no KEK file"), "{error}");
    assert!(!path.exists());

    // A damaged KEK file.
    write(&path, &own[..own.len() / 2]);
    let error = one_error(&serve);
    let secret = own.split("\"key\": \"").nth(1).expect("a key");
    assert!(!error.contains(&secret[..8]), "no piece of the key is shown");

    // The right KEK file again: nothing was damaged.
    write(&path, &own);
    let again = ServerProcess::start(binary(), &data, &[]);
    let mut connection = crate::support::Connection::open(again.authority(), &key).expect("it accepts");
    let value = super::ok(&mut connection, "POST", "/v1/secrets/a/value", "{}");
    assert_eq!(value["value"], "value");
}
