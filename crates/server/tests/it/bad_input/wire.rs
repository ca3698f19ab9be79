//! A raw request in five dialects, and its response.

use std::fmt::Write as _;
use std::sync::Arc;

use agentrouter_api::routes::ROUTES;
use agentrouter_model::Rpc;
use base64::Engine as _;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost_reflect::{DescriptorPool, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::Value;

pub use crate::support::Dialect;
use crate::support::Server;

/// A request of HTTP/1.1, or of HTTP/2 if `grpc`.
#[derive(Clone)]
pub struct Request {
    pub grpc: bool,
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
}

/// A response. `code` is the gRPC number in the body or the trailers, as each protocol writes it.
#[derive(Debug)]
pub struct RawResponse {
    pub status: u16,
    pub reason: String,
    pub code: Option<u8>,
    /// Head, body and trailers, as text.
    pub all: String,
}

/// The path of a procedure.
pub fn procedure(rpc: Rpc) -> String {
    format!("/agentrouter.secret.v1.SecretService/{rpc}")
}

/// A length-prefixed message of gRPC.
pub fn frame(flags: u8, message: &[u8]) -> Vec<u8> {
    let mut framed = vec![flags];
    framed.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    framed.extend_from_slice(message);
    framed
}

impl Request {
    /// A raw request, without an API key.
    pub fn new(method: &str, path: impl Into<String>, body: impl Into<Vec<u8>>) -> Self {
        Self {
            grpc: false,
            method: method.to_owned(),
            path: path.into(),
            headers: Vec::new(),
            body: body.into(),
        }
    }

    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    #[must_use]
    pub fn with_key(self, key: &str) -> Self {
        self.with("authorization", format!("Bearer ak-{key}"))
    }

    /// The request of `rpc` in a dialect other than REST, with a raw body.
    pub fn call(dialect: Dialect, rpc: Rpc, body: impl Into<Vec<u8>>) -> Self {
        let mut request =
            Self::new("POST", procedure(rpc), body).with("content-type", dialect.content_type());
        request.grpc = dialect == Dialect::Grpc;
        if dialect == Dialect::Grpc { request.with("te", "trailers") } else { request }
    }

    /// The request of `rpc` with these fields. `None` if the dialect cannot express them.
    pub fn of(dialect: Dialect, rpc: Rpc, fields: &Value) -> Option<Self> {
        if dialect == Dialect::Rest {
            return rest(rpc, fields);
        }
        if dialect == Dialect::ConnectJson {
            return Some(Self::call(dialect, rpc, fields.to_string()));
        }
        let message = encode(&input(rpc), fields)?;
        let body = if dialect.is_framed() { frame(0, &message) } else { message };
        Some(Self::call(dialect, rpc, body))
    }

    /// Sends it.
    pub fn send(&self, server: &Server) -> RawResponse {
        if self.grpc { self.send_http2(server) } else { self.send_http1(server) }
    }

    fn send_http1(&self, server: &Server) -> RawResponse {
        let mut bytes = format!("{} {} HTTP/1.1\r\nhost: test\r\n", self.method, self.path).into_bytes();
        for (name, value) in &self.headers {
            bytes.extend_from_slice(name.as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value);
            bytes.extend_from_slice(b"\r\n");
        }
        let framed = self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("transfer-encoding"));
        if !framed {
            bytes.extend_from_slice(format!("content-length: {}\r\n", self.body.len()).as_bytes());
        }
        bytes.extend_from_slice(b"connection: close\r\n\r\n");
        bytes.extend_from_slice(&self.body);
        RawResponse::parse(&server.raw(&bytes))
    }

    fn send_http2(&self, server: &Server) -> RawResponse {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let stream = tokio::net::TcpStream::connect(server.process.authority()).await.unwrap();
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                    .await
                    .unwrap();
            tokio::spawn(connection);
            let mut request = http::Request::builder()
                .method(self.method.as_str())
                .uri(format!("http://test{}", self.path));
            for (name, value) in &self.headers {
                request = request.header(name, value.as_slice());
            }
            let request = request.body(Full::new(bytes::Bytes::from(self.body.clone()))).unwrap();
            let response = sender.send_request(request).await.expect("a response");
            let (parts, body) = response.into_parts();
            let body = body.collect().await.expect("a complete response");
            let mut headers = parts.headers;
            headers.extend(body.trailers().cloned().unwrap_or_default());
            let mut head = format!("HTTP/2 {}\r\n", parts.status);
            for (name, value) in &headers {
                let _ = write!(head, "{name}: {}\r\n", String::from_utf8_lossy(value.as_bytes()));
            }
            head.push_str("\r\n");
            RawResponse::parse(&[head.as_bytes(), &body.to_bytes()].concat())
        })
    }
}

impl RawResponse {
    fn parse(bytes: &[u8]) -> Self {
        let mut reply = crate::support::Reply::parse(bytes);
        if reply.header("content-type").is_some_and(|kind| kind.starts_with("application/grpc-web-text")) {
            let body = base64::engine::general_purpose::STANDARD.decode(&reply.body).expect("base64");
            reply.body = String::from_utf8_lossy(&body).into_owned();
        }
        let all = format!("{}\r\n\r\n{}", reply.head, reply.body);
        let from_json = || match &serde_json::from_str::<Value>(&reply.body).ok()?["code"] {
            Value::Number(code) => u8::try_from(code.as_u64()?).ok(),
            Value::String(code) => CODES.iter().find(|(_, name)| name == code).map(|(number, _)| *number),
            _ => None,
        };
        // In trailers: as HTTP trailers, as headers, or (gRPC-Web) as a frame of the body.
        let lower = all.to_ascii_lowercase();
        let from_trailers = || {
            let (_, rest) = lower.split_once("grpc-status:")?;
            rest.trim_start().split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
        };
        let code = from_trailers().or_else(from_json);
        let reason = reply.header("x-agentrouter-reason").unwrap_or_default().to_owned();
        Self { status: reply.status, reason, code, all }
    }

