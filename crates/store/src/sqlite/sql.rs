//! Every statement of the engine, as constants: nothing is ever put together at run time.
//!
//! What reads or writes secrets names an owner and a realm in its `WHERE`; the one exception is the reaper's look at its
//! own index of due versions. A test reads this list for both rules and asks SQLite for each plan: no statement of the
//! request path may scan a table or sort in memory.
//!
//! `CROSS JOIN` and `INDEXED BY` fix the plans, so that they cannot turn bad with the data.

/// The columns that [`rows::secret`](super::rows::secret) reads first, of the secret itself.
macro_rules! secret_columns {
    () => {
        "s.owner, s.realm, s.name, s.id, s.description, s.tags, s.created_at, s.updated_at, s.rotated_at, "
    };
}

/// The columns of a version that follow them.
macro_rules! version_columns {
    () => {
        "v.version, v.status, v.expires_at, v.kek_id"
    };
}

/// The same columns of the active version, from the secret's own row.
macro_rules! active_columns {
    () => {
        "s.version, 'active', NULL, s.kek_id"
    };
}

/// A secret's place.
macro_rules! at_place {
    () => {
        "s.owner = ?1 AND s.realm = ?2 AND s.name = ?3"
    };
}

/// A version's place.
macro_rules! version_at_place {
    () => {
        "v.owner = ?1 AND v.realm = ?2 AND v.name = ?3"
    };
}

/// From which version on (exclusive) and up to which name (exclusive) a list of versions goes; and the secret to each.
macro_rules! versions_in_range {
    () => {
        "v.owner = ?1 AND v.realm = ?2 AND (v.name, v.version) > (?3, ?4) AND v.name < ?5 \
         AND s.owner = ?1 AND s.realm = ?2 AND s.name = v.name "
    };
}

/// The same, driven by one tag.
macro_rules! tagged_versions_in_range {
    () => {
        "t.owner = ?1 AND t.key = ?7 AND t.value = ?8 AND t.realm = ?2 AND t.name >= ?3 AND t.name < ?5 \
         AND v.owner = ?1 AND v.realm = ?2 AND v.name = t.name AND (v.name, v.version) > (?3, ?4) \
         AND s.owner = ?1 AND s.realm = ?2 AND s.name = t.name "
    };
}

/// Which versions are pending, and which retired, at the instant ?6.
macro_rules! pending {
    () => {
        "AND v.status = 'rotated_pending' AND v.expires_at > ?6 "
    };
}
macro_rules! retired {
    () => {
        "AND v.status <> 'active' AND (v.status = 'retired' OR v.expires_at <= ?6) "
    };
}
macro_rules! any {
    () => {
        ""
    };
}

macro_rules! list_versions {
    ($index:literal, $filter:ident) => {
        concat!(
            "SELECT ",
            secret_columns!(),
            version_columns!(),
            " FROM versions v INDEXED BY ",
            $index,
            " CROSS JOIN secrets s WHERE ",
            versions_in_range!(),
            $filter!(),
            "ORDER BY v.name, v.version"
        )
    };
}

