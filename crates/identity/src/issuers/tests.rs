//! Every way in which a token can be wrong, against issuers whose documents a test holds.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::AtomicI64;

use agentrouter_crypto::SystemRng;
use agentrouter_model::Owner;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};

use super::*;
use crate::Fetched;

const NOW: i64 = 1_800_000_000;

struct TestClock(AtomicI64);

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.load(Ordering::SeqCst) * 1_000_000)
    }
}

/// Documents by URL, and how often each was fetched.
#[derive(Clone, Default)]
struct Web(Arc<Mutex<HashMap<String, Document>>>);

/// The text, if there is a response, and the number of fetches.
type Document = (Option<String>, u32);

impl Web {
    fn put(&self, url: &str, text: Option<String>) {
        self.0.lock().expect("no panic").entry(url.to_owned()).or_default().0 = text;
    }

    fn fetches(&self, url: &str) -> u32 {
        self.0.lock().expect("no panic").get(url).map_or(0, |(_, count)| *count)
    }
}

impl Fetch for Web {
    fn fetch<'a>(&'a self, url: &'a str, _: Option<&'a Path>, _: Option<&'a Path>, _: usize) -> Fetched<'a> {
        let mut web = self.0.lock().expect("no panic");
        let (text, count) = web.entry(url.to_owned()).or_default();
        *count += 1;
        let text = text.clone().map(String::into_bytes);
        Box::pin(async move { text.ok_or_else(|| std::io::Error::other("no response")) })
    }
}

/// A key of an issuer.
struct Signer {
    id: &'static str,
    algorithm: Algorithm,
    key: EncodingKey,
}

impl Signer {
    fn ec(id: &'static str) -> Self {
        let key = rcgen::KeyPair::generate().expect("a key");
        Self { id, algorithm: Algorithm::ES256, key: EncodingKey::from_ec_der(&key.serialize_der()) }
    }

    fn rsa(id: &'static str) -> Self {
        let key = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048);
        let pkcs8 = key.expect("a key").serialize_der();
        // PKCS #8 has the key of PKCS #1 behind 26 bytes, for keys of 2048 bits.
        Self { id, algorithm: Algorithm::RS256, key: EncodingKey::from_rsa_der(&pkcs8[26..]) }
    }

    fn jwk(&self) -> Value {
        let mut jwk = Jwk::from_encoding_key(&self.key, self.algorithm).expect("a key");
        jwk.common.key_id = Some(self.id.to_owned());
        serde_json::to_value(jwk).expect("JSON")
    }

    fn sign(&self, claims: &Value) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid = Some(self.id.to_owned());
        jsonwebtoken::encode(&header, claims, &self.key).expect("signed")
    }

    /// A token with this text as its claims.
    fn sign_text(&self, claims: &str) -> String {
        let header = json!({ "alg": "ES256", "kid": self.id }).to_string();
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature =
            jsonwebtoken::crypto::sign(message.as_bytes(), &self.key, self.algorithm).expect("signed");
        format!("{message}.{signature}")
    }
}

fn set(signers: &[&Signer]) -> String {
    json!({ "keys": signers.iter().map(|signer| signer.jwk()).collect::<Vec<_>>() }).to_string()
}

fn claims() -> Value {
    json!({
        "iss": "https://idp.example.com", "aud": ["agentrouter-secrets"], "sub": "system:serviceaccount:gateway:a",
        "iat": NOW - 10, "nbf": NOW - 10, "exp": NOW + 600, "jti": "t1",
    })
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().expect("an object").remove(name);
    claims
}

const KEYS: &str = "https://idp.example.com/jwks";
const REVOCATIONS: &str = "https://idp.example.com/revocations";

fn settings(more: &str, rules: &str) -> IdentitySettings {
    let text = format!(
        "[[issuer]]\nname = \"idp\"\nissuer = \"https://idp.example.com\"\naudience = \"agentrouter-secrets\"\njwks = \"{KEYS}\"\n{more}\n{rules}"
    );
    let table: toml::Table = text.parse().expect("TOML");
    IdentitySettings::parse(&table["issuer"]).expect("valid")
}

const RULE: &str = r#"
    [[issuer.rule]]
    match = { sub = "system:serviceaccount:gateway:*" }
    user = "system"
    scopes = ["secrets/read/internal"]
    realms = ["llm-keys"]
"#;

struct Test {
    issuers: Issuers,
    web: Web,
    clock: Arc<TestClock>,
    signer: Signer,
}

