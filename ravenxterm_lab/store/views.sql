-- Views for people, over the tables of events and whatever still waits in the spool.

CREATE OR REPLACE VIEW last_24h AS
SELECT * FROM executions WHERE ts >= (now() AT TIME ZONE 'UTC') - INTERVAL 24 HOUR;

CREATE OR REPLACE VIEW hardware AS
SELECT *, 1::UBIGINT AS samples FROM hardware_samples
UNION ALL BY NAME
SELECT
    minute AS ts, session, hardware, cpu_percent, memory_used, memory_available, process_memory,
    gpu, gpu_percent, gpu_memory_used, gpu_power, gpu_temperature, samples
FROM hardware_minutes;

CREATE OR REPLACE VIEW catalogue AS
SELECT * FROM (
    SELECT * FROM models
    QUALIFY row_number() OVER (
        PARTITION BY coalesce(fingerprint, name) ORDER BY ts DESC, session DESC, seq DESC
    ) = 1
) WHERE event IS DISTINCT FROM 'removed';

CREATE OR REPLACE VIEW scanned AS
SELECT * FROM scans
QUALIFY row_number() OVER (PARTITION BY path ORDER BY ts DESC, session DESC, seq DESC) = 1;

COMMENT ON VIEW last_24h IS 'Executions recorded in the last 24 hours; columns as in executions.';
COMMENT ON VIEW hardware IS
    'The load of the machine: every sample of the last 14 days, before that a row per minute.';
COMMENT ON COLUMN hardware.samples IS
    'Samples that the row stands for (count); of several it holds the means of the loads, the least memory_available and the largest process_memory.';
COMMENT ON VIEW catalogue IS
    'The latest state of every model that was not removed; columns as in models.';
COMMENT ON VIEW scanned IS
    'The latest reading of the files of each model; columns as in scans.';
