-- What the store holds, apart from bytes. Digests and names of packs are
-- lower-case hex; times are milliseconds since 1970 by the server's clock.

CREATE TABLE images (
    digest TEXT PRIMARY KEY,
    -- blob of the chunk table; another way of cutting gives another table
    chunk_table TEXT NOT NULL,
    disk_bytes BIGINT NOT NULL,
    data_bytes BIGINT NOT NULL,
    stored_bytes BIGINT NOT NULL,
    new_bytes BIGINT NOT NULL,
    created_ms BIGINT NOT NULL
);

CREATE TABLE names (
    name TEXT NOT NULL,
    tag TEXT NOT NULL,
    image TEXT NOT NULL REFERENCES images (digest),
    updated_ms BIGINT NOT NULL,
    PRIMARY KEY (name, tag)
);

CREATE INDEX names_by_image ON names (image);

-- Packs that images need; a pack that is not listed is garbage.
CREATE TABLE packs (
    name TEXT PRIMARY KEY,
    created_ms BIGINT NOT NULL
);
