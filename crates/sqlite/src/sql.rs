//! Every statement of the engine, as constants. No statement is composed at run time.
//!
//! Every statement that reads or writes secrets names an owner and a realm in its `WHERE`. The exceptions are the reaper's
//! look at its own index of due versions, and the walks over all wrapped keys when the KEK changes. A test checks both
//! rules, and checks each plan with `EXPLAIN`: no statement of the request path may scan a table or sort in memory.
//!
//! A version is a row of one of three tables by its status: `secrets` (the active one), `pending`, `retired`. A list of
//! several statuses merges one range of each, in order.
//!
//! `CROSS JOIN` and `INDEXED BY` fix the plans, so that they do not depend on the data.

/// The columns that [`rows::secret`](super::rows::secret) reads first, of the secret itself.
macro_rules! secret_columns {
    () => {
        secret_columns!("s.name")
    };
    // The name from the driving table, so that SQLite sees that the rows are already in order.
    ($name:literal) => {
        concat!(
            "s.owner, s.realm, ",
            $name,
            ", s.id, s.description, s.tags, s.created_at, s.updated_at, s.rotated_at, "
        )
    };
}

/// The columns of a version that follow them, by its status. After them come the number of the active version, the tag of
/// the secret's row, and the tag of the version's row, if it has a row of its own.
macro_rules! version_columns {
    (active) => {
        "s.version, 'active', NULL, s.kek_id, s.version, s.tag, NULL"
    };
    (pending) => {
        "p.version, 'rotated_pending', p.expires_at, p.kek_id, s.version, s.tag, p.tag"
    };
    (retired) => {
        "r.version, 'retired', r.expires_at, r.kek_id, s.version, s.tag, r.tag"
    };
}

/// What [`rows::listed`](super::rows::listed) reads of an active version: without what a whole list has in common.
macro_rules! listed_columns {
    () => {
        "s.name, s.id, s.description, s.tags, s.created_at, s.updated_at, s.rotated_at, s.version, s.kek_id, s.tag"
    };
}

/// A secret's place.
macro_rules! at_place {
    () => {
        "s.owner = ?1 AND s.realm = ?2 AND s.name = ?3"
    };
}

/// The versions of a place, by their status, with the sealed value. An outer join, so that a missing sealed value is
/// detected.
macro_rules! sealed {
    (active) => {
        concat!(
            "SELECT ",
            secret_columns!(),
            version_columns!(active),
            ", v.wrapped_dek, v.sealed FROM secrets s LEFT JOIN versions v ON v.id = s.version_id ",
            "AND v.owner = s.owner AND v.realm = s.realm AND v.name = s.name AND v.secret_id = s.id ",
            "AND v.version = s.version AND v.kek_id = s.kek_id "
        )
    };
    (pending) => {
        concat!(
            "SELECT ",
            secret_columns!(),
            version_columns!(pending),
            ", v.wrapped_dek, v.sealed FROM pending p CROSS JOIN secrets s LEFT JOIN versions v ON v.id = p.version_id ",
            "AND v.owner = s.owner AND v.realm = s.realm AND v.name = s.name AND v.secret_id = s.id ",
            "AND v.version = p.version AND v.kek_id = p.kek_id "
        )
    };
    (retired) => {
        concat!(
            "SELECT ",
            secret_columns!(),
            version_columns!(retired),
            ", NULL, NULL FROM retired r CROSS JOIN secrets s "
        )
    };
}
macro_rules! pending_at_place {
    () => {
        concat!("p.owner = ?1 AND p.realm = ?2 AND p.name = ?3 AND ", at_place!())
    };
}
macro_rules! retired_at_place {
    () => {
        concat!("r.owner = ?1 AND r.realm = ?2 AND r.name = ?3 AND ", at_place!())
    };
}

