//! Tests of a service that drops its KEKs and gets them back.

use agentrouter_keyring::Keyring;
use agentrouter_model::Reason;
use agentrouter_model::rpc::{
    CreateSecret, DeleteSecret, GetSecret, GetSecretValue, RotateSecret, ValidateSecret,
};
use agentrouter_testkit::TestService;

#[tokio::test]
async fn dropped_keks_open_and_seal_nothing_until_they_are_back() {
    let test = TestService::start().await;
    test.service.keep_in_memory();
    let ctx = test.call_by("ann", "secrets/read,secrets/write,secrets/read/internal").await;
    let create = |name| CreateSecret { name, value: "sk-1", ..CreateSecret::default() };
    let read = |name| GetSecretValue { name, user_id: "ann", ..GetSecretValue::default() };
    let rotate = |name| RotateSecret { name, new_value: "sk-2", ..RotateSecret::default() };
    for name in ["a", "b"] {
        test.service.create(ctx.clone(), create(name)).await.expect("created");
    }
    test.service.value(&ctx, read("a")).await.expect("it is in the cache");
    assert_eq!(test.service.stats().cached_rows, 1);

    test.service.drop_keks();
    assert!(!test.service.has_keks());
    assert_eq!(test.service.stats().cached_rows, 0, "a cached row has an unwrapped key");
    let unreadable = test.service.stats().unreadable;
    for name in ["a", "a", "b"] {
        let refused = test.service.value(&ctx, read(name)).await.expect_err("no KEK");
        assert_eq!(refused.reason, Reason::KekUnavailable);
    }
    let refused = test.service.create(ctx.clone(), create("c")).await.expect_err("no KEK");
    assert_eq!(refused.reason, Reason::KekUnavailable);
    let refused = test.service.rotate(ctx.clone(), rotate("a")).await.expect_err("no KEK");
    assert_eq!(refused.reason, Reason::KekUnavailable);
    let validation =
        test.service.validate(&ctx, ValidateSecret { name: "a", ..ValidateSecret::default() }).await;
    assert_eq!(validation.expect("it responds").error, "version 1: kek_unavailable");
    assert_eq!(test.service.stats().unreadable, unreadable, "the versions are whole");
    // What needs no KEK continues.
    test.service.get(&ctx, GetSecret { name: "a", ..GetSecret::default() }).await.expect("metadata");
    test.service
        .delete(ctx.clone(), DeleteSecret { name: "b", ..DeleteSecret::default() })
        .await
        .expect("deleted");

    test.service.use_keyring(Keyring::load(&test.dir.path().join("kek.json")).expect("the same"));
    test.service.value(&ctx, read("a")).await.expect("it opens again");
    test.service.value(&ctx, read("a")).await.expect("it opens from the cache");
    test.service.create(ctx.clone(), create("c")).await.expect("created");
    test.service.rotate(ctx, rotate("a")).await.expect("rotated");
}
