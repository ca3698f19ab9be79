-- Facts by name. `epoch` is replaced by a restore. `import` exists while the store is being filled.
CREATE TABLE facts (
    name        TEXT    NOT NULL PRIMARY KEY,
    value       TEXT    NOT NULL
) STRICT, WITHOUT ROWID;

PRAGMA user_version = 2;
