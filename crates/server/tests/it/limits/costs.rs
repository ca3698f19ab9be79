//! The processor time of the dearest requests that a key can make.
//!
//! It is the time of the server's process, divided by a number of equal requests, so a busy machine does not change it.

use std::fmt::Write as _;

use super::CREATE;
use crate::support::{Connection, Server};

/// Most processor time of a request. A build without optimisation takes up to ten times that of an optimised one.
const MOST_MS: u64 = if cfg!(debug_assertions) { 10 * 50 } else { 50 };
/// The unit in which the kernel reports processor time.
const TICK_MS: u64 = 10;
/// The requests of one kind that are measured.
const TIMES: u64 = 10;
const LARGEST_VALUE: usize = 64 * 1024;

/// The processor time of the server so far, in milliseconds.
fn used_ms(server: &Server) -> u64 {
    let path = format!("/proc/{}/stat", server.process.id());
    let stat = std::fs::read_to_string(path).expect("a process");
    // The name in parentheses may have any character.
    let (_, fields) = stat.rsplit_once(')').expect("fields");
    let ticks = fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("ticks"));
    ticks.sum::<u64>() * TICK_MS
}

/// A server, its kinds of requests that were measured, and what they took.
struct Costs<'s> {
    server: &'s Server,
    connection: Connection,
    found: Vec<(&'static str, u64)>,
}

impl Costs<'_> {
    fn call(&mut self, method: &str, path: &str, body: &str) -> (u16, String) {
        let reply = self.connection.call(method, path, body).expect("a response");
        (reply.status, reply.body)
    }

    fn done(&mut self, method: &str, path: &str, body: &str) {
        let (status, text) = self.call(method, path, body);
        assert_eq!(status, 200, "{method} {path}: {text}");
    }

    /// Measures equal requests, after one that warms the caches. `request` gets the number of each.
    fn measure(
        &mut self,
        what: &'static str,
        status: u16,
        mut request: impl FnMut(u64) -> (&'static str, String, String),
    ) {
        let mut before = 0;
        for number in 0..=TIMES {
            if number == 1 {
                before = used_ms(self.server);
            }
            let (method, path, body) = request(number);
            let (found, text) = self.call(method, &path, &body);
            assert_eq!(found, status, "{what}: {}", text.get(..1000).unwrap_or(&text));
        }
        self.found.push((what, (used_ms(self.server) - before) / TIMES));
    }
}

/// The largest tags, described by `number`.
fn tags(number: usize) -> String {
    let tags =
        (0..64).map(|tag| format!(r#""{number:03}-{tag:02}-{}":"{}""#, "k".repeat(121), "v".repeat(256)));
    format!("{{{}}}", tags.collect::<Vec<_>>().join(","))
}

#[test]
fn no_request_of_a_key_takes_more_than_fifty_milliseconds_of_processor_time() {
    let server = Server::start();
    let connection = Connection::open(server.process.authority(), &server.key).expect("accepted");
    let mut costs = Costs { server: &server, connection, found: Vec::new() };
    let value = "v".repeat(LARGEST_VALUE);
    let description = "d".repeat(1024);

    costs.measure("the largest creation", 200, |number| {
        let tags = tags(number as usize);
        let body = format!(
            r#"{{"name":"large-{number}","value":"{value}","description":"{description}","tags":{tags}}}"#
        );
        ("POST", CREATE.to_owned(), body)
    });
    costs.measure("new tags in place of the largest", 200, |number| {
        ("POST", CREATE.to_owned(), format!(r#"{{"name":"large-1","tags":{}}}"#, tags(100 + number as usize)))
    });
    costs.measure("the largest value", 200, |_| {
        ("POST", "/v1/secrets/large-1/value".to_owned(), "{}".to_owned())
    });
    costs.measure("the largest rotation", 200, |_| {
        ("POST", "/v1/secrets/large-1/rotate".to_owned(), format!(r#"{{"new_value":"{value}"}}"#))
    });
    costs.measure("an invalid update_mask of the largest body", 400, |_| {
        let paths = vec!["x"; 120_000].join(",");
        ("POST", CREATE.to_owned(), format!(r#"{{"name":"n","update_mask":"{paths}"}}"#))
    });
    costs.measure("a deep body", 400, |_| {
        ("POST", CREATE.to_owned(), format!(r#"{{"name":{}1{}}}"#, "[".repeat(120_000), "]".repeat(120_000)))
    });

    // Rows of the largest metadata, which all have 64 tags in common.
    let common: Vec<String> = (0..64).map(|tag| format!(r#""common-{tag}":"{}""#, "v".repeat(200))).collect();
    for number in 0..250 {
        let body = format!(
            r#"{{"name":"row-{number:04}","realm":"rows","value":"v","tags":{{{}}}}}"#,
            common.join(",")
        );
        costs.done("POST", CREATE, &body);
    }
    costs.measure("the largest page", 200, |_| {
        ("GET", "/v1/secrets?realm=rows&page_size=1000".to_owned(), String::new())
    });
    let mut by_tags = "/v1/secrets?realm=rows&page_size=1000&status=retired".to_owned();
    for tag in 0..20 {
        let _ = write!(by_tags, "&tags%5Bcommon-{tag}%5D={}", "v".repeat(200));
    }
    costs.measure("a page that matches nothing by many tags", 200, |_| {
        ("GET", by_tags.clone(), String::new())
    });
    for number in 0..1_000 {
        costs.done("POST", CREATE, &format!(r#"{{"name":"small-{number:04}","realm":"small","value":"v"}}"#));
    }
    costs.measure("the most rows of a page", 200, |_| {
        ("GET", "/v1/secrets?realm=small&page_size=1000".to_owned(), String::new())
    });

    // More versions of the largest value than a validation opens.
    costs.done("POST", CREATE, &format!(r#"{{"name":"versions","value":"{value}"}}"#));
    for _ in 0..260 {
        costs.done("POST", "/v1/secrets/versions/rotate", &format!(r#"{{"new_value":"{value}"}}"#));
    }
    costs.measure("a validation of many versions", 200, |_| {
        ("POST", "/v1/secrets/versions/validate".to_owned(), "{}".to_owned())
    });
    costs.measure("a page of versions", 200, |_| {
        ("GET", "/v1/secrets?status=any&page_size=1000".to_owned(), String::new())
    });
    println!("{:?}", costs.found);
    let dear: Vec<_> = costs.found.iter().filter(|(_, ms)| *ms > MOST_MS).collect();
    assert!(dear.is_empty(), "more than {MOST_MS} ms of processor time: {dear:?}");
}
