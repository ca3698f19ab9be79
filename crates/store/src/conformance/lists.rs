//! Cases of lists and their pages.

use agentrouter_model::PageCursor;

use super::fixtures::*;
use crate::{ListQuery, ListScope, Realms, StatusFilter};

pub(super) async fn filters_by_status(store: Shared) {
    let place = place("alice/mcp/a");
    put(&store, &place, "v1").await;
    store.upsert(upsert(&place, at(0), Some("v2"))).await.expect("changed");
    rotate(&store, &place, 0, 10).await;
    rotate(&store, &place, 0, 20).await;
    put(&store, &super::fixtures::place("alice/mcp/b"), "v1").await;
    put(&store, &super::fixtures::place("bob/mcp/a"), "v1").await;
    let seen = async |statuses, now| {
        let query = ListQuery { statuses, now: at(now), ..everything("alice") };
        let rows = list(&store, &query).await;
        rows.iter().map(|secret| format!("{} {}", brief(secret), secret.status)).collect::<Vec<_>>()
    };
    assert_eq!(seen(StatusFilter::Active, 0).await, ["mcp/a@4 active", "mcp/b@1 active"]);
    assert_eq!(
        seen(StatusFilter::RotatedPending, 9).await,
        ["mcp/a@2 rotated_pending", "mcp/a@3 rotated_pending"]
    );
    assert_eq!(seen(StatusFilter::Retired, 9).await, ["mcp/a@1 retired"]);
    assert_eq!(seen(StatusFilter::RotatedPending, 10).await, ["mcp/a@3 rotated_pending"]);
    assert_eq!(seen(StatusFilter::Retired, 10).await, ["mcp/a@1 retired", "mcp/a@2 retired"]);
    let any =
        ["mcp/a@1 retired", "mcp/a@2 retired", "mcp/a@3 rotated_pending", "mcp/a@4 active", "mcp/b@1 active"];
    assert_eq!(seen(StatusFilter::Any, 10).await, any);
    store.retire_expired(at(10), 10).await.expect("retired");
    assert_eq!(seen(StatusFilter::Any, 10).await, any, "it looks the same once the ciphertext is destroyed");
    let pending = ListQuery { statuses: StatusFilter::RotatedPending, now: at(10), ..everything("alice") };
    let rows = list(&store, &pending).await;
    assert_eq!((rows[0].expires_at, rows[0].version), (Some(at(20)), version(3)));
    assert_eq!(rows[0].rotated_at, Some(at(0)));
}

pub(super) async fn pages_follow_one_another(store: Shared) {
    let mut all = Vec::new();
    for realm in ["a", "b", "b-b"] {
        for name in ["A", "Z", "a", "a-a", "a.a", "aa", "b"] {
            let text = format!("alice/{realm}/{name}");
            put(&store, &place(&text), "v").await;
            put(&store, &place(&text.replace("alice", "bob")), "v").await;
            all.push(format!("{realm}/{name}@1"));
        }
    }
    for size in [1, 2, 3, 7, 21, 22] {
        assert_eq!(walk(&store, &everything("alice"), size).await, all, "pages of {size}");
    }
    for place in ["alice/a/Z", "alice/b/a"].map(place) {
        for _ in 0..3 {
            rotate(&store, &place, 0, 10).await;
        }
    }
    let any = ListQuery { statuses: StatusFilter::Any, ..everything("alice") };
    let whole = walk(&store, &any, 1000).await;
    assert_eq!(whole.len(), 27);
    for statuses in [StatusFilter::Any, StatusFilter::RotatedPending, StatusFilter::Retired] {
        for now in [5, 10] {
            let query = ListQuery { statuses, now: at(now), ..everything("alice") };
            let whole = walk(&store, &query, 1000).await;
            for size in [1, 2, 5] {
                assert_eq!(walk(&store, &query, size).await, whole, "{statuses:?} in pages of {size}");
            }
        }
    }
}

