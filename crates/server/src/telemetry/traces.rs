//! A span for each call, sent to a collector by OTLP over HTTP.
//!
//! A span has rpc, transport, outcome and request id, and nothing of a request: it is built here, field by field, and not
//! from what the code below logs. It lies below the caller's span if a W3C `traceparent` came with the call, and follows
//! its decision whether to sample. Without a collector configured nothing is made and nothing looked at.
//!
//! A slow or absent collector holds up nobody: spans wait in a bounded queue (2,048), are sent every five seconds by a
//! thread of the SDK's, and are dropped when it is full or they cannot be sent.
//!
//! Deliberately absent: TLS to the collector (one beside the server does that), and spans of anything but calls.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use agentrouter_crypto::SystemRng;
use agentrouter_model::{Clock as _, Rng as _, Rpc, SystemClock};
use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use opentelemetry::trace::{
    Span as _, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceFlags, TraceId, TraceState,
    Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{IdGenerator, SdkTracer, SdkTracerProvider};

/// Longest time for one delivery.
const DELIVERY: Duration = Duration::from_secs(3);
/// Longest time for the last delivery, at shutdown.
const LAST_DELIVERY: Duration = Duration::from_secs(4);
/// Most that is read of a collector's answer.
const ANSWER_BYTES: usize = 64 * 1024;
/// Where collectors take traces, below their address.
const PATH: &str = "/v1/traces";
/// The outcomes that are faults of the server; all other refusals are answers to the caller.
const FAULTS: [&str; 7] = [
    "AUDIT_UNAVAILABLE",
    "STORE_UNAVAILABLE",
    "KEK_UNAVAILABLE",
    "SECRET_CORRUPT",
    "OVERLOADED",
    "DEADLINE_EXCEEDED",
    "INTERNAL",
];

static TRACES: OnceLock<Traces> = OnceLock::new();

struct Traces {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

/// Begins to send spans to `endpoint`. Called within the runtime that is to send them.
///
/// # Errors
/// When `endpoint` is no `http` address.
pub(crate) fn start(endpoint: &str) -> anyhow::Result<()> {
    let rule = "otlp.endpoint must be an address such as http://127.0.0.1:4318";
    let uri: Uri = endpoint.trim_end_matches('/').parse().context(rule)?;
    anyhow::ensure!(
        uri.scheme_str() == Some("http") && uri.host().is_some_and(|host| !host.is_empty()),
        rule
    );
    let url = uri.to_string();
    let url = url.trim_end_matches('/');
    let url = if url.ends_with(PATH) { url.to_owned() } else { format!("{url}{PATH}") };
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(Client {
            runtime: tokio::runtime::Handle::current(),
            failing: AtomicBool::new(false),
        })
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(url)
        .with_timeout(DELIVERY)
        .build()
        .context("traces cannot be sent")?;
    let resource = Resource::builder_empty()
        .with_service_name("agentrouter-secrets")
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    let provider = SdkTracerProvider::builder()
        .with_id_generator(Ids)
        .with_resource(resource)
        .with_batch_exporter(exporter)
        .build();
    let tracer = provider.tracer("agentrouter-secrets");
    // A second start in one process (in tests) keeps the first one's.
    let _ = TRACES.set(Traces { provider, tracer });
    Ok(())
}

/// Sends what waits and ends it.
pub(crate) async fn stop() {
    let Some(traces) = TRACES.get() else { return };
    let last = tokio::task::spawn_blocking(|| traces.provider.shutdown_with_timeout(LAST_DELIVERY));
    if !matches!(last.await, Ok(Ok(()))) {
        tracing::warn!("the last spans could not be sent");
    }
}

/// A call that a span will be about.
pub(crate) struct Begun {
    parent: Option<SpanContext>,
    request_id: Arc<str>,
}

/// Takes note of a call, if anybody wants to know.
pub(crate) fn begin(headers: &HeaderMap, request_id: &Arc<str>) -> Option<Begun> {
    TRACES.get()?;
    Some(Begun { parent: headers.get("traceparent").and_then(parent), request_id: Arc::clone(request_id) })
}

impl Begun {
    /// Makes the span, of a call that took `elapsed` until now.
    pub(crate) fn end(&self, rpc: Rpc, transport: &'static str, outcome: &str, elapsed: Duration) {
        let Some(Traces { tracer, .. }) = TRACES.get() else { return };
        let now = u64::try_from(SystemClock.now().as_micros()).unwrap_or(0);
        let end = SystemTime::UNIX_EPOCH + Duration::from_micros(now);
        let parent = match &self.parent {
            Some(parent) => Context::new().with_remote_span_context(parent.clone()),
            None => Context::new(),
        };
        let builder = tracer
            .span_builder(rpc.as_str())
            .with_kind(SpanKind::Server)
            .with_start_time(end.checked_sub(elapsed).unwrap_or(end))
            .with_attributes([
                KeyValue::new("rpc.service", agentrouter_api::SERVICE_NAME),
                KeyValue::new("rpc.method", rpc.as_str()),
                KeyValue::new("agentrouter.transport", transport),
                KeyValue::new("agentrouter.outcome", outcome.to_owned()),
                KeyValue::new("agentrouter.request_id", Arc::clone(&self.request_id)),
            ]);
        let mut span = tracer.build_with_context(builder, &parent);
        if FAULTS.contains(&outcome) {
            span.set_status(Status::error(""));
        }
        span.end_with_timestamp(end);
    }
}

/// The caller's span, by a `traceparent` of version 00 (<https://www.w3.org/TR/trace-context/>); anything else is none.
fn parent(value: &HeaderValue) -> Option<SpanContext> {
    let text = value.to_str().ok()?;
    let fields: Vec<&str> = text.split('-').collect();
    let [version, trace, span, flags] = fields[..] else { return None };
    let hex =
        |text: &str, len| text.len() == len && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if version != "00" || !hex(trace, 32) || !hex(span, 16) || !hex(flags, 2) {
        return None;
    }
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?);
    let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
    let context = SpanContext::new(trace, span, flags, true, TraceState::default());
    context.is_valid().then_some(context)
}

/// Ids from where all chance here comes from.
#[derive(Debug)]
struct Ids;

impl IdGenerator for Ids {
    fn new_trace_id(&self) -> TraceId {
        TraceId::from_bytes(random())
    }

    fn new_span_id(&self) -> SpanId {
        SpanId::from_bytes(random())
    }
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // An id of zeroes is an invalid one, with which a span is not sent: no reason to refuse a call.
    let _ = SystemRng.fill(&mut bytes);
    bytes
}

/// Delivers on the server's runtime, for the SDK's thread has none.
#[derive(Debug)]
struct Client {
    runtime: tokio::runtime::Handle,
    failing: AtomicBool,
}

#[async_trait::async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let task = self.runtime.spawn(async move { tokio::time::timeout(DELIVERY, deliver(request)).await });
        let sent = match task.await {
            Ok(Ok(sent)) => sent,
            Ok(Err(late)) => Err(late.into()),
            Err(gone) => Err(gone.into()),
        };
        let failed = sent.as_ref().map_or(true, |response| !response.status().is_success());
        // Once when it begins and once when it is over, lest an absent collector fill the log.
        match (failed, self.failing.swap(failed, Ordering::Relaxed)) {
            (true, false) => tracing::warn!("spans cannot be sent to the collector, and are dropped"),
            (false, true) => tracing::info!("spans are sent to the collector again"),
            _ => {}
        }
        sent
    }
}

