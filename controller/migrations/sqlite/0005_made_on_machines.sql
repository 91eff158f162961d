-- What a run makes on its machine: the key, and what that is of.
ALTER TABLE runs ADD COLUMN makes TEXT;
ALTER TABLE runs ADD COLUMN configuration TEXT;
CREATE INDEX runs_that_make ON runs (makes);
-- Whose current run it is.
CREATE INDEX machines_by_run ON machines (run);
