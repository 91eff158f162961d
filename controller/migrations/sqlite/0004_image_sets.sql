-- What a run installs beside the image that is started.
ALTER TABLE runs ADD COLUMN others TEXT NOT NULL DEFAULT '[]';
