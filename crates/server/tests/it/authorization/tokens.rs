//! Tokens of issuers instead of API keys: on every transport, and while rules and keys change.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentrouter_model::{Clock as _, SystemClock};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use super::oracle::UNAUTHENTICATED;
use super::wire::{Client, Dialect, method, methods};
use crate::support::{Reply, Server, within};

const WAIT: Duration = Duration::from_secs(60);
const GATEWAY: &str = "system:serviceaccount:gateway:a";

/// A key of an issuer.
struct Signer {
    id: &'static str,
    key: EncodingKey,
}

impl Signer {
    fn new(id: &'static str) -> Self {
        let key = rcgen::KeyPair::generate().expect("a key");
        Self { id, key: EncodingKey::from_ec_der(&key.serialize_der()) }
    }

    fn jwks(&self) -> String {
        let mut jwk = Jwk::from_encoding_key(&self.key, Algorithm::ES256).expect("a key");
        jwk.common.key_id = Some(self.id.to_owned());
        json!({ "keys": [jwk] }).to_string()
    }

    fn sign(&self, claims: &Value) -> String {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.id.to_owned());
        jsonwebtoken::encode(&header, claims, &self.key).expect("signed")
    }

    fn token(&self, subject: &str) -> String {
        self.sign(&claims(subject))
    }
}

fn now() -> i64 {
    SystemClock.now().as_seconds_and_nanos().0
}

fn claims(subject: &str) -> Value {
    json!({
        "iss": "https://kubernetes.default.svc", "aud": ["agentrouter-secrets"], "sub": subject,
        "iat": now(), "exp": now() + 600,
    })
}

/// The rules of the tests: the gateway reads values, and a CI job lists.
const RULES: &str = r#"
[[issuer.rule]]
name = "gateway"
match = { sub = "system:serviceaccount:gateway:*" }
user = "system"
scopes = ["secrets/read/internal", "secrets/read", "secrets/write", "secrets/write/internal"]

[[issuer.rule]]
name = "ci"
match = { sub = "ci:*" }
user-claim = "sub"
scopes = ["secrets/read"]
key-rate = 1
"#;

/// A server with one issuer, whose settings and keys are in files.
struct Fixture {
    server: Server,
    signer: Signer,
    config: PathBuf,
    jwks: PathBuf,
    _dir: tempfile::TempDir,
}

fn config(jwks: &str, rules: &str) -> String {
    format!(
        "[limit]\nfailed-auth-rate = 0\n[[issuer]]\nname = \"k8s\"\nissuer = \"https://kubernetes.default.svc\"\naudience = \"agentrouter-secrets\"\njwks = \"{jwks}\"\n{rules}"
    )
}

impl Fixture {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let (config_path, jwks) = (dir.path().join("config.toml"), dir.path().join("jwks.json"));
        let signer = Signer::new("k1");
        std::fs::write(&jwks, signer.jwks()).expect("written");
        std::fs::write(&config_path, config(path(&jwks), RULES)).expect("written");
        let server = Server::start_with(&["--config", path(&config_path)]);
        Self { server, signer, config: config_path, jwks, _dir: dir }
    }

    fn send(&self, token: &str, verb: &str, target: &str, body: &str) -> Reply {
        send(&self.server, token, verb, target, body)
    }

    fn rules(&self, rules: &str) {
        // Replaced whole, so that the server never reads a part.
        let next = self.config.with_extension("next");
        std::fs::write(&next, config(path(&self.jwks), rules)).expect("written");
        std::fs::rename(next, &self.config).expect("renamed");
    }
}

fn send(server: &Server, token: &str, verb: &str, target: &str, body: &str) -> Reply {
    let authorization = format!("Bearer {token}");
    let headers = [("Authorization", authorization.as_str()), ("Content-Type", "application/json")];
    server.send(verb, target, &headers, body.as_bytes())
}

