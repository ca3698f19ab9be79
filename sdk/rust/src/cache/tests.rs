use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::Semaphore;
use tokio::time::advance;

use super::*;
use crate::Refusal;

/// A server of one value.
struct Source {
    outcome: Mutex<Result<String, Error>>,
    calls: AtomicU32,
    /// Each call takes one before it answers.
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

fn refused(code: Code, reason: &str) -> Error {
    Error::Refused(Box::new(Refusal {
        code,
        reason: reason.into(),
        message: "No.".into(),
        violations: Vec::new(),
        retry_after: None,
        request_id: None,
    }))
}

fn away() -> Error {
    transport(Code::Unavailable)
}

/// What something that is not the service answers.
fn transport(code: Code) -> Error {
    Error::Transport { code, message: "gone".into(), retry_after: None, source: None }
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// Reads the one secret, and waits for what that set off.
async fn get(secrets: &Secrets) -> Result<String, Code> {
    let outcome = secrets.get("s", "r", "").await;
    for _ in 0..5 {
        tokio::task::yield_now().await;
    }
    outcome.map(|value| (*value).to_owned()).map_err(|error| error.code().expect("a code"))
}

#[tokio::test(start_paused = true)]
async fn a_value_is_read_once_and_refreshed_in_the_background() {
    let (server, secrets) = start();
    assert_eq!(get(&secrets).await.as_deref(), Ok("one"));
    advance(seconds(14)).await;
    assert_eq!(get(&secrets).await.as_deref(), Ok("one"));
    assert_eq!(server.calls(), 1);
    server.set(Ok("two"));
    advance(seconds(2)).await;
    assert_eq!(get(&secrets).await.as_deref(), Ok("one"), "it is fresh enough, and sets the refresh off");
    assert_eq!(get(&secrets).await.as_deref(), Ok("two"));
    assert_eq!(server.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn no_value_older_than_the_greatest_age_is_served_while_the_server_answers() {
    let (server, secrets) = start();
    assert_eq!(get(&secrets).await.as_deref(), Ok("one"));
    server.set(Ok("two"));
    advance(seconds(30)).await;
    assert_eq!(get(&secrets).await.as_deref(), Ok("two"));
}

#[tokio::test(start_paused = true)]
async fn a_value_is_as_old_as_its_question_not_as_its_answer() {
    let (server, secrets) = start();
    server.permits.forget_permits(usize::MAX);
    let slow = tokio::spawn({
        let secrets = secrets.clone();
        async move { secrets.get("s", "r", "").await }
    });
    tokio::task::yield_now().await;
    advance(seconds(30)).await;
    server.set(Ok("two"));
    server.permits.add_permits(9);
    assert_eq!(&*slow.await.expect("no panic").expect("an answer"), "one");
    assert_eq!(get(&secrets).await.as_deref(), Ok("two"));
}

#[tokio::test(start_paused = true)]
async fn the_last_good_value_is_served_for_a_bounded_time_while_the_server_is_away() {
    let timeout = Error::Timeout { after: seconds(10) };
    let page = transport(Code::Unimplemented);
    for outage in [away(), timeout, page, refused(Code::ResourceExhausted, "RATE_LIMITED")] {
        let (server, secrets) = start();
        assert_eq!(get(&secrets).await.as_deref(), Ok("one"));
        server.set(Err(outage.clone()));
        for _ in 0..29 {
            advance(seconds(10)).await;
            assert_eq!(get(&secrets).await.as_deref(), Ok("one"));
        }
        advance(seconds(10)).await;
        assert_eq!(get(&secrets).await, Err(outage.code().expect("a code")), "after five minutes");
        server.set(Ok("two"));
        assert_eq!(get(&secrets).await.as_deref(), Ok("two"));
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_holds_nobody_up_once_it_is_known_and_no_server_that_is_away_is_asked_all_the_time() {
    let (server, secrets) = start();
    assert_eq!(get(&secrets).await.as_deref(), Ok("one"));
    server.set(Err(away()));
    advance(seconds(16)).await;
    assert_eq!(get(&secrets).await.as_deref(), Ok("one"));
    server.permits.forget_permits(usize::MAX);
    advance(seconds(20)).await;
    assert_eq!(get(&secrets).await.as_deref(), Ok("one"), "without waiting for the call that hangs");
    server.permits.add_permits(9);
    get(&secrets).await.expect("still served");
    let calls = server.calls();
    for _ in 0..50 {
        get(&secrets).await.expect("still served");
    }
    assert!(server.calls() <= calls + 1);
    let pause = Error::Transport {
        code: Code::Unavailable,
        message: String::new(),
        retry_after: Some(seconds(40)),
        source: None,
    };
    server.set(Err(pause));
    advance(seconds(2)).await;
    get(&secrets).await.expect("still served");
    let calls = server.calls();
    advance(seconds(39)).await;
    get(&secrets).await.expect("still served");
    assert_eq!(server.calls(), calls, "what the server asks for is kept to");
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_long_ago_is_no_reason_to_serve_a_stale_value() {
    let (server, secrets) = start();
    assert_eq!(get(&secrets).await.as_deref(), Ok("one"));
    server.set(Err(away()));
    advance(seconds(16)).await;
    assert_eq!(get(&secrets).await.as_deref(), Ok("one"));
    server.set(Ok("two"));
    advance(seconds(120)).await;
    assert_eq!(get(&secrets).await.as_deref(), Ok("two"));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_removes_the_value_at_once_and_for_good() {
    for refusal in [
        refused(Code::NotFound, "SECRET_NOT_FOUND"),
        refused(Code::PermissionDenied, "SCOPE_MISSING"),
        refused(Code::Unauthenticated, "UNAUTHENTICATED"),
        refused(Code::Internal, "SECRET_CORRUPT"),
        transport(Code::PermissionDenied),
        transport(Code::Unauthenticated),
    ] {
        let code = refusal.code().expect("a code");
        let (server, secrets) = start();
        assert_eq!(get(&secrets).await.as_deref(), Ok("one"));
        server.set(Err(refusal));
        advance(seconds(16)).await;
        assert_eq!(get(&secrets).await.as_deref(), Ok("one"), "fresh enough; its refresh is refused");
        assert_eq!(get(&secrets).await, Err(code));
        server.set(Err(away()));
        assert_eq!(get(&secrets).await, Err(Code::Unavailable), "it does not come back in an outage");
    }
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
        assert_eq!(&*task.await.expect("no panic").expect("an answer"), "one");
    }
    assert_eq!(server.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_forgotten_is_read_anew_and_not_kept_by_a_call_from_before() {
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
    assert_eq!(&*slow.await.expect("no panic").expect("an answer"), "one");
    assert_eq!(get(&secrets).await.as_deref(), Ok("two"));
}

#[tokio::test(start_paused = true)]
async fn places_are_told_apart_and_only_so_many_are_kept() {
    let (server, secrets) = start_with(MAX_AGE, MAX_STALE, 3);
    for (name, realm, user_id) in [("a", "b", "c"), ("a", "b", ""), ("a", "", "c"), ("ab", "", "c")] {
        advance(seconds(1)).await;
        secrets.get(name, realm, user_id).await.expect("an answer");
    }
    assert_eq!(server.calls(), 4);
    assert_eq!(secrets.shared.shelf().entries.len(), 3);
    secrets.get("ab", "", "c").await.expect("kept");
    assert_eq!(server.calls(), 4);
    secrets.get("a", "b", "c").await.expect("the oldest went");
    assert_eq!(server.calls(), 5);
    advance(MAX_STALE).await;
    get(&secrets).await.expect("an answer");
    assert_eq!(secrets.shared.shelf().entries.len(), 1, "what is too old to be served goes first");
}

#[tokio::test(start_paused = true)]
async fn nothing_printed_has_a_value_in_it() {
    let (server, secrets) = start();
    server.set(Ok("canary"));
    let value = secrets.get("s", "r", "").await.expect("an answer");
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
async fn the_values_are_gone_with_the_last_handle_though_a_call_is_under_way() {
    let (server, secrets) = start();
    secrets.get("s", "r", "").await.expect("an answer");
    server.permits.forget_permits(usize::MAX);
    advance(seconds(16)).await;
    secrets.get("s", "r", "").await.expect("fresh enough");
    let kept = Arc::downgrade(&secrets.shared);
    drop(secrets);
    assert!(kept.upgrade().is_none());
}
