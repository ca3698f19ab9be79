//! Records of the audit log, as a collector receives them as OTLP logs.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentrouter_testkit::ServerProcess;

use crate::support::{Server, binary, closed_port, within};

const WAIT: Duration = Duration::from_secs(30);

/// A collector: its address, and the lines that it took, in order. It takes one delivery a connection.
fn collector() -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let lines = Arc::new(Mutex::new(Vec::new()));
    let taken = Arc::clone(&lines);
    // It ends with the test's process.
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut request = Vec::new();
            let mut chunk = [0; 64 * 1024];
            while let Ok(read @ 1..) = stream.read(&mut chunk) {
                request.extend_from_slice(&chunk[..read]);
                let Some(end) = request.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { continue };
                let head = String::from_utf8_lossy(&request[..end]).to_ascii_lowercase();
                let length =
                    head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
                if length == Some(request.len() - end - 4) {
                    assert!(head.starts_with("post /v1/logs http/1.1\r\n"), "{head}");
                    assert!(head.contains("content-type: application/x-protobuf"), "{head}");
                    taken.lock().expect("not poisoned").extend(bodies(&request[end + 4..]));
                    let _ = stream
                        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                    break;
                }
            }
        }
    });
    (url, lines)
}

/// The bodies of the log records: the lines, which are the only texts that begin like one.
fn bodies(message: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(message);
    let starts = text.match_indices("{\"seq\":").map(|(at, _)| at);
    starts.map(|at| text[at..at + text[at..].find("\"}").expect("an end") + 2].to_owned()).collect()
}

fn written(data: &Path) -> Vec<String> {
    let text = fs::read_to_string(data.join("audit/audit.jsonl")).expect("readable");
    text.lines().map(str::to_owned).collect()
}

#[test]
fn every_record_is_shipped_in_order_while_the_server_runs_and_at_its_end() {
    let (url, lines) = collector();
    let server = Server::start_with(&["--audit-otlp-endpoint", &url]);
    for _ in 0..20 {
        assert_eq!(server.call("GET", "/v1/secrets", "").status, 200);
    }
    assert!(within(WAIT, || lines.lock().expect("not poisoned").len() > 20), "{}", server.written());
    // The server counts a batch when it has the response of the collector.
    let metrics = || server.send("GET", "/metrics", &[], b"").body;
    assert!(
        within(WAIT, || !metrics().contains("agentrouter_secrets_audit_shipped_total 0")),
        "{}",
        metrics()
    );
    let data = server.process.data_dir().to_owned();
    let Server { process, _dir, .. } = server;
    assert!(process.stop().success());
    let lines = lines.lock().expect("not poisoned").clone();
    assert_eq!(lines, written(&data));
    assert!(lines.last().expect("a record").contains("\"rpc\":\"Stop\""));
}

#[test]
fn records_wait_in_the_audit_log_until_a_collector_takes_them() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let (_socket, closed) = closed_port();
    let server =
        ServerProcess::start(binary(), &data, &["--audit-otlp-endpoint", &format!("http://{closed}")]);
    let log = ServerProcess::log_of(&data);
    let is_logged = || fs::read_to_string(&log).is_ok_and(|log| log.contains("they wait in the audit log"));
    assert!(within(WAIT, is_logged));
    // Killed, so that nothing is put in order at the end.
    server.kill();
    let (url, lines) = collector();
    let server = ServerProcess::start(binary(), &data, &["--audit-otlp-endpoint", &url]);
    let before = written(&data).len();
    assert!(within(WAIT, || lines.lock().expect("not poisoned").len() >= before));
    server.kill();
    // A third server continues where the second one was.
    let (url, later) = collector();
    let server = ServerProcess::start(binary(), &data, &["--audit-otlp-endpoint", &url]);
    assert!(within(WAIT, || !later.lock().expect("not poisoned").is_empty()));
    assert!(server.stop().success());
    let all = written(&data);
    let [lines, later] = [lines, later].map(|lines| lines.lock().expect("not poisoned").clone());
    assert_eq!(lines, all[..lines.len()]);
    assert_eq!(later, all[all.len() - later.len()..]);
    // Each at least once: a kill may come between a delivery and its note.
    assert!(lines.len() + later.len() >= all.len());
}