/// A part of a list: the versions of one status after (?3, ?4) and before the name ?5.
macro_rules! list {
    (active) => {
        concat!(
            "SELECT ",
            secret_columns!(),
            version_columns!(active),
            " FROM secrets s WHERE s.owner = ?1 AND s.realm = ?2 AND (s.name, s.version) > (?3, ?4) AND s.name < ?5 "
        )
    };
    (pending) => {
        concat!(
            "SELECT ",
            secret_columns!("p.name"),
            version_columns!(pending),
            " FROM pending p CROSS JOIN secrets s WHERE p.owner = ?1 AND p.realm = ?2 ",
            "AND (p.name, p.version) > (?3, ?4) AND p.name < ?5 AND s.owner = ?1 AND s.realm = ?2 AND s.name = p.name "
        )
    };
    (retired) => {
        concat!(
            "SELECT ",
            secret_columns!("r.name"),
            version_columns!(retired),
            " FROM retired r CROSS JOIN secrets s WHERE r.owner = ?1 AND r.realm = ?2 ",
            "AND (r.name, r.version) > (?3, ?4) AND r.name < ?5 AND s.owner = ?1 AND s.realm = ?2 AND s.name = r.name "
        )
    };
}

/// By name and version, which are columns 3 and 10 of what is selected.
macro_rules! in_order {
    () => {
        "ORDER BY 3, 10"
    };
}

