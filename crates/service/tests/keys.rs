//! Tests of API keys and of callers that disconnect.

use std::future::Future as _;
use std::task::{Context, Waker};
use std::time::Duration;

use agentrouter_model::{Owner, Realm, Reason, ScopeSet};
use agentrouter_service::{NewKey, Origin};
use agentrouter_store::prelude::*;
use agentrouter_testkit::TestService;

#[tokio::test]
async fn a_revocation_completes_even_if_its_caller_disconnects() {
    let test = TestService::start().await;
    let new = NewKey {
        name: String::new(),
        user: Owner::parse("ann").expect("a user"),
        scopes: ScopeSet::ALL,
        realm: Realm::default(),
        realms: None,
        expires_at: None,
    };
    let (token, record) = test.service.issue_key(&Origin::default(), new).await.expect("a key");
    test.service.authenticate(Some(token.expose())).await.expect("it is good, and in memory");

    let origin = Origin::default();
    let mut revocation = Box::pin(test.service.revoke_key(&origin, &record.id));
    let first_poll = revocation.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(first_poll.is_pending(), "its attempt is being recorded");
    drop(revocation);

    let revoked = async {
        while test.store.key(&record.id).await.expect("read").is_none_or(|key| key.revoked_at.is_none()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), revoked).await.expect("it runs without its caller");
    let refused = test.service.authenticate(Some(token.expose())).await;
    assert_eq!(refused.expect_err("it is revoked").reason, Reason::Unauthenticated);
}
