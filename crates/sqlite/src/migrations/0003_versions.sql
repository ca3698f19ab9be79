-- A new layout of versions, so that a rotation changes fewer pages. `versions` with its six indexes took eight pages of the
-- WAL for each rotation. This layout takes two and a half.
--
-- Rows are copied unchanged. A row that breaks a rule does not prevent the start; `doctor` names it.
PRAGMA ignore_check_constraints = ON;

ALTER TABLE versions RENAME TO old_versions;

-- The sealed values of active and pending versions, in the order of their creation. The rows of one commit share pages,
-- and later rotations do not change these pages. A version that is not readable has no row here. `secrets` and `pending`
-- refer to a row by `id`. The row also names its secret and version, and it is read or deleted only if both agree. There
-- is no foreign key, because its check would need an index.
CREATE TABLE versions (
    id          INTEGER NOT NULL PRIMARY KEY,
    owner       TEXT    NOT NULL,
    realm       TEXT    NOT NULL,
    name        TEXT    NOT NULL,
    secret_id   TEXT    NOT NULL,
    version     INTEGER NOT NULL CHECK (version BETWEEN 1 AND 2147483647),
    kek_id      TEXT    NOT NULL,
    wrapped_dek BLOB    CHECK (wrapped_dek IS NOT NULL),
    sealed      BLOB    CHECK (sealed IS NOT NULL)
) STRICT;
INSERT INTO versions (owner, realm, name, secret_id, version, kek_id, wrapped_dek, sealed)
    SELECT owner, realm, name, secret_id, version, kek_id, wrapped_dek, sealed
    FROM old_versions INDEXED BY versions_by_place WHERE status <> 'retired' ORDER BY owner, realm, name, version;
CREATE UNIQUE INDEX moved ON versions (owner, realm, name, version);

-- The row in `versions` of the active version; NULL only until it is inserted.
ALTER TABLE secrets ADD COLUMN version_id INTEGER;
UPDATE secrets SET version_id = (
    SELECT id FROM versions v INDEXED BY moved
    WHERE v.owner = secrets.owner AND v.realm = secrets.realm AND v.name = secrets.name AND v.version = secrets.version
);

-- Pending versions: replaced by a rotation, and readable until `expires_at`.
CREATE TABLE pending (
    owner       TEXT    NOT NULL,
    realm       TEXT    NOT NULL,
    name        TEXT    NOT NULL,
    version     INTEGER NOT NULL CHECK (version BETWEEN 1 AND 2147483647),
    expires_at  INTEGER NOT NULL,
    kek_id      TEXT    NOT NULL,
    version_id  INTEGER NOT NULL,                 -- in `versions`
    PRIMARY KEY (owner, realm, name, version),
    FOREIGN KEY (owner, realm, name) REFERENCES secrets (owner, realm, name)
) STRICT, WITHOUT ROWID;
INSERT INTO pending (owner, realm, name, version, expires_at, kek_id, version_id)
    SELECT o.owner, o.realm, o.name, o.version, o.expires_at, o.kek_id, v.id
    FROM old_versions o INDEXED BY versions_pending CROSS JOIN secrets s CROSS JOIN versions v INDEXED BY moved
    WHERE o.status = 'rotated_pending' AND o.expires_at IS NOT NULL
    AND s.owner = o.owner AND s.realm = o.realm AND s.name = o.name
    AND v.owner = o.owner AND v.realm = o.realm AND v.name = o.name AND v.version = o.version
    ORDER BY o.owner, o.realm, o.name, o.version;
CREATE INDEX pending_due ON pending (expires_at);

-- Versions whose value was destroyed.
CREATE TABLE retired (
    owner       TEXT    NOT NULL,
    realm       TEXT    NOT NULL,
    name        TEXT    NOT NULL,
    version     INTEGER NOT NULL CHECK (version BETWEEN 1 AND 2147483647),
    expires_at  INTEGER,                          -- when a rotation's grace was over; NULL if it was replaced without one
    kek_id      TEXT    NOT NULL,
    PRIMARY KEY (owner, realm, name, version),
    FOREIGN KEY (owner, realm, name) REFERENCES secrets (owner, realm, name)
) STRICT, WITHOUT ROWID;
INSERT INTO retired (owner, realm, name, version, expires_at, kek_id)
    SELECT o.owner, o.realm, o.name, o.version, o.expires_at, o.kek_id
    FROM old_versions o INDEXED BY versions_past CROSS JOIN secrets s
    WHERE o.status <> 'active' AND o.status = 'retired' AND s.owner = o.owner AND s.realm = o.realm AND s.name = o.name
    ORDER BY o.owner, o.realm, o.name, o.version;

DROP INDEX moved;
-- Deleted first: DROP TABLE of a full table keeps all of it in memory until the statement ends.
DELETE FROM old_versions;
DROP TABLE old_versions;

PRAGMA ignore_check_constraints = OFF;
PRAGMA user_version = 3;
