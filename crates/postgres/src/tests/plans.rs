//! Tests of the plans that PostgreSQL makes for the statements.

use crate::testing::Postgres;
use crate::{ConnectOptions, sql};
use tokio::time::Instant;

/// Statements that may read a whole table: at the start, for an administrator, when the KEK changes, by an index that holds
/// only due rows, or of a table that holds only the changes in progress or the servers.
const WHOLE: [&str; 14] = [
    "Keys",
    "AnyKey",
    "KekChecks",
    "InsertFirstKey",
    "IssueKey",
    "NextDue",
    "Registrations",
    "Namesakes",
    "Look",
    "Renew",
    "InternalKeys",
    "RetireKek",
    "ForgetReports",
    "KekReports",
];

/// Inserts secrets of several owners and updates the statistics.
const ROWS: &str = "SET search_path = agentrouter_secrets; \
    INSERT INTO secrets SELECT 'o' || i % 20, 'r' || i % 3, 'n' || i, 'id' || i, '', '{}', 0, 0, NULL, 2, 'k' \
    FROM generate_series(1, 4000) AS i; \
    INSERT INTO versions SELECT 'id' || i, 1, 'o' || i % 20, 'r' || i % 3, 'n' || i, \
    CASE i % 2 WHEN 0 THEN 'retired' ELSE 'rotated_pending' END, 5, 'k', CASE i % 2 WHEN 0 THEN NULL ELSE 'w' END::bytea, \
    CASE i % 2 WHEN 0 THEN NULL ELSE 's' END::bytea FROM generate_series(1, 4000) AS i; \
    INSERT INTO versions SELECT 'id' || i, 2, 'o' || i % 20, 'r' || i % 3, 'n' || i, 'active', NULL, 'k', 'w', 's' \
    FROM generate_series(1, 4000) AS i; \
    INSERT INTO secret_tags SELECT 'o' || i % 20, 'k' || t, 'v' || i % 5, 'r' || i % 3, 'n' || i \
    FROM generate_series(1, 4000) AS i, generate_series(1, 3) AS t; \
    ANALYZE secrets, versions, secret_tags";

/// The plan of a statement in a session of this engine.
fn plan(database: &str, sql: &str) -> Vec<String> {
    let parameters = (1..=20).rev().find(|n| sql.contains(&format!("${n}"))).unwrap_or(0);
    let nulls = vec!["NULL"; parameters].join(", ");
    let arguments = if nulls.is_empty() { String::new() } else { format!("({nulls})") };
    let session = crate::link::SESSION;
    let script = format!("{session}; PREPARE p AS {sql}; EXPLAIN (COSTS OFF) EXECUTE p{arguments}");
    Postgres::shared().sql(database, &script).lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn no_statement_of_the_request_path_reads_a_whole_table_or_index() {
    let server = Postgres::shared();
    let database = server.database();
    let target = ConnectOptions::parse(&server.url(&database), None).expect("a URL");
    let dialer = crate::link::Dialer::new(target);
    let deadline = Instant::now() + std::time::Duration::from_secs(20);
    crate::migrate::run(&dialer, deadline).await.expect("migrated");
    // Checks the plans for empty tables, then for tables with rows.
    good(&database);
    server.sql(&database, ROWS);
    good(&database);
}

/// Fails on a plan that reads more than it must.
fn good(database: &str) {
    for (name, sql) in sql::NAMES.iter().zip(sql::ALL) {
        if WHOLE.contains(name) {
            continue;
        }
        let steps = plan(database, sql);
        for (i, step) in steps.iter().enumerate() {
            assert!(!step.contains("Seq Scan on"), "{name}: {steps:#?}");
            if step.contains("Index Scan using") || step.contains("Index Only Scan using") {
                let below = steps.get(i + 1).map_or("", |below| below.trim());
                assert!(below.starts_with("Index Cond: "), "{name}: {steps:#?}");
            }
        }
    }
    for name in ["ListActive", "ListActiveTagged", "ListPending", "ListRetired", "ListAny"] {
        let at = sql::NAMES.iter().position(|known| known == &name).expect("a statement");
        let text = plan(database, sql::ALL[at]).join("\n");
        assert!(text.matches("ROW(").count() >= 4, "{name} reads a range of its index: {text}");
        let sorts = text.matches("Sort Key").count();
        assert_eq!(sorts, usize::from(name.ends_with("Tagged")) + 1, "{name} sorts its page only: {text}");
    }
    let steps = |name: &str| {
        let at = sql::NAMES.iter().position(|known| *known == name).expect("a statement");
        plan(database, sql::ALL[at])
    };
    for name in ["ListPendingTagged", "ListRetiredTagged", "ListAnyTagged"] {
        let text = steps(name).join("\n");
        // The versions of one name at a time, beside the tags and the page.
        let sorts = ["Sort Key", "Presorted Key"].map(|kind| text.matches(kind).count());
        assert_eq!(sorts, [3, 1], "{name} sorts no range: {text}");
    }
    for name in ["Active", "Version", "Readable"] {
        let steps = steps(name);
        for (i, _) in steps.iter().enumerate().filter(|(_, step)| step.contains(" on versions ")) {
            assert!(steps[i + 1].contains("(version "), "{name} reads one version by its number: {steps:#?}");
        }
    }
}

#[test]
fn every_statement_on_secrets_names_an_owner_and_a_realm() {
    for (name, sql) in sql::NAMES.iter().zip(sql::ALL) {
        // The schema and its channel have the word in their names.
        let text = sql.replace("agentrouter_secrets", "");
        let on_secrets = ["secrets", "versions", "secret_tags"].iter().any(|table| text.contains(table));
        if !on_secrets || ["Due", "NextDue", "KekUse"].contains(name) {
            continue;
        }
        assert!(sql.contains("owner") && sql.contains("realm"), "{name}: {sql}");
        let joined = sql.matches("FROM secrets s").count() + sql.matches("JOIN secrets s").count();
        let owned = sql.matches("s.owner = ").count();
        assert!(owned >= joined, "{name}: {sql}");
    }
}
