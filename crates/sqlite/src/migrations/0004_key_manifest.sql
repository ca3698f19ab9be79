-- The fact `keys` is the key manifest, which authenticates API keys. The tables are as before. An older program would
-- issue keys without it, so it must not open this file.
PRAGMA user_version = 4;
