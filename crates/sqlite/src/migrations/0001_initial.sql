-- Secrets, one row each, clustered by place, with the columns that Get and List of active versions return. So each of
-- both reads one range of one tree. The active version is always the newest, so `version` also determines the next number.
CREATE TABLE secrets (
    owner       TEXT    NOT NULL,
    realm       TEXT    NOT NULL,
    name        TEXT    NOT NULL,
    id          TEXT    NOT NULL UNIQUE,
    description TEXT    NOT NULL,
    tags        TEXT    NOT NULL,                 -- a JSON object of strings
    created_at  INTEGER NOT NULL,                 -- all times: microseconds since the Unix epoch
    updated_at  INTEGER NOT NULL,
    rotated_at  INTEGER,
    version     INTEGER NOT NULL CHECK (version BETWEEN 1 AND 2147483647),
    kek_id      TEXT    NOT NULL,                 -- of the active version
    PRIMARY KEY (owner, realm, name)
) STRICT, WITHOUT ROWID;

-- Versions: the sealed values. `wrapped_dek` and `sealed` are NULL once destroyed.
CREATE TABLE versions (
    secret_id   TEXT    NOT NULL REFERENCES secrets (id),
    version     INTEGER NOT NULL CHECK (version BETWEEN 1 AND 2147483647),
    owner       TEXT    NOT NULL,
    realm       TEXT    NOT NULL,
    name        TEXT    NOT NULL,
    status      TEXT    NOT NULL CHECK (status IN ('active', 'rotated_pending', 'retired')),
    expires_at  INTEGER,
    kek_id      TEXT    NOT NULL,
    wrapped_dek BLOB,
    sealed      BLOB,
    PRIMARY KEY (secret_id, version),
    FOREIGN KEY (owner, realm, name) REFERENCES secrets (owner, realm, name),
    CHECK (status <> 'active' OR expires_at IS NULL),
    CHECK (status <> 'rotated_pending' OR expires_at IS NOT NULL),
    CHECK ((status = 'retired') = (sealed IS NULL)),
    CHECK ((wrapped_dek IS NULL) = (sealed IS NULL))
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX versions_by_place ON versions (owner, realm, name, version);
CREATE UNIQUE INDEX versions_active ON versions (owner, realm, name) WHERE status = 'active';
CREATE INDEX versions_pending ON versions (owner, realm, name, version) WHERE status = 'rotated_pending';
CREATE INDEX versions_past ON versions (owner, realm, name, version) WHERE status <> 'active';
CREATE INDEX versions_due ON versions (expires_at) WHERE status = 'rotated_pending';

-- A copy of `secrets.tags`, clustered for filters. There is no foreign key, because its check would need a second index.
-- The rows of a secret are found by its tags.
CREATE TABLE secret_tags (
    owner       TEXT    NOT NULL,
    key         TEXT    NOT NULL,
    value       TEXT    NOT NULL,
    realm       TEXT    NOT NULL,
    name        TEXT    NOT NULL,
    PRIMARY KEY (owner, key, value, realm, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE api_keys (
    id          TEXT    NOT NULL PRIMARY KEY,
    digest      BLOB    NOT NULL CHECK (length(digest) = 32),
    name        TEXT    NOT NULL,
    user        TEXT    NOT NULL,
    scopes      TEXT    NOT NULL,                 -- comma-separated
    realm       TEXT    NOT NULL,
    realms      TEXT,                             -- a JSON array of strings; NULL for every realm
    created_at  INTEGER NOT NULL,
    expires_at  INTEGER,
    revoked_at  INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE keks (
    kek_id      TEXT    NOT NULL PRIMARY KEY,
    check_value BLOB    NOT NULL CHECK (length(check_value) = 32)
) STRICT, WITHOUT ROWID;

CREATE TABLE internal_keys (
    purpose     TEXT    NOT NULL PRIMARY KEY,
    kek_id      TEXT    NOT NULL,
    wrapped     BLOB    NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE audit_head (
    only        INTEGER NOT NULL PRIMARY KEY CHECK (only = 1),
    seq         INTEGER NOT NULL CHECK (seq >= 0),
    mac         BLOB    NOT NULL CHECK (length(mac) = 32)
) STRICT;

-- Written by the health check, to find out whether the store accepts writes.
CREATE TABLE probe (
    only        INTEGER NOT NULL PRIMARY KEY CHECK (only = 1),
    turn        INTEGER NOT NULL
) STRICT;
INSERT INTO probe (only, turn) VALUES (1, 0);

PRAGMA application_id = 1095914323;               -- 'ARSS'
PRAGMA user_version = 1;
