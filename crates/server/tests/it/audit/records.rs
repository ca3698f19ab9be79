//! Every request makes exactly its records, over every transport.

use std::time::Duration;

use agentrouter_model::Rpc;
use serde_json::Value;

use super::calls::{Say, TRANSPORTS, Transport, call};
use super::{Trail, assert_clean, verify};
use crate::support::{Connection, Server, within};

/// A record as a line: `rpc phase outcome reason user owner/realm/name version`, with `-` for an absent field.
fn line(record: &Value) -> String {
    let text = |field: &str| record[field].as_str().unwrap_or("-").to_owned();
    let version = record["version"].as_i64().map_or("-".to_owned(), |version| version.to_string());
    let place = format!("{}/{}/{}", text("owner"), text("realm"), text("name"));
    let [rpc, phase, outcome, reason, user] = ["rpc", "phase", "outcome", "reason", "user"].map(text);
    format!("{rpc} {phase} {outcome} {reason} {user} {place} {version}")
}

struct RecordKeys {
    admin: String,
    /// Of user `ann`, limited to writing in one realm.
    writer: String,
    /// Of user `ann`, limited to reading.
    reader: String,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_over_every_transport_makes_exactly_its_records() {
    let server = Server::start();
    let keys = RecordKeys {
        admin: server.key.clone(),
        writer: server.issue("ann", "secrets/write", &["--realms", "mcp"]),
        reader: server.issue("ann", "secrets/read", &[]),
    };
    let mut trail = Trail::from_now(server.process.data_dir());
    for transport in TRANSPORTS {
        calls_that_end_well(&server, &keys.admin, transport, &mut trail).await;
        calls_that_are_refused(&server, &keys, transport, &mut trail).await;
    }
    assert_clean(server.process.data_dir());
}

/// Sends a request and compares the records that it made.
async fn expect(
    server: &Server,
    trail: &mut Trail,
    (transport, key): (Transport, &str),
    (rpc, say): (Rpc, Say<'_>),
    expected: &[&str],
) {
    let outcome = call(server, transport, key, rpc, say).await;
    let records = trail.news();
    let lines: Vec<String> = records.iter().map(line).collect();
    assert_eq!(lines, expected, "{rpc} over {transport:?}");
    let recorded = records.last().map(|record| record["outcome"].as_str().unwrap_or_default());
    assert_eq!(recorded, Some(outcome.as_str()), "{rpc} over {transport:?}: the record and the response");
    for record in &records {
        check_fields(record, key);
        assert_eq!(record["request_id"], records[0]["request_id"], "one call, one request");
    }
}

/// Checks the fields of every record, and that it contains nothing else.
fn check_fields(record: &Value, key: &str) {
    const ALLOWED: [&str; 16] = [
        "seq",
        "time",
        "request_id",
        "trace_id",
        "key_id",
        "user",
        "rpc",
        "owner",
        "realm",
        "name",
        "version",
        "phase",
        "outcome",
        "reason",
        "address",
        "mac",
    ];
    let members = record.as_object().expect("an object");
    assert!(members.keys().all(|member| ALLOWED.contains(&&**member)), "{record}");
    let text = |field: &str| record[field].as_str().unwrap_or_default();
    assert!(text("time").ends_with('Z') && text("time").contains('T'), "{record}");
    assert!(text("request_id").len() == 32 && text("mac").len() == 64, "{record}");
    assert!(text("address").starts_with("127.0.0.1:"), "{record}");
    match record["outcome"].as_str() {
        Some("UNAUTHENTICATED") => assert!(record["key_id"].is_null(), "{record}"),
        _ => assert_eq!(record["key_id"], key[..16], "{record}"),
    }
}

async fn calls_that_end_well(server: &Server, key: &str, transport: Transport, trail: &mut Trail) {
    use Rpc::{
        CreateSecret, DeleteSecret, GetSecret, GetSecretValue, ListSecrets, RotateSecret, ValidateSecret,
    };
    let say = Say { name: "openai", realm: "mcp", value: "sk-first", page_size: 10, ..Say::default() };
    let wrong = Say { expected_version: Some(7), ..say };
    let place = "admin admin/mcp/openai";
    let one = |text: &str| text.replace("{}", place);
    let cases: [(Rpc, Say<'_>, &[&str]); 11] = [
        (CreateSecret, say, &["CreateSecret attempt ATTEMPT - {} -", "CreateSecret outcome OK - {} 1"]),
        (GetSecret, say, &["GetSecret outcome OK - {} 1"]),
        (ListSecrets, say, &["ListSecrets outcome OK - admin admin/mcp/- -"]),
        (ListSecrets, Say::default(), &["ListSecrets outcome OK - admin admin/-/- -"]),
        (GetSecretValue, say, &["GetSecretValue outcome OK - {} 1"]),
        (ValidateSecret, say, &["ValidateSecret outcome OK - {} -"]),
        (RotateSecret, say, &["RotateSecret attempt ATTEMPT - {} -", "RotateSecret outcome OK - {} 2"]),
        (CreateSecret, say, &["CreateSecret attempt ATTEMPT - {} -", "CreateSecret outcome OK - {} 3"]),
        (
            RotateSecret,
            wrong,
            &["RotateSecret attempt ATTEMPT - {} -", "RotateSecret outcome ABORTED VERSION_MISMATCH {} -"],
        ),
        (DeleteSecret, say, &["DeleteSecret attempt ATTEMPT - {} -", "DeleteSecret outcome OK - {} 3"]),
        (
            DeleteSecret,
            say,
            &["DeleteSecret attempt ATTEMPT - {} -", "DeleteSecret outcome NOT_FOUND SECRET_NOT_FOUND {} -"],
        ),
    ];
    for (rpc, say, expected) in cases {
        let expected: Vec<String> = expected.iter().map(|text| one(text)).collect();
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        expect(server, trail, (transport, key), (rpc, say), &expected).await;
    }
}

async fn calls_that_are_refused(server: &Server, keys: &RecordKeys, transport: Transport, trail: &mut Trail) {
    let say = Say { name: "absent", realm: "mcp", value: "sk-canary", ..Say::default() };
    let mut strange = keys.admin.clone();
    // Another last digit: the checksum is wrong.
    let last = if strange.pop() == Some('0') { '1' } else { '0' };
    strange.push(last);
    for rpc in Rpc::ALL {
        // 401: the caller is unknown, and the record has none of the other fields.
        let expected = format!("{rpc} outcome UNAUTHENTICATED UNAUTHENTICATED - -/-/- -");
        expect(server, trail, (transport, &strange), (rpc, say), &[&expected]).await;

        // 403: the scope, before anything is read. Then the realm, with the address of the secret.
        let other = if rpc.is_write() { &keys.reader } else { &keys.writer };
        let expected = format!("{rpc} outcome PERMISSION_DENIED SCOPE_MISSING ann -/-/- -");
        expect(server, trail, (transport, other), (rpc, say), &[&expected]).await;
        if rpc.is_write() {
            let say = Say { realm: "default", ..say };
            let expected =
                format!("{rpc} outcome PERMISSION_DENIED REALM_NOT_ALLOWED ann ann/default/absent -");
            expect(server, trail, (transport, &keys.writer), (rpc, say), &[&expected]).await;
        }

        // 400: an invalid name is in no record.
        let say = Say { name: "canary..name", page_size: -1, ..say };
        let expected = format!("{rpc} outcome INVALID_ARGUMENT INVALID_REQUEST admin -/-/- -");
        expect(server, trail, (transport, &keys.admin), (rpc, say), &[&expected]).await;
    }
    // 404.
    for rpc in [Rpc::GetSecret, Rpc::ValidateSecret, Rpc::GetSecretValue] {
        let expected = format!("{rpc} outcome NOT_FOUND SECRET_NOT_FOUND admin admin/mcp/absent -");
        expect(server, trail, (transport, &keys.admin), (rpc, say), &[&expected]).await;
    }
    // 400 from the store: a new secret needs a value.
    let say = Say { value: "", ..say };
    let attempt = "CreateSecret attempt ATTEMPT - admin admin/mcp/absent -";
    let outcome = "CreateSecret outcome INVALID_ARGUMENT INVALID_REQUEST admin -/-/- -";
    expect(server, trail, (transport, &keys.admin), (Rpc::CreateSecret, say), &[attempt, outcome]).await;
}

#[test]
fn behind_a_trusted_proxy_the_address_is_the_clients() {
    for (trusted, forwarded, address) in [
        ("127.0.0.0/8", "203.0.113.9, 192.0.2.7", "\"address\":\"192.0.2.7\""),
        ("10.0.0.0/8", "192.0.2.7", "\"address\":\"127.0.0.1:"),
    ] {
        let server = Server::start_with(&["--trusted-proxies", trusted]);
        let authorization = format!("Bearer ak-{}", server.key);
        let headers = [("Authorization", authorization.as_str()), ("X-Forwarded-For", forwarded)];
        assert_eq!(server.send("GET", "/v1/secrets", &headers, b"").status, 200);
        let log = std::fs::read_to_string(server.data("audit/audit.jsonl")).expect("the log");
        let line = log.lines().find(|line| line.contains("ListSecrets")).expect("the call");
        assert!(line.contains(address), "{line}");
    }
}

#[test]
fn a_record_has_the_request_id_of_its_response_and_the_trace_id_of_its_request() {
    let server = Server::start();
    let mut trail = Trail::from_now(server.process.data_dir());
    let authorization = format!("Bearer ak-{}", server.key);
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = format!("00-{trace}-00f067aa0ba902b7-01");
    let headers = [("Authorization", authorization.as_str()), ("traceparent", parent.as_str())];
    let reply = server.send("GET", "/v1/secrets", &headers, b"");
    let records = trail.news();
    assert_eq!(records.len(), 1);
    assert_eq!(reply.header("x-request-id"), records[0]["request_id"].as_str());
    assert_eq!(records[0]["trace_id"], trace);

    // A request that cannot be parsed is recorded too, once.
    let headers = [("Authorization", authorization.as_str()), ("Content-Type", "application/json")];
    for path in ["/v1/secrets", "/agentrouter.secret.v1.SecretService/CreateSecret"] {
        let reply = server.send("POST", path, &headers, b"{\"name\": canary}");
        assert_eq!(reply.status, 400, "{path}: {reply:?}");
        let lines: Vec<String> = trail.news().iter().map(line).collect();
        assert_eq!(lines, ["CreateSecret outcome INVALID_ARGUMENT MALFORMED_BODY admin -/-/- -"], "{path}");
    }
}

#[test]
fn the_chain_continues_from_file_to_file() {
    // The smallest size that can be set.
    let server = Server::start_with(&["--audit-max-size", "64KiB", "--audit-compression", "none"]);
    let mut connection = Connection::open(server.process.authority(), &server.key).expect("it accepts");
    let mut trail = Trail::from_now(server.process.data_dir());
    for _ in 0..500 {
        assert_eq!(connection.call("GET", "/v1/secrets", "").expect("a response").status, 200);
    }
    assert_eq!(trail.news().len(), 500);
    let files = std::fs::read_dir(server.data("audit")).expect("the audit log").count();
    assert!(files >= 3, "{files}");
    assert_clean(server.process.data_dir());

    // A full file is part of the chain like the current one: its removal is found.
    let first = server.data("audit").join("audit-00000000000000000001.jsonl");
    std::fs::remove_file(first).expect("removed");
    let (clean, said) = verify(server.process.data_dir());
    assert!(!clean && said.contains("records 1 to"), "{said}");
}

#[test]
fn full_files_are_compressed_and_stay_part_of_the_chain() {
    let server = Server::start_with(&["--audit-max-size", "64KiB"]);
    let mut connection = Connection::open(server.process.authority(), &server.key).expect("it accepts");
    for _ in 0..500 {
        assert_eq!(connection.call("GET", "/v1/secrets", "").expect("a response").status, 200);
    }
    let first = server.data("audit").join("audit-00000000000000000001.jsonl.zst");
    assert!(within(Duration::from_secs(30), || first.exists() && !first.with_extension("").exists()));
    assert_clean(server.process.data_dir());
    let whole = std::fs::read(&first).expect("readable");
    assert!(whole.len() < 32 << 10, "{}", whole.len());
    let mut edited = whole.clone();
    edited[whole.len() / 2] ^= 1;
    std::fs::write(&first, edited).expect("written");
    let (clean, said) = verify(server.process.data_dir());
    assert!(!clean && said.contains("audit-00000000000000000001.jsonl.zst"), "{said}");
    std::fs::remove_file(first).expect("removed");
    let (clean, said) = verify(server.process.data_dir());
    assert!(!clean && said.contains("records 1 to"), "{said}");
}
