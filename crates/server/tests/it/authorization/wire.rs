//! A request in each dialect, over persistent connections. The messages come from the definition.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll};
use std::time::Duration;

use agentrouter_api::routes::{ROUTES, Route};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, SizeHint};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor, Value as Field};
use serde_json::Value;

pub use crate::support::Dialect;
use crate::support::Server;

/// An RPC of the definition, and its REST route.
#[derive(Clone, Debug)]
pub struct Method {
    descriptor: MethodDescriptor,
    pub route: Route,
}

/// Every RPC of every service in our package. Each has a REST route, and each route has an RPC.
pub fn methods() -> Vec<Method> {
    let pool = DescriptorPool::decode(agentrouter_api::DESCRIPTOR_SET).expect("our own definition");
    let ours = pool.services().filter(|service| service.package_name().starts_with("agentrouter."));
    let descriptors: Vec<MethodDescriptor> =
        ours.flat_map(|service| service.methods().collect::<Vec<_>>()).collect();
    let routed: BTreeSet<&str> = ROUTES.iter().map(|route| route.rpc.as_str()).collect();
    let defined: BTreeSet<&str> = descriptors.iter().map(MethodDescriptor::name).collect();
    assert_eq!(routed, defined, "REST and the definition have the same calls");
    assert_eq!(ROUTES.len(), routed.len(), "no call has two routes");
    let route = |name: &str| *ROUTES.iter().find(|route| route.rpc.as_str() == name).expect("just compared");
    descriptors.iter().map(|it| Method { descriptor: it.clone(), route: route(it.name()) }).collect()
}

/// The RPC of this name.
pub fn method(name: &str) -> &'static Method {
    static METHODS: LazyLock<Vec<Method>> = LazyLock::new(methods);
    METHODS.iter().find(|method| method.name() == name).expect("a call of the definition")
}

impl Method {
    pub fn name(&self) -> &str {
        self.descriptor.name()
    }

    /// Whether its request has this field.
    pub fn takes(&self, field: &str) -> bool {
        self.descriptor.input().get_field_by_name(field).is_some()
    }

    /// Its request with those of `fields` (all strings) that it has.
    pub fn with(&self, dialect: Dialect, fields: &[(&str, &str)]) -> PreparedRequest {
        let mut fields: Vec<_> = fields.iter().copied().filter(|(name, _)| self.takes(name)).collect();
        if dialect != Dialect::Rest {
            let body = match dialect {
                Dialect::ConnectJson => json(&fields),
                Dialect::ConnectProto => self.proto(&fields),
                _ => frame(&self.proto(&fields)),
            };
            return self.raw(dialect, body);
        }
        let mut path = self.route.template.to_owned();
        if path.contains("{name}") {
            let at = fields.iter().position(|(name, _)| *name == "name").expect("a name");
            path = path.replace("{name}", fields.remove(at).1);
        }
        let takes_body = self.route.method == "POST";
        for (i, (name, value)) in fields.iter().filter(|_| !takes_body).enumerate() {
            path = format!("{path}{}{name}={value}", if i == 0 { '?' } else { '&' });
        }
        let body = if takes_body { json(&fields) } else { Vec::new() };
        PreparedRequest { path, ..self.raw(dialect, body) }
    }

    /// Its request with a raw body. Over REST it is for the secret `n`.
    pub fn raw(&self, dialect: Dialect, body: impl Into<Bytes>) -> PreparedRequest {
        let rest = dialect == Dialect::Rest;
        let path = if rest {
            self.route.template.replace("{name}", "n")
        } else {
            format!("/{}/{}", self.descriptor.parent_service().full_name(), self.name())
        };
        PreparedRequest {
            method: self.clone(),
            dialect,
            verb: if rest { self.route.method } else { "POST" },
            path,
            sent: Sent::Whole(body.into()),
        }
    }

