-- Facts by name. `epoch` is replaced by a restore; operators and page tokens use it (servers use that of `history`).
-- `import` exists while the store is being filled.
CREATE TABLE facts (
    name        text COLLATE "C" NOT NULL PRIMARY KEY,
    value       text NOT NULL
);
