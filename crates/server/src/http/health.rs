//! Health: `/livez`, `/readyz` and gRPC health.
//!
//! `/livez` checks the process alone, so that a full disk does not restart it repeatedly. `/readyz` gives the reason in
//! one word. gRPC health follows the same probe.
//!
//! Streams of gRPC health and reflection end when the server stops. Otherwise they would last as long as their clients
//! want, and delay the stop.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use agentrouter_service::{KekFileFault, Service, Unready};
use bytes::Bytes;
use connectrpc::{ConnectError, RequestContext, Router, streaming_handler_fn};
use connectrpc_health::wire::{HEALTH_WATCH_SPEC, HealthCheckRequest, HealthCheckResponse, ServingStatus};
use connectrpc_health::{
    Checker as _, HEALTH_SERVICE_NAME, HealthExt as _, HealthService, StaticChecker, Status, StatusStream,
    apply_request_limits, request_limits,
};
use futures_core::Stream;
use http::StatusCode;
use http_body::{Body, Frame, SizeHint};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::respond::{HttpResponse, json};

/// Whether the server can serve.
pub(crate) struct Health {
    stopping: AtomicBool,
    grpc: Arc<StaticChecker>,
    ended: CancellationToken,
}

impl Health {
    /// Puts gRPC health onto the router.
    pub(crate) fn install(router: Router) -> (Router, Self) {
        let grpc = Arc::new(StaticChecker::with_services([agentrouter_api::SERVICE_NAME]));
        let ended = CancellationToken::new();
        let service = Arc::new(HealthService::from_arc(Arc::clone(&grpc)));
        let router =
            service.register(router).allow_overrides().merge(watch(Arc::clone(&grpc), ended.clone()));
        let router = apply_request_limits(router, request_limits());
        (router, Self { stopping: AtomicBool::new(false), grpc, ended })
    }

    /// Becomes not ready, so that load balancers choose another server. Streams send that and end.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.grpc.shutdown();
        self.ended.cancel();
    }

    /// A body that ends when the server stops. The stream that reads it ends with it.
    pub(crate) fn until_stopped<T>(&self, body: T) -> Until<T> {
        Until::new(body, &self.ended)
    }

    /// Why the server is not ready. `None` if it is.
    pub(crate) async fn probe(&self, service: &Service) -> Option<Unready> {
        if self.stopping.load(Ordering::Relaxed) {
            return Some(Unready { reason: "SHUTTING_DOWN", detail: "".into() });
        }
        service.unready().await
    }

    /// Updates gRPC health from the probe.
    pub(crate) async fn refresh(&self, service: &Service) {
        let status = if self.probe(service).await.is_none() { Status::Serving } else { Status::NotServing };
        if self.stopping.load(Ordering::Relaxed) {
            return;
        }
        for name in [agentrouter_api::SERVICE_NAME, ""] {
            if self.grpc.set_status(name, status).is_err() {
                tracing::error!(name, "gRPC health does not know the service");
            }
        }
    }
}

/// The streams of gRPC health. They end when the server stops. By the protocol, a stream for an unknown service reports
/// that and stays open; the library would end it with an error.
fn watch(grpc: Arc<StaticChecker>, ended: CancellationToken) -> Router {
    let handler = move |_: RequestContext, request: HealthCheckRequest| {
        let (grpc, ended) = (Arc::clone(&grpc), ended.clone());
        async move {
            let statuses = grpc.watch(&request.service).await.ok();
            let first = statuses.is_none().then_some(ServingStatus::SERVICE_UNKNOWN);
            connectrpc::Response::stream_ok(Until::new(Statuses { first, statuses }, &ended))
        }
    };
    let handler =
        streaming_handler_fn::<_, _, HealthCheckRequest, HealthCheckResponse, HealthCheckResponse>(handler);
    Router::new().route_server_stream(HEALTH_SERVICE_NAME, "Watch", handler).with_spec(HEALTH_WATCH_SPEC)
}

