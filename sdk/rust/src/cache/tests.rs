use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::Semaphore;
use tokio::time::advance;

use super::*;

/// A server of one value.
struct Source {
    outcome: Mutex<Result<String, Error>>,
    calls: AtomicU32,
    /// Each call takes one before it responds.
    permits: Semaphore,
}

fn start() -> (Arc<Source>, Secrets) {
    start_with(MAX_AGE, MAX_STALE, MAX_ENTRIES)
}

fn start_with(max_age: Duration, max_stale: Duration, max_entries: usize) -> (Arc<Source>, Secrets) {
    let source = Arc::new(Source {
        outcome: Mutex::new(Ok("one".into())),
        calls: AtomicU32::new(0),
        permits: Semaphore::new(1_000_000),
    });
    let server = Arc::clone(&source);
    let fetch = move |_| -> Fetching {
        let server = Arc::clone(&server);
        Box::pin(async move {
            server.calls.fetch_add(1, Ordering::SeqCst);
            let outcome = server.outcome.lock().expect("not poisoned").clone();
            server.permits.acquire().await.expect("not closed").forget();
            outcome.map(|text| SecretValue(Arc::new(Zeroizing::new(text))))
        })
    };
    (source, Secrets::new(Box::new(fetch), max_age, max_stale, max_entries))
}

impl Source {
    fn set(&self, outcome: Result<&str, Error>) {
        *self.outcome.lock().expect("not poisoned") = outcome.map(str::to_owned);
    }

    fn calls(&self) -> u32 {
        self.calls.load(Ordering::SeqCst)
    }
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// Reads the secret, and waits for the refresh that this starts.
async fn get(secrets: &Secrets) -> Result<String, Code> {
    let outcome = secrets.get("s", "r", "").await;
    for _ in 0..5 {
        tokio::task::yield_now().await;
    }
    outcome.map(|value| (*value).to_owned()).map_err(|error| error.code().expect("a code"))
}

#[tokio::test(start_paused = true)]
async fn callers_share_a_call_and_one_may_leave() {
    let (server, secrets) = start();
    server.permits.forget_permits(usize::MAX);
    let left = tokio::time::timeout(seconds(1), secrets.get("s", "r", "")).await;
    assert!(left.is_err());
    let waiting: Vec<_> = (0..20)
        .map(|_| {
            let secrets = secrets.clone();
            tokio::spawn(async move { secrets.get("s", "r", "").await })
        })
        .collect();
    tokio::task::yield_now().await;
    server.permits.add_permits(1);
    for task in waiting {
        assert_eq!(&*task.await.expect("no panic").expect("a value"), "one");
    }
    assert_eq!(server.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_value_of_a_first_read_that_forget_overtakes_is_not_kept() {
    let (server, secrets) = start();
    server.permits.forget_permits(usize::MAX);
    let slow = tokio::spawn({
        let secrets = secrets.clone();
        async move { secrets.get("s", "r", "").await }
    });
    tokio::task::yield_now().await;
    secrets.forget("s", "r", "");
    server.set(Ok("two"));
    server.permits.add_permits(9);
    assert_eq!(&*slow.await.expect("no panic").expect("a value"), "one");
    assert_eq!(get(&secrets).await.as_deref(), Ok("two"));
}

#[tokio::test(start_paused = true)]
async fn name_realm_and_user_identify_a_value_and_old_values_are_removed() {
    let (server, secrets) = start_with(MAX_AGE, MAX_STALE, 3);
    for (name, realm, user_id) in [("a", "b", "c"), ("a", "b", ""), ("a", "", "c"), ("ab", "", "c")] {
        advance(seconds(1)).await;
        secrets.get(name, realm, user_id).await.expect("a value");
    }
    assert_eq!(server.calls(), 4);
    assert_eq!(secrets.shared.store().entries.len(), 3);
    advance(MAX_STALE).await;
    get(&secrets).await.expect("a value");
    assert_eq!(secrets.shared.store().entries.len(), 1, "values too old to be served are removed");
}

#[tokio::test(start_paused = true)]
async fn nothing_printed_has_a_value_in_it() {
    let (server, secrets) = start();
    server.set(Ok("canary"));
    let value = secrets.get("s", "r", "").await.expect("a value");
    assert_eq!(&*value, "canary");
    let shown = format!("{secrets:?} {value:?} {:?}", secrets.get("s", "r", "").await);
    assert!(!shown.contains("canary"), "{shown}");
    assert!(shown.starts_with("Secrets { values: 1, max_age: 30s, max_stale: 300s, .. }"), "{shown}");
}

#[test]
fn a_call_whose_runtime_has_ended_is_made_again_in_another() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let (server, secrets) = start();
    server.permits.forget_permits(usize::MAX);
    let short = runtime();
    short.block_on(async {
        assert!(tokio::time::timeout(Duration::from_millis(5), secrets.get("s", "r", "")).await.is_err());
    });
    drop(short);
    server.permits.add_permits(9);
    assert_eq!(runtime().block_on(get(&secrets)).as_deref(), Ok("one"));
}

#[tokio::test(start_paused = true)]
async fn the_values_are_dropped_with_the_last_handle_even_during_a_call() {
    let (server, secrets) = start();
    secrets.get("s", "r", "").await.expect("a value");
    server.permits.forget_permits(usize::MAX);
    advance(seconds(16)).await;
    secrets.get("s", "r", "").await.expect("fresh enough");
    let kept = Arc::downgrade(&secrets.shared);
    drop(secrets);
    assert!(kept.upgrade().is_none());
}
