//! Generator of random calls.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::sample::select;

/// The realms of calls: none, two ordinary ones, one of the LLM realms, and an invalid one.
pub(crate) const REALMS: [&str; 5] = ["", "default", "mcp", "llm-keys", "no_realm"];
/// The names of calls. The last one is invalid, and one is a prefix of another.
pub(crate) const NAMES: [&str; 4] = ["key", "key.2", "other", "../key"];

#[derive(Clone, Debug)]
pub(crate) struct At {
    pub(crate) realm: usize,
    pub(crate) name: usize,
}

/// The parts that Create writes.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) value: String,
    pub(crate) description: String,
    pub(crate) tags: BTreeMap<String, String>,
    pub(crate) mask: Option<Vec<&'static str>>,
}

type User = Option<&'static str>;

#[derive(Clone, Debug)]
pub(crate) enum Call {
    Create {
        who: usize,
        at: At,
        change: Change,
        user: User,
        expected: Option<i32>,
    },
    Rotate {
        who: usize,
        at: At,
        value: String,
        grace: Option<i64>,
        expected: Option<i32>,
    },
    Delete {
        who: usize,
        at: At,
    },
    Get {
        who: usize,
        at: At,
    },
    Validate {
        who: usize,
        at: At,
    },
    Value {
        who: usize,
        at: At,
        user: User,
        version: i32,
    },
    List {
        who: usize,
        realm: Option<usize>,
        status: &'static str,
        tag: Option<(String, String)>,
        prefix: &'static str,
        page_size: i32,
    },
    /// The clock advances by seconds.
    Advance(i64),
    /// A key is revoked.
    Revoke(usize),
    /// Versions that are due are retired.
    Tend,
}

pub(crate) fn calls() -> impl Strategy<Value = Vec<Call>> {
    prop::collection::vec(call(), 40..100)
}

fn call() -> impl Strategy<Value = Call> {
    let expected = || prop_oneof![6 => Just(None), 3 => (0..4_i32).prop_map(Some), 1 => Just(Some(-1))];
    let user = || prop_oneof![5 => Just(None), 2 => select(vec![Some(""), Some("alice"), Some("bob"), Some("system")])];
    let grace = prop_oneof![
        3 => Just(None),
        4 => select(vec![0, 1, 10, 100, 1000]).prop_map(Some),
        1 => Just(Some(-1_i64)),
    ];
    let status = select(vec!["", "active", "rotated_pending", "retired", "any", "any", "ACTIVE"]);
    let page_size = prop_oneof![3 => 0..3_i32, 1 => Just(2000), 1 => Just(-1)];
    let realm = prop_oneof![2 => Just(None), 3 => (0..REALMS.len()).prop_map(Some)];
    let tag = prop::option::weighted(0.4, (select(vec!["env", "team"]), word()));
    let tag = tag.prop_map(|tag| tag.map(|(key, value)| (key.to_owned(), value)));
    let prefix = select(vec!["", "", "key", "key.", "x"]);
    prop_oneof![
        8 => (who(), at(), change(), user(), expected()).prop_map(|(who, at, change, user, expected)| {
            Call::Create { who, at, change, user, expected }
        }),
        7 => (who(), at(), maybe(word()), grace, expected()).prop_map(|(who, at, value, grace, expected)| {
            Call::Rotate { who, at, value, grace, expected }
        }),
        2 => (who(), at()).prop_map(|(who, at)| Call::Delete { who, at }),
        3 => (who(), at()).prop_map(|(who, at)| Call::Get { who, at }),
        2 => (who(), at()).prop_map(|(who, at)| Call::Validate { who, at }),
        8 => (who(), at(), user(), -1..5_i32).prop_map(|(who, at, user, version)| {
            Call::Value { who, at, user, version: if version == 4 { 0 } else { version } }
        }),
        5 => (who(), realm, status, tag, prefix, page_size).prop_map(
            |(who, realm, status, tag, prefix, page_size)| {
                Call::List { who, realm, status, tag, prefix, page_size }
            }
        ),
        4 => select(vec![1, 9, 10, 90, 900, 90_000]).prop_map(Call::Advance),
        1 => Just(Call::Tend),
        // The first key is never revoked, so that one key with all scopes remains.
        1 => (1..super::KEYS).prop_map(Call::Revoke),
    ]
}

fn who() -> impl Strategy<Value = usize> {
    prop_oneof![3 => Just(0), 2 => 1..super::KEYS]
}

fn at() -> impl Strategy<Value = At> {
    // Most calls are for a few secrets, so that these pass through all states.
    let realm = prop_oneof![8 => Just(1_usize), 4 => Just(3), 2 => Just(0), 2 => Just(2), 1 => Just(4)];
    let name = prop_oneof![12 => Just(0_usize), 3 => Just(1), 2 => Just(2), 1 => Just(3)];
    (realm, name).prop_map(|(realm, name)| At { realm, name })
}

fn word() -> impl Strategy<Value = String> {
    select(vec!["a", "b", "ü"]).prop_map(str::to_owned)
}

/// Empty one time in four.
fn maybe(word: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    prop::option::weighted(0.75, word).prop_map(Option::unwrap_or_default)
}

fn change() -> impl Strategy<Value = Change> {
    let tags = prop::collection::btree_map(select(vec!["env", "team"]).prop_map(str::to_owned), word(), 0..3);
    let field = select(vec!["description", "tags", "value", "value", "description", "tags", "name"]);
    let mask = prop::option::weighted(0.25, prop::collection::vec(field, 0..3));
    (maybe("[a-z]{1,12}".prop_map(String::from)), maybe(word()), tags, mask)
        .prop_map(|(value, description, tags, mask)| Change { value, description, tags, mask })
}