impl Test {
    async fn start(more: &str) -> Self {
        let test = Self::unread(settings(more, RULE));
        test.web.put(KEYS, Some(set(&[&test.signer])));
        test.issuers.read_due().await;
        test
    }

    fn unread(settings: IdentitySettings) -> Self {
        let (web, clock) = (Web::default(), Arc::new(TestClock(AtomicI64::new(NOW))));
        let issuers =
            Issuers::new(settings, Arc::new(web.clone()), Arc::clone(&clock) as Arc<dyn Clock>, &SystemRng);
        Self { issuers: issuers.expect("made"), web, clock, signer: Signer::ec("k1") }
    }

    async fn takes(&self, claims: &Value) -> bool {
        self.issuers.authenticate(&self.signer.sign(claims)).await.is_some()
    }

    /// The reason for which a token is refused.
    async fn refusal(&self, token: &str) -> &'static str {
        let before = self.issuers.stats().refused;
        assert!(self.issuers.authenticate(token).await.is_none(), "{token}");
        let after = self.issuers.stats().refused;
        let (reason, _) = after.into_iter().find(|count| !before.contains(count)).expect("it is counted");
        reason
    }
}

#[tokio::test]
async fn a_token_is_accepted_as_its_rule_says() {
    let test = Test::start("").await;
    let found = test.issuers.authenticate(&test.signer.sign(&claims())).await.expect("accepted");
    assert_eq!(
        (&*found.issuer, &*found.subject, &*found.rule),
        ("idp", "system:serviceaccount:gateway:a", "1")
    );
    assert_eq!(found.user, Owner::System);
    assert_eq!(found.scopes.to_string(), "secrets/read/internal");
    assert_eq!(found.realm.as_str(), "llm-keys");
    assert_eq!(found.expires_at, Timestamp::from_micros((NOW + 660) * 1_000_000));
    assert!(test.takes(&with("aud", json!("agentrouter-secrets"))).await);
    assert!(test.takes(&with("aud", json!(["other", "agentrouter-secrets"]))).await, "one of them matches");
    assert!(test.takes(&without("nbf")).await && test.takes(&without("iat")).await);
}

#[tokio::test]
async fn a_token_with_a_wrong_claim_is_refused() {
    let test = Test::start("").await;
    for (claims, reason) in [
        (with("iss", json!("https://idp.example.com/")), "issuer"),
        (with("iss", json!(["https://idp.example.com"])), "issuer"),
        (without("iss"), "issuer"),
        (with("aud", json!("other")), "issuer"),
        (with("aud", json!(["other"])), "issuer"),
        (with("aud", json!([])), "issuer"),
        (with("aud", json!({ "agentrouter-secrets": true })), "issuer"),
        (without("aud"), "issuer"),
        (without("exp"), "malformed"),
        (with("exp", json!("1800000600")), "malformed"),
        (with("exp", json!(-1)), "malformed"),
        (with("exp", json!(NOW - 60)), "expired"),
        (with("nbf", json!(NOW + 61)), "not_yet_valid"),
        (with("iat", json!(NOW + 61)), "not_yet_valid"),
        (with("exp", json!(NOW + 3600)), "lifetime"),
        (with("exp", json!(253_402_300_799_i64)), "lifetime"),
        (without("sub"), "malformed"),
        (with("sub", json!("")), "subject"),
        (with("sub", json!("system:serviceaccount:gateway:\n")), "subject"),
        (with("sub", json!("s".repeat(513))), "subject"),
        (with("sub", json!("system:serviceaccount:gatewax:a")), "rule"),
        (with("sub", json!("SYSTEM:serviceaccount:gateway:a")), "rule"),
        (with("cnf", json!({ "jkt": "x" })), "malformed"),
    ] {
        assert_eq!(test.refusal(&test.signer.sign(&claims)).await, reason, "{claims}");
    }
    // The leeway for clocks is a minute.
    for claims in [with("exp", json!(NOW - 59)), with("nbf", json!(NOW + 60)), with("iat", json!(NOW + 60))] {
        assert!(test.takes(&claims).await, "{claims}");
    }
}

