//! Parser of scenarios, and of the templates in them. An unknown field is an error.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::support::root;

/// The values of captured names, `run` and `i`.
pub type Names = BTreeMap<String, String>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    pub title: String,
    #[serde(default)]
    pub sdk_only: bool,
    pub steps: Vec<Step>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    #[serde(default)]
    pub title: String,
    pub call: String,
    #[serde(default = "admin", rename = "as")]
    pub role: String,
    #[serde(default)]
    pub request: Map<String, Value>,
    pub repeat: Option<u32>,
    #[serde(default)]
    pub all_pages: bool,
    pub expect: Option<Value>,
    pub error: Option<Wanted>,
    #[serde(default)]
    pub capture: BTreeMap<String, String>,
    pub client: Option<ClientSettings>,
    pub faults: Option<Vec<String>>,
    pub attempts: Option<usize>,
    pub least_ms: Option<u64>,
}

/// The expected error of a step.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    pub code: String,
    pub reason: String,
    #[serde(default)]
    pub fields: Vec<String>,
    #[serde(default)]
    pub before_request: bool,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientSettings {
    pub timeout_ms: Option<u64>,
    pub retries: Option<u32>,
}

fn admin() -> String {
    "admin".to_owned()
}

/// The files that need no server. The tests of each SDK run them.
const TABLES: [&str; 5] = ["cache.json", "errors.json", "fakes.json", "proxy.json", "retry.json"];

/// All scenarios, with the names of their files.
pub fn read_all() -> Vec<(String, Scenario)> {
    let folder = root().join("sdk/cases");
    let mut paths: Vec<_> =
        std::fs::read_dir(folder).expect("the cases").flatten().map(|file| file.path()).collect();
    paths.retain(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.ends_with(".json") && !TABLES.contains(&&*name)
    });
    paths.sort();
    let read = |path: std::path::PathBuf| {
        let name = path.file_name().expect("a file").to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).expect("readable");
        let scenario: Scenario =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(!scenario.steps.is_empty(), "{name} has no steps");
        for step in &scenario.steps {
            assert!(step.error.is_none() || step.expect.is_none(), "{name}: a response or an error");
            let plain = step.capture.is_empty() && step.faults.is_none();
            assert!(
                step.repeat.is_none() || plain,
                "{name}: a repeated step has neither captures nor faults"
            );
            assert!(!step.all_pages || step.call == "ListSecrets", "{name}: all_pages is for ListSecrets");
        }
        (name, scenario)
    };
    let all: Vec<_> = paths.into_iter().map(read).collect();
    assert!(!all.is_empty(), "there are no cases");
    all
}

/// A request with its templates filled in.
pub fn filled(json: &Value, names: &Names) -> Value {
    match json {
        Value::String(text) => Value::String(substituted(text, names)),
        Value::Array(items) => items.iter().map(|item| filled(item, names)).collect(),
        Value::Object(members) => match members.iter().next() {
            Some((rule, value)) if rule.starts_with('$') => {
                assert_eq!(members.len(), 1, "a text is made in one way");
                Value::String(made(rule, value, names))
            }
            _ => members.iter().map(|(name, value)| (name.clone(), filled(value, names))).collect(),
        },
        other => other.clone(),
    }
}

/// The text of an object with a `$` key.
pub fn made(rule: &str, value: &Value, names: &Names) -> String {
    let parts: Vec<Value> =
        value.as_array().expect("a list").iter().map(|part| filled(part, names)).collect();
    let text = |part: &Value| part.as_str().expect("a text").to_owned();
    match (rule, parts.as_slice()) {
        ("$repeat", [part, times]) => {
            text(part).repeat(usize::try_from(times.as_u64().expect("a number")).expect("not that many"))
        }
        ("$concat", parts) => parts.iter().map(text).collect(),
        _ => panic!("there is no rule {rule:?}"),
    }
}

/// A text with its `${…}` replaced.
pub fn substituted(text: &str, names: &Names) -> String {
    let (mut whole, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once("${") {
        let (name, after) = after.split_once('}').expect("an end of the name");
        whole.push_str(before);
        whole.push_str(names.get(name).unwrap_or_else(|| panic!("nothing has set {name:?}")));
        rest = after;
    }
    whole + rest
}
