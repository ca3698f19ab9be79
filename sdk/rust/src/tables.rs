//! Tests: the tables of `sdk/cases` that need no server, on a fake clock.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentrouter_api::wire::google::rpc;
use connectrpc::{ConnectError, ErrorCode, ErrorDetail};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{Instant, advance, sleep};
use zeroize::Zeroizing;

use crate::cache::{Fetching, MAX_AGE, MAX_ENTRIES, MAX_STALE, REFRESH_DELAY};
use crate::client::{RETRIES, TIMEOUT};
use crate::retry::{BASE, CAP, FACTOR, Policy, Repeat};
use crate::{Error, Refusal, SecretValue, Secrets};

/// A table of `sdk/cases`.
fn table(name: &str, keys: &[&str]) -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../cases/").to_owned() + name;
    let table = serde_json::from_str(&std::fs::read_to_string(path).expect("a table")).expect("JSON");
    known(&table, &[keys, &["title"]].concat());
    table
}

fn known(object: &Value, keys: &[&str]) {
    for key in object.as_object().expect("an object").keys() {
        assert!(keys.contains(&key.as_str()), "unknown key {key}");
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("an array")
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn ms(value: &Value) -> Option<Duration> {
    value.as_u64().map(Duration::from_millis)
}

fn code(name: &Value) -> ErrorCode {
    serde_json::from_value(Value::String(text(name).to_ascii_lowercase())).expect("a code")
}

/// Checks that a call ended as the case says: without an error, or with its code and reason.
fn check<T>(want: &Value, outcome: Result<T, Error>, title: &str) -> Option<T> {
    match outcome {
        Ok(value) => {
            assert!(want.is_null(), "{title}: no error");
            Some(value)
        }
        Err(error) => {
            let found = (error.code(), error.reason().unwrap_or_default());
            assert_eq!(found, (Some(code(&want["code"])), text(&want["reason"])), "{title}: {error:?}");
            None
        }
    }
}

#[test]
fn the_constants_are_the_codes_and_reasons_of_the_table() {
    let errors = table("errors.json", &["codes", "reasons"]);
    for name in list(&errors["codes"]) {
        assert_eq!(code(name).as_str().to_ascii_uppercase(), text(name));
    }
    let source = include_str!("error.rs");
    let constants = source.lines().filter_map(|line| line.trim().strip_prefix("pub const "));
    let reasons: Vec<&str> = constants
        .map(|line| {
            let (name, value) = line.split_once(": &str = ").expect("a reason");
            assert_eq!(value.trim_matches(['"', ';']), name);
            name
        })
        .collect();
    let listed: Vec<&String> = errors["reasons"].as_object().expect("an object").keys().collect();
    let mut sorted = reasons.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, listed);
}

/// The outcome of an attempt, as the transport reports it.
fn response(attempt: &Value) -> Result<(), ConnectError> {
    known(attempt, &["drop", "status", "code", "reason", "retry_after", "retry_info_ms", "takes_ms"]);
    if attempt["drop"] == true {
        return Err(ConnectError::unavailable_from_transport(
            "HTTP request failed",
            std::io::Error::from(std::io::ErrorKind::ConnectionReset),
        ));
    }
    if attempt["status"].is_null() {
        return Ok(());
    }
    let mut headers = http::HeaderMap::new();
    headers.insert("content-type", http::HeaderValue::from_static("application/json"));
    if let Some(text) = attempt["retry_after"].as_str() {
        headers.insert("retry-after", text.parse().expect("a header"));
    }
    let mut error = ConnectError::new(code(&attempt["code"]), "No.").with_headers(headers);
    if let Some(reason) = attempt["reason"].as_str() {
        let info = rpc::ErrorInfo { reason: reason.into(), ..Default::default() };
        error = error.with_detail(ErrorDetail::from_message("google.rpc.ErrorInfo", &info));
    }
    if let Some(delay) = ms(&attempt["retry_info_ms"]) {
        let info = rpc::RetryInfo { retry_delay: Some(delay.into()).into() };
        error = error.with_detail(ErrorDetail::from_message("google.rpc.RetryInfo", &info));
    }
    Err(error)
}

#[tokio::test(start_paused = true)]
async fn retries() {
    let table = table("retry.json", &["defaults", "cases"]);
    let defaults = &table["defaults"];
    known(defaults, &["timeout_ms", "retries", "base_ms", "factor", "cap_ms"]);
    let durations = ["timeout_ms", "base_ms", "cap_ms"].map(|key| ms(&defaults[key]));
    assert_eq!(durations, [TIMEOUT, BASE, CAP].map(Some));
    assert_eq!([&defaults["retries"], &defaults["factor"]], [RETRIES, FACTOR]);
    for case in list(&table["cases"]) {
        retry(case).await;
    }
}

async fn retry(case: &Value) {
    let keys = ["title", "call", "expected_version", "timeout_ms", "retries"];
    known(case, &[&keys[..], &["attempts", "random", "pauses_ms", "error"]].concat());
    let title = text(&case["title"]);
    let repeat = match text(&case["call"]) {
        "GetSecret" | "ListSecrets" | "ValidateSecret" | "GetSecretValue" => Repeat::Safe,
        "CreateSecret" | "RotateSecret" => {
            let version = case["expected_version"].as_i64();
            Repeat::of_write(version.map(|version| i32::try_from(version).expect("a version")))
        }
        "DeleteSecret" => Repeat::Never,
        other => panic!("unknown call {other}"),
    };
    let random: Vec<f64> = list(&case["random"]).iter().filter_map(Value::as_f64).collect();
    let drawn = AtomicUsize::new(0);
    let policy = Policy {
        timeout: ms(&case["timeout_ms"]).unwrap_or(TIMEOUT),
        retries: case["retries"].as_u64().map_or(RETRIES, |count| u32::try_from(count).expect("a count")),
        random: Box::new(move || random[drawn.fetch_add(1, Ordering::SeqCst)]),
    };
    let attempts = list(&case["attempts"]);
    // When each attempt started and ended.
    let times = Mutex::new(Vec::new());
    let outcome = policy.call("Call", repeat, |_| async {
        let start = Instant::now();
        let number = times.lock().expect("not poisoned").len();
        let attempt = attempts.get(number).unwrap_or_else(|| panic!("{title}: more requests than attempts"));
        sleep(ms(&attempt["takes_ms"]).unwrap_or_default()).await;
        times.lock().expect("not poisoned").push((start, Instant::now()));
        response(attempt)
    });
    check(&case["error"], outcome.await, title);
    let times = times.into_inner().expect("not poisoned");
    assert_eq!(times.len(), attempts.len(), "{title}: requests");
    let pauses: Vec<Duration> = times.windows(2).map(|pair| pair[1].0 - pair[0].1).collect();
    let expected: Vec<Duration> = list(&case["pauses_ms"]).iter().filter_map(ms).collect();
    assert_eq!(pauses, expected, "{title}");
}

#[tokio::test(start_paused = true)]
async fn cache() {
    let table = table("cache.json", &["defaults", "cases"]);
    let defaults = &table["defaults"];
    known(defaults, &["max_age_ms", "max_stale_ms", "max_entries", "delay_ms"]);
    let durations = ["max_age_ms", "max_stale_ms", "delay_ms"].map(|key| ms(&defaults[key]));
    assert_eq!(durations, [MAX_AGE, MAX_STALE, REFRESH_DELAY].map(Some));
    assert_eq!(defaults["max_entries"], MAX_ENTRIES);
    for case in list(&table["cases"]) {
        serve(case).await;
    }
}

/// What the server of a case responds.
async fn respond(said: &Value) -> Result<SecretValue, Error> {
    known(said, &["value", "code", "reason", "retry_after_ms", "takes_ms"]);
    if let Some(time) = ms(&said["takes_ms"]) {
        advance(time).await;
    }
    if let Some(value) = said["value"].as_str() {
        return Ok(SecretValue(Arc::new(Zeroizing::new(value.to_owned()))));
    }
    let (code, reason, retry_after) =
        (code(&said["code"]), text(&said["reason"]), ms(&said["retry_after_ms"]));
    Err(if reason.is_empty() {
        Error::Transport { code, message: String::new(), retry_after, source: None }
    } else {
        Error::Refused(Box::new(Refusal {
            code,
            reason: reason.into(),
            message: String::new(),
            violations: Vec::new(),
            retry_after,
            request_id: None,
        }))
    })
}

async fn serve(case: &Value) {
    known(case, &["title", "cache", "steps"]);
    let settings = &case["cache"];
    let (server, said) = watch::channel(Value::Null);
    let requests = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&requests);
    let fetch = move |_| -> Fetching {
        counted.fetch_add(1, Ordering::SeqCst);
        let mut said = said.clone();
        Box::pin(async move {
            let said = said.wait_for(|said| said != "silent").await.expect("a server").clone();
            respond(&said).await
        })
    };
    let secrets = Secrets::new(
        Box::new(fetch),
        ms(&settings["max_age_ms"]).unwrap_or(MAX_AGE),
        ms(&settings["max_stale_ms"]).unwrap_or(MAX_STALE),
        settings["max_entries"].as_u64().map_or(MAX_ENTRIES, |n| usize::try_from(n).expect("a count")),
    );
    for (index, step) in list(&case["steps"]).iter().enumerate() {
        known(step, &["pass_ms", "server", "get", "value", "error", "forget", "requests"]);
        let at = format!("{}, step {}", text(&case["title"]), index + 1);
        advance(ms(&step["pass_ms"]).unwrap_or_default()).await;
        if !step["server"].is_null() {
            server.send_replace(step["server"].clone());
        }
        if let Some(name) = step["forget"].as_str() {
            secrets.forget(name, "", "");
        }
        if let Some(name) = step["get"].as_str()
            && let Some(value) = check(&step["error"], secrets.get(name, "", "").await, &at)
        {
            assert_eq!(&*value, text(&step["value"]), "{at}");
        }
        // The tasks of requests that the server does not hold end within these, on the one thread of this runtime.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        if let Some(count) = step["requests"].as_u64() {
            assert_eq!(u64::from(requests.load(Ordering::SeqCst)), count, "{at}");
        }
    }
}
