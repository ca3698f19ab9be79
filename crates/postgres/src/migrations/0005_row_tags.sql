-- The tag that authenticates each row (see `row_key.rs` of the crate `crypto`). NULL in the rows of an older store, until they
-- are authenticated, which the key manifest then says. This step leaves the tables fit for servers of older programs, which
-- may still run: `schema_version` stays as it is until every registered server is of this program.
ALTER TABLE secrets ADD COLUMN IF NOT EXISTS tag bytea;
ALTER TABLE versions ADD COLUMN IF NOT EXISTS tag bytea;
