//! Is the process alive, and can it serve?
//!
//! `/livez` looks at the process alone: a full disk must not have it killed and started over and over. `/readyz` says
//! what is wrong in one word, and so does gRPC health, whose status follows the same probe.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use agentrouter_service::Service;
use connectrpc_health::{StaticChecker, Status};
use http::{Response, StatusCode};

use super::answer::json;
use super::body::Answer;

/// How long the store may take to show that it can be written.
const STORE_TIME: Duration = Duration::from_secs(2);

/// The answer to "can you serve?".
pub(crate) struct Health {
    stopping: AtomicBool,
    grpc: Arc<StaticChecker>,
}

impl Health {
    pub(crate) fn new(grpc: Arc<StaticChecker>) -> Self {
        Self { stopping: AtomicBool::new(false), grpc }
    }

    /// From now on, not ready: load balancers are to look elsewhere.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.grpc.shutdown();
    }

    /// Why the server cannot serve; none if it can. The KEK was checked at start and is held in memory.
    pub(crate) async fn probe(&self, service: &Service) -> Option<&'static str> {
        if self.stopping.load(Ordering::Relaxed) {
            return Some("SHUTTING_DOWN");
        }
        if let agentrouter_audit::Status::Unavailable(_) = service.audit().status() {
            return Some("AUDIT_UNAVAILABLE");
        }
        match tokio::time::timeout(STORE_TIME, service.store().check()).await {
            Ok(Ok(())) => None,
            _ => Some("STORE_UNAVAILABLE"),
        }
    }

    /// Lets gRPC health follow the probe.
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

/// `/livez`
pub(crate) fn livez() -> Response<Answer> {
    json(StatusCode::OK, &b"{\"status\":\"ok\"}"[..])
}

/// `/readyz`
pub(crate) async fn readyz(health: &Health, service: &Service) -> Response<Answer> {
    let Some(reason) = health.probe(service).await else {
        return json(StatusCode::OK, &b"{\"status\":\"ok\"}"[..]);
    };
    let detail = match service.audit().status() {
        agentrouter_audit::Status::Unavailable(why) if reason == "AUDIT_UNAVAILABLE" => why,
        _ => "",
    };
    // Both are fixed words of ours without anything that JSON escapes.
    let body = format!("{{\"status\":\"unavailable\",\"reason\":\"{reason}\",\"detail\":\"{detail}\"}}");
    json(StatusCode::SERVICE_UNAVAILABLE, body)
}
