-- Times are microseconds since 1970, UTC. Revisions and sequence numbers are counted by the program, in the same
-- transaction as what they number.

CREATE TABLE records (
    id       INTEGER PRIMARY KEY,
    kind     TEXT NOT NULL,
    name     TEXT NOT NULL,
    revision INTEGER NOT NULL,
    created  INTEGER NOT NULL,
    updated  INTEGER NOT NULL,
    data     BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX records_by_name ON records (kind, name);

-- One row. audit_base is the entry before the oldest one kept: the anchor of the chain after pruning.
CREATE TABLE counters (
    id              INTEGER PRIMARY KEY CHECK (id = 1),
    revision        INTEGER NOT NULL,
    audit_base      INTEGER NOT NULL,
    audit_base_hash TEXT NOT NULL,
    audit_last      INTEGER NOT NULL,
    audit_last_hash TEXT NOT NULL
) STRICT;
INSERT INTO counters VALUES (1, 0, 0, '', 0, '');

CREATE TABLE audit (
    seq     INTEGER PRIMARY KEY,
    time    INTEGER NOT NULL,
    actor   TEXT NOT NULL,
    role    TEXT NOT NULL,
    source  TEXT NOT NULL,
    action  TEXT NOT NULL,
    target  TEXT NOT NULL,
    node    TEXT NOT NULL,
    request TEXT NOT NULL,
    result  TEXT NOT NULL,
    message TEXT NOT NULL,
    prev    TEXT NOT NULL,
    hash    TEXT NOT NULL
) STRICT;
CREATE INDEX audit_by_time ON audit (time);
CREATE INDEX audit_by_actor ON audit (actor);
CREATE INDEX audit_by_node ON audit (node) WHERE node <> '';

-- A released lease keeps its row with holder '', so that its token goes on growing.
CREATE TABLE leases (
    name    TEXT PRIMARY KEY,
    holder  TEXT NOT NULL,
    token   INTEGER NOT NULL,
    expires INTEGER NOT NULL
) STRICT;
