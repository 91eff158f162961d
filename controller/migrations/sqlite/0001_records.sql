-- One SQL subset for SQLite and PostgreSQL: TEXT and BIGINT, JSON as TEXT,
-- times as milliseconds since 1970.

CREATE TABLE machines (
    id          TEXT   NOT NULL PRIMARY KEY,
    state       TEXT   NOT NULL,
    reason      TEXT,
    held        TEXT,
    labels      TEXT   NOT NULL,
    inventory   TEXT   NOT NULL,
    agent       TEXT   NOT NULL,
    run         TEXT,
    first_seen  BIGINT NOT NULL,
    last_seen   BIGINT NOT NULL,
    -- How many events it has: the record number of the last one.
    records     BIGINT NOT NULL
);

-- What machines are recognised by.
CREATE TABLE identifiers (
    kind        TEXT   NOT NULL,
    value       TEXT   NOT NULL,
    machine     TEXT   NOT NULL REFERENCES machines (id),
    PRIMARY KEY (kind, value, machine)
);
CREATE INDEX identifiers_of_machine ON identifiers (machine);

CREATE TABLE runs (
    id          TEXT   NOT NULL PRIMARY KEY,
    machine     TEXT   NOT NULL REFERENCES machines (id),
    rule        TEXT   NOT NULL,
    reference   TEXT   NOT NULL,
    image       TEXT   NOT NULL,
    disk        TEXT   NOT NULL,
    start       TEXT   NOT NULL,
    state       TEXT   NOT NULL,
    attempt     BIGINT NOT NULL,
    boot        TEXT   NOT NULL,
    cause       TEXT,
    created     BIGINT NOT NULL,
    changed     BIGINT NOT NULL,
    ended       BIGINT
);
CREATE INDEX runs_of_machine ON runs (machine, created);
CREATE INDEX runs_by_time ON runs (created);

-- One boot of an agent, and up to which number its events are recorded.
CREATE TABLE boots (
    machine     TEXT   NOT NULL REFERENCES machines (id),
    boot        TEXT   NOT NULL,
    first_seen  BIGINT NOT NULL,
    seq         BIGINT NOT NULL,
    PRIMARY KEY (machine, boot)
);

CREATE TABLE events (
    machine     TEXT   NOT NULL REFERENCES machines (id),
    record      BIGINT NOT NULL,
    boot        TEXT   NOT NULL,
    seq         BIGINT NOT NULL,
    uptime_ms   BIGINT NOT NULL,
    received    BIGINT NOT NULL,
    run         TEXT REFERENCES runs (id),
    attempt     BIGINT NOT NULL,
    -- The word of the kind, and the kind as JSON.
    event       TEXT   NOT NULL,
    kind        TEXT   NOT NULL,
    PRIMARY KEY (machine, record),
    UNIQUE (machine, boot, seq)
);
CREATE INDEX events_of_run ON events (run, record);
