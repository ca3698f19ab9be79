//! Every statement of the engine, as constants. No statement is composed at run time.
//!
//! Every statement that reads or writes secrets names an owner and a realm. The exceptions are the reaper's look at its
//! own index of due versions, and the walk over all wrapped keys when the KEK changes. A test checks this rule, and checks each plan with `EXPLAIN`: no statement of the
//! request path may read a whole table.
//!
//! Inserts take whole columns (`unnest` of arrays), a batch in one statement. Updates and deletions take one row each,
//! by its key. Lists take ranges of (realm, name) as columns (see `list`).
//!
//! A list with a filter reads at most $9 entries of an index for each range. It numbers them, and returns those that match
//! and the last one, so that its caller knows how far it has read.
//!
//! Plans are made once per connection, often when the tables are still empty, so no plan may depend on the number of
//! rows. In every join, `LATERAL` and `OFFSET 0` fix the order.

/// The columns that [`rows::secret`](super::rows::secret) reads, of the secret itself.
macro_rules! secret_columns {
    () => {
        "s.owner, s.realm, s.name, s.id, s.description, s.tags, s.created_at, s.updated_at, s.rotated_at, "
    };
}

/// The columns of a version that follow them. After them come the number of the active version and the tags of both rows.
macro_rules! version_columns {
    () => {
        "v.version, v.status, v.expires_at, v.kek_id, s.version AS active, s.tag AS secret_tag, v.tag AS version_tag"
    };
}

/// The same columns of the active version, from the secret's own row, and without the tag of the version's row.
macro_rules! active_columns {
    () => {
        "s.version, 'active' AS status, NULL::bigint AS expires_at, s.kek_id, s.version AS active, s.tag AS secret_tag"
    };
}

/// A secret's place.
macro_rules! at_place {
    () => {
        "s.owner = $1 AND s.realm = $2 AND s.name = $3"
    };
}

/// The versions of the secret `s`.
macro_rules! of_secret {
    () => {
        "v.owner = s.owner AND v.realm = s.realm AND v.name = s.name AND v.secret_id = s.id"
    };
}

/// Of the ranges $2 to $6: from (realm, name), without version $4 of it and those before, up to (realm, name).
macro_rules! ranges {
    () => {
        "unnest($2::text[], $3::text[], $4::int[], $5::text[], $6::text[]) \
         AS r(from_realm, from_name, from_version, to_realm, to_name)"
    };
}

/// The versions of a status: which may be pending or retired, by an index, and which are at the instant $8.
macro_rules! maybe {
    (pending) => {
        "AND v.status = 'rotated_pending' "
    };
    (retired) => {
        "AND v.status <> 'active' "
    };
    (any) => {
        ""
    };
}
macro_rules! at_present {
    (pending) => {
        "v.expires_at > $8"
    };
    (retired) => {
        "(v.status = 'retired' OR v.expires_at <= $8)"
    };
    (any) => {
        "(v.version IS NOT NULL AND $8::bigint IS NOT NULL)"
    };
}

/// The columns of a version that a list needs.
macro_rules! listed_version {
    () => {
        "v.secret_id, v.version, v.status, v.expires_at, v.kek_id, v.tag"
    };
}

/// The number of an entry among those of its range, and whether it is the last one.
macro_rules! numbered {
    () => {
        "row_number() OVER read AS n, lead(true) OVER read IS NULL AS is_last"
    };
}

/// The columns after those of a secret or a version: where the entry is in the order of the list, its number, and whether it
/// matches.
macro_rules! entry_columns {
    ($alias:literal) => {
        concat!(
            ", ",
            $alias,
            ".realm, ",
            $alias,
            ".name, ",
            $alias,
            ".at_version, ",
            $alias,
            ".n, coalesce(",
            $alias,
            ".matches, false) AND s.id IS NOT NULL"
        )
    };
}

/// The rarest of the tags $10 = $11, counted to 256, if there are several.
macro_rules! rarest {
    () => {
        "WITH w AS MATERIALIZED (SELECT t.key, t.value FROM unnest($10::text[], $11::text[]) AS t(key, value) \
         ORDER BY CASE WHEN cardinality($10::text[]) > 1 THEN (SELECT count(*) FROM (SELECT 1 FROM secret_tags c \
         WHERE c.owner = $1 AND c.key = t.key AND c.value = t.value AND (c.realm, c.name) >= (($2::text[])[1], '') \
         LIMIT 256) AS few) END LIMIT 1) "
    };
}

