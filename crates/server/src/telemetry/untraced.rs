//! Replaces `traces` in a program built without the feature `otlp`: no spans, and an error if a collector is configured.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use agentrouter_model::{Reason, Rpc};
use opentelemetry::trace::SpanContext;

/// # Errors
/// Always.
pub(crate) fn start(_endpoint: &str) -> anyhow::Result<()> {
    anyhow::bail!(agentrouter_instance::Advised::new(
        "otlp.endpoint is set, but this program was built without the feature 'otlp'",
        "unset it, or build with the feature"
    ))
}

pub(crate) async fn stop() {}

/// No span begins.
pub(crate) struct SpanStart(Infallible);

pub(crate) fn begin(_parent: Option<&SpanContext>, _request_id: &Arc<str>) -> Option<SpanStart> {
    None
}

impl SpanStart {
    pub(crate) fn end(&self, _: Rpc, _: &'static str, _: Option<Reason>, _: Duration) {
        match self.0 {}
    }
}
