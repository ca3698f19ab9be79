//! Running scenarios with one caller.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::CaseServer;
use super::matching::differs;
use super::proxy::Proxy;
use super::scenario::{ClientSettings, Names, Scenario, Step, Wanted, filled, read_all};
use crate::support::Dice;

/// Concurrent requests of a repeated step.
const AT_ONCE: u32 = 8;

/// One request to send.
pub struct CaseRequest<'a> {
    pub call: &'a str,
    pub request: &'a Map<String, Value>,
    pub role: &'a str,
    /// Without `ak-`; none for the role `none`.
    pub key: Option<&'a str>,
    pub all_pages: bool,
    /// The proxy to send it to, if not to the server.
    pub proxy: Option<&'a str>,
    pub client: Option<ClientSettings>,
}

impl CaseRequest<'_> {
    /// A text of the request; empty if it has none of that name.
    pub fn text(&self, field: &str) -> &str {
        self.request.get(field).and_then(Value::as_str).unwrap_or_default()
    }
}

/// A request that failed.
#[derive(Debug)]
pub struct Failed {
    pub kind: FailureKind,
    /// All texts of the error.
    pub shown: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// Code, reason and, in order, the names of the fields at fault.
    Refused(String, String, Vec<String>),
    /// The client refused the request before it sent anything.
    BeforeRequest,
}

/// A client that sends the requests.
pub trait CaseClient: Sync {
    /// Whether it has retries and their settings.
    const IS_SDK: bool;

    /// Sends the request. Returns the response as proto JSON with proto names and default values.
    fn call(&self, case: &CaseRequest<'_>) -> Result<Value, Failed>;

    /// The form that the error of a case has in this client.
    fn wants(&self, case: &CaseRequest<'_>, wanted: &Wanted) -> FailureKind;
}

/// The error as the case states it.
pub fn as_it_stands(wanted: &Wanted) -> FailureKind {
    let mut fields = wanted.fields.clone();
    fields.sort();
    FailureKind::Refused(wanted.code.clone(), wanted.reason.clone(), fields)
}

pub fn run_all<C: CaseClient>(server: &CaseServer, caller: &C) {
    let mut dice = Dice(rand());
    let mut run = 0;
    let mut failures = Vec::new();
    for (file, scenario) in read_all() {
        if scenario.sdk_only && !C::IS_SDK {
            continue;
        }
        run += 1;
        let names = Names::from([("run".to_owned(), dice.text(8).to_ascii_lowercase())]);
        if let Err(failure) = run_scenario(server, caller, &scenario, names) {
            failures.push(format!("{file}: {}: {failure}", scenario.title));
        }
    }
    assert!(run > 0 && failures.is_empty(), "{run} scenarios were run; {}", failures.join("\n"));
}

/// A seed, so that runs on one server differ.
fn rand() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    std::hash::RandomState::new().build_hasher().finish()
}

fn run_scenario(
    server: &CaseServer,
    caller: &impl CaseClient,
    scenario: &Scenario,
    mut names: Names,
) -> Result<(), String> {
    for (at, step) in scenario.steps.iter().enumerate() {
        let title = if step.title.is_empty() { &step.call } else { &step.title };
        run_step(server, caller, step, &mut names)
            .map_err(|failure| format!("step {}, {title}: {failure}", at + 1))?;
    }
    Ok(())
}

fn run_step(
    server: &CaseServer,
    caller: &impl CaseClient,
    step: &Step,
    names: &mut Names,
) -> Result<(), String> {
    let proxy = step.faults.as_ref().map(|faults| Proxy::start(&server.upstream, faults));
    let start = Instant::now();
    let result = match step.repeat {
        Some(times) => run_often(server, caller, step, names, times),
        None => run_call(server, caller, step, proxy.as_ref(), names)
            .and_then(|response| capture(step, response.as_ref(), names)),
    };
    let (took, arrived) = (start.elapsed(), proxy.as_ref().map(Proxy::arrived));
    if step.attempts.is_some() && arrived != step.attempts {
        return Err(format!("{arrived:?} attempts, not {:?}; {result:?}", step.attempts));
    }
    if took < Duration::from_millis(step.least_ms.unwrap_or(0)) {
        return Err(format!("over after {took:?} already; {result:?}"));
    }
    result
}

fn run_often(
    server: &CaseServer,
    caller: &impl CaseClient,
    step: &Step,
    names: &Names,
    times: u32,
) -> Result<(), String> {
    let (next, failure) = (AtomicU32::new(0), Mutex::new(None));
    std::thread::scope(|threads| {
        for _ in 0..AT_ONCE {
            threads.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= times || failure.lock().unwrap().is_some() {
                        return;
                    }
                    let mut names = names.clone();
                    names.insert("i".to_owned(), format!("{number:04}"));
                    if let Err(why) = run_call(server, caller, step, None, &names) {
                        *failure.lock().unwrap() = Some(format!("number {number}: {why}"));
                    }
                }
            });
        }
    });
    failure.into_inner().unwrap().map_or(Ok(()), Err)
}

/// Sends a request and checks its outcome. Returns the response if the case expects one.
fn run_call(
    server: &CaseServer,
    caller: &impl CaseClient,
    step: &Step,
    proxy: Option<&Proxy>,
    names: &Names,
) -> Result<Option<Value>, String> {
    let Value::Object(request) = filled(&Value::Object(step.request.clone()), names) else {
        return Err("a request is an object".to_owned());
    };
    let case = CaseRequest {
        call: &step.call,
        request: &request,
        role: &step.role,
        key: server.key(&step.role),
        all_pages: step.all_pages,
        proxy: proxy.map(|proxy| proxy.url.as_str()),
        client: step.client,
    };
    match (caller.call(&case), &step.error) {
        (Ok(response), None) => {
            differs(step.expect.as_ref().unwrap_or(&json!({})), &response, names, "response")
                .map(|()| Some(response))
        }
        (Ok(_), Some(wanted)) => Err(format!("it succeeded, expected {wanted:?}")),
        (Err(failed), None) => Err(format!("{failed:?}")),
        (Err(failed), Some(wanted)) => {
            let wanted = caller.wants(&case, wanted);
            if failed.kind != wanted {
                return Err(format!("{failed:?}, not {wanted:?}"));
            }
            tells_nothing(&failed.shown, &case).map(|()| None)
        }
    }
}

/// No text of an error contains the key or a value.
fn tells_nothing(shown: &str, case: &CaseRequest<'_>) -> Result<(), String> {
    let key = case.key.and_then(|key| key.split('_').nth(1)).unwrap_or_default();
    for canary in [key, case.text("value"), case.text("new_value")] {
        if canary.len() >= 8 && shown.contains(canary) {
            return Err("the error has the key or a value in it".to_owned());
        }
    }
    Ok(())
}

fn capture(step: &Step, response: Option<&Value>, names: &mut Names) -> Result<(), String> {
    for (name, path) in &step.capture {
        let found = path.split('.').try_fold(response.unwrap_or(&Value::Null), |inner, key| inner.get(key));
        let text = found.and_then(Value::as_str).ok_or_else(|| format!("no text at {path}"))?;
        names.insert(name.clone(), text.to_owned());
    }
    Ok(())
}