    fn proto(&self, fields: &[(&str, &str)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (name, value) in fields {
            let field = self.descriptor.input().get_field_by_name(name).expect("a field that it takes");
            bytes.extend(varint(u64::from(field.number()) << 3 | 2));
            bytes.extend(varint(value.len() as u64));
            bytes.extend_from_slice(value.as_bytes());
        }
        bytes
    }
}

fn json(fields: &[(&str, &str)]) -> Vec<u8> {
    let object = fields.iter().map(|(name, value)| ((*name).to_owned(), Value::from(*value))).collect();
    Value::Object(object).to_string().into_bytes()
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// A length-prefixed message of gRPC.
pub fn frame(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("a short message").to_be_bytes();
    [&[0], &length[..], message].concat()
}

/// A request that is ready to be sent.
#[derive(Clone, Debug)]
pub struct PreparedRequest {
    method: Method,
    pub dialect: Dialect,
    verb: &'static str,
    path: String,
    sent: Sent,
}

impl PreparedRequest {
    /// The same request, with an announced body of that many bytes that is never sent.
    pub fn withheld(&self, announced: u64) -> Self {
        Self { sent: Sent::Withheld(announced), ..self.clone() }
    }
}

/// The body of a request.
#[derive(Clone, Debug)]
enum Sent {
    Whole(Bytes),
    /// This many bytes are announced, and none is sent.
    Withheld(u64),
}

impl Body for Sent {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Withheld(_) => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Withheld(length) => SizeHint::with_exact(*length),
        }
    }
}

/// A response.
#[derive(Clone, Debug, PartialEq)]
pub struct RpcReply {
    /// The number of the gRPC status; 0 is OK.
    pub code: u8,
    /// The stable reason of an error. Empty on success.
    pub reason: String,
    /// The message, under the definition's field names. An unset field may be absent or null.
    pub message: Value,
    /// The whole response, byte for byte, without `x-request-id` and `date`.
    pub whole: String,
}

/// Persistent connections, one of each kind.
pub struct Client {
    authority: String,
    http1: Option<http1::SendRequest<Sent>>,
    http2: Option<http2::SendRequest<Sent>>,
}

impl Client {
    pub fn of(server: &Server) -> Self {
        Self { authority: server.process.authority().to_owned(), http1: None, http2: None }
    }

    /// Sends a request with an `Authorization` header, or none, and waits at most thirty seconds for the whole
    /// response.
    pub async fn send(&mut self, call: &PreparedRequest, authorization: Option<&str>) -> RpcReply {
        let exchange = async {
            let request = self.request(call, authorization);
            if call.dialect == Dialect::Grpc {
                self.http2().await.send_request(request).await
            } else {
                self.http1().await.send_request(request).await
            }
        };
        let outcome = tokio::time::timeout(Duration::from_secs(30), exchange).await;
        let response = outcome.unwrap_or_else(|_| panic!("no response: {call:?}")).expect("a response");
        let (head, body) = response.into_parts();
        let body = body.collect().await.expect("a complete response");
        let trailers = body.trailers().cloned().unwrap_or_default();
        RpcReply::read(call, &head, &trailers, &body.to_bytes())
    }

    fn request(&self, call: &PreparedRequest, authorization: Option<&str>) -> http::Request<Sent> {
        let target = if call.dialect == Dialect::Grpc {
            format!("http://{}{}", self.authority, call.path)
        } else {
            call.path.clone()
        };
        let mut request = http::Request::builder()
            .method(call.verb)
            .uri(target)
            .header("content-type", call.dialect.content_type());
        if call.dialect == Dialect::Grpc {
            request = request.header("te", "trailers");
        } else {
            request = request.header("host", &self.authority);
        }
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization);
        }
        request.body(call.sent.clone()).expect("a request")
    }

    async fn http1(&mut self) -> &mut http1::SendRequest<Sent> {
        let open = match &mut self.http1 {
            Some(sender) => sender.ready().await.is_ok(),
            None => false,
        };
        if !open {
            let (sender, connection) = http1::handshake(self.connect().await).await.expect("HTTP/1.1");
            tokio::spawn(connection);
            self.http1 = Some(sender);
        }
        self.http1.as_mut().expect("just opened")
    }

    async fn http2(&mut self) -> &mut http2::SendRequest<Sent> {
        let open = match &mut self.http2 {
            Some(sender) => sender.ready().await.is_ok(),
            None => false,
        };
        if !open {
            let io = self.connect().await;
            let (sender, connection) =
                http2::handshake(TokioExecutor::new(), io).await.expect("HTTP/2 without an upgrade");
            tokio::spawn(connection);
            self.http2 = Some(sender);
        }
        self.http2.as_mut().expect("just opened")
    }

    async fn connect(&self) -> TokioIo<tokio::net::TcpStream> {
        let stream = tokio::net::TcpStream::connect(&self.authority).await.expect("the server accepts");
        stream.set_nodelay(true).expect("an open socket");
        TokioIo::new(stream)
    }
}

