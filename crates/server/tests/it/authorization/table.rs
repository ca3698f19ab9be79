//! The table: RPCs × dialects × callers × secrets.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use agentrouter_crypto::{ApiToken, SystemRng};

use super::oracle::{
    Effect, Key, Place, READ, READ_INTERNAL, ROWS, Row, SecretRequest, WRITE, WRITE_INTERNAL,
};
use super::wire::{Dialect, Method, RpcReply, methods};
use super::{ALL, Caller, Fixture, PLAINTEXT, bearer};

/// The secret of a request: its kind, and its address.
const TARGETS: [(&str, &str, &str, &str); 6] = [
    ("own", "alice", "team", "own"),
    ("foreign", "bob", "team", "foreign"),
    ("absent", "alice", "team", "absent"),
    ("deleted", "alice", "team", "deleted"),
    ("system", "system", "kek", "service-kek"),
    ("LLM realm", "system", "llm-keys", "openai"),
];

/// The store's contents before each request: the targets that exist, and other owners' secrets under the same names.
fn places() -> BTreeSet<Place> {
    let there = TARGETS.iter().filter(|target| !["absent", "deleted"].contains(&target.0));
    let targets = there.map(|(_, owner, realm, name)| Place::new(owner, realm, name));
    let decoys = [
        Place::new("bob", "team", "own"),
        Place::new("system", "team", "own"),
        Place::new("bob", "team", "absent"),
        Place::new("bob", "kek", "foreign"),
    ];
    targets.chain(decoys).collect()
}

/// A row for every RPC.
fn rows() -> Vec<(Method, &'static Row)> {
    let methods = methods();
    assert_eq!(methods.len(), ROWS.len(), "every row has an RPC, and every RPC has a row");
    let row = |method: &Method| {
        let row = ROWS.iter().find(|row| row.rpc == method.name());
        let row = row.unwrap_or_else(|| panic!("{} has no row in the table", method.name()));
        assert_eq!((method.route.method, method.route.template), row.http);
        assert_eq!(method.takes("user_id"), row.naming.is_some(), "{}", row.rpc);
        row
    };
    methods.into_iter().map(|method| (method.clone(), row(&method))).collect()
}

async fn callers(fixture: &mut Fixture) -> Vec<Caller> {
    let mut callers = vec![
        Caller::refused("no key", None),
        Caller::refused("malformed", Some("Bearer ak-0123456789ABCDEF".to_owned())),
    ];
    let unknown = ApiToken::generate(&SystemRng).expect("a key that was never issued");
    callers.push(Caller::refused("unknown", Some(format!("Bearer {}", unknown.expose()))));

    let revoked = fixture.server.issue("alice", &ALL.join(","), &[]);
    super::keys::revoke(fixture, &revoked);
    callers.push(Caller::refused("revoked", Some(bearer(&revoked))));
    let expired = fixture.server.issue("alice", &ALL.join(","), &["--expires", "1s"]);
    tokio::time::sleep(Duration::from_millis(1050)).await;
    callers.push(Caller::refused("expired", Some(bearer(&expired))));

    let live = [
        ("read", Key::of("alice", &[READ])),
        ("write", Key::of("alice", &[WRITE])),
        ("read/internal", Key::of("alice", &[READ_INTERNAL])),
        ("write/internal", Key::of("alice", &[WRITE_INTERNAL])),
        ("all scopes", Key::of("alice", &ALL)),
        ("limited to this realm", Key::of("alice", &ALL).limited_to(&["team"])),
        ("limited to another realm", Key::of("alice", &ALL).limited_to(&["elsewhere"])),
        ("the user system", Key::of("system", &ALL)),
    ];
    for (what, key) in live {
        callers.push(Caller::live(what, &fixture.issue(&key), key));
    }
    callers
}

/// Restores what the last request changed, so that each request finds the same secrets.
async fn restore(fixture: &mut Fixture, places: &BTreeSet<Place>) {
    let there: BTreeSet<Place> = fixture.rows.keys().cloned().collect();
    for place in there.difference(places) {
        fixture.delete(place).await;
    }
    for place in places.difference(&there) {
        fixture.create(place).await;
    }
}

