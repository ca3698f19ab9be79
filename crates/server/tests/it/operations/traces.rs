//! Spans of requests, as a collector receives them over OTLP.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use agentrouter_testkit::ServerProcess;

use crate::support::{Server, binary, closed_port, run};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// A collector on the loopback interface: its address, and each delivery's head and body.
fn collector() -> (String, Receiver<(String, Vec<u8>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            if take(stream, &sender).is_none() {
                return;
            }
        }
    });
    (url, receiver)
}

/// Accepts a delivery and responds. `None` if the receiver has stopped.
fn take(mut stream: TcpStream, sender: &Sender<(String, Vec<u8>)>) -> Option<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).expect("a head") == 1 {
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).expect("a head in ASCII").to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
    let mut body = vec![0; length.parse().expect("a number")];
    stream.read_exact(&mut body).expect("a body");
    // Before the response: the server may exit once it has that.
    sender.send((head, body)).ok()?;
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").expect("a response");
    Some(())
}

/// The fields of a protobuf message by number. Numeric values are little-endian bytes.
fn fields(mut bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let (first, rest) = bytes.split_first().expect("a whole number");
            *bytes = rest;
            value |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                break;
            }
        }
        value
    }
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let (number, kind) = (key >> 3, key & 7);
        if kind == 0 {
            found.push((number, varint(&mut bytes).to_le_bytes().to_vec()));
            continue;
        }
        let length = match kind {
            1 => 8,
            5 => 4,
            2 => usize::try_from(varint(&mut bytes)).expect("a length"),
            other => panic!("wire type {other}"),
        };
        let (field, rest) = bytes.split_at(length);
        found.push((number, field.to_vec()));
        bytes = rest;
    }
    found
}

fn all(message: &[u8], number: u64) -> Vec<Vec<u8>> {
    fields(message).into_iter().filter(|(found, _)| *found == number).map(|(_, field)| field).collect()
}

fn text(message: &[u8], number: u64) -> String {
    let field = all(message, number).pop().unwrap_or_default();
    String::from_utf8(field).expect("UTF-8")
}

/// A span, as `opentelemetry/proto/trace/v1/trace.proto` numbers its fields.
#[derive(Debug)]
struct Span {
    trace: String,
    parent: String,
    name: String,
    kind: Vec<u8>,
    start: u64,
    end: u64,
    attributes: BTreeMap<String, String>,
    error: bool,
}

/// The spans of a delivery: `resource_spans` (1) → `scope_spans` (2) → `spans` (2).
fn spans(body: &[u8]) -> Vec<Span> {
    let hex = |bytes: Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let time = |span: &[u8], number| {
        u64::from_le_bytes(all(span, number).pop().expect("a time").try_into().expect("eight bytes"))
    };
    let scopes = all(body, 1).into_iter().flat_map(|resource| all(&resource, 2));
    scopes
        .flat_map(|scope| all(&scope, 2))
        .map(|span| Span {
            trace: hex(all(&span, 1).pop().unwrap_or_default()),
            parent: hex(all(&span, 4).pop().unwrap_or_default()),
            name: text(&span, 5),
            kind: all(&span, 6).pop().unwrap_or_default(),
            start: time(&span, 7),
            end: time(&span, 8),
            attributes: all(&span, 9).iter().map(|pair| (text(pair, 1), text(&all(pair, 2)[0], 1))).collect(),
            error: all(&span, 15).iter().any(|status| !all(status, 3).is_empty()),
        })
        .collect()
}

fn traced(server: &Server, path: &str, body: &str, traceparent: &str) -> crate::support::Reply {
    let authorization = format!("Bearer ak-{}", server.key);
    let mut headers = vec![("Authorization", authorization.as_str()), ("Content-Type", "application/json")];
    if !traceparent.is_empty() {
        headers.push(("traceparent", traceparent));
    }
    server.send("POST", path, &headers, body.as_bytes())
}