/// One request on a connection of its own.
async fn deliver(mut request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
    let authority = request.uri().authority().ok_or("the address has no host")?.clone();
    let port = authority.port_u16().unwrap_or(80);
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let stream = tokio::net::TcpStream::connect((host, port)).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).parse()?;
    *request.uri_mut() = path;
    request.headers_mut().insert(http::header::HOST, HeaderValue::from_str(authority.as_str())?);
    let (head, body) = sender.send_request(request.map(Full::new)).await?.into_parts();
    let body = Limited::new(body, ANSWER_BYTES).collect().await?.to_bytes();
    Ok(Response::from_parts(head, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parent_of(text: &str) -> Option<SpanContext> {
        parent(&HeaderValue::from_str(text).expect("a header value"))
    }

    #[test]
    fn a_well_formed_traceparent_names_the_callers_span() {
        let context =
            parent_of("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").expect("well-formed");
        assert_eq!(context.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(context.span_id().to_string(), "00f067aa0ba902b7");
        assert!(context.is_sampled() && context.is_remote());
    }

    #[test]
    fn anything_else_names_none() {
        for wrong in [
            "",
            "canary",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
        ] {
            assert!(parent_of(wrong).is_none(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn an_address_that_is_none_is_refused() {
        for wrong in ["", "127.0.0.1:4318", "https://collector", "ftp://h", "http://", "grpc"] {
            assert!(start(wrong).is_err(), "{wrong}");
        }
    }
}
