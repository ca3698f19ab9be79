//! Indistinguishable responses: a refusal does not reveal whether a secret exists.

use std::collections::BTreeSet;
use std::time::Duration;

use agentrouter_crypto::{ApiToken, SystemRng};

use super::oracle::{NOT_FOUND, Place, UNAUTHENTICATED};
use super::wire::{Dialect, methods};
use super::{ALL, Fixture, bearer};

#[tokio::test]
async fn every_invalid_key_gets_the_same_response() {
    let mut fixture = Fixture::open();
    let revoked = fixture.server.issue("alice", &ALL.join(","), &[]);
    super::keys::revoke(&fixture, &revoked);
    let expired = fixture.server.issue("alice", &ALL.join(","), &["--expires", "1s"]);
    tokio::time::sleep(Duration::from_millis(1050)).await;
    let valid = fixture.server.issue("alice", &ALL.join(","), &[]);
    let unknown = ApiToken::generate(&SystemRng).expect("a key that was never issued");
    let mistyped = format!("{}{}", &valid[..valid.len() - 1], if valid.ends_with('0') { '1' } else { '0' });
    let mut wrong = vec![None];
    wrong.extend(
        [revoked, expired, unknown.expose_bare().to_owned(), mistyped].map(|bare| Some(bearer(&bare))),
    );
    wrong.extend(
        ["", "Bearer", "Bearer ak-", "Bearer ak-x", "Bearer ak-' OR 1=1 --", "Basic YTpi", "ak-x"]
            .map(|text| Some(text.to_owned())),
    );
    wrong.push(Some(format!("Bearer {valid}")));
    wrong.push(Some(format!("Basic ak-{valid}")));
    wrong.push(Some(format!("ak-{valid}")));

    for dialect in Dialect::ALL {
        let mut looks = BTreeSet::new();
        for method in methods() {
            for authorization in &wrong {
                let call = method.with(dialect, &[("name", "n"), ("value", "v"), ("new_value", "v")]);
                let reply = fixture.client.send(&call, authorization.as_deref()).await;
                assert_eq!(reply.code, UNAUTHENTICATED, "{authorization:?}: {}", reply.whole);
                looks.insert(reply.whole);
            }
        }
        assert_eq!(looks.len(), 1, "{looks:#?}");
    }
}

#[tokio::test]
async fn a_secret_of_another_owner_looks_like_one_that_does_not_exist() {
    let mut fixture = Fixture::open();
    let deleted = Place::new("alice", "team", "deleted");
    fixture.create(&deleted).await;
    fixture.delete(&deleted).await;
    let foreign = [
        Place::new("bob", "team", "bobs"),
        Place::new("system", "team", "service"),
        Place::new("alice", "other", "elsewhere"),
    ];
    for place in &foreign {
        fixture.create(place).await;
    }
    let alice = fixture.master("alice");
    let about_one = |name: &str| !["CreateSecret", "ListSecrets"].contains(&name);
    let calls = methods();
    let calls: Vec<_> = calls.iter().filter(|method| about_one(method.name())).collect();
    assert_eq!(calls.len(), 5);
    for dialect in Dialect::ALL {
        for method in &calls {
            let mut looks = BTreeSet::new();
            for name in ["never-was", "deleted", "bobs", "service", "elsewhere"] {
                let fields = [("name", name), ("realm", "team"), ("new_value", "v")];
                let reply = fixture.client.send(&method.with(dialect, &fields), Some(&alice)).await;
                assert_eq!(reply.code, NOT_FOUND, "{name}: {}", reply.whole);
                looks.insert(reply.whole);
            }
            assert_eq!(looks.len(), 1, "{} in {dialect:?}: {looks:#?}", method.name());
        }
    }
    fixture.check().await;
}