macro_rules! list_tagged_versions {
    ($index:literal, $filter:ident) => {
        concat!(
            "SELECT ",
            secret_columns!(),
            version_columns!(),
            " FROM secret_tags t CROSS JOIN versions v INDEXED BY ",
            $index,
            " CROSS JOIN secrets s WHERE ",
            tagged_versions_in_range!(),
            $filter!(),
            "ORDER BY t.name, v.version"
        )
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
    /// The secret at a place: its metadata and its active version's.
    SECRET = concat!("SELECT ", secret_columns!(), active_columns!(), " FROM secrets s WHERE ", at_place!());
    /// The same with the sealed value. An outer join, so that a missing version is seen to be missing.
    ACTIVE = concat!(
        "SELECT ", secret_columns!(), version_columns!(), ", v.wrapped_dek, v.sealed ",
        "FROM secrets s LEFT JOIN versions v ON ", version_at_place!(),
        " AND v.secret_id = s.id AND v.version = s.version WHERE ", at_place!()
    );
    /// One version, ?4, with the sealed value.
    VERSION = concat!(
        "SELECT ", secret_columns!(), version_columns!(), ", v.wrapped_dek, v.sealed ",
        "FROM secrets s CROSS JOIN versions v WHERE ", at_place!(), " AND ", version_at_place!(),
        " AND v.secret_id = s.id AND v.version = ?4"
    );
    /// The versions of a secret that are pending at the instant ?4, with the sealed values.
    PENDING = concat!(
        "SELECT ", secret_columns!(), version_columns!(), ", v.wrapped_dek, v.sealed ",
        "FROM versions v INDEXED BY versions_pending CROSS JOIN secrets s WHERE ", version_at_place!(),
        " AND v.status = 'rotated_pending' AND v.expires_at > ?4 AND ", at_place!(), " ORDER BY v.version"
    );

    INSERT_SECRET = "INSERT INTO secrets (owner, realm, name, id, description, tags, created_at, updated_at, \
         rotated_at, version, kek_id) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
    UPDATE_SECRET = "UPDATE secrets SET description = ?5, tags = ?6, updated_at = ?7, rotated_at = ?8, version = ?9, \
         kek_id = ?10 WHERE owner = ?1 AND realm = ?2 AND name = ?3 AND id = ?4";
    DELETE_SECRET = "DELETE FROM secrets WHERE owner = ?1 AND realm = ?2 AND name = ?3";
    INSERT_VERSION = "INSERT INTO versions (owner, realm, name, secret_id, version, status, kek_id, wrapped_dek, \
         sealed) VALUES (?1, ?2, ?3, ?4, ?5, 'active', ?6, ?7, ?8)";
    /// The active version becomes pending until ?6.
    PEND_ACTIVE = "UPDATE versions SET status = 'rotated_pending', expires_at = ?6 WHERE owner = ?1 AND realm = ?2 \
         AND name = ?3 AND secret_id = ?4 AND version = ?5 AND status = 'active'";
    /// The active version is retired and its ciphertext destroyed.
    RETIRE_ACTIVE = "UPDATE versions SET status = 'retired', expires_at = ?6, wrapped_dek = NULL, sealed = NULL \
         WHERE owner = ?1 AND realm = ?2 AND name = ?3 AND secret_id = ?4 AND version = ?5 AND status = 'active'";
    DELETE_VERSIONS = "DELETE FROM versions WHERE owner = ?1 AND realm = ?2 AND name = ?3";
    /// For a secret whose row does not parse: its versions wherever they are, and its tags, which it no longer names.
    DELETE_VERSIONS_OF = "DELETE FROM versions WHERE secret_id = (SELECT id FROM secrets WHERE owner = ?1 \
         AND realm = ?2 AND name = ?3)";
    DELETE_TAGS = "DELETE FROM secret_tags WHERE owner = ?1 AND realm = ?2 AND name = ?3";
    INSERT_TAG = "INSERT OR REPLACE INTO secret_tags (owner, realm, name, key, value) VALUES (?1, ?2, ?3, ?4, ?5)";
    DELETE_TAG = "DELETE FROM secret_tags WHERE owner = ?1 AND realm = ?2 AND name = ?3 AND key = ?4 AND value = ?5";

    /// The reaper's: at most ?2 pending versions whose grace was over by ?1, the longest due first.
    DUE = "SELECT owner, realm, name, secret_id, version FROM versions INDEXED BY versions_due \
         WHERE status = 'rotated_pending' AND expires_at <= ?1 ORDER BY expires_at LIMIT ?2";
    /// The reaper's: when the first of the pending versions is due, ?1 being the beginning of time.
    NEXT_DUE = "SELECT expires_at FROM versions INDEXED BY versions_due \
         WHERE status = 'rotated_pending' AND expires_at >= ?1 ORDER BY expires_at LIMIT 1";
    RETIRE_DUE = "UPDATE versions SET status = 'retired', wrapped_dek = NULL, sealed = NULL WHERE owner = ?1 \
         AND realm = ?2 AND name = ?3 AND secret_id = ?4 AND version = ?5 AND status = 'rotated_pending'";

    /// The next realm after ?2 in which an owner has secrets.
    NEXT_REALM = "SELECT realm FROM secrets WHERE owner = ?1 AND realm > ?2 ORDER BY realm LIMIT 1";
    /// The first name from ?5 on and before ?6 under which a secret has a tag. A look into the index alone.
    NEXT_TAGGED = "SELECT name FROM secret_tags WHERE owner = ?1 AND key = ?3 AND value = ?4 AND realm = ?2 \
         AND name >= ?5 AND name < ?6 ORDER BY name LIMIT 1";
    /// Active versions from name ?3 on, without ?4, up to ?5. One row a secret, hence by name alone.
    LIST_ACTIVE = concat!(
        "SELECT ", secret_columns!(), active_columns!(), " FROM secrets s WHERE s.owner = ?1 AND s.realm = ?2 ",
        "AND s.name >= ?3 AND s.name <> ?4 AND s.name < ?5 ORDER BY s.name"
    );
    /// The same, driven by the tag ?7 = ?8.
    LIST_ACTIVE_TAGGED = concat!(
        "SELECT ", secret_columns!(), active_columns!(), " FROM secret_tags t CROSS JOIN secrets s ",
        "WHERE t.owner = ?1 AND t.key = ?7 AND t.value = ?8 AND t.realm = ?2 AND t.name >= ?3 AND t.name <> ?4 ",
        "AND t.name < ?5 AND s.owner = ?1 AND s.realm = ?2 AND s.name = t.name ORDER BY t.name"
    );
    LIST_PENDING = list_versions!("versions_pending", pending);
    LIST_RETIRED = list_versions!("versions_past", retired);
    LIST_ANY = list_versions!("versions_by_place", any);
    LIST_PENDING_TAGGED = list_tagged_versions!("versions_pending", pending);
    LIST_RETIRED_TAGGED = list_tagged_versions!("versions_past", retired);
    LIST_ANY_TAGGED = list_tagged_versions!("versions_by_place", any);

    /// For `doctor`: every version with its sealed value.
    EVERY_VERSION = concat!(
        "SELECT ", secret_columns!(), version_columns!(), ", v.wrapped_dek, v.sealed FROM secrets s ",
        "CROSS JOIN versions v WHERE v.secret_id = s.id AND v.owner = s.owner AND v.realm = s.realm AND v.name = s.name"
    );

    /// For a backup: secrets after (?1, ?2, ?3), and all versions of one.
    EXPORT_SECRETS = concat!(
        "SELECT ", secret_columns!(), active_columns!(), " FROM secrets s ",
        "WHERE (s.owner, s.realm, s.name) > (?1, ?2, ?3) ORDER BY s.owner, s.realm, s.name LIMIT ?4"
    );
    EXPORT_VERSIONS = concat!(
        "SELECT ", secret_columns!(), version_columns!(), ", v.wrapped_dek, v.sealed ",
        "FROM secrets s CROSS JOIN versions v WHERE ", at_place!(), " AND ", version_at_place!(),
        " AND v.secret_id = s.id ORDER BY v.version"
    );
    IMPORT_VERSION = "INSERT INTO versions (owner, realm, name, secret_id, version, status, expires_at, kek_id, \
         wrapped_dek, sealed) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
    /// Whether anything was ever put into the store.
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
    REVOKE_KEY = "UPDATE api_keys SET revoked_at = ?2 WHERE id = ?1 AND revoked_at IS NULL";
    KEK_CHECKS = "SELECT kek_id, check_value FROM keks ORDER BY kek_id";
    KEK_CHECK = "SELECT kek_id, check_value FROM keks WHERE kek_id = ?1";
    INSERT_KEK_CHECK = "INSERT INTO keks (kek_id, check_value) VALUES (?1, ?2)";
    /// For a backup.
    INTERNAL_KEYS = "SELECT purpose, kek_id, wrapped FROM internal_keys ORDER BY purpose";
    INTERNAL_KEY = "SELECT kek_id, wrapped FROM internal_keys WHERE purpose = ?1";
    INSERT_INTERNAL_KEY = "INSERT INTO internal_keys (purpose, kek_id, wrapped) VALUES (?1, ?2, ?3)";
    AUDIT_HEAD = "SELECT seq, mac FROM audit_head WHERE only = 1";
    SET_AUDIT_HEAD = "INSERT INTO audit_head (only, seq, mac) VALUES (1, ?1, ?2) \
         ON CONFLICT (only) DO UPDATE SET seq = excluded.seq, mac = excluded.mac";
    PROBE = "UPDATE probe SET turn = (turn + 1) % 1000000 WHERE only = 1";
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;
    use crate::sqlite::file::MIGRATIONS;

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
            if ["KEYS", "ANY_KEY", "KEK_CHECKS", "INTERNAL_KEYS", "EVERY_VERSION", "IS_USED"].contains(name) {
                continue; // read whole at start or for an administrator
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
            let on_secrets = ["secrets", "versions", "secret_tags"].iter().any(|table| sql.contains(table));
            if !on_secrets || ["DUE", "NEXT_DUE"].contains(name) {
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
        crate::sqlite::file::MIGRATIONS.iter().for_each(|step| conn.execute_batch(step).expect("the schema"));
        assert_eq!(
            plan(&conn, LIST_ACTIVE),
            ["SEARCH s USING PRIMARY KEY (owner=? AND realm=? AND name>? AND name<?)"]
        );
        assert!(
            plan(&conn, LIST_RETIRED)[0]
                .contains("(owner=? AND realm=? AND (name,version)>(?,?) AND name<?)")
        );
    }
}
