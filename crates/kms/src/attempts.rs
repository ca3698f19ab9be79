//! Deadline and retries of the calls to a root key, the same for every provider.
//!
//! A call has [`TOTAL`] in all and each attempt has [`ATTEMPT`]. Only an unreachable root is retried, after a random pause
//! that grows (exponential backoff with full jitter). The retries of the vendors' SDKs are switched off, so that attempts do
//! not multiply.

use std::future::Future;
use std::time::Duration;

use agentrouter_crypto::SystemRng;
use agentrouter_model::Rng as _;
use async_trait::async_trait;
use tokio::time::{sleep, timeout};

use crate::root::{Encrypted, Kind, Plaintext, Root, RootError};

/// The longest time of a call with its retries.
const TOTAL: Duration = Duration::from_secs(9);
/// The longest time of one attempt.
const ATTEMPT: Duration = Duration::from_secs(4);
/// The longest pause before the second attempt. It doubles with each attempt.
const PAUSE: Duration = Duration::from_millis(100);
/// The number of attempts.
const ATTEMPTS: u32 = 4;

/// A root key whose calls have a deadline and are retried.
pub(crate) struct Patient<R>(pub(crate) R);

#[async_trait]
impl<R: Root> Root for Patient<R> {
    async fn status(&self) -> Result<String, RootError> {
        patiently(|| self.0.status()).await
    }

    async fn encrypt(&self, plaintext: &[u8]) -> Result<Encrypted, RootError> {
        patiently(|| self.0.encrypt(plaintext)).await
    }

    async fn decrypt(&self, key_id: &str, ciphertext: &[u8]) -> Result<Plaintext, RootError> {
        patiently(|| self.0.decrypt(key_id, ciphertext)).await
    }
}

async fn patiently<T, F>(attempt: impl Fn() -> F) -> Result<T, RootError>
where
    F: Future<Output = Result<T, RootError>>,
{
    let mut last = None;
    let within = timeout(TOTAL, async {
        let mut pause = PAUSE;
        for number in 1..=ATTEMPTS {
            let result = timeout(ATTEMPT, attempt()).await.unwrap_or_else(|_| Err(late()));
            match result {
                Err(error) if error.kind == Kind::Unreachable && number < ATTEMPTS => {
                    tracing::debug!(number, error = %error, "an attempt failed");
                    last = Some(error);
                }
                result => return result,
            }
            sleep(random_part(pause)).await;
            pause *= 2;
        }
        Err(late())
    });
    match within.await {
        Ok(result) => result,
        Err(_) => Err(last.unwrap_or_else(late)),
    }
}

fn late() -> RootError {
    RootError::unreachable("the provider did not respond in time")
}

/// A random duration up to `longest`.
fn random_part(longest: Duration) -> Duration {
    let mut bytes = [0; 4];
    // Without randomness, the pause is the longest.
    match SystemRng.fill(&mut bytes) {
        Ok(()) => longest.mul_f64(f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX)),
        Err(_) => longest,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Gives these results in turn, then never responds.
    struct Script(Mutex<Vec<Result<String, RootError>>>);

    fn script(mut results: Vec<Result<String, RootError>>) -> Patient<Script> {
        results.reverse();
        Patient(Script(Mutex::new(results)))
    }

    #[async_trait]
    impl Root for Script {
        async fn status(&self) -> Result<String, RootError> {
            let next = self.0.lock().expect("not poisoned").pop();
            match next {
                Some(result) => result,
                None => std::future::pending().await,
            }
        }

        async fn encrypt(&self, _: &[u8]) -> Result<Encrypted, RootError> {
            Ok(Encrypted { ciphertext: vec![], key_id: self.status().await? })
        }

        async fn decrypt(&self, _: &str, _: &[u8]) -> Result<Plaintext, RootError> {
            Ok(self.status().await?.into_bytes().into())
        }
    }

    fn down() -> Result<String, RootError> {
        Err(RootError::unreachable("down"))
    }

    #[tokio::test(start_paused = true)]
    async fn an_unreachable_root_is_tried_again() {
        let root = script(vec![down(), down(), Ok("key".to_owned())]);
        assert_eq!(root.encrypt(b"").await.expect("third time").key_id, "key");
        let root = script(vec![down(), Ok("key".to_owned())]);
        assert_eq!(**root.decrypt("", b"").await.expect("second time"), *b"key");
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_are_bounded_in_number() {
        let root = script((0..9).map(|_| down()).collect());
        assert_eq!(root.status().await.expect_err("down").kind, Kind::Unreachable);
        assert_eq!(root.0.0.lock().expect("not poisoned").len(), 9 - ATTEMPTS as usize);
    }

    #[tokio::test(start_paused = true)]
    async fn a_root_that_never_responds_is_unreachable_after_the_deadline() {
        let start = tokio::time::Instant::now();
        let error = script(vec![]).status().await.expect_err("late");
        assert_eq!((error.kind, start.elapsed()), (Kind::Unreachable, TOTAL));
    }

    #[tokio::test(start_paused = true)]
    async fn other_failures_are_not_tried_again() {
        for kind in [Kind::Denied, Kind::Unusable, Kind::Ciphertext, Kind::Garbled] {
            let root = script(vec![Err(RootError::new(kind, "no")), Ok("key".to_owned())]);
            assert_eq!(root.status().await.expect_err("no").kind, kind);
        }
    }
}
