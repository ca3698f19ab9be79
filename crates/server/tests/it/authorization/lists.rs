//! A list contains exactly the secrets that its caller may see.

use std::collections::BTreeSet;

use super::oracle::{Key, LLM, Place, READ};
use super::wire::Dialect;
use super::{Fixture, bearer};

const USERS: [&str; 4] = ["alice", "bob", "SYSTEM", "system"];
const REALMS: [&str; 7] = ["default", "kek", "llm-keys", "byok", "team", "team-2", "zoo"];

/// The secrets that the key may see in `realm`, or in all realms, by the contract.
fn visible(fixture: &Fixture, key: &Key, realm: Option<&str>) -> Vec<Place> {
    let seen = |place: &&Place| {
        realm.is_none_or(|realm| place.realm == realm)
            && key.may_use(&place.realm)
            && place.owner == key.owner_in(&place.realm)
    };
    let mut places: Vec<Place> = fixture.rows.keys().filter(seen).cloned().collect();
    places.sort_by(|a, b| (&a.realm, &a.name).cmp(&(&b.realm, &b.name)));
    places
}

/// All pages of a list, in order.
async fn walk(
    fixture: &mut Fixture,
    dialect: Dialect,
    authorization: &str,
    filter: &[(&str, &str)],
) -> Vec<Place> {
    let (mut places, mut token) = (Vec::new(), String::new());
    loop {
        let mut fields = filter.to_vec();
        if !token.is_empty() {
            fields.push(("page_token", &*token));
        }
        let reply = fixture.call(dialect, authorization, "ListSecrets", &fields).await;
        assert_eq!(reply.code, 0, "{}", reply.whole);
        places.extend(reply.message["secrets"].as_array().into_iter().flatten().map(Place::of));
        reply.message["next_page_token"].as_str().unwrap_or_default().clone_into(&mut token);
        if token.is_empty() {
            return places;
        }
    }
}

#[tokio::test]
async fn a_list_over_all_realms_is_the_union_of_the_lists_of_each() {
    let mut fixture = Fixture::open();
    for user in USERS {
        for realm in REALMS.into_iter().filter(|realm| !LLM.contains(realm) || user == "system") {
            for name in ["a", "b", user] {
                fixture.create(&Place::new(user, realm, name)).await;
            }
        }
    }
    let mut keys: Vec<Key> = USERS.iter().chain(&["carol"]).map(|user| Key::of(user, &[READ])).collect();
    for user in USERS {
        for realms in [&["team"][..], &["zoo", "llm-keys", "kek"], &["byok"], &["empty", "team-2"]] {
            keys.push(Key::of(user, &[READ]).limited_to(realms));
        }
    }
    for key in &keys {
        let authorization = bearer(&fixture.issue(key));
        for dialect in Dialect::ALL {
            let all = walk(&mut fixture, dialect, &authorization, &[]).await;
            assert_eq!(all, visible(&fixture, key, None), "{key:?} in {dialect:?}");
            let mut union = Vec::new();
            for realm in REALMS.into_iter().chain(["empty"]) {
                if key.may_use(realm) {
                    let one = walk(&mut fixture, dialect, &authorization, &[("realm", realm)]).await;
                    assert_eq!(one, visible(&fixture, key, Some(realm)), "{key:?} in {dialect:?}");
                    union.extend(one);
                }
            }
            let (all, union): (BTreeSet<_>, BTreeSet<_>) =
                (all.into_iter().collect(), union.into_iter().collect());
            assert_eq!(all, union);
        }
        let prefixed = walk(&mut fixture, Dialect::Rest, &authorization, &[("name_prefix", "b")]).await;
        let expected = visible(&fixture, key, None).into_iter().filter(|place| place.name.starts_with('b'));
        assert_eq!(prefixed, expected.collect::<Vec<_>>());
        // A page has one row. A token that lost its caller's restrictions would show in the second page or later.
        let paged = walk(&mut fixture, Dialect::Rest, &authorization, &[("page_size", "1")]).await;
        assert_eq!(paged, visible(&fixture, key, None), "{key:?} page by page");
    }
}

#[tokio::test]
async fn a_page_token_of_another_caller_is_rejected() {
    let mut fixture = Fixture::open();
    for user in ["alice", "bob"] {
        for name in ["a", "b", "c"] {
            fixture.create(&Place::new(user, "team", name)).await;
        }
    }
    let alice = fixture.master("alice");
    let first = fixture.done(&alice, "ListSecrets", &[("page_size", "1")]).await;
    let token = first["next_page_token"].as_str().expect("there are more").to_owned();
    let next = [("page_size", "1"), ("page_token", &*token)];
    assert_eq!(fixture.done(&alice, "ListSecrets", &next).await["secrets"][0]["name"], "b");
    let bob = fixture.master("bob");
    let limited = bearer(&fixture.issue(&Key::of("alice", &[READ]).limited_to(&["zoo"])));
    for other in [bob, limited] {
        let reply = fixture.call(Dialect::Rest, &other, "ListSecrets", &next).await;
        assert_eq!((reply.code, &*reply.reason), (3, "PAGE_TOKEN_INVALID"), "{}", reply.whole);
    }
}
