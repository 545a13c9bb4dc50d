CREATE TABLE event (
    seq        INTEGER PRIMARY KEY,
    at         TEXT NOT NULL,            -- ISO-8601, UTC
    clock_s    REAL NOT NULL,            -- monotonic, since the writer opened the file
    kind       TEXT NOT NULL,
    experiment INTEGER,
    body       TEXT NOT NULL,            -- JSON object
    digest     TEXT NOT NULL             -- of this row and of the digest before it
) STRICT;
PRAGMA user_version = 2;
