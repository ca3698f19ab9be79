-- What replicas agree by on what may be answered from memory; docs/freshness.md has the protocol. None of it is content:
-- a backup leaves it out, and a restore raises `epoch`.
CREATE TABLE history (
    only_row    boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    epoch       bigint NOT NULL,                  -- another one is another content: whoever has the old in memory forgets it
    seq         bigint NOT NULL CHECK (seq >= 0)  -- of the last fence; counted in a row, so that its order is that of commits
) WITH (fillfactor = 10);
INSERT INTO history (epoch, seq) VALUES (1, 0);

-- Servers that may have something in memory.
CREATE TABLE replicas (
    id          bytea PRIMARY KEY DEFAULT uuid_send(gen_random_uuid()),
    name        text COLLATE "C" NOT NULL,        -- for people
    lease_ms    integer NOT NULL CHECK (lease_ms BETWEEN 1 AND 60000),
    confirmed   bigint NOT NULL DEFAULT 0,        -- it heeds the fences up to this one
    renewals    bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 10);

-- What is about to be changed: nobody may have it in memory while its row is here. The change takes it away.
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
