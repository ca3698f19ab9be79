//! When a call is made again, and after how long.
//!
//! Only what cannot do harm twice: reads, and writes that name the version they expect. And only when the server says
//! that it may help: UNAVAILABLE (which includes "cannot be reached") and 429.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use connectrpc::ErrorCode;

use crate::Error;

/// Whether a call may be made twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// A read, or a write on condition of a version.
    Safe,
    /// Anything else.
    Never,
}

impl Repeat {
    /// A write may be repeated if it names the version it expects: done twice, it is refused the second time.
    pub(crate) fn of_write(expected_version: Option<i32>) -> Self {
        if expected_version.is_some() { Self::Safe } else { Self::Never }
    }
}

/// The first pause; each later one is twice as long.
const BASE: Duration = Duration::from_millis(100);
/// The longest pause that is our own choice; the server's `Retry-After` may be longer.
const CAP: Duration = Duration::from_secs(2);

/// How long to wait before retry number `retry` (from 0); none if there should be none.
pub(crate) fn pause(error: &Error, repeat: Repeat, retry: u32) -> Option<Duration> {
    if repeat == Repeat::Never {
        return None;
    }
    match error.code()? {
        ErrorCode::Unavailable => {}
        // The same code says "too large", which stays so.
        ErrorCode::ResourceExhausted if error.reason() != Some("BODY_TOO_LARGE") => {}
        _ => return None,
    }
    let own = BASE.saturating_mul(1 << retry.min(10)).min(CAP);
    Some(match error.retry_after() {
        // A little later than asked, so that callers told the same do not all come at once.
        Some(asked) => asked + own.mul_f64(jitter() / 2.0),
        None => own.mul_f64(0.5 + jitter() / 2.0),
    })
}

/// A number from 0 to 1 that differs from client to client. Good enough to spread retries, and for nothing else.
fn jitter() -> f64 {
    let bits = RandomState::new().build_hasher().finish() >> 32;
    f64::from(u32::try_from(bits).unwrap_or(0)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Refusal;

    fn refused(code: ErrorCode, reason: &str, retry_after: Option<u64>) -> Error {
        Error::Refused(Box::new(Refusal {
            code,
            reason: reason.into(),
            message: String::new(),
            violations: Vec::new(),
            retry_after: retry_after.map(Duration::from_secs),
            request_id: None,
        }))
    }

    #[test]
    fn only_safe_calls_that_may_get_better_are_repeated() {
        let unavailable = refused(ErrorCode::Unavailable, "OVERLOADED", None);
        assert!(pause(&unavailable, Repeat::Safe, 0).is_some());
        assert_eq!(pause(&unavailable, Repeat::Never, 0), None);
        assert!(
            pause(&refused(ErrorCode::ResourceExhausted, "RATE_LIMITED", None), Repeat::Safe, 0).is_some()
        );
        for (code, reason) in [
            (ErrorCode::ResourceExhausted, "BODY_TOO_LARGE"),
            (ErrorCode::NotFound, "SECRET_NOT_FOUND"),
            (ErrorCode::Aborted, "VERSION_MISMATCH"),
            (ErrorCode::Internal, "INTERNAL"),
        ] {
            assert_eq!(pause(&refused(code, reason, Some(1)), Repeat::Safe, 0), None, "{reason}");
        }
        assert_eq!(Repeat::of_write(Some(0)), Repeat::Safe);
        assert_eq!(Repeat::of_write(None), Repeat::Never);
    }

    #[test]
    fn pauses_grow_to_a_cap_and_are_never_shorter_than_asked() {
        let error = refused(ErrorCode::Unavailable, "OVERLOADED", None);
        for retry in 0..70 {
            let full = BASE.saturating_mul(1 << retry.min(10)).min(CAP);
            for _ in 0..20 {
                let pause = pause(&error, Repeat::Safe, retry).expect("a pause");
                assert!((full / 2..=full).contains(&pause), "{retry}: {pause:?}");
            }
        }
        let asked = refused(ErrorCode::ResourceExhausted, "RATE_LIMITED", Some(7));
        assert!(pause(&asked, Repeat::Safe, 0).expect("a pause") >= Duration::from_secs(7));
    }
}
