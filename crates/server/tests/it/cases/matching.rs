//! Compares a response with the pattern of a step.

use serde_json::Value;

use super::scenario::{Names, filled, made, substituted};

/// Fails with the first difference.
pub fn differs(pattern: &Value, response: &Value, names: &Names, path: &str) -> Result<(), String> {
    match pattern {
        Value::String(text) => equal(response, &Value::String(substituted(text, names)), path),
        Value::Array(items) => {
            let found = array(response, path)?;
            if found.len() != items.len() {
                return Err(format!("{path} has {} elements, not {}", found.len(), items.len()));
            }
            let mut pairs = items.iter().zip(found).enumerate();
            pairs.try_for_each(|(at, (item, found))| differs(item, found, names, &format!("{path}[{at}]")))
        }
        Value::Object(members) => {
            if members.is_empty() && !response.is_object() {
                return Err(format!("{path} is no object"));
            }
            members.iter().try_for_each(|(key, value)| match key.strip_prefix('$') {
                Some(rule) => breaks(rule, value, response, names, path),
                None => {
                    differs(value, response.get(key).unwrap_or(&Value::Null), names, &format!("{path}.{key}"))
                }
            })
        }
        other => equal(response, other, path),
    }
}

/// Fails if the value breaks the rule.
fn breaks(rule: &str, value: &Value, response: &Value, names: &Names, path: &str) -> Result<(), String> {
    match rule {
        "absent" if response.is_null() => Ok(()),
        "absent" => Err(format!("{path} is there")),
        "exact" => equal(response, &filled(value, names), path),
        "matches" => {
            let pattern = value.as_str().expect("a pattern");
            let whole = regex_lite::Regex::new(&format!("(?s)^(?:{pattern})$")).expect("a pattern");
            match response.as_str() {
                Some(text) if whole.is_match(text) => Ok(()),
                _ => Err(format!("{path} does not match {pattern}: {}", short(response))),
            }
        }
        "length" => {
            let length = match response {
                Value::String(text) => text.len(),
                other => array(other, path)?.len(),
            };
            equal(&length.into(), value, &format!("{path}'s length"))
        }
        "each" => {
            let mut found = array(response, path)?.iter().enumerate();
            found.try_for_each(|(at, found)| differs(value, found, names, &format!("{path}[{at}]")))
        }
        _ => equal(response, &Value::String(made(&format!("${rule}"), value, names)), path),
    }
}

fn array<'a>(response: &'a Value, path: &str) -> Result<&'a Vec<Value>, String> {
    response.as_array().ok_or_else(|| format!("{path} is no list"))
}

fn equal(response: &Value, expected: &Value, path: &str) -> Result<(), String> {
    if response == expected {
        return Ok(());
    }
    Err(format!("{path} is {}, not {}", short(response), short(expected)))
}

fn short(value: &Value) -> String {
    value.to_string().chars().take(300).collect()
}

#[test]
fn a_pattern_that_does_not_match_is_reported() {
    let names = Names::from([("run".to_owned(), "x1".to_owned())]);
    let response = serde_json::json!({
        "name": "a-x1", "list": [{"n": 1}, {"n": 1}], "wide": "🔐", "none": null, "tags": {"a": "1"}, "flag": false
    });
    let fits = |pattern: Value| differs(&pattern, &response, &names, "response").is_ok();
    for (pattern, expected) in [
        (serde_json::json!({}), true),
        (serde_json::json!({"name": "a-${run}", "flag": false, "none": {"$absent": true}}), true),
        (serde_json::json!({"name": "a"}), false),
        (serde_json::json!({"flag": true}), false),
        (serde_json::json!({"other": ""}), false),
        (serde_json::json!({"name": {"$absent": true}}), false),
        (serde_json::json!({"list": {"$each": {"n": 1}, "$length": 2}}), true),
        (serde_json::json!({"list": {"$each": {"n": 2}}}), false),
        (serde_json::json!({"list": [{}]}), false),
        (serde_json::json!({"list": [{"n": 1}, {"n": 2}]}), false),
        (serde_json::json!({"wide": {"$length": 4, "$repeat": ["🔐", 1]}}), true),
        (serde_json::json!({"wide": {"$length": 1}}), false),
        (serde_json::json!({"tags": {"a": "1"}}), true),
        (serde_json::json!({"tags": {"$exact": {}}}), false),
        (serde_json::json!({"tags": {"$exact": {"a": "1"}}}), true),
        (serde_json::json!({"name": {"$matches": "[a-z]-.*"}}), true),
        (serde_json::json!({"name": {"$matches": "[a-z]"}}), false),
    ] {
        assert_eq!(fits(pattern.clone()), expected, "{pattern}");
    }
}
