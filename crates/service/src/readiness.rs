//! Readiness: why the service cannot serve calls now. Called by `/readyz`, by gRPC health and by `doctor` over the
//! administration socket.

use std::borrow::Cow;
use std::time::Duration;

use agentrouter_audit::Status;

use crate::Service;

/// How long the head of the audit log may fail to be kept. A database that fails for a moment makes no server unready.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// How long the store may take to show that it can be written.
const STORE_TIME: Duration = Duration::from_secs(2);

/// Why the service cannot serve calls. Both texts are without a character that JSON escapes.
#[derive(Debug)]
pub struct Unready {
    /// One word, as in an error of the API.
    pub reason: &'static str,
    /// What failed.
    pub detail: Cow<'static, str>,
}

impl Service {
    /// Why the service cannot serve calls. `None` if it can. The KEKs are held in memory, unless their root key was denied,
    /// and compared with the store at the start and every ten seconds.
    pub async fn unready(&self) -> Option<Unready> {
        let unready = |reason, detail| Some(Unready { reason, detail });
        if let Status::Unavailable(detail) = self.audit().status() {
            return unready("AUDIT_UNAVAILABLE", detail.into());
        }
        if let Some(kek) = self.missing_kek() {
            let detail = format!("the KEK file lacks KEK {kek}, which the store uses");
            return unready("KEK_UNAVAILABLE", detail.into());
        }
        if self.head_failing() >= HEAD_TIME {
            return unready(
                "AUDIT_UNAVAILABLE",
                "the head of the audit log cannot be kept; see the log".into(),
            );
        }
        if !self.has_keks() {
            return unready("KEK_UNAVAILABLE", "the root key is denied to this server".into());
        }
        let detail = match tokio::time::timeout(STORE_TIME, self.store().check()).await {
            Ok(Ok(())) => return None,
            Ok(Err(error)) => error.reason(),
            Err(_) => "a write did not complete within two seconds",
        };
        unready("STORE_UNAVAILABLE", detail.into())
    }
}
