//! Retries: which errors are retried, and after which pause. `sdk/cases/retry.json` has the rules.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use connectrpc::{ConnectError, ErrorCode};
use tokio::time::{Instant, sleep};

use crate::Error;
use crate::error::{from_rpc, reason};

/// Whether a call may be made twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// A read, or a write with `expected_version`.
    Safe,
    /// Any other call.
    Never,
}

impl Repeat {
    /// A write may be repeated if it names the version it expects: if it was made, the server rejects the second.
    pub(crate) fn of_write(expected_version: Option<i32>) -> Self {
        if expected_version.is_some() { Self::Safe } else { Self::Never }
    }
}

/// The upper bound of the first pause.
pub(crate) const BASE: Duration = Duration::from_millis(100);
/// Multiplies the upper bound from one pause to the next.
pub(crate) const FACTOR: u32 = 2;
/// The largest upper bound. The server may ask for a longer pause.
pub(crate) const CAP: Duration = Duration::from_secs(2);

/// The limits of a client's calls.
pub(crate) struct Policy {
    /// The time limit of a call, with its retries and pauses.
    pub(crate) timeout: Duration,
    /// Retries after the first attempt.
    pub(crate) retries: u32,
    /// A number from 0 up to and not including 1.
    pub(crate) random: Box<dyn Fn() -> f64 + Send + Sync>,
}

impl Policy {
    /// Makes a call and its retries within the timeout. `send` gets the time that is left. `name` is the call's in the log.
    pub(crate) async fn call<A, F: Future<Output = Result<A, ConnectError>>>(
        &self,
        name: &'static str,
        repeat: Repeat,
        send: impl Fn(Duration) -> F,
    ) -> Result<A, Error> {
        let deadline = Instant::now() + self.timeout;
        let mut retry = 0;
        loop {
            let start = Instant::now();
            let outcome = send(deadline.saturating_duration_since(start)).await;
            let outcome = outcome.map_err(|error| from_rpc(error, self.timeout));
            log(name, retry + 1, start.elapsed(), outcome.as_ref().err());
            let error = match outcome {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            if repeat == Repeat::Never || retry >= self.retries || !is_retried(&error) {
                return Err(error);
            }
            // A random part, so that clients which fail together do not retry together.
            let own = BASE.saturating_mul(FACTOR.saturating_pow(retry)).min(CAP).mul_f64((self.random)());
            let pause = error.retry_after().unwrap_or_default() + own;
            // A pause that reaches the timeout is not started.
            if pause >= deadline.saturating_duration_since(Instant::now()) {
                return Err(error);
            }
            sleep(pause).await;
            retry += 1;
        }
    }
}

/// Records an attempt for the program's subscriber of `tracing`. The text of an error has no content of the request.
fn log(call: &'static str, attempt: u32, took: Duration, error: Option<&Error>) {
    match error {
        None => tracing::debug!(target: "agentrouter_sdk", call, attempt, ?took, "call succeeded"),
        Some(error) => {
            tracing::debug!(target: "agentrouter_sdk", call, attempt, ?took, %error, "call failed")
        }
    }
}

/// Whether the same call may succeed a moment later.
fn is_retried(error: &Error) -> bool {
    match error.code() {
        Some(ErrorCode::Unavailable) => true,
        Some(ErrorCode::ResourceExhausted) => error.reason() != Some(reason::BODY_TOO_LARGE),
        _ => false,
    }
}

/// Differs from client to client. Good enough to spread retries, and for nothing else.
pub(crate) fn random() -> f64 {
    let bits = RandomState::new().build_hasher().finish() >> 32;
    f64::from(u32::try_from(bits).unwrap_or(0)) / 4_294_967_296.0
}
