-- Secrets, one row each, with the columns that Get and List of active versions return. The active version is always the
-- newest, so `version` also determines the next number. Text is compared by bytes (COLLATE "C") in every database, so all
-- engines have the same order. A column that may contain any character is bytea, because text cannot contain U+0000.
CREATE TABLE secrets (
    owner       text COLLATE "C" NOT NULL,
    realm       text COLLATE "C" NOT NULL,
    name        text COLLATE "C" NOT NULL,
    id          text COLLATE "C" NOT NULL UNIQUE,
    description bytea  NOT NULL,
    tags        text COLLATE "C" NOT NULL,        -- a JSON object of strings
    created_at  bigint NOT NULL,                  -- all times: microseconds since the Unix epoch
    updated_at  bigint NOT NULL,
    rotated_at  bigint,
    version     integer NOT NULL CHECK (version >= 1),
    kek_id      text COLLATE "C" NOT NULL,        -- of the active version
    PRIMARY KEY (owner, realm, name)
);

-- Versions: the sealed values. `wrapped_dek` and `sealed` are NULL once destroyed.
CREATE TABLE versions (
    secret_id   text COLLATE "C" NOT NULL,
    version     integer NOT NULL CHECK (version >= 1),
    owner       text COLLATE "C" NOT NULL,
    realm       text COLLATE "C" NOT NULL,
    name        text COLLATE "C" NOT NULL,
    status      text COLLATE "C" NOT NULL CHECK (status IN ('active', 'rotated_pending', 'retired')),
    expires_at  bigint,
    kek_id      text COLLATE "C" NOT NULL,
    wrapped_dek bytea,
    sealed      bytea,
    PRIMARY KEY (secret_id, version),
    FOREIGN KEY (owner, realm, name) REFERENCES secrets (owner, realm, name),
    CHECK (status <> 'active' OR expires_at IS NULL),
    CHECK (status <> 'rotated_pending' OR expires_at IS NOT NULL),
    CHECK ((status = 'retired') = (sealed IS NULL)),
    CHECK ((wrapped_dek IS NULL) = (sealed IS NULL))
);

CREATE UNIQUE INDEX versions_by_place ON versions (owner, realm, name, version);
CREATE UNIQUE INDEX versions_active ON versions (owner, realm, name) WHERE status = 'active';
CREATE INDEX versions_pending ON versions (owner, realm, name, version) WHERE status = 'rotated_pending';
CREATE INDEX versions_past ON versions (owner, realm, name, version) WHERE status <> 'active';
CREATE INDEX versions_due ON versions (expires_at) WHERE status = 'rotated_pending';

-- A copy of `secrets.tags`, for filters.
CREATE TABLE secret_tags (
    owner       text COLLATE "C" NOT NULL,
    key         text COLLATE "C" NOT NULL,
    value       text COLLATE "C" NOT NULL,
    realm       text COLLATE "C" NOT NULL,
    name        text COLLATE "C" NOT NULL,
    PRIMARY KEY (owner, key, value, realm, name)
);

CREATE TABLE api_keys (
    id          text COLLATE "C" NOT NULL PRIMARY KEY,
    digest      bytea  NOT NULL CHECK (length(digest) = 32),
    name        bytea  NOT NULL,
    user_id     text COLLATE "C" NOT NULL,
    scopes      text COLLATE "C" NOT NULL,        -- comma-separated
    realm       text COLLATE "C" NOT NULL,
    realms      text COLLATE "C",                 -- a JSON array of strings; NULL for every realm
    created_at  bigint NOT NULL,
    expires_at  bigint,
    revoked_at  bigint
);

CREATE TABLE keks (
    kek_id      text COLLATE "C" NOT NULL PRIMARY KEY,
    check_value bytea  NOT NULL CHECK (length(check_value) = 32)
);

CREATE TABLE internal_keys (
    purpose     text COLLATE "C" NOT NULL PRIMARY KEY,
    kek_id      text COLLATE "C" NOT NULL,
    wrapped     bytea  NOT NULL
);

-- The last record of each replica's own audit log.
CREATE TABLE audit_heads (
    replica     text COLLATE "C" NOT NULL PRIMARY KEY,
    seq         bigint NOT NULL CHECK (seq >= 0),
    mac         bytea  NOT NULL CHECK (length(mac) = 32)
);

-- Written by the health check, to find out whether the store accepts writes. Each replica has its own row, so that
-- replicas do not wait for each other.
CREATE TABLE probes (
    replica     text COLLATE "C" NOT NULL PRIMARY KEY,
    turn        bigint NOT NULL
);