#[test]
fn a_span_of_each_call_reaches_the_collector_and_names_nothing_of_the_secret() {
    let (url, deliveries) = collector();
    let server = Server::start_with(&["--otlp-endpoint", &url]);
    let sampled = format!("00-{TRACE}-{PARENT}-01");
    let secret =
        r#"{"name":"canary-name","realm":"canary-realm","value":"canary-value","user_id":"canary-user"}"#;
    assert_eq!(traced(&server, "/v1/secrets", secret, &sampled).status, 200);
    let named = r#"{"realm":"canary-realm","user_id":"canary-user"}"#;
    let value = traced(&server, "/v1/secrets/canary-name/value", named, "");
    assert_eq!(value.json()["value"], "canary-value");
    let id = value.header("x-request-id").expect("an id").to_owned();
    assert_eq!(traced(&server, "/v1/secrets/canary-other/value", named, "canary-parent").status, 404);
    let unsampled = format!("00-{}-{PARENT}-00", TRACE.replace('4', "5"));
    assert_eq!(
        traced(&server, "/v1/secrets/canary-name/validate", r#"{"realm":"r"}"#, &unsampled).status,
        404
    );
    assert_eq!(server.send("GET", "/livez", &[], b"").status, 200);
    let key = server.key.clone();
    // Queued spans are sent before the server ends.
    assert!(server.process.stop().success());

    let (mut found, mut bytes) = (Vec::new(), Vec::new());
    while let Ok((head, body)) = deliveries.try_recv() {
        assert!(head.starts_with("post /v1/traces http/1.1\r\n"), "{head}");
        assert!(head.contains("content-type: application/x-protobuf"), "{head}");
        found.extend(spans(&body));
        bytes.extend(body);
    }
    assert_eq!(
        found.iter().map(|span| span.name.as_str()).collect::<Vec<_>>(),
        ["CreateSecret", "GetSecretValue", "GetSecretValue"]
    );
    let [create, granted, refused] = &found[..] else { panic!("three spans") };
    assert_eq!((create.trace.as_str(), create.parent.as_str()), (TRACE, PARENT));
    for own in [granted, refused] {
        assert_eq!((own.trace.len(), own.parent.as_str()), (32, ""), "a trace of its own");
    }
    assert_ne!(granted.trace, refused.trace);
    let expected = [
        ("agentrouter.outcome", "OK"),
        ("agentrouter.request_id", &id),
        ("agentrouter.transport", "rest"),
        ("rpc.method", "GetSecretValue"),
        ("rpc.service", "agentrouter.secret.v1.SecretService"),
    ];
    let expected = expected.map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(granted.attributes, BTreeMap::from(expected), "these and no others");
    assert_eq!(refused.attributes["agentrouter.outcome"], "SECRET_NOT_FOUND");
    for span in &found {
        assert_eq!((span.kind[0], span.error), (2, false), "a server's, and no fault of it: {span:?}");
        assert!(span.start < span.end && span.end - span.start < 60_000_000_000, "{span:?}");
    }
    let payload = String::from_utf8_lossy(&bytes);
    for private in ["canary", "admin", "127.0.0.1", &key[..16], &key[17..25]] {
        assert!(!payload.contains(private), "{private} is in {payload}");
    }
}

#[test]
fn spans_are_sent_while_the_server_runs() {
    let (url, deliveries) = collector();
    let dir = tempfile::tempdir().expect("a directory");
    let soon = ("OTEL_BSP_SCHEDULE_DELAY", "50");
    let args = ["--otlp-endpoint", &url];
    let data = dir.path().join("data");
    let server = Server::of(ServerProcess::start_with(binary(), &data, &args, &[soon]));
    assert_eq!(server.call("GET", "/v1/secrets", "").status, 200);
    let (_, body) = deliveries.recv_timeout(Duration::from_secs(60)).expect("a delivery");
    assert_eq!(spans(&body)[0].name, "ListSecrets");
}

#[test]
fn a_collector_that_is_down_or_hangs_fails_no_call_and_delays_no_shutdown() {
    let (_socket, closed) = closed_port();
    // Connections wait in its queue for ever.
    let stuck = TcpListener::bind("127.0.0.1:0").expect("a port");
    for address in [closed, stuck.local_addr().expect("an address")] {
        let dir = tempfile::tempdir().expect("a directory");
        let (url, data) = (format!("http://{address}"), dir.path().join("data"));
        let soon = ("OTEL_BSP_SCHEDULE_DELAY", "50");
        let args = ["--otlp-endpoint", &url];
        let server = Server::of(ServerProcess::start_with(binary(), &data, &args, &[soon]));
        let begin = tokio::time::Instant::now();
        for _ in 0..50 {
            assert_eq!(server.call("GET", "/v1/secrets", "").status, 200);
        }
        assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
        let (sender, receiver) = channel();
        let process = server.process;
        std::thread::spawn(move || sender.send(process.stop().code()));
        assert_eq!(receiver.recv_timeout(Duration::from_secs(60)), Ok(Some(0)), "{address}");
        let log = std::fs::read_to_string(ServerProcess::log_of(&data)).expect("the log");
        assert_eq!(log.matches("spans cannot be sent to the collector").count(), 1, "once: {log}");
    }
}

#[test]
fn an_invalid_collector_address_stops_the_start() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let data = data.to_str().expect("UTF-8");
    for wrong in ["127.0.0.1:4318", "https://collector.example", "http://"] {
        let output = run(&["serve", "--listen", "127.0.0.1:0", "--data-dir", data, "--otlp-endpoint", wrong]);
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{wrong}: {err}");
        assert!(err.starts_with("error: --otlp-endpoint must be an address such as "), "{wrong}: {err}");
    }
    assert!(!dir.path().join("data").exists(), "nothing was made");
}
