-- Small facts by name: `epoch`, made anew when a store is restored; `import`, while one is being filled.
CREATE TABLE facts (
    name        TEXT    NOT NULL PRIMARY KEY,
    value       TEXT    NOT NULL
) STRICT, WITHOUT ROWID;

PRAGMA user_version = 2;
