//! Tests of the number of steps that a list takes.

use agentrouter_store::conformance::fixtures::{everything, tags};
use agentrouter_store::prelude::*;
use agentrouter_store::{ListQuery, StatusFilter};

use super::open;
use crate::testing::Postgres;

/// Six thousand secrets of one owner in one realm. All have the tag `all=yes`. The even ones have `half=even`, the odd ones
/// `turn=odd`. Version 1 of each is pending, and its grace is over. Version 2 is active. Another owner has a secret in each
/// of a thousand realms.
const ROWS: &str = "SET search_path = agentrouter_secrets; \
    INSERT INTO secrets SELECT 'alice', 'mcp', 'n' || lpad(i::text, 5, '0'), \
    '01ARZ3NDEKTSV4RRFFQ69' || lpad(i::text, 5, '0'), '', CASE i % 2 WHEN 0 THEN '{\"all\":\"yes\",\"half\":\"even\"}' \
    ELSE '{\"all\":\"yes\",\"turn\":\"odd\"}' END, 0, 0, NULL, 2, 'k' FROM generate_series(1, 6000) AS i; \
    INSERT INTO versions SELECT id, v, owner, realm, name, CASE v WHEN 1 THEN 'rotated_pending' ELSE 'active' END, \
    CASE v WHEN 1 THEN 5 END, 'k', 'w', 's' FROM secrets, generate_series(1, 2) AS v WHERE owner = 'alice'; \
    INSERT INTO secret_tags SELECT owner, t.key, t.value, realm, name FROM secrets \
    CROSS JOIN LATERAL json_each_text(tags::json) AS t(key, value); \
    INSERT INTO secrets SELECT 'bob', 'r' || lpad(i::text, 4, '0'), 'n', \
    '01ARZ3NDEKTSV4RRFFQ70' || lpad(i::text, 5, '0'), '', '{}', 0, 0, NULL, 1, 'k' FROM generate_series(1, 1000) AS i; \
    INSERT INTO versions SELECT id, 1, owner, realm, name, 'active', NULL, 'k', 'w', 's' FROM secrets \
    WHERE owner = 'bob'; ANALYZE secrets, versions, secret_tags";

/// An owner, tags, statuses and a prefix; the rows of the list, and the fewest pages of it.
type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], StatusFilter, Option<&'a str>, usize, usize);

#[tokio::test]
async fn a_walk_of_many_steps_is_divided_into_pages_with_the_same_result() {
    const STEPS: usize = 1_000;
    let server = Postgres::shared();
    let database = server.database();
    let store = open(&server.url(&database)).await;
    server.sql(&database, ROWS);
    let (all, half, turn) = (("all", "yes"), ("half", "even"), ("turn", "odd"));
    let cases: [Case<'_>; 9] = [
        ("alice", &[], StatusFilter::RotatedPending, None, 0, 6),
        ("alice", &[], StatusFilter::Any, None, 12_000, 12),
        ("alice", &[all], StatusFilter::RotatedPending, None, 0, 6),
        ("alice", &[all], StatusFilter::Retired, None, 6_000, 6),
        ("alice", &[all], StatusFilter::Active, None, 6_000, 6),
        ("alice", &[half, all], StatusFilter::Active, None, 3_000, 6),
        ("alice", &[half, turn], StatusFilter::Active, None, 0, 6),
        ("alice", &[half, turn], StatusFilter::Any, None, 0, 12),
        ("bob", &[], StatusFilter::Active, Some("other"), 0, 2),
    ];
    for (owner, pairs, statuses, prefix, rows, least) in cases {
        let name_prefix = prefix.map(str::to_owned);
        let whole =
            ListQuery { tags: tags(pairs), statuses, name_prefix, limit: 20_000, ..everything(owner) };
        let found = store.list(&whole).await.expect("read");
        assert_eq!((found.rows.len(), &found.stopped), (rows, &None), "{owner} {pairs:?} {statuses:?}");
        let mut query = ListQuery { steps: STEPS, ..whole };
        let (mut shown, mut pages) = (Vec::new(), 0);
        loop {
            let page = store.list(&query).await.expect("read");
            assert!(page.rows.len() <= STEPS, "{} rows in {STEPS} steps", page.rows.len());
            shown.extend(page.rows);
            pages += 1;
            match page.stopped {
                Some(next) => query.after = Some(next),
                None => break,
            }
        }
        assert_eq!(shown, found.rows, "{owner} {pairs:?} {statuses:?}");
        assert!((least..=4 * least).contains(&pages), "{owner} {pairs:?} {statuses:?} in {pages} pages");
    }
    assert_eq!(store.stats().damaged, 0);
}
