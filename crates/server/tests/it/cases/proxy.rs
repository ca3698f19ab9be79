//! A fault-injecting proxy in front of the server: one fault for each request.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::Upstream;

/// Its detail, as that of the next two, is a google.rpc.ErrorInfo with the reason.
const LIMITED: &str = r#"{"code":"resource_exhausted","message":"slow down","details":[{"type":"google.rpc.ErrorInfo","value":"CgxSQVRFX0xJTUlURUQSFWFnZW50cm91dGVyLnNlY3JldC52MQ"}]}"#;
const CORRUPT: &str = r#"{"code":"internal","message":"does not open","details":[{"type":"google.rpc.ErrorInfo","value":"Cg5TRUNSRVRfQ09SUlVQVBIVYWdlbnRyb3V0ZXIuc2VjcmV0LnYx"}]}"#;
const EXHAUSTED: &str = r#"{"code":"failed_precondition","message":"used up","details":[{"type":"google.rpc.ErrorInfo","value":"ChJWRVJTSU9OU19FWEhBVVNURUQSFWFnZW50cm91dGVyLnNlY3JldC52MQ"}]}"#;
const UNAVAILABLE: &str = r#"{"code":"unavailable","message":"try again"}"#;

/// A proxy on a port of its own, until the process ends. One request a connection.
pub struct Proxy {
    pub url: String,
    arrived: Arc<AtomicUsize>,
}

#[derive(Clone, Copy)]
enum ProxyFault {
    Pass,
    Slow,
    Drop,
    Lose,
    Stall,
    /// A response of the proxy itself: status, header lines, body.
    Respond(&'static str, &'static str, &'static str),
}

impl ProxyFault {
    fn named(name: &str) -> Self {
        const JSON: &str = "content-type: application/json\r\n";
        const HTML: &str = "content-type: text/html\r\n";
        match name {
            "pass" => Self::Pass,
            "slow" => Self::Slow,
            "drop" => Self::Drop,
            "lose" => Self::Lose,
            "stall" => Self::Stall,
            "unavailable" => Self::Respond("503 Service Unavailable", JSON, UNAVAILABLE),
            "corrupt" => Self::Respond("500 Internal Server Error", JSON, CORRUPT),
            "exhausted" => Self::Respond("400 Bad Request", JSON, EXHAUSTED),
            "bad_gateway" => Self::Respond("502 Bad Gateway", HTML, "<html>bad gateway</html>"),
            "not_found_page" => Self::Respond("404 Not Found", HTML, "<html>not found</html>"),
            "rate_limited" => {
                let head = "retry-after: 1\r\ncontent-type: application/json\r\n";
                Self::Respond("429 Too Many Requests", head, LIMITED)
            }
            other => panic!("there is no fault {other:?}"),
        }
    }
}

impl Proxy {
    pub fn start(upstream: &Arc<Upstream>, faults: &[String]) -> Self {
        let faults: Arc<[ProxyFault]> = faults.iter().map(|name| ProxyFault::named(name)).collect();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let arrived = Arc::new(AtomicUsize::new(0));
        let (counter, upstream) = (Arc::clone(&arrived), Arc::clone(upstream));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (counter, upstream, faults) =
                    (Arc::clone(&counter), Arc::clone(&upstream), Arc::clone(&faults));
                std::thread::spawn(move || {
                    // A client that disconnects is not an error.
                    let _ = serve(stream, &upstream, |number| faults.get(number).copied(), &counter);
                });
            }
        });
        Self { url, arrived }
    }

    /// The number of requests.
    pub fn arrived(&self) -> usize {
        self.arrived.load(Ordering::SeqCst)
    }
}

fn serve(
    stream: TcpStream,
    upstream: &Upstream,
    fault: impl Fn(usize) -> Option<ProxyFault>,
    counter: &AtomicUsize,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head)? == 0 {
            return Ok(());
        }
    }
    let header = |name: &str| {
        let mut lines = head.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    };
    let length = header("content-length").and_then(|text| text.parse().ok()).expect("a length of the body");
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    let fault = fault(counter.fetch_add(1, Ordering::SeqCst)).unwrap_or(ProxyFault::Pass);
    let response = match fault {
        ProxyFault::Pass => upstream.send(&onward(&head, &body))?,
        ProxyFault::Slow => {
            std::thread::sleep(Duration::from_millis(1500));
            upstream.send(&onward(&head, &body))?
        }
        ProxyFault::Lose => upstream.send(&onward(&head, &body)).map(|_| Vec::new())?,
        ProxyFault::Drop => Vec::new(),
        ProxyFault::Stall => {
            stream.read_to_end(&mut Vec::new())?;
            Vec::new()
        }
        ProxyFault::Respond(status, head, body) => {
            let length = body.len();
            let text = format!(
                "HTTP/1.1 {status}\r\n{head}content-length: {length}\r\nconnection: close\r\n\r\n{body}"
            );
            text.into_bytes()
        }
    };
    stream.get_mut().write_all(&response)
}

/// The forwarded request: the last one of its connection.
fn onward(head: &str, body: &[u8]) -> Vec<u8> {
    let kept =
        head.lines().filter(|line| !line.is_empty() && !line.to_ascii_lowercase().starts_with("connection:"));
    let mut request: String = kept.map(|line| format!("{line}\r\n")).collect();
    request.push_str("connection: close\r\n\r\n");
    [request.as_bytes(), body].concat()
}
