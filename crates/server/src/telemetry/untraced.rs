//! In place of `traces`, in a program built without the feature `otlp`: nothing is traced, and nobody is told otherwise.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use agentrouter_model::Rpc;
use http::HeaderMap;

/// # Errors
/// Always: the operator is to know.
pub(crate) fn start(_endpoint: &str) -> anyhow::Result<()> {
    anyhow::bail!(
        "otlp.endpoint is set, and this program was built without traces; build it with the feature 'otlp', or unset it"
    )
}

pub(crate) async fn stop() {}

/// There is no such call.
pub(crate) struct Begun(Infallible);

pub(crate) fn begin(_headers: &HeaderMap, _request_id: &Arc<str>) -> Option<Begun> {
    None
}

impl Begun {
    pub(crate) fn end(&self, _rpc: Rpc, _transport: &'static str, _outcome: &str, _elapsed: Duration) {
        match self.0 {}
    }
}
