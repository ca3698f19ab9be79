//! `hot_path PATH COUNT`: runs one kind of request COUNT times, one after the other, in this process.
//!
//! A request is the server's work between the bytes of its HTTP library: authenticate the key, parse the REST request, run
//! the operation with its store and audit log, write the JSON. Clock and randomness are the testkit's, so that every run is
//! the same. A first request before the count warms the caches. The cost of a request is the difference between two runs
//! with different counts, which excludes the start.

use std::path::Path;
use std::sync::Arc;

use agentrouter_api::rest::{
    CreateSecret, GetSecretValue, ListSecrets, Request as _, RotateSecret, response,
};
use agentrouter_identity::{Fetch, Fetched, IdentitySettings, Issuers};
use agentrouter_model::{Clock, Owner, Realm, ScopeSet};
use agentrouter_service::{CallContext, NewKey, Origin};
use agentrouter_testkit::{SeededRng, TestService};

/// The server's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The number of secrets in the store.
const SECRETS: usize = 100;

/// No document comes by HTTP.
struct Nothing;

impl Fetch for Nothing {
    fn fetch<'a>(&'a self, _: &'a str, _: Option<&'a Path>, _: Option<&'a Path>, _: usize) -> Fetched<'a> {
        Box::pin(async { Err(std::io::ErrorKind::NotFound.into()) })
    }
}

/// The store, and the key or token of the caller.
struct Fixture {
    test: TestService,
    token: String,
}

fn main() {
    // The server's runtime on one processor.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(run());
}

async fn run() {
    let arguments: Vec<_> = std::env::args().collect();
    // Cargo may add `--bench`, and lists targets' tests by running them without arguments.
    let [_, path, count, ..] = arguments.as_slice() else { return };
    let count: usize = count.parse().expect("a count");
    let fixture = Fixture::build().await;
    let calls = 1 + count;
    match path.as_str() {
        "value" => repeat(calls, async |_| fixture.value().await).await,
        // As `value`, by a token of Kubernetes instead of a key. The first request verifies it.
        "token" => {
            let fixture = fixture.with_token().await;
            repeat(calls, async |_| fixture.value().await).await;
        }
        "create" => repeat(calls, async |number| fixture.create(&format!("new-{number:06}")).await).await,
        "rotate" => repeat(calls, async |number| fixture.rotate(number % SECRETS).await).await,
        "list" => repeat(calls, async |_| fixture.list().await).await,
        _ => panic!("no such path: {path}"),
    }
}

async fn repeat(count: usize, call: impl AsyncFn(usize) -> usize) {
    let mut bytes = 0;
    for number in 0..count {
        bytes += call(number).await;
    }
    // The result is used, so that the compiler cannot remove the work.
    assert!(bytes > count);
}

impl Fixture {
    async fn build() -> Self {
        let test = TestService::start().await;
        let new = NewKey {
            name: String::new(),
            user: Owner::parse("gateway").expect("a user"),
            scopes: ScopeSet::ALL,
            realm: Realm::default(),
            realms: None,
            expires_at: None,
        };
        let (token, _) = test.service.issue_key(&Origin::default(), new).await.expect("a key");
        let fixture = Self { token: token.expose().to_owned(), test };
        for number in 0..SECRETS {
            fixture.create(&name(number)).await;
        }
        fixture
    }

    /// The same store for a caller with a token. The private key of the token is not kept. By the clock of the testkit the token does not expire.
    async fn with_token(self) -> Self {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/token/jwks.json");
        let table: toml::Table = format!(
            r#"
                [[issuer]]
                name = "kubernetes"
                issuer = "https://kubernetes.default.svc"
                audience = "agentrouter-secrets"
                jwks = "{path}"
                max-lifetime = "366d"
                [[issuer.rule]]
                match = {{ sub = "system:serviceaccount:gateway:*" }}
                user = "gateway"
                scopes = ["secrets/read/internal"]
            "#
        )
        .parse()
        .expect("TOML");
        let settings = IdentitySettings::parse(&table["issuer"]).expect("valid");
        let clock = Arc::clone(&self.test.clock) as Arc<dyn Clock>;
        let issuers = Issuers::new(settings, Arc::new(Nothing), clock, &SeededRng::new(2)).expect("made");
        issuers.read_due().await;
        self.test.service.accept_tokens(Arc::new(issuers));
        Self { token: include_str!("../token/token.txt").trim().to_owned(), ..self }
    }

    async fn context(&self) -> CallContext {
        let caller = self.test.service.authenticate(Some(&self.token)).await.expect("a live key");
        CallContext::new(caller, Origin::default())
    }

    async fn value(&self) -> usize {
        let ctx = self.context().await;
        let body = br#"{"realm":"default","user_id":"gateway"}"#;
        let request = GetSecretValue::parse("provider-key-000000", "", body).expect("a request");
        response::value(&self.test.service.value(&ctx, request.call()).await.expect("a value")).len()
    }

    async fn create(&self, name: &str) -> usize {
        let ctx = Arc::new(self.context().await);
        let body = format!(
            r#"{{"name":"{name}","value":"sk-a-provider-key-of-the-usual-length-0123456789","tags":{{"env":"prod"}}}}"#
        );
        let request = CreateSecret::parse("", "", body.as_bytes()).expect("a request");
        response::secret(&self.test.service.create(ctx, request.call()).await.expect("a secret")).len()
    }

    async fn rotate(&self, number: usize) -> usize {
        let ctx = Arc::new(self.context().await);
        let name = name(number);
        let body = br#"{"new_value":"sk-another-key-of-the-usual-length-0123456789"}"#;
        let request = RotateSecret::parse(&name, "", body).expect("a request");
        response::secret(&self.test.service.rotate(ctx, request.call()).await.expect("a secret")).len()
    }

    async fn list(&self) -> usize {
        let ctx = self.context().await;
        let request = ListSecrets::parse("", "realm=default&page_size=50", b"").expect("a request");
        let page = self.test.service.list_as(&ctx, request.call(), |page| response::page(&page)).await;
        page.expect("a page").len()
    }
}

fn name(number: usize) -> String {
    format!("provider-key-{number:06}")
}