pub(super) async fn scopes_are_merged(store: Shared) {
    for text in
        ["alice/b/x", "alice/d/x", "alice/llm/a-own", "system/a/x", "system/c/x", "system/llm/key", "bob/b/x"]
    {
        put(&store, &place(text), "v").await;
    }
    let only = |id: &str, realms: &[&str]| ListScope {
        owner: owner(id),
        realms: Realms::Only(realms.iter().map(|text| realm(text)).collect()),
    };
    let all = |id: &str| ListScope { owner: owner(id), realms: Realms::All };
    let seen = async |scopes: Vec<ListScope>, size| {
        walk(&store, &ListQuery { scopes, ..everything("x") }, size).await
    };
    for size in [1, 2, 100] {
        assert_eq!(seen(vec![], size).await, [""; 0]);
        assert_eq!(seen(vec![only("alice", &[])], size).await, [""; 0]);
        assert_eq!(seen(vec![only("alice", &["d", "b", "d", "zz"])], size).await, ["b/x@1", "d/x@1"]);
        assert_eq!(
            seen(vec![only("system", &["llm", "c"]), only("alice", &["d", "b"])], size).await,
            ["b/x@1", "c/x@1", "d/x@1", "llm/key@1"]
        );
        assert_eq!(
            seen(vec![all("alice"), only("alice", &["b"]), only("system", &["a", "c"])], size).await,
            ["a/x@1", "b/x@1", "c/x@1", "d/x@1", "llm/a-own@1"]
        );
    }
    let both = vec![all("alice"), only("system", &["llm"])];
    assert_eq!(seen(both, 100).await, ["b/x@1", "d/x@1", "llm/a-own@1", "llm/key@1"]);
}

pub(super) async fn prefixes_and_tags_filter(store: Shared) {
    put_tagged(&store, "alice/a/key-1", &[("env", "prod"), ("team", "x")]).await;
    put_tagged(&store, "alice/a/key-2", &[("env", "prod")]).await;
    put_tagged(&store, "alice/a/key.3", &[("env", "test"), ("team", "x")]).await;
    put_tagged(&store, "alice/b/key-1", &[("env", "prod"), ("team", "x"), ("z", "")]).await;
    put_tagged(&store, "alice/b/other", &[("team", "x"), ("prod", "env")]).await;
    put_tagged(&store, "bob/a/key-1", &[("env", "prod"), ("team", "x")]).await;
    for _ in 0..2 {
        rotate(&store, &place("alice/b/key-1"), 0, 10).await;
    }
    let seen = async |statuses, prefix: &str, pairs: &[(&str, &str)]| {
        let query = ListQuery {
            statuses,
            name_prefix: (!prefix.is_empty()).then(|| prefix.to_owned()),
            tags: tags(pairs),
            ..everything("alice")
        };
        let whole = walk(&store, &query, 100).await;
        for size in [1, 2] {
            assert_eq!(walk(&store, &query, size).await, whole, "{prefix} {pairs:?} in pages of {size}");
        }
        whole
    };
    let active = StatusFilter::Active;
    assert_eq!(seen(active, "key-", &[]).await, ["a/key-1@1", "a/key-2@1", "b/key-1@3"]);
    assert_eq!(seen(active, "key-1", &[]).await, ["a/key-1@1", "b/key-1@3"]);
    assert_eq!(seen(active, "key-11", &[]).await, [""; 0]);
    assert_eq!(seen(active, "%", &[]).await, [""; 0]);
    assert_eq!(seen(active, "é", &[]).await, [""; 0]);
    assert_eq!(seen(active, "", &[("env", "prod")]).await, ["a/key-1@1", "a/key-2@1", "b/key-1@3"]);
    assert_eq!(seen(active, "", &[("env", "prod"), ("team", "x")]).await, ["a/key-1@1", "b/key-1@3"]);
    assert_eq!(seen(active, "o", &[("team", "x")]).await, ["b/other@1"]);
    assert_eq!(seen(active, "", &[("z", "")]).await, ["b/key-1@3"]);
    assert_eq!(seen(active, "", &[("env", "")]).await, [""; 0]);
    assert_eq!(seen(active, "", &[("env", "prod"), ("team", "y")]).await, [""; 0]);
    let pending = StatusFilter::RotatedPending;
    assert_eq!(seen(pending, "", &[("env", "prod")]).await, ["b/key-1@1", "b/key-1@2"]);
    assert_eq!(seen(pending, "key", &[("env", "prod"), ("z", "")]).await, ["b/key-1@1", "b/key-1@2"]);
    assert_eq!(seen(StatusFilter::Any, "key-1", &[("team", "x")]).await.len(), 4);
    assert_eq!(seen(StatusFilter::Retired, "", &[("team", "x")]).await, [""; 0]);
}

