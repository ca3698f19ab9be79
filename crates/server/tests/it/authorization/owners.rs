//! The owner of a secret is decided by the key and the realm, not by the request alone.

use super::oracle::{
    INVALID_ARGUMENT, Key, LLM, NOT_FOUND, PERMISSION_DENIED, Place, READ, WRITE, WRITE_INTERNAL,
};
use super::wire::Dialect;
use super::{ALL, Fixture, bearer};

#[tokio::test]
async fn secrets_of_llm_realms_are_owned_by_the_system_for_every_caller() {
    let mut fixture = Fixture::open();
    // Without the internal scope for writes, `user_id` is ignored, not refused.
    let alice = bearer(&fixture.issue(&Key::of("alice", &[READ, WRITE])));
    let bob = fixture.master("bob");
    let system = fixture.master("system");
    for realm in LLM {
        for dialect in Dialect::ALL {
            let name = format!("{dialect:?}");
            let place = Place::new("system", realm, &name);
            let of = |value| [("realm", realm), ("name", &*name), ("value", value), ("new_value", value)];
            for user_id in ["alice", "bob", "system", "SYSTEM", "a user/who cannot be"] {
                let fields = [&of(user_id)[..], &[("user_id", user_id)]].concat();
                let made = fixture.call(dialect, &alice, "CreateSecret", &fields).await;
                assert_eq!(Place::of(&made.message["secret"]), place, "{}", made.whole);
                for reader in [&bob, &system] {
                    let read = fixture.call(dialect, reader, "GetSecretValue", &fields).await;
                    assert_eq!(Place::of(&read.message["secret"]), place, "{}", read.whole);
                    assert_eq!(read.message["value"], user_id);
                }
            }
            for caller in [&alice, &bob, &system] {
                let shown = fixture.call(dialect, caller, "GetSecret", &of("")).await;
                assert_eq!(Place::of(&shown.message["secret"]), place, "{}", shown.whole);
                let tried = fixture.call(dialect, caller, "ValidateSecret", &of("")).await;
                assert_eq!(tried.message["valid"], true, "{}", tried.whole);
                let listed = fixture.call(dialect, caller, "ListSecrets", &[("realm", realm)]).await;
                let listed = listed.message["secrets"].as_array().expect("secrets").iter().map(Place::of);
                assert!(listed.into_iter().any(|listed| listed == place));
                let rotated = fixture.call(dialect, caller, "RotateSecret", &of("next")).await;
                assert_eq!(Place::of(&rotated.message["secret"]), place, "{}", rotated.whole);
            }
            let deleted = fixture.call(dialect, &alice, "DeleteSecret", &of("")).await;
            assert_eq!(deleted.message["success"], true, "{}", deleted.whole);
            for caller in [&alice, &bob, &system] {
                let shown = fixture.call(dialect, caller, "GetSecret", &of("")).await;
                assert_eq!(shown.code, NOT_FOUND, "{}", shown.whole);
            }
        }
    }
}

#[tokio::test]
async fn another_user_is_named_in_create_only_with_the_internal_scope() {
    let mut fixture = Fixture::open();
    let plain = bearer(&fixture.issue(&Key::of("alice", &[READ, WRITE])));
    let alone = bearer(&fixture.issue(&Key::of("alice", &[READ, WRITE_INTERNAL])));
    let internal = bearer(&fixture.issue(&Key::of("alice", &[WRITE, WRITE_INTERNAL])));
    for owner in ["alice", "bob", "system"] {
        fixture.master(owner);
    }
    for dialect in Dialect::ALL {
        for owner in ["alice", "bob", "system"] {
            let name = format!("{dialect:?}");
            let value = fixture.value();
            let fields = [("realm", "team"), ("name", &*name), ("value", &*value), ("user_id", owner)];
            let place = Place::new(owner, "team", &name);

            let made = fixture.call(dialect, &alone, "CreateSecret", &fields).await;
            assert_eq!(made.code, PERMISSION_DENIED, "the internal scope does not imply the other");
            let made = fixture.call(dialect, &plain, "CreateSecret", &fields).await;
            let expected = if owner == "alice" { 0 } else { PERMISSION_DENIED };
            assert_eq!(made.code, expected, "{owner}: {}", made.whole);
            if owner != "alice" {
                fixture.check().await;
            }

            let made = fixture.call(dialect, &internal, "CreateSecret", &fields).await;
            assert_eq!(Place::of(&made.message["secret"]), place, "{}", made.whole);
            fixture.rows.insert(place, value);
        }
    }
    fixture.check().await;
}

