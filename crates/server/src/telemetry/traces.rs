//! A span for each API request, sent to a collector by OTLP over HTTP.
//!
//! A span has rpc, transport, outcome and request id, and nothing else of a request. Its parent is the caller's span, if the
//! request has a W3C `traceparent`, and it follows that span's decision whether to sample. Without a collector no span is
//! built.
//!
//! A slow or absent collector delays no request. Spans wait in a bounded queue (2,048). A thread of the SDK sends them every
//! five seconds, and drops them when the queue is full or the collector does not take them.
//!
//! The HTTP client is OpenTelemetry's. Written here are its wrapper, since the SDK's thread has no runtime, and the span's
//! fields, since a `tracing` layer would export what other crates log.
//!
//! Deliberately absent: TLS to the collector (run an agent beside the server for that), and other spans.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use agentrouter_crypto::SystemRng;
use agentrouter_model::{Clock as _, Reason, Rng as _, Rpc, SystemClock};
use anyhow::Context as _;
use bytes::Bytes;
use http::{Request, Response, Uri};
use opentelemetry::trace::{
    Span as _, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceId, Tracer as _,
    TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{IdGenerator, SdkTracer, SdkTracerProvider};

/// The longest time for one delivery.
const DELIVERY: Duration = Duration::from_secs(3);
/// The longest time for the last delivery, at shutdown.
const LAST_DELIVERY: Duration = Duration::from_secs(4);
/// The path of a collector for traces.
const PATH: &str = "/v1/traces";
/// The reasons that are faults of the server. All others are faults of the caller.
const FAULTS: [Reason; 7] = [
    Reason::AuditUnavailable,
    Reason::StoreUnavailable,
    Reason::KekUnavailable,
    Reason::SecretCorrupt,
    Reason::Overloaded,
    Reason::DeadlineExceeded,
    Reason::Internal,
];

static TRACES: OnceLock<Traces> = OnceLock::new();

struct Traces {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

/// Starts to send spans to `endpoint`, on the runtime that it is called in.
///
/// # Errors
/// When `endpoint` is not an `http` address.
pub(crate) fn start(endpoint: &str) -> anyhow::Result<()> {
    let rule = "otlp.endpoint must be an address such as http://127.0.0.1:4318";
    let uri: Uri = endpoint.trim_end_matches('/').parse().context(rule)?;
    anyhow::ensure!(
        uri.scheme_str() == Some("http") && uri.host().is_some_and(|host| !host.is_empty()),
        rule
    );
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(ExportClient {
            http: HyperClient::with_default_connector(DELIVERY, None),
            runtime: tokio::runtime::Handle::current(),
            failing: AtomicBool::new(false),
        })
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(super::collector_url(endpoint, PATH))
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
    // A second start in one process, in tests, keeps the first provider.
    let _ = TRACES.set(Traces { provider, tracer });
    Ok(())
}

/// Sends the spans in the queue, and ends the SDK's thread.
pub(crate) async fn stop() {
    let Some(traces) = TRACES.get() else { return };
    let last = tokio::task::spawn_blocking(|| traces.provider.shutdown_with_timeout(LAST_DELIVERY));
    if !matches!(last.await, Ok(Ok(()))) {
        tracing::warn!("cannot send the last spans");
    }
}

/// The beginning of a span.
pub(crate) struct SpanStart {
    parent: Option<SpanContext>,
    request_id: Arc<str>,
}

/// Begins a span, if a collector is configured.
pub(crate) fn begin(parent: Option<&SpanContext>, request_id: &Arc<str>) -> Option<SpanStart> {
    TRACES.get()?;
    Some(SpanStart { parent: parent.cloned(), request_id: Arc::clone(request_id) })
}

impl SpanStart {
    /// Ends the span of a request that took `elapsed`.
    pub(crate) fn end(&self, rpc: Rpc, transport: &'static str, reason: Option<Reason>, elapsed: Duration) {
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
                KeyValue::new("agentrouter.outcome", reason.map_or("OK", Reason::as_str)),
                KeyValue::new("agentrouter.request_id", Arc::clone(&self.request_id)),
            ]);
        let mut span = tracer.build_with_context(builder, &parent);
        if reason.is_some_and(|reason| FAULTS.contains(&reason)) {
            span.set_status(Status::error(""));
        }
        span.end_with_timestamp(end);
    }
}

/// Ids from the random source of the server.
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
    // A failure leaves an id of zeroes, which is invalid: the span is not sent, and the request is served.
    let _ = SystemRng.fill(&mut bytes);
    bytes
}

/// Sends on the server's runtime: the SDK's thread has none.
#[derive(Debug)]
struct ExportClient {
    http: HyperClient,
    runtime: tokio::runtime::Handle,
    failing: AtomicBool,
}

#[async_trait::async_trait]
impl HttpClient for ExportClient {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let http = self.http.clone();
        let task = self.runtime.spawn(async move { http.send_bytes(request).await });
        let sent = task.await.unwrap_or_else(|ended| Err(ended.into()));
        let failed = sent.as_ref().map_or(true, |response| !response.status().is_success());
        // One line when it begins to fail and one when it works again, so that an absent collector does not fill the log.
        match (failed, self.failing.swap(failed, Ordering::Relaxed)) {
            (true, false) => tracing::warn!("spans cannot be sent to the collector, and are dropped"),
            (false, true) => tracing::info!("spans are sent to the collector again"),
            _ => {}
        }
        sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_endpoint_that_is_not_an_http_address_is_rejected() {
        for wrong in ["", "127.0.0.1:4318", "https://collector", "ftp://h", "http://", "grpc"] {
            assert!(start(wrong).is_err(), "{wrong}");
        }
    }
}
