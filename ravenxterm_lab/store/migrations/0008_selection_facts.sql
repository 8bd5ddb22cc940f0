-- What was known of each candidate at a decision, so that it can be decided again later under
-- other preferences, on other hardware or by another policy.

ALTER TABLE selections ADD COLUMN hardware VARCHAR;
ALTER TABLE selections ADD COLUMN seed UBIGINT;
ALTER TABLE selections ADD COLUMN machine JSON;
COMMENT ON COLUMN selections.hardware IS 'Identity of the hardware profile.';
COMMENT ON COLUMN selections.seed IS
    'Seed of the draw that ordered the candidates; NULL where nothing was explored.';
COMMENT ON COLUMN selections.machine IS
    'What the constraints were held against: devices, and total, available and budget (bytes).';

ALTER TABLE candidates ADD COLUMN constraint_name VARCHAR;
ALTER TABLE candidates ADD COLUMN probability DOUBLE;
ALTER TABLE candidates ADD COLUMN drawn DOUBLE;
ALTER TABLE candidates ADD COLUMN reliability DOUBLE;
ALTER TABLE candidates ADD COLUMN device VARCHAR;
ALTER TABLE candidates ADD COLUMN settings VARCHAR;
ALTER TABLE candidates ADD COLUMN memory_bytes UBIGINT;
ALTER TABLE candidates ADD COLUMN memory_measured BOOLEAN;
ALTER TABLE candidates ADD COLUMN decode_rate DOUBLE;
ALTER TABLE candidates ADD COLUMN time_to_first_token DOUBLE;
ALTER TABLE candidates ADD COLUMN load_seconds DOUBLE;
ALTER TABLE candidates ADD COLUMN resident BOOLEAN;
COMMENT ON COLUMN candidates.constraint_name IS
    'The constraint that binds, such as max_size_bytes; NULL where none does.';
COMMENT ON COLUMN candidates.probability IS
    'Probability with which the policy would have chosen it (0-1); NULL where it was rejected.';
COMMENT ON COLUMN candidates.drawn IS
    'Score at the draw that ordered the candidates (no unit); the score itself if none did.';
COMMENT ON COLUMN candidates.reliability IS
    'Expected share of successful runs, a factor of the score (0-1).';
COMMENT ON COLUMN candidates.device IS 'Where it would have run, such as cpu or cuda.';
COMMENT ON COLUMN candidates.settings IS 'Settings of the load that was intended.';
COMMENT ON COLUMN candidates.memory_bytes IS 'Predicted or measured memory when loaded (bytes).';
COMMENT ON COLUMN candidates.memory_measured IS
    'Whether memory_bytes is the peak of an earlier load.';
COMMENT ON COLUMN candidates.decode_rate IS
    'Predicted speed, before this task''s runs count (tokens or items per second).';
COMMENT ON COLUMN candidates.time_to_first_token IS
    'Predicted time to the first token when loaded (s).';
COMMENT ON COLUMN candidates.load_seconds IS 'Predicted time of a load (s).';
COMMENT ON COLUMN candidates.resident IS 'Whether it was loaded at the decision.';
