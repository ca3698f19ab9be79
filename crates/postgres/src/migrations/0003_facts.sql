-- Small facts by name: `epoch`, made anew when a store is restored, for people and page tokens (that of `history` is for
-- servers); `import`, while one is being filled.
CREATE TABLE facts (
    name        text COLLATE "C" NOT NULL PRIMARY KEY,
    value       text NOT NULL
);