pub(super) async fn limits_and_cursors_at_the_edge(store: Shared) {
    for text in ["alice/b/m", "alice/c/m"] {
        put(&store, &place(text), "v").await;
    }
    assert!(list(&store, &ListQuery { limit: 0, ..everything("alice") }).await.is_empty());
    let after = async |text: &str, number, prefix: Option<&str>| {
        let at = place(&format!("alice/{text}"));
        let after = PageCursor { realm: at.realm, name: at.name, version: version(number) };
        let query =
            ListQuery { after: Some(after), name_prefix: prefix.map(str::to_owned), ..everything("alice") };
        list(&store, &query).await.iter().map(brief).collect::<Vec<_>>()
    };
    assert_eq!(after("a/zzz", 1, None).await, ["b/m@1", "c/m@1"], "a cursor need not exist");
    assert_eq!(after("b/a", 9, None).await, ["b/m@1", "c/m@1"]);
    assert_eq!(after("b/m", 1, None).await, ["c/m@1"]);
    assert_eq!(after("b/a", 1, Some("m")).await, ["b/m@1", "c/m@1"]);
    assert_eq!(after("b/z", 1, Some("m")).await, ["c/m@1"]);
    assert_eq!(after("c/m", 1, None).await, [""; 0]);
    assert_eq!(after("d/a", 1, None).await, [""; 0]);

    rotate(&store, &place("alice/b/m"), 0, 10).await;
    assert_eq!(after("b/m", 1, None).await, ["c/m@1"], "a secret rotated meanwhile is not shown again");
}

/// Pages that end early, by their bytes or by the steps they take, continue where they ended.
pub(super) async fn bounded_pages_show_every_row_once(store: Shared) {
    for number in 0..24 {
        let (realm, owner) = (["a", "b", "llm"][number % 3], ["alice", "bob"][number / 3 % 2]);
        let pairs: &[(&str, &str)] = match number % 4 {
            0 => &[("even", "yes"), ("third", "no")],
            1 => &[("third", "no")],
            2 => &[("even", "yes")],
            _ => &[],
        };
        let at = format!("{owner}/{realm}/key-{number:02}");
        put_tagged(&store, &at, pairs).await;
        if number % 2 == 0 {
            rotate(&store, &place(&at), 0, 10).await;
        }
    }
    let all = |id: &str| ListScope { owner: owner(id), realms: Realms::All };
    for scopes in [vec![all("alice")], vec![all("bob"), all("alice")]] {
        bounded_pages_of(&store, scopes).await;
    }
}

async fn bounded_pages_of(store: &Shared, scopes: Vec<ListScope>) {
    let both: &[(&str, &str)] = &[("even", "yes"), ("third", "no")];
    for statuses in
        [StatusFilter::Active, StatusFilter::RotatedPending, StatusFilter::Retired, StatusFilter::Any]
    {
        for pairs in [&[][..], &[("even", "yes")], both] {
            let query =
                ListQuery { scopes: scopes.clone(), statuses, tags: tags(pairs), ..everything("alice") };
            let whole = walk(store, &query, 100).await;
            for (bytes, steps, limit) in
                [(1, usize::MAX, 100), (usize::MAX, 1, 100), (1_000, 7, 2), (1_000, 7, 100), (3_000, 50, 100)]
            {
                let mut query = ListQuery { bytes, steps, limit, ..query.clone() };
                let mut seen = Vec::new();
                loop {
                    let page = store.list(&query).await.expect("listed");
                    assert!(bytes > 1 || page.rows.len() <= 1, "one row, however large");
                    let next = page.stopped.or_else(|| page.rows.last().map(PageCursor::of));
                    seen.extend(page.rows.iter().map(brief));
                    assert!(query.after.is_none() || query.after != next, "it gets further");
                    let Some(next) = next else { break };
                    query.after = Some(next);
                }
                assert_eq!(seen, whole, "{statuses:?} {pairs:?} in {bytes} bytes and {steps} steps");
            }
        }
    }
}