/// The refusals, in each dialect and for each reason.
type Looks = BTreeMap<(Dialect, String), String>;

/// One cell: the request succeeds or is refused as the oracle says, and the response contains nothing else.
fn judge(
    (method, row): (&Method, &Row),
    (caller, request): (&Caller, SecretRequest<'_>),
    (reply, value): (&RpcReply, &str),
    fixture: &mut Fixture,
) {
    match row.judge(caller.key.as_ref(), request, &fixture.rows) {
        Err(code) => assert_eq!(reply.code, code, "refused"),
        Ok(place) => {
            assert_eq!(reply.code, 0, "done");
            row.settle(&place, value, &reply.message, &mut fixture.rows);
        }
    }
    let releases = row.effect == Effect::Reveal && reply.code == 0;
    assert_eq!(reply.whole.contains(PLAINTEXT), releases, "{} releases a value", method.name());
}

/// All cells of one RPC in one dialect. Returns the codes that occurred.
async fn block(
    fixture: &mut Fixture,
    callers: &[Caller],
    (method, row): (&Method, &Row),
    dialect: Dialect,
    looks: &mut Looks,
) -> BTreeSet<u8> {
    let (places, mut codes) = (places(), BTreeSet::new());
    for caller in callers {
        for (what, owner, realm, name) in TARGETS {
            let user = caller.key.as_ref().map_or("alice", |key| &key.user);
            let users = BTreeSet::from(["", user, owner, "bob"]);
            for user_id in users.into_iter().filter(|user| user.is_empty() || method.takes("user_id")) {
                restore(fixture, &places).await;
                let value = fixture.value();
                let mut fields =
                    vec![("name", name), ("realm", realm), ("value", &*value), ("new_value", &*value)];
                if !user_id.is_empty() {
                    fields.push(("user_id", user_id));
                }
                let call = method.with(dialect, &fields);
                let reply = fixture.client.send(&call, caller.authorization.as_deref()).await;
                let cell = format!(
                    "{} in {dialect:?} by {}, about {what} with user_id {user_id:?}: {}",
                    method.name(),
                    caller.what,
                    reply.whole
                );
                let request = SecretRequest { realm, name, user_id };
                let judged = catch_unwind(AssertUnwindSafe(|| {
                    judge((method, row), (caller, request), (&reply, &value), fixture);
                }));
                assert!(judged.is_ok(), "{cell}");
                codes.insert(reply.code);
                if reply.code != 0 {
                    let look = looks.entry((dialect, reply.reason)).or_insert_with(|| reply.whole.clone());
                    assert_eq!(*look, reply.whole, "differs from other refusals with its reason: {cell}");
                }
            }
        }
    }
    codes
}

#[tokio::test]
async fn every_call_follows_the_contract_for_every_caller() {
    let mut fixture = Fixture::open();
    for owner in ["alice", "bob", "system"] {
        fixture.master(owner);
    }
    let deleted = Place::new("alice", "team", "deleted");
    fixture.create(&deleted).await;
    fixture.delete(&deleted).await;
    let callers = callers(&mut fixture).await;

    let mut looks = Looks::new();
    for (method, row) in rows() {
        for dialect in Dialect::ALL {
            let codes = block(&mut fixture, &callers, (&method, row), dialect, &mut looks).await;
            let expected: &[u8] = if matches!(row.effect, Effect::Put | Effect::Enumerate) {
                &[0, 7, 16]
            } else {
                &[0, 5, 7, 16]
            };
            assert_eq!(codes, expected.iter().copied().collect(), "{} in {dialect:?}", row.rpc);
            fixture.check().await;
        }
    }
    // One response for each reason: no key, no scope, no realm, no right to name a user, no secret.
    assert_eq!(looks.len(), 5 * Dialect::ALL.len(), "{:?}", looks.keys());
}
