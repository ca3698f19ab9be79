//! The shared parts of the tests: a server for each test, and simple clients.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use agentrouter_testkit::ServerProcess;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::time::Instant;

/// The binary under test.
pub fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_agentrouter-secrets"))
}

/// A server in a directory that is removed with it.
pub struct Server {
    pub process: ServerProcess,
    /// The first key, without `ak-`.
    pub key: String,
    pub _dir: tempfile::TempDir,
}

impl Server {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    pub fn start_with(args: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let process = ServerProcess::start(binary(), &dir.path().join("data"), args);
        let key = process.bootstrap_key();
        Self { process, key, _dir: dir }
    }

    /// A server on a directory that the caller keeps, its first key read from there.
    pub fn on(data: &Path) -> Self {
        Self::of(ServerProcess::start(binary(), data, &[]))
    }

    /// As [`Server::on`], already started.
    pub fn of(process: ServerProcess) -> Self {
        let key = process.bootstrap_key();
        Self { process, key, _dir: tempfile::tempdir().expect("a directory") }
    }

    /// As [`Server::of`], of a store that was restored: its first key is in another directory.
    pub fn of_restored(process: ServerProcess, key: &str) -> Self {
        Self { process, key: key.to_owned(), _dir: tempfile::tempdir().expect("a directory") }
    }

    /// The first key of the store in `data`, without `ak-`.
    pub fn key_in(data: &Path) -> String {
        let text = std::fs::read_to_string(data.join("bootstrap.env")).expect("bootstrap.env");
        let key = text.lines().find_map(|line| line.strip_prefix("AGENTROUTER_API_KEY="));
        key.expect("a key").to_owned()
    }

    pub fn data(&self, name: &str) -> PathBuf {
        self.process.data_dir().join(name)
    }

    /// A key issued on the command line; without `ak-`.
    pub fn issue(&self, user: &str, scopes: &str, more: &[&str]) -> String {
        let mut args = vec!["--user", user, "--scopes", scopes];
        args.extend(more);
        self.process.issue_key(&args)
    }

    /// A REST call with the first key.
    pub fn call(&self, method: &str, path: &str, body: &str) -> Reply {
        self.call_as(&self.key, method, path, body)
    }

    /// A REST call with `key` (without `ak-`).
    pub fn call_as(&self, key: &str, method: &str, path: &str, body: &str) -> Reply {
        let authorization = format!("Bearer ak-{key}");
        let headers = [("Authorization", authorization.as_str()), ("Content-Type", "application/json")];
        self.send(method, path, &headers, body.as_bytes())
    }

    /// Any HTTP/1.1 request, on a new connection.
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let mut head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n",
            self.process.authority()
        );
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
        let mut request = head.into_bytes();
        request.extend_from_slice(body);
        Reply::parse(&self.raw(&request))
    }

    /// Sends raw bytes and reads until the server closes the connection, or is silent for twenty seconds.
    pub fn raw(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.process.authority()).expect("the server accepts");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
        // The server may respond and close before it has read everything.
        let _ = stream.write_all(bytes);
        let mut response = Vec::new();
        let _ = stream.read_to_end(&mut response);
        response
    }

    /// All logs of the server: its log and its audit log.
    pub fn written(&self) -> String {
        let mut text =
            std::fs::read_to_string(ServerProcess::log_of(self.process.data_dir())).unwrap_or_default();
        for file in std::fs::read_dir(self.data("audit")).into_iter().flatten().flatten() {
            text.push_str(&String::from_utf8_lossy(&std::fs::read(file.path()).unwrap_or_default()));
        }
        text
    }
}

/// An HTTP/1.1 response.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Reply {
    pub fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
        let body = if chunked { unchunk(body) } else { body.to_owned() };
        Self { status, head: head.to_owned(), body }
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    /// The stable reason of an error.
    pub fn reason(&self) -> String {
        self.json()["details"][0]["reason"].as_str().unwrap_or_default().to_owned()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

fn unchunk(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        if size == 0 || rest.len() < size {
            break;
        }
        whole.push_str(&rest[..size]);
        body = rest.get(size + 2..).unwrap_or("");
    }
    whole
}

/// Reads the interim response to a request with `Expect: 100-continue`: the server has accepted the request and waits for
/// its body.
pub fn await_continue(stream: &mut TcpStream) {
    let mut interim = [0; b"HTTP/1.1 100 Continue\r\n\r\n".len()];
    stream.read_exact(&mut interim).expect("an interim response");
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n", "{}", String::from_utf8_lossy(&interim));
}

/// A persistent HTTP/1.1 connection.
pub struct Connection {
    stream: BufReader<TcpStream>,
    authority: String,
    key: String,
}