#[tokio::test]
async fn a_token_that_chooses_its_algorithm_or_key_is_refused() {
    let rsa = Signer::rsa("r1");
    let test = Test::start("").await;
    test.web.put(KEYS, Some(set(&[&test.signer, &rsa])));
    test.issuers.replace(settings("max-lifetime = \"2h\"", RULE));
    let claims = claims();
    let good = test.signer.sign(&claims);
    let (message, signature) = good.rsplit_once('.').expect("parts");
    let (_, payload) = message.split_once('.').expect("parts");
    let header = |text: &str| URL_SAFE_NO_PAD.encode(text);
    for alg in ["none", "None", "NONE", "nOnE", "HS256", "ES256K", ""] {
        for signature in ["", signature] {
            let token =
                format!("{}.{payload}.{signature}", header(&json!({ "alg": alg, "kid": "k1" }).to_string()));
            assert!(["malformed", "algorithm"].contains(&test.refusal(&token).await), "{alg}");
        }
    }
    // A symmetric signature whose key is the issuer's public key.
    let public =
        rsa.jwk()["n"].as_str().map(|n| URL_SAFE_NO_PAD.decode(n).expect("base64")).expect("a modulus");
    let mut symmetric = Header::new(Algorithm::HS256);
    symmetric.kid = Some("r1".to_owned());
    for secret in [public, rsa.jwk().to_string().into_bytes()] {
        let token =
            jsonwebtoken::encode(&symmetric, &claims, &EncodingKey::from_secret(&secret).expect("a key"))
                .expect("signed");
        assert_eq!(test.refusal(&token).await, "algorithm");
    }
    // A key in the token, and an address for keys.
    let stranger = Signer::ec("k1");
    let mut own = Header::new(Algorithm::ES256);
    own.jwk = serde_json::from_value(stranger.jwk()).ok();
    own.jku = Some("https://evil.example.com/jwks".to_owned());
    own.kid = Some("k1".to_owned());
    let token = jsonwebtoken::encode(&own, &claims, &stranger.key).expect("signed");
    assert_eq!(test.refusal(&token).await, "signature");
    assert_eq!(test.web.fetches("https://evil.example.com/jwks"), 0);
    for extra in [r#""crit":["exp"]"#, r#""crit":[]"#, r#""b64":false,"crit":["b64"]"#] {
        let message = format!("{}.{payload}", header(&format!(r#"{{"alg":"ES256","kid":"k1",{extra}}}"#)));
        let signed = jsonwebtoken::crypto::sign(message.as_bytes(), &test.signer.key, Algorithm::ES256)
            .expect("signed");
        assert!(test.issuers.authenticate(&format!("{message}.{signed}")).await.is_none(), "{extra}");
    }
    assert_eq!(test.refusal(&stranger.sign(&claims)).await, "signature");
    let wrong_type = format!("{}.{payload}.{signature}", header(r#"{"alg":"RS256","kid":"k1"}"#));
    assert_eq!(test.refusal(&wrong_type).await, "key");
}

#[tokio::test]
async fn what_is_no_token_is_refused() {
    let test = Test::start("").await;
    let good = test.signer.sign(&claims());
    let (message, signature) = good.rsplit_once('.').expect("parts");
    let long = format!("{message}.{signature}{}", "A".repeat(64 * 1024));
    for text in
        ["", ".", "..", "a.b", "a.b.c", "a.b.c.d", message, &long, &format!("{good}.x"), &format!(" {good}")]
    {
        assert!(test.issuers.authenticate(text).await.is_none(), "{text:.40}");
    }
    for text in [
        r#"{"iss":"https://idp.example.com","aud":"agentrouter-secrets","sub":"system:serviceaccount:gateway:a","exp":1800000600,"sub":"admin"}"#,
        r#"{"iss":"https://idp.example.com","iss":"x","aud":"agentrouter-secrets","sub":"system:serviceaccount:gateway:a","exp":1800000600}"#,
        "[]",
        "null",
        "{",
    ] {
        assert_eq!(test.refusal(&test.signer.sign_text(text)).await, "malformed", "{text}");
    }
    // Each character of the token counts.
    for at in [0, message.len() / 2, message.len() - 1, message.len() + 1, good.len() - 2] {
        let mut changed = good.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        assert!(
            test.issuers.authenticate(&String::from_utf8(changed).expect("ASCII")).await.is_none(),
            "{at}"
        );
    }
    assert!(test.takes(&claims()).await);
}

#[tokio::test]
async fn a_remembered_token_is_forgotten_when_it_expires_and_when_rules_or_keys_change() {
    let test = Test::start("").await;
    let token = test.signer.sign(&claims());
    let takes = async || test.issuers.authenticate(&token).await.is_some();
    assert!(takes().await && takes().await);
    test.clock.0.store(NOW + 659, Ordering::SeqCst);
    assert!(takes().await);
    test.clock.0.store(NOW + 660, Ordering::SeqCst);
    assert_eq!(test.refusal(&token).await, "expired");
    assert_eq!(test.refusal(&token).await, "expired", "and it is refused again");

    test.clock.0.store(NOW, Ordering::SeqCst);
    assert!(takes().await);
    test.issuers.replace(settings("", &RULE.replace("gateway", "other")));
    assert_eq!(test.refusal(&token).await, "rule");
    test.issuers.replace(settings("", &RULE.replace("secrets/read/internal", "secrets/read")));
    let found = test.issuers.authenticate(&token).await.expect("accepted, with the keys from before");
    assert_eq!(found.scopes.to_string(), "secrets/read");
    test.issuers.replace(IdentitySettings::default());
    assert_eq!(test.refusal(&token).await, "issuer");
}

#[tokio::test(start_paused = true)]
async fn a_new_key_is_fetched_when_a_token_names_it_and_a_removed_one_is_forgotten() {
    let test = Test::start("").await;
    assert!(test.takes(&claims()).await);
    let next = Signer::ec("k2");
    test.web.put(KEYS, Some(set(&[&next])));
    let token = next.sign(&claims());
    assert_eq!(test.refusal(&token).await, "key", "the keys were fetched less than 30 seconds ago");
    tokio::time::advance(Duration::from_secs(30)).await;
    assert!(test.issuers.authenticate(&token).await.is_some());
    assert_eq!(test.refusal(&test.signer.sign(&claims())).await, "key", "though it was verified before");

    // A flood of unknown keys is one fetch per 30 seconds.
    let fetches = test.web.fetches(KEYS);
    for id in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(test.refusal(&Signer::ec(id).sign(&claims())).await, "key");
    }
    assert_eq!(test.web.fetches(KEYS) - fetches, 2);
}

#[tokio::test(start_paused = true)]
async fn the_last_good_keys_are_used_for_a_day() {
    let test = Test::start("").await;
    test.web.put(KEYS, None);
    test.clock.0.store(NOW, Ordering::SeqCst);
    tokio::time::advance(Duration::from_secs(23 * 60 * 60)).await;
    test.issuers.read_due().await;
    assert!(test.takes(&claims()).await);
    tokio::time::advance(Duration::from_secs(60 * 60 + 1)).await;
    test.issuers.read_due().await;
    assert_eq!(test.refusal(&test.signer.sign(&claims())).await, "key");
    let stats = test.issuers.stats();
    assert_eq!(stats.issuers, [("idp".to_owned(), false, stats.issuers[0].2)]);
    assert!(stats.issuers[0].2 >= 2);
    test.web.put(KEYS, Some(set(&[&test.signer])));
    tokio::time::advance(Duration::from_secs(30)).await;
    test.issuers.read_due().await;
    assert!(test.takes(&claims()).await);
}

#[tokio::test(start_paused = true)]
async fn a_revoked_token_is_refused_and_so_is_any_before_the_list_is_known() {
    let test = Test::start(&format!("revocations = \"{REVOCATIONS}\"")).await;
    assert_eq!(test.refusal(&test.signer.sign(&claims())).await, "revoked", "the list cannot be read");
    let list = |ids: &[&str], as_of: i64| {
        let list: Vec<_> = ids.iter().map(|id| json!({ "jti": id, "exp": NOW + 600 })).collect();
        Some(json!({ "revocations": list, "as_of": as_of }).to_string())
    };
    test.web.put(REVOCATIONS, list(&["t0"], NOW));
    tokio::time::advance(Duration::from_secs(10)).await;
    test.issuers.read_due().await;
    assert!(test.takes(&claims()).await);
    assert_eq!(test.refusal(&test.signer.sign(&with("jti", json!("t0")))).await, "revoked");
    assert_eq!(test.refusal(&test.signer.sign(&without("jti"))).await, "revoked", "it could not be revoked");
    let since = format!("{REVOCATIONS}?since={NOW}");
    test.web.put(&since, list(&["t1"], NOW + 10));
    tokio::time::advance(Duration::from_secs(10)).await;
    test.issuers.read_due().await;
    assert_eq!(test.web.fetches(&since), 1);
    assert_eq!(test.refusal(&test.signer.sign(&claims())).await, "revoked", "though it was verified before");
    assert_eq!(
        test.refusal(&test.signer.sign(&with("jti", json!("t0")))).await,
        "revoked",
        "the list is added to"
    );
}

#[tokio::test]
async fn a_certificate_has_the_rules_of_its_issuer_and_of_no_other() {
    let mesh = "[[issuer]]\nname = \"mesh\"\nclient-ca = \"/ca.pem\"\n[[issuer.rule]]\nmatch = { sub = \"spiffe://example.org/gateway\" }\nuser = \"ann\"\nscopes = [\"secrets/read\"]";
    let test = Test::start("").await;
    assert!(test.issuers.identify("spiffe://example.org/gateway").is_none(), "no issuer of certificates");
    test.issuers.replace(settings("", &format!("{RULE}\n{mesh}")));
    let found = test.issuers.identify("spiffe://example.org/gateway").expect("a rule matches");
    assert_eq!((&*found.issuer, &*found.subject), ("mesh", "spiffe://example.org/gateway"));
    assert_eq!(test.issuers.identify("spiffe://example.org/gateway"), Some(found));
    let gateway = "system:serviceaccount:gateway:a";
    for other in ["spiffe://example.org/gateway/x", gateway, "", "spiffe://example.org/gateway\n"] {
        assert!(test.issuers.identify(other).is_none(), "{other}");
    }
    assert!(!test.takes(&with("sub", json!("spiffe://example.org/gateway"))).await, "no rule of the tokens");
    test.issuers.replace(settings("", RULE));
    assert!(test.issuers.identify("spiffe://example.org/gateway").is_none(), "though it was remembered");
}

#[tokio::test]
async fn two_issuers_with_one_subject_are_told_apart() {
    let other = "[[issuer]]\nname = \"other\"\nissuer = \"https://other.example.com\"\naudience = \"agentrouter-secrets\"\njwks = \"https://other.example.com/jwks\"\n[[issuer.rule]]\nmatch = { sub = \"*\" }\nuser = \"ann\"\nscopes = [\"secrets/read\"]";
    let test = Test::unread(settings("", &format!("{RULE}\n{other}")));
    let stranger = Signer::ec("k1");
    test.web.put(KEYS, Some(set(&[&test.signer])));
    test.web.put("https://other.example.com/jwks", Some(set(&[&stranger])));
    test.issuers.read_due().await;
    let of_other = with("iss", json!("https://other.example.com"));
    let first = test.issuers.authenticate(&test.signer.sign(&claims())).await.expect("accepted");
    let second = test.issuers.authenticate(&stranger.sign(&of_other)).await.expect("accepted");
    assert_eq!((&*first.issuer, &*second.issuer), ("idp", "other"));
    assert_eq!(first.subject, second.subject);
    assert_ne!(first.user, second.user);
    // The key of one issuer is no key of the other, also under the same id.
    assert_eq!(test.refusal(&stranger.sign(&claims())).await, "signature");
    assert_eq!(test.refusal(&test.signer.sign(&of_other)).await, "signature");
}

#[tokio::test]
async fn a_key_set_in_a_file_is_read_again_when_it_changes() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("jwks.json");
    let text = format!(
        "[[issuer]]\nname = \"file\"\nissuer = \"https://idp.example.com\"\naudience = \"agentrouter-secrets\"\njwks = \"{}\"\n{RULE}",
        path.display()
    );
    let table: toml::Table = text.parse().expect("TOML");
    let test = Test::unread(IdentitySettings::parse(&table["issuer"]).expect("valid"));
    test.issuers.read_due().await;
    assert_eq!(test.refusal(&test.signer.sign(&claims())).await, "key", "there is no file yet");
    let rsa = Signer::rsa("r1");
    std::fs::write(&path, set(&[&rsa])).expect("written");
    test.issuers.read_due().await;
    assert!(test.issuers.authenticate(&rsa.sign(&claims())).await.is_some());
    std::fs::write(&path, set(&[&test.signer, &rsa])).expect("written");
    test.issuers.read_due().await;
    assert!(test.takes(&claims()).await);
    std::fs::write(&path, "no keys").expect("written");
    test.issuers.read_due().await;
    assert!(test.takes(&claims()).await, "the keys from before stay in use");
    std::fs::write(&path, r#"{"keys":[]}"#).expect("written");
    test.issuers.read_due().await;
    assert_eq!(test.refusal(&test.signer.sign(&claims())).await, "key", "the issuer has no key any more");
}
