CREATE TABLE event (
    seq        INTEGER PRIMARY KEY,
    at         TEXT NOT NULL,            -- ISO-8601, UTC
    kind       TEXT NOT NULL,
    experiment INTEGER,
    body       TEXT NOT NULL             -- JSON object
) STRICT;
PRAGMA user_version = 1;