    /// Whether it contains `needle`, as it is or within base64 (as error details are).
    pub fn contains(&self, needle: &str) -> bool {
        let needle = needle.to_ascii_lowercase();
        let has = |text: &str| text.to_ascii_lowercase().contains(&needle);
        let runs = self.all.split(|c: char| !(c.is_ascii_alphanumeric() || "+/-_".contains(c)));
        // A run may begin with the end of another word, so all four alignments of base64 are tried.
        let decoded =
            runs.filter(|run| run.len() >= 8).flat_map(|run| (0..4).map(|skip| unbase64(&run[skip..])));
        has(&self.all) || decoded.into_iter().any(|bytes| has(&String::from_utf8_lossy(&bytes)))
    }
}

/// Decodes base64 of either alphabet, without padding, up to the first invalid character.
fn unbase64(text: &str) -> Vec<u8> {
    use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
    let lenient = GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let text = text.replace('-', "+").replace('_', "/");
    let whole = &text[..text.len() - usize::from(text.len() % 4 == 1)];
    GeneralPurpose::new(&base64::alphabet::STANDARD, lenient).decode(whole).unwrap_or_default()
}

const CODES: [(u8, &str); 11] = [
    (3, "invalid_argument"),
    (4, "deadline_exceeded"),
    (5, "not_found"),
    (7, "permission_denied"),
    (8, "resource_exhausted"),
    (9, "failed_precondition"),
    (10, "aborted"),
    (12, "unimplemented"),
    (13, "internal"),
    (14, "unavailable"),
    (16, "unauthenticated"),
];

fn percent(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(byte.into());
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}

/// A path cannot express that there is no name, and a query has only strings.
fn rest(rpc: Rpc, fields: &Value) -> Option<Request> {
    let route = ROUTES.iter().find(|route| route.rpc == rpc)?;
    let mut fields = fields.as_object()?.clone();
    let mut path = route.template.to_owned();
    if path.contains("{name}") {
        let name = fields.remove("name")?;
        path = path.replace("{name}", &percent(name.as_str().filter(|name| !name.is_empty())?));
    }
    if route.method == "POST" {
        let body = Value::Object(fields).to_string();
        return Some(Request::new("POST", path, body).with("content-type", "application/json"));
    }
    let mut pairs = Vec::new();
    for (name, value) in &fields {
        match value {
            Value::Object(tags) => {
                for (key, value) in tags {
                    pairs.push(format!("tags[{}]={}", percent(key), percent(value.as_str()?)));
                }
            }
            Value::String(text) => pairs.push(format!("{name}={}", percent(text))),
            Value::Number(number) => pairs.push(format!("{name}={number}")),
            _ => return None,
        }
    }
    if !pairs.is_empty() {
        path = format!("{path}?{}", pairs.join("&"));
    }
    Some(Request::new(route.method, path, ""))
}

/// The request message of `rpc`, from the definition.
pub fn input(rpc: Rpc) -> MessageDescriptor {
    static POOL: std::sync::OnceLock<Arc<DescriptorPool>> = std::sync::OnceLock::new();
    let pool = POOL.get_or_init(|| {
        Arc::new(DescriptorPool::decode(agentrouter_api::DESCRIPTOR_SET).expect("our own definition"))
    });
    let service = pool.get_service_by_name(agentrouter_api::SERVICE_NAME).expect("our own service");
    service.methods().find(|method| method.name() == rpc.as_str()).expect("its method").input()
}

pub fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// A field of wire type 2: a string, bytes or a message.
pub fn bytes_field(number: u32, bytes: &[u8]) -> Vec<u8> {
    [varint(u64::from(number) << 3 | 2), varint(bytes.len() as u64), bytes.to_vec()].concat()
}

/// A field of wire type 0.
pub fn varint_field(number: u32, value: u64) -> Vec<u8> {
    [varint(u64::from(number) << 3), varint(value)].concat()
}

/// Encodes fields by the definition's numbers. `None` if a value is not of its field's type.
pub fn encode(message: &MessageDescriptor, fields: &Value) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for (name, value) in fields.as_object()? {
        bytes.extend(encode_field(&message.get_field_by_name(name)?, value)?);
    }
    Some(bytes)
}

fn encode_field(field: &FieldDescriptor, value: &Value) -> Option<Vec<u8>> {
    let number = field.number();
    let text = |number, value: &Value| Some(bytes_field(number, value.as_str()?.as_bytes()));
    Some(match field.kind() {
        Kind::String => text(number, value)?,
        Kind::Int32 => varint_field(number, i32::try_from(value.as_i64()?).ok()? as i64 as u64),
        Kind::Message(_) if field.is_map() => {
            let mut entries = Vec::new();
            for (key, value) in value.as_object()? {
                let entry = [bytes_field(1, key.as_bytes()), text(2, value)?].concat();
                entries.extend(bytes_field(number, &entry));
            }
            entries
        }
        Kind::Message(kind) if kind.full_name() == "google.protobuf.Duration" => {
            let seconds: i64 = value.as_str()?.strip_suffix('s')?.parse().ok()?;
            bytes_field(number, &varint_field(1, seconds as u64))
        }
        Kind::Message(_) => {
            let paths = value.as_str()?.split(',').flat_map(|path| bytes_field(1, path.as_bytes()));
            bytes_field(number, &paths.collect::<Vec<u8>>())
        }
        kind => panic!("no rule for {kind:?}"),
    })
}
