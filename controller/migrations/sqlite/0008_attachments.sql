-- Where in the network each card last was given an address, as the DHCP server saw it.
CREATE TABLE attachments (
    mac             TEXT   NOT NULL PRIMARY KEY,
    subnet          TEXT   NOT NULL,
    relay           TEXT,
    circuit_id      TEXT,
    remote_id       TEXT,
    subscriber_id   TEXT,
    seen            BIGINT NOT NULL
);
