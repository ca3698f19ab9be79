//! Callers that disconnect before the response are recorded like all others.

use std::io::Write as _;
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use crate::support::Server;

const CALLS: usize = 20;

/// The number of lines of the audit log that contain all of `parts`.
fn records(server: &Server, parts: &[&str]) -> usize {
    let log = std::fs::read_to_string(server.data("audit/audit.jsonl")).expect("the log");
    log.lines().filter(|line| parts.iter().all(|part| line.contains(part))).count()
}

/// Waits until there are that many lines, or gives up after 30 seconds.
fn await_records(server: &Server, parts: &[&str], count: usize) {
    for _ in 0..600 {
        if records(server, parts) >= count {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(records(server, parts), count, "{parts:?}");
    assert_eq!(records(server, &["WITHDRAWN"]), 0);
}

#[test]
fn a_request_with_a_timeout_of_zero_is_recorded() {
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

/// The number of ListSecrets requests that the server reports as refused for their key.
fn refused(server: &Server) -> usize {
    let metrics = server.send("GET", "/metrics", &[], b"").body;
    let count = metrics.lines().find_map(|line| {
        let line = line.strip_prefix("agentrouter_secrets_calls_total{rpc=\"ListSecrets\"")?;
        line.contains("UNAUTHENTICATED").then(|| line.rsplit(' ').next()?.parse().ok())?
    });
    count.unwrap_or(0)
}

#[test]
fn a_rejected_caller_that_disconnects_is_recorded() {
    let server = Server::start_with(&["--limit-failed-auth-rate", "0"]);
    // A busy server may find the connection closed before it has a request to refuse. Such a connection is not a
    // request. So the clients disconnect later and later, until enough requests were refused.
    for round in 0..50 {
        for _ in 0..CALLS {
            let mut stream = TcpStream::connect(server.process.authority()).expect("it accepts");
            stream
                .write_all(b"GET /v1/secrets HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer no\r\n\r\n")
                .expect("sent");
            std::thread::sleep(Duration::from_micros(200 * round * round));
            stream.shutdown(Shutdown::Both).expect("disconnected");
        }
        if round > 2 && refused(&server) >= CALLS {
            break;
        }
    }
    // Requests in progress are refused, too. When the count no longer changes, there are none left.
    let mut count = 0;
    for _ in 0..60 {
        let before = count;
        std::thread::sleep(Duration::from_millis(500));
        count = refused(&server);
        if count == before && count >= CALLS && records(&server, &["ListSecrets", "UNAUTHENTICATED"]) == count
        {
            break;
        }
    }
    let refused = count;
    assert!(refused >= CALLS, "{refused}");
    await_records(&server, &["ListSecrets", "UNAUTHENTICATED"], refused);
}
