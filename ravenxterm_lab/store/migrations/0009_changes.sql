-- Changes of the speed or the quality of a model that were noticed: what came before one counts
-- no more. Written by whoever notices it first; see selection/learning.py.

CREATE TABLE changes (
    ts TIMESTAMP, session VARCHAR, seq UBIGINT,
    metric VARCHAR, model VARCHAR, fingerprint VARCHAR, task VARCHAR, runtime VARCHAR,
    device VARCHAR, settings VARCHAR, hardware VARCHAR, since UBIGINT, first_execution VARCHAR,
    noticed UBIGINT, noticed_execution VARCHAR, before DOUBLE, after DOUBLE, runs UBIGINT,
    statistic DOUBLE
);
COMMENT ON TABLE changes IS
    'Changes of speed or quality that were noticed; only what came since counts as evidence.';
COMMENT ON COLUMN changes.ts IS 'When it was recorded (UTC, microseconds).';
COMMENT ON COLUMN changes.session IS 'The recording process; with seq it identifies the row.';
COMMENT ON COLUMN changes.seq IS 'Number of the event within its session, from 1.';
COMMENT ON COLUMN changes.metric IS 'What changed: speed or quality.';
COMMENT ON COLUMN changes.model IS 'Name of the model in its registry.';
COMMENT ON COLUMN changes.fingerprint IS 'Identity of the model, stable over a move or rename.';
COMMENT ON COLUMN changes.task IS 'Task, such as text_generation.';
COMMENT ON COLUMN changes.runtime IS 'Runtime that ran it; NULL for quality.';
COMMENT ON COLUMN changes.device IS 'Device it ran on; NULL for quality.';
COMMENT ON COLUMN changes.settings IS
    'Settings in force, as far as they matter to what changed; NULL where none were recorded.';
COMMENT ON COLUMN changes.hardware IS 'Identity of the hardware profile; NULL for quality.';
COMMENT ON COLUMN changes.since IS
    'When the first execution after it was recorded (UTC, microseconds since 1970).';
COMMENT ON COLUMN changes.first_execution IS 'That execution, as session:seq.';
COMMENT ON COLUMN changes.noticed IS
    'When the execution that made it certain was recorded (UTC, microseconds since 1970).';
COMMENT ON COLUMN changes.noticed_execution IS 'That execution, as session:seq.';
COMMENT ON COLUMN changes.before IS
    'Mean before: quality (0-1), or the natural logarithm of tokens or items per second.';
COMMENT ON COLUMN changes.after IS 'Mean since; unit as before.';
COMMENT ON COLUMN changes.runs IS 'Measurements since then when it was noticed (count).';
COMMENT ON COLUMN changes.statistic IS 'How certain it was: log likelihood ratio (nats).';
