//! `/metrics`: well-formed in both formats, counts requests and names no caller.

use std::collections::BTreeMap;

use crate::support::{Server, root};

/// A scrape, checked against the rules of the text format that a scraper relies on
/// (<https://prometheus.io/docs/specs/om/open_metrics_spec/>).
struct Scrape {
    /// The kind of each family, by its name.
    families: BTreeMap<String, String>,
    /// The value of each sample, by its name and labels as written.
    samples: BTreeMap<String, f64>,
}

impl Scrape {
    fn of(server: &Server) -> Self {
        let reply = server.send("GET", "/metrics", &[("accept", "application/openmetrics-text")], b"");
        assert_eq!(reply.status, 200);
        let kind = reply.header("content-type").expect("a type");
        assert!(kind.starts_with("application/openmetrics-text; version=1.0.0"), "{kind}");
        Self::parse(&reply.body)
    }

    fn parse(text: &str) -> Self {
        let body = text.strip_suffix("# EOF\n").expect("the end is marked");
        let mut scrape = Self { families: BTreeMap::new(), samples: BTreeMap::new() };
        let mut family = String::new();
        for line in body.lines() {
            if let Some(comment) = line.strip_prefix("# ") {
                let parts: Vec<&str> = comment.splitn(3, ' ').collect();
                let [word, name, rest] = parts[..] else { panic!("{line}") };
                match word {
                    "TYPE" => {
                        family = name.to_owned();
                        let twice = scrape.families.insert(family.clone(), rest.to_owned());
                        assert!(twice.is_none(), "{name} is declared twice");
                    }
                    "HELP" => assert!(!rest.is_empty() && !rest.ends_with(".."), "{line}"),
                    "UNIT" => assert!(name.ends_with(&format!("_{rest}")), "{line}"),
                    _ => panic!("{line}"),
                }
            } else {
                scrape.sample(&family, line);
            }
        }
        scrape
    }

    fn sample(&mut self, family: &str, line: &str) {
        let (key, value) = line.rsplit_once(' ').expect(line);
        let name = key.split('{').next().expect("a name");
        let suffix = name.strip_prefix(family).unwrap_or_else(|| panic!("{line} is not of {family}"));
        let kind = self.families.get(family).map(String::as_str);
        let fits: &[&str] = match kind {
            Some("counter") => &["_total"],
            Some("gauge") => &[""],
            Some("info") => &["_info"],
            Some("histogram") => &["_bucket", "_sum", "_count"],
            other => panic!("{line}: of kind {other:?}"),
        };
        assert!(fits.contains(&suffix), "{line}: {suffix} is not of a {kind:?}");
        let value: f64 = value.parse().expect(line);
        assert!(value >= 0.0, "{line}");
        assert!(self.samples.insert(key.to_owned(), value).is_none(), "{line} is there twice");
    }

    fn get(&self, key: &str) -> f64 {
        self.samples.get(key).copied().unwrap_or_default()
    }
}

fn calls(rpc: &str, transport: &str, reason: &str) -> String {
    format!("agentrouter_secrets_calls_total{{rpc=\"{rpc}\",transport=\"{transport}\",reason=\"{reason}\"}}")
}