fn path(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[tokio::test]
async fn a_token_works_on_every_transport_and_its_holder_is_in_the_audit_log() {
    let fixture = Fixture::start();
    let token = fixture.signer.token(GATEWAY);
    let authorization = format!("Bearer {token}");
    let mut client = Client::of(&fixture.server);
    for (number, dialect) in Dialect::ALL.into_iter().enumerate() {
        let name = format!("n{number}");
        let place = [("name", name.as_str()), ("realm", "llm-keys")];
        let create = method("CreateSecret").with(dialect, &[place[0], place[1], ("value", "v")]);
        assert_eq!(client.send(&create, Some(&authorization)).await.code, 0);
        let read = client.send(&method("GetSecretValue").with(dialect, &place), Some(&authorization)).await;
        assert_eq!(read.message["value"], "v", "{}", read.whole);
    }
    let log = std::fs::read_to_string(fixture.server.data("audit").join("audit.jsonl")).expect("a log");
    let holder = format!(
        r#""issuer":"k8s","subject":"{GATEWAY}","rule":"gateway","user":"system","rpc":"GetSecretValue""#
    );
    assert_eq!(log.matches(&holder).count(), Dialect::ALL.len(), "{log}");
    assert!(!fixture.server.written().contains(&token[token.len() - 20..]), "no token is in a log");
    let metrics = fixture.server.send("GET", "/metrics", &[], b"").body;
    assert!(metrics.contains(r#"agentrouter_secrets_issuer_has_keys{issuer="k8s"} 1"#), "{metrics}");
}

#[tokio::test]
async fn every_wrong_token_gets_the_response_of_a_wrong_key() {
    let fixture = Fixture::start();
    let good = fixture.signer.token(GATEWAY);
    let with = |name: &str, value: Value| {
        let mut claims = claims(GATEWAY);
        claims[name] = value;
        fixture.signer.sign(&claims)
    };
    let mut wrong = vec![
        "ak-x".to_owned(),
        with("aud", json!("another")),
        with("iss", json!("https://another")),
        with("exp", json!(now() - 100)),
        with("exp", json!(now() + 100_000)),
        with("nbf", json!(now() + 100)),
        with("iat", json!(now() + 100)),
        with("sub", json!("system:serviceaccount:other:a")),
        with("sub", json!(null)),
        Signer::new("k1").token(GATEWAY),
        Signer::new("k2").token(GATEWAY),
        good[..good.len() - 1].to_owned(),
        format!("{good}A"),
        "a.b.c".to_owned(),
    ];
    let payload = good.split('.').nth(1).expect("a part");
    // {"alg":"none"}
    wrong.push(format!("eyJhbGciOiJub25lIn0.{payload}."));
    let mut symmetric = Header::new(Algorithm::HS256);
    symmetric.kid = Some("k1".to_owned());
    let secret = EncodingKey::from_secret(fixture.signer.jwks().as_bytes()).expect("a key");
    wrong.push(jsonwebtoken::encode(&symmetric, &claims(GATEWAY), &secret).expect("signed"));
    let mut client = Client::of(&fixture.server);
    for dialect in Dialect::ALL {
        let mut looks = BTreeSet::new();
        for method in methods() {
            let call = method.with(dialect, &[("name", "n"), ("value", "v"), ("new_value", "v")]);
            for token in &wrong {
                let reply = client.send(&call, Some(&format!("Bearer {token}"))).await;
                assert_eq!(reply.code, UNAUTHENTICATED, "{token}: {}", reply.whole);
                looks.insert(reply.whole);
            }
        }
        assert_eq!(looks.len(), 1, "{looks:#?}");
    }
}

#[test]
fn a_rule_limits_each_subject_and_takes_the_user_from_a_claim() {
    let fixture = Fixture::start();
    let (first, second) = (fixture.signer.token("ci:a"), fixture.signer.token("ci:b"));
    let list = |token: &str| fixture.send(token, "GET", "/v1/secrets", "").status;
    assert_eq!(list(&first), 200);
    assert_eq!(list(&second), 200, "each subject has a quota of its own");
    let another = fixture.signer.token("ci:a");
    let statuses: Vec<_> = (0..20).map(|_| list(&another)).collect();
    assert!(
        statuses.contains(&429),
        "another token of the same subject has no quota of its own: {statuses:?}"
    );
    let denied = within(WAIT, || {
        let reply = fixture.send(&second, "POST", "/v1/secrets", r#"{"name":"a","value":"v"}"#);
        reply.status == 403 && reply.reason() == "SCOPE_MISSING"
    });
    assert!(denied);
    let log = std::fs::read_to_string(fixture.server.data("audit").join("audit.jsonl")).expect("a log");
    assert!(log.contains(r#""subject":"ci:a","rule":"ci","user":"ci:a","rpc":"ListSecrets""#), "{log}");
}

#[test]
fn rules_and_keys_change_while_the_server_runs_and_a_wrong_file_changes_nothing() {
    let fixture = Fixture::start();
    let token = fixture.signer.token(GATEWAY);
    let status = |token: &str| fixture.send(token, "GET", "/v1/secrets?realm=llm-keys", "").status;
    assert_eq!(status(&token), 200);
    fixture.rules(&RULES.replace("gateway:*", "other:*"));
    assert!(within(WAIT, || status(&token) == 401), "the rule that matched is gone");
    fixture.rules(RULES);
    assert!(within(WAIT, || status(&token) == 200));
    fixture.rules(&RULES.replace("secrets/read\"", "secrets/all\""));
    assert!(within(WAIT, || fixture.server.written().contains("the changed config file cannot be used")));
    assert_eq!(status(&token), 200, "the rules from before are in use");
    assert!(within(WAIT, || fixture.server.written().contains("rule 1: each of scopes must be one of")));
    // A signal reads the file also if it is unchanged.
    let id = fixture.server.process.id().to_string();
    let count = || fixture.server.written().matches("the changed config file cannot be used").count();
    let before = count();
    assert!(Command::new("kill").args(["-HUP", &id]).status().expect("kill runs").success());
    assert!(within(WAIT, || count() > before));
    fixture.rules(RULES);

    let next = Signer::new("k2");
    std::fs::write(&fixture.jwks, next.jwks()).expect("written");
    assert!(within(WAIT, || status(&next.token(GATEWAY)) == 200));
    assert!(within(WAIT, || status(&token) == 401), "its key is gone");
}

#[test]
fn a_config_file_with_a_wrong_issuer_stops_the_start() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("config.toml");
    std::fs::write(&file, config("https://x/jwks", &RULES.replace("\"ci:*\"", "\"*ci*\""))).expect("written");
    let output = crate::support::run(&["serve", "--config", path(&file), "--data-dir", path(dir.path())]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(
        text.contains("issuer 'k8s': rule 2: match.sub must be a text, or a text with one '*' at its end"),
        "{text}"
    );
}

/// A server that sends the same response to each request. Returns its address, and the paths of the requests.
fn endpoint(response: Arc<Mutex<String>>) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let paths = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&paths);
    // It ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let (mut request, mut chunk) = (Vec::new(), [0; 4096]);
            while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                match stream.read(&mut chunk) {
                    Ok(read @ 1..) => request.extend_from_slice(&chunk[..read]),
                    _ => break,
                }
            }
            let text = String::from_utf8_lossy(&request);
            let path = text.split(' ').nth(1).unwrap_or_default().to_owned();
            seen.lock().expect("no panic").push(path);
            let _ = stream.write_all(response.lock().expect("no panic").as_bytes());
        }
    });
    (url, paths)
}