macro_rules! statements {
    ($($(#[$doc:meta])* $name:ident = $sql:expr;)*) => {
        $($(#[$doc])* pub(super) const $name: &str = $sql;)*
        #[cfg(test)]
        const ALL: &[(&str, &str)] = &[$((stringify!($name), $name)),*];
    };
}

statements! {
    /// The secret at a place: its metadata and its active version's, and the row of that one's sealed value.
    SECRET = concat!(
        "SELECT ", secret_columns!(), version_columns!(active), ", s.version_id FROM secrets s WHERE ", at_place!()
    );
    /// The same with the sealed value.
    ACTIVE = concat!(sealed!(active), "WHERE ", at_place!());
    /// One version, ?4, with the sealed value.
    VERSION = concat!(
        sealed!(active), "WHERE ", at_place!(), " AND s.version = ?4 UNION ALL ",
        sealed!(pending), "WHERE ", pending_at_place!(), " AND p.version = ?4 UNION ALL ",
        sealed!(retired), "WHERE ", retired_at_place!(), " AND r.version = ?4"
    );
    /// At most ?6 versions of a secret that are pending at the instant ?4, the newest before version ?5 first, with the
    /// sealed values.
    PENDING = concat!(
        sealed!(pending), "WHERE ", pending_at_place!(),
        " AND p.version < ?5 AND p.expires_at > ?4 ORDER BY p.version DESC LIMIT ?6"
    );

    INSERT_SECRET = "INSERT INTO secrets (owner, realm, name, id, description, tags, created_at, updated_at, \
         rotated_at, version, kek_id, version_id, tag) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)";
    UPDATE_SECRET = "UPDATE secrets SET description = ?5, tags = ?6, updated_at = ?7, rotated_at = ?8, version = ?9, \
         kek_id = ?10, version_id = ?11, tag = ?12 WHERE owner = ?1 AND realm = ?2 AND name = ?3 AND id = ?4";
    DELETE_SECRET = "DELETE FROM secrets WHERE owner = ?1 AND realm = ?2 AND name = ?3";
    INSERT_VERSION = "INSERT INTO versions (owner, realm, name, secret_id, version, kek_id, wrapped_dek, sealed) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    /// The sealed value in the row ?6, if it is of that version.
    DELETE_VERSION = "DELETE FROM versions WHERE id = ?6 AND owner = ?1 AND realm = ?2 AND name = ?3 \
         AND secret_id = ?4 AND version = ?5";
    /// The sealed values of a place to which its rows refer.
    DELETE_VERSIONS = "DELETE FROM versions WHERE id IN (\
         SELECT version_id FROM secrets WHERE owner = ?1 AND realm = ?2 AND name = ?3 UNION ALL \
         SELECT version_id FROM pending WHERE owner = ?1 AND realm = ?2 AND name = ?3) \
         AND owner = ?1 AND realm = ?2 AND name = ?3";
    /// For a secret with a damaged row: all of its sealed values. Reads the whole table.
    DELETE_ALL_VERSIONS = "DELETE FROM versions WHERE owner = ?1 AND realm = ?2 AND name = ?3";
    /// Makes the version whose sealed value is in the row ?6 pending until ?7. The sealed value is not moved.
    INSERT_PENDING = "INSERT INTO pending (owner, realm, name, version, expires_at, kek_id, version_id, tag) \
         SELECT owner, realm, name, version, ?7, kek_id, id, ?8 FROM versions WHERE id = ?6 AND owner = ?1 AND realm = ?2 \
         AND name = ?3 AND secret_id = ?4 AND version = ?5";
    DELETE_PENDING = "DELETE FROM pending WHERE owner = ?1 AND realm = ?2 AND name = ?3";
    INSERT_RETIRED = "INSERT INTO retired (owner, realm, name, version, expires_at, kek_id, tag) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    DELETE_RETIRED = "DELETE FROM retired WHERE owner = ?1 AND realm = ?2 AND name = ?3";
    DELETE_TAGS = "DELETE FROM secret_tags WHERE owner = ?1 AND realm = ?2 AND name = ?3";
    INSERT_TAG = "INSERT OR REPLACE INTO secret_tags (owner, realm, name, key, value) VALUES (?1, ?2, ?3, ?4, ?5)";
    DELETE_TAG = "DELETE FROM secret_tags WHERE owner = ?1 AND realm = ?2 AND name = ?3 AND key = ?4 AND value = ?5";

    /// For the reaper: at most ?2 pending versions whose grace was over by ?1, the longest due first.
    DUE = "SELECT p.owner, p.realm, p.name, p.version, p.expires_at, s.id, p.tag FROM pending p INDEXED BY pending_due \
         LEFT JOIN secrets s ON s.owner = p.owner AND s.realm = p.realm AND s.name = p.name \
         WHERE p.expires_at <= ?1 ORDER BY p.expires_at LIMIT ?2";
    /// For the reaper: when the first of the pending versions is due. ?1 is the smallest instant.
    NEXT_DUE = "SELECT expires_at FROM pending INDEXED BY pending_due WHERE expires_at >= ?1 ORDER BY expires_at LIMIT 1";
    /// For the reaper: retires a due version in three steps. The second destroys the sealed value.
    RETIRE_DUE = "INSERT OR REPLACE INTO retired (owner, realm, name, version, expires_at, kek_id, tag) \
         SELECT owner, realm, name, version, expires_at, kek_id, ?5 FROM pending \
         WHERE owner = ?1 AND realm = ?2 AND name = ?3 AND version = ?4";
    DESTROY_DUE = "DELETE FROM versions WHERE id = (SELECT version_id FROM pending \
         WHERE owner = ?1 AND realm = ?2 AND name = ?3 AND version = ?4) \
         AND owner = ?1 AND realm = ?2 AND name = ?3 AND version = ?4";
    /// For a version whose row does not refer to its value. Reads the whole table.
    DESTROY_LOST = "DELETE FROM versions WHERE owner = ?1 AND realm = ?2 AND name = ?3 AND version = ?4";
    DELETE_DUE = "DELETE FROM pending WHERE owner = ?1 AND realm = ?2 AND name = ?3 AND version = ?4";

    /// The next realm after ?2 in which an owner has secrets.
    NEXT_REALM = "SELECT realm FROM secrets WHERE owner = ?1 AND realm > ?2 ORDER BY realm LIMIT 1";
    /// The first name from ?5 on and before ?6 under which a secret has a tag. Reads the index only.
    NEXT_TAGGED = "SELECT name FROM secret_tags WHERE owner = ?1 AND key = ?3 AND value = ?4 AND realm = ?2 \
         AND name >= ?5 AND name < ?6 ORDER BY name LIMIT 1";
    /// Active versions from name ?3 on, up to ?5. One row a secret, hence by name alone, without ?4.
    LIST_ACTIVE = concat!(
        "SELECT ", listed_columns!(), " FROM secrets s WHERE s.owner = ?1 AND s.realm = ?2 ",
        "AND s.name >= ?3 AND s.name < ?5 ORDER BY s.name"
    );
    /// The same, driven by the tag ?6 = ?7.
    LIST_ACTIVE_TAGGED = concat!(
        "SELECT ", listed_columns!(), " FROM secret_tags t CROSS JOIN secrets s ",
        "WHERE t.owner = ?1 AND t.key = ?6 AND t.value = ?7 AND t.realm = ?2 AND t.name >= ?3 ",
        "AND t.name < ?5 AND s.owner = ?1 AND s.realm = ?2 AND s.name = t.name ORDER BY t.name"
    );
    /// Pending versions, whether or not their grace is over: each row that is read is a step of the list.
    LIST_PENDING = concat!(list!(pending), in_order!());
    LIST_RETIRED = concat!(list!(retired), "UNION ALL ", list!(pending), in_order!());
    LIST_ANY = concat!(
        list!(retired), "UNION ALL ", list!(pending), "UNION ALL ", list!(active), in_order!()
    );

    /// For `doctor`: every version, with the sealed value if it has one.
    EVERY_VERSION = concat!(
        sealed!(active), "UNION ALL ",
        sealed!(pending), "WHERE s.owner = p.owner AND s.realm = p.realm AND s.name = p.name UNION ALL ",
        sealed!(retired), "WHERE s.owner = r.owner AND s.realm = r.realm AND s.name = r.name"
    );

    /// For a backup: secrets after (?1, ?2, ?3), and all versions of one.
    EXPORT_SECRETS = concat!(
        "SELECT ", secret_columns!(), version_columns!(active), " FROM secrets s ",
        "WHERE (s.owner, s.realm, s.name) > (?1, ?2, ?3) ORDER BY s.owner, s.realm, s.name LIMIT ?4"
    );
    EXPORT_VERSIONS = concat!(
        sealed!(retired), "WHERE ", retired_at_place!(), " UNION ALL ",
        sealed!(pending), "WHERE ", pending_at_place!(), " UNION ALL ",
        sealed!(active), "WHERE ", at_place!(), " ORDER BY 10"
    );
    /// Links the active version of a secret to its sealed value. Both rows were inserted before.
    IMPORT_ACTIVE = "UPDATE secrets SET version_id = ?6 WHERE owner = ?1 AND realm = ?2 AND name = ?3 AND id = ?4 \
         AND version = ?5";
    /// For the rows of an older store: the versions of a place that are not active, and the tags of its rows.
    PAST_VERSIONS = concat!(
        "SELECT ", secret_columns!(), version_columns!(retired), " FROM retired r CROSS JOIN secrets s WHERE ",
        retired_at_place!(), " UNION ALL ",
        "SELECT ", secret_columns!(), version_columns!(pending), " FROM pending p CROSS JOIN secrets s WHERE ",
        pending_at_place!()
    );
    TAG_SECRET = "UPDATE secrets SET tag = ?4 WHERE owner = ?1 AND realm = ?2 AND name = ?3";
    TAG_PENDING = "UPDATE pending SET tag = ?4 WHERE owner = ?1 AND realm = ?2 AND name = ?3 AND version = ?5";
    TAG_RETIRED = "UPDATE retired SET tag = ?4 WHERE owner = ?1 AND realm = ?2 AND name = ?3 AND version = ?5";
    ANY_SECRET = "SELECT 1 FROM secrets WHERE owner >= '' AND realm >= '' LIMIT 1";
    /// Whether the store has ever been used.
    IS_USED = "SELECT EXISTS (SELECT 1 FROM api_keys) OR EXISTS (SELECT 1 FROM keks) \
         OR EXISTS (SELECT 1 FROM internal_keys) OR EXISTS (SELECT owner, realm FROM secrets WHERE owner > '' AND realm > '')";
    FACT = "SELECT value FROM facts WHERE name = ?1";
    SET_FACT = "INSERT INTO facts (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = excluded.value";
    DELETE_FACT = "DELETE FROM facts WHERE name = ?1";

    INSERT_KEY = "INSERT INTO api_keys (id, digest, name, user, scopes, realm, realms, created_at, expires_at, \
         revoked_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT (id) DO NOTHING";
    KEY = "SELECT id, digest, name, user, scopes, realm, realms, created_at, expires_at, revoked_at FROM api_keys \
         WHERE id = ?1";
    /// For administrators: the one list without a limit.
    KEYS = "SELECT id, digest, name, user, scopes, realm, realms, created_at, expires_at, revoked_at FROM api_keys";
    ANY_KEY = "SELECT 1 FROM api_keys LIMIT 1";
    REVOKE_KEY = "UPDATE api_keys SET revoked_at = ?2 WHERE id = ?1 \
         AND (revoked_at IS NULL OR revoked_at NOT BETWEEN ?3 AND ?4)";
    KEK_CHECKS = "SELECT kek_id, check_value FROM keks ORDER BY kek_id";
    KEK_CHECK = "SELECT kek_id, check_value FROM keks WHERE kek_id = ?1";
    INSERT_KEK_CHECK = "INSERT INTO keks (kek_id, check_value) VALUES (?1, ?2)";
    /// For a backup.
    INTERNAL_KEYS = "SELECT purpose, kek_id, wrapped FROM internal_keys ORDER BY purpose";
    INTERNAL_KEY = "SELECT kek_id, wrapped FROM internal_keys WHERE purpose = ?1";
    INSERT_INTERNAL_KEY = "INSERT INTO internal_keys (purpose, kek_id, wrapped) VALUES (?1, ?2, ?3)";
    DELETE_KEK_CHECK = "DELETE FROM keks WHERE kek_id = ?1";
    SWAP_INTERNAL_KEY = "UPDATE internal_keys SET kek_id = ?4, wrapped = ?5 WHERE purpose = ?1 AND kek_id = ?2 \
         AND wrapped = ?3";
    /// How many keys each KEK wraps.
    KEK_USE = "SELECT kek_id, count(*) FROM (SELECT kek_id FROM versions UNION ALL SELECT kek_id FROM internal_keys) \
         GROUP BY kek_id";
    IS_KEK_USED = "SELECT EXISTS (SELECT 1 FROM versions WHERE kek_id = ?1) \
         OR EXISTS (SELECT 1 FROM internal_keys WHERE kek_id = ?1)";
    /// Sealed values after the row ?1 that are not under the KEK ?2.
    DEKS = "SELECT id, owner, realm, name, secret_id, version, kek_id, wrapped_dek FROM versions WHERE id > ?1 \
         AND kek_id <> ?2 ORDER BY id LIMIT ?3";
    DEKS_AND_VALUES = "SELECT id, owner, realm, name, secret_id, version, kek_id, wrapped_dek, sealed FROM versions \
         WHERE id > ?1 AND kek_id <> ?2 ORDER BY id LIMIT ?3";
    /// Replaces a wrapped DEK, if its row is as it was read.
    SWAP_DEK = "UPDATE versions SET kek_id = ?7, wrapped_dek = ?8 WHERE id = ?6 AND owner = ?1 AND realm = ?2 \
         AND name = ?3 AND secret_id = ?4 AND version = ?5 AND kek_id = ?9 AND wrapped_dek = ?10";
    SWAP_DEK_AND_VALUE = "UPDATE versions SET kek_id = ?7, wrapped_dek = ?8, sealed = ?11 WHERE id = ?6 AND owner = ?1 \
         AND realm = ?2 AND name = ?3 AND secret_id = ?4 AND version = ?5 AND kek_id = ?9 AND wrapped_dek = ?10";
    /// The KEK in the rows that refer to the sealed value in the row ?6.
    SWAP_ACTIVE_KEK = "UPDATE secrets SET kek_id = ?7 WHERE owner = ?1 AND realm = ?2 AND name = ?3 AND id = ?4 \
         AND version = ?5 AND version_id = ?6";
    SWAP_PENDING_KEK = "UPDATE pending SET kek_id = ?6 WHERE owner = ?1 AND realm = ?2 AND name = ?3 AND version = ?4 \
         AND version_id = ?5";
    AUDIT_HEAD = "SELECT seq, mac FROM audit_head WHERE only = 1";
    SET_AUDIT_HEAD = "INSERT INTO audit_head (only, seq, mac) VALUES (1, ?1, ?2) \
         ON CONFLICT (only) DO UPDATE SET seq = excluded.seq, mac = excluded.mac";
    PROBE = "UPDATE probe SET turn = (turn + 1) % 1000000 WHERE only = 1";
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;
    use crate::file::MIGRATIONS;

    /// Statements that may read a whole table: at the start, for an administrator, when the KEK changes, or after a damaged
    /// row was found.
    const WHOLE: &[&str] = &[
        "KEYS",
        "ANY_KEY",
        "KEK_CHECKS",
        "INTERNAL_KEYS",
        "EVERY_VERSION",
        "IS_USED",
        "DELETE_ALL_VERSIONS",
        "DESTROY_LOST",
        "KEK_USE",
        "IS_KEK_USED",
    ];
    /// Statements on the rows of all owners.
    const ALL_OWNERS: &[&str] = &["DUE", "NEXT_DUE", "KEK_USE", "IS_KEK_USED", "DEKS", "DEKS_AND_VALUES"];

    fn plan(conn: &Connection, sql: &str) -> Vec<String> {
        let mut explain = conn.prepare(&["EXPLAIN QUERY PLAN ", sql].concat()).expect(sql);
        for i in 1..=explain.parameter_count() {
            explain.raw_bind_parameter(i, 1).expect("bind");
        }
        let mut rows = explain.raw_query();
        let mut steps = Vec::new();
        while let Some(row) = rows.next().expect("a plan") {
            steps.push(row.get(3).expect("text"));
        }
        steps
    }

    #[test]
    fn no_statement_of_the_request_path_scans_or_sorts() {
        let conn = Connection::open_in_memory().expect("a database");
        MIGRATIONS.iter().for_each(|step| conn.execute_batch(step).expect("the schema"));
        for (name, sql) in ALL {
            let steps = plan(&conn, sql);
            if WHOLE.contains(name) {
                continue;
            }
            for step in steps {
                let scans =
                    step.starts_with("SCAN") && !step.contains("(subquery-") && step != "SCAN CONSTANT ROW";
                assert!(!scans, "{name}: {step}");
                assert!(!step.contains("TEMP B-TREE"), "{name}: {step}");
            }
        }
    }

    #[test]
    fn every_statement_on_secrets_names_an_owner_and_a_realm() {
        for (name, sql) in ALL {
            let on_secrets = ["secrets", "versions", "pending", "retired", "secret_tags"]
                .iter()
                .any(|table| sql.contains(table));
            if !on_secrets || ALL_OWNERS.contains(name) {
                continue;
            }
            let condition = match sql.split_once(" WHERE ") {
                Some((_, condition)) => condition,
                None if sql.starts_with("INSERT") => sql,
                None => panic!("{name} has no condition"),
            };
            assert!(condition.contains("owner") && condition.contains("realm"), "{name}: {sql}");
        }
    }

    #[test]
    fn the_columns_of_a_range_are_found_by_index() {
        let conn = Connection::open_in_memory().expect("a database");
        crate::file::MIGRATIONS.iter().for_each(|step| conn.execute_batch(step).expect("the schema"));
        assert_eq!(
            plan(&conn, LIST_ACTIVE),
            ["SEARCH s USING PRIMARY KEY (owner=? AND realm=? AND name>? AND name<?)"]
        );
        let range = |table| {
            format!(
                "SEARCH {table} USING PRIMARY KEY (owner=? AND realm=? AND (name,version)>(?,?) AND name<?)"
            )
        };
        assert_eq!(plan(&conn, LIST_PENDING)[0], range("p"));
        let merged = plan(&conn, LIST_ANY);
        assert!(merged.contains(&range("p")) && merged.contains(&range("r")), "{merged:?}");
        assert_eq!(merged[0], "MERGE (UNION ALL)");
    }
}
