-- What scans read of the files of models, so that the next process does not read them again.

CREATE TABLE scans (
    ts TIMESTAMP, session VARCHAR, seq UBIGINT, path VARCHAR, signature VARCHAR, facts JSON
);
COMMENT ON TABLE scans IS
    'What was read of the files of each model; of an older reading nothing is needed any more.';
COMMENT ON COLUMN scans.ts IS 'When it was recorded (UTC, microseconds).';
COMMENT ON COLUMN scans.session IS 'The recording process; with seq it identifies the row.';
COMMENT ON COLUMN scans.seq IS 'Number of the event within its session, from 1.';
COMMENT ON COLUMN scans.path IS 'First file of the model.';
COMMENT ON COLUMN scans.signature IS
    'Digest of sizes, times and inodes of its files, and of the readers; another one means: read again.';
COMMENT ON COLUMN scans.facts IS
    'Facts of its headers, fingerprint and problems; or the reason why it is no model.';
