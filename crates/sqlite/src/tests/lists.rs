//! Tests of the number of steps that a list takes.

use rusqlite::{Connection, params};

use super::open;
use crate::{list, reader::Readers};
use agentrouter_store::conformance::fixtures::{everything, tags};
use agentrouter_store::prelude::*;
use agentrouter_store::{ListQuery, StatusFilter};

const SECRETS: i32 = 6_000;

/// Six thousand secrets of one owner in one realm: the even ones have the tag `half=even`, the odd ones `half=odd`; the
/// first ten `edge=low`, the last ten `edge=high`; every thousandth has `rare=yes`. Version 1 is pending in none.
fn fill(path: &std::path::Path) {
    let mut conn = Connection::open(path).expect("opened");
    let tx = conn.transaction().expect("started");
    for i in 0..SECRETS {
        let name = format!("n{i:05}");
        let mut pairs = vec![("half", if i % 2 == 0 { "even" } else { "odd" })];
        match i {
            0..10 => pairs.push(("edge", "low")),
            _ if i >= SECRETS - 10 => pairs.push(("edge", "high")),
            _ => {}
        }
        if i % 1_000 == 0 {
            pairs.push(("rare", "yes"));
        }
        let id = agentrouter_store::conformance::fixtures::new_id().to_string();
        let json = agentrouter_store::json::from_tags(&tags(&pairs)).expect("JSON");
        tx.execute(
            "INSERT INTO secrets (owner, realm, name, id, description, tags, created_at, updated_at, version, kek_id, \
             version_id) VALUES ('alice', 'mcp', ?1, ?2, '', ?3, 0, 0, 1, 'k', ?4)",
            params![name, id, json, i],
        )
        .expect("inserted");
        tx.execute(
            "INSERT INTO versions (id, owner, realm, name, secret_id, version, kek_id, wrapped_dek, sealed) \
             VALUES (?3, 'alice', 'mcp', ?1, ?2, 1, 'k', x'00', x'00')",
            params![name, id, i],
        )
        .expect("inserted");
        for (key, value) in pairs {
            let sql = "INSERT INTO secret_tags (owner, realm, name, key, value) VALUES ('alice', 'mcp', ?1, ?2, ?3)";
            tx.execute(sql, params![name, key, value]).expect("inserted");
        }
    }
    tx.commit().expect("committed");
}

fn query(pairs: &[(&str, &str)], statuses: StatusFilter) -> ListQuery {
    ListQuery { tags: tags(pairs), statuses, limit: 50, ..everything("alice") }
}

#[tokio::test]
async fn tags_without_a_common_secret_are_found_by_index_in_bounded_steps() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("s.db");
    let store = open(&path);
    fill(&path);
    let readers = Readers::new(path, None);
    let within = |query: &ListQuery, budget| {
        let listed = readers.with(|conn| list::list(conn, query, budget, None)).expect("read");
        listed.map(|listed| listed.page.len())
    };
    for statuses in [StatusFilter::Active, StatusFilter::Any] {
        // The tags are far apart, so a few look-ups suffice, however many secrets have each tag.
        let apart = query(&[("edge", "low"), ("edge2", "high")], statuses);
        assert_eq!(within(&apart, 10), Some(0));
        let apart = query(&[("edge", "high"), ("half", "even"), ("rare", "yes")], statuses);
        assert_eq!(within(&apart, 40), Some(0));
        // The tags alternate, so the walk reads to the end. It must not block the caller's thread.
        let turns = query(&[("half", "even"), ("half2", "odd"), ("rare", "yes")], statuses);
        assert_eq!(within(&turns, 40), Some(0));
        let few = query(&[("half", "even"), ("rare", "yes")], statuses);
        assert_eq!(within(&few, 60), Some(6));
        // A page takes one step for each row, and a few look-ups.
        let many = query(&[("edge", "low"), ("half", "even")], statuses);
        assert_eq!(within(&many, 60), Some(5));
    }
    assert_eq!(store.stats().damaged, 0);
}

#[tokio::test]
async fn a_list_of_many_steps_runs_on_another_thread_with_the_same_result() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("s.db");
    let store = open(&path);
    fill(&path);
    // The names alternate: half of them have one tag, and the others have the other tag.
    let conn = Connection::open(&path).expect("opened");
    conn.execute_batch(
        "INSERT INTO secret_tags SELECT owner, 'turn', 'odd', realm, name FROM secret_tags WHERE value = 'odd'",
    )
    .expect("inserted");
    let turns = query(&[("half", "even"), ("turn", "odd")], StatusFilter::Active);
    let readers = Readers::new(path, None);
    let inline = readers.with(|conn| list::list(conn, &turns, list::INLINE, None)).expect("read");
    assert!(inline.is_none(), "it takes more steps than its budget");
    let (one, two, three) = tokio::join!(store.list(&turns), store.list(&turns), store.list(&turns));
    for list in [one, two, three] {
        assert_eq!(list.expect("read").rows, []);
    }
    // One secret in the last pages has both.
    conn.execute_batch("INSERT INTO secret_tags VALUES ('alice', 'turn', 'odd', 'mcp', 'n05998')")
        .expect("inserted");
    conn.execute_batch(
        "UPDATE secrets SET tags = '{\"half\":\"even\",\"turn\":\"odd\"}' WHERE name = 'n05998'",
    )
    .expect("updated");
    let found = store.list(&turns).await.expect("read").rows;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].place.name.as_str(), "n05998");
}

#[tokio::test]
async fn a_walk_of_many_steps_is_divided_into_pages_with_the_same_result() {
    const STEPS: usize = 500;
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("s.db");
    let store = open(&path);
    fill(&path);
    let conn = Connection::open(&path).expect("opened");
    conn.execute_batch(
        "INSERT INTO secret_tags SELECT owner, 'all', 'yes', realm, name FROM secret_tags WHERE key = 'half'; \
         UPDATE secrets SET tags = json_insert(tags, '$.all', 'yes')",
    )
    .expect("a tag that all have");
    // No version is retired, so a list of retired ones reads each name that has the tags, and shows none.
    for (pairs, statuses) in [
        (&[("half", "even")][..], StatusFilter::Retired),
        (&[("half", "even"), ("all", "yes")], StatusFilter::Retired),
        (&[("half", "even"), ("all", "yes")], StatusFilter::Active),
        (&[("half", "even")], StatusFilter::Any),
        (&[("half", "even")], StatusFilter::Active),
        (&[], StatusFilter::Any),
    ] {
        let all = ListQuery { limit: 10_000, ..query(pairs, statuses) };
        let whole = store.list(&all).await.expect("read").rows;
        let mut query = ListQuery { steps: STEPS, ..all };
        let (mut found, mut pages) = (Vec::new(), 0);
        loop {
            let page = store.list(&query).await.expect("read");
            found.extend(page.rows);
            pages += 1;
            match page.stopped {
                Some(next) => query.after = Some(next),
                None => break,
            }
        }
        assert_eq!(found, whole, "{pairs:?}");
        assert!((6..=30).contains(&pages), "{pairs:?} {statuses:?} in {pages} pages");
    }
}
