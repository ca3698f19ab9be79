-- The fact `keys` is the key manifest, which authenticates API keys. This step leaves the tables fit for servers of the
-- older program, which may still run: `schema_version` stays 3 until every registered server says that it is of this
-- program, and one of them has authenticated the keys.
ALTER TABLE replicas ADD COLUMN IF NOT EXISTS program integer NOT NULL DEFAULT 0; -- the highest schema that it knows
