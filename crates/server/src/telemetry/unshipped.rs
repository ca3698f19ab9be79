//! Replaces `audit_logs` in a program built without the feature `otlp`: an error if a collector is configured.

use std::convert::Infallible;

use agentrouter_audit::Audit;

/// The number of records that a collector took.
pub(crate) fn shipped() -> u64 {
    0
}

/// Nothing is shipped.
pub(crate) struct Shipping(Infallible);

impl Shipping {
    /// # Errors
    /// Always.
    pub(crate) fn to(_endpoint: &str, _audit: &Audit) -> anyhow::Result<Self> {
        anyhow::bail!(agentrouter_instance::Advised::new(
            "audit.otlp-endpoint is set, but this program was built without the feature 'otlp'",
            "unset it, or build with the feature"
        ))
    }

    pub(crate) async fn run(&mut self) {
        match self.0 {}
    }

    pub(crate) async fn finish(&mut self) {
        match self.0 {}
    }
}