/// Whether a secret that has the rarest tag has all others, too.
macro_rules! all_tags {
    ($alias:literal) => {
        concat!(
            "(cardinality($10::text[]) = 1 OR NOT EXISTS (SELECT 1 FROM unnest($10::text[], $11::text[]) AS o(key, value) ",
            "WHERE (o.key, o.value) <> (SELECT key, value FROM w) AND NOT EXISTS (SELECT 1 FROM secret_tags x ",
            "WHERE x.owner = $1 AND x.key = o.key AND x.value = o.value AND x.realm = ",
            $alias,
            ".realm AND x.name = ",
            $alias,
            ".name)))"
        )
    };
}

/// The entries of the rarest tag in a range. `$from` is the number that excludes the name with which the range begins.
macro_rules! tagged_in_range {
    ($from:literal) => {
        concat!(
            "t.owner = $1 AND t.key = (SELECT key FROM w) AND t.value = (SELECT value FROM w) ",
            "AND (t.realm, t.name) >= (r.from_realm, r.from_name) AND (t.realm, t.name) < (r.to_realm, r.to_name) ",
            "AND (r.from_version ",
            $from,
            " OR (t.realm, t.name) > (r.from_realm, r.from_name)) "
        )
    };
}

/// The secret to each of the entries before. It may be missing, and the entry is returned all the same.
macro_rules! secret_of {
    ($alias:literal) => {
        concat!(
            "LEFT JOIN LATERAL (SELECT s.* FROM secrets s WHERE s.owner = $1 AND s.realm = ",
            $alias,
            ".realm AND s.name = ",
            $alias,
            ".name OFFSET 0) AS s ON true "
        )
    };
}

macro_rules! list_versions {
    ($filter:ident) => {
        concat!(
            "SELECT ",
            secret_columns!(),
            version_columns!(),
            entry_columns!("v"),
            " FROM ",
            ranges!(),
            " CROSS JOIN LATERAL (SELECT v.*, v.version AS at_version FROM (SELECT v.*, ",
            at_present!($filter),
            " AS matches, ",
            numbered!(),
            " FROM (SELECT v.realm, v.name, ",
            listed_version!(),
            " FROM versions v WHERE v.owner = $1 \
             AND (v.realm, v.name, v.version) > (r.from_realm, r.from_name, r.from_version) \
             AND (v.realm, v.name) < (r.to_realm, r.to_name) ",
            maybe!($filter),
            "ORDER BY v.realm, v.name, v.version LIMIT $9) AS v WINDOW read AS (ORDER BY v.realm, v.name, v.version) \
             OFFSET 0) AS v WHERE v.matches OR v.is_last ORDER BY v.realm, v.name, v.version LIMIT $7) AS v ",
            secret_of!("v"),
            "ORDER BY v.realm, v.name, v.version LIMIT $7"
        )
    };
}

/// Of the versions under a name, those after the version with which the range begins. A name without one is an entry too.
macro_rules! list_tagged_versions {
    ($filter:ident) => {
        concat!(
            rarest!(),
            "SELECT ",
            secret_columns!(),
            version_columns!(),
            entry_columns!("v"),
            " FROM ",
            ranges!(),
            " CROSS JOIN LATERAL (SELECT v.* FROM (SELECT v.*, v.is_present AND ",
            all_tags!("v"),
            " AS matches FROM (SELECT v.*, coalesce(v.version, 2147483647) AS at_version, ",
            at_present!($filter),
            " AS is_present, ",
            numbered!(),
            " FROM (SELECT t.realm, t.name, ",
            listed_version!(),
            " FROM secret_tags t LEFT JOIN LATERAL (SELECT ",
            listed_version!(),
            " FROM versions v WHERE v.owner = $1 AND v.realm = t.realm AND v.name = t.name \
             AND (v.realm, v.name, v.version) > (r.from_realm, r.from_name, r.from_version) ",
            maybe!($filter),
            "ORDER BY v.version LIMIT $9) AS v ON true WHERE ",
            tagged_in_range!("< 2147483647"),
            "ORDER BY t.realm, t.name, v.version LIMIT $9) AS v WINDOW read AS (ORDER BY v.realm, v.name, v.version) \
             OFFSET 0) AS v ORDER BY v.realm, v.name, v.version OFFSET 0) AS v WHERE v.matches OR v.is_last \
             ORDER BY v.realm, v.name, v.version LIMIT $7) AS v ",
            secret_of!("v"),
            "ORDER BY v.realm, v.name, v.version LIMIT $7"
        )
    };
}

