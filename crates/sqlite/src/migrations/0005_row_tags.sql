-- The tag that authenticates each row (see `row_key.rs` of the crate `crypto`). NULL in the rows of an older store, until they
-- are authenticated, which the key manifest then says.
ALTER TABLE secrets ADD COLUMN tag BLOB;
ALTER TABLE pending ADD COLUMN tag BLOB;
ALTER TABLE retired ADD COLUMN tag BLOB;

PRAGMA user_version = 5;