/// The statuses of a stream: a first one, if any, then those of the checker.
struct Statuses {
    first: Option<ServingStatus>,
    statuses: Option<StatusStream>,
}

impl Stream for Statuses {
    type Item = Result<HealthCheckResponse, ConnectError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let status = match (this.first.take(), &mut this.statuses) {
            (Some(first), _) => first,
            (None, Some(statuses)) => match Pin::new(statuses).poll_next(cx) {
                Poll::Ready(Some(status)) => status.into(),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            },
            // `Until` ends it.
            (None, None) => return Poll::Pending,
        };
        let response = HealthCheckResponse { status: status.into(), ..Default::default() };
        Poll::Ready(Some(Ok(response)))
    }
}

/// A stream or body that ends when the server stops. Items that are ready by then are passed on first.
pub(crate) struct Until<T> {
    inner: T,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl<T> Until<T> {
    fn new(inner: T, ended: &CancellationToken) -> Self {
        Self { inner, ended: Box::pin(ended.clone().cancelled_owned()) }
    }

    /// The result of the inner stream, or the end if it is pending and the server stops.
    fn or_end<I>(&mut self, polled: Poll<Option<I>>, cx: &mut Context<'_>) -> Poll<Option<I>> {
        match polled {
            Poll::Pending => self.ended.as_mut().poll(cx).map(|()| None),
            polled @ Poll::Ready(_) => polled,
        }
    }
}

impl<S: Stream + Unpin> Stream for Until<S> {
    type Item = S::Item;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.inner).poll_next(cx);
        this.or_end(polled, cx)
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Until<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.inner).poll_frame(cx);
        this.or_end(polled, cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// `/livez`
pub(crate) fn livez() -> HttpResponse {
    json(StatusCode::OK, &b"{\"status\":\"ok\"}"[..])
}

/// `/readyz`. With `verbose` in the query, also what the sweep has found, and whether the KEK file can be used.
pub(crate) async fn readyz(health: &Health, service: &Service, query: Option<&str>) -> HttpResponse {
    let is_verbose = query.is_some_and(|query| query.split('&').any(is_verbose));
    let more = if is_verbose { details(service) } else { String::new() };
    let Some(Unready { reason, detail }) = health.probe(service).await else {
        return json(StatusCode::OK, format!("{{\"status\":\"ok\"{more}}}"));
    };
    let body =
        format!("{{\"status\":\"unavailable\",\"reason\":\"{reason}\",\"detail\":\"{detail}\"{more}}}");
    json(StatusCode::SERVICE_UNAVAILABLE, body)
}

fn is_verbose(part: &str) -> bool {
    matches!(part, "verbose" | "verbose=" | "verbose=1" | "verbose=true")
}

/// The fields of a verbose response. No text in them has a character that JSON escapes.
fn details(service: &Service) -> String {
    let sweep = match (service.sweep(), service.sweep_age()) {
        (Some(sweep), Some(age)) => {
            let completed_at = sweep.completed_at.map_or_else(|| "null".to_owned(), |at| format!("\"{at}\""));
            let progress = sweep.progress.map_or_else(|| "null".to_owned(), |progress| progress.to_string());
            let versions: Vec<String> =
                sweep.versions.iter().map(|(kek, count)| format!("\"{kek}\":{count}")).collect();
            format!(
                "{{\"completed_at\":{completed_at},\"age_seconds\":{},\"versions\":{{{}}},\"undecryptable\":{},\"progress\":{progress}}}",
                age.as_secs(),
                versions.join(","),
                sweep.undecryptable
            )
        }
        _ => "null".to_owned(),
    };
    let kek_file = match service.kek_file_fault() {
        None => "ok".to_owned(),
        Some(KekFileFault::Lacks(kek)) => {
            format!("it was changed and lacks KEK {kek}, which this server has in memory")
        }
        Some(KekFileFault::Unusable) => "it was changed and cannot be used; see the log".to_owned(),
    };
    format!(",\"sweep\":{sweep},\"kek_file\":\"{kek_file}\"")
}