#[tokio::test]
async fn only_system_itself_reaches_the_systems_secrets() {
    let mut fixture = Fixture::open();
    let kek = Place::new("system", "kek", "service-kek");
    let llm = Place::new("system", "llm-keys", "openai");
    fixture.create(&kek).await;
    fixture.create(&llm).await;
    let named = [("realm", "kek"), ("name", "service-kek")];

    for user in ["SYSTEM", "System", "root", "admin", "system.", "system-", "0system"] {
        let theirs = fixture.master(user);
        for dialect in Dialect::ALL {
            for rpc in ["GetSecret", "ValidateSecret", "DeleteSecret", "GetSecretValue"] {
                let reply = fixture.call(dialect, &theirs, rpc, &named).await;
                assert_eq!(reply.code, NOT_FOUND, "{rpc} by {user}: {}", reply.whole);
            }
            let rotate = [&named[..], &[("new_value", "taken over")]].concat();
            assert_eq!(fixture.call(dialect, &theirs, "RotateSecret", &rotate).await.code, NOT_FOUND);
            let listed = fixture.call(dialect, &theirs, "ListSecrets", &[("realm", "kek")]).await;
            assert_eq!(listed.message["secrets"].as_array().map_or(0, Vec::len), 0, "{}", listed.whole);
        }
    }

    // Named in a request by a caller that may name any user.
    let alice = fixture.master("alice");
    for user_id in
        ["SYSTEM", "System", "root", "*", "%", "syste_", "system ", "ѕystem", "system\0", "../system"]
    {
        let fields = [&named[..], &[("user_id", user_id), ("value", "taken over")]].concat();
        for dialect in Dialect::ALL {
            let read = fixture.call(dialect, &alice, "GetSecretValue", &fields).await;
            let writable = matches!(user_id, "SYSTEM" | "System" | "root" | "syste_");
            let expected = if writable { NOT_FOUND } else { INVALID_ARGUMENT };
            assert_eq!(read.code, expected, "{user_id:?}: {}", read.whole);
            if !writable {
                let made = fixture.call(dialect, &alice, "CreateSecret", &fields).await;
                assert_eq!(made.code, INVALID_ARGUMENT, "{user_id:?}: {}", made.whole);
            }
        }
    }
    for user_id in ["SYSTEM", "System", "root", "syste_"] {
        let fields = [&named[..], &[("user_id", user_id), ("value", "their own")]].concat();
        let made = fixture.done(&alice, "CreateSecret", &fields).await;
        assert_eq!(Place::of(&made["secret"]), Place::new(user_id, "kek", "service-kek"));
        fixture.master(user_id);
        fixture.rows.insert(Place::new(user_id, "kek", "service-kek"), "their own".to_owned());
    }

    // A realm in another spelling is another realm, and has no secrets.
    for realm in ["LLM-KEYS", "Llm-Keys", "llm-keys-", "llm_keys", "KEK", "*"] {
        for rpc in ["GetSecret", "GetSecretValue", "DeleteSecret", "ValidateSecret", "ListSecrets"] {
            for dialect in Dialect::ALL {
                let reply = fixture.call(dialect, &alice, rpc, &[("realm", realm), ("name", "openai")]).await;
                assert_eq!(reply.code, INVALID_ARGUMENT, "{rpc} in {realm}: {}", reply.whole);
            }
        }
    }
    fixture.check().await;
}

#[test]
fn a_key_without_a_user_is_not_issued() {
    let server = crate::support::Server::start();
    let data = server.process.data_dir().to_str().expect("UTF-8");
    for user in ["*", "%", "a b", "ѕystem", ""] {
        let scopes = ALL.join(",");
        let args = ["key", "create", "--data-dir", data, "--user", user, "--scopes", &scopes];
        let output = crate::support::run(&args);
        assert!(!output.status.success(), "{user:?}");
        assert!(output.stdout.is_empty(), "{user:?}");
    }
}
