-- State of the lease protocol, by which replicas serve rows from their caches (docs/freshness.md). It is not content of the
-- store: a backup omits it, and a restore increments `epoch`.
CREATE TABLE history (
    only_row    boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    epoch       bigint NOT NULL,                  -- a new epoch is new content: replicas drop their caches
    seq         bigint NOT NULL CHECK (seq >= 0)  -- of the last fence; in a row, so that its order is that of commits
) WITH (fillfactor = 10);
INSERT INTO history (epoch, seq) VALUES (1, 0);

-- Servers that may have cached rows.
CREATE TABLE replicas (
    id          bytea PRIMARY KEY DEFAULT uuid_send(gen_random_uuid()),
    name        text COLLATE "C" NOT NULL,        -- for people
    lease_ms    integer NOT NULL CHECK (lease_ms BETWEEN 1 AND 60000),
    confirmed   bigint NOT NULL DEFAULT 0,        -- the server respects the fences up to this one
    renewals    bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 10);

-- Fences: what is about to be changed. No server may cache it while the row exists. The change deletes the row.
CREATE TABLE fences (
    token       bytea PRIMARY KEY DEFAULT uuid_send(gen_random_uuid()),
    seq         bigint NOT NULL,
    at          integer NOT NULL,                 -- within the statement that made it
    owner       text COLLATE "C",                 -- a secret's place,
    realm       text COLLATE "C",
    name        text COLLATE "C",
    digest      bytea CHECK (length(digest) = 32), -- or an API key's digest, or neither: everything
    CHECK ((owner IS NULL) = (realm IS NULL) AND (owner IS NULL) = (name IS NULL)),
    CHECK (owner IS NULL OR digest IS NULL)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
