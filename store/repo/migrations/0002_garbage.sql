-- Removing what nothing needs (docs/garbage.md).

-- How often objects were condemned. One row.
CREATE TABLE epoch (number BIGINT NOT NULL);

INSERT INTO epoch (number) VALUES (0);

-- Who relies on what was stored when it began.
CREATE TABLE leases (
    id TEXT PRIMARY KEY,
    -- import, read or gc
    purpose TEXT NOT NULL,
    -- the epoch then
    began BIGINT NOT NULL,
    -- renewed while the holder lives
    expires_ms BIGINT NOT NULL
);

-- Packs and blobs that nothing needed. They do not count as stored for leases
-- that begin later, and are deleted once all leases from before have ended.
CREATE TABLE condemned (
    object TEXT PRIMARY KEY,
    bytes BIGINT NOT NULL,
    -- the epoch that this began
    epoch BIGINT NOT NULL
);
