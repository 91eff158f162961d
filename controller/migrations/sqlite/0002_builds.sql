-- How the build of each configuration ended, by its key. A build that has not
-- ended is not here: where a server stops in the middle, it begins anew.
CREATE TABLE builds (
    key             TEXT   NOT NULL PRIMARY KEY,
    configuration   TEXT   NOT NULL,
    -- Where it succeeded.
    image           TEXT,
    provenance      TEXT,
    -- Where it failed.
    cause           TEXT,
    log             TEXT,
    began           BIGINT NOT NULL,
    ended           BIGINT NOT NULL
);