impl RpcReply {
    fn read(
        call: &PreparedRequest,
        head: &http::response::Parts,
        trailers: &http::HeaderMap,
        body: &[u8],
    ) -> Self {
        let whole = format!(
            "{} {:?}\n{}\n{}\n{}",
            head.status.as_u16(),
            head.version,
            lines(&head.headers),
            body.escape_ascii(),
            lines(trailers)
        );
        let text = |name: &str| {
            let value = head.headers.get(name).or_else(|| trailers.get(name));
            value.and_then(|value| value.to_str().ok()).map(str::to_owned)
        };
        let (payload, framed_trailers) = match call.dialect {
            Dialect::Grpc | Dialect::GrpcWeb => unframe(body),
            _ => (body, String::new()),
        };
        let framed = |name: &str| {
            let line = framed_trailers.lines().find(|line| line.to_ascii_lowercase().starts_with(name))?;
            line.split_once(':').map(|(_, value)| value.trim().to_owned())
        };
        let code = match call.dialect {
            Dialect::Grpc | Dialect::GrpcWeb => {
                assert_eq!(head.status.as_u16(), 200, "gRPC has its own status: {whole}");
                let status = text("grpc-status").or_else(|| framed("grpc-status"));
                status.and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("no status: {whole}"))
            }
            _ if head.status.is_success() => 0,
            _ => code_of(head.status.as_u16(), &parse(body), &whole),
        };
        let reason = text("x-agentrouter-reason").or_else(|| framed("x-agentrouter-reason"));
        let message = match call.dialect {
            _ if code != 0 => Value::Null,
            Dialect::Rest | Dialect::ConnectJson => snake(parse(body)),
            _ => {
                let kind = call.method.descriptor.output();
                plain(&Field::Message(DynamicMessage::decode(kind, payload).expect("its response")))
            }
        };
        Self { code, reason: reason.unwrap_or_default(), message, whole }
    }
}

/// Sorted headers or trailers, without those that differ between responses.
fn lines(headers: &http::HeaderMap) -> String {
    let kept = headers.iter().filter(|(name, _)| !["x-request-id", "date"].contains(&name.as_str()));
    let mut lines: Vec<String> =
        kept.map(|(name, value)| format!("{name}: {}", value.as_bytes().escape_ascii())).collect();
    lines.sort();
    lines.join("\n")
}

fn parse(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap_or_else(|_| panic!("not JSON: {}", body.escape_ascii()))
}

/// The code in a JSON error, which must agree with its HTTP status.
fn code_of(status: u16, error: &Value, whole: &str) -> u8 {
    const CODES: [(u8, &str, u16); 5] = [
        (3, "invalid_argument", 400),
        (5, "not_found", 404),
        (7, "permission_denied", 403),
        (8, "resource_exhausted", 429),
        (16, "unauthenticated", 401),
    ];
    let known = CODES.iter().find(|(number, name, _)| error["code"] == *number || error["code"] == *name);
    let (number, _, expected) = known.unwrap_or_else(|| panic!("another code: {whole}"));
    assert_eq!(status, *expected, "{whole}");
    *number
}

/// The single message of a gRPC body, and the trailers that gRPC-Web puts after it.
fn unframe(mut body: &[u8]) -> (&[u8], String) {
    let (mut message, mut trailers) = (&body[..0], String::new());
    while let Some((prefix, rest)) = body.split_at_checked(5) {
        let length = u32::from_be_bytes(prefix[1..].try_into().expect("four bytes")) as usize;
        let (part, rest) = rest.split_at(length);
        match prefix[0] {
            0 => message = part,
            0x80 => trailers = String::from_utf8_lossy(part).into_owned(),
            flags => panic!("a frame with unexpected flags: {flags}"),
        }
        body = rest;
    }
    (message, trailers)
}

/// JSON under the definition's field names: `userId` is `user_id`.
fn snake(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let renamed = fields.into_iter().map(|(name, value)| {
                let name = name.chars().fold(String::new(), |mut name, letter| {
                    if letter.is_ascii_uppercase() {
                        name.push('_');
                    }
                    name.push(letter.to_ascii_lowercase());
                    name
                });
                (name, snake(value))
            });
            Value::Object(renamed.collect())
        }
        Value::Array(items) => items.into_iter().map(snake).collect(),
        value => value,
    }
}

/// A decoded message as JSON, limited to the types that these tests use.
fn plain(field: &Field) -> Value {
    match field {
        Field::Bool(value) => Value::from(*value),
        Field::I32(value) => Value::from(*value),
        Field::String(value) => Value::from(value.as_str()),
        Field::List(items) => items.iter().map(plain).collect(),
        Field::Message(message) => Value::Object(
            message.fields().map(|(field, value)| (field.name().to_owned(), plain(value))).collect(),
        ),
        _ => Value::Null,
    }
}