#[test]
fn calls_are_counted_by_rpc_transport_and_reason() {
    let server = Server::start();
    let before = Scrape::of(&server);
    let secret = r#"{"name":"canary-name","realm":"canary-realm","value":"canary-value","tags":{"canary-tag":"canary"}}"#;
    for _ in 0..3 {
        assert_eq!(server.call("POST", "/v1/secrets", secret).status, 200);
    }
    let value = r#"{"realm":"canary-realm","user_id":"canary-user"}"#;
    for (name, status) in [("canary-name", 404), ("canary..name", 400)] {
        assert_eq!(server.call("POST", &format!("/v1/secrets/{name}/value"), value).status, status);
    }
    assert_eq!(server.call("GET", "/v1/secrets/canary-name?realm=canary-realm", "").status, 200);
    assert_eq!(server.call_as("wrong", "GET", "/v1/secrets/canary-name", "").status, 401);
    let connect =
        [("Authorization", &*format!("Bearer ak-{}", server.key)), ("Content-Type", "application/json")];
    let path = "/agentrouter.secret.v1.SecretService/ListSecrets";
    assert_eq!(server.send("POST", path, &connect, b"{}").status, 200);

    let after = Scrape::of(&server);
    for (rpc, transport, reason, times) in [
        ("CreateSecret", "rest", "OK", 3.0),
        ("GetSecretValue", "rest", "SECRET_NOT_FOUND", 1.0),
        ("GetSecretValue", "rest", "INVALID_REQUEST", 1.0),
        ("GetSecret", "rest", "OK", 1.0),
        ("GetSecret", "rest", "UNAUTHENTICATED", 1.0),
        ("ListSecrets", "rpc", "OK", 1.0),
        ("DeleteSecret", "rest", "OK", 0.0),
    ] {
        let key = calls(rpc, transport, reason);
        assert_eq!(after.get(&key) - before.get(&key), times, "{key}");
    }
    let grown = |key: &str| after.get(key) - before.get(key);
    // Each write has two records, each read and each refusal has one.
    assert_eq!(grown("agentrouter_secrets_audit_records_total"), 11.0);
    assert!(grown("agentrouter_secrets_store_writes_total") >= 3.0);
    assert_eq!(after.get("agentrouter_secrets_unreadable_versions_total"), 0.0);
    assert_eq!(after.get("agentrouter_secrets_audit_failures_total"), 0.0);
    assert!(after.samples.keys().any(|key| key.starts_with("agentrouter_secrets_build_info{version=\"")));
    for key in after.samples.keys() {
        for private in ["canary", "admin", &server.key[..16], "127.0.0.1"] {
            assert!(!key.contains(private), "{key} names {private}");
        }
    }
}

