//! Callers that do not wait for their answer are on record like those that do.

use std::io::Write as _;
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use crate::support::Server;

const CALLS: usize = 20;

/// How many lines of the audit log have all of `parts`.
fn records(server: &Server, parts: &[&str]) -> usize {
    let log = std::fs::read_to_string(server.data("audit/audit.jsonl")).expect("the log");
    log.lines().filter(|line| parts.iter().all(|part| line.contains(part))).count()
}

/// Waits until there are as many, or gives up after five seconds.
fn await_records(server: &Server, parts: &[&str], count: usize) {
    for _ in 0..100 {
        if records(server, parts) >= count {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(records(server, parts), count, "{parts:?}");
    assert_eq!(records(server, &["WITHDRAWN"]), 0);
}

#[test]
fn a_call_that_its_client_gives_no_time_is_on_record() {
    let server = Server::start();
    server.call("POST", "/v1/secrets", r#"{"name":"n","value":"v"}"#);
    let authorization = format!("Bearer ak-{}", server.key);
    let headers = [
        ("Authorization", authorization.as_str()),
        ("Content-Type", "application/json"),
        ("Connect-Timeout-Ms", "0"),
    ];
    for _ in 0..CALLS {
        let path = "/agentrouter.secret.v1.SecretService/GetSecretValue";
        assert_eq!(server.send("POST", path, &headers, br#"{"name":"n"}"#).status, 200);
    }
    await_records(&server, &["GetSecretValue", "\"outcome\":\"OK\""], CALLS);
}

#[test]
fn a_refused_caller_who_hangs_up_is_on_record() {
    let server = Server::start();
    for _ in 0..CALLS {
        let mut stream = TcpStream::connect(server.process.authority()).expect("it accepts");
        stream
            .write_all(b"GET /v1/secrets HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer no\r\n\r\n")
            .expect("sent");
        stream.shutdown(Shutdown::Both).expect("hung up");
    }
    std::thread::sleep(Duration::from_millis(500));
    // Some may have hung up before the server had a request to refuse; what it refused, it counted.
    let metrics = server.send("GET", "/metrics", &[], b"").body;
    let counted = metrics.lines().find_map(|line| {
        let line = line.strip_prefix("agentrouter_secrets_calls_total{rpc=\"ListSecrets\"")?;
        line.contains("UNAUTHENTICATED").then(|| line.rsplit(' ').next()?.parse::<usize>().ok())?
    });
    let counted = counted.expect("refused calls are counted");
    assert!(counted > CALLS / 2, "{counted}");
    await_records(&server, &["ListSecrets", "UNAUTHENTICATED"], counted);
}