/// The era: the history of the database. A restore by this program raises the epoch. A promotion or a point-in-time
/// recovery raises the server's timeline. Loading a dump creates another table. A restore of files restarts the server.
macro_rules! era {
    () => {
        "concat_ws('.', h.epoch, substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8), h.tableoid, \
         extract(epoch FROM pg_postmaster_start_time()))"
    };
}

/// The last fence's number, and the standing fences.
macro_rules! fences {
    () => {
        "h.seq, f.token, f.seq, f.owner, f.realm, f.name, f.digest FROM history h LEFT JOIN fences f ON true WHERE h.only_row"
    };
}

macro_rules! statements {
    ($($(#[$doc:meta])* $name:ident = $sql:expr;)*) => {
        /// A statement.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Sql { $($(#[$doc])* $name),* }
        /// The text of each, in the order of [`Sql`].
        pub(super) const ALL: &[&str] = &[$($sql),*];
        #[cfg(test)]
        pub(super) const NAMES: &[&str] = &[$(stringify!($name)),*];
    };
}

statements! {
    /// The active version at a place, with the sealed value. An outer join, so that a missing version is seen to be
    /// missing.
    Active = concat!(
        "SELECT ", secret_columns!(), version_columns!(), ", v.wrapped_dek, v.sealed FROM secrets s ",
        "LEFT JOIN LATERAL (SELECT v.* FROM versions v WHERE ", of_secret!(), " AND v.version = s.version OFFSET 0) AS v ",
        "ON true WHERE ", at_place!()
    );
    /// One version, $4, with the sealed value.
    Version = concat!(
        "SELECT ", secret_columns!(), version_columns!(), ", v.wrapped_dek, v.sealed FROM secrets s ",
        "JOIN versions v ON ", of_secret!(), " AND v.version = $4 WHERE ", at_place!()
    );
    /// At most $6 versions, with the sealed values: the active one, if there is no $5, and the versions that are pending at
    /// the instant $4, the newest before version $5 first.
    Readable = concat!(
        "SELECT f.* FROM (SELECT ", secret_columns!(), version_columns!(), ", v.wrapped_dek, v.sealed, 1 AS turn ",
        "FROM secrets s LEFT JOIN LATERAL (SELECT v.* FROM versions v WHERE ", of_secret!(), " AND v.version = s.version ",
        "OFFSET 0) AS v ON true WHERE ", at_place!(), " AND $5::int IS NULL UNION ALL SELECT p.* FROM (SELECT ",
        secret_columns!(), version_columns!(), ", v.wrapped_dek, v.sealed, 2 AS turn FROM secrets s ",
        "CROSS JOIN LATERAL (SELECT v.* FROM versions v WHERE ", of_secret!(), " AND v.status = 'rotated_pending' ",
        "AND v.expires_at > $4 AND v.version < coalesce($5::int, 2147483647) ",
        "ORDER BY v.owner, v.realm, v.name, v.version DESC LIMIT $6) AS v WHERE ", at_place!(), ") AS p) AS f ",
        "ORDER BY f.turn, f.version DESC LIMIT $6"
    );

    /// Takes the locks $1, each until the transaction ends.
    Lock = "SELECT pg_advisory_xact_lock(l.key) FROM unnest($1::bigint[]) AS l(key)";
    /// The secrets at the places $1, $2, $3 as they are, each after the number of its place and whether its active
    /// version is there.
    Present = concat!(
        "SELECT ", secret_columns!(), active_columns!(), ", p.at, v.version IS NOT NULL FROM ",
        "unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS p(owner, realm, name, at) ",
        "CROSS JOIN LATERAL (SELECT s.* FROM secrets s WHERE s.owner = p.owner AND s.realm = p.realm ",
        "AND s.name = p.name OFFSET 0) AS s LEFT JOIN LATERAL (SELECT v.version FROM versions v WHERE ", of_secret!(),
        " AND v.version = s.version AND v.status = 'active' OFFSET 0) AS v ON true"
    );

    InsertSecrets = "INSERT INTO secrets (owner, realm, name, id, description, tags, created_at, updated_at, \
         rotated_at, version, kek_id, tag) SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], \
         $5::bytea[], $6::text[], $7::bigint[], $8::bigint[], $9::bigint[], $10::int[], $11::text[], $12::bytea[])";
    UpdateSecret = "UPDATE secrets SET description = $5, tags = $6, updated_at = $7, rotated_at = $8, version = $9, \
         kek_id = $10, tag = $11 WHERE owner = $1 AND realm = $2 AND name = $3 AND id = $4";
    DeleteSecret = "DELETE FROM secrets WHERE owner = $1 AND realm = $2 AND name = $3";
    InsertVersions = "INSERT INTO versions (owner, realm, name, secret_id, version, status, kek_id, wrapped_dek, \
         sealed, tag) SELECT n.owner, n.realm, n.name, n.id, n.version, 'active', n.kek_id, n.wrapped_dek, n.sealed, n.tag \
         FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::int[], $6::text[], $7::bytea[], $8::bytea[], \
         $9::bytea[]) AS n(owner, realm, name, id, version, kek_id, wrapped_dek, sealed, tag)";
    /// The active version becomes pending until $6.
    PendActive = "UPDATE versions SET status = 'rotated_pending', expires_at = $6, tag = $7 WHERE owner = $1 AND realm = $2 \
         AND name = $3 AND secret_id = $4 AND version = $5 AND status = 'active'";
    /// The active version is retired and its ciphertext destroyed.
    RetireActive = "UPDATE versions SET status = 'retired', expires_at = $6, tag = $7, wrapped_dek = NULL, \
         sealed = NULL WHERE owner = $1 AND realm = $2 AND name = $3 AND secret_id = $4 AND version = $5 AND status = 'active'";
    DeleteVersions = "DELETE FROM versions WHERE owner = $1 AND realm = $2 AND name = $3";
    /// For a secret whose row does not parse: its versions wherever they are, and its tags, which it no longer names.
    /// Deletes nothing without the fence $4.
    PurgeVersions = "DELETE FROM versions WHERE secret_id = (SELECT id FROM secrets WHERE owner = $1 AND realm = $2 \
         AND name = $3) AND EXISTS (SELECT 1 FROM fences WHERE token = $4)";
    PurgeStrays = "DELETE FROM versions WHERE owner = $1 AND realm = $2 AND name = $3 \
         AND EXISTS (SELECT 1 FROM fences WHERE token = $4)";
    PurgeTags = "DELETE FROM secret_tags WHERE owner = $1 AND realm = $2 AND name = $3 \
         AND EXISTS (SELECT 1 FROM fences WHERE token = $4)";
    PurgeSecret = "DELETE FROM secrets WHERE owner = $1 AND realm = $2 AND name = $3 \
         AND EXISTS (SELECT 1 FROM fences WHERE token = $4) RETURNING 1";
    InsertTags = "INSERT INTO secret_tags (owner, realm, name, key, value) SELECT * FROM unnest($1::text[], \
         $2::text[], $3::text[], $4::text[], $5::text[]) ON CONFLICT DO NOTHING";
    DeleteTag = "DELETE FROM secret_tags WHERE owner = $1 AND realm = $2 AND name = $3 AND key = $4 AND value = $5";

    /// For the reaper: at most $2 pending versions whose grace was over by $1, the longest due first.
    Due = "SELECT owner, realm, name, secret_id, version, expires_at, tag FROM versions WHERE status = 'rotated_pending' \
         AND expires_at <= $1 ORDER BY expires_at LIMIT $2";
    /// For the reaper: retires one of them, if another replica has not, and the row still has the tag $8.
    RetireDue = "UPDATE versions SET status = 'retired', tag = $7, wrapped_dek = NULL, sealed = NULL WHERE owner = $1 \
         AND realm = $2 AND name = $3 AND secret_id = $4 AND version = $5 AND status = 'rotated_pending' \
         AND expires_at <= $6 AND tag IS NOT DISTINCT FROM $8";
    /// For the reaper: when the first of the pending versions is due.
    NextDue = "SELECT expires_at FROM versions WHERE status = 'rotated_pending' ORDER BY expires_at LIMIT 1";

    /// At most $3 realms from $2 on in which an owner has secrets.
    Realms = "WITH RECURSIVE found(realm, number) AS ((SELECT s.realm, 1 FROM secrets s WHERE s.owner = $1 \
         AND s.realm >= $2 ORDER BY s.realm LIMIT 1) UNION ALL SELECT next.realm, found.number + 1 FROM found \
         CROSS JOIN LATERAL (SELECT s.realm FROM secrets s WHERE s.owner = $1 AND s.realm > found.realm \
         ORDER BY s.realm LIMIT 1) AS next WHERE found.number < $3) SELECT realm FROM found ORDER BY realm";
    /// Active versions: one row a secret, so that a range that begins after a version begins after its secret.
    ListActive = concat!(
        "SELECT s.* FROM ", ranges!(), " CROSS JOIN LATERAL (SELECT ", secret_columns!(), active_columns!(),
        " FROM secrets s WHERE s.owner = $1 AND (s.realm, s.name) >= (r.from_realm, r.from_name) ",
        "AND (r.from_version = 0 OR (s.realm, s.name) > (r.from_realm, r.from_name)) ",
        "AND (s.realm, s.name) < (r.to_realm, r.to_name) ORDER BY s.realm, s.name LIMIT $7) AS s ",
        "WHERE $8::bigint IS NOT NULL ORDER BY s.realm, s.name LIMIT $7"
    );
    ListActiveTagged = concat!(
        rarest!(), "SELECT ", secret_columns!(), active_columns!(), entry_columns!("t"), " FROM ", ranges!(),
        " CROSS JOIN LATERAL (SELECT t.*, 2147483647 AS at_version FROM (SELECT t.*, ", all_tags!("t"),
        " AS matches FROM (SELECT t.realm, t.name, ", numbered!(),
        " FROM (SELECT t.realm, t.name FROM secret_tags t WHERE ", tagged_in_range!("= 0"),
        "ORDER BY t.realm, t.name LIMIT $9) AS t WINDOW read AS (ORDER BY t.realm, t.name) OFFSET 0) AS t ",
        "ORDER BY t.realm, t.name OFFSET 0) AS t ",
        "WHERE $8::bigint IS NOT NULL AND (t.matches OR t.is_last) ORDER BY t.realm, t.name LIMIT $7) AS t ", secret_of!("t"),
        "ORDER BY t.realm, t.name LIMIT $7"
    );
    ListPending = list_versions!(pending);
    ListRetired = list_versions!(retired);
    ListAny = list_versions!(any);
    ListPendingTagged = list_tagged_versions!(pending);
    ListRetiredTagged = list_tagged_versions!(retired);
    ListAnyTagged = list_tagged_versions!(any);

    AnySecret = "SELECT 1 FROM secrets WHERE owner >= '' AND realm >= '' LIMIT 1";
    /// For the rows of an older store: at most $4 places of secrets after ($1, $2, $3), the rows at some places, and their
    /// tags.
    PlacesAfter = "SELECT owner, realm, name FROM secrets WHERE (owner, realm, name) > ($1, $2, $3) \
         ORDER BY owner, realm, name LIMIT $4";
    SecretsAt = concat!(
        "SELECT ", secret_columns!(), active_columns!(), " FROM unnest($1::text[], $2::text[], $3::text[]) ",
        "AS p(owner, realm, name) CROSS JOIN LATERAL (SELECT s.* FROM secrets s WHERE s.owner = p.owner ",
        "AND s.realm = p.realm AND s.name = p.name OFFSET 0) AS s"
    );
    VersionsAt = concat!(
        "SELECT ", secret_columns!(), version_columns!(), " FROM unnest($1::text[], $2::text[], $3::text[]) ",
        "AS p(owner, realm, name) CROSS JOIN LATERAL (SELECT s.* FROM secrets s WHERE s.owner = p.owner ",
        "AND s.realm = p.realm AND s.name = p.name OFFSET 0) AS s CROSS JOIN LATERAL (SELECT v.* FROM versions v WHERE ",
        of_secret!(), " OFFSET 0) AS v"
    );
    TagSecrets = "UPDATE secrets s SET tag = n.tag FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::int[], \
         $6::bytea[]) AS n(owner, realm, name, id, version, tag) WHERE s.owner = n.owner AND s.realm = n.realm \
         AND s.name = n.name AND s.id = n.id AND s.version = n.version";
    TagVersions = "UPDATE versions v SET tag = n.tag FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::int[], \
         $6::bytea[]) AS n(owner, realm, name, id, version, tag) WHERE v.owner = n.owner AND v.realm = n.realm \
         AND v.name = n.name AND v.secret_id = n.id AND v.version = n.version";

    /// Only while there is no key manifest.
    InsertKey = "INSERT INTO api_keys (id, digest, name, user_id, scopes, realm, realms, created_at, expires_at, \
         revoked_at) SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10 \
         WHERE NOT EXISTS (SELECT 1 FROM facts WHERE name = 'keys') ON CONFLICT (id) DO NOTHING RETURNING id";
    /// Under a lock of its own.
    InsertFirstKey = "INSERT INTO api_keys (id, digest, name, user_id, scopes, realm, realms, created_at, expires_at, \
         revoked_at) SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10 WHERE NOT EXISTS (SELECT 1 FROM api_keys) \
         AND NOT EXISTS (SELECT 1 FROM facts WHERE name = 'keys') RETURNING id";
    /// Issues a key and puts the key manifest $12 in place of $11, if that is the present one and there is no such key. With
    /// $13 only into a store without a key.
    IssueKey = "WITH revised AS (UPDATE facts SET value = $12 WHERE name = 'keys' AND value = $11 \
         AND NOT EXISTS (SELECT 1 FROM api_keys WHERE id = $1) \
         AND NOT ($13::boolean AND EXISTS (SELECT 1 FROM api_keys)) RETURNING 1) \
         INSERT INTO api_keys (id, digest, name, user_id, scopes, realm, realms, created_at, expires_at, revoked_at) \
         SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10 FROM revised RETURNING id";
    /// A key and, as its last column, the key manifest.
    Key = "SELECT id, digest, name, user_id, scopes, realm, realms, created_at, expires_at, revoked_at, \
         (SELECT value FROM facts WHERE name = 'keys') FROM api_keys WHERE id = $1";
    ReviseManifest = "UPDATE facts SET value = $2 WHERE name = 'keys' AND value = $1 RETURNING 1";
    KeyManifest = "SELECT value FROM facts WHERE name = 'keys'";
    /// For administrators: the one list without a limit.
    Keys = "SELECT id, digest, name, user_id, scopes, realm, realms, created_at, expires_at, revoked_at FROM api_keys \
         ORDER BY created_at, id";
    AnyKey = "SELECT 1 FROM api_keys LIMIT 1";
    /// Revokes the key $1 and removes its fence $3. Does nothing without the fence.
    RevokeKey = "WITH lifted AS (DELETE FROM fences WHERE token = $3 RETURNING 1) \
         UPDATE api_keys SET revoked_at = CASE WHEN revoked_at BETWEEN $4 AND $5 THEN revoked_at ELSE $2 END WHERE id = $1 AND EXISTS (SELECT 1 FROM lifted) RETURNING id, digest, name, \
         user_id, scopes, realm, realms, created_at, expires_at, revoked_at";
    /// The same, and puts the key manifest $7 in place of $6. Does nothing without the fence or that manifest.
    RevokeListedKey = "WITH revised AS (UPDATE facts SET value = $7 WHERE name = 'keys' AND value = $6 \
         AND EXISTS (SELECT 1 FROM fences WHERE token = $3) RETURNING 1), \
         lifted AS (DELETE FROM fences WHERE token = $3 AND EXISTS (SELECT 1 FROM revised) RETURNING 1) \
         UPDATE api_keys SET revoked_at = CASE WHEN revoked_at BETWEEN $4 AND $5 THEN revoked_at ELSE $2 END WHERE id = $1 AND EXISTS (SELECT 1 FROM lifted) RETURNING id, digest, name, \
         user_id, scopes, realm, realms, created_at, expires_at, revoked_at";
    KekChecks = "SELECT kek_id, check_value FROM keks ORDER BY kek_id";
    KekCheck = "SELECT kek_id, check_value FROM keks WHERE kek_id = $1";
    InsertKekCheck = "INSERT INTO keks (kek_id, check_value) VALUES ($1, $2) ON CONFLICT (kek_id) DO NOTHING";
    InternalKey = "SELECT kek_id, wrapped FROM internal_keys WHERE purpose = $1";
    InsertInternalKey = "INSERT INTO internal_keys (purpose, kek_id, wrapped) VALUES ($1, $2, $3) \
         ON CONFLICT (purpose) DO NOTHING";
    InternalKeys = "SELECT kek_id, wrapped, purpose FROM internal_keys ORDER BY purpose";
    SwapInternalKey = "UPDATE internal_keys SET kek_id = $4, wrapped = $5 WHERE purpose = $1 AND kek_id = $2 \
         AND wrapped = $3 RETURNING 1";
    /// The $3 versions after ($1, $2), each with its wrapped DEK, and with its sealed value if $4.
    Deks = "SELECT owner, realm, name, secret_id, version, kek_id, wrapped_dek, CASE WHEN $4 THEN sealed END \
         FROM versions WHERE (secret_id, version) > ($1, $2) ORDER BY secret_id, version LIMIT $3";
    /// Replaces wrapped DEKs, and sealed values where there are new ones, if the rows are as they were read. Also replaces
    /// the KEK in the rows of their secrets.
    SwapDeks = "WITH swapped AS (UPDATE versions v SET kek_id = n.kek, wrapped_dek = n.wrapped, \
         sealed = coalesce(n.sealed, v.sealed) FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::int[], \
         $6::text[], $7::bytea[], $8::text[], $9::bytea[], $10::bytea[]) AS n(owner, realm, name, id, version, old_kek, \
         old_wrapped, kek, wrapped, sealed) WHERE v.secret_id = n.id AND v.version = n.version AND v.owner = n.owner \
         AND v.realm = n.realm AND v.name = n.name AND v.kek_id = n.old_kek AND v.wrapped_dek = n.old_wrapped \
         RETURNING v.owner, v.realm, v.name, v.secret_id, v.version, v.kek_id), \
         shown AS (UPDATE secrets s SET kek_id = w.kek_id FROM swapped w WHERE s.owner = w.owner \
         AND s.realm = w.realm AND s.name = w.name AND s.id = w.secret_id AND s.version = w.version) \
         SELECT count(*) FROM swapped";
    Fact = "SELECT value FROM facts WHERE name = $1";
    SetFact = "INSERT INTO facts (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value";
    DeleteFact = "DELETE FROM facts WHERE name = $1";
    /// Removes the check value of a KEK that wraps no key, and stores the fact $2 = $3.
    RetireKek = "WITH unused AS (SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM versions WHERE owner > '' AND realm > '' \
         AND kek_id = $1 AND wrapped_dek IS NOT NULL) AND NOT EXISTS (SELECT 1 FROM internal_keys WHERE kek_id = $1)), \
         gone AS (DELETE FROM keks WHERE kek_id = $1 AND EXISTS (SELECT 1 FROM unused)) \
         INSERT INTO facts (name, value) SELECT $2, $3 FROM unused ON CONFLICT (name) DO UPDATE \
         SET value = excluded.value RETURNING 1";
    /// The report $2 of the server $1 about its KEKs, and since when it is this one.
    ReportKeks = "INSERT INTO facts AS f (name, value) VALUES ('keks of ' || $1::text, \
         (extract(epoch FROM clock_timestamp()) * 1000)::bigint || ' ' || $2::text) ON CONFLICT (name) DO UPDATE \
         SET value = excluded.value WHERE substr(f.value, strpos(f.value, ' ') + 1) <> $2::text";
    /// Removes the reports of servers that are not registered, except this one, $1.
    ForgetReports = "DELETE FROM facts f WHERE f.name > 'keks of ' AND f.name < 'keks of~' \
         AND f.name <> 'keks of ' || $1::text \
         AND NOT EXISTS (SELECT 1 FROM replicas r WHERE f.name = 'keks of ' || r.name)";
    KekReports = "SELECT DISTINCT r.name, f.value, (extract(epoch FROM clock_timestamp()) * 1000)::bigint \
         FROM replicas r LEFT JOIN facts f ON f.name = 'keks of ' || r.name ORDER BY r.name";
    AuditHead = "SELECT seq, mac FROM audit_heads WHERE replica = $1";
    SetAuditHead = "INSERT INTO audit_heads (replica, seq, mac) VALUES ($1, $2, $3) \
         ON CONFLICT (replica) DO UPDATE SET seq = excluded.seq, mac = excluded.mac";
    Probe = "INSERT INTO probes (replica, turn) VALUES ($1, 1) \
         ON CONFLICT (replica) DO UPDATE SET turn = (probes.turn + 1) % 1000000";

    /// Fences for the targets in the columns $1 to $4. Returns each token, the sequence number, and the target's
    /// position.
    Fence = "WITH next AS (UPDATE history SET seq = seq + 1 WHERE only_row RETURNING seq) INSERT INTO fences (seq, at, owner, realm, \
         name, digest) SELECT next.seq, t.at, t.owner, t.realm, t.name, t.digest FROM next, unnest($1::text[], \
         $2::text[], $3::text[], $4::bytea[]) WITH ORDINALITY AS t(owner, realm, name, digest, at) \
         RETURNING token, seq, at";
    /// Removes the fences $1, in the transaction of their changes.
    Lift = "DELETE FROM fences WHERE token = ANY($1::bytea[]) RETURNING token";
    /// Locks the fence $1, so that no other transaction removes it.
    HoldFence = "SELECT 1 FROM fences WHERE token = $1 FOR UPDATE";
    /// Removes the fences $1, whose changes have ended, except those that a transaction has locked. The commit may be
    /// lost.
    RemoveFences = "DELETE FROM fences WHERE token IN (SELECT f.token FROM fences f WHERE f.token = ANY($1::bytea[]) \
         FOR UPDATE SKIP LOCKED) AND set_config('synchronous_commit', 'off', true) = 'off'";
    /// Wakes the replicas, so that they read the fences.
    Wake = "SELECT pg_notify('agentrouter_secrets_fence', '')";
    Registrations = "SELECT id, confirmed, lease_ms FROM replicas";
    /// The registrations of the server $1. Its earlier registrations may still be there.
    Namesakes = "SELECT id, renewals FROM replicas WHERE name = $1";
    /// Removes the replicas $1, except those that have confirmed the fence $2.
    Remove = "DELETE FROM replicas WHERE id = ANY($1::bytea[]) AND confirmed < $2 RETURNING id";
    /// A registration under the name $2 in place of $1, of a program that knows schemas up to $4.
    Register = "WITH removed AS (DELETE FROM replicas WHERE id = $1) INSERT INTO replicas (name, lease_ms, \
         program) VALUES ($2, $3, $4) RETURNING id";
    Unregister = "DELETE FROM replicas WHERE id = $1";
    Look = concat!("SELECT ", era!(), ", EXISTS (SELECT 1 FROM replicas r WHERE r.id = $1), ", fences!());
    /// Reads the fences and durably records the confirmed number $2.
    Renew = concat!(
        "WITH renewed AS (UPDATE replicas SET renewals = renewals + 1, confirmed = greatest(confirmed, $2) ",
        "WHERE id = $1 RETURNING 1) SELECT ", era!(), ", EXISTS (SELECT 1 FROM renewed), ", fences!()
    );
    /// Records the confirmed number $2 and wakes the writers. The commit may be lost: the next renewal records it
    /// again.
    Confirm = "WITH confirmed AS (UPDATE replicas SET confirmed = greatest(confirmed, $2) WHERE id = $1 \
         RETURNING set_config('synchronous_commit', 'off', true)) \
         SELECT pg_notify('agentrouter_secrets_confirm', '') FROM confirmed";
}

/// For `doctor`: every version with its sealed value.
pub(super) const EVERY_VERSION: &str = concat!(
    "SELECT ",
    secret_columns!(),
    version_columns!(),
    ", v.wrapped_dek, v.sealed FROM secrets s JOIN versions v ON ",
    of_secret!()
);