/// The rules of the text format (<https://prometheus.io/docs/instrumenting/exposition_formats/>) that its parsers enforce.
#[test]
fn a_scraper_that_does_not_accept_openmetrics_gets_the_classic_format() {
    let server = Server::start();
    assert_eq!(server.call("GET", "/v1/secrets", "").status, 200);
    let accepted = [&[][..], &[("accept", "text/plain;version=0.0.4")], &[("accept", "*/*")]];
    for headers in accepted {
        let reply = server.send("GET", "/metrics", headers, b"");
        assert_eq!(reply.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
        let mut types: BTreeMap<&str, &str> = BTreeMap::new();
        for line in reply.body.lines() {
            if let Some(typed) = line.strip_prefix("# TYPE ") {
                let (name, kind) = typed.split_once(' ').expect(line);
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                assert!(types.insert(name, kind).is_none(), "{line}");
            } else if !line.starts_with("# HELP ") {
                let name = line.split([' ', '{']).next().expect(line);
                let of_histogram = || {
                    let parts = ["_bucket", "_sum", "_count"].map(|suffix| name.strip_suffix(suffix));
                    parts.into_iter().flatten().any(|name| types.get(name) == Some(&"histogram"))
                };
                assert!(types.contains_key(name) || of_histogram(), "{line} has no type");
            }
        }
        assert_eq!(types.get("agentrouter_secrets_build_info"), Some(&"gauge"));
        assert_eq!(types.get("agentrouter_secrets_calls_total"), Some(&"counter"));
        assert!(reply.body.contains(
            "agentrouter_secrets_calls_total{rpc=\"ListSecrets\",transport=\"rest\",reason=\"OK\"} 1\n"
        ));
    }
}

#[test]
fn each_metric_with_an_alarm_exists_before_its_first_event() {
    let scrape = Scrape::of(&Server::start());
    let rules = std::fs::read_to_string(root().join("deploy/alerts.yaml")).expect("the rules");
    let mut alarming = 0;
    // Prometheus sees no increase of a series that was absent before.
    for line in rules.lines().filter(|line| line.contains("increase(agentrouter_secrets_calls_total")) {
        let reasons = line.split('"').nth(1).expect("reasons");
        for reason in reasons.split('|') {
            for transport in ["rest", "rpc"] {
                let key = calls("GetSecretValue", transport, reason);
                assert_eq!(scrape.samples.get(&key), Some(&0.0), "{key}");
            }
            alarming += 1;
        }
    }
    assert!(alarming >= 4, "{alarming}");
}

#[test]
fn the_buckets_of_a_histogram_add_up() {
    let server = Server::start();
    for _ in 0..5 {
        assert_eq!(server.call("GET", "/v1/secrets", "").status, 200);
    }
    let scrape = Scrape::of(&server);
    let name = "agentrouter_secrets_call_duration_seconds";
    assert_eq!(scrape.families.get(name).map(String::as_str), Some("histogram"), "{:?}", scrape.families);
    let prefix = format!("{name}_bucket{{le=\"");
    let mut buckets: Vec<(f64, f64)> = Vec::new();
    for (key, count) in &scrape.samples {
        if let Some(rest) = key.strip_prefix(&prefix).filter(|_| key.contains("rpc=\"ListSecrets\"")) {
            let bound = rest.split('"').next().expect("a bound").replace("+Inf", "inf");
            buckets.push((bound.parse().expect("a number"), *count));
        }
    }
    buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
    assert!(buckets.is_sorted_by(|a, b| a.1 <= b.1), "{buckets:?}");
    assert_eq!(buckets.last(), Some(&(f64::INFINITY, 5.0)));
    assert_eq!(scrape.get(&format!("{name}_count{{rpc=\"ListSecrets\"}}")), 5.0);
    let sum = scrape.get(&format!("{name}_sum{{rpc=\"ListSecrets\"}}"));
    assert!(sum > 0.0 && sum < 60.0, "{sum}");
}

#[test]
fn the_keys_that_work_and_the_next_expiry_are_counted() {
    let server = Server::start();
    let ends = server.issue("alice", "secrets/read", &["--expires", "90d"]);
    server.issue("alice", "secrets/read", &["--expires", "91d"]);
    let revoked = server.issue("alice", "secrets/read", &["--expires", "1d"]);
    let data = server.process.data_dir().to_owned();
    let id = revoked.split('_').next().expect("an id");
    let revoke = ["key", "revoke", id, "--data-dir", data.to_str().expect("UTF-8")];
    assert!(crate::support::run(&revoke).status.success());
    let listed = crate::support::run(&["key", "list", "--data-dir", data.to_str().expect("UTF-8")]);
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let line = listed.lines().find(|line| line.starts_with(&ends[..16])).expect("it is listed");
    let expires =
        line.split_whitespace().rfind(|word| word.contains('T') && word.ends_with('Z')).expect("a time");
    let date = std::process::Command::new("date").args(["-u", "+%s", "-d", expires]).output();
    let seconds: f64 =
        String::from_utf8_lossy(&date.expect("date runs").stdout).trim().parse().expect("a number");

    // The keys are counted at the start, and then from time to time.
    let Server { process, _dir, .. } = server;
    assert!(process.stop().success());
    let again = Server::on(&data);
    let counted = || {
        let scrape = Scrape::of(&again);
        let get = |name: &str| scrape.get(&format!("agentrouter_secrets_{name}"));
        (
            get("api_keys"),
            get("api_key_expiry_timestamp_seconds"),
            get("tls_certificate_expiry_timestamp_seconds"),
        )
    };
    assert!(
        crate::support::within(std::time::Duration::from_secs(60), || counted() == (3.0, seconds, 0.0)),
        "{:?} {seconds}",
        counted()
    );
}
