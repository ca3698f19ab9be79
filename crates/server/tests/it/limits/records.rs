//! Audit records, rates of keys and pages of lists: what one client can make the server write, and how much one key can request.

use std::time::Instant;

use super::{CREATE, calls_until_refused, metric, others_are_served};
use crate::support::{Connection, Server};

/// The audit records with `reason`.
fn recorded(server: &Server, reason: &str) -> usize {
    server.written().lines().filter(|line| line.contains(reason)).count()
}

#[test]
fn all_addresses_without_a_key_share_the_records() {
    const CALLS: usize = 300;
    let server = Server::start_with(&[
        "--limit-unauthenticated-records",
        "2",
        "--limit-failed-auth-rate",
        "0",
        "--trusted-proxies",
        "127.0.0.1",
    ]);
    let start = Instant::now();
    for number in 0..CALLS {
        let address = format!("192.0.2.{}", number % 200);
        let headers = [("authorization", "Bearer ak-wrong"), ("x-forwarded-for", address.as_str())];
        assert_eq!(server.send("GET", "/v1/secrets", &headers, b"").status, 401);
    }
    let most = 20 + 2 * (start.elapsed().as_secs() as usize + 1);
    let records = recorded(&server, "UNAUTHENTICATED");
    assert!((20..=most).contains(&records), "{records} records, and {most} at most");
    assert_eq!(metric(&server, "audit_unrecorded_total"), (CALLS - records) as f64);
    others_are_served(&server);
}

#[test]
fn a_key_over_its_rate_is_recorded_once_a_second() {
    let server = Server::start_with(&["--limit-key-rate", "1"]);
    let start = Instant::now();
    let refused = (0..100).filter(|_| server.call("GET", "/v1/secrets", "").status == 429).count();
    let most = start.elapsed().as_secs() as usize + 2;
    let records = recorded(&server, "RATE_LIMITED");
    assert!(
        refused > most && (1..=most).contains(&records),
        "{records} of {refused} records, {most} at most"
    );
}

#[test]
fn keys_of_users_have_a_rate_by_default_and_those_of_gateways_none() {
    let server = Server::start_with(&["--limit-user-key-rate", "1"]);
    let user = server.issue("ann", "secrets/read,secrets/write,secrets/write/internal", &[]);
    let replies = calls_until_refused(20, || server.call_as(&user, "GET", "/v1/secrets", ""));
    let refused = replies.iter().find(|reply| reply.status == 429).expect("one is refused");
    assert_eq!(refused.reason(), "RATE_LIMITED");
    assert!(replies.iter().filter(|reply| reply.status == 200).count() >= 10, "ten at once");
    let mut gateway = Connection::open(server.process.authority(), &server.key).expect("accepted");
    for _ in 0..100 {
        assert_eq!(gateway.call("GET", "/v1/secrets", "").expect("a response").status, 200);
    }
}

#[test]
fn a_page_of_a_list_is_bounded_in_bytes_and_the_next_one_continues() {
    let server = Server::start_with(&["--limit-list-size", "64KiB"]);
    let description = "d".repeat(1000);
    for number in 0..200 {
        let body = format!(r#"{{"name":"long-{number:03}","value":"v","description":"{description}"}}"#);
        assert_eq!(server.call("POST", CREATE, &body).status, 200);
    }
    let (mut names, mut token, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let reply = server.call("GET", &format!("/v1/secrets?page_size=1000&page_token={token}"), "");
        assert!(reply.body.len() < 80 << 10, "{} bytes", reply.body.len());
        let page = reply.json();
        let secrets = page["secrets"].as_array().expect("a list");
        names.extend(secrets.iter().map(|secret| secret["name"].as_str().expect("a name").to_owned()));
        pages += 1;
        token = page["next_page_token"].as_str().expect("a token").to_owned();
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(names, (0..200).map(|number| format!("long-{number:03}")).collect::<Vec<_>>());
    assert!((4..=6).contains(&pages), "{pages} pages");
}