fn document(text: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{text}", text.len())
}

#[test]
fn keys_come_by_http_and_redirects_are_not_followed() {
    let signer = Signer::new("k1");
    let (elsewhere, stolen) = endpoint(Arc::new(Mutex::new(document(&signer.jwks()))));
    let redirect = format!(
        "HTTP/1.1 302 Found\r\nLocation: {elsewhere}/jwks\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    );
    let response = Arc::new(Mutex::new(redirect));
    let (url, paths) = endpoint(Arc::clone(&response));
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("config.toml");
    std::fs::write(&file, config(&format!("{url}/jwks?x=1"), RULES)).expect("written");
    let server = Server::start_with(&["--config", path(&file)]);
    let token = signer.token(GATEWAY);
    let status = || send(&server, &token, "GET", "/v1/secrets?realm=llm-keys", "").status;
    assert_eq!(status(), 401);
    assert!(within(WAIT, || server.written().contains("the keys of an issuer cannot be read")));
    assert_eq!(
        *paths.lock().expect("no panic"),
        ["/jwks?x=1"],
        "an attempt at the start, and none for the token"
    );
    assert!(stolen.lock().expect("no panic").is_empty());
    *response.lock().expect("no panic") = document(&signer.jwks());
    // The next attempt is 30 seconds after the first.
    assert!(within(WAIT * 2, || status() == 200));
    assert!(stolen.lock().expect("no panic").is_empty());
}

/// The claims that the platforms of the examples put into a token, and a secret that the example's rule can list.
fn examples() -> Vec<(&'static str, Value, &'static str)> {
    let with = |issuer: &str, audience: Value, subject: &str, more: Value| {
        let mut claims = json!({
            "iss": issuer, "aud": audience, "sub": subject, "iat": now(), "nbf": now(), "exp": now() + 600, "jti": "1",
        });
        let more = more.as_object().expect("an object").clone();
        claims.as_object_mut().expect("an object").extend(more);
        claims
    };
    let value = "/v1/secrets/a/value";
    vec![
        (
            "k8s-prod",
            with(
                "https://kubernetes.default.svc",
                json!(["agentrouter-secrets"]),
                GATEWAY,
                json!({
                    "kubernetes.io": { "namespace": "gateway", "pod": { "name": "gateway-0", "uid": "x" } },
                }),
            ),
            value,
        ),
        (
            "github",
            with(
                "https://token.actions.githubusercontent.com",
                json!("agentrouter-secrets"),
                "repo:acme/gateway:ref:refs/heads/main",
                json!({ "repository": "acme/gateway", "ref": "refs/heads/main", "event_name": "push", "actor": "octocat", "run_id": "1" }),
            ),
            "/v1/secrets",
        ),
        (
            "spire",
            with(
                "https://spire.example.org",
                json!(["agentrouter-secrets"]),
                "spiffe://example.org/ns/gateway/a",
                json!({}),
            ),
            value,
        ),
        (
            "entra",
            with(
                "https://login.microsoftonline.com/TENANT/v2.0",
                json!("00000000-0000-0000-0000-000000000000"),
                "subject",
                json!({ "oid": "00000000-0000-0000-0000-000000000001", "azp": "x", "ver": "2.0", "tid": "TENANT" }),
            ),
            value,
        ),
    ]
}

#[test]
fn the_examples_of_the_documentation_accept_the_tokens_of_their_platforms() {
    let page = std::fs::read_to_string(crate::support::root().join("docs/identity.md")).expect("the page");
    let blocks = page.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let dir = tempfile::tempdir().expect("a directory");
    let (file, jwks) = (dir.path().join("config.toml"), dir.path().join("jwks.json"));
    let signer = Signer::new("k1");
    std::fs::write(&jwks, signer.jwks()).expect("written");
    let mut text = String::new();
    for block in blocks.filter(|block| block.contains("jwks = ")) {
        for line in block.lines() {
            let is_keys = line.starts_with("jwks = ");
            text.push_str(&if is_keys {
                format!("jwks = \"{}\"\n", path(&jwks))
            } else {
                format!("{line}\n")
            });
        }
    }
    std::fs::write(&file, &text).expect("written");
    let server = Server::start_with(&["--config", path(&file)]);
    let created = server.call("POST", "/v1/secrets", r#"{"name":"a","realm":"llm-keys","value":"v"}"#);
    assert_eq!(created.status, 200, "{}", created.body);
    let examples = examples();
    assert_eq!(text.matches("[[issuer]]").count(), examples.len(), "each example has a token here");
    for (issuer, claims, target) in examples {
        let is_value = target.ends_with("/value");
        let (verb, body) = if is_value { ("POST", r#"{"realm":"llm-keys"}"#) } else { ("GET", "") };
        let reply = send(&server, &signer.sign(&claims), verb, target, body);
        assert_eq!(reply.status, 200, "{issuer}: {}", reply.body);
        let recorded = format!(r#""issuer":"{issuer}","subject":{}"#, claims["sub"]);
        assert!(server.written().contains(&recorded), "{recorded}");
    }
}