impl Connection {
    /// Connects to `authority`, to send requests with `key` (without `ak-`).
    pub fn open(authority: &str, key: &str) -> std::io::Result<Self> {
        let stream = TcpStream::connect(authority)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream), authority: authority.to_owned(), key: key.to_owned() })
    }

    /// A REST request. An error if the connection broke before the response was complete.
    pub fn call(&mut self, method: &str, path: &str, body: &str) -> std::io::Result<Reply> {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer ak-{}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.authority,
            self.key,
            body.len()
        );
        self.stream.get_mut().write_all(request.as_bytes())?;
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.stream.read_line(&mut head)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        let mut reply = Reply::parse(head.as_bytes());
        let length = reply.header("content-length").and_then(|length| length.parse().ok());
        let mut body = vec![0; length.ok_or(std::io::ErrorKind::InvalidData)?];
        self.stream.read_exact(&mut body)?;
        reply.body = String::from_utf8_lossy(&body).into_owned();
        Ok(reply)
    }
}

/// Polls a condition for `time` at most. Returns whether it became true.
pub fn within(time: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !is_so() {
        if start.elapsed() >= time {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}

/// Repeats a measurement of time until more attempts have passed than failed, nine times at most. A machine that halts
/// for a moment spoils one attempt. A server that is often too slow spoils most.
pub fn mostly_in_time(mut measure: impl FnMut() -> Result<(), String>) {
    let (mut good, mut wrong) = (0, Vec::new());
    while good <= wrong.len() {
        match measure() {
            Ok(()) => good += 1,
            Err(found) => wrong.push(found),
        }
        let over = good <= wrong.len() && good + wrong.len() >= 9;
        assert!(!over, "{good} in time, and the others: {wrong:?}");
    }
}

/// A loopback port on which no process listens. No other process gets it while the socket is kept.
pub fn closed_port() -> (tokio::net::TcpSocket, SocketAddr) {
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind(([127, 0, 0, 1], 0).into()).expect("a port");
    let address = socket.local_addr().expect("an address");
    (socket, address)
}

/// Raises the limit of open files of this process and its children to the system's maximum.
pub fn raise_file_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("the limit is raised");
}

/// Random numbers that a printed seed repeats (SplitMix64).
pub struct Dice(pub u64);

impl Dice {
    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }

    /// `length` letters and digits, no eight of which occur elsewhere at random.
    pub fn text(&mut self, length: usize) -> String {
        const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
        (0..length).map(|_| char::from(ALPHABET[self.below(62) as usize])).collect()
    }
}

/// Runs the binary until it exits, within a minute.
pub fn run(args: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary runs");
    for _ in 0..6000 {
        if child.try_wait().expect("it can be waited for").is_some() {
            return child.wait_with_output().expect("its output");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = child.kill();
    panic!("{args:?} did not end: {:?}", child.wait_with_output());
}

/// Copies a file or a folder, in another process. A child that another thread starts meanwhile inherits the files that
/// this process has open for writing, and a program that is open for writing cannot be run.
pub fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").args([from, to]).status().expect("cp runs");
    assert!(status.success());
}

/// `tare`, built from the current sources. It is another package's binary, which is built here unless it is up to date.
pub fn tare() -> &'static Path {
    static TARE: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    TARE.get_or_init(|| {
        let folder = binary().parent().expect("a binary lies in a folder");
        let tare = folder.join("tare");
        let built = tare.metadata().and_then(|file| file.modified()).ok();
        let sources =
            ["crates/cli", "sdk/rust", "crates/api", "proto"].map(|part| newest(&root().join(part)));
        if sources.into_iter().all(|source| source < built) {
            return tare;
        }
        let release = folder.ends_with("release").then_some("--release");
        let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args([
                "build",
                "--quiet",
                "--locked",
                "--package",
                "agentrouter-cli",
                "--bin",
                "tare",
                "--target-dir",
            ])
            .arg(folder.parent().expect("of a target directory"))
            .args(release)
            .current_dir(root())
            .status();
        assert!(status.expect("cargo runs").success(), "tare could not be built");
        tare
    })
}

/// The project's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The time of the newest change of a file below `dir`.
fn newest(dir: &Path) -> Option<std::time::SystemTime> {
    let entries = std::fs::read_dir(dir).expect("a folder of the project").flatten();
    let changed = entries.map(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => newest(&entry.path()),
        _ => entry.metadata().and_then(|file| file.modified()).ok(),
    });
    changed.max().flatten()
}

/// The protocol and the encoding of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dialect {
    Rest,
    ConnectJson,
    ConnectProto,
    Grpc,
    GrpcWeb,
}

impl Dialect {
    pub const ALL: [Self; 5] = [Self::Rest, Self::ConnectJson, Self::ConnectProto, Self::Grpc, Self::GrpcWeb];

    pub fn is_framed(self) -> bool {
        matches!(self, Self::Grpc | Self::GrpcWeb)
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Self::Rest | Self::ConnectJson => "application/json",
            Self::ConnectProto => "application/proto",
            Self::Grpc => "application/grpc",
            Self::GrpcWeb => "application/grpc-web+proto",
        }
    }
}
