-- Addresses that were committed to machines. One per address, one per machine.
CREATE TABLE lease (
    address TEXT PRIMARY KEY NOT NULL, -- 192.0.2.100
    mac     TEXT UNIQUE NOT NULL,      -- 52:54:00:12:34:56
    ends    BIGINT NOT NULL            -- seconds since the Unix epoch
);
